package template

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"path/filepath"
	"strings"

	"berth.dev/internal/agent"
	"berth.dev/internal/debian"
	"berth.dev/internal/image"
	"berth.dev/internal/sandbox"
)

// guestPath is the PATH of a template's image.
const guestPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// caBundle is where the guest's trusted certificates are.
const caBundle = "/etc/ssl/certs/ca-certificates.crt"

// baseEnv is what every session in a template's sandbox starts with. Node.js
// and a few Python tools bring certificates of their own and have to be told.
var baseEnv = []string{
	guestPath, "LANG=C.UTF-8",
	"NODE_EXTRA_CA_CERTS=" + caBundle, "REQUESTS_CA_BUNDLE=" + caBundle, "SSL_CERT_FILE=" + caBundle,
	"PIP_BREAK_SYSTEM_PACKAGES=1", // pip in a sandbox may do what apt may
}

// bootstrapRef names the image of the first packages, which a build that is
// taken up again starts from.
const bootstrapRef = "berth/bootstrap"

// buildBase makes the base: the first packages unpacked in Go, the rest in a
// sandbox.
func (b *Builder) buildBase(ctx context.Context, o Options, p Progress) (image.Image, error) {
	start, configure, dist, err := b.start(ctx, o, p)
	if err != nil {
		return image.Image{}, err
	}
	steps := b.baseSteps(configure, dist)
	job := job{name: Base, start: start, steps: steps, fresh: o.Again}
	return b.run(ctx, job, p, func(layer func(func(io.Reader) error) error) (image.Image, error) {
		l, err := b.addLayer(ctx, layer, image.LayerOptions{CreatedBy: "berth template " + Base})
		if err != nil {
			return image.Image{}, err
		}
		return b.m.Images().Commit(ctx, Ref(Base), &start, []image.Layer{l}, image.Config{
			Env: baseEnv, User: sandbox.UserName, WorkingDir: sandbox.UserHome,
			Labels: map[string]string{labelName: Base, labelRecipe: job.digest()},
		})
	})
}

// start returns the image that the base's sandbox starts from, and the script
// that completes it.
func (b *Builder) start(ctx context.Context, o Options, p Progress) (img image.Image, configure, dist string, err error) {
	if o.From != "" {
		img, err = b.m.Images().Lookup(o.From)
		return img, "", "debian", err
	}
	src, err := b.source()
	if err != nil {
		return img, "", "", err
	}
	cache, err := b.dirs.Cache()
	if err != nil {
		return img, "", "", err
	}
	boot := debian.Bootstrap{CacheDir: filepath.Join(cache, "debian"), Include: b.include(src.Distribution)}
	step := ""
	boot.Progress = func(e debian.Event) {
		p.send(Event{Step: step, Done: e.Done, Total: e.Total, Line: e.Package})
	}
	var plan debian.Plan
	step = "package lists"
	err = p.step(step, func() error {
		plan, err = boot.Resolve(ctx, src)
		return err
	})
	if err != nil {
		return img, "", "", err
	}
	img, err = b.m.Images().Lookup(bootstrapRef)
	if err == nil && img.Config.Labels[labelRecipe] == plan.Digest() {
		return img, plan.ConfigureScript(), plan.Distribution, nil
	}
	step = "first packages"
	err = p.step(step, func() error {
		img, err = b.bootstrap(ctx, boot, plan)
		return err
	})
	return img, plan.ConfigureScript(), plan.Distribution, err
}

// bootstrap unpacks the first packages into an image.
func (b *Builder) bootstrap(ctx context.Context, boot debian.Bootstrap, plan debian.Plan) (image.Image, error) {
	l, err := b.addLayer(ctx, func(read func(io.Reader) error) error {
		r, w := io.Pipe()
		written := make(chan error, 1)
		go func() {
			err := boot.WriteLayer(ctx, plan, w)
			w.CloseWithError(err)
			written <- err
		}()
		err := read(r)
		r.CloseWithError(err)
		if werr := <-written; werr != nil && !errors.Is(werr, io.ErrClosedPipe) {
			return werr
		}
		return err
	}, image.LayerOptions{CreatedBy: "berth bootstrap " + plan.Codename})
	if err != nil {
		return image.Image{}, err
	}
	return b.m.Images().Commit(ctx, bootstrapRef, nil, []image.Layer{l}, image.Config{
		Env: baseEnv[:2], Labels: map[string]string{labelRecipe: plan.Digest()},
	})
}

// addLayer stores the tar that source hands to its argument.
func (b *Builder) addLayer(ctx context.Context, source func(func(io.Reader) error) error, o image.LayerOptions) (l image.Layer, err error) {
	err = source(func(r io.Reader) error {
		l, err = b.m.Images().AddLayer(ctx, r, o)
		return err
	})
	return l, err
}

// packages of the base by distribution. They differ in what Docker's plugins
// are called.
var packages = map[string]string{
	"debian": "docker.io docker-cli docker-buildx docker-compose",
	"ubuntu": "docker.io docker-buildx docker-compose-v2",
}

const commonPackages = "git gh nodejs python3 python3-pip python3-venv golang-go build-essential make curl ripgrep jq sudo " +
	"openssh-client less procps psmisc iproute2 iptables ca-certificates bash-completion vim-tiny unzip zip xz-utils zstd file rsync tmux patch pkg-config"

// include names all packages of the base.
func (b *Builder) include(dist string) []string {
	names := append(debian.DefaultInclude(dist), strings.Fields(commonPackages+" "+packages[dist])...)
	if _, withPackage := b.npmStep(); withPackage {
		names = append(names, "npm")
	}
	return names
}

// baseSteps are what the base is made of.
func (b *Builder) baseSteps(configure, dist string) []step {
	npm, withNPM := b.npmStep()
	extra := packages[dist]
	if withNPM {
		extra += " npm"
	}
	if configure == "" { // built on an image that has apt and its lists
		configure = "export DEBIAN_FRONTEND=noninteractive\napt-get update -qq\napt-get install -y -q --no-install-recommends " +
			strings.Join(b.include(dist), " ") + "\n"
	}
	steps := []step{
		{name: "configure", script: leanScript + configure},
		{name: "certificates", certificates: true},
		{name: "npm", script: npm},
		{name: "user", script: userScript},
		{name: "clean up", script: cleanScript},
	}
	kept := steps[:0]
	for _, s := range steps {
		if s.script != "" || s.certificates {
			kept = append(kept, s)
		}
	}
	return kept
}

// leanScript keeps documentation and translations out, which nobody reads in a
// sandbox and which are half of all files; licences stay.
const leanScript = `
mkdir -p /etc/dpkg/dpkg.cfg.d
printf 'force-unsafe-io\npath-exclude=/usr/share/doc/*\npath-include=/usr/share/doc/*/copyright\npath-exclude=/usr/share/man/*\npath-exclude=/usr/share/info/*\npath-exclude=/usr/share/locale/*\npath-exclude=/usr/share/gtk-doc/*\npath-exclude=/usr/share/lintian/*\n' >/etc/dpkg/dpkg.cfg.d/50-berth-lean
# Packages unpacked before base-files was configured made these as folders.
for d in run lock; do
	[ ! -d /var/$d ] || [ -L /var/$d ] && continue
	mkdir -p /run/$d
	rm -rf /var/$d
done
ln -sfn /run /var/run
ln -sfn /run/lock /var/lock
`

const userScript = `
getent passwd 1000 >/dev/null && [ "$(getent passwd 1000 | cut -d: -f1)" != agent ] && userdel -r "$(getent passwd 1000 | cut -d: -f1)"
getent group agent >/dev/null || groupadd -g 1000 agent
id agent >/dev/null 2>&1 || useradd -m -u 1000 -g 1000 -s /bin/bash agent
for g in sudo docker; do getent group $g >/dev/null && usermod -aG $g agent; done
printf 'agent ALL=(ALL:ALL) NOPASSWD:ALL\nDefaults env_keep += "NODE_EXTRA_CA_CERTS SSL_CERT_FILE REQUESTS_CA_BUNDLE"\n' >/etc/sudoers.d/agent
chmod 0440 /etc/sudoers.d/agent
ln -sf /usr/bin/python3 /usr/local/bin/python
# A login shell starts with a PATH of its own.
cat >/etc/profile.d/berth.sh <<'EOF'
PATH="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
for dir in /opt/berth/agent/*/bin; do
	[ -d "$dir" ] && PATH="$dir:$PATH"
done
[ -d "$HOME/.local/bin" ] && PATH="$HOME/.local/bin:$PATH"
[ -d "$HOME/go/bin" ] && PATH="$HOME/go/bin:$PATH"
unset dir
export PATH
EOF
chown -R agent:agent /home/agent
# Without this line sudo warns that it cannot resolve the sandbox's own name.
touch /home/agent/.sudo_as_admin_successful
chown agent:agent /home/agent/.sudo_as_admin_successful`

const cleanScript = `
apt-get clean
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/log/apt /var/log/dpkg.log /var/log/alternatives.log /root/.npm /root/.cache /tmp/* /var/tmp/*
rm -f /var/cache/debconf/*-old /var/lib/dpkg/*-old /etc/hostname /etc/resolv.conf`

// buildAgent makes an agent's template: its own folder, mounted by itself over
// the base, so that a second agent costs only itself.
func (b *Builder) buildAgent(ctx context.Context, a agent.Agent, base image.Image, p Progress) (image.Image, error) {
	job := job{name: a.Name, start: base, steps: []step{{name: "install " + a.Title, script: installScript(a)}}, fresh: true}
	return b.run(ctx, job, p, func(layer func(func(io.Reader) error) error) (image.Image, error) {
		only := func(read func(io.Reader) error) error {
			return layer(func(r io.Reader) error { return below(a.Dir(), r, read) })
		}
		l, err := b.addLayer(ctx, only, image.LayerOptions{Mount: a.Dir(), CreatedBy: "berth template " + a.Name})
		if err != nil {
			return image.Image{}, err
		}
		cfg := base.Config
		cfg.Labels = map[string]string{labelName: a.Name, labelRecipe: job.digest()}
		return b.m.Images().Commit(ctx, Ref(a.Name), &base, []image.Layer{l}, cfg)
	})
}

func installScript(a agent.Agent) string {
	var s strings.Builder
	s.WriteString("export PREFIX=" + a.Dir() + "\nmkdir -p \"$PREFIX\"\n")
	s.WriteString("npm install -g --no-fund --no-audit --no-update-notifier --prefix \"$PREFIX\" '" + a.Recipe.Spec() + "'\n")
	for _, extra := range a.Recipe.Steps {
		s.WriteString(extra + "\n")
	}
	s.WriteString("chmod -R a+rX \"$PREFIX\"\n")
	return s.String()
}

// digest names what a job does, for the label and for taking it up again.
func (j job) digest() string {
	h := sha256.New()
	io.WriteString(h, j.start.Digest)
	for _, s := range j.steps {
		io.WriteString(h, "\x00"+s.name+"\x00"+s.script)
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

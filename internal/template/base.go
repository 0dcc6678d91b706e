package template

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"

	"berth.dev/internal/debian"
	"berth.dev/internal/image"
	"berth.dev/internal/sandbox"
)

// guestPath is the PATH of a template's image.
const guestPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// stepEnv is the environment of a step.
var stepEnv = map[string]string{
	"PATH": guestPath, "HOME": "/root", "LANG": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive",
	"NODE_EXTRA_CA_CERTS": caBundle, "SSL_CERT_FILE": caBundle,
}

// baseEnv is what every session in a template's sandbox starts with. Node.js
// and a few Python tools bring certificates of their own and have to be told.
var baseEnv = []string{
	"PATH=" + guestPath, "LANG=C.UTF-8",
	"NODE_EXTRA_CA_CERTS=" + caBundle, "REQUESTS_CA_BUNDLE=" + caBundle, "SSL_CERT_FILE=" + caBundle,
	"PIP_BREAK_SYSTEM_PACKAGES=1", // pip in a sandbox may do what apt may
}

// bootstrapRef names the image of the packages as they were unpacked, which a
// build that is taken up again starts from.
const bootstrapRef = "berth/bootstrap"

// origin is what a base is made on.
type origin struct {
	img   image.Image
	steps []step // that make a configured system with all packages of it
}

// buildBase makes the base and puts the agents that are there on it. Then it
// deletes the base before, and what only the making needed: the file system of
// the packages alone is as large as the base's. It works with a store of its
// own, because what a store has used it keeps until it is closed.
func (b *Builder) buildBase(ctx context.Context, o Options, p Progress) (image.Image, error) {
	own, err := b.open()
	if err != nil {
		return image.Image{}, err
	}
	maker := *b
	maker.images = own
	img, err := maker.makeBase(ctx, o, p)
	if err := errors.Join(err, own.Close()); err != nil {
		return image.Image{}, err
	}
	// The packages' layer stays: it is in the base.
	if err := b.images.Untag(bootstrapRef); err != nil && !errors.Is(err, sandbox.ErrNotFound) {
		return image.Image{}, err
	}
	if err := b.rebase(ctx, img); err != nil {
		return image.Image{}, err
	}
	_, err = b.collect(ctx)
	return img, err
}

// makeBase makes the base: the packages unpacked in Go, the rest in a sandbox.
func (b *Builder) makeBase(ctx context.Context, o Options, p Progress) (image.Image, error) {
	from, err := b.origin(ctx, o, p)
	if err != nil {
		return image.Image{}, err
	}
	mirrors := readMirrors(b.root, b.getenv)
	j := job{name: Base, start: from.img, steps: append(from.steps,
		step{name: "npm", script: npmScript(b.registry(ctx))},
		step{name: "user", script: userScript},
		step{name: "settings", files: func(context.Context, Sandbox) ([]File, error) { return mirrors.files(), nil }, salt: fmt.Sprint(mirrors)},
		step{name: "clean up", script: cleanScript},
	)}
	j.finish = func(ctx context.Context, sb Sandbox, done []Step) (image.Image, error) {
		facts, err := baseFacts(ctx, sb)
		if err != nil {
			return image.Image{}, err
		}
		facts.Steps = done
		l, err := b.addLayer(ctx, filtered(ctx, sb, baseOnly), image.LayerOptions{CreatedBy: "berth template " + Base})
		if err != nil {
			return image.Image{}, err
		}
		return b.images.Commit(ctx, Ref(Base), &from.img, []image.Layer{l}, image.Config{
			Env: append(baseEnv[:len(baseEnv):len(baseEnv)], mirrors.env()...), User: sandbox.UserName, WorkingDir: sandbox.UserHome,
			Labels: labels(Base, j.digest(), facts),
		})
	}
	return b.run(ctx, j, p)
}

// baseFacts asks a finished base what is in it.
func baseFacts(ctx context.Context, sb Sandbox) (Facts, error) {
	text, err := output(ctx, sb, `. /etc/os-release
echo "$PRETTY_NAME"
dpkg-query -f '.\n' -W | wc -l
node -p process.versions.node`)
	if err != nil {
		return Facts{}, fmt.Errorf("look at the base: %w", err)
	}
	answer := strings.SplitN(text+"\n\n\n", "\n", 4)
	facts := Facts{System: printable(answer[0]), Node: printable(answer[2])}
	facts.Packages, _ = strconv.Atoi(strings.TrimSpace(answer[1])) // the guest's word
	return facts, nil
}

// origin finds what to make the base on: the host's archive, or the image that
// was asked for.
func (b *Builder) origin(ctx context.Context, o Options, p Progress) (origin, error) {
	certificates := b.certificateStep()
	if o.From != "" {
		img, err := b.images.Lookup(o.From)
		// The certificates first: its archive may be behind the company's own.
		return origin{img: img, steps: []step{certificates, {name: "packages", script: fromScript}}}, err
	}
	src, err := debian.Detect(b.root, b.getenv)
	if err != nil {
		return origin{}, sandbox.Errorf(sandbox.ClassOf(err), "%w", err).
			WithHint("bring in an image that has apt, with `berth image import FILE`, and build on it with `berth template build base --from IMAGE`")
	}
	cache, err := b.cache()
	if err != nil {
		return origin{}, err
	}
	boot := debian.Bootstrap{CacheDir: filepath.Join(cache, "debian"), Include: include(src.Distribution)}
	current := ""
	boot.Progress = func(e debian.Event) {
		p.send(Event{Step: current, Done: e.Done, Total: e.Total, Line: e.Package})
	}
	var plan debian.Plan
	current = "package lists"
	err = p.step(current, func() error {
		plan, err = boot.Resolve(ctx, src)
		return err
	})
	if err != nil {
		return origin{}, err
	}
	from := origin{steps: []step{{name: "configure", script: leanScript + plan.ConfigureScript()}, certificates}}
	from.img, err = b.images.Lookup(bootstrapRef)
	if err == nil && from.img.Config.Labels[labelRecipe] == plan.Digest() {
		return from, nil
	}
	current = "packages"
	err = p.step(current, func() error {
		from.img, err = b.bootstrap(ctx, boot, plan)
		return err
	})
	return from, err
}

// bootstrap unpacks packages into an image.
func (b *Builder) bootstrap(ctx context.Context, boot debian.Bootstrap, plan debian.Plan) (image.Image, error) {
	unpack := func(w io.Writer) error { return boot.WriteLayer(ctx, plan, w) }
	l, err := b.addLayer(ctx, unpack, image.LayerOptions{CreatedBy: "berth bootstrap " + plan.Codename})
	if err != nil {
		return image.Image{}, err
	}
	return b.images.Commit(ctx, bootstrapRef, nil, []image.Layer{l}, image.Config{
		Env: baseEnv[:2], Labels: map[string]string{labelRecipe: plan.Digest()},
	})
}

// addLayer stores the tar that from writes.
func (b *Builder) addLayer(ctx context.Context, from producer, o image.LayerOptions) (l image.Layer, err error) {
	err = pipe(from, func(r io.Reader) error {
		l, err = b.images.AddLayer(ctx, r, o)
		return err
	})
	return l, err
}

// commonPackages are in every base, and dockerPackages are what Docker is called
// in each distribution.
const commonPackages = "git gh nodejs python3 python3-pip python3-venv golang-go build-essential make curl ripgrep jq sudo " +
	"openssh-client less procps psmisc iproute2 iptables ca-certificates bash-completion vim-tiny unzip zip xz-utils zstd file rsync tmux patch pkg-config"

var dockerPackages = map[string]string{
	"debian": "docker.io docker-cli docker-buildx docker-compose",
	"ubuntu": "docker.io docker-buildx docker-compose-v2",
}

// include names all packages of the base.
func include(distribution string) []string {
	return append(debian.DefaultInclude(distribution), strings.Fields(commonPackages+" "+dockerPackages[distribution])...)
}

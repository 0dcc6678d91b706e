package template

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"berth.dev/internal/engine/all"
	"berth.dev/internal/engine/gvisor"
	"berth.dev/internal/hostdir"
	"berth.dev/internal/image"
	"berth.dev/internal/manager"
	"berth.dev/internal/sandbox"
	"berth.dev/internal/supervisor"
)

// TestMain lets this test binary be what berth is: the engine's processes and
// the supervisor, too.
func TestMain(m *testing.M) {
	gvisor.Reexec()
	if len(os.Args) == 3 && os.Args[1] == "supervise" {
		dirs, err := hostdir.From(os.Getenv, hostdir.HostUID())
		if err != nil {
			panic(err)
		}
		os.Exit(supervisor.Main(manager.OpenSupervised(dirs, all.Engines())))
	}
	os.Exit(m.Run())
}

// realBuilder works on real machines, in the folder that the end-to-end tests
// keep their templates in too.
func realBuilder(t *testing.T) (*Builder, *manager.Manager) {
	t.Helper()
	cache := os.Getenv("BERTH_TEST_CACHE")
	if cache == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		cache = filepath.Join(base, "berth-test")
	}
	t.Setenv("BERTH_HOME", cache)
	dirs, err := hostdir.From(os.Getenv, hostdir.HostUID())
	if err != nil {
		t.Fatal(err)
	}
	m, err := manager.New(manager.Config{Dirs: dirs, Engines: all.Engines(), Executable: "/proc/self/exe"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Images().Close() })
	return New(m, dirs, os.Getenv), m
}

// TestBuildReal builds the base, unless it is there, and looks at what it holds
// from the inside; then it breaks builds off on real machines.
func TestBuildReal(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a template: minutes, and the network")
	}
	b, m := realBuilder(t)
	base, err := b.Ensure(t.Context(), Base, func(e Event) {
		if e.Finished {
			t.Logf("%s: %s", e.Step, e.Elapsed.Round(100*time.Millisecond))
		}
	})
	if err != nil {
		t.Fatal(err, sandbox.HintOf(err))
	}
	in, err := b.Inspect(Base)
	if err != nil || in.Node == "" || in.Packages < 100 || in.System == "" {
		t.Errorf("%+v, %v", in, err)
	}
	const name = "selftest"
	clear := func() {
		if err := b.runner.Remove(context.WithoutCancel(t.Context()), builderName(name)); err != nil {
			t.Error(err)
		}
		if path, err := b.recordPath(name); err == nil {
			os.Remove(path)
		}
	}
	clear()
	t.Cleanup(clear)
	t.Run("Contents", func(t *testing.T) { testContents(t, b, base) })
	t.Run("Resume", func(t *testing.T) { testRealResume(t, b, m, base) })
	t.Run("Cancel", func(t *testing.T) { testRealCancel(t, b, m, base) })
}

// contents fails on the first thing that a base has to have and has not.
const contents = `
for c in git gh node npm npx python3 pip3 go make gcc g++ curl rg jq sudo ssh less ps dockerd docker containerd; do
	command -v $c >/dev/null || { echo "no $c"; exit 1; }
done
node -e 'process.exit(0)'
npm --version >/dev/null
docker buildx version
docker compose version
[ "$(id agent | cut -d' ' -f1-2)" = "uid=1000(agent) gid=1000(agent)" ]
[ "$(sudo -u agent sudo -n id -u)" = 0 ]
id -Gn agent | grep -w docker
[ "$(stat -c %U:%G /home/agent /home/agent/.bashrc | sort -u)" = agent:agent ]
sudo -u agent python3 -m venv /tmp/venv && /tmp/venv/bin/pip --version
printf 'package main\nfunc main() { println("hello") }\n' >/tmp/hello.go
cd /tmp && HOME=/root GOFLAGS=-mod=mod go run hello.go
printf 'int main() { return 0; }\n' >/tmp/x.c && gcc -o /tmp/x /tmp/x.c && /tmp/x
[ -z "$(dpkg --audit)" ]
[ -x /usr/bin/sudo ] && [ -u /usr/bin/sudo ]
`

func testContents(t *testing.T, b *Builder, base image.Image) {
	sb, _, err := b.runner.Open(t.Context(), builderName("selftest"), base, false)
	if err != nil {
		t.Fatal(err)
	}
	defer sb.Stop(context.WithoutCancel(t.Context()))
	var out strings.Builder
	status, err := sb.Run(t.Context(), contents, &out)
	if status != 0 || err != nil {
		t.Errorf("status %d, %v\n%s", status, err, out.String())
	}
	bundle, err := sb.ReadFile(t.Context(), caBundle)
	if err != nil {
		t.Fatal(err)
	}
	if extra := missing(bundle, hostCertificates("/", os.Getenv)); len(extra) > 0 {
		t.Errorf("%d certificates of the host are not trusted", len(extra))
	}
	if data, err := sb.ReadFile(t.Context(), "/no/such/file"); data != nil || err != nil {
		t.Errorf("a file that is not there: %q, %v", data, err)
	}
}

// realJob makes an image in two steps; what the second does is the caller's. It
// fails unless each ran once.
func realJob(b *Builder, base image.Image, second string) job {
	j := job{name: "selftest", start: base, steps: []step{
		{name: "first", script: "echo first >>/srv/log", files: func(context.Context, Sandbox) ([]File, error) {
			return []File{{"/srv/new/folder/file", []byte("content")}}, nil
		}},
		{name: "second", script: second},
	}}
	j.finish = func(ctx context.Context, sb Sandbox, done []Step) (image.Image, error) {
		l, err := b.addLayer(ctx, filtered(ctx, sb, baseOnly), image.LayerOptions{})
		if err != nil {
			return image.Image{}, err
		}
		log, err := sb.ReadFile(ctx, "/srv/log")
		if err != nil || string(log) != "first\nsecond\n" {
			return image.Image{}, errors.Join(err, errors.New("the log holds "+string(log)))
		}
		return b.images.Commit(ctx, "", &base, []image.Layer{l}, base.Config)
	}
	return j
}

func testRealResume(t *testing.T, b *Builder, m *manager.Manager, base image.Image) {
	// A failing step is what a changed step is, to what was done before it.
	_, err := b.run(t.Context(), realJob(b, base, "echo it broke; exit 3"), nil)
	if err == nil || !strings.Contains(err.Error(), "it broke") {
		t.Fatalf("error %v", err)
	}
	ended(t, m)
	img, err := b.run(t.Context(), realJob(b, base, "cat /srv/new/folder/file; echo second >>/srv/log"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(img.Layers) != len(base.Layers)+1 {
		t.Errorf("%d layers", len(img.Layers))
	}
	if _, err := m.Find(builderName("selftest")); !errors.Is(err, sandbox.ErrNotFound) {
		t.Errorf("the builder is left: %v", err)
	}
}

func testRealCancel(t *testing.T, b *Builder, m *manager.Manager, base image.Image) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err := b.run(ctx, realJob(b, base, "echo sleeping; sleep 1000"), func(e Event) {
		if e.Line == "sleeping" {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v", err)
	}
	ended(t, m)
	// A builder that was left running, as by kill -9, is taken over.
	j := realJob(b, base, "echo second >>/srv/log")
	sb, resumed, err := b.runner.Open(t.Context(), builderName(j.name), base, true)
	if err != nil || !resumed {
		t.Fatal(resumed, err)
	}
	if _, err := sb.Run(t.Context(), "true", io.Discard); err != nil {
		t.Fatal(err)
	}
	if _, err := b.run(t.Context(), j, nil); err != nil {
		t.Error(err)
	}
}

// ended makes sure that no builder runs.
func ended(t *testing.T, m *manager.Manager) {
	t.Helper()
	sb, err := m.Find(builderName("selftest"))
	if err != nil {
		t.Fatal(err)
	}
	if s := sb.Info().Status; s != sandbox.Stopped {
		t.Errorf("the builder is %s", s)
	}
}

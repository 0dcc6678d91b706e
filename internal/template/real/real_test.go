// Package real tests templates on real machines. It is a package of its own
// because what links the engine can be neither fuzzed nor tested for races.
package real

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/pem"
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
	"berth.dev/internal/template"
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

// realManager works on real machines, in the folder that the end-to-end tests
// keep their templates in too.
func realManager(t *testing.T) (*template.Builder, *manager.Manager) {
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
	return template.New(m, dirs, os.Getenv), m
}

// name is that of this test's builder.
const name = "berth-build-selftest"

// TestBuildReal builds the base, unless it is there, and looks at what it holds
// from the inside; then it holds the runner to what it promises.
func TestBuildReal(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a template: minutes, and the network")
	}
	b, m := realManager(t)
	base, err := b.Ensure(t.Context(), template.Base, func(e template.Event) {
		if e.Finished {
			t.Logf("%s: %s", e.Step, e.Elapsed.Round(100*time.Millisecond))
		}
	})
	if err != nil {
		t.Fatal(err, sandbox.HintOf(err))
	}
	in, err := b.Inspect(template.Base)
	if err != nil || in.Node == "" || in.Packages < 100 || in.System == "" {
		t.Errorf("%+v, %v", in, err)
	}
	r := template.NewRunner(m)
	t.Cleanup(func() {
		if err := r.Remove(context.Background(), name); err != nil {
			t.Error(err)
		}
	})
	t.Run("Contents", func(t *testing.T) { testContents(t, r, base) })
	t.Run("Runner", func(t *testing.T) { testRunner(t, r, m, base) })
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

func testContents(t *testing.T, r template.Runner, base image.Image) {
	sb := open(t, r, base, false)
	defer stop(t, sb)
	run(t, sb, contents)
	bundle, err := sb.ReadFile(t.Context(), "/etc/ssl/certs/ca-certificates.crt")
	if err != nil {
		t.Fatal(err)
	}
	trusted := certificates(bundle)
	host, err := os.ReadFile("/etc/ssl/certs/ca-certificates.crt")
	if errors.Is(err, os.ErrNotExist) {
		return // another distribution's place; the unit tests know them
	}
	for der := range certificates(host) {
		if !trusted[der] {
			t.Error("a certificate of the host is not trusted")
		}
	}
}

func certificates(data []byte) map[string]bool {
	all := map[string]bool{}
	for {
		var b *pem.Block
		if b, data = pem.Decode(data); b == nil {
			return all
		}
		all[string(b.Bytes)] = true
	}
}

func open(t *testing.T, r template.Runner, base image.Image, resume bool) template.Sandbox {
	t.Helper()
	sb, resumed, err := r.Open(t.Context(), name, base, resume)
	if err != nil {
		t.Fatal(err, sandbox.HintOf(err))
	}
	if resumed != resume {
		t.Errorf("resumed is %v", resumed)
	}
	return sb
}

func stop(t *testing.T, sb template.Sandbox) {
	t.Helper()
	if err := sb.Stop(context.WithoutCancel(t.Context())); err != nil {
		t.Error(err)
	}
}

// run expects a script to work and returns its output.
func run(t *testing.T, sb template.Sandbox, script string) string {
	t.Helper()
	var out strings.Builder
	status, err := sb.Run(t.Context(), script, &out)
	if status != 0 || err != nil {
		t.Errorf("status %d, %v\n%s", status, err, out.String())
	}
	return out.String()
}

// testRunner goes through the life of a builder: failures, an interrupt, a
// killed process, a resume, the layer.
func testRunner(t *testing.T, r template.Runner, m *manager.Manager, base image.Image) {
	sb := open(t, r, base, false)
	if err := sb.WriteFiles(t.Context(), []template.File{{Path: "/srv/new/file", Data: []byte("content")}}); err != nil {
		t.Fatal(err)
	}
	if got := run(t, sb, "id -u; pwd; stat -c %a:%U /srv/new/file; rm /etc/skel/.bashrc"); got != "0\n/\n644:root\n" {
		t.Errorf("output %q", got)
	}
	if data, err := sb.ReadFile(t.Context(), "/no/such/file"); data != nil || err != nil {
		t.Errorf("a file that is not there: %q, %v", data, err)
	}
	if status, err := sb.Run(t.Context(), "false; echo not reached", io.Discard); status != 1 || err != nil {
		t.Errorf("a script that fails: status %d, %v", status, err)
	}
	if err := sb.Save(t.Context()); err != nil {
		t.Fatal(err)
	}
	interrupt(t, sb)
	stop(t, sb)
	b, err := m.Find(name)
	if err != nil || b.Info().Status != sandbox.Stopped {
		t.Fatalf("after an interrupt: %v, %v", b.Info().Status, err)
	}
	// One that nobody stopped, as after kill -9, is taken over.
	open(t, r, base, true)
	sb = open(t, r, base, true)
	if got := run(t, sb, "cat /srv/new/file"); got != "content" {
		t.Errorf("resumed with %q", got)
	}
	checkLayer(t, sb)
	if err := r.Remove(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Find(name); !errors.Is(err, sandbox.ErrNotFound) {
		t.Errorf("the builder is left: %v", err)
	}
	if err := r.Remove(t.Context(), name); err != nil {
		t.Errorf("removed twice: %v", err)
	}
}

// interrupt ends a script that would go on for ever as soon as it speaks.
func interrupt(t *testing.T, sb template.Sandbox) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if _, err := sb.Run(ctx, "echo sleeping; sleep 1000", writerFunc(cancel)); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

type writerFunc func()

func (f writerFunc) Write(p []byte) (int, error) {
	f()
	return len(p), nil
}

func checkLayer(t *testing.T, sb template.Sandbox) {
	t.Helper()
	var layer bytes.Buffer
	if err := sb.Layer(t.Context(), &layer); err != nil {
		t.Fatal(err)
	}
	found := map[string]byte{}
	for r := tar.NewReader(&layer); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		found[strings.TrimPrefix(h.Name, "./")] = h.Typeflag
	}
	if found["srv/new/file"] != tar.TypeReg || found["etc/skel/.bashrc"] == 0 || found["usr/bin/git"] != 0 {
		t.Errorf("the layer has %d entries: file %c, whiteout %c, git %c",
			len(found), found["srv/new/file"], found["etc/skel/.bashrc"], found["usr/bin/git"])
	}
}

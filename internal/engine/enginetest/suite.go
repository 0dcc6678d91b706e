// Package enginetest is the conformance suite that every engine passes, and a
// Fake that passes it too, for tests of what stands above an engine. The suite
// talks to a guest program of its own (probe), built for the occasion.
package enginetest

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/erofs/go-erofs"

	"berth.dev/internal/engine"
	"berth.dev/internal/sandbox"
)

// patience is how long anything may take that takes a moment; only a hang
// comes near it.
const patience = 60 * time.Second

// Suite runs every promise of the contract against an engine. The engine's
// test binary must have handed over re-executions in TestMain.
func Suite(t *testing.T, e engine.Engine) {
	h := &harness{engine: e, root: buildRoot(t)}
	if err := e.Check(t.Context()); err != nil {
		t.Fatalf("this host cannot run %s: %v (%s)", e.Name(), err, sandbox.HintOf(err))
	}
	for _, c := range []struct {
		name string
		test func(*testing.T, *harness)
	}{
		{"Identity", testIdentity},
		{"ClockIsTheHosts", testClock},
		{"ExitStatus", testExitStatus},
		{"SignalReachesFirstProcess", testSignal},
		{"CloseEndsEverything", testClose},
		{"CreateFailureLeavesNothing", testCreateFailure},
		{"RootIsWritableAndPrivate", testRootPrivate},
		{"LayerIsReadOnly", testLayer},
		{"WorkspaceAtSamePath", testWorkspace},
		{"OwnershipSquashed", testOwnership},
		{"SetIDBitsRefused", testSetID},
		{"ReadOnlyMountHoldsAgainstRemount", testReadOnly},
		{"FileMount", testFileMount},
		{"HostHidden", testHostHidden},
		{"NetworkIsTheWire", testNetwork},
		{"SaveAndRestore", testSave},
		{"SaveWhileRunning", testSaveRunning},
		{"KeptTmpfs", testKeptTmpfs},
		{"StatePersists", testPersistence},
		{"LayerWritten", testWriteLayer},
		{"Caps", testCaps},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, h) })
	}
}

// Boot makes and starts a machine for an engine's own tests, which look at it
// from outside; it is closed when the test ends. changes are made to its
// configuration before.
func Boot(t testing.TB, e engine.Engine, changes ...func(*engine.Config)) engine.Machine {
	t.Helper()
	m, _ := BootProbe(t, e, changes...)
	return m
}

// BootProbe is Boot for tests that also ask something of the guest: the function
// runs a command of the probe's, which has to work.
func BootProbe(t testing.TB, e engine.Engine, changes ...func(*engine.Config)) (engine.Machine, func(words ...string) string) {
	t.Helper()
	h := &harness{engine: e, root: buildRoot(t)}
	cfg := h.config(t)
	for _, change := range changes {
		change(&cfg)
	}
	g := h.boot(t, cfg)
	return g.machine, g.do
}

type harness struct {
	engine engine.Engine
	root   string
}

// buildRoot makes an EROFS root that holds the probe and nothing else.
func buildRoot(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	probe := filepath.Join(dir, "probe")
	cmd := exec.Command("go", "build", "-o", probe, "berth.dev/internal/engine/enginetest/probe")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the probe: %v\n%s", err, out)
	}
	return writeErofs(t, filepath.Join(dir, "root.erofs"), map[string]string{
		"/probe": probe, "/etc/": "", "/tmp/": "", "/opt/": "", "/var/lib/kept/": "",
	})
}

// writeErofs writes an image of the given files (path in image to host file;
// a path that ends in "/" is a folder).
func writeErofs(t testing.TB, path string, files map[string]string) string {
	t.Helper()
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	w := erofs.Create(out, erofs.WithTempDir(filepath.Dir(path)))
	for name, from := range files {
		if strings.HasSuffix(name, "/") {
			must(t, w.Mkdir(strings.TrimSuffix(name, "/"), 0o755))
			continue
		}
		data, err := os.ReadFile(from)
		must(t, err)
		f, err := w.Create(name)
		must(t, err)
		_, err = f.Write(data)
		must(t, err)
		must(t, f.Close())
		must(t, w.Chmod(name, 0o755))
	}
	must(t, w.Close())
	return path
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// guest is a machine with the probe in it and the suite at its streams.
type guest struct {
	t       testing.TB
	machine engine.Machine
	in      *os.File
	out     *bufio.Reader
	wire    *os.File // the suite's end
	cfg     engine.Config
}

// config returns a working configuration for tests to change.
func (h *harness) config(t testing.TB) engine.Config {
	t.Helper()
	// Not t.TempDir: a control socket's path must be short.
	run, err := os.MkdirTemp("", "berth")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(run) })
	return engine.Config{
		ID: sandbox.NewID(), Hostname: "conformance", StateDir: t.TempDir(), RunDir: run, CacheDir: cacheDir(t),
		Root: h.root, Args: []string{"/probe"}, Env: []string{"PATH=/"},
	}
}

// cacheDir is where engines keep what they fetch, from one run of the tests to
// the next: where the end-to-end tests keep their templates.
func cacheDir(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("BERTH_TEST_CACHE")
	if dir == "" {
		cache, err := os.UserCacheDir()
		must(t, err)
		dir = filepath.Join(cache, "berth-test")
	}
	dir = filepath.Join(dir, "engines")
	must(t, os.MkdirAll(dir, 0o700))
	return dir
}

// boot makes and starts a machine and waits until the probe answers.
func (h *harness) boot(t testing.TB, cfg engine.Config) *guest {
	t.Helper()
	g := h.create(t, cfg)
	must(t, g.machine.Start(t.Context()))
	if line := g.line(); line != "ok ready" {
		t.Fatalf("probe said %q", line)
	}
	return g
}

func (h *harness) create(t testing.TB, cfg engine.Config) *guest {
	t.Helper()
	g := &guest{t: t, cfg: cfg}
	stdin, in, err := os.Pipe()
	must(t, err)
	out, log, err := os.Pipe()
	must(t, err)
	ours, theirs := wirePair(t)
	g.in, g.out, g.wire = in, bufio.NewReader(out), ours
	g.cfg.Stdin, g.cfg.Log = stdin, log
	g.cfg.Network = engine.Network{
		Wire: theirs, MTU: 1500, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 2},
		Addrs:    []netip.Prefix{netip.MustParsePrefix("10.9.8.2/24")},
		Gateways: []netip.Addr{netip.MustParseAddr("10.9.8.1")},
	}
	g.machine, err = h.engine.Create(t.Context(), g.cfg)
	for _, f := range []*os.File{stdin, log, theirs} {
		f.Close()
	}
	must(t, err)
	t.Cleanup(func() {
		if err := g.machine.Close(); err != nil {
			t.Errorf("close the machine: %v", err)
		}
		in.Close()
		out.Close()
		ours.Close()
	})
	return g
}

func wirePair(t testing.TB) (ours, theirs *os.File) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	must(t, err)
	must(t, syscall.SetNonblock(fds[0], true))
	return os.NewFile(uintptr(fds[0]), "wire"), os.NewFile(uintptr(fds[1]), "guest wire")
}

func (g *guest) line() string {
	g.t.Helper()
	type result struct {
		s   string
		err error
	}
	c := make(chan result, 1)
	go func() { s, err := g.out.ReadString('\n'); c <- result{s, err} }()
	select {
	case r := <-c:
		if r.err != nil {
			g.t.Fatalf("read from the guest: %v (got %q)", r.err, r.s)
		}
		return strings.TrimSuffix(r.s, "\n")
	case <-time.After(patience):
		g.t.Fatal("the guest does not answer")
		return ""
	}
}

func (g *guest) send(words ...string) {
	g.t.Helper()
	data, err := json.Marshal(words)
	must(g.t, err)
	_, err = g.in.Write(append(data, '\n'))
	must(g.t, err)
}

// try runs a command of the probe and returns its answer or its error.
func (g *guest) try(words ...string) (string, error) {
	g.t.Helper()
	g.send(words...)
	kind, quoted, _ := strings.Cut(g.line(), " ")
	var text string
	if _, err := fmt.Sscanf(quoted, "%q", &text); err != nil {
		g.t.Fatalf("probe answered %q %q: %v", kind, quoted, err)
	}
	if kind == "error" {
		return "", fmt.Errorf("%s", text)
	}
	return text, nil
}

// do is try for what must work.
func (g *guest) do(words ...string) string {
	g.t.Helper()
	text, err := g.try(words...)
	if err != nil {
		g.t.Fatalf("guest: %v: %v", words, err)
	}
	return text
}

// refused is try for what must not work.
func (g *guest) refused(words ...string) {
	g.t.Helper()
	if text, err := g.try(words...); err == nil {
		g.t.Errorf("guest: %v succeeded: %q", words, text)
	}
}

// becomeRoot does what the real first process does before anything else.
func (g *guest) becomeRoot() { g.t.Helper(); g.do("setuid", "0") }

func (g *guest) wait() int {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), patience)
	defer cancel()
	status, err := g.machine.Wait(ctx)
	must(g.t, err)
	return status
}

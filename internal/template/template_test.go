package template

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"

	"berth.dev/internal/image"
	"berth.dev/internal/sandbox"
)

// world is a fake host: a real image store and lock, and a runner in memory.
type world struct {
	t      *testing.T
	dir    string
	runner *fakeRunner
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, dir: t.TempDir()}
	w.runner = &fakeRunner{w: w, saved: map[string]saved{}}
	return w
}

// builder is one process's builder.
func (w *world) builder() *Builder {
	w.t.Helper()
	open := func() (*image.Store, error) { return image.Open(filepath.Join(w.dir, "images")) }
	store, err := open()
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { store.Close() })
	folder := func(name string) func() (string, error) {
		return func() (string, error) {
			p := filepath.Join(w.dir, name)
			return p, os.MkdirAll(p, 0o700)
		}
	}
	return &Builder{
		images: store, open: open, runner: w.runner,
		collect:   func(ctx context.Context) (int64, error) { return store.GC(ctx, nil) },
		registry:  func(context.Context) string { return "https://npm.example.org" },
		templates: folder("templates"), cache: folder("cache"),
		root: filepath.Join(w.dir, "host"), getenv: func(string) string { return "" },
	}
}

// start puts an image to build on into the store.
func (w *world) start(b *Builder) Options {
	w.t.Helper()
	l, err := b.images.AddLayer(w.t.Context(), bytes.NewReader(tarOf(w.t, map[string]string{"etc/os-release": "x"})), image.LayerOptions{})
	if err == nil {
		_, err = b.images.Commit(w.t.Context(), "example/debian", nil, []image.Layer{l}, image.Config{})
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return Options{From: "example/debian"}
}

func tarOf(t testing.TB, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		content := files[name]
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// saved is what a fake builder keeps: the files that scripts made.
type saved struct {
	image string
	files map[string]string
}

// fakeRunner keeps builders in memory. Every script that it runs makes a file
// that tells what ran.
type fakeRunner struct {
	w *world

	mu      sync.Mutex
	saved   map[string]saved
	running int
	most    int      // builders that ran at one time
	ran     []string // first words of scripts, as mark has them
	// fail decides what becomes of a script; nil lets all succeed.
	fail func(ctx context.Context, mark string, out io.Writer) (int, error)
}

// mark names a script by what it is for.
func mark(script string) string {
	for _, m := range []struct{ has, is string }{
		{"os-release", "facts"}, {"berth-available", "packages"}, {"berth-npm", "npm"}, {"useradd", "user"},
		{"apt-get clean", "clean"}, {"install_node /opt", "node"}, {"npm install -g", "agent"},
	} {
		if strings.Contains(script, m.has) {
			return m.is
		}
	}
	return "unknown"
}

func (r *fakeRunner) Open(ctx context.Context, name string, img image.Image, resume bool) (Sandbox, bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old, there := r.saved[name]
	resumed := there && resume && old.image == img.Digest
	s := &fakeSandbox{r: r, name: name, image: img.Digest, files: map[string]string{}}
	if resumed {
		for k, v := range old.files {
			s.files[k] = v
		}
	} else {
		delete(r.saved, name)
	}
	r.running++
	r.most = max(r.most, r.running)
	return s, resumed, nil
}

func (r *fakeRunner) Remove(ctx context.Context, name string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.saved, name)
	r.running = 0
	return nil
}

// take returns what ran since the last call.
func (r *fakeRunner) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	ran := r.ran
	r.ran = nil
	return ran
}

type fakeSandbox struct {
	r           *fakeRunner
	name, image string
	files       map[string]string
}

func (s *fakeSandbox) Run(ctx context.Context, script string, out io.Writer) (int, error) {
	m := mark(script)
	if m == "facts" {
		fmt.Fprintf(out, "Example 13\x1b[31m\n42\n20.1.2\n")
		return 0, nil
	}
	s.r.mu.Lock()
	s.r.ran = append(s.r.ran, m)
	fail := s.r.fail
	s.r.mu.Unlock()
	if fail != nil {
		if status, err := fail(ctx, m, out); status != 0 || err != nil {
			return status, err
		}
	}
	at := "srv/" + m
	if m == "agent" || m == "node" {
		dir := strings.TrimPrefix(s.name, "berth-build-")
		at = "opt/berth/agent/" + dir + "/bin/" + dir
		s.files["root/.npm/junk"] = "x"
		s.files["opt/berth/agent/"+dir+"/lib/node_modules/@anthropic-ai/claude-code/package.json"] = `{"version":"1.2.3"}`
	}
	s.files[at] = digestOf(script)
	s.files["etc/hosts"] = "127.0.0.1 builder"
	return 0, ctx.Err()
}

func (s *fakeSandbox) ReadFile(ctx context.Context, name string) ([]byte, error) {
	if data, there := s.files[strings.TrimPrefix(name, "/")]; there {
		return []byte(data), nil
	}
	return nil, nil
}

func (s *fakeSandbox) WriteFiles(ctx context.Context, files []File) error {
	for _, f := range files {
		s.files[strings.TrimPrefix(f.Path, "/")] = string(f.Data)
	}
	return nil
}

func (s *fakeSandbox) Save(ctx context.Context) error {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	keep := map[string]string{}
	for k, v := range s.files {
		keep[k] = v
	}
	s.r.saved[s.name] = saved{s.image, keep}
	return ctx.Err()
}

func (s *fakeSandbox) Layer(ctx context.Context, w io.Writer) error {
	_, err := w.Write(tarOf(s.r.w.t, s.files))
	return err
}

func (s *fakeSandbox) Stop(ctx context.Context) error {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	s.r.running--
	return ctx.Err()
}

func (w *world) ran(want ...string) {
	w.t.Helper()
	if got := w.runner.take(); !slices.Equal(got, want) {
		w.t.Errorf("ran %v, want %v", got, want)
	}
}

var allSteps = []string{"packages", "npm", "user", "clean"}

func TestBuildBaseAndAgent(t *testing.T) {
	w := newWorld(t)
	b := w.builder()
	o := w.start(b)
	base, err := b.Build(t.Context(), Base, o, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.ran(allSteps...)
	names := layerNames(t, w, base.Layers[len(base.Layers)-1])
	if !slices.Contains(names, "srv/npm") || slices.Contains(names, "etc/hosts") {
		t.Errorf("the base's layer holds %v", names)
	}
	claude, err := b.Ensure(t.Context(), "claude", nil)
	if err != nil {
		t.Fatal(err)
	}
	w.ran("agent")
	top := claude.Layers[len(claude.Layers)-1]
	if top.Mount != "/opt/berth/agent/claude" || len(claude.Layers) != len(base.Layers)+1 {
		t.Errorf("layers %+v", claude.Layers)
	}
	for _, n := range layerNames(t, w, top) {
		if !strings.HasPrefix(n, "opt/berth/agent/claude/") {
			t.Errorf("the agent's layer holds %s", n)
		}
	}
	again, err := b.Ensure(t.Context(), "claude", nil)
	if err != nil || again.Digest != claude.Digest {
		t.Errorf("again: %v, %v", again.Digest, err)
	}
	w.ran()
	shell, err := b.Ensure(t.Context(), "shell", nil)
	if err != nil || shell.Digest != base.Digest {
		t.Errorf("shell is %s, not the base: %v", shell.Digest, err)
	}
	if w.runner.running != 0 {
		t.Error("a builder is left")
	}
}

// layerNames lists the entries of a layer in the store.
func layerNames(t *testing.T, w *world, l image.Layer) []string {
	t.Helper()
	f, err := os.Open(filepath.Join(w.dir, "images/blobs/sha256", strings.TrimPrefix(l.Digest, "sha256:")))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := zstd.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	var names []string
	for tr := tar.NewReader(z); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
	}
}

func TestListInspectRemove(t *testing.T) {
	w := newWorld(t)
	b := w.builder()
	if _, err := b.Build(t.Context(), "claude", w.start(b), nil); err != nil {
		t.Fatal(err)
	}
	all, err := b.List()
	if err != nil || len(all) != 2 || all[0].Name != Base || all[1].Name != "claude" {
		t.Fatalf("%+v, %v", all, err)
	}
	base, claude := all[0], all[1]
	if base.System != "Example 13?[31m" || base.Packages != 42 || base.Node != "20.1.2" || len(base.Steps) != 6 {
		t.Errorf("base: %+v", base)
	}
	if claude.Version != "1.2.3" || claude.Own == 0 || claude.Own >= claude.Size || len(claude.Steps) != 1 {
		t.Errorf("claude: %+v", claude)
	}
	if in, err := b.Inspect("shell"); err != nil || in.Name != Base {
		t.Errorf("shell: %+v, %v", in, err)
	}
	if err := b.Remove(t.Context(), "claude"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Inspect("claude"); !errors.Is(err, sandbox.ErrNotFound) {
		t.Errorf("after removal: %v", err)
	}
	if err := b.Remove(t.Context(), "claude"); !errors.Is(err, sandbox.ErrNotFound) {
		t.Errorf("removed twice: %v", err)
	}
}

func TestResume(t *testing.T) {
	w := newWorld(t)
	b := w.builder()
	o := w.start(b)
	w.runner.fail = func(_ context.Context, m string, out io.Writer) (int, error) {
		if m == "npm" {
			for i := range 40 {
				fmt.Fprintf(out, "line %d\x1b[2J\n", i)
			}
			io.WriteString(out, "no such host") // no end of line
			return 7, nil
		}
		return 0, nil
	}
	_, err := b.Build(t.Context(), Base, o, nil)
	w.ran("packages", "npm")
	if sandbox.ClassOf(err) != sandbox.ErrUnavailable || sandbox.HintOf(err) == "" {
		t.Fatalf("error %v, hint %q", err, sandbox.HintOf(err))
	}
	for _, part := range []string{"npm: ", "status 7", "line 39?[2J", "no such host"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error lacks %q: %v", part, err)
		}
	}
	if strings.Contains(err.Error(), "line 20") || strings.Contains(err.Error(), "\x1b") {
		t.Errorf("the error has too much: %q", err)
	}
	if w.runner.running != 0 {
		t.Error("the builder still runs")
	}
	w.runner.fail = nil
	if _, err := w.builder().Build(t.Context(), Base, o, nil); err != nil { // another process
		t.Fatal(err)
	}
	w.ran("npm", "user", "clean")
	if len(w.runner.saved) != 0 {
		t.Error("the builder is still there")
	}
}

func TestChangedRecipeStartsOver(t *testing.T) {
	w := newWorld(t)
	b := w.builder()
	o := w.start(b)
	failAt := func(step string) {
		w.runner.fail = func(_ context.Context, m string, _ io.Writer) (int, error) {
			if m == step {
				return 1, nil
			}
			return 0, nil
		}
	}
	failAt("user")
	if _, err := b.Build(t.Context(), Base, o, nil); err == nil {
		t.Fatal("it worked")
	}
	w.ran("packages", "npm", "user")
	// A step that was not done yet may change.
	if err := os.MkdirAll(filepath.Join(b.root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.root, "etc/pip.conf"), []byte("[global]\nindex-url = https://pypi.example.org/simple/\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Build(t.Context(), Base, o, nil); err == nil {
		t.Fatal("it worked")
	}
	w.ran("user")
	// One that was done cannot be undone: all begins anew.
	b.registry = func(context.Context) string { return "https://other.example.org" }
	w.runner.fail = nil
	if _, err := b.Build(t.Context(), Base, o, nil); err != nil {
		t.Fatal(err)
	}
	w.ran(allSteps...)
}

func TestCancel(t *testing.T) {
	w := newWorld(t)
	b := w.builder()
	o := w.start(b)
	ctx, cancel := context.WithCancel(t.Context())
	w.runner.fail = func(ctx context.Context, m string, _ io.Writer) (int, error) {
		if m == "npm" {
			cancel()
			<-ctx.Done()
			return 0, ctx.Err()
		}
		return 0, nil
	}
	if _, err := b.Build(ctx, Base, o, nil); !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v", err)
	}
	if w.runner.running != 0 {
		t.Error("the builder still runs")
	}
	w.ran("packages", "npm")
	w.runner.fail = nil
	if _, err := b.Build(t.Context(), Base, o, nil); err != nil {
		t.Fatal(err)
	}
	w.ran("npm", "user", "clean")
}

func TestTwoProcesses(t *testing.T) {
	w := newWorld(t)
	first := w.builder()
	if _, err := first.Build(t.Context(), Base, w.start(first), nil); err != nil {
		t.Fatal(err)
	}
	w.runner.take()
	inside, release := make(chan bool), make(chan bool)
	w.runner.fail = func(context.Context, string, io.Writer) (int, error) {
		inside <- true
		<-release
		return 0, nil
	}
	var digests [2]string
	var errs [2]error
	var group sync.WaitGroup
	build := func(i int, b *Builder, p Progress) {
		group.Go(func() {
			var img image.Image
			img, errs[i] = b.Ensure(t.Context(), "claude", p)
			digests[i] = img.Digest
		})
	}
	build(0, first, nil)
	<-inside
	waits := make(chan bool)
	var once sync.Once
	build(1, w.builder(), func(e Event) {
		if e.Step == "wait for another build" {
			once.Do(func() { close(waits) })
		}
	})
	<-waits
	close(release)
	group.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		t.Fatal(err)
	}
	if digests[0] != digests[1] || w.runner.most != 1 {
		t.Errorf("images %v, %d builders at once", digests, w.runner.most)
	}
	w.ran("agent")
}

func TestNewBaseGoesBelowAgents(t *testing.T) {
	w := newWorld(t)
	b := w.builder()
	o := w.start(b)
	before, err := b.Build(t.Context(), "claude", o, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.runner.take()
	b.registry = func(context.Context) string { return "https://other.example.org" }
	w.runner.fail = func(_ context.Context, m string, _ io.Writer) (int, error) { return 0, nil }
	base, err := b.Build(t.Context(), Base, o, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.ran(allSteps...)
	after, err := b.Ensure(t.Context(), "claude", nil)
	if err != nil {
		t.Fatal(err)
	}
	w.ran()
	if after.Digest == before.Digest || after.Layers[1].Digest != base.Layers[1].Digest || after.Layers[2].Digest != before.Layers[2].Digest {
		t.Errorf("before %+v, after %+v", before.Layers, after.Layers)
	}
	if in, err := b.Inspect("claude"); err != nil || in.Version != "1.2.3" {
		t.Errorf("%+v, %v", in, err)
	}
}

func TestWithAgent(t *testing.T) {
	w := newWorld(t)
	b := w.builder()
	if _, err := b.Build(t.Context(), Base, w.start(b), nil); err != nil {
		t.Fatal(err)
	}
	w.runner.take()
	mounts := func(agent string) []string {
		t.Helper()
		img, err := b.WithAgent(t.Context(), "example/debian", agent, nil)
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, l := range img.Layers {
			all = append(all, l.Mount)
		}
		return all
	}
	if got := mounts("claude"); !slices.Equal(got, []string{"", "/opt/berth/agent/claude"}) {
		t.Errorf("claude: %v", got)
	}
	w.ran("agent")
	if got := mounts("gemini"); !slices.Equal(got, []string{"", "/opt/berth/agent/gemini", "/opt/berth/agent/node"}) {
		t.Errorf("gemini: %v", got)
	}
	w.ran("agent", "node")
	if got := mounts("shell"); !slices.Equal(got, []string{""}) {
		t.Errorf("shell: %v", got)
	}
	// An image of ours has a Node.js that will do.
	img, err := b.WithAgent(t.Context(), Ref(Base), "gemini", nil)
	if err != nil || len(img.Layers) != 3 {
		t.Errorf("gemini on the base: %d layers, %v", len(img.Layers), err)
	}
	w.ran()
	if _, err := b.WithAgent(t.Context(), "example/none", "claude", nil); !errors.Is(err, sandbox.ErrNotFound) {
		t.Errorf("no image: %v", err)
	}
}

func TestErrors(t *testing.T) {
	w := newWorld(t)
	b := w.builder()
	if _, err := b.Build(t.Context(), "clade", Options{}, nil); !errors.Is(err, sandbox.ErrNotFound) || !strings.Contains(sandbox.HintOf(err), "claude") {
		t.Errorf("unknown: %v", err)
	}
	// This host's root folder is empty: it has no apt.
	_, err := b.Ensure(t.Context(), "claude", nil)
	if !errors.Is(err, sandbox.ErrUnavailable) || !strings.Contains(sandbox.HintOf(err), "--from") {
		t.Errorf("no apt: %v, hint %q", err, sandbox.HintOf(err))
	}
	if _, err := b.Build(t.Context(), Base, Options{From: "example/none"}, nil); !errors.Is(err, sandbox.ErrNotFound) {
		t.Errorf("from nowhere: %v", err)
	}
}

package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"berth.dev/internal/sandbox"
)

const claudeDir = "/opt/berth/agent/claude"

// TestAgentLayers is what templates are: a base, and an agent's layer on it that
// is a file system of its own.
func TestAgentLayers(t *testing.T) {
	s := openStore(t)
	base := commit(t, s, "base", nil,
		addLayer(t, s, LayerOptions{CreatedBy: "bootstrap"}, fileEnt("etc/os-release", "debian")),
		addLayer(t, s, LayerOptions{CreatedBy: "packages"}, fileEnt("usr/bin/git", "git")))
	mkAgent := func(name string) Image {
		in := "opt/berth/agent/" + name
		l := addLayer(t, s, LayerOptions{Mount: "/" + in, CreatedBy: name},
			dirEnt("./"), dirEnt("./opt"), xattrEnt(dirEnt("opt/berth"), "trusted.overlay.opaque", "y"), dirEnt(in), fileEnt(in+"/bin/"+name, name),
			symEnt(in+"/lib", in+"/share"), symEnt(in+"/abs", "/"+in+"/real"), dirEnt(in+"/real"), fileEnt(in+"/abs/through", "x"))
		return commit(t, s, name, &base, l)
	}
	claude, codex := mkAgent("claude"), mkAgent("codex")
	rb, rc, rx := rootOf(t, s, base), rootOf(t, s, claude), rootOf(t, s, codex)
	if rb.Root != rc.Root || rb.Root != rx.Root || len(rb.Mounts) != 0 {
		t.Errorf("the base is not shared: %v %v %v", rb, rc, rx)
	}
	if len(rc.Mounts) != 1 || rc.Mounts[0].Dir != claudeDir || rc.Mounts[0].File == rx.Mounts[0].File {
		t.Fatalf("mounts %+v", rc.Mounts)
	}
	want(t, list(t, rc.Root), "/etc/os-release file 644 0:0 debian", "/usr/bin/git file 644 0:0 git")
	want(t, list(t, rc.Mounts[0].File), "/bin/claude file 644 0:0 claude", "/lib -> opt/berth/agent/claude/share",
		"/abs -> /opt/berth/agent/claude/real", "/real/through file 644 0:0 x")
	if n := countFiles(t, filepath.Join(s.dir, "erofs"), ".erofs"); n != 3 {
		t.Errorf("%d EROFS files, want 3", n)
	}
	// An import keeps the mount.
	p := &pack{t: t}
	plain := tarOf(t, fileEnt("opt/berth/agent/claude/x", "y"))
	p.index(named(p.ociImage(blobOf{blob: plain, plain: plain, mount: claudeDir}), "only-agent"))
	r := rootOf(t, s, importOK(t, s, p.save(nil)))
	want(t, list(t, r.Mounts[0].File), "/x file 644 0:0 y")
	want(t, list(t, r.Root))
}

func countFiles(t testing.TB, dir, suffix string) int {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, f := range files {
		if strings.HasSuffix(f.Name(), suffix) {
			n++
		}
	}
	return n
}

func TestLookup(t *testing.T) {
	s := openStore(t)
	img := commit(t, s, "base", nil, addLayer(t, s, LayerOptions{}, fileEnt("f", "1")))
	commit(t, s, "docker.io/library/x:tag", nil, addLayer(t, s, LayerOptions{}, fileEnt("f", "2")))
	hex := strings.TrimPrefix(img.Digest, digestPrefix)
	for _, ref := range []string{"base", img.Digest, hex, hex[:4], digestPrefix + hex[:12]} {
		if got, err := s.Lookup(ref); err != nil || got.Digest != img.Digest || !slices.Equal(got.Refs, []string{"base"}) {
			t.Errorf("%s: %v, %v", ref, got, err)
		}
	}
	for _, ref := range []string{"x:tag", "library/x:tag", "docker.io/x:tag"} {
		if got, err := s.Lookup(ref); err != nil || got.Digest == img.Digest {
			t.Errorf("%s: %v, %v", ref, got, err)
		}
	}
	for _, ref := range []string{"", "x", "bas", hex[:3], "sha256:" + strings.Repeat("0", 64), "../../etc/passwd", "sha256:../x", img.Layers[0].Digest[:20]} {
		if _, err := s.Lookup(ref); !errors.Is(err, sandbox.ErrNotFound) || sandbox.HintOf(err) == "" {
			t.Errorf("%q: %v", ref, err)
		}
	}
	all, err := s.List()
	if err != nil || len(all) != 2 || all[0].Refs[0] != "base" {
		t.Errorf("list: %v, %v", all, err)
	}
	if err := s.Untag("x:tag"); err != nil {
		t.Error(err)
	}
	if err := s.Untag("x:tag"); !errors.Is(err, sandbox.ErrNotFound) {
		t.Errorf("untag twice: %v", err)
	}
	if _, err := s.Commit(t.Context(), "bad name", nil, nil, Config{}); !errors.Is(err, sandbox.ErrInvalid) {
		t.Errorf("commit under a bad name: %v", err)
	}
}

func TestAmbiguousDigest(t *testing.T) {
	s := openStore(t)
	zeros := strings.Repeat("0", 60)
	refs := map[string]string{"a": "sha256:abcd" + zeros, "b": "sha256:abce" + zeros, "b2": "sha256:abce" + zeros, "c": "sha256:abc0" + zeros, "d": "sha256:ffff" + zeros}
	if d, err := s.findDigest("abce", refs); err != nil || d != refs["b"] {
		t.Errorf("got %s, %v", d, err)
	}
	refs["e"] = "sha256:ffff1" + zeros[1:]
	if _, err := s.findDigest("sha256:ffff", refs); !errors.Is(err, sandbox.ErrInvalid) || !strings.Contains(err.Error(), "2 images") {
		t.Errorf("two images, one prefix: %v", err)
	}
}

func TestCommitKeepsConfig(t *testing.T) {
	s := openStore(t)
	cfg := Config{Env: []string{"A=b"}, User: "agent", WorkingDir: "/w", Entrypoint: []string{"e"}, Cmd: []string{"c"}, Labels: map[string]string{"berth": "1"}}
	if _, err := s.Commit(t.Context(), "c", nil, nil, cfg); err != nil {
		t.Fatal(err)
	}
	img, err := s.Lookup("c")
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(img.Config) != fmt.Sprint(cfg) || img.Created.IsZero() || img.Size == 0 {
		t.Errorf("got %+v", img)
	}
	ghost := Layer{Digest: digestOf([]byte("x")), DiffID: digestOf([]byte("y"))}
	if _, err := s.Commit(t.Context(), "g", nil, []Layer{ghost}, cfg); !errors.Is(err, sandbox.ErrNotFound) {
		t.Errorf("a layer that is not there: %v", err)
	}
}

func TestGC(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "images")
	builder, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	base := commit(t, builder, "base", nil, addLayer(t, builder, LayerOptions{}, fileEnt("f", randomText(100_000))))
	agent := commit(t, builder, "claude", &base, addLayer(t, builder, LayerOptions{Mount: claudeDir}, fileEnt("opt/berth/agent/claude/x", "c")))
	loose := addLayer(t, builder, LayerOptions{}, fileEnt("loose", "l"))
	nameless, err := builder.Commit(t.Context(), "", &base, []Layer{loose}, Config{})
	if err != nil {
		t.Fatal(err)
	}
	rootOf(t, builder, agent)
	other := openAt(t, dir)
	gc := func(s *Store, inUse ...string) int64 {
		t.Helper()
		freed, err := s.GC(t.Context(), inUse)
		if err != nil {
			t.Fatal(err)
		}
		return freed
	}
	full := snapshot(t, dir)
	if n := gc(other); n != 0 || snapshot(t, dir) != full {
		t.Errorf("GC took %d bytes of what is named or pinned", n)
	}
	if err := builder.Close(); err != nil {
		t.Fatal(err)
	}
	// Without the builder's pins the nameless image goes, unless it is in use.
	gc(other, nameless.Digest, digestOf([]byte("unknown")))
	if _, err := other.Lookup(nameless.Digest); err != nil {
		t.Errorf("an image in use is gone: %v", err)
	}
	if n := gc(other); n == 0 {
		t.Error("the nameless image stays")
	}
	if _, err := other.Lookup(nameless.Digest); !errors.Is(err, sandbox.ErrNotFound) {
		t.Errorf("nameless image: %v", err)
	}
	// The agent goes, the base that it shares stays, and its root file with it.
	if err := other.Untag("claude"); err != nil {
		t.Fatal(err)
	}
	gc(other)
	if n := countFiles(t, filepath.Join(dir, "erofs"), ""); n != 2 {
		t.Errorf("%d files in erofs, want the base's two", n)
	}
	want(t, list(t, rootOf(t, other, base).Root), "/f file 644 0:0 100000 bytes "+short(digestOf([]byte(randomText(100_000)))))
	if err := other.Untag("base"); err != nil {
		t.Fatal(err)
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	last := openAt(t, dir)
	if n := gc(last); n < 200_000 { // the layer, and its EROFS file
		t.Errorf("freed %d bytes", n)
	}
	assertEmpty(t, dir)
}

func assertEmpty(t testing.TB, dir string) {
	t.Helper()
	for _, d := range []string{"blobs/sha256", "index", "erofs"} {
		if n := countFiles(t, filepath.Join(dir, d), ""); n != 0 {
			t.Errorf("%d files in %s", n, d)
		}
	}
}

// TestGCOfDamage: when it cannot be known what is needed, nothing is deleted.
func TestGCOfDamage(t *testing.T) {
	s := openStore(t)
	img := commit(t, s, "base", nil, addLayer(t, s, LayerOptions{}, fileEnt("f", "x")))
	hex := strings.TrimPrefix(img.Digest, digestPrefix)
	if err := os.WriteFile(s.blobPath(hex), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	before := snapshot(t, s.dir)
	if _, err := s.GC(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "damaged") || !strings.Contains(sandbox.HintOf(err), "base") {
		t.Errorf("got %v", err)
	}
	if snapshot(t, s.dir) != before {
		t.Error("something was deleted")
	}
}

func TestLostAndDamagedFiles(t *testing.T) {
	s := openStore(t)
	data := randomText(50_000)
	img := commit(t, s, "base", nil, addLayer(t, s, LayerOptions{}, fileEnt("f", data)))
	index := s.indexPath(strings.TrimPrefix(img.Layers[0].DiffID, digestPrefix))
	for _, damage := range []func() error{
		func() error { return os.Remove(index) },
		func() error { return os.WriteFile(index, []byte("rubbish"), 0o600) },
	} {
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		r := rootOf(t, s, img)
		want(t, list(t, r.Root), "/f file 644 0:0 50000 bytes "+short(digestOf([]byte(data))))
		if err := os.Remove(r.Root); err != nil {
			t.Fatal(err)
		}
		if _, err := readIndex(index); err != nil {
			t.Errorf("the index was not made again: %v", err)
		}
	}
	blob := s.blobPath(strings.TrimPrefix(img.Layers[0].Digest, digestPrefix))
	b, err := os.ReadFile(blob)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(blob, flip(b, len(b)/2), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Root(t.Context(), img, nil); err == nil {
		t.Error("a damaged blob became a root")
	}
	if n := countFiles(t, filepath.Join(s.dir, "erofs"), ".erofs"); n != 0 {
		t.Errorf("%d EROFS files of a damaged blob", n)
	}
}

func TestVersion(t *testing.T) {
	s := openStore(t)
	if err := os.WriteFile(filepath.Join(s.dir, "version"), []byte("2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(s.dir); !errors.Is(err, sandbox.ErrPrecondition) || sandbox.HintOf(err) == "" {
		t.Errorf("a newer store: %v", err)
	}
}

func TestModes(t *testing.T) {
	s := openStore(t)
	rootOf(t, s, commit(t, s, "x", nil, addLayer(t, s, LayerOptions{}, fileEnt("f", "x"))))
	err := filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestSameInputSameFile(t *testing.T) {
	sum := func() string {
		s := openStore(t)
		l := addLayer(t, s, LayerOptions{}, fileEnt("a", "1"), dirEnt("d"), fileEnt("d/b", "2"), linkEnt("c", "a"))
		b, err := os.ReadFile(rootOf(t, s, commit(t, s, "x", nil, l)).Root)
		if err != nil {
			t.Fatal(err)
		}
		return digestOf(b)
	}
	if one, two := sum(), sum(); one != two {
		t.Error("two builds differ")
	}
}

func TestCancel(t *testing.T) {
	s := openStore(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	before := snapshot(t, s.dir)
	if _, err := s.AddLayer(ctx, bytes.NewReader(tarOf(t, fileEnt("f", "x"))), LayerOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("AddLayer: %v", err)
	}
	if _, err := s.Import(ctx, ociFile(t, plainBlob(tarOf(t))), ImportOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Import: %v", err)
	}
	if after := snapshot(t, s.dir); after != before {
		t.Errorf("left behind:\n%s", after)
	}
}

func TestConcurrentUse(t *testing.T) {
	s := openStore(t)
	file := ociFile(t, plainBlob(tarOf(t, fileEnt("f", randomText(200_000)))))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			if i%2 == 0 {
				if _, err := s.GC(t.Context(), nil); err != nil {
					t.Error(err)
				}
			}
			imgs, err := s.Import(t.Context(), file, ImportOptions{Ref: fmt.Sprintf("i%d", i)})
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := s.Root(t.Context(), imgs[0], nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if imgs, err := s.List(); err != nil || len(imgs) != 1 || len(imgs[0].Refs) != 8 {
		t.Errorf("%v, %v", imgs, err)
	}
}

package image

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	reader "gvisor.dev/gvisor/pkg/erofs"

	"berth.dev/internal/image/erofs"
	"berth.dev/internal/sandbox"
)

// FuzzLayer reads a layer, merges it onto an honest one, writes the EROFS file
// and reads that with gVisor's reader. What is accepted must come through all of
// that, and what is refused must say so as a LayerError.
func FuzzLayer(f *testing.F) {
	for _, a := range attacks(f) {
		f.Add(a.layer)
	}
	f.Add(tarOf(f, dirEnt("./"), whiteoutDev("a"), linkEnt("b", "a"), symEnt("bin", "usr/bin"), fileEnt("bin/x", "1"), fileEnt(".wh.c", "")))
	f.Add(tarOf(f, xattrEnt(dirEnt("a"), "user.overlay.opaque", "y"), linkEnt("d", "c"), fileEnt("usr/.wh..wh..opq", "")))
	base := tarOf(f, fileEnt("a", "1"), fileEnt("c", "2"), fileEnt("usr/bin/y", "3"), symEnt("lib", "/usr/lib"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		l := small
		l.LayerSize, l.RatioFloor = 1<<20, 1<<16
		tr, err := newTree(&l, "")
		if err != nil {
			t.Fatal(err)
		}
		for i, layer := range [][]byte{base, data} {
			got, err := scanLayer(t.Context(), bytes.NewReader(layer), "fuzzed", &l, nil)
			if err == nil {
				err = tr.apply(Layer{Digest: "sha256:x"}, got.entries)
			}
			if err != nil {
				var le *LayerError
				if i == 0 || !errors.As(err, &le) || !errors.Is(err, sandbox.ErrInvalid) {
					t.Fatalf("layer %d: %v", i, err)
				}
				return
			}
		}
		writeAndRead(t, dir, tr, base, data)
	})
}

func writeAndRead(t *testing.T, dir string, tr *tree, layers ...[]byte) {
	file, err := os.CreateTemp(dir, "erofs")
	if err != nil {
		t.Fatal(err)
	}
	defer discard(file)
	w := erofs.NewWriter(file)
	c := contents{ctx: context.Background(), w: w}
	c.find(tr.top())
	for i, data := range layers {
		if err := c.copyFrom(bytes.NewReader(data), c.wanted[int32(i)]); err != nil {
			t.Fatalf("content of an accepted layer: %v", err)
		}
	}
	if err := w.Finish(erofsTree(tr.top(), map[*node]*erofs.Inode{})); err != nil {
		t.Fatalf("an accepted layer cannot be written: %v", err)
	}
	again, err := os.Open(file.Name())
	if err != nil {
		t.Fatal(err)
	}
	img, err := reader.OpenImage(again)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	if err := walkImage(img, img.RootNid(), "", map[string]string{}, map[uint64]string{}); err != nil {
		t.Fatal(err)
	}
}

// FuzzArchive imports an archive into a store, which must end with all of it or
// nothing.
func FuzzArchive(f *testing.F) {
	layer := plainBlob(tarOf(f, fileEnt("f", "x")))
	for _, file := range []string{ociFile(f, layer), dockerFile(f, "x:1", layer), ociFile(f, blobOf{blob: gzipped(f, layer.plain), plain: layer.plain, mount: claudeDir})} {
		b, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	s, err := Open(filepath.Join(f.TempDir(), "images"), WithLimits(small))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = s.Close() })
	f.Fuzz(func(t *testing.T, data []byte) {
		st, err := s.stage()
		if err != nil {
			t.Fatal(err)
		}
		digests, err := st.importArchive(t.Context(), bytes.NewReader(data), int64(len(data)), ImportOptions{Ref: "fuzzed"})
		st.abort()
		if err != nil {
			if left := leftovers(t, s.dir); left != "" {
				t.Fatalf("%v left %s", err, left)
			}
			return
		}
		img, err := s.Lookup("fuzzed")
		if err != nil || img.Digest != digests[0] {
			t.Fatal(img, err)
		}
		if err := s.Untag("fuzzed"); err != nil {
			t.Fatal(err)
		}
		if _, err := s.GC(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if left := leftovers(t, s.dir); left != "" {
			t.Fatalf("GC left %s", left)
		}
	})
}

// leftovers lists what is in a store that should be empty.
func leftovers(t *testing.T, dir string) string {
	var out []string
	for _, d := range []string{"blobs", "index", "erofs", "work"} {
		err := filepath.WalkDir(filepath.Join(dir, d), func(path string, e fs.DirEntry, err error) error {
			if err == nil && !e.IsDir() && e.Name() != sessionLock {
				out = append(out, path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return strings.Join(out, " ")
}

func FuzzRef(f *testing.F) {
	for _, s := range []string{"base", "x:1", "registry.example/a/b:tag", "localhost:5000/x", "a/b/c", "../x", "a b", "x@sha256:00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, ref string) {
		if checkRef(ref) != nil {
			return
		}
		n := normalize(ref)
		if err := checkRef(n); err != nil && len(n) <= maxRefLength {
			t.Errorf("%q is a name, but completed to %q it is not: %v", ref, n, err)
		}
		if normalize(n) != n {
			t.Errorf("%q becomes %q, and that %q", ref, n, normalize(n))
		}
	})
}

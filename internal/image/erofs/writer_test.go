package erofs_test

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	reader "github.com/erofs/go-erofs"
	"gvisor.dev/gvisor/pkg/erofs"

	. "berth.dev/internal/image/erofs"
)

// file makes a regular file whose content the writer stores now.
func file(t testing.TB, w *Writer, content []byte) *Inode {
	t.Helper()
	block, err := w.Data(bytes.NewReader(content), int64(len(content)))
	if err != nil {
		t.Fatal(err)
	}
	return &Inode{Mode: TypeRegular | 0o644, Size: int64(len(content)), Block: block}
}

func dir(children ...Dirent) *Inode { return &Inode{Mode: TypeDir | 0o755, Children: children} }

// image writes one image and opens it with gVisor's reader.
func image(t testing.TB, build func(w *Writer) *Inode) (*erofs.Image, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image.erofs")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := NewWriter(f)
	if err := w.Finish(build(w)); err != nil {
		t.Fatal(err)
	}
	img, err := erofs.OpenImage(must(t, path))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(img.Close)
	return img, path
}

func must(t testing.TB, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// compare holds what gVisor reads against the tree that was written.
func compare(t testing.TB, img *erofs.Image, nid uint64, path string, want *Inode, contents map[*Inode][]byte, nids map[*Inode]uint64) {
	t.Helper()
	got, err := img.Inode(nid)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	if old, ok := nids[want]; ok && old != nid {
		t.Errorf("%s: hard links have inode numbers %d and %d", path, old, nid)
	}
	nids[want] = nid
	if got.Mode() != want.Mode || got.UID() != want.UID || got.GID() != want.GID ||
		int64(got.Mtime()) != want.Mtime || got.MtimeNsec() != want.MtimeNsec {
		t.Errorf("%s: got mode %o owner %d:%d time %d.%d, want %+v", path, got.Mode(), got.UID(), got.GID(), int64(got.Mtime()), got.MtimeNsec(), want)
	}
	switch want.Mode & TypeMask {
	case TypeRegular:
		compareContent(t, img, got, path, contents[want])
	case TypeSymlink:
		if s, err := got.Readlink(); err != nil || s != want.Target {
			t.Errorf("%s: link to %q, %v; want %q", path, s, err, want.Target)
		}
	case TypeDir:
		compareDir(t, img, got, path, want, contents, nids)
	}
}

func compareContent(t testing.TB, img *erofs.Image, got erofs.Inode, path string, want []byte) {
	t.Helper()
	// DataOffset is what gVisor's mmap needs; inline data has none.
	off, err := got.DataOffset()
	if err != nil || off%BlockSize != 0 {
		t.Fatalf("%s: data at %d, %v: cannot be mapped", path, off, err)
	}
	if got.Size() == 0 && len(want) == 0 {
		return
	}
	pages := (got.Size() + BlockSize - 1) / BlockSize * BlockSize
	b, err := img.BytesAt(off, pages)
	if err != nil || !bytes.Equal(b[:got.Size()], want) {
		t.Fatalf("%s: content differs (%v)", path, err)
	}
	if bytes.Trim(b[got.Size():], "\x00") != nil && len(bytes.Trim(b[got.Size():], "\x00")) > 0 {
		t.Errorf("%s: the last page holds something behind the file's end", path)
	}
}

func compareDir(t testing.TB, img *erofs.Image, got erofs.Inode, path string, want *Inode, contents map[*Inode][]byte, nids map[*Inode]uint64) {
	t.Helper()
	left := map[string]*Inode{}
	subdirs := 0
	for _, c := range want.Children {
		left[c.Name] = c.Inode
		if c.Inode.Mode&TypeMask == TypeDir {
			subdirs++
		}
	}
	if int(got.Nlink()) != subdirs+2 {
		t.Errorf("%s: %d links, want %d", path, got.Nlink(), subdirs+2)
	}
	dots := 0
	err := got.IterDirents(func(name string, _ uint8, nid uint64) error {
		if found, err := got.Lookup(name); err != nil || found != nid {
			t.Errorf("%s: lookup of %q gives %d, %v; want %d", path, name, found, err, nid)
		}
		if name == "." || name == ".." {
			dots++
			return nil
		}
		c := left[name]
		if c == nil {
			return fmt.Errorf("unexpected name %q", name)
		}
		delete(left, name)
		compare(t, img, nid, path+"/"+name, c, contents, nids)
		return nil
	})
	if err != nil || dots != 2 || len(left) != 0 {
		t.Errorf("%s: %v; %d dots, %d names missing", path, err, dots, len(left))
	}
	if _, err := got.Lookup("no such name"); err == nil {
		t.Errorf("%s: found a name that is not there", path)
	}
}

func TestRoundTrip(t *testing.T) {
	contents := map[*Inode][]byte{}
	var root, hard *Inode
	img, _ := image(t, func(w *Writer) *Inode {
		add := func(n int) *Inode {
			b := bytes.Repeat([]byte{'x'}, n)
			i := file(t, w, b)
			contents[i] = b
			return i
		}
		hard = add(10)
		hard.Mode, hard.UID, hard.GID = TypeRegular|0o6755, 70000, 1<<31
		hard.Mtime, hard.MtimeNsec = -5, 999999999
		link := func(target string) *Inode { return &Inode{Mode: TypeSymlink | 0o777, Target: target} }
		root = dir(
			Dirent{"empty", add(0)}, Dirent{"one", add(1)}, Dirent{"block", add(BlockSize)},
			Dirent{"block+1", add(BlockSize + 1)}, Dirent{"big", add(3<<20 + 7)},
			Dirent{"hard", hard}, Dirent{"-hard2", hard}, Dirent{"+first", add(2)},
			Dirent{"none", dir()}, Dirent{strings.Repeat("n", 255), add(3)},
			Dirent{"link", link("../one")}, Dirent{"abs", link("/etc/passwd")},
			Dirent{"long", link(strings.Repeat("a", 4095))}, Dirent{"edge", link(strings.Repeat("b", BlockSize-64))},
			Dirent{"edge+1", link(strings.Repeat("b", BlockSize-63))},
			Dirent{"null", &Inode{Mode: TypeChar | 0o666, Rdev: Rdev(1, 3)}},
			Dirent{"sda", &Inode{Mode: TypeBlock | 0o660, Rdev: Rdev(4095, 1<<20-1)}},
			Dirent{"fifo", &Inode{Mode: TypeFifo | 0o600}},
			Dirent{"sub", dir(Dirent{"hard3", hard})},
		)
		root.Mode = TypeDir | 0o1777
		return root
	})
	nids := map[*Inode]uint64{}
	compare(t, img, img.RootNid(), "", root, contents, nids)
	if n, _ := img.Inode(nids[hard]); n.Nlink() != 3 {
		t.Errorf("a file with 3 names has %d links", n.Nlink())
	}
}

// TestDirectorySizes walks through directories around every border: those of
// inline tails, of one block, and of several.
func TestDirectorySizes(t *testing.T) {
	var root *Inode
	contents := map[*Inode][]byte{}
	img, _ := image(t, func(w *Writer) *Inode {
		root = dir()
		for _, n := range []int{0, 1, 14, 15, 16, 100, 1000} {
			for _, length := range []int{9, 120, 250} {
				d := dir()
				for i := range n {
					name := fmt.Sprintf("%04d", i) + strings.Repeat("z", length-4)
					d.Children = append(d.Children, Dirent{name, &Inode{Mode: TypeFifo | 0o600}})
				}
				root.Children = append(root.Children, Dirent{fmt.Sprintf("%d-%d", n, length), d})
			}
		}
		// Tails of every size around the largest that fits behind an inode.
		for pad := 1; pad < 200; pad++ {
			d := dir()
			for i := range 14 {
				d.Children = append(d.Children, Dirent{fmt.Sprintf("%03d", i) + strings.Repeat("y", 247), &Inode{Mode: TypeFifo}})
			}
			d.Children = append(d.Children, Dirent{strings.Repeat("p", pad), &Inode{Mode: TypeFifo}})
			root.Children = append(root.Children, Dirent{fmt.Sprintf("pad%d", pad), d})
		}
		return root
	})
	compare(t, img, img.RootNid(), "", root, contents, map[*Inode]uint64{})
}

// TestRandomTrees compares trees of random shape, and reads them with a second
// independent reader too.
func TestRandomTrees(t *testing.T) {
	for seed := range uint64(8) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		contents := map[*Inode][]byte{}
		var root *Inode
		img, path := image(t, func(w *Writer) *Inode {
			var grow func(depth int) *Inode
			grow = func(depth int) *Inode {
				d := dir()
				for i := range rnd.IntN(30) {
					name := fmt.Sprintf("%c%d%s", rune('!'+rnd.IntN(14)), i, strings.Repeat("n", rnd.IntN(200)))
					name = strings.ReplaceAll(name, "/", "_")
					if depth < 4 && rnd.IntN(4) == 0 {
						d.Children = append(d.Children, Dirent{name, grow(depth + 1)})
						continue
					}
					b := make([]byte, rnd.IntN(20000))
					for i := range b {
						b[i] = byte(rnd.Uint32())
					}
					n := file(t, w, b)
					n.Mtime, n.MtimeNsec = rnd.Int64N(1<<33), uint32(rnd.IntN(1e9))
					contents[n] = b
					d.Children = append(d.Children, Dirent{name, n})
				}
				return d
			}
			root = grow(0)
			return root
		})
		compare(t, img, img.RootNid(), "", root, contents, map[*Inode]uint64{})
		secondReader(t, path, len(contents))
	}
}

func secondReader(t *testing.T, path string, files int) {
	f := must(t, path)
	defer f.Close()
	img, err := reader.Open(f)
	if err != nil {
		t.Fatal(err)
	}
	err = fs.WalkDir(img, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		files--
		_, err = fs.ReadFile(img, path)
		return err
	})
	if err != nil || files != 0 {
		t.Fatalf("second reader: %v, %d files not seen", err, files)
	}
}

func TestSparseContentCostsNoDisk(t *testing.T) {
	_, path := image(t, func(w *Writer) *Inode {
		const size = 64 << 20
		block, err := w.Data(io.LimitReader(zeros{}, size), size)
		if err != nil {
			t.Fatal(err)
		}
		return dir(Dirent{"zeros", &Inode{Mode: TypeRegular, Size: size, Block: block}})
	})
	if n := allocated(t, path); n > 8<<20 {
		t.Errorf("64 MiB of zeros occupy %d bytes", n)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestRefusals(t *testing.T) {
	reg := &Inode{Mode: TypeRegular}
	twice := dir()
	for name, root := range map[string]*Inode{
		"no directory": reg,
		"slash":        dir(Dirent{"a/b", reg}),
		"dots":         dir(Dirent{"..", reg}),
		"empty name":   dir(Dirent{"", reg}),
		"long name":    dir(Dirent{strings.Repeat("x", 256), reg}),
		"same name":    dir(Dirent{"a", reg}, Dirent{"a", reg}),
		"linked dir":   dir(Dirent{"a", twice}, Dirent{"b", twice}),
		"no target":    dir(Dirent{"a", &Inode{Mode: TypeSymlink}}),
		"long target":  dir(Dirent{"a", &Inode{Mode: TypeSymlink, Target: strings.Repeat("x", 4096)}}),
		"unknown type": dir(Dirent{"a", &Inode{Mode: 0o140000}}),
	} {
		t.Run(name, func(t *testing.T) {
			f, err := os.Create(filepath.Join(t.TempDir(), "image"))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := NewWriter(f).Finish(root); err == nil {
				t.Error("was written")
			}
		})
	}
}

func TestShortContent(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := NewWriter(f).Data(strings.NewReader("abc"), 4); err != io.ErrUnexpectedEOF {
		t.Errorf("3 bytes of 4: %v", err)
	}
}

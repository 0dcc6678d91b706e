package debian

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"

	"berth.dev/internal/debian/debiantest"
)

func TestReadAR(t *testing.T) {
	data := debiantest.AR(debiantest.Member{Name: "one", Data: []byte("odd")}, debiantest.Member{Name: "two/", Data: []byte("even")})
	got, err := readAR(bytes.NewReader(data), int64(len(data)))
	if err != nil || len(got) != 2 || got[0].name != "one" || got[1].name != "two" {
		t.Fatalf("got %+v, %v", got, err)
	}
	if b, _ := io.ReadAll(got[1].data); string(b) != "even" {
		t.Errorf("second member %q", b)
	}
	edit := func(off int, s string) []byte { b := bytes.Clone(data); copy(b[off:], s); return b }
	many := []debiantest.Member{}
	for range maxARMembers + 1 {
		many = append(many, debiantest.Member{Name: "x"})
	}
	for want, bad := range map[string][]byte{
		"begin as one":        []byte("!<arch>"),
		"middle of a header":  data[:40],
		"header is damaged":   edit(8+58, "xx"),
		"size is no number":   edit(8+48, "x"),
		"size is no number ":  edit(8+48, "-1"),
		"middle of a member":  edit(8+48, "999"),
		"middle of a member ": edit(8+48, "9999999999"),
		"too many members":    debiantest.AR(many...),
	} {
		if got, err := readAR(bytes.NewReader(bad), int64(len(bad))); err == nil || !strings.Contains(err.Error(), strings.TrimSpace(want)) {
			t.Errorf("%s: %d members, %v", want, len(got), err)
		}
	}
}

func TestOpenDebRefuses(t *testing.T) {
	pkg := debiantest.Package{Name: "aa", Version: "1"}
	control := func(files ...debiantest.File) debiantest.Member {
		return debiantest.Member{Name: "control.tar.gz", Data: debiantest.Compress(t, ".gz", debiantest.Tar(t, files))}
	}
	binary := debiantest.Member{Name: "debian-binary", Data: []byte("2.0\n")}
	data := debiantest.Member{Name: "data.tar", Data: debiantest.Tar(t, nil)}
	good := control(debiantest.File{Name: "./control", Data: pkg.Stanza()})
	whole := pkg.Deb(t)
	for want, deb := range map[string][]byte{
		"begin as one":             nil,
		"middle of a member":       whole[:len(whole)-30],
		"parts of a .deb":          debiantest.AR(binary, good),
		"parts of a .deb file":     debiantest.AR(binary, data, good),
		"format is not 2.x":        debiantest.AR(debiantest.Member{Name: "debian-binary", Data: []byte("3.0\n")}, good, data),
		`compression ".lz" is not`: debiantest.AR(binary, debiantest.Member{Name: "control.tar.lz"}, data),
		"open xz stream":           debiantest.AR(binary, debiantest.Member{Name: "control.tar.xz", Data: []byte("rubbish")}, data),
		"open gzip stream":         debiantest.AR(binary, debiantest.Member{Name: "control.tar.gz", Data: []byte("rubbish")}, data),
		"has no control file":      debiantest.AR(binary, control(debiantest.File{Name: "./preinst"}), data),
		"does not lie at the top":  debiantest.AR(binary, control(debiantest.File{Name: "./../control", Data: pkg.Stanza()}), data),
		"does not lie at the top ": debiantest.AR(binary, control(debiantest.File{Name: "./a/b"}), data),
		`Package: "bb", the index`: debiantest.Package{Name: "bb", Version: "1"}.Deb(t),
		`Version: "2", the index`:  debiantest.Package{Name: "aa", Version: "2"}.Deb(t),
		`Architecture: "all", the`: debiantest.Package{Name: "aa", Version: "1", Arch: "all"}.Deb(t),
	} {
		_, err := openDeb(bytes.NewReader(deb), Package{Name: "aa", Version: "1", Arch: "amd64", Size: int64(len(deb))})
		if err == nil || !strings.Contains(err.Error(), strings.TrimSpace(want)) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	extra := debiantest.AR(binary, debiantest.Member{Name: "_gpgorigin", Data: []byte("x")}, good, data)
	if _, err := openDeb(bytes.NewReader(extra), Package{Name: "aa", Version: "1", Arch: "amd64", Size: int64(len(extra))}); err != nil {
		t.Errorf("a member with an underscore: %v", err)
	}
}

func TestDecompressBounds(t *testing.T) {
	for _, ext := range []string{".xz", ".gz", ".zst", ""} {
		data := debiantest.Compress(t, ext, make([]byte, 1000))
		for limit, wantErr := range map[int64]bool{1000: false, 999: true} {
			r, err := decompress(bytes.NewReader(data), ext, limit)
			if err != nil {
				t.Fatal(err)
			}
			n, err := io.Copy(io.Discard, r)
			if (err != nil) != wantErr || !wantErr && n != 1000 {
				t.Errorf("%q with a limit of %d: %d bytes, %v", ext, limit, n, err)
			}
			r.Close()
		}
	}
}

func FuzzAR(f *testing.F) {
	f.Add(debiantest.AR(debiantest.Member{Name: "debian-binary", Data: []byte("2.0\n")}, debiantest.Member{Name: "x", Data: []byte("odd")}))
	f.Fuzz(func(t *testing.T, data []byte) {
		members, err := readAR(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			return
		}
		total := int64(0)
		for _, m := range members {
			b, err := io.ReadAll(m.data)
			if err != nil || int64(len(b)) != m.data.Size() {
				t.Fatalf("member %q: %d of %d bytes, %v", m.name, len(b), m.data.Size(), err)
			}
			total += int64(len(b))
		}
		if total > int64(len(data)) {
			t.Fatal("members are larger than the archive")
		}
	})
}

// FuzzUnpack: whatever a package's tar stream says, entries stay below the root
// and each path is written once.
func FuzzUnpack(f *testing.F) {
	f.Add(debiantest.Tar(f, debiantest.Base()[0].Files))
	f.Add(debiantest.Tar(f, []debiantest.File{{Name: "./a", Type: '2', Link: "../../etc"}, {Name: "./a/b", Data: "x"}, {Name: "./c", Type: '1', Link: "a/b"}}))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<16 {
			return // sparse files may be large; their size is bounded elsewhere
		}
		var out bytes.Buffer
		u := &unpacker{tree: newTree(&limitedWriter{&out, 1 << 22}), debs: map[string]*deb{}, lists: map[string][]string{}}
		err := u.unpack(context.Background(), &deb{Package: Package{Name: "aa"}}, bytes.NewReader(data))
		if err == nil {
			err = u.tree.out.Close()
		}
		if err == nil {
			readLayer(t, out.Bytes())
		}
	})
}

type limitedWriter struct {
	w    io.Writer
	left int
}

func (l *limitedWriter) Write(p []byte) (int, error) {
	if l.left -= len(p); l.left < 0 {
		return 0, io.ErrShortWrite
	}
	return l.w.Write(p)
}

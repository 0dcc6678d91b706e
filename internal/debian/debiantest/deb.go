// Package debiantest makes small Debian archives for tests: real .deb files,
// indexes and signatures of a key made on the spot, served by a real HTTP
// server, which can be told to spoil each of them. Only tests import it.
package debiantest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// Time is when everything in the archives was made.
var Time = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// File is an entry of a package; what is zero gets its common value: a regular
// file of root with mode 0644.
type File struct {
	Name     string // as in a package: "./usr/bin/x", folders with a slash at the end
	Data     string
	Mode     int64
	Type     byte
	Link     string
	Uid, Gid int
	User     string
	Group    string
}

// Package is a .deb file to be made.
type Package struct {
	Name, Version string
	Arch          string // "" means amd64
	Fields        string // further lines of the control file
	Control       map[string]string
	Files         []File
	Compression   string // ".xz" when empty; ".gz", ".zst", ".tar" for none
}

func (p Package) arch() string {
	if p.Arch == "" {
		return "amd64"
	}
	return p.Arch
}

// Stanza is the package's control file.
func (p Package) Stanza() string {
	s := fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: %s\nMaintainer: Nobody <nobody@example.org>\n", p.Name, p.Version, p.arch())
	if p.Fields != "" {
		s += strings.TrimSuffix(p.Fields, "\n") + "\n"
	}
	return s + "Description: a package\n that exists in a test\n .\n only\n"
}

// Deb makes the .deb file.
func (p Package) Deb(t testing.TB) []byte {
	t.Helper()
	control := []File{{Name: "./", Type: tar.TypeDir, Mode: 0o755}, {Name: "./control", Data: p.Stanza()}}
	for _, name := range []string{"conffiles", "md5sums", "preinst", "postinst", "shlibs", "triggers"} {
		data, ok := p.Control[name]
		if !ok {
			continue
		}
		f := File{Name: "./" + name, Data: data}
		if strings.HasSuffix(name, "inst") {
			f.Mode = 0o755
		}
		control = append(control, f)
	}
	ext := p.Compression
	if ext == "" {
		ext = ".xz"
	}
	member := func(base string, files []File) Member {
		name := base + ext
		if ext == ".tar" {
			name = base
		}
		return Member{name, Compress(t, strings.TrimSuffix(ext, ".tar"), Tar(t, files))}
	}
	return AR(Member{"debian-binary", []byte("2.0\n")}, member("control.tar", control), member("data.tar", p.Files))
}

// Tar makes a tar stream.
func Tar(t testing.TB, files []File) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{
			Name: f.Name, Mode: f.Mode, Typeflag: f.Type, Linkname: f.Link, Size: int64(len(f.Data)), ModTime: Time,
			Uid: f.Uid, Gid: f.Gid, Uname: f.User, Gname: f.Group,
		}
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
			if strings.HasSuffix(f.Name, "/") {
				h.Typeflag = tar.TypeDir
			}
		}
		if h.Mode == 0 {
			h.Mode = map[byte]int64{tar.TypeDir: 0o755, tar.TypeSymlink: 0o777}[h.Typeflag]
			if h.Mode == 0 {
				h.Mode = 0o644
			}
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, f.Data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Member is a file of an ar archive.
type Member struct {
	Name string
	Data []byte
}

// AR makes an ar archive.
func AR(members ...Member) []byte {
	var b bytes.Buffer
	b.WriteString("!<arch>\n")
	for _, m := range members {
		fmt.Fprintf(&b, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", m.Name, Time.Unix(), 0, 0, "100644", len(m.Data))
		b.Write(m.Data)
		if len(m.Data)%2 == 1 {
			b.WriteByte('\n')
		}
	}
	return b.Bytes()
}

// Compress compresses by the ending of a file name: .xz, .gz, .zst, "".
func Compress(t testing.TB, ext string, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	var err error
	switch ext {
	case "":
		return data
	case ".xz":
		w, err = xz.WriterConfig{DictCap: 1 << 16}.NewWriter(&b)
	case ".gz":
		w = gzip.NewWriter(&b)
	case ".zst":
		w, err = zstd.NewWriter(&b)
	default:
		err = fmt.Errorf("no compression %q", ext)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

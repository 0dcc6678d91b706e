package filecopy

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pkg/sftp"
)

// arena is a folder to copy to, beside one that must not change.
func arena(t testing.TB) (dst, victim string) {
	t.Helper()
	dir := t.TempDir()
	dst, victim = filepath.Join(dir, "dst"), filepath.Join(dir, "victim")
	for _, d := range []string{dst, victim} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(victim, "key"), []byte("good"), 0o600); err != nil {
		t.Fatal(err)
	}
	return dst, victim
}

func unharmed(t testing.TB, victim string) {
	t.Helper()
	for dir, want := range map[string]string{filepath.Dir(victim): "dst victim", victim: "key"} {
		list, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, e := range list {
			names = append(names, e.Name())
		}
		if got := strings.Join(names, " "); got != want {
			t.Fatalf("%s now holds %s", dir, got)
		}
	}
	info, err := os.Stat(filepath.Join(victim, "key"))
	if err != nil || info.Mode() != 0o600 {
		t.Fatalf("the key: %v, %v", info, err)
	}
	if data, err := os.ReadFile(filepath.Join(victim, "key")); err != nil || string(data) != "good" {
		t.Fatalf("the key is %q now, %v", data, err)
	}
}

// A guest that lies about names and links must not write outside of the folder.
func TestHostileTreeStaysInside(t *testing.T) {
	dst, victim := arena(t)
	const dir, link = fs.ModeDir | 0o755, fs.ModeSymlink | 0o777
	attacks := map[string]entries{
		"name climbs":              {{Path: "../victim/key", Mode: 0o644}},
		"name climbs later":        {{Path: "a/../../victim/key", Mode: 0o644}},
		"absolute name":            {{Path: filepath.Join(victim, "key"), Mode: 0o644}},
		"zero byte":                {{Path: "a\x00b", Mode: 0o644}},
		"empty name":               {{Path: "", Mode: 0o644}},
		"through a link":           {{Path: "l", Mode: link, Link: victim}, {Path: "l/key", Mode: 0o644}},
		"through a relative link":  {{Path: "l", Mode: link, Link: "../victim"}, {Path: "l/key", Mode: 0o644}},
		"link becomes folder":      {{Path: "l", Mode: link, Link: victim}, {Path: "l", Mode: dir}, {Path: "l/key", Mode: 0o644}},
		"folder becomes link":      {{Path: "d", Mode: dir}, {Path: "d", Mode: link, Link: victim}, {Path: "d/key", Mode: 0o644}},
		"link in a folder":         {{Path: "e", Mode: dir}, {Path: "e/l", Mode: link, Link: "../../victim"}, {Path: "e/l/key", Mode: 0o644}},
		"write through a link":     {{Path: "k", Mode: link, Link: filepath.Join(victim, "key")}, {Path: "k", Mode: 0o644}},
		"hard link to the outside": {{Path: "h", Mode: 0o644, Hard: "../victim/key"}, {Path: "h", Mode: 0o644}},
		"hard link through a link": {{Path: "m", Mode: link, Link: victim}, {Path: "h2", Mode: 0o644, Hard: "m/key"}},
		"mode through a link":      {{Path: "n", Mode: link, Link: filepath.Join(victim, "key")}, {Path: "n", Mode: dir | 0o777}},
		"root is a link":           {{Path: ".", Mode: link, Link: victim}, {Path: "key", Mode: 0o644}},
		"too deep":                 {{Path: strings.Repeat("d/", 300) + "f", Mode: 0o644}},
	}
	for name, attack := range attacks {
		t.Run(name, func(t *testing.T) {
			_ = Copy(context.Background(), attack, toHost(t, dst), func(string) {})
			unharmed(t, victim)
		})
	}
}

// What the guest marks setuid is not setuid on the host, and a device is none.
func TestHostileModes(t *testing.T) {
	dst, _ := arena(t)
	skipped := 0
	tree := entries{
		{Path: "su", Mode: fs.ModeSetuid | fs.ModeSetgid | 0o755},
		{Path: "d", Mode: fs.ModeDir | fs.ModeSetgid | fs.ModeSticky | 0o755},
		{Path: "dev", Mode: fs.ModeDevice | 0o666},
		{Path: "pipe", Mode: fs.ModeNamedPipe | 0o666},
	}
	if err := Copy(context.Background(), tree, toHost(t, dst), func(string) { skipped++ }); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]fs.FileMode{"su": 0o755, "d": fs.ModeDir | 0o755} {
		if info, err := os.Lstat(filepath.Join(dst, name)); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	if skipped != 2 {
		t.Errorf("%d were skipped", skipped)
	}
}

// liar is an SFTP server that lists names which lead elsewhere.
type liar struct{ names []string }

func (l liar) Filelist(r *sftp.Request) (sftp.ListerAt, error) {
	if r.Method != "List" {
		return list{info{name: "/", mode: fs.ModeDir | 0o755}}, nil
	}
	if r.Filepath != "/" {
		return list{}, nil
	}
	var out list
	for _, n := range l.names {
		out = append(out, info{name: n, mode: 0o644})
	}
	return out, nil
}

func (liar) Fileread(*sftp.Request) (io.ReaderAt, error) { return strings.NewReader("evil"), nil }

type list []info

func (l list) ListAt(out []os.FileInfo, at int64) (int, error) {
	if at >= int64(len(l)) {
		return 0, io.EOF
	}
	n := 0
	for ; n < len(out) && int(at)+n < len(l); n++ {
		out[n] = l[int(at)+n]
	}
	return n, nil
}

type info struct {
	name string
	mode fs.FileMode
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return 4 }
func (i info) Mode() fs.FileMode  { return i.mode }
func (i info) ModTime() time.Time { return time.Unix(1, 0) }
func (i info) IsDir() bool        { return i.mode.IsDir() }
func (i info) Sys() any           { return nil }

func TestHostileServer(t *testing.T) {
	for _, name := range []string{"../victim/key", "/etc/passwd", "..", ".", "", "a/b", "a\x00", "a/../../victim/key"} {
		t.Run(name, func(t *testing.T) {
			dst, victim := arena(t)
			near, far := net.Pipe()
			server := sftp.NewRequestServer(far, sftp.Handlers{FileList: liar{[]string{name}}, FileGet: liar{}})
			served := make(chan error, 1)
			go func() { served <- server.Serve() }()
			c, err := sftp.NewClientPipe(near, near)
			if err != nil {
				t.Fatal(err)
			}
			_ = Copy(context.Background(), FromGuest(c, "/"), toHost(t, dst), func(string) {})
			unharmed(t, victim)
			c.Close()
			near.Close()
			<-served
		})
	}
}

func FuzzTarToHost(f *testing.F) {
	seed := func(headers ...tar.Header) {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range headers {
			if err := w.WriteHeader(&h); err != nil {
				f.Fatal(err)
			}
		}
		f.Add(b.Bytes())
	}
	seed(tar.Header{Name: "a/", Typeflag: tar.TypeDir, Mode: 0o755}, tar.Header{Name: "a/f", Mode: 0o4755})
	seed(tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "../victim"}, tar.Header{Name: "l/key"})
	seed(tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: "../victim/key"}, tar.Header{Name: "../victim/x"})
	f.Fuzz(func(t *testing.T, data []byte) {
		dst, victim := arena(t)
		target, err := ToHost(dst)
		if err != nil {
			t.Fatal(err)
		}
		_ = Copy(context.Background(), FromTar(bytes.NewReader(data)), target, func(string) {})
		unharmed(t, victim)
		_ = filepath.WalkDir(dst, func(p string, d fs.DirEntry, err error) error {
			if d != nil && d.IsDir() {
				_ = os.Chmod(p, 0o755) // for the clean-up
			}
			return nil
		})
	})
}

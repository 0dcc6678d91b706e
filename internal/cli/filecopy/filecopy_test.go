package filecopy

import (
	"bytes"
	"context"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/pkg/sftp"

	"berth.dev/internal/sandbox"
)

func TestPlace(t *testing.T) {
	tests := []struct {
		src    string
		srcDir bool
		dst    string
		kind   Kind
		want   string // "" means an error
	}{
		{"a/f", false, "/d", Dir, "/d/f"},
		{"a/f", false, "/d/", Dir, "/d/f"},
		{"a/f", false, "/d/g", File, "/d/g"},
		{"a/f", false, "/d/new", Missing, "/d/new"},
		{"a/f", false, "/d/new/", Missing, ""},
		{"a/f", false, "/d/g/", File, ""},
		{"a/f", false, "/dev/null", Other, "/dev/null"},
		{"a", true, "/d", Dir, "/d/a"},
		{"a/", true, "/d", Dir, "/d/a"},
		{"a/.", true, "/d", Dir, "/d"},
		{".", true, "/d", Dir, "/d"},
		{"..", true, "/d", Dir, "/d"},
		{"/", true, "/d", Dir, "/d"},
		{"a", true, "/new", Missing, "/new"},
		{"a", true, "/new/", Missing, "/new/"},
		{"a", true, "/f", File, ""},
	}
	for _, tt := range tests {
		got, err := Place(tt.src, tt.srcDir, tt.dst, tt.kind)
		if got != tt.want || (err != nil) != (tt.want == "") {
			t.Errorf("%s to %s (%d): got %q, %v; want %q", tt.src, tt.dst, tt.kind, got, err, tt.want)
		}
	}
}

// guest serves a folder as a guest would its own files.
func guest(t *testing.T) *sftp.Client {
	t.Helper()
	near, far := net.Pipe()
	server, err := sftp.NewServer(far)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve() }()
	c, err := sftp.NewClientPipe(near, near)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); near.Close(); <-served })
	return c
}

var when = time.Date(2020, 2, 3, 4, 5, 6, 0, time.UTC)

// tree makes a folder with one of everything that is copied.
func tree(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tree")
	for _, d := range []string{dir, dir + "/sub", dir + "/sub/deep", dir + "/locked"} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	files := map[string]fs.FileMode{"run.sh": 0o755, "sub/secret": 0o600, "sub/deep/été": 0o644, "locked/file": 0o444, "empty": 0o644}
	for name, mode := range files {
		path := filepath.Join(dir, name)
		text := strings.Repeat(name, 10000)
		if name == "empty" {
			text = ""
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, when, when); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{"link": "sub/secret", "sub/abs": "/etc/passwd", "sub/gone": "nothing"} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir+"/locked", 0o555); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(dir+"/sub", when, when); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(dir+"/locked", 0o755) })
	return dir
}

// describe lists a tree: names, modes, times of what is old, contents, links.
func describe(t *testing.T, root string) string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		line := rel + " " + info.Mode().String()
		switch {
		case info.Mode().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += " " + info.ModTime().UTC().Format(time.RFC3339) + " " + string(data)
		case info.Mode().Type() == fs.ModeSymlink:
			to, _ := os.Readlink(path)
			line += " " + to
		case info.ModTime().Equal(when):
			line += " old"
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	sort.Strings(lines)
	return strings.Join(lines, "\n")
}

func copyAll(t *testing.T, src Source, dst Target) {
	t.Helper()
	err := Copy(context.Background(), src, dst, func(p string) { t.Errorf("%s was skipped", p) })
	if err != nil {
		t.Fatal(err)
	}
}

func toHost(t *testing.T, dst string) Target {
	t.Helper()
	target, err := ToHost(dst)
	if err != nil {
		t.Fatal(err)
	}
	return target
}

func unlock(t *testing.T, dir string) {
	t.Cleanup(func() { _ = os.Chmod(dir+"/locked", 0o755) })
}

func TestThereAndBack(t *testing.T) {
	src, dir := tree(t), t.TempDir()
	there, back := filepath.Join(dir, "there"), filepath.Join(dir, "back")
	unlock(t, there)
	unlock(t, back)
	c := guest(t)
	copyAll(t, FromHost(src), ToGuest(c, there))
	if got, want := describe(t, there), describe(t, src); got != want {
		t.Errorf("in the guest:\n%.2000s\nwant:\n%.2000s", got, want)
	}
	copyAll(t, FromGuest(c, there), toHost(t, back))
	if got, want := describe(t, back), describe(t, src); got != want {
		t.Errorf("back again:\n%.2000s\nwant:\n%.2000s", got, want)
	}
}

func TestTarThereAndBack(t *testing.T) {
	src, dir := tree(t), t.TempDir()
	var archive bytes.Buffer
	copyAll(t, FromHost(src), ToTar(&archive, "tree"))
	copyAll(t, FromTar(&archive), toHost(t, dir))
	unlock(t, dir+"/tree")
	if got, want := describe(t, dir+"/tree"), describe(t, src); got != want {
		t.Errorf("got:\n%.2000s\nwant:\n%.2000s", got, want)
	}
}

func TestSingleFiles(t *testing.T) {
	src, dir := tree(t), t.TempDir()
	c := guest(t)
	for _, target := range []Target{toHost(t, dir+"/new"), ToGuest(c, dir+"/new2")} {
		copyAll(t, FromHost(src+"/run.sh"), target)
	}
	// Onto a file, and through a link that the user named.
	if err := os.Symlink("new", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	copyAll(t, FromGuest(c, src+"/empty"), toHost(t, dir+"/link"))
	if info, err := os.Stat(dir + "/new"); err != nil || info.Size() != 0 {
		t.Errorf("the file behind the link: %v, %v", info, err)
	}
	if info, err := os.Stat(dir + "/new2"); err != nil || info.Mode() != 0o755 {
		t.Errorf("got %v, %v", info, err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 3 {
		t.Errorf("something was left behind: %v", entries)
	}
	if _, err := ToHost(dir + "/no/such"); sandbox.ClassOf(err) != sandbox.ErrNotFound {
		t.Errorf("got %v", err)
	}
}

func TestCopyEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	err := Copy(ctx, FromHost(tree(t)), toHost(t, t.TempDir()), nil)
	if err == nil {
		t.Error("it went on")
	}
}

func TestGuestErrorsAreForPeople(t *testing.T) {
	c := guest(t)
	err := Copy(context.Background(), FromGuest(c, "/no/such\x1b[2J"), toHost(t, t.TempDir()), nil)
	if sandbox.ClassOf(err) != sandbox.ErrNotFound || strings.Contains(err.Error(), "\x1b") {
		t.Errorf("got %v", err)
	}
}

// entries is a source that says whatever it likes.
type entries []Entry

func (s entries) Walk(_ context.Context, visit func(Entry, func() (io.ReadCloser, error)) error) error {
	for _, e := range s {
		open := func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("evil")), nil }
		if err := visit(e, open); err != nil {
			return err
		}
	}
	return nil
}

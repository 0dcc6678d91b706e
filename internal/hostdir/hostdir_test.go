package hostdir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"berth.dev/internal/sandbox"
)

func env(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

// freeUID is a uid whose folder in /tmp no other test and no real user has.
func freeUID(t *testing.T) int {
	t.Helper()
	uid := 1_500_000_000 + os.Getpid()
	t.Cleanup(func() { _ = os.RemoveAll(fmt.Sprintf("/tmp/berth-%d", uid)) })
	return uid
}

func TestFrom(t *testing.T) {
	run := t.TempDir()
	uid := freeUID(t)
	for name, c := range map[string]struct {
		env               func(string) string
		data, config, run string
	}{
		"home":          {env("HOME", "/h"), "/h/.local/share/berth", "/h/.config/berth", fmt.Sprintf("/tmp/berth-%d/", uid)},
		"xdg":           {env("HOME", "/h", "XDG_DATA_HOME", "/d", "XDG_CONFIG_HOME", "/c", "XDG_RUNTIME_DIR", run), "/d/berth", "/c/berth", run + "/berth"},
		"relative xdg":  {env("HOME", "/h", "XDG_DATA_HOME", "d", "XDG_RUNTIME_DIR", "r"), "/h/.local/share/berth", "/h/.config/berth", fmt.Sprintf("/tmp/berth-%d/", uid)},
		"absent run":    {env("HOME", "/h", "XDG_RUNTIME_DIR", "/nowhere"), "/h/.local/share/berth", "/h/.config/berth", fmt.Sprintf("/tmp/berth-%d/", uid)},
		"BERTH_HOME":    {env("BERTH_HOME", "/b/", "XDG_DATA_HOME", "/d"), "/b/data", "/b/config", "/b/run"},
		"BERTH_HOME 80": {env("BERTH_HOME", "/"+strings.Repeat("b", 80)), "/" + strings.Repeat("b", 80) + "/data", "/" + strings.Repeat("b", 80) + "/config", fmt.Sprintf("/tmp/berth-%d/", uid)},
	} {
		d, err := From(c.env, uid)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if d.data != c.data || d.config != c.config || !strings.HasPrefix(d.run, c.run) || len(d.run)+socketRoom > MaxSocketPath {
			t.Errorf("%s: %+v", name, d)
		}
	}
	for _, bad := range []func(string) string{env(), env("HOME", "x"), env("BERTH_HOME", "rel", "HOME", "/h")} {
		if _, err := From(bad, uid); err == nil || sandbox.HintOf(err) == "" {
			t.Errorf("accepted: %v", err)
		}
	}
	if _, err := os.Stat(fmt.Sprintf("/tmp/berth-%d", uid)); !errors.Is(err, fs.ErrNotExist) {
		t.Error("From made a folder")
	}
}

func TestFoldersAreClosed(t *testing.T) {
	home := t.TempDir()
	d, err := From(env("BERTH_HOME", home), freeUID(t))
	if err != nil {
		t.Fatal(err)
	}
	for name, get := range map[string]func() (string, error){
		"data": d.Data, "config": d.Config, "run": d.Run, "images": d.Images, "bundles": d.Bundles,
		"templates": d.Templates, "cache": d.Cache, "guest": d.Guest,
	} {
		dir, err := get()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 || !info.IsDir() {
			t.Errorf("%s: %v %v", name, info, err)
		}
		// One that only others can read is closed, one that they can write to
		// is not trusted any more.
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if _, err := get(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s stays %v", name, info.Mode())
		}
		if err := os.Chmod(dir, 0o777); err != nil {
			t.Fatal(err)
		}
		if _, err := get(); !errors.Is(err, sandbox.ErrForbidden) {
			t.Errorf("%s writable by all: %v", name, err)
		}
		if err := os.Chmod(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSocketsFit(t *testing.T) {
	uid := freeUID(t)
	long := filepath.Join(t.TempDir(), strings.Repeat("x", 90))
	var socks []string
	for _, home := range []string{long, long + "2"} {
		d, err := From(env("BERTH_HOME", home), uid)
		if err != nil {
			t.Fatal(err)
		}
		sock, err := d.Socket("0123456789ab")
		if err != nil || len(sock) > MaxSocketPath {
			t.Fatal(sock, err)
		}
		socks = append(socks, sock)
	}
	if socks[0] == socks[1] {
		t.Fatal("two homes share a socket")
	}
	d, err := From(env("BERTH_HOME", t.TempDir()), uid)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Socket(strings.Repeat("x", 100)); !errors.Is(err, sandbox.ErrInvalid) {
		t.Fatal(err)
	}
}

// TestPlantedRuntimeFolder: what another user can have put into /tmp before us.
func TestPlantedRuntimeFolder(t *testing.T) {
	plants := map[string]func(dir string) error{
		"symlink":  func(dir string) error { return os.Symlink(t.TempDir(), dir) },
		"dangling": func(dir string) error { return os.Symlink("/nowhere", dir) },
		"file":     func(dir string) error { return os.WriteFile(dir, nil, 0o700) },
		"open":     func(dir string) error { return errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, 0o777)) },
		"readable": func(dir string) error { return errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, 0o750)) },
	}
	if os.Geteuid() == 0 {
		plants["another user's"] = func(dir string) error { return errors.Join(os.Mkdir(dir, 0o700), os.Chown(dir, 12345, 0)) }
	}
	for name, plant := range plants {
		uid := freeUID(t)
		dir := fmt.Sprintf("/tmp/berth-%d", uid)
		if err := plant(dir); err != nil {
			t.Fatal(err)
		}
		d, err := From(env("HOME", t.TempDir()), uid)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Run(); !errors.Is(err, sandbox.ErrForbidden) || sandbox.HintOf(err) == "" {
			t.Errorf("%s: %v", name, err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRuntimeDirOfAnotherUser(t *testing.T) {
	run := t.TempDir()
	if err := os.Chmod(run, 0o777); err != nil {
		t.Fatal(err)
	}
	d, err := From(env("HOME", "/h", "XDG_RUNTIME_DIR", run), freeUID(t))
	if err != nil || strings.HasPrefix(d.run, run) {
		t.Fatal(d, err)
	}
}

func TestMapUID(t *testing.T) {
	for _, c := range []struct {
		text      string
		uid, want int
	}{
		{"         0          0 4294967295\n", 0, 0},
		{"      1000          0          1\n", 1000, 0},
		{"0 1000 1\n1 100000 65536\n", 5, 100004},
		{"1000 0 1\n", 7, 7}, {"", 3, 3}, {"garbage\n", 3, 3},
	} {
		if got := mapUID(c.text, c.uid); got != c.want {
			t.Errorf("%q: %d is %d, want %d", c.text, c.uid, got, c.want)
		}
	}
}

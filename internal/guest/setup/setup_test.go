package setup

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"berth.dev/internal/guestapi"
)

// sandboxed is a System whose root is a folder and whose kernel is not asked.
func sandboxed(t *testing.T) (System, *[]string) {
	t.Helper()
	var calls []string
	return System{
		Root: t.TempDir(),
		Mount: func(_, target, fstype string, flags uintptr, data string) error {
			calls = append(calls, "mount "+fstype+" "+filepath.Base(target)+" "+data)
			switch filepath.Base(target) {
			case "busy":
				return unix.EBUSY
			case "bad":
				return unix.EINVAL
			}
			return nil
		},
		Sethostname: func(b []byte) error {
			calls = append(calls, "hostname "+string(b))
			return unix.EPERM
		},
	}, &calls
}

func read(t *testing.T, s System, p string) string {
	t.Helper()
	b, err := os.ReadFile(s.path(p))
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func me() (uid, gid uint32) { return uint32(os.Getuid()), uint32(os.Getgid()) }

func TestApply(t *testing.T) {
	s, calls := sandboxed(t)
	c := &guestapi.Config{
		Hostname: "box", Hosts: "127.0.0.1 localhost\n", ResolvConf: "nameserver 10.0.0.1\n", StateDir: "/var/lib/berth",
		Mounts: []guestapi.MountPoint{{Type: "tmpfs", Target: "/new/dir", Data: "size=1m"}, {Type: "proc", Target: "/busy"}},
	}
	if err := s.Apply(c); err != nil {
		t.Fatal(err)
	}
	for p, want := range map[string]string{"/etc/hosts": c.Hosts, "/etc/resolv.conf": c.ResolvConf, "/etc/hostname": "box\n"} {
		if got := read(t, s, p); got != want {
			t.Errorf("%s: %q", p, got)
		}
	}
	if got := strings.Join(*calls, ", "); got != "mount tmpfs dir size=1m, mount proc busy , hostname box" {
		t.Error(got)
	}
	// One thing that fails does not keep the rest from being done.
	c.Mounts[0].Target, c.Hosts = "/bad", "other\n"
	if err := s.Apply(c); !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "/bad") {
		t.Errorf("%v", err)
	}
	if read(t, s, "/etc/hosts") != "other\n" {
		t.Error("hosts were not written")
	}
}

// The user's own edits survive every later start, and a deletion too; what is
// the supervisor's is kept up.
func TestPolicies(t *testing.T) {
	s, _ := sandboxed(t)
	uid, gid := me()
	c := &guestapi.Config{StateDir: "/state", Creation: "one"}
	for _, p := range []guestapi.Policy{guestapi.Always, guestapi.IfAbsent, guestapi.Once} {
		for _, dir := range []string{"/edited/", "/deleted/"} {
			c.Files = append(c.Files, guestapi.File{Path: dir + string(p), Mode: 0o640, UID: uid, GID: gid, Content: []byte("ours"), Policy: p})
		}
	}
	if err := s.Apply(c); err != nil {
		t.Fatal(err)
	}
	for _, f := range c.Files {
		fi, err := os.Stat(s.path(f.Path))
		if err != nil || fi.Mode().Perm() != 0o640 || read(t, s, f.Path) != "ours" {
			t.Fatalf("%s: %v, %v", f.Path, fi, err)
		}
		if strings.HasPrefix(f.Path, "/edited") {
			err = os.WriteFile(s.path(f.Path), []byte("theirs"), 0o600)
		} else {
			err = os.Remove(s.path(f.Path))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Apply(c); err != nil {
		t.Fatal(err)
	}
	missing := func(p string) bool { _, err := os.Lstat(s.path(p)); return errors.Is(err, fs.ErrNotExist) }
	if read(t, s, "/edited/always") != "ours" || read(t, s, "/edited/if-absent") != "theirs" || read(t, s, "/edited/once") != "theirs" {
		t.Error("edited files are not as promised")
	}
	if missing("/deleted/always") || missing("/deleted/if-absent") || !missing("/deleted/once") {
		t.Error("deleted files are not as promised")
	}
	// Another creation of a sandbox (from what this one was saved as) is new.
	c.Creation = "two"
	if err := s.Apply(c); err != nil || read(t, s, "/edited/once") != "ours" {
		t.Errorf("%v", err)
	}
}

// A first start that failed half way is made up for at the next.
func TestInterruptedCreation(t *testing.T) {
	s, _ := sandboxed(t)
	if err := os.WriteFile(s.path("/file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	uid, gid := me()
	c := &guestapi.Config{StateDir: "/state", Creation: "c", Files: []guestapi.File{
		{Path: "/file/under", UID: uid, GID: gid, Policy: guestapi.Once},
		{Path: "/good", UID: uid, GID: gid, Mode: 0o600, Policy: guestapi.Once},
	}}
	if err := s.Apply(c); err == nil {
		t.Fatal("a file below a file")
	}
	if err := os.Remove(s.path("/file")); err != nil {
		t.Fatal(err)
	}
	if err := s.Apply(c); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(s.path("/file/under")); err != nil {
		t.Error(err)
	}
}

// A link in a file's place is replaced; what it leads to stays as it is.
func TestLinkIsNotFollowed(t *testing.T) {
	s, _ := sandboxed(t)
	uid, gid := me()
	victim := filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(victim, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, s.path("/f")); err != nil {
		t.Fatal(err)
	}
	c := &guestapi.Config{StateDir: "/state", Files: []guestapi.File{{Path: "/f", Mode: 0o600, UID: uid, GID: gid, Content: []byte("x"), Policy: guestapi.Always}}}
	if err := s.Apply(c); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(victim); string(b) != "precious" || read(t, s, "/f") != "x" {
		t.Errorf("%q, %q", b, read(t, s, "/f"))
	}
}

package workspace

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"berth.dev/internal/sandbox"
)

// place is a host in a folder: a home with a project and Berth's own data.
type place struct{ root, home, project, own string }

func newPlace(t *testing.T) place {
	t.Helper()
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	p := place{root: root, home: root + "/home/u", project: root + "/home/u/code/web", own: root + "/home/u/.local/share/berth"}
	for _, dir := range []string{p.project + "/src", p.own + "/sandboxes", p.home + "/.ssh", root + "/other"} {
		mkdir(t, dir)
	}
	return p
}

func mkdir(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	mkdir(t, filepath.Dir(path))
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func symlink(t *testing.T, target, path string) {
	t.Helper()
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}

func (p place) request(paths ...string) Request {
	return Request{Cwd: p.project, Home: p.home, Own: []string{p.own}, Paths: paths}
}

func same(path string) sandbox.Mount { return sandbox.Mount{Host: path, Guest: path} }

func mustResolve(t *testing.T, req Request) Plan {
	t.Helper()
	plan, err := Resolve(req)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range plan.Warnings {
		t.Fatalf("warning: %v", w)
	}
	return plan
}

func TestResolve(t *testing.T) {
	p := newPlace(t)
	write(t, p.root+"/data/a:b.txt", "x")
	mkdir(t, p.root+"/odd:ro")
	for name, c := range map[string]struct {
		paths, volumes []string
		want           []sandbox.Mount
		primary        string
	}{
		"none":          {want: []sandbox.Mount{same(p.project)}},
		"dot":           {paths: []string{"."}, want: []sandbox.Mount{same(p.project)}},
		"relative":      {paths: []string{"../web/src/"}, want: []sandbox.Mount{same(p.project + "/src")}},
		"tilde":         {paths: []string{"~/code/web"}, want: []sandbox.Mount{same(p.project)}},
		"extra ro":      {paths: []string{".", p.root + "/other:ro"}, want: []sandbox.Mount{same(p.project), {Host: p.root + "/other", Guest: p.root + "/other", ReadOnly: true}}},
		"primary ro":    {paths: []string{".:ro"}, want: []sandbox.Mount{{Host: p.project, Guest: p.project, ReadOnly: true}}},
		"twice":         {paths: []string{".", p.project}, want: []sandbox.Mount{same(p.project)}},
		"nested":        {paths: []string{"src:ro", "."}, want: []sandbox.Mount{{Host: p.project + "/src", Guest: p.project + "/src", ReadOnly: true}, same(p.project)}, primary: p.project + "/src"},
		"ends in :ro":   {paths: []string{p.root + "/odd:ro/"}, want: []sandbox.Mount{same(p.root + "/odd:ro")}},
		"volume folder": {volumes: []string{"../../../../other:/mnt/data:ro"}, want: []sandbox.Mount{same(p.project), {Host: p.root + "/other", Guest: "/mnt/data", ReadOnly: true}}},
		"volume file":   {volumes: []string{p.root + "/data/a:b.txt:/etc/x.txt"}, want: []sandbox.Mount{same(p.project), {Host: p.root + "/data/a:b.txt", Guest: "/etc/x.txt"}}},
		"volume system": {volumes: []string{"/etc/passwd:/tmp/passwd:ro"}, want: []sandbox.Mount{same(p.project), {Host: "/etc/passwd", Guest: "/tmp/passwd", ReadOnly: true}}},
	} {
		t.Run(name, func(t *testing.T) {
			req := p.request(c.paths...)
			req.Volumes = c.volumes
			plan := mustResolve(t, req)
			if !reflect.DeepEqual(plan.Mounts(), c.want) || len(plan.Links) != 0 {
				t.Fatalf("%+v", plan)
			}
			if c.primary == "" {
				c.primary = c.want[0].Guest
			}
			if plan.Workspace != c.primary {
				t.Fatal(plan.Workspace)
			}
		})
	}
}

func TestSymlinks(t *testing.T) {
	p := newPlace(t)
	symlink(t, p.project, p.root+"/short")
	plan := mustResolve(t, p.request(p.root+"/short"))
	if plan.Workspace != p.project || !reflect.DeepEqual(plan.Links, []Link{{p.root + "/short", p.project}}) {
		t.Fatalf("%+v", plan)
	}
	// From $PWD through a symlink, and a folder beside where it really is.
	symlink(t, p.project+"/src", p.root+"/deep")
	req := p.request("..")
	req.Cwd = p.root + "/deep"
	if plan := mustResolve(t, req); plan.Workspace != p.project {
		t.Fatalf("%+v", plan)
	}
	// A link that lies in what is mounted is there already.
	symlink(t, "src", p.project+"/alias")
	if plan := mustResolve(t, p.request(".", "alias")); len(plan.Links) != 0 || len(plan.Workspaces) != 2 {
		t.Fatalf("%+v", plan)
	}
	// A link with the name of a harmless folder does not get around a rule.
	symlink(t, p.home, p.project+"/docs")
	if _, err := Resolve(p.request("docs")); !errors.Is(err, ErrNeedsForce) {
		t.Fatal(err)
	}
	symlink(t, "/proc", p.project+"/p")
	if _, err := Resolve(p.request("p")); !errors.Is(err, sandbox.ErrForbidden) {
		t.Fatal(err)
	}
}

func TestRefused(t *testing.T) {
	p := newPlace(t)
	write(t, p.project+"/file", "x")
	mkdir(t, p.root+"/new\nline")
	mkdir(t, p.root+"/\xff")
	l, err := net.Listen("unix", p.root+"/s")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := syscall.Mkfifo(p.root+"/fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	ok := p.root + "/other"
	for _, c := range []struct {
		name           string
		paths, volumes []string
		class          sandbox.Class
		says           string
	}{
		{"missing", []string{"nowhere"}, nil, sandbox.ErrNotFound, "nowhere does not exist"},
		{"file", []string{"file"}, nil, sandbox.ErrInvalid, "not a folder"},
		{"below a file", []string{"file/x"}, nil, sandbox.ErrInvalid, "file/x"},
		{"empty", []string{":ro"}, nil, sandbox.ErrInvalid, "names no folder"},
		{"newline", []string{p.root + "/new\nline"}, nil, sandbox.ErrInvalid, "control characters"},
		{"not UTF-8", []string{p.root + "/\xff"}, nil, sandbox.ErrInvalid, "not UTF-8"},
		{"root", []string{"/"}, nil, sandbox.ErrForbidden, "whole file system"},
		{"root volume", nil, []string{"/:/host:ro"}, sandbox.ErrForbidden, "whole file system"},
		{"etc", []string{"/etc"}, nil, sandbox.ErrForbidden, "system folder"},
		{"etc volume", nil, []string{"/etc:/mnt/etc:ro"}, sandbox.ErrForbidden, "as a whole"},
		{"usr", []string{"/usr/bin"}, nil, sandbox.ErrForbidden, "system folder"},
		{"mnt", []string{"/mnt"}, nil, sandbox.ErrForbidden, "system folder"},
		{"proc", []string{"/proc/self"}, nil, sandbox.ErrForbidden, "running system"},
		{"proc volume", nil, []string{"/proc:/mnt/proc"}, sandbox.ErrForbidden, "running system"},
		{"sys volume", nil, []string{"/sys/kernel:/mnt/k"}, sandbox.ErrForbidden, "running system"},
		{"socket", nil, []string{p.root + "/s:/tmp/s"}, sandbox.ErrForbidden, "is a socket"},
		{"pipe", nil, []string{p.root + "/fifo:/tmp/s"}, sandbox.ErrForbidden, "is a pipe"},
		{"device", nil, []string{"/dev/null:/tmp/null"}, sandbox.ErrForbidden, "running system"},
		{"own", []string{p.own}, nil, sandbox.ErrForbidden, "belongs to Berth"},
		{"in own", nil, []string{p.own + "/sandboxes:/mnt/x:ro"}, sandbox.ErrForbidden, "belongs to Berth"},
		{"no guest", nil, []string{ok}, sandbox.ErrInvalid, "HOST:GUEST"},
		{"relative guest", nil, []string{ok + ":data"}, sandbox.ErrInvalid, "HOST:GUEST"},
		{"two guests", nil, []string{ok + ":/a:/b"}, sandbox.ErrInvalid, "HOST:GUEST"},
		{"no host", nil, []string{":/a"}, sandbox.ErrInvalid, "HOST:GUEST"},
		{"guest root", nil, []string{ok + ":/"}, sandbox.ErrForbidden, "cannot be replaced"},
		{"guest usr", nil, []string{ok + ":/usr/../usr"}, sandbox.ErrForbidden, "cannot be replaced"},
		{"guest home", nil, []string{ok + ":/home/agent"}, sandbox.ErrForbidden, "own user"},
		{"guest proc", nil, []string{ok + ":/proc/x"}, sandbox.ErrInvalid, "belongs to the sandbox itself"},
		{"guest agents", nil, []string{ok + ":/opt/berth/agent/claude"}, sandbox.ErrInvalid, "belongs to the sandbox itself"},
		{"guest run", nil, []string{ok + ":/run/x"}, sandbox.ErrForbidden, "cannot be replaced"},
		{"guest docker", nil, []string{ok + ":/var/lib/docker/x"}, sandbox.ErrForbidden, "cannot be replaced"},
		{"guest newline", nil, []string{ok + ":/a\nb"}, sandbox.ErrInvalid, "control characters"},
		{"both modes", []string{".", ".:ro"}, nil, sandbox.ErrInvalid, "read-only and writable"},
		{"same place", nil, []string{ok + ":/a", p.project + ":/a"}, sandbox.ErrInvalid, "both"},
		{"over a workspace", []string{"."}, []string{ok + ":" + p.project}, sandbox.ErrInvalid, "both"},
	} {
		t.Run(c.name, func(t *testing.T) {
			req := p.request(c.paths...)
			req.Volumes, req.Force = c.volumes, true // --force does not help here
			_, err := Resolve(req)
			if sandbox.ClassOf(err) != c.class || err == nil || !strings.Contains(err.Error(), c.says) {
				t.Fatalf("%v (class %q)", err, sandbox.ClassOf(err))
			}
		})
	}
}

func TestNeedsForce(t *testing.T) {
	p := newPlace(t)
	mkdir(t, p.home+"/.config/app")
	mkdir(t, p.home+"/.gnupg")
	for name, c := range map[string]struct {
		paths, volumes []string
		says           string
	}{
		"home":         {[]string{"~"}, nil, "is your home folder"},
		"above home":   {[]string{p.root + "/home"}, nil, "contains your home folder"},
		"home volume":  {nil, []string{"~:/mnt/h:ro"}, "is your home folder"},
		"berth within": {nil, []string{p.home + "/.local:/mnt/l"}, "where Berth keeps"},
		"keys":         {[]string{p.home + "/.gnupg"}, nil, "settings and keys"},
		"config":       {[]string{p.home + "/.config"}, nil, "settings and keys"},
	} {
		t.Run(name, func(t *testing.T) {
			req := p.request(c.paths...)
			req.Volumes = c.volumes
			_, err := Resolve(req)
			if !errors.Is(err, ErrNeedsForce) || sandbox.ClassOf(err) != sandbox.ErrPrecondition || !strings.Contains(err.Error(), c.says) {
				t.Fatal(err)
			}
			if !strings.Contains(sandbox.HintOf(err), "--force") {
				t.Fatal(sandbox.HintOf(err))
			}
			req.Force = true
			mustResolve(t, req)
		})
	}
	mustResolve(t, p.request(p.home+"/.config/app"))
}

// TestSSHKeys: no flag shows a sandbox the user's SSH keys. What is public of
// that folder is no secret.
func TestSSHKeys(t *testing.T) {
	p := newPlace(t)
	ssh := p.home + "/.ssh"
	mkdir(t, ssh+"/keys")
	for _, name := range []string{"id_ed25519", "keys/work", "id_ed25519.pub", "known_hosts", "config"} {
		write(t, ssh+"/"+name, "x")
	}
	if err := os.Symlink(ssh, p.root+"/link"); err != nil {
		t.Fatal(err)
	}
	for _, force := range []bool{false, true} {
		for _, c := range []struct{ paths, volumes []string }{
			{[]string{"~/.ssh"}, nil}, {[]string{ssh + "/keys:ro"}, nil}, {[]string{p.root + "/link"}, nil},
			{nil, []string{"~/.ssh:/mnt/ssh:ro"}}, {nil, []string{ssh + "/id_ed25519:/mnt/key:ro"}}, {nil, []string{ssh + "/keys/work:/mnt/key"}},
			{nil, []string{p.root + "/link/id_ed25519:/home/agent/.ssh/id_ed25519:ro"}}, {nil, []string{p.root + "/link:/mnt/x"}},
		} {
			req := p.request(c.paths...)
			req.Volumes, req.Force = c.volumes, force
			_, err := Resolve(req)
			if sandbox.ClassOf(err) != sandbox.ErrForbidden || !strings.Contains(err.Error(), "SSH keys") || !strings.Contains(sandbox.HintOf(err), "--ssh-agent") {
				t.Errorf("%v %v, forced %v: %v", c.paths, c.volumes, force, err)
			}
		}
	}
	for _, name := range []string{"id_ed25519.pub", "known_hosts", "config"} {
		req := p.request()
		req.Volumes = []string{ssh + "/" + name + ":/mnt/x:ro"}
		mustResolve(t, req)
	}
}

func TestUnreadable(t *testing.T) {
	if os.Geteuid() == 0 {
		// Root may read everything, so the answer of the kernel is made up.
		err := lookError("/x", syscall.EACCES)
		if sandbox.ClassOf(err) != sandbox.ErrUnavailable || !strings.Contains(err.Error(), "may not read /x") {
			t.Fatal(err)
		}
		return
	}
	p := newPlace(t)
	if err := os.Chmod(p.root+"/other", 0o100); err != nil {
		t.Fatal(err)
	}
	_, err := Resolve(p.request(p.root + "/other"))
	if sandbox.ClassOf(err) != sandbox.ErrUnavailable || !strings.Contains(err.Error(), "may not read") {
		t.Fatal(err)
	}
}

func TestOrder(t *testing.T) {
	in := []sandbox.Mount{same("/a/b/c"), same("/a-b"), same("/a"), same("/a/b")}
	want := []sandbox.Mount{same("/a"), same("/a-b"), same("/a/b"), same("/a/b/c")}
	if got := Order(in); !reflect.DeepEqual(got, want) || in[0].Guest != "/a/b/c" {
		t.Fatal(got, in)
	}
}

func TestIsWorkspace(t *testing.T) {
	p := newPlace(t)
	write(t, p.project+"/README.md", "x")
	for word, want := range map[string]bool{
		".": true, "..": true, "~": true, "src": true, "src:ro": true, "./src": true, "../x": true, "/nowhere": true,
		"~/x": true, "a/b": true, p.project: true,
		"": false, "--continue": false, "-p": false, "README.md": false, "fix": false, "Add error handling": false,
		"fix src/main.go please": false, "https://example.com/x": false, "--dir=/x": false, ":ro": false,
	} {
		if got := IsWorkspace(word, p.project, p.home); got != want {
			t.Errorf("%q: %v", word, got)
		}
	}
}

// TestSwappedLater: between the making of a sandbox and its next start, another
// sandbox's guest replaced a folder on the way by a symlink.
func TestSwappedLater(t *testing.T) {
	p := newPlace(t)
	plan := mustResolve(t, p.request(p.project+"/src"))
	if err := Verify(plan.Mounts()); err != nil {
		t.Fatal(err)
	}
	swaps := map[string]func(){
		"the folder":    func() { os.Remove(p.project + "/src"); symlink(t, p.home+"/.ssh", p.project+"/src") },
		"its parent":    func() { os.Rename(p.project, p.root+"/moved"); symlink(t, p.root+"/moved", p.project) },
		"nothing there": func() { os.Remove(p.project) },
	}
	for _, name := range []string{"the folder", "its parent", "nothing there"} {
		swaps[name]()
		err := Verify(plan.Mounts())
		if sandbox.ClassOf(err) != sandbox.ErrPrecondition || sandbox.HintOf(err) == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzResolve(f *testing.F) {
	for _, s := range []string{".", "x:ro", "/a:/b:ro", "~/x", "/proc/self/root/etc", "../../..", ":/:/:ro", "/dev/fd/0:/x"} {
		f.Add(s)
	}
	home := f.TempDir()
	f.Fuzz(func(t *testing.T, arg string) {
		IsWorkspace(arg, home, home)
		for _, req := range []Request{
			{Cwd: home, Home: home, Paths: []string{arg}, Force: true},
			{Cwd: home, Home: home, Paths: []string{home}, Volumes: []string{arg}, Force: true},
		} {
			plan, err := Resolve(req)
			if err != nil {
				continue
			}
			for _, m := range plan.Mounts() {
				if m.Check() != nil || checkText(m.Host+m.Guest) != nil || checkTarget(m.Guest) != nil || m.Host == "/" || within(m.Host, "/proc") {
					t.Fatalf("%q became %+v", arg, m)
				}
			}
		}
	})
}

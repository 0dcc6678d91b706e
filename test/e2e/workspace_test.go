package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestGitIdentity: a commit made inside is the user's, in a repository and in
// a linked worktree of it, and the repository's own configuration stays.
func TestGitIdentity(t *testing.T) {
	each(t, func(t *testing.T, u *user) {
		dir := u.workspace(t)
		main, linked := filepath.Join(dir, "main"), filepath.Join(dir, "linked")
		git := func(at string, args ...string) string {
			t.Helper()
			cmd := u.program(t.Context(), "git", at, args...)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("git %v: %v\n%s", args, err, out)
			}
			return strings.TrimSpace(string(out))
		}
		git(dir, "init", "-q", "-b", "trunk", main)
		git(dir, "config", "--global", "user.name", `Ada "the first" Lovelace`)
		git(dir, "config", "--global", "user.email", "ada@example.org")
		git(main, "commit", "-q", "--allow-empty", "-m", "start")
		git(main, "worktree", "add", "-q", linked)
		before := read(t, filepath.Join(main, ".git", "config"))
		for _, ws := range []string{main, linked} {
			name := u.fresh(t)
			u.must(t, ws, "create", "-q", "--name", name, "shell", ws)
			u.must(t, ws, "exec", "-w", ws, name, "sh", "-c", "echo x > made && git add made && git commit -q -m inside && git status --short")
			if got := git(ws, "log", "-1", "--format=%an <%ae> %s"); got != `Ada "the first" Lovelace <ada@example.org> inside` {
				t.Errorf("%s: the commit is %q", filepath.Base(ws), got)
			}
			u.must(t, ws, "rm", "-f", name)
		}
		if after := read(t, filepath.Join(main, ".git", "config")); after != before {
			t.Errorf("the repository's configuration was changed:\n%s", after)
		}
	})
}

// TestMounts: -v of a file and a folder, an extra read-only workspace that no
// remount opens, and the host's other files absent.
func TestMounts(t *testing.T) {
	each(t, func(t *testing.T, u *user) {
		ws, extra, name := u.workspace(t), u.workspace(t), u.fresh(t)
		file := filepath.Join(extra, "single")
		if err := os.WriteFile(file, []byte("one"), 0o644); err != nil {
			t.Fatal(err)
		}
		u.must(t, ws, "create", "-q", "--name", name, "-v", file+":/etc/single:ro", "-v", extra+":/data", "shell", ws, extra+":ro")
		if out := u.must(t, ws, "exec", name, "sh", "-c", "cat /etc/single "+file); out != "oneone" {
			t.Errorf("the guest reads %q", out)
		}
		u.must(t, ws, "exec", name, "sh", "-c", "echo w > /data/written")
		if got := read(t, filepath.Join(extra, "written")); got != "w\n" {
			t.Errorf("the host reads %q", got)
		}
		r := u.run(t, ws, nil, "exec", "-u", "root", name, "sh", "-c",
			"mount -o remount,rw "+extra+" 2>/dev/null; echo lost > "+file)
		if r.code == 0 || read(t, file) != "one" {
			t.Errorf("a read-only workspace was written: status %d, %q", r.code, read(t, file))
		}
	})
}

// TestCopy: files and folders go both ways, modes with them.
func TestCopy(t *testing.T) {
	each(t, func(t *testing.T, u *user) {
		ws, name := u.workspace(t), u.fresh(t)
		u.must(t, ws, "create", "-q", "--name", name, "shell", ws)
		src := filepath.Join(ws, "tree")
		if err := os.MkdirAll(filepath.Join(src, "sub"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(src, "sub", "run"), []byte("#!/bin/sh\necho ran\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		u.must(t, ws, "cp", src, name+":/home/agent/tree")
		if out := u.must(t, ws, "exec", name, "/home/agent/tree/sub/run"); out != "ran\n" {
			t.Errorf("copied program says %q", out)
		}
		u.must(t, ws, "cp", name+":/home/agent/tree", filepath.Join(ws, "back"))
		if got := read(t, filepath.Join(ws, "back", "sub", "run")); !strings.Contains(got, "echo ran") {
			t.Errorf("copied back: %q", got)
		}
	})
}

// TestStreams: bytes through pipes are unchanged, the two outputs stay apart,
// and the status is the command's own.
func TestStreams(t *testing.T) {
	each(t, func(t *testing.T, u *user) {
		ws, name := u.workspace(t), u.fresh(t)
		u.must(t, ws, "create", "-q", "--name", name, "shell", ws)
		blob := make([]byte, 20<<20)
		for i := range blob {
			blob[i] = byte(i * 7 >> 3)
		}
		cmd := u.command(t.Context(), ws, "exec", "-i", name, "cat")
		cmd.Stdin = strings.NewReader(string(blob))
		out, err := cmd.Output()
		if err != nil || string(out) != string(blob) {
			t.Errorf("%d of %d bytes came back, %v", len(out), len(blob), err)
		}
		r := u.run(t, ws, nil, "exec", name, "sh", "-c", "echo out; echo err >&2; exit 42")
		if r.code != 42 || r.out != "out\n" || r.err != "err\n" {
			t.Errorf("%+v", r)
		}
		for command, want := range map[string]int{"/no/such": 127, "nosuch": 127, "/etc/passwd": 126} {
			if r := u.run(t, ws, nil, "exec", name, command); r.code != want {
				t.Errorf("%s: status %d, want %d (%s)", command, r.code, want, r.err)
			}
		}
		if r := u.run(t, ws, nil, "exec", name, "sh", "-c", "kill -9 $$"); r.code != 137 {
			t.Errorf("killed: status %d", r.code)
		}
	})
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

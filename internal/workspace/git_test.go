package workspace

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"berth.dev/internal/sandbox"
)

// host is the environment of a user who has nothing configured but in home.
func host(home string, more ...string) []string {
	return append([]string{"HOME=" + home, "PATH=" + os.Getenv("PATH"), "GIT_CONFIG_NOSYSTEM=1", "LC_ALL=C"}, more...)
}

// git runs the real git, which these tests need, as that user.
func git(t *testing.T, home, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = host(home, "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b",
		"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=protocol.file.allow", "GIT_CONFIG_VALUE_0=always")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func TestGitIdentity(t *testing.T) {
	p := newPlace(t)
	work := p.root + "/work/repo"
	mkdir(t, work)
	git(t, p.home, work, "init", "-q")
	write(t, p.home+"/.gitconfig", "[user]\n\tname = \"Ann \\\"A\\\" O'Hara\"\n\temail = ann@home\n[includeIf \"gitdir:"+p.root+"/work/\"]\n\tpath = ~/work.inc\n")
	write(t, p.home+"/work.inc", "[user]\n\temail = ann@work\n")
	local := p.root + "/local"
	mkdir(t, local)
	git(t, p.home, local, "init", "-q")
	git(t, p.home, local, "config", "user.name", "Local")
	empty := t.TempDir()
	ann := `Ann "A" O'Hara`
	for name, c := range map[string]struct {
		dir  string
		env  []string
		want Identity
	}{
		"home":       {p.project, host(p.home), Identity{ann, "ann@home"}},
		"includeIf":  {work, host(p.home), Identity{ann, "ann@work"}},
		"repository": {local, host(p.home), Identity{"Local", "ann@home"}},
		"environ":    {work, host(p.home, "GIT_AUTHOR_NAME=Env", "GIT_AUTHOR_EMAIL=env@x"), Identity{"Env", "env@x"}},
		"EMAIL":      {p.root, host(empty, "EMAIL=e@x"), Identity{"", "e@x"}},
		"nothing":    {p.root, host(empty), Identity{}},
		"in a hook":  {p.project, host(p.home, "GIT_DIR="+local+"/.git", "GIT_CONFIG="+local+"/.git/config"), Identity{ann, "ann@home"}},
		"gone":       {p.root + "/gone", host(p.home), Identity{ann, "ann@home"}},
	} {
		if got, err := GitIdentity(t.Context(), c.dir, c.env); err != nil || got != c.want {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	t.Setenv("PATH", empty)
	if got, err := GitIdentity(t.Context(), work, host(p.home)); err != nil || got != (Identity{}) {
		t.Errorf("no git: %+v, %v", got, err)
	}
}

// TestHostileRepository: a repository that a guest prepared for the host's git.
func TestHostileRepository(t *testing.T) {
	p := newPlace(t)
	write(t, p.home+"/.gitconfig", "[user]\n\tname = Ann\n")
	git(t, p.home, p.project, "init", "-q")
	trap := p.root + "/trapped"
	cfg := p.project + "/.git/config"
	plain, err := os.ReadFile(cfg)
	if err != nil {
		t.Fatal(err)
	}
	sh := "!touch " + trap
	write(t, p.project+"/.git/hooks/post-index-change", "#!/bin/sh\ntouch "+trap+"\n")
	write(t, cfg, string(plain)+"[core]\n\tfsmonitor = \"touch "+trap+"\"\n\tpager = \"touch "+trap+"\"\n\tsshCommand = touch "+trap+
		"\n[alias]\n\tconfig = \""+sh+"\"\n[pager]\n\tconfig = \"touch "+trap+"\"\n")
	if id, err := GitIdentity(t.Context(), p.project, host(p.home)); err != nil || id.Name != "Ann" {
		t.Fatal(id, err)
	}
	if _, err := os.Stat(trap); err == nil {
		t.Fatal("the repository ran a command on the host")
	}
	// Broken, or a pipe that nobody writes to: the user's own name remains.
	write(t, cfg, "[broken")
	if id, err := GitIdentity(t.Context(), p.project, host(p.home)); err != nil || id.Name != "Ann" {
		t.Fatal(id, err)
	}
	if testing.Short() {
		return // the next one waits for the time limit
	}
	if err := errors.Join(os.Remove(cfg), syscall.Mkfifo(cfg, 0o600)); err != nil {
		t.Fatal(err)
	}
	if id, err := GitIdentity(t.Context(), p.project, host(p.home)); err != nil || id.Name != "Ann" {
		t.Fatal(id, err)
	}
}

// TestConfigIsReadByGit holds what is written for the guest against git itself.
func TestConfigIsReadByGit(t *testing.T) {
	for _, id := range []Identity{
		{"Ann", "ann@x"}, {`"q" \ # ; = [x]`, " lead and trail "}, {"Zoë\u2028 ü", ""}, {"", "only@mail"},
		{"x\n[core]\n\tfsmonitor = evil", "a\tb"},
	} {
		home := t.TempDir()
		write(t, home+"/.gitconfig", string(id.GlobalConfig()))
		got, err := GitIdentity(t.Context(), home, host(home))
		strip := strings.NewReplacer("\n", "", "\t", "")
		if want := (Identity{strip.Replace(id.Name), strip.Replace(id.Email)}); err != nil || got != want {
			t.Errorf("%+v became %+v, %v", id, got, err)
		}
		if out := git(t, home, home, "config", "--global", "--list"); strings.Contains(out, "core.fsmonitor") {
			t.Errorf("%+v: %s", id, out)
		}
	}
	if c := (Identity{}).GlobalConfig(); c != nil {
		t.Errorf("%q", c)
	}
	system := t.TempDir() + "/gitconfig"
	write(t, system, string(SystemConfig()))
	if out := git(t, t.TempDir(), "/", "config", "--file", system, "--list"); !strings.HasPrefix(out, "safe.directory=*\ngc.worktreepruneexpire=never\n") {
		t.Errorf("%q", out)
	}
	// Git signs in with the tokens, where they belong and nowhere else.
	for host, want := range map[string]string{
		"github.com": "username=x-access-token\npassword=hub", "gitlab.com": "username=oauth2\npassword=lab", "evil.example": "",
	} {
		cmd := exec.Command("git", "credential", "fill")
		cmd.Env = append(os.Environ(), "GIT_CONFIG_SYSTEM="+system, "GIT_CONFIG_GLOBAL=/dev/null", "GIT_TERMINAL_PROMPT=0", "GIT_ASKPASS=false",
			"GH_TOKEN=hub", "GITLAB_TOKEN=lab")
		cmd.Stdin = strings.NewReader("protocol=https\nhost=" + host + "\n\n")
		out, err := cmd.Output()
		if want == "" {
			if err == nil {
				t.Errorf("%s: %s", host, out)
			}
		} else if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("%s: %s, %v", host, out, err)
		}
	}
}

// repo is a main repository with one commit, a linked worktree and a submodule.
type repo struct{ main, linked, sub string }

func newRepo(t *testing.T, p place) repo {
	t.Helper()
	r := repo{main: p.root + "/main", linked: p.root + "/linked"}
	lib := p.root + "/lib"
	for _, dir := range []string{r.main, lib} {
		mkdir(t, dir)
		git(t, p.home, dir, "init", "-q")
		git(t, p.home, dir, "commit", "-q", "--allow-empty", "-m", "first")
	}
	git(t, p.home, r.main, "submodule", "--quiet", "add", lib, "sub")
	git(t, p.home, r.main, "commit", "-q", "-m", "sub")
	git(t, p.home, r.main, "worktree", "add", "-q", r.linked)
	r.sub = r.main + "/sub"
	return r
}

func TestLinkedWorktree(t *testing.T) {
	p := newPlace(t)
	r := newRepo(t, p)
	plan := mustResolve(t, p.request(r.linked))
	if !reflect.DeepEqual(plan.Git, []sandbox.Mount{same(r.main + "/.git")}) || len(plan.Links) != 0 {
		t.Fatalf("%+v", plan)
	}
	if got := mustResolve(t, p.request(r.linked+":ro")).Git; len(got) != 1 || !got[0].ReadOnly {
		t.Fatalf("%+v", got)
	}
	// Whole repositories need nothing, nor does what is visible anyway.
	for _, paths := range [][]string{{r.main}, {r.linked, r.main}, {p.project}} {
		if plan := mustResolve(t, p.request(paths...)); len(plan.Git) != 0 {
			t.Fatalf("%v: %+v", paths, plan)
		}
	}
	// A worktree in the main repository's own folder.
	git(t, p.home, r.main, "worktree", "add", "-q", r.main+"/.trees/x")
	if got := mustResolve(t, p.request(r.main+"/.trees/x")).Git; !reflect.DeepEqual(got, []sandbox.Mount{same(r.main + "/.git")}) {
		t.Fatalf("%+v", got)
	}
	// One of a bare repository.
	bare := p.root + "/bare.git"
	git(t, p.home, p.root, "clone", "-q", "--bare", r.main, bare)
	git(t, p.home, bare, "worktree", "add", "-q", p.root+"/of-bare")
	if got := mustResolve(t, p.request(p.root+"/of-bare")).Git; !reflect.DeepEqual(got, []sandbox.Mount{same(bare)}) {
		t.Fatalf("%+v", got)
	}
}

// TestWorktreeThroughSymlinks: the path that Git wrote down is not the real one.
func TestWorktreeThroughSymlinks(t *testing.T) {
	p := newPlace(t)
	r := newRepo(t, p)
	symlink(t, r.main, p.root+"/alias")
	write(t, r.linked+"/.git", "gitdir: "+p.root+"/alias/.git/worktrees/linked\n")
	plan := mustResolve(t, p.request(r.linked))
	if !reflect.DeepEqual(plan.Git, []sandbox.Mount{same(r.main + "/.git")}) ||
		!reflect.DeepEqual(plan.Links, []Link{{p.root + "/alias/.git", r.main + "/.git"}}) {
		t.Fatalf("%+v", plan)
	}
	// As newer versions of Git write it when told to: relative, both ways.
	write(t, r.linked+"/.git", "gitdir: ../main/.git/worktrees/linked\n")
	write(t, r.main+"/.git/worktrees/linked/gitdir", "../../../../linked/.git\n")
	plan = mustResolve(t, p.request(r.linked))
	if !reflect.DeepEqual(plan.Git, []sandbox.Mount{same(r.main + "/.git")}) || len(plan.Links) != 0 {
		t.Fatalf("%+v", plan)
	}
}

func TestSubmodule(t *testing.T) {
	p := newPlace(t)
	r := newRepo(t, p)
	if got := mustResolve(t, p.request(r.sub)).Git; !reflect.DeepEqual(got, []sandbox.Mount{same(r.main + "/.git/modules/sub")}) {
		t.Fatalf("%+v", got)
	}
	if got := mustResolve(t, p.request(r.main)).Git; len(got) != 0 {
		t.Fatalf("%+v", got)
	}
}

// TestHostileDotGit: whatever a .git file says, only what points back at the
// workspace is shared.
func TestHostileDotGit(t *testing.T) {
	p := newPlace(t)
	r := newRepo(t, p)
	other := p.root + "/other/.git"
	mkdir(t, filepath.Dir(other))
	git(t, p.home, filepath.Dir(other), "init", "-q")
	// A forged structure in the workspace itself, of which one part is a link
	// or a line that leads out.
	forge := func(gitdir, commondir string) string {
		dir := p.project + "/fake/worktrees/x"
		mkdir(t, p.project+"/fake/objects")
		mkdir(t, p.project+"/fake/refs")
		write(t, p.project+"/fake/HEAD", "ref: refs/heads/x\n")
		write(t, dir+"/gitdir", gitdir+"\n")
		write(t, dir+"/commondir", commondir+"\n")
		return "gitdir: " + dir + "\n"
	}
	own := p.project + "/.git"
	for name, text := range map[string]string{
		"keys":                      "gitdir: " + p.home + "/.ssh\n",
		"home":                      "gitdir: ../../\n",
		"another repository":        "gitdir: " + other + "\n",
		"another's worktree":        "gitdir: " + r.main + "/.git/worktrees/linked\n",
		"another's submodule":       "gitdir: " + r.main + "/.git/modules/sub\n",
		"nowhere":                   "gitdir: /nowhere/.git\n",
		"a file":                    "gitdir: /etc/passwd\n",
		"proc":                      "gitdir: /proc/self/root/etc\n",
		"forged in the workspace":   forge(own, "../.."),
		"forged common directory":   forge(own, p.home+"/.ssh"),
		"forged relative common":    forge(own, "../../../../../.ssh"),
		"a repository as a folder":  "gitdir: fake\n",
		"newline":                   "gitdir: " + p.home + "\n/.ssh\n",
		"too long":                  "gitdir: /" + strings.Repeat("x/", maxGitFile),
		"not a line that Git knows": "gitdir:" + other + "\n",
		"empty":                     "",
		"zero":                      "gitdir: \x00\n",
	} {
		t.Run(name, func(t *testing.T) {
			write(t, own, text)
			plan, err := Resolve(p.request())
			if err != nil {
				t.Fatal(err)
			}
			if len(plan.Git) != 0 || len(plan.Mounts()) != 1 || len(plan.Links) != 0 {
				t.Fatalf("shared: %+v", plan)
			}
			for _, w := range plan.Warnings {
				if sandbox.ClassOf(w) == sandbox.ErrForbidden && sandbox.HintOf(w) == "" {
					t.Fatal(w)
				}
			}
		})
	}
	// The structure is whole, but its folder of worktrees is a link outwards.
	forge(own, "../..")
	if err := os.RemoveAll(p.project + "/fake/worktrees"); err != nil {
		t.Fatal(err)
	}
	symlink(t, r.main+"/.git/worktrees", p.project+"/fake/worktrees")
	write(t, own, "gitdir: fake/worktrees/linked\n")
	if plan, err := Resolve(p.request()); err != nil || len(plan.Git) != 0 {
		t.Fatal(plan, err)
	}
	// A pipe must not make Berth wait.
	if err := errors.Join(os.Remove(own), syscall.Mkfifo(own, 0o600)); err != nil {
		t.Fatal(err)
	}
	if plan, err := Resolve(p.request()); err != nil || len(plan.Git) != 0 {
		t.Fatal(plan, err)
	}
}

// TestWorktreeOfBerth: the back pointer is right, but the place is not one to
// share without being asked.
func TestWorktreeOfBerth(t *testing.T) {
	p := newPlace(t)
	r := newRepo(t, p)
	git(t, p.home, p.root, "clone", "-q", "--bare", r.main, p.own+"/r.git")
	git(t, p.home, p.own+"/r.git", "worktree", "add", "-q", p.root+"/wt")
	plan, err := Resolve(p.request(p.root + "/wt"))
	if err != nil || len(plan.Git) != 0 || len(plan.Warnings) != 1 || !errors.Is(plan.Warnings[0], sandbox.ErrForbidden) {
		t.Fatalf("%+v, %v", plan, err)
	}
}

func FuzzDotGit(f *testing.F) {
	f.Add("gitdir: ../main/.git/worktrees/x\n", "../..", "[core]\n\tworktree = \"../x\"\n")
	f.Add("gitdir: /proc/self/fd/0\n", "/", "[core]\nworktree=")
	root, err := filepath.EvalSymlinks(f.TempDir())
	if err != nil {
		f.Fatal(err)
	}
	ws, dir := root+"/ws", root+"/main/.git/worktrees/x"
	for _, d := range []string{ws, dir, root + "/main/.git/objects", root + "/main/.git/refs"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			f.Fatal(err)
		}
	}
	f.Fuzz(func(t *testing.T, dotGit, common, config string) {
		write(t, ws+"/.git", dotGit)
		write(t, dir+"/commondir", common)
		write(t, root+"/main/.git/config", config)
		m, _, err := gitDir(same(ws))
		if err == nil && m != nil {
			t.Fatalf("nothing points back, but %+v is shared", m)
		}
	})
}

func TestGitIsAskedOnlyAsLongAsWanted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := GitIdentity(ctx, "/", host(t.TempDir())); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

package bundle

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"berth.dev/internal/sandbox"
)

func fullSpec() sandbox.Spec {
	return sandbox.Spec{
		Agent: "claude", Engine: "gvisor", Template: "claude", Image: "sha256:1", Workspace: "/home/u/My Project",
		Mounts:    []sandbox.Mount{{Host: "/home/u/My Project", Guest: "/home/u/My Project"}, {Host: "/srv/lib", Guest: "/lib2", ReadOnly: true}},
		Env:       map[string]string{"A": "1"},
		HostPorts: []int{5432},
		Resources: sandbox.Resources{CPUs: 2, Memory: 4 << 30},
		IdleAfter: 30 * time.Minute,
	}
}

func TestCreateAndReadBack(t *testing.T) {
	s := newStore(t)
	b := mustCreate(t, s, fullSpec())
	if b.Name() != "claude-my-project" || b.Named() || len(b.ID()) != 12 {
		t.Fatalf("name %q, named %v, id %q", b.Name(), b.Named(), b.ID())
	}
	want := fullSpec()
	want.Name = b.Name()
	for _, by := range []string{b.Name(), b.ID(), b.ID()[:3]} {
		got, err := s.Find(by)
		if err != nil {
			t.Fatalf("find %q: %v", by, err)
		}
		if got.ID() != b.ID() || !got.Created().Equal(b.Created()) || !reflect.DeepEqual(got.Spec(), want) {
			t.Fatalf("find %q: %s", by, asJSON(t, got.Spec()))
		}
	}
	for path, mode := range map[string]os.FileMode{"": 0o700, "spec.json": 0o600, "log": 0o700, "root": 0o700, "keys": 0o700} {
		info, err := os.Stat(filepath.Join(b.Dir(), path))
		if err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
}

func TestNames(t *testing.T) {
	s := newStore(t)
	first := mustCreate(t, s, sandbox.Spec{Agent: "claude", Workspace: "/a/web"})
	second := mustCreate(t, s, sandbox.Spec{Agent: "claude", Workspace: "/b/web"})
	third := mustCreate(t, s, sandbox.Spec{Agent: "claude", Workspace: "/b/web", Remove: true})
	if first.Name() != "claude-web" || second.Name() != "claude-web-2" || third.Name() != "claude-web-3" {
		t.Fatal(first.Name(), second.Name(), third.Name())
	}
	_, err := s.Create(sandbox.Spec{Agent: "claude", Workspace: "/a/web"})
	wantClass(t, err, sandbox.ErrExists)
	_, err = s.Create(sandbox.Spec{Name: "claude-web", Agent: "codex"})
	wantClass(t, err, sandbox.ErrExists)
	_, err = s.Create(sandbox.Spec{Name: "../x", Agent: "codex"})
	wantClass(t, err, sandbox.ErrInvalid)
	_, err = s.Create(sandbox.Spec{Name: "ok", Mounts: []sandbox.Mount{{Host: "/x", Guest: "/proc/1"}}})
	if !errors.Is(err, sandbox.ErrInvalid) {
		t.Fatal(err)
	}
	// An empty folder, or one half made by hand, is no sandbox.
	if err := os.Mkdir(filepath.Join(s.dir, "empty"), 0o755); err != nil {
		t.Fatal(err)
	}
	if b := mustCreate(t, s, sandbox.Spec{Name: "empty", Agent: "shell"}); !b.Named() {
		t.Fatal("not named")
	}
}

func TestFindErrors(t *testing.T) {
	s := newStore(t)
	mustCreate(t, s, sandbox.Spec{Name: "claude-web", Agent: "claude"})
	mustCreate(t, s, sandbox.Spec{Name: "unrelated", Agent: "claude"})
	for typo, hint := range map[string]string{"claude-wbe": "did you mean claude-web?", "web": "did you mean claude-web?", "zzz": "berth ls"} {
		_, err := s.Find(typo)
		wantClass(t, err, sandbox.ErrNotFound)
		if !strings.Contains(sandbox.HintOf(err), hint) {
			t.Errorf("%s: hint %q", typo, sandbox.HintOf(err))
		}
	}
	for _, bad := range []string{"", ".", "..", "../..", ".create.lock", "a/b", "\x00"} {
		if _, err := s.Find(bad); !errors.Is(err, sandbox.ErrNotFound) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestFindFor(t *testing.T) {
	s := newStore(t)
	_, err := s.FindFor("claude", "/w")
	wantClass(t, err, sandbox.ErrNotFound)
	mustCreate(t, s, sandbox.Spec{Agent: "claude", Workspace: "/w", Remove: true})
	_, err = s.FindFor("claude", "/w")
	wantClass(t, err, sandbox.ErrNotFound)
	mustCreate(t, s, sandbox.Spec{Name: "one", Agent: "claude", Workspace: "/w"})
	if b, err := s.FindFor("claude", "/w"); err != nil || b.Name() != "one" {
		t.Fatal(b, err)
	}
	mustCreate(t, s, sandbox.Spec{Name: "two", Agent: "claude", Workspace: "/w"})
	_, err = s.FindFor("claude", "/w")
	wantClass(t, err, sandbox.ErrPrecondition)
	if _, err := s.FindFor("codex", "/w"); !errors.Is(err, sandbox.ErrNotFound) {
		t.Fatal(err)
	}
}

func TestObtain(t *testing.T) {
	s := newStore(t)
	prepared := 0
	prepare := func(spec sandbox.Spec) (sandbox.Spec, error) {
		prepared++
		spec.Template = "claude"
		return spec, nil
	}
	asked := sandbox.Spec{Agent: "claude", Workspace: "/w"}
	first, made, err := s.Obtain(asked, prepare)
	if err != nil || !made || prepared != 1 {
		t.Fatal(made, prepared, err)
	}
	again, made, err := s.Obtain(asked, prepare)
	if err != nil || made || prepared != 1 || again.ID() != first.ID() {
		t.Fatal(made, prepared, err)
	}
	asked.Template = "other"
	_, _, err = s.Obtain(asked, prepare)
	wantClass(t, err, sandbox.ErrPrecondition)
	asked.Template = ""

	asked.Remove = true
	gone, made, err := s.Obtain(asked, prepare)
	if err != nil || !made || gone.ID() == first.ID() {
		t.Fatal(made, err)
	}
	asked.Remove = false

	boom := errors.New("no template")
	asked.Workspace = "/other"
	if _, _, err := s.Obtain(asked, func(s sandbox.Spec) (sandbox.Spec, error) { return s, boom }); !errors.Is(err, boom) {
		t.Fatal(err)
	}
	// Somebody else makes it while we prepare: theirs is the one.
	var theirs *Bundle
	b, made, err := s.Obtain(asked, func(sp sandbox.Spec) (sandbox.Spec, error) {
		theirs = mustCreate(t, s, sp)
		return sp, nil
	})
	if err != nil || made || b.ID() != theirs.ID() {
		t.Fatal(made, err)
	}
}

// TestConcurrentCreators: as many processes as it takes to collide.
func TestConcurrentCreators(t *testing.T) {
	s := newStore(t)
	const n = 12
	run := func(words func(i int) []string) (names map[string]int, failed []string) {
		names = map[string]int{}
		var mu sync.Mutex
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				cmd := exec.Command("/proc/self/exe")
				cmd.Env = append(os.Environ(), childEnv+"="+strings.Join(append([]string{"create", s.dir}, words(i)...), "\n"))
				var errs strings.Builder
				cmd.Stderr = &errs
				out, err := cmd.Output()
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					failed = append(failed, errs.String())
					return
				}
				names[strings.TrimSpace(string(out))]++
			})
		}
		wg.Wait()
		return names, failed
	}
	names, failed := run(func(int) []string { return []string{"mine", "claude", "/w"} })
	if len(names) != 1 || names["mine"] != 1 || len(failed) != n-1 {
		t.Fatalf("same name: %v, %d failed", names, len(failed))
	}
	for _, msg := range failed {
		if !strings.HasPrefix(msg, string(sandbox.ErrExists)) {
			t.Fatalf("same name: %s", msg)
		}
	}
	names, failed = run(func(i int) []string { return []string{"", "claude", "/" + strings.Repeat("x", i+1) + "/web"} })
	if len(names) != n || len(failed) != 0 {
		t.Fatalf("numbered: %v, failed %v", names, failed)
	}
	names, failed = run(func(int) []string { return []string{"", "codex", "/same"} })
	if len(names) != 1 || len(failed) != n-1 {
		t.Fatalf("same workspace: %v, %d failed", names, len(failed))
	}
}

func TestListTellsTheTruth(t *testing.T) {
	s := newStore(t)
	idle := mustCreate(t, s, sandbox.Spec{Name: "idle", Agent: "shell"})
	mustCreate(t, s, sandbox.Spec{Name: "live", Agent: "shell"})
	bad := mustCreate(t, s, sandbox.Spec{Name: "bad", Agent: "shell"})
	if err := os.WriteFile(filepath.Join(bad.Dir(), specFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd, _ := start(t, "run", s.dir, "live")
	entries, err := s.List()
	if err != nil || len(entries) != 3 {
		t.Fatal(entries, err)
	}
	if entries[0].Name != "bad" || entries[0].Bundle != nil {
		t.Fatal(entries[0])
	}
	wantClass(t, entries[0].Err, sandbox.ErrInternal)
	if in := idle.Info(); in.Status != sandbox.Stopped || in.Leftover || !in.NeverRan {
		t.Fatalf("idle: %+v", in)
	}
	live := entries[2].Bundle
	if in := live.Info(); in.Status != sandbox.Running || in.Leftover || in.State.Supervisor.PID != cmd.Process.Pid {
		t.Fatalf("live: %+v", in)
	}
	_, err = live.Lock()
	wantClass(t, err, sandbox.ErrPrecondition)
	wantClass(t, s.Delete("live"), sandbox.ErrPrecondition)

	// kill -9: the truth is that it is stopped, and that something is left.
	if err := live.Info().State.Supervisor.Signal(9); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	in := live.Info()
	if in.Status != sandbox.Stopped || !in.Leftover || len(in.State.Resources) != 1 {
		t.Fatalf("killed: %+v", in)
	}
	h := mustLock(t, live)
	if err := h.Forget("socket", "/run/x"); err != nil {
		t.Fatal(err)
	}
	if err := h.Update(func(st *State) { st.Status = sandbox.Stopped }); err != nil {
		t.Fatal(err)
	}
	if in := live.Info(); in.Leftover || in.Status != sandbox.Stopped || in.NeverRan {
		t.Fatalf("mended: %+v", in)
	}
}

func TestCrashWhileCreatingOrDeleting(t *testing.T) {
	s := newStore(t)
	killed(t, "create-killed", s.dir, "half")
	if _, err := s.Find("half"); !errors.Is(err, sandbox.ErrNotFound) {
		t.Fatal(err)
	}
	mustCreate(t, s, sandbox.Spec{Name: "half", Agent: "shell"})
	killed(t, "delete-killed", s.dir, "half")
	if _, err := s.Find("half"); !errors.Is(err, sandbox.ErrNotFound) {
		t.Fatal(err)
	}
	if n, err := s.Sweep(); n != 2 || err != nil {
		t.Fatalf("swept %d: %v", n, err)
	}
	infos, err := os.ReadDir(s.dir)
	if err != nil || len(infos) != 1 || infos[0].Name() != createLock {
		t.Fatal(infos, err)
	}
}

func TestDeleteWhateverIsBroken(t *testing.T) {
	breakages := map[string]func(dir string) error{
		"nothing":       func(string) error { return nil },
		"no-spec":       func(d string) error { return os.Remove(filepath.Join(d, specFile)) },
		"empty-spec":    func(d string) error { return os.WriteFile(filepath.Join(d, specFile), nil, 0o600) },
		"spec-folder":   func(d string) error { return swapForFolder(filepath.Join(d, specFile)) },
		"lock-folder":   func(d string) error { return swapForFolder(filepath.Join(d, lockFile)) },
		"gate-folder":   func(d string) error { return swapForFolder(filepath.Join(d, gateFile)) },
		"state-garbage": func(d string) error { return os.WriteFile(filepath.Join(d, stateFile), []byte("\x00"), 0o600) },
		"newer":         func(d string) error { return os.WriteFile(filepath.Join(d, specFile), []byte(`{"format":99}`), 0o600) },
		"closed-tree": func(d string) error {
			deep := filepath.Join(d, rootDir, "a", "b")
			return errors.Join(os.MkdirAll(deep, 0o700), os.WriteFile(filepath.Join(deep, "f"), nil, 0), os.Chmod(deep, 0), os.Chmod(filepath.Dir(deep), 0o500))
		},
		"link-out": func(d string) error { return os.Symlink("/", filepath.Join(d, rootDir, "host")) },
	}
	for name, damage := range breakages {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			b := mustCreate(t, s, sandbox.Spec{Name: name, Agent: "shell"})
			if err := damage(b.Dir()); err != nil {
				t.Fatal(err)
			}
			if _, err := s.List(); err != nil {
				t.Fatal(err)
			}
			b.Info() // must not panic
			if err := s.Delete(name); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Find(name); !errors.Is(err, sandbox.ErrNotFound) {
				t.Fatal(err)
			}
			if n, err := s.Sweep(); n != 0 || err != nil {
				t.Fatalf("left %d: %v", n, err)
			}
		})
	}
	wantClass(t, newStore(t).Delete("nobody"), sandbox.ErrNotFound)
}

func swapForFolder(path string) error {
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return err
	}
	return os.MkdirAll(filepath.Join(path, "x"), 0o700)
}

func TestLockOfAnotherSandboxOfTheSameName(t *testing.T) {
	s := newStore(t)
	old := mustCreate(t, s, sandbox.Spec{Name: "x", Agent: "shell"})
	if err := s.Delete("x"); err != nil {
		t.Fatal(err)
	}
	_, err := old.Lock()
	wantClass(t, err, sandbox.ErrNotFound)
	mustCreate(t, s, sandbox.Spec{Name: "x", Agent: "shell"})
	_, err = old.Lock()
	wantClass(t, err, sandbox.ErrNotFound)
}

// TestLookingDisturbsNobody: a probe holds the lock for a moment, and Lock must
// not take that for a supervisor.
func TestLookingDisturbsNobody(t *testing.T) {
	s := newStore(t)
	b := mustCreate(t, s, sandbox.Spec{Name: "x", Agent: "shell"})
	self, err := Self()
	if err != nil {
		t.Fatal(err)
	}
	h := mustLock(t, b)
	if err := h.Update(func(st *State) { st.Status, st.Supervisor = sandbox.Running, self }); err != nil {
		t.Fatal(err)
	}
	if err := h.Unlock(); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					b.Info()
				}
			}
		})
	}
	for range 200 {
		h, err := b.Lock()
		if err != nil {
			t.Error(err)
			break
		}
		if in := b.Info(); in.Status != sandbox.Running {
			t.Errorf("held, but %s", in.Status)
		}
		if err := h.Unlock(); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	wg.Wait()
}

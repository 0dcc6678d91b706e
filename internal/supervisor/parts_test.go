package supervisor

import (
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"berth.dev/internal/bundle"
	"berth.dev/internal/engine"
	"berth.dev/internal/engine/enginetest"
	"berth.dev/internal/guestapi"
	"berth.dev/internal/sandbox"
)

func held(t *testing.T) *bundle.Held {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	store, err := bundle.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	b, err := store.Create(sandbox.Spec{Name: "x", Agent: "shell"})
	if err != nil {
		t.Fatal(err)
	}
	h, err := b.Lock()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Unlock() })
	return h
}

// fakeMachine is a machine whose saves can be made to fail.
func fakeMachine(t *testing.T) (*enginetest.Fake, engine.Machine) {
	t.Helper()
	fake := enginetest.NewFake()
	m, err := enginetest.FakeOnly(t, fake)
	if err != nil {
		t.Fatal(err)
	}
	return fake, m
}

func TestSaver(t *testing.T) {
	h := held(t)
	fake, m := fakeMachine(t)
	now := time.Now()
	kept := 0
	s := newSaver(h, m, fake, func() error { kept++; return nil })
	s.now = func() time.Time { return now }
	s.tried = now
	var work time.Duration
	s.work = func() time.Duration { return work }
	check := func(what string, want bool) {
		t.Helper()
		if got := s.due(); got != want {
			t.Errorf("%s: due %v", what, got)
		}
	}
	check("at the start", false)
	now = now.Add(time.Hour)
	check("after an hour without a change", false)
	now = now.Add(time.Hour)
	work = 5 * time.Second
	check("after an hour of quiet work", true)
	s.dirty = false
	s.worked = work
	now = now.Add(time.Hour)
	s.touched()
	check("after a change", true)
	if err := s.save(); err != nil {
		t.Fatal(err)
	}
	if _, meta, err := h.CurrentSave(); err != nil || meta.EngineBuild != "fake-1" || kept != 1 {
		t.Errorf("saved by %q, %v; program kept %d times", meta.EngineBuild, err, kept)
	}
	s.touched()
	check("right after a save", false)
	s.want()
	check("after the end of a session", true)

	fake.SaveErr = errors.New("disk full")
	if err := s.save(); err == nil {
		t.Fatal("a save that failed was none")
	}
	if at, why := s.last(); at.IsZero() || why != "disk full" {
		t.Errorf("last save %v, %q", at, why)
	}
	if _, _, err := h.CurrentSave(); err != nil {
		t.Errorf("the save before is gone: %v", err)
	}
	now = now.Add(saveEvery)
	check("what was not saved waits", true)
	s.took = time.Minute
	s.want()
	now = s.tried.Add(time.Minute)
	check("after a long save, a rest", false)
}

func TestSessionsIdle(t *testing.T) {
	now := time.Now()
	s := newSessions(time.Minute, false)
	s.now = func() time.Time { return now }
	s.active = now
	later := func(d time.Duration, want bool, what string) {
		t.Helper()
		now = now.Add(d)
		if got := s.idle(); got != want {
			t.Errorf("%s: idle %v", what, got)
		}
	}
	later(59*time.Second, false, "before its time")
	later(time.Second, true, "at its time")
	release := s.hold()
	later(time.Hour, false, "with somebody connected")
	s.started("a", guestapi.Exec)
	release()
	later(time.Hour, false, "with a session")
	s.finished("a")
	later(30*time.Second, false, "after it")
	later(time.Minute, true, "long after it")
	s.postpone()
	later(time.Second, false, "postponed")
	s.idleAfter = 0
	later(24*time.Hour, false, "with no idle time")
}

func TestSessionsRemove(t *testing.T) {
	gone := func(s *sessions) bool {
		select {
		case <-s.removed:
			return true
		default:
			return false
		}
	}
	s := newSessions(0, true)
	release := s.hold()
	s.started("e", guestapi.Exec)
	s.started("a", guestapi.Agent)
	s.finished("a")
	if gone(s) {
		t.Error("it went while somebody was connected")
	}
	release()
	if !gone(s) {
		t.Error("it stayed after its agent")
	}
	other := newSessions(0, false)
	other.started("a", guestapi.Agent)
	other.finished("a")
	if gone(other) {
		t.Error("one that was to stay went")
	}
}

func TestReap(t *testing.T) {
	h := held(t)
	sleep := exec.Command("sleep", "1000")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	reaped := make(chan error, 1)
	go func() { reaped <- sleep.Wait() }() // else it would stay as a zombie
	defer func() { <-reaped }()
	p, err := bundle.ProcessOf(sleep.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	socket, run := filepath.Join(dir, "s.sock"), filepath.Join(dir, "x.d")
	if err := errors.Join(os.WriteFile(socket, nil, 0o600), os.MkdirAll(filepath.Join(run, "deep"), 0o700)); err != nil {
		t.Fatal(err)
	}
	err = h.Update(func(st *bundle.State) {
		st.Status = sandbox.Running
		st.Resources = []bundle.Resource{{Kind: kindSocket, Name: socket}, {Kind: kindRunDir, Name: run}, {Kind: kindProcess, Name: "p", Process: p}}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := Reap(h); err != nil {
		t.Fatal(err)
	}
	st := h.State()
	if st.Status != sandbox.Stopped || len(st.Resources) != 0 || !strings.Contains(st.Failure, "killed") {
		t.Errorf("%+v", st)
	}
	if p.Alive() {
		t.Error("the process lives")
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// TestReapRefuses: a record is a file, and what it names is not removed blindly.
func TestReapRefuses(t *testing.T) {
	for _, r := range []bundle.Resource{
		{Kind: kindRunDir, Name: "/home"}, {Kind: kindRunDir, Name: "x.d"}, {Kind: "mount", Name: "/"},
	} {
		if err := release(r); err == nil {
			t.Errorf("%+v was released", r)
		}
	}
}

func TestMemoryCap(t *testing.T) {
	_, m := fakeMachine(t) // it says that it uses 1 MiB
	ended := 0
	c := memoryCap{machine: m.(engine.MemoryReporter), log: slog.New(slog.DiscardHandler), reclaim: func() (string, error) { ended++; return "x", nil }}
	c.enforce()
	c.cap = 2 << 20
	c.enforce()
	if ended != 0 {
		t.Errorf("%d processes were ended below the cap", ended)
	}
	c.cap = 1<<20 - 1
	c.enforce()
	if ended != 1 {
		t.Errorf("%d processes were ended above the cap", ended)
	}
}

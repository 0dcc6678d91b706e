package bundle

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"berth.dev/internal/sandbox"
)

func TestProcessIsNotItsPid(t *testing.T) {
	self, err := Self()
	if err != nil || !self.Alive() {
		t.Fatal(self, err)
	}
	for name, change := range map[string]func(*Process){
		"reused pid":   func(p *Process) { p.Start++ },
		"another boot": func(p *Process) { p.Boot = "x" },
		"nobody":       func(p *Process) { p.PID = 0 },
	} {
		other := self
		change(&other)
		if other.Alive() {
			t.Errorf("%s is alive", name)
		}
		if err := other.Signal(0); !errors.Is(err, sandbox.ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
	far := self
	far.Namespace = "pid:[1]"
	if !far.Alive() {
		t.Error("a process that cannot be seen is said to be dead")
	}
	if err := far.Signal(0); !errors.Is(err, sandbox.ErrNotFound) {
		t.Errorf("signalled across namespaces: %v", err)
	}
	if err := self.Signal(0); err != nil {
		t.Error(err)
	}
}

func TestConcurrentUpdates(t *testing.T) {
	b := mustCreate(t, newStore(t), sandbox.Spec{Name: "x", Agent: "shell"})
	h := mustLock(t, b)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if err := h.Record(Resource{Kind: "k", Name: strings.Repeat("n", i+1)}); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			if st, ok := b.readState(); !ok {
				t.Errorf("torn: %+v", st)
			}
		})
	}
	wg.Wait()
	if n := len(b.State().Resources); n != 20 {
		t.Fatalf("%d of 20 recorded", n)
	}
}

func TestStartLock(t *testing.T) {
	b := mustCreate(t, newStore(t), sandbox.Spec{Name: "x", Agent: "shell"})
	unlock, err := b.StartLock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if in := b.Info(); !in.Starting || in.Status != sandbox.Creating {
		t.Fatalf("%+v", in)
	}
	got := make(chan error)
	go func() {
		second, err := b.StartLock(context.Background())
		if err == nil {
			err = second()
		}
		got <- err
	}()
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	done, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.StartLock(done); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

func TestKeys(t *testing.T) {
	b := mustCreate(t, newStore(t), sandbox.Spec{Name: "x", Agent: "shell"})
	h := mustLock(t, b)
	first, err := h.Keys()
	if err != nil || first.Client.Equal(first.Host) {
		t.Fatal(err)
	}
	again, err := h.Keys()
	if err != nil || !again.Client.Equal(first.Client) || !again.Host.Equal(first.Host) {
		t.Fatal("keys changed", err)
	}
	for _, name := range []string{"client", "host"} {
		info, err := os.Stat(filepath.Join(b.Dir(), keysDir, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Fatal(info, err)
		}
	}
	if err := os.Truncate(filepath.Join(b.Dir(), keysDir, "host"), 0); err != nil {
		t.Fatal(err)
	}
	mended, err := h.Keys()
	if err != nil || mended.Host.Equal(first.Host) || !mended.Client.Equal(first.Client) {
		t.Fatal("torn key", err)
	}
}

func TestCompare(t *testing.T) {
	b := mustCreate(t, newStore(t), fullSpec())
	same := fullSpec()
	same.Name = b.Name()
	same.Image, same.IdleAfter = "sha256:2", time.Hour
	for name, asked := range map[string]sandbox.Spec{"same": same, "nothing": {}} {
		if err := Compare(b, asked); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for want, asked := range map[string]sandbox.Spec{
		"agent is claude, not codex":                        {Agent: "codex"},
		"workspace is /home/u/My Project, not /x":           {Workspace: "/x"},
		"template is claude, not shell":                     {Template: "shell"},
		"engine is gvisor, not microvm":                     {Engine: "microvm"},
		"(--rm)":                                            {Remove: true},
		"it has no mount at /data":                          {Mounts: []sandbox.Mount{{Host: "/d", Guest: "/data"}}},
		"/lib2 is /srv/lib, not /srv/other":                 {Mounts: []sandbox.Mount{{Host: "/srv/other", Guest: "/lib2", ReadOnly: true}}},
		"/lib2 is read-only, not writable":                  {Mounts: []sandbox.Mount{{Host: "/srv/lib", Guest: "/lib2"}}},
		"it has no variable B":                              {Env: map[string]string{"B": "secret"}},
		"the variable A has another value":                  {Env: map[string]string{"A": "secret"}},
		"it may not reach the host's port 80":               {HostPorts: []int{5432, 80}},
		"its number of CPUs is 2, not 4":                    {Resources: sandbox.Resources{CPUs: 4}},
		"its memory is 4294967296 bytes, not 1048576 bytes": {Resources: sandbox.Resources{Memory: 1 << 20}},
		"its disk is not limited, not 5 bytes":              {Resources: sandbox.Resources{Disk: 5}},
	} {
		err := Compare(b, asked)
		wantClass(t, err, sandbox.ErrPrecondition)
		if !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("want %q in: %v", want, err)
		}
		if !strings.Contains(sandbox.HintOf(err), "berth rm claude-my-project") {
			t.Errorf("hint %q", sandbox.HintOf(err))
		}
	}
}

func TestLogIsBoundedAndReadBack(t *testing.T) {
	b := mustCreate(t, newStore(t), sandbox.Spec{Name: "x", Agent: "shell"})
	var empty bytes.Buffer
	if err := b.ReadLog(&empty, AgentLog, -1); err != nil || empty.Len() != 0 {
		t.Fatal(err)
	}
	h := mustLock(t, b)
	l, err := h.OpenLog(AgentLog, 1000)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 1000 {
		if _, err := l.Write([]byte("line " + strings.Repeat("x", i%10) + "\n")); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Write([]byte("x")); !errors.Is(err, os.ErrClosed) {
		t.Fatal(err)
	}
	var all, three bytes.Buffer
	if err := errors.Join(b.ReadLog(&all, AgentLog, -1), b.ReadLog(&three, AgentLog, 3)); err != nil {
		t.Fatal(err)
	}
	if all.Len() > 1000 || all.Len() < 500 {
		t.Fatalf("%d bytes", all.Len())
	}
	if got := three.String(); got != "line xxxxxxx\nline xxxxxxxx\nline xxxxxxxxx\n" {
		t.Fatalf("%q", got)
	}
}

func TestLastLines(t *testing.T) {
	for _, c := range []struct {
		text string
		n    int
		want string
	}{
		{"", 3, ""}, {"a", 0, ""}, {"a", 1, "a"}, {"a\nb", 1, "b"}, {"a\nb\n", 1, "b\n"}, {"a\nb\n", 2, "a\nb\n"},
		{"a\nb\n", 9, "a\nb\n"}, {"a\n\n", 1, "\n"}, {"\n\n", 1, "\n"}, {"a\nb\n", -1, "a\nb\n"},
	} {
		if got := string(lastLines([]byte(c.text), c.n)); got != c.want {
			t.Errorf("last %d of %q: %q, want %q", c.n, c.text, got, c.want)
		}
	}
}

func TestFollowLog(t *testing.T) {
	b := mustCreate(t, newStore(t), sandbox.Spec{Name: "x", Agent: "shell"})
	h := mustLock(t, b)
	r, w := io.Pipe()
	over := make(chan struct{})
	ended := make(chan error)
	go func() {
		err := b.FollowLog(t.Context(), w, SupervisorLog, 1, func() bool {
			select {
			case <-over:
				return true
			default:
				return false
			}
		})
		_ = w.Close()
		ended <- err
	}()
	l, err := h.OpenLog(SupervisorLog, 64)
	if err != nil {
		t.Fatal(err)
	}
	// Each line is read before the next is written, so none can be turned over
	// unseen, and every other one turns the log over.
	for i := range 20 {
		line := strings.Repeat(string(rune('a'+i)), 20) + "\n"
		if _, err := l.Write([]byte(line)); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(line))
		if _, err := io.ReadFull(r, got); err != nil || string(got) != line {
			t.Fatalf("followed %q (%v), wrote %q", got, err, line)
		}
	}
	close(over)
	if rest, err := io.ReadAll(r); err != nil || len(rest) != 0 {
		t.Fatalf("%q, %v", rest, err)
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}

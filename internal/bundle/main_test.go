package bundle

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"berth.dev/internal/failpoint"
	"berth.dev/internal/sandbox"
)

// The test binary plays the other processes: run with childEnv set, it does
// what the first word says to the store in the second, and no test.
const childEnv = "BERTH_TEST_CHILD"

func TestMain(m *testing.M) {
	if job := os.Getenv(childEnv); job != "" {
		os.Exit(child(strings.Split(job, "\n")))
	}
	os.Exit(m.Run())
}

// child runs one job: verb, store, further words. It prints what the parent
// waits for.
func child(job []string) int {
	s, err := Open(job[1])
	if err != nil {
		return childError(err)
	}
	switch job[0] {
	case "create": // name or "", agent, workspace
		b, err := s.Create(sandbox.Spec{Name: job[2], Agent: job[3], Workspace: job[4]})
		if err != nil {
			return childError(err)
		}
		fmt.Println(b.Name())
	case "create-killed": // name
		armKill("bundle.create.staged")
		_, err := s.Create(sandbox.Spec{Name: job[2], Agent: "shell"})
		return childError(err)
	case "delete-killed": // name
		armKill("bundle.delete.moved")
		return childError(s.Delete(job[2]))
	case "run": // name: hold the bundle as a supervisor does, until killed
		if err := playSupervisor(s, job[2]); err != nil {
			return childError(err)
		}
	case "save-killed": // name, failpoint, content
		return childError(saveAndDie(s, job[2], job[3], job[4]))
	}
	return 0
}

func playSupervisor(s *Store, name string) error {
	b, err := s.Find(name)
	if err != nil {
		return err
	}
	h, err := b.Lock()
	if err != nil {
		return err
	}
	self, err := Self()
	if err != nil {
		return err
	}
	if err := h.Record(Resource{Kind: "socket", Name: "/run/x"}); err != nil {
		return err
	}
	if err := h.Update(func(st *State) { st.Status, st.Supervisor = sandbox.Running, self }); err != nil {
		return err
	}
	fmt.Println("running")
	select {}
}

func saveAndDie(s *Store, name, point, content string) error {
	b, err := s.Find(name)
	if err != nil {
		return err
	}
	h, err := b.Lock()
	if err != nil {
		return err
	}
	if point != "" {
		armKill(point)
	}
	return writeSave(h, content)
}

// writeSave saves two files, one in a folder, both holding content.
func writeSave(h *Held, content string) error {
	dir, err := h.BeginSave()
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "root.img"), []byte(content), 0o600); err != nil {
		return err
	}
	if err := failpoint.Hit("test.save.half"); err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(dir, "tmpfs"), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "tmpfs", "a.img"), []byte(content), 0o600); err != nil {
		return err
	}
	return h.CommitSave(Meta{Engine: "fake", EngineBuild: "1", Extra: map[string]string{"content": content}})
}

func armKill(point string) {
	failpoint.Arm(point, func() error {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	})
}

func childError(err error) int {
	if err == nil {
		return 0
	}
	fmt.Fprintf(os.Stderr, "%s: %v\n", sandbox.ClassOf(err), err)
	return 3
}

// start begins a job in another process and returns its first line of output
// once it is there.
func start(t *testing.T, job ...string) (*exec.Cmd, string) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), childEnv+"="+strings.Join(job, "\n"))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("child %v: %v", job, err)
	}
	return cmd, strings.TrimSpace(line)
}

// killed runs a job that must end by SIGKILL, and by nothing else.
func killed(t *testing.T, job ...string) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), childEnv+"="+strings.Join(job, "\n"))
	cmd.Stderr = os.Stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("child %v was not killed at its failpoint: %v", job, err)
	}
}

func newStore(t *testing.T) *Store {
	t.Helper()
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustCreate(t *testing.T, s *Store, spec sandbox.Spec) *Bundle {
	t.Helper()
	b, err := s.Create(spec)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func mustLock(t *testing.T, b *Bundle) *Held {
	t.Helper()
	h, err := b.Lock()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Unlock() })
	return h
}

func wantClass(t *testing.T, err error, class sandbox.Class) {
	t.Helper()
	if !errors.Is(err, class) || sandbox.ClassOf(err) != class {
		t.Fatalf("got error %v (class %q), want class %q", err, sandbox.ClassOf(err), class)
	}
	if sandbox.HintOf(err) == "" {
		t.Fatalf("error %v has no hint", err)
	}
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

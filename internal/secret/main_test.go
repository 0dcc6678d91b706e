package secret

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"berth.dev/internal/failpoint"
)

// childEnv makes the test binary play another process: a job of words, one a
// line: verb, folder, bus, further words.
const childEnv = "BERTH_TEST_CHILD"

func TestMain(m *testing.M) {
	if job := os.Getenv(childEnv); job != "" {
		if err := child(strings.Split(job, "\n")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func child(job []string) error {
	ctx := context.Background()
	s, err := Open(job[1], WithEnv(vars("DBUS_SESSION_BUS_ADDRESS", job[2], "PATH", os.Getenv("PATH"))))
	if err != nil {
		return err
	}
	switch job[0] {
	case "set-many": // prefix
		for i := range perChild {
			name := fmt.Sprintf("%s%d", job[3], i)
			if err := s.Set(ctx, Entry{Name: name}, NewValue("v-"+name)); err != nil {
				return err
			}
		}
	case "set-killed": // failpoint, name, value: "" removes
		failpoint.Arm(job[3], func() error { return syscall.Kill(os.Getpid(), syscall.SIGKILL) })
		if job[5] == "" {
			return s.Remove(ctx, job[4], "")
		}
		return s.Set(ctx, Entry{Name: job[4]}, NewValue(job[5]))
	case "token": // name, times: prints what it got
		src, _, err := s.Source(job[3], "")
		if err != nil {
			return err
		}
		tok, err := src.Token(ctx)
		if err != nil {
			return err
		}
		fmt.Print(tok.Value.Reveal())
	case "renew": // name: the next of a token that is good once
		_, err := s.Update(ctx, job[3], func(_ context.Context, old Value) (Value, error) {
			time.Sleep(5 * time.Millisecond)
			return NewValue(old.Reveal() + "+"), nil
		})
		return err
	}
	return nil
}

// play runs the test binary with a job, and returns what it printed.
func play(job ...string) (string, error) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+strings.Join(job, "\n"))
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, errs.Bytes())
	}
	return out.String(), err
}

// killed reports whether an error of play says that the process killed itself.
func killed(err error) bool {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return false
	}
	ws, ok := exit.Sys().(syscall.WaitStatus)
	return ok && ws.Signal() == syscall.SIGKILL
}

func vars(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

// notes collects what a store has its user know.
type notes struct {
	mu  sync.Mutex
	all []string
}

func (n *notes) add(s string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.all = append(n.all, s)
}

func (n *notes) take() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := strings.Join(n.all, "\n")
	n.all = nil
	return s
}

// open opens a store whose commands find the usual programs and no desktop.
func open(t testing.TB, dir string, opts ...Option) (*Store, *notes) {
	t.Helper()
	n := &notes{}
	opts = append([]Option{WithEnv(vars("PATH", os.Getenv("PATH"), "HOME", t.TempDir())), WithNote(n.add)}, opts...)
	s, err := Open(dir, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return s, n
}

// onDesktop is the options of a store that reaches a desktop.
func onDesktop(d *desktop, more ...string) Option {
	return WithEnv(vars(append([]string{"DBUS_SESSION_BUS_ADDRESS", d.address, "PATH", os.Getenv("PATH")}, more...)...))
}

// patience is how long a keyring that answers may take on a slow machine;
// quickly is for one that does not.
func patience(o *options) { o.callTime = 20 * time.Second }
func quickly(o *options)  { o.callTime = 300 * time.Millisecond }

// clock is a time that tests move.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Now().Truncate(time.Second)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func (c *clock) option(o *options) { o.now = c.now }

func set(t testing.TB, s *Store, e Entry, text string) {
	t.Helper()
	if err := s.Set(t.Context(), e, NewValue(text)); err != nil {
		t.Fatal(err)
	}
}

// token is what the source of a secret gives now.
func token(t testing.TB, s *Store, name, sandboxName string) string {
	t.Helper()
	src, _, err := s.Source(name, sandboxName)
	if err != nil {
		t.Fatal(err)
	}
	return tokenOf(t, src)
}

func tokenOf(t testing.TB, src Source) string {
	t.Helper()
	tok, err := src.Token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return tok.Value.Reveal()
}

// files are all regular files below a folder, with what they hold.
func files(t testing.TB, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		rel, _ := filepath.Rel(dir, path)
		all[rel] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// shortDir is a folder whose path leaves room for a socket.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "s")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

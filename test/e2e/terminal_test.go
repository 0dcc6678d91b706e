package e2e

import (
	"io"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
)

// screen is berth in a real terminal, with a person's keys and eyes.
type screen struct {
	t    *testing.T
	f    *os.File
	wait func() error

	mu   sync.Mutex
	seen strings.Builder
}

// open starts berth in a terminal of 100 by 30.
func (u *user) open(t *testing.T, dir string, args ...string) *screen {
	t.Helper()
	return u.openWith(t, dir, nil, args...)
}

// openWith is open with env beside the user's own.
func (u *user) openWith(t *testing.T, dir string, env []string, args ...string) *screen {
	t.Helper()
	cmd := u.command(t.Context(), dir, args...)
	cmd.Env = append(append(cmd.Env, "TERM=xterm-256color", "COLORTERM=truecolor"), env...)
	f, err := pty.StartWithAttrs(cmd, &pty.Winsize{Cols: 100, Rows: 30}, sessionAttr(cmd.SysProcAttr))
	if err != nil {
		t.Fatal(err)
	}
	s := &screen{t: t, f: f, wait: cmd.Wait}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 4096)
		for {
			n, err := f.Read(buf)
			s.mu.Lock()
			s.seen.Write(buf[:n])
			s.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() { f.Close(); <-done })
	return s
}

// text is what has been seen so far.
func (s *screen) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen.String()
}

// keys types.
func (s *screen) keys(text string) {
	s.t.Helper()
	if _, err := io.WriteString(s.f, text); err != nil {
		s.t.Fatal(err)
	}
}

// see waits until the text has appeared.
func (s *screen) see(text string) {
	s.t.Helper()
	deadline := time.Now().Add(patience)
	for !strings.Contains(s.text(), text) {
		if time.Now().After(deadline) {
			s.t.Fatalf("never saw %q in:\n%q", text, s.text())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// styles are how terminals are told about colours and places.
var styles = regexp.MustCompile(`\x1b\[[0-9;?]*[a-zA-Z]`)

// blanks fill a terminal.
var blanks = regexp.MustCompile(`[ ─│]{2,}`)

// find waits until something like it has appeared, whatever its colour.
func (s *screen) find(what *regexp.Regexp) string {
	s.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		text := styles.ReplaceAllString(s.text(), "")
		if found := what.FindString(text); found != "" {
			return found
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("never saw %s in:\n%s", what, blanks.ReplaceAllString(text, " "))
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// TestTerminal: a session is as at home, is left with ctrl-p ctrl-q, and is
// come back to as it was.
func TestTerminal(t *testing.T) {
	each(t, func(t *testing.T, u *user) {
		ws, name := u.workspace(t), u.fresh(t)
		s := u.open(t, ws, "run", "-q", "--name", name, "shell", ws)
		s.keys("PS1='$((6*7))> '\r")
		s.see("42> ")
		s.keys("stty size; echo $TERM $COLORTERM; printf 'gr\\303\\274n\\n'\r")
		s.see("30 100")
		s.see("xterm-256color truecolor")
		s.see("grün")
		if err := pty.Setsize(s.f, &pty.Winsize{Cols: 77, Rows: 22}); err != nil {
			t.Fatal(err)
		}
		s.keys("sleep 0.2; stty size\r")
		s.see("22 77")
		s.keys("sleep 1000\r")
		time.Sleep(200 * time.Millisecond) // until it is in the foreground
		s.keys("\x03")
		s.keys("echo interrupted $?\r")
		s.see("interrupted 130")
		s.keys("mark=kept; echo ready-$mark\r")
		s.see("ready-kept")
		s.keys("\x10\x11") // ctrl-p ctrl-q
		if err := s.wait(); err != nil {
			t.Errorf("leaving: %v", err)
		}
		if in := u.inspect(t, name); in.Status != "running" {
			t.Errorf("after leaving it is %s", in.Status)
		}
		again := u.open(t, ws, "attach", name)
		again.see("ready-kept") // the screen was drawn again
		again.keys("echo still-$mark\r")
		again.see("still-kept")
		again.keys("exit 9\r")
		if err := again.wait(); err == nil || !strings.Contains(err.Error(), "exit status 9") {
			t.Errorf("the agent's status: %v", err)
		}
		if out := u.must(t, ws, "logs", name); !strings.Contains(out, "still-kept") {
			t.Errorf("the log lacks what was shown: %q", out)
		}
	})
}

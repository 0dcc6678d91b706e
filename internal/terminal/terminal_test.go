package terminal

import (
	"bytes"
	"io"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"berth.dev/internal/guestapi"
)

func open(t *testing.T) (user *os.File, term *Terminal) {
	t.Helper()
	user, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tty.Close(); user.Close() })
	term, ok := Open(tty, tty)
	if !ok {
		t.Fatal("a terminal is not taken for one")
	}
	return user, term
}

func flags(t *testing.T, f *os.File) uint32 {
	t.Helper()
	st, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return st.Lflag
}

func read(t *testing.T, f *os.File, n int) string {
	t.Helper()
	if err := f.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, n)
	m, err := io.ReadFull(f, b)
	if err != nil {
		t.Fatalf("read %q: %v", b[:m], err)
	}
	return string(b)
}

func TestRawPassesEveryKey(t *testing.T) {
	user, term := open(t)
	before := flags(t, term.in)
	if err := term.Raw(); err != nil {
		t.Fatal(err)
	}
	keys := "\x03\x1a\x04\r\xc3\xa9\x1b[200~x\x1b[201~"
	if _, err := user.WriteString(keys); err != nil {
		t.Fatal(err)
	}
	if got := read(t, term.in, len(keys)); got != keys {
		t.Errorf("got %q, want %q", got, keys)
	}
	term.Restore()
	if after := flags(t, term.in); after != before {
		t.Errorf("flags %x after, %x before", after, before)
	}
}

func TestRestoreEndsWhatAProgramSwitchedOn(t *testing.T) {
	user, term := open(t)
	if err := term.Raw(); err != nil {
		t.Fatal(err)
	}
	on := "\x1b[?1049h\x1b[?25l\x1b[?2004h\x1b[?1002h\x1b[>1u"
	if _, err := term.Write([]byte(on)); err != nil {
		t.Fatal(err)
	}
	if got := read(t, user, len(on)); got != on {
		t.Fatalf("output %q, want it unchanged", got)
	}
	term.Restore()
	term.Restore() // once is enough
	want := []string{"\x1b[?1049l", "\x1b[?25h", "\x1b[?2004l", "\x1b[?1002l", "\x1b[<1u", "\x1b[m"}
	total := 0
	for _, w := range want {
		total += len(w)
	}
	got := read(t, user, total)
	for _, w := range want {
		if !bytes.Contains([]byte(got), []byte(w)) {
			t.Errorf("%q is not undone by %q", w, got)
		}
	}
}

func TestGuardRestoresOnPanic(t *testing.T) {
	_, term := open(t)
	before := flags(t, term.in)
	if err := term.Raw(); err != nil {
		t.Fatal(err)
	}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		defer term.Guard()
		panic("defect")
	}()
	if after := flags(t, term.in); after != before {
		t.Error("the terminal is still raw")
	}
}

func TestSizes(t *testing.T) {
	user, term := open(t)
	sizes, stop := term.Sizes()
	defer stop()
	for _, want := range []guestapi.Size{{Cols: 100, Rows: 30}, {Cols: 40, Rows: 10}} {
		if err := pty.Setsize(user, &pty.Winsize{Cols: want.Cols, Rows: want.Rows}); err != nil {
			t.Fatal(err)
		}
		// The kernel tells the terminal's foreground group, which a test is not in.
		if err := syscall.Kill(os.Getpid(), syscall.SIGWINCH); err != nil {
			t.Fatal(err)
		}
		if got := <-sizes; got != want {
			t.Errorf("got %v, want %v", got, want)
		}
	}
	stop()
	if _, more := <-sizes; more {
		t.Error("a size after stop")
	}
}

func TestOpenWantsTwoTerminals(t *testing.T) {
	_, term := open(t)
	if _, ok := Open(bytes.NewReader(nil), term.out); ok {
		t.Error("a reader is no terminal")
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if _, ok := Open(term.in, null); ok {
		t.Error("/dev/null is no terminal")
	}
}

// TestSignals takes a signal that nohup, under which CI may run, does not ignore.
func TestSignals(t *testing.T) {
	signals, stop := Signals()
	defer stop()
	if err := syscall.Kill(os.Getpid(), syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	if s := <-signals; SignalName(s) != "USR1" {
		t.Errorf("got %v", s)
	}
}

func TestForget(t *testing.T) {
	user, term := open(t)
	for _, typed := range []string{"yes\nhalf a li", "yes\n"} {
		if _, err := user.WriteString(typed); err != nil {
			t.Fatal(err)
		}
		_ = read(t, user, len(typed)) // its echo: the terminal has it
		Forget(term.in)
	}
	if _, err := user.WriteString("no\n"); err != nil {
		t.Fatal(err)
	}
	if got := read(t, term.in, 3); got != "no\n" {
		t.Errorf("read %q", got)
	}
	Forget(nil)
}

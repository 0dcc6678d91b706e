package guest_test

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"berth.dev/internal/guest/guesttest"
	"berth.dev/internal/guestapi"
	"berth.dev/internal/guestapi/client"
)

// console is a client at a terminal session: what it types and what it sees.
type console struct {
	t      *testing.T
	in     *io.PipeWriter
	out    *screen
	resize chan guestapi.Size
	detach chan struct{}
	info   chan guestapi.SessionInfo
	result chan guestapi.Result
	err    error
}

// screen is output that can be waited for.
type screen struct {
	more chan struct{}
	log  guesttest.Log
}

func (s *screen) Write(p []byte) (int, error) {
	n, err := s.log.Write(p)
	select {
	case s.more <- struct{}{}:
	default:
	}
	return n, err
}

// open joins a console by one of the client's calls.
func open(t *testing.T, call func(client.Attach) (guestapi.Result, error)) *console {
	t.Helper()
	r, w := io.Pipe()
	k := &console{
		t: t, in: w, out: &screen{more: make(chan struct{}, 1)},
		resize: make(chan guestapi.Size), detach: make(chan struct{}),
		info: make(chan guestapi.SessionInfo, 1), result: make(chan guestapi.Result, 1),
	}
	go func() {
		res, err := call(client.Attach{
			Stdin: r, Stdout: k.out, Resize: k.resize, Detach: k.detach,
			Started: func(i guestapi.SessionInfo) { k.info <- i },
		})
		k.err = err
		k.result <- res
	}()
	return k
}

func start(t *testing.T, c *client.Client, spec guestapi.SessionSpec) *console {
	spec.TTY = true
	return open(t, func(a client.Attach) (guestapi.Result, error) { return c.Start(guesttest.Context(t), spec, a) })
}

func attach(t *testing.T, c *client.Client, req guestapi.AttachRequest) *console {
	return open(t, func(a client.Attach) (guestapi.Result, error) { return c.Attach(guesttest.Context(t), req, a) })
}

// see waits until the text stands on the screen n times.
func (k *console) see(text string, n int) {
	k.t.Helper()
	limit := time.After(guesttest.Timeout)
	for strings.Count(k.out.log.String(), text) < n {
		select {
		case <-k.out.more:
		case <-limit:
			k.t.Fatalf("no %q in %q", text, k.out.log.String())
		}
	}
}

func (k *console) enter(text string) {
	k.t.Helper()
	if _, err := io.WriteString(k.in, text); err != nil {
		k.t.Fatal(err)
	}
}

func (k *console) end() guestapi.Result {
	k.t.Helper()
	select {
	case r := <-k.result:
		if k.err != nil {
			k.t.Fatal(k.err)
		}
		return r
	case <-time.After(guesttest.Timeout):
		k.t.Fatalf("the session did not end: %q", k.out.log.String())
		return guestapi.Result{}
	}
}

func bash(script string) guestapi.SessionSpec {
	return guestapi.SessionSpec{Args: []string{"/bin/bash", "--norc", "-c", script}}
}

func TestTerminalSize(t *testing.T) {
	t.Parallel()
	c := guesttest.Start(t).Dial(t)
	// The trap does next to nothing: bash forgets a signal that comes while it
	// runs the trap of the same one.
	spec := bash(`stty size; trap 'w=1' WINCH; echo ready; while :; do
		[ "$w" = 1 ] && { w=0; stty size; [ "$(stty size)" = "30 200" ] && exit 9; }; sleep 0.01; done`)
	spec.Size = guestapi.Size{Cols: 133, Rows: 41}
	k := start(t, c, spec)
	k.see("41 133", 1)
	k.see("ready", 1)
	k.resize <- guestapi.Size{Cols: 90, Rows: 30}
	k.see("30 90", 1)
	k.resize <- guestapi.Size{Cols: 200, Rows: 30}
	if r := k.end(); r.ExitCode != 9 {
		t.Fatalf("%+v", r)
	}
}

// The terminal is the session's own: keys become signals, jobs stop and go on,
// and characters of more than one byte are whole.
func TestTerminalKeys(t *testing.T) {
	t.Parallel()
	c := guesttest.Start(t).Dial(t)
	spec := guestapi.SessionSpec{Args: []string{"/bin/bash", "--norc", "--noediting", "-i"}, Env: map[string]string{"PS1": "PROMPT> ", "TERM": "xterm"}}
	k := start(t, c, spec)
	k.see("PROMPT> ", 1)
	k.enter("tty; echo TERM=$TERM; ps -o tpgid= -p $$ >/dev/null && echo ctty; cat\n")
	k.see("/dev/pts/", 1)
	k.see("TERM=xterm\r\n", 1)
	k.see("ctty\r\n", 1)
	k.enter("gr\u00fc\u00dfe \u65e5\u672c\n")
	k.see("gr\u00fc\u00dfe \u65e5\u672c\r\n", 2) // echoed, and by cat
	k.enter("ab\u00fc\x7fc\n")                   // erases one character, not one byte
	k.see("abc\r\n", 1)
	k.enter("\x1a")
	k.see("Stopped", 1)
	k.see("PROMPT> ", 2)
	k.enter("fg >/dev/null\n")
	k.enter("again\n")
	k.see("again\r\n", 2)
	k.enter("\x03")
	k.see("PROMPT> ", 3) // what was typed before would be flushed
	k.enter("echo rc=$?\n")
	k.see("rc=130", 1)
	k.enter("sleep 1000 &\nkill %1; wait; echo waited\n")
	k.see("waited\r\n", 1)
	k.enter("exit 6\n")
	if r := k.end(); r.ExitCode != 6 {
		t.Fatalf("%+v", r)
	}
}

func TestTerminalEOF(t *testing.T) {
	t.Parallel()
	c := guesttest.Start(t).Dial(t)
	k := start(t, c, bash("stty -echo; cat; echo over"))
	k.enter("line\n")
	k.see("line\r\n", 1)
	k.in.Close()
	if r := k.end(); r.ExitCode != 0 || !strings.HasSuffix(k.out.log.String(), "over\r\n") {
		t.Fatalf("%+v %q", r, k.out.log.String())
	}
}

// A signal goes to what is in the foreground, as Ctrl-C would.
func TestTerminalSignal(t *testing.T) {
	t.Parallel()
	c := guesttest.Start(t).Dial(t)
	spec := guestapi.SessionSpec{ID: "s", Args: []string{"/bin/bash", "--norc", "-i"}, Env: map[string]string{"PS1": "$ "}}
	k := start(t, c, spec)
	k.see("$ ", 1)
	k.enter("bash -c 'echo in front; sleep 1000'; echo rc=$?\n")
	k.see("in front\r\n", 1)
	if err := c.Signal(guesttest.Context(t), "s", "TERM"); err != nil {
		t.Fatal(err)
	}
	k.see("rc=143", 1)
	if err := c.CloseSession(guesttest.Context(t), "s"); err != nil {
		t.Fatal(err)
	}
	if r := k.end(); r.Signal == "KILL" {
		t.Fatalf("%+v", r)
	}
}

// Detach, and come back where one was: not a byte is missing or there twice.
func TestDetachAndResume(t *testing.T) {
	t.Parallel()
	g := guesttest.Start(t)
	c := g.Dial(t)
	spec := bash("stty -echo; for i in $(seq 1 2000); do echo $i; [ $i = 1000 ] && { echo half; read x; }; done; true")
	spec.ID = "resume"
	k := start(t, c, spec)
	k.see("half\r\n", 1)
	close(k.detach)
	if r := k.end(); !r.Detached {
		t.Fatalf("%+v", r)
	}
	seen := k.out.log.String()
	other := g.Dial(t)
	k2 := attach(t, other, guestapi.AttachRequest{ID: "resume", From: guestapi.Offsets{Stdout: int64(len(seen))}})
	k2.enter("\n")
	if r := k2.end(); r.ExitCode != 0 || r.Lost != 0 {
		t.Fatalf("%+v", r)
	}
	var want strings.Builder
	for i := 1; i <= 2000; i++ {
		fmt.Fprintf(&want, "%d\r\n", i)
		if i == 1000 {
			want.WriteString("half\r\n")
		}
	}
	if got := seen + k2.out.log.String(); got != want.String() {
		t.Fatalf("%d bytes, want %d", len(got), want.Len())
	}
}

// Nobody listens: the program runs on, and the newest output is kept.
func TestNobodyAttached(t *testing.T) {
	t.Parallel()
	c := guesttest.Start(t, func(c *guestapi.Config) { c.Ring = 10000 }).Dial(t)
	for _, tty := range []bool{true, false} {
		spec := bash("stty -onlcr 2>/dev/null; head -c 3000000 /dev/zero | tr '\\0' x; echo; echo last")
		spec.TTY, spec.ID = tty, fmt.Sprintf("n-%t", tty)
		if _, err := c.StartDetached(guesttest.Context(t), spec); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		for {
			info, err := c.Session(guesttest.Context(t), spec.ID)
			if err != nil {
				t.Fatal(err)
			}
			if info.Result != nil {
				break
			}
		}
		res, err := c.Attach(guesttest.Context(t), guestapi.AttachRequest{ID: spec.ID}, client.Attach{Stdout: &out})
		if err != nil || out.Len() != 10000 || !strings.HasSuffix(out.String(), "x\nlast\n") {
			t.Errorf("tty %t: %v, %d bytes", tty, err, out.Len())
		}
		if want := int64(3000006 - 10000); res.Lost != want {
			t.Errorf("tty %t: lost %d, want %d", tty, res.Lost, want)
		}
	}
}

// A second client of a full-screen program gets its modes, no questions to its
// terminal, and a repaint; one that stands still does not stop the program.
func TestScreen(t *testing.T) {
	t.Parallel()
	g := guesttest.Start(t)
	c, c2 := g.Dial(t), g.Dial(t)
	spec := bash(`stty raw -echo; trap 'printf PAINT' WINCH; printf '\033[?1049h\033[?2004h\033[c\033[>1uBODY'; while :; do read -t 0.01 -N 1 x; [ "$x" = q ] && exit 0; done`)
	spec.ID, spec.Size = "full", guestapi.Size{Cols: 80, Rows: 24}
	k := start(t, c, spec)
	k.see("BODY", 1)
	k2 := attach(t, c2, guestapi.AttachRequest{ID: "full", Screen: true, Size: guestapi.Size{Cols: 80, Rows: 24}})
	k2.see("PAINT", 1)
	k.see("PAINT", 1)
	got := k2.out.log.String()
	for _, want := range []string{"\x1b[?1049h", "\x1b[?2004h", "\x1b[>1u"} {
		if strings.Count(got, want) != 1 {
			t.Errorf("%q is not once in %q", want, got)
		}
	}
	if strings.Contains(got, "BODY") || strings.Contains(got, "\x1b[c") {
		t.Errorf("replayed: %q", got)
	}
	k2.enter("q")
	if r := k2.end(); r.ExitCode != 0 {
		t.Fatalf("%+v", r)
	}
	k.end()
}

// The terminal has the size of who used it last.
func TestSizeOfTheActiveClient(t *testing.T) {
	t.Parallel()
	g := guesttest.Start(t)
	c, c2 := g.Dial(t), g.Dial(t)
	spec := bash(`stty -echo; trap ' ' WINCH; while read x; do echo "$x: $(stty size)"; done`)
	spec.ID, spec.Size = "sizes", guestapi.Size{Cols: 80, Rows: 24}
	k := start(t, c, spec)
	k.enter("a\n")
	k.see("a: 24 80", 1)
	k2 := attach(t, c2, guestapi.AttachRequest{ID: "sizes", Size: guestapi.Size{Cols: 120, Rows: 50}})
	<-k2.info
	k2.enter("b\n")
	k.see("b: 50 120", 1)
	k.enter("c\n")
	k2.see("c: 24 80", 1)
	// Who only watches changes nothing and types nothing.
	k3 := attach(t, c2, guestapi.AttachRequest{ID: "sizes", Size: guestapi.Size{Cols: 10, Rows: 10}, ReadOnly: true, From: guestapi.Offsets{Stdout: -1}})
	k3.enter("nothing\n")
	k3.see("c: 24 80", 1)
	k2.enter("d\n")
	k3.see("d: 50 120", 1)
	close(k2.detach)
	k2.end()
	k.enter("e\n")
	k3.see("e: 24 80", 1)
	k.enter("\x04")
	k.end()
	if r := k3.end(); r.ExitCode != 0 || strings.Contains(k3.out.log.String(), "nothing") {
		t.Fatalf("%+v %q", r, k3.out.log.String())
	}
}

// Descendants that hold the terminal do not keep the session open.
func TestTerminalBackground(t *testing.T) {
	t.Parallel()
	c := guesttest.Start(t).Dial(t)
	k := start(t, c, bash("trap '' HUP; (trap '' HUP; sleep 1000) & echo started; exit 3"))
	if r := k.end(); r.ExitCode != 3 || !strings.Contains(k.out.log.String(), "started\r\n") {
		t.Fatalf("%+v %q", r, k.out.log.String())
	}
}

// Terminals end cleanly however short a session is: its output is never cut.
func TestTerminalShort(t *testing.T) {
	t.Parallel()
	c := guesttest.Start(t).Dial(t)
	for i := range 50 {
		k := start(t, c, bash("head -c 3000 /dev/zero | tr '\\0' x; exit 1"))
		if r := k.end(); r.ExitCode != 1 || len(k.out.log.String()) != 3000 {
			t.Fatalf("round %d: %+v, %d bytes", i, r, len(k.out.log.String()))
		}
	}
}

package guest_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"berth.dev/internal/guest/guesttest"
	"berth.dev/internal/guestapi"
	"berth.dev/internal/guestapi/client"
	"berth.dev/internal/sandbox"
)

func TestMain(m *testing.M) { guesttest.Main(m) }

// sh is a session on pipes that runs a shell command.
func sh(script string) guestapi.SessionSpec {
	return guestapi.SessionSpec{Args: []string{"/bin/sh", "-c", script}}
}

// run runs a session to its end and returns its output.
func run(t testing.TB, c *client.Client, spec guestapi.SessionSpec, stdin io.Reader) (guestapi.Result, string, string) {
	t.Helper()
	var out, errOut bytes.Buffer
	spec.Stdin = stdin != nil
	res, err := c.Start(guesttest.Context(t), spec, client.Attach{Stdin: stdin, Stdout: &out, Stderr: &errOut})
	if err != nil {
		t.Fatalf("%q: %v", spec.Args, err)
	}
	return res, out.String(), errOut.String()
}

func TestStreamsAndStatus(t *testing.T) {
	t.Parallel()
	c := guesttest.Start(t).Dial(t)
	tests := []struct {
		script   string
		stdin    io.Reader
		code     int
		sig      string
		out, err string
	}{
		{"echo out; echo err >&2; exit 3", nil, 3, "", "out\n", "err\n"},
		{"cat; echo done", strings.NewReader("a\x00b\xff"), 0, "", "a\x00b\xffdone\n", ""},
		{"cat", nil, 0, "", "", ""}, // without stdin there is its end
		{"kill -9 $$", nil, 137, "KILL", "", ""},
		{"kill -TERM $$", nil, 143, "TERM", "", ""},
		{"/bin/sh -c 'exit 255'", nil, 255, "", "", ""},
		{"exec >&-; exec 2>&-; exit 4", nil, 4, "", "", ""},
		{"printf '%s' \"$FOO\"", nil, 0, "", "b=a'r\n", ""},
		{"ps -o tty= -p $$ | tr -d ' '", nil, 0, "", "?\n", ""},
	}
	for _, tt := range tests {
		spec := sh(tt.script)
		spec.Env = map[string]string{"FOO": "b=a'r\n"}
		res, out, errOut := run(t, c, spec, tt.stdin)
		if res.ExitCode != tt.code || res.Signal != tt.sig || out != tt.out || errOut != tt.err || res.Lost != 0 {
			t.Errorf("%s: got %+v, %q, %q", tt.script, res, out, errOut)
		}
	}
}

func TestStartErrors(t *testing.T) {
	t.Parallel()
	g := guesttest.Start(t)
	c := g.Dial(t)
	write := func(name, content string, mode os.FileMode) string {
		p := filepath.Join(g.Dir, name)
		if err := os.WriteFile(p, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		return p
	}
	plain := write("plain", "echo hi\n", 0o644)
	broken := write("broken", "#!/no/such/interpreter\n", 0o755)
	binary := write("binary", "\x00\x01\x02", 0o755)
	tests := []struct {
		spec  guestapi.SessionSpec
		code  int
		class sandbox.Class
		text  string
	}{
		{guestapi.SessionSpec{Args: []string{"no-such-command"}}, 127, sandbox.ErrNotFound, "no-such-command: command not found"},
		{guestapi.SessionSpec{Args: []string{"/no/such/file"}}, 127, sandbox.ErrNotFound, "no such file"},
		{guestapi.SessionSpec{Args: []string{"true"}, Env: map[string]string{"PATH": "/nowhere"}}, 127, sandbox.ErrNotFound, "not found"},
		{guestapi.SessionSpec{Args: []string{plain}}, 126, sandbox.ErrPrecondition, "permission denied"},
		{guestapi.SessionSpec{Args: []string{"plain"}, Env: map[string]string{"PATH": g.Dir}}, 126, sandbox.ErrPrecondition, "permission denied"},
		{guestapi.SessionSpec{Args: []string{g.Dir}}, 126, sandbox.ErrPrecondition, "is a folder"},
		{guestapi.SessionSpec{Args: []string{broken}}, 126, sandbox.ErrPrecondition, "interpreter"},
		{guestapi.SessionSpec{Args: []string{binary}}, 126, sandbox.ErrPrecondition, "not a program"},
		{guestapi.SessionSpec{Args: []string{"true"}, Dir: "/no/such/dir"}, 125, sandbox.ErrNotFound, "working directory /no/such/dir"},
		{guestapi.SessionSpec{Args: []string{"true"}, Dir: plain}, 125, sandbox.ErrNotFound, "not a folder"},
		{guestapi.SessionSpec{Args: []string{"true"}, Dir: "relative"}, 125, sandbox.ErrInvalid, "clean absolute"},
		{guestapi.SessionSpec{Args: []string{"true"}, User: "nobody-of-that-name"}, 125, sandbox.ErrNotFound, "unknown user"},
		{guestapi.SessionSpec{}, 125, sandbox.ErrInvalid, "no command"},
		{guestapi.SessionSpec{Args: []string{"true"}, Kind: guestapi.SFTP}, 125, sandbox.ErrInvalid, "kind"},
		{guestapi.SessionSpec{Args: []string{strings.Repeat("x", guestapi.MaxRequest)}}, 125, sandbox.ErrInvalid, "too long"},
	}
	for _, tt := range tests {
		_, err := c.Start(guesttest.Context(t), tt.spec, client.Attach{})
		if err == nil || client.ExitCode(err) != tt.code || !errors.Is(err, tt.class) || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%.60q: got %v (%d, %s)", tt.spec.Args, err, client.ExitCode(err), sandbox.ClassOf(err))
		}
	}
	// A script without #! is one for the shell, as execvp has it; a relative
	// command is relative to the session's folder.
	write("script", "echo shell $1\n", 0o755)
	res, out, _ := run(t, c, guestapi.SessionSpec{Args: []string{"./script", "x"}, Dir: g.Dir}, nil)
	if res.ExitCode != 0 || out != "shell x\n" {
		t.Errorf("script: %+v %q", res, out)
	}
}

func TestLargeStreams(t *testing.T) {
	t.Parallel()
	size := int64(100 << 20)
	if testing.Short() {
		size = 20 << 20
	}
	c := guesttest.Start(t).Dial(t)
	in, out := sha256.New(), sha256.New()
	src := io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{1}), size), in)
	began := time.Now()
	res, err := c.Start(guesttest.Context(t), guestapi.SessionSpec{Args: []string{"cat"}, Stdin: true}, client.Attach{Stdin: src, Stdout: out})
	if err != nil || res.ExitCode != 0 || res.Lost != 0 {
		t.Fatalf("cat: %+v, %v", res, err)
	}
	if !bytes.Equal(in.Sum(nil), out.Sum(nil)) {
		t.Fatal("the bytes changed on their way")
	}
	t.Logf("%.0f MB/s there and back", float64(size)/1e6/time.Since(began).Seconds())
}

// A reader that is slow gets everything: a pipe waits for it.
func TestSlowReaderOfPipe(t *testing.T) {
	t.Parallel()
	c := guesttest.Start(t, func(c *guestapi.Config) { c.Ring = 4096 }).Dial(t)
	gate := make(chan struct{})
	w := &slowWriter{gate: gate}
	done := make(chan error, 1)
	go func() {
		res, err := c.Start(guesttest.Context(t), sh("head -c 8000000 /dev/zero; echo end >&2"), client.Attach{Stdout: w})
		if err == nil && (res.ExitCode != 0 || res.Lost != 0) {
			err = fmt.Errorf("result %+v", res)
		}
		done <- err
	}()
	// The other channels of the connection go on while this one stands still.
	for range 20 {
		if err := c.Ping(guesttest.Context(t)); err != nil {
			t.Fatal(err)
		}
	}
	close(gate)
	if err := <-done; err != nil || w.n != 8000000 {
		t.Fatalf("%v after %d bytes", err, w.n)
	}
}

type slowWriter struct {
	gate chan struct{}
	n    int
}

func (w *slowWriter) Write(p []byte) (int, error) {
	<-w.gate
	w.n += len(p)
	return len(p), nil
}

// Whoever is at the far end may go away in the middle of anything; the session
// stays, and the rest of its output is there for the next one.
func TestConnectionLost(t *testing.T) {
	t.Parallel()
	g := guesttest.Start(t)
	first, second := g.Dial(t), g.Dial(t)
	fifo := filepath.Join(g.Dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	spec := sh("echo one; read x < " + fifo + "; echo two $x; cat; exit 7")
	spec.ID, spec.Stdin = "mine", true
	out := &waiter{want: "one\n", got: make(chan struct{})}
	lost := make(chan error, 1)
	go func() {
		_, err := first.Start(guesttest.Context(t), spec, client.Attach{Stdout: out, Stdin: blockingReader{}})
		lost <- err
	}()
	<-out.got
	first.Close()
	if err := <-lost; !errors.Is(err, sandbox.ErrUnavailable) {
		t.Fatalf("lost connection: %v", err)
	}
	if err := os.WriteFile(fifo, []byte("x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var rest bytes.Buffer
	res, err := second.Attach(guesttest.Context(t), guestapi.AttachRequest{ID: "mine", From: guestapi.Offsets{Stdout: 4}},
		client.Attach{Stdout: &rest, Stdin: strings.NewReader("three\n")})
	if err != nil || res.ExitCode != 7 || rest.String() != "two x\nthree\n" {
		t.Fatalf("%+v, %v, %q", res, err, rest.String())
	}
	// It has ended; its output and its result are still there.
	rest.Reset()
	res, err = second.Attach(guesttest.Context(t), guestapi.AttachRequest{ID: "mine"}, client.Attach{Stdout: &rest})
	if err != nil || res.ExitCode != 7 || rest.String() != "one\ntwo x\nthree\n" {
		t.Fatalf("%+v, %v, %q", res, err, rest.String())
	}
	if _, err := second.Attach(guesttest.Context(t), guestapi.AttachRequest{ID: "other"}, client.Attach{}); !errors.Is(err, sandbox.ErrNotFound) {
		t.Fatalf("attach to nothing: %v", err)
	}
}

type blockingReader struct{}

func (blockingReader) Read([]byte) (int, error) { select {} }

// waiter closes got once it has seen want, and goes on collecting.
type waiter struct {
	guesttest.Log
	want string
	got  chan struct{}
	seen bool
}

func (w *waiter) Write(p []byte) (int, error) {
	n, err := w.Log.Write(p)
	if !w.seen && strings.Contains(w.String(), w.want) {
		w.seen = true
		close(w.got)
	}
	return n, err
}

func TestDetachedAndCalls(t *testing.T) {
	t.Parallel()
	g := guesttest.Start(t)
	c := g.Dial(t)
	ctx := guesttest.Context(t)
	info, err := c.StartDetached(ctx, guestapi.SessionSpec{ID: "d1", Kind: guestapi.Agent, Args: []string{"sh", "-c", "trap 'echo got; exit 5' USR1; echo ready; while :; do sleep 0.01; done"}})
	if err != nil || info.ID != "d1" || info.PID <= 1 || info.Dir != g.Dir || info.User != "agent" {
		t.Fatalf("%+v, %v", info, err)
	}
	if _, err := c.StartDetached(ctx, guestapi.SessionSpec{ID: "d1", Args: []string{"true"}}); !errors.Is(err, sandbox.ErrExists) {
		t.Errorf("same id again: %v", err)
	}
	out := &waiter{want: "ready\n", got: make(chan struct{})}
	done := make(chan error, 1)
	go func() {
		res, err := c.Attach(ctx, guestapi.AttachRequest{ID: "d1"}, client.Attach{Stdout: out})
		if err == nil && (res.ExitCode != 5 || out.String() != "ready\ngot\n") {
			err = fmt.Errorf("%+v %q", res, out.String())
		}
		done <- err
	}()
	<-out.got
	if err := c.Signal(ctx, "d1", "USR1"); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	all, err := c.Sessions(ctx)
	if err != nil || len(all) != 1 || all[0].Result == nil || all[0].Result.ExitCode != 5 || all[0].Ended.IsZero() {
		t.Fatalf("%+v, %v", all, err)
	}
	if err := c.Signal(ctx, "d1", "NOSUCH"); !errors.Is(err, sandbox.ErrInvalid) {
		t.Errorf("unknown signal: %v", err)
	}
	if _, err := c.Session(ctx, "nope"); !errors.Is(err, sandbox.ErrNotFound) {
		t.Errorf("unknown session: %v", err)
	}
	if err := c.Sync(ctx); err != nil {
		t.Error(err)
	}
}

// Close ends what ignores a hangup, and all the shell's jobs with it.
func TestCloseSession(t *testing.T) {
	t.Parallel()
	c := guesttest.Start(t, func(c *guestapi.Config) { c.GraceMS = 200 }).Dial(t)
	ctx := guesttest.Context(t)
	out := &waiter{want: "ready", got: make(chan struct{})}
	done := make(chan guestapi.Result, 1)
	spec := sh("trap '' HUP TERM; echo ready; while :; do sleep 0.05; done")
	spec.ID = "stubborn"
	go func() {
		res, _ := c.Start(ctx, spec, client.Attach{Stdout: out})
		done <- res
	}()
	<-out.got
	if err := c.CloseSession(ctx, "stubborn"); err != nil {
		t.Fatal(err)
	}
	if res := <-done; res.Signal != "KILL" {
		t.Fatalf("%+v", res)
	}
}

// A daemon that holds the session's pipes does not keep the session open, and
// is not killed by writing to them later.
func TestBackgroundProcess(t *testing.T) {
	t.Parallel()
	g := guesttest.Start(t)
	c := g.Dial(t)
	alive := filepath.Join(g.Dir, "alive")
	fifo := filepath.Join(g.Dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("echo before; (read x < %s; echo late; echo later; echo yes > %s) & exit 0", fifo, alive)
	res, out, _ := run(t, c, sh(script), nil)
	if res.ExitCode != 0 || out != "before\n" {
		t.Fatalf("%+v %q", res, out)
	}
	if err := os.WriteFile(fifo, []byte("x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 500 { // the daemon survived its writes when it gets to this file
		if b, _ := os.ReadFile(alive); string(b) == "yes\n" {
			return
		}
		wait, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
		<-wait.Done()
		cancel()
	}
	t.Fatal("the background process died of its output")
}

package cli

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"

	"berth.dev/internal/guestapi"
	"berth.dev/internal/guestapi/client"
	"berth.dev/internal/sandbox"
)

// onTerminal is an app whose streams are a terminal, and the user's side of it.
func onTerminal(t *testing.T) (a *app, user *os.File) {
	t.Helper()
	user, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tty.Close(); user.Close() })
	if err := pty.Setsize(user, &pty.Winsize{Cols: 100, Rows: 30}); err != nil {
		t.Fatal(err)
	}
	if err := user.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	a = newApp(Stdio{In: tty, Out: tty, Err: tty}, Env{Dir: t.TempDir(), Vars: []string{"TERM=xterm"}})
	return a, user
}

func await(t *testing.T, r *bufio.Reader, want string) {
	t.Helper()
	var got []byte
	for !bytes.Contains(got, []byte(want)) {
		b, err := r.ReadByte()
		if err != nil {
			t.Fatalf("waiting for %q, got %q: %v", want, got, err)
		}
		got = append(got, b)
	}
}

// A session on a terminal gets every key, follows the size, and leaves the
// terminal as it was when it is detached from.
func TestJoinOnATerminal(t *testing.T) {
	a, user := onTerminal(t)
	ctx, stop := a.signals.watch(context.Background())
	defer stop()
	typed := bufio.NewReader(user)
	session := func(ctx context.Context, size guestapi.Size, at client.Attach) (guestapi.Result, error) {
		// A full-screen program that echoes what is typed and tells its size.
		if _, err := io.WriteString(at.Stdout, "\x1b[?1049hready"); err != nil {
			return guestapi.Result{}, err
		}
		go func() { _, _ = io.Copy(at.Stdout, at.Stdin) }()
		for {
			select {
			case s := <-at.Resize:
				if s.Cols == 132 {
					_, _ = io.WriteString(at.Stdout, "resized")
				}
			case <-at.Detach:
				return guestapi.Result{Detached: true}, nil
			case <-ctx.Done():
				return guestapi.Result{}, ctx.Err()
			}
		}
	}
	done := make(chan error, 1)
	go func() {
		res, err := a.join(ctx, streams{tty: true, stdin: true}, session)
		done <- a.finish("box", res, err, false)
	}()
	await(t, typed, "ready")
	for _, keys := range []string{"\x03", "\x1a", "\x10x", "é", "\x1b[200~a\rb\x1b[201~"} {
		if _, err := user.WriteString(keys); err != nil {
			t.Fatal(err)
		}
		await(t, typed, keys)
	}
	if err := pty.Setsize(user, &pty.Winsize{Cols: 132, Rows: 40}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGWINCH); err != nil {
		t.Fatal(err)
	}
	await(t, typed, "resized")
	if _, err := user.WriteString("\x10\x11"); err != nil {
		t.Fatal(err)
	}
	await(t, typed, "\x1b[?1049l")
	await(t, typed, "berth attach box")
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// In raw mode a signal to berth leaves the session alone and ends the command.
func TestSignalWhileRaw(t *testing.T) {
	a, user := onTerminal(t)
	ctx, stop := a.signals.watch(context.Background())
	defer stop()
	started := make(chan struct{})
	session := func(ctx context.Context, _ guestapi.Size, at client.Attach) (guestapi.Result, error) {
		close(started)
		select {
		case s := <-at.Signals:
			t.Errorf("the session got %v", s)
		case <-ctx.Done():
		}
		return guestapi.Result{}, ctx.Err()
	}
	done := make(chan error, 1)
	go func() {
		_, err := a.join(ctx, streams{tty: true, stdin: true}, session)
		done <- err
	}()
	<-started
	if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err == nil || a.signals.caught() != syscall.SIGTERM {
		t.Errorf("got %v, %v", err, a.signals.caught())
	}
	// The terminal is as it was: it echoes again.
	if _, err := user.WriteString("echo\n"); err != nil {
		t.Fatal(err)
	}
	await(t, bufio.NewReader(user), "echo")
}

// Without a terminal signals are the session's; the third Ctrl-C is berth's.
func TestSignalsAreForwarded(t *testing.T) {
	var out bytes.Buffer
	a := newApp(Stdio{In: strings.NewReader("in"), Out: &out, Err: io.Discard}, Env{})
	ctx, stop := a.signals.watch(context.Background())
	defer stop()
	session := func(ctx context.Context, _ guestapi.Size, at client.Attach) (guestapi.Result, error) {
		if _, err := io.Copy(at.Stdout, at.Stdin); err != nil {
			return guestapi.Result{}, err
		}
		for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT, syscall.SIGINT, syscall.SIGINT} {
			if err := syscall.Kill(os.Getpid(), sig); err != nil {
				return guestapi.Result{}, err
			}
			if got := <-at.Signals; got != sig {
				t.Errorf("got %v, want %v", got, sig)
			}
		}
		<-ctx.Done()
		return guestapi.Result{}, ctx.Err()
	}
	_, err := a.join(ctx, streams{stdin: true}, session)
	if err == nil || a.signals.caught() != syscall.SIGINT || out.String() != "in" {
		t.Errorf("got %v, %v, %q", err, a.signals.caught(), out.String())
	}
}

func TestConfirm(t *testing.T) {
	exposed := sandbox.Errorf(sandbox.ErrPrecondition, "/home/me is your home folder").WithHint("confirm with --force")
	for answer, want := range map[string]bool{"y\n": true, "YES\n": true, "n\n": false, "\n": false, "yep\n": false} {
		a, user := onTerminal(t)
		done := make(chan error, 1)
		go func() { done <- a.confirm(exposed) }()
		await(t, bufio.NewReader(user), "[y/N] ")
		if _, err := user.WriteString(answer); err != nil {
			t.Fatal(err)
		}
		if err := <-done; (err == nil) != want {
			t.Errorf("%q: got %v", answer, err)
		}
	}
	a := newApp(Stdio{In: strings.NewReader("y\n"), Out: io.Discard, Err: io.Discard}, Env{})
	if err := a.confirm(exposed); err == nil {
		t.Error("a pipe gave the user's word")
	}
	if err := a.confirm(nil); err != nil {
		t.Error(err)
	}
}

func TestFinish(t *testing.T) {
	tests := []struct {
		res  guestapi.Result
		err  error
		code int
		says string
	}{
		{guestapi.Result{}, nil, 0, ""},
		{guestapi.Result{ExitCode: 42}, nil, 42, ""},
		{guestapi.Result{ExitCode: 137, Signal: "KILL"}, nil, 137, ""},
		{guestapi.Result{Detached: true}, nil, 0, "berth attach box"},
		{guestapi.Result{}, &sandbox.Error{Class: sandbox.ErrNotFound, Message: "x: command not found", Cause: guestapi.Errorf(guestapi.CommandNotFound, "x")}, 127, "command not found"},
		{guestapi.Result{}, &sandbox.Error{Class: sandbox.ErrPrecondition, Message: "x", Cause: guestapi.Errorf(guestapi.NotExecutable, "x")}, 126, "x"},
		{guestapi.Result{}, sandbox.Errorf(sandbox.ErrUnavailable, "EOF"), 125, "berth logs box"},
		{guestapi.Result{}, io.ErrUnexpectedEOF, 125, "unexpected EOF"},
	}
	for _, tt := range tests {
		var errs bytes.Buffer
		a := newApp(Stdio{Err: &errs}, Env{})
		code := a.report(a.finish("box", tt.res, tt.err, false))
		if code != tt.code || !strings.Contains(errs.String(), tt.says) || tt.says == "" && errs.Len() > 0 {
			t.Errorf("%+v, %v: status %d, %q", tt.res, tt.err, code, errs.String())
		}
	}
}

func TestPick(t *testing.T) {
	ended := &guestapi.Result{}
	all := []guestapi.SessionInfo{
		{ID: "old", Kind: guestapi.Agent, TTY: true},
		{ID: "new", Kind: guestapi.Agent, TTY: true},
		{ID: "pipe", Kind: guestapi.Agent},
		{ID: "joined", Kind: guestapi.Agent, TTY: true, Clients: 1},
		{ID: "gone", Kind: guestapi.Agent, TTY: true, Result: ended},
		{ID: "tool", Kind: guestapi.Exec, TTY: true},
	}
	if s, ok := left(all); !ok || s.ID != "new" {
		t.Errorf("left: %v", s.ID)
	}
	if _, ok := left(all[2:]); ok {
		t.Error("nothing was left behind")
	}
	if s, ok := pick(all, ""); !ok || s.ID != "joined" {
		t.Errorf("pick: %v", s.ID)
	}
	if s, ok := pick(all[2:3], ""); !ok || s.ID != "pipe" {
		t.Errorf("pick: %v", s.ID)
	}
	if s, ok := pick(all, "tool"); !ok || s.ID != "tool" {
		t.Errorf("pick: %v", s.ID)
	}
	if _, ok := pick(all, "none"); ok {
		t.Error("there is none")
	}
	if _, ok := pick(all[4:], ""); ok {
		t.Error("no agent runs")
	}
}

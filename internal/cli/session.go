package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"

	"berth.dev/internal/guestapi"
	"berth.dev/internal/guestapi/client"
	"berth.dev/internal/sandbox"
	"berth.dev/internal/terminal"
)

// joiner joins the streams of this process to a session. It is the client's
// Start or Attach with everything but the attachment filled in.
type joiner func(ctx context.Context, size guestapi.Size, at client.Attach) (guestapi.Result, error)

// starter starts a session of the guest's, with the user's SSH agent when that
// is forwarded.
func starter(g *client.Client, spec guestapi.SessionSpec, sshAgent bool) joiner {
	return func(ctx context.Context, size guestapi.Size, at client.Attach) (guestapi.Result, error) {
		spec.Size, at.SSHAgent = size, sshAgent
		return g.Start(ctx, spec, at)
	}
}

// attacher joins a session that runs.
func attacher(g *client.Client, id string, tty bool) joiner {
	return func(ctx context.Context, size guestapi.Size, at client.Attach) (guestapi.Result, error) {
		req := guestapi.AttachRequest{ID: id, Screen: tty, Size: size, From: guestapi.Offsets{Stdout: -1, Stderr: -1}}
		return g.Attach(ctx, req, at)
	}
}

// streams says how a session is joined.
type streams struct {
	tty   bool // the session has a terminal and this process has one to show it on
	stdin bool // what is typed or piped goes to the session
}

// join shows a session until it ends or is detached from. What signals mean
// depends on the terminal: in raw mode Ctrl-C is a byte like any other, and a
// signal is for berth itself, which leaves the session running; otherwise they
// are the session's.
func (a *app) join(ctx context.Context, s streams, j joiner) (guestapi.Result, error) {
	if s.tty {
		t, ok := terminal.Open(a.In, a.Out)
		if s.stdin && ok {
			return a.joinRaw(ctx, t, j)
		}
	}
	signals := make(chan os.Signal, 8)
	interrupted := 0
	release := a.signals.take(func(sig os.Signal) {
		// A program that does not listen must not hold the user's shell.
		if sig == syscall.SIGINT {
			if interrupted++; interrupted == 3 {
				a.signals.end(sig)
			}
		}
		select {
		case signals <- sig:
		default:
		}
	})
	defer release()
	at := client.Attach{Stdout: a.Out, Stderr: a.Err, Signals: signals}
	if s.stdin {
		at.Stdin = a.In
	}
	return j(ctx, sizeOf(a.Out), at)
}

func sizeOf(out io.Writer) guestapi.Size {
	if t, ok := terminal.Open(os.Stdin, out); ok {
		return t.Size()
	}
	return guestapi.Size{}
}

// joinRaw is join on a terminal.
func (a *app) joinRaw(ctx context.Context, t *terminal.Terminal, j joiner) (guestapi.Result, error) {
	if err := t.Raw(); err != nil {
		return guestapi.Result{}, sandbox.Errorf(sandbox.ErrUnavailable, "set up the terminal: %w", err)
	}
	defer t.Restore()
	sizes, stop := t.Sizes()
	defer stop()
	keys := newKeys(t, a.In)
	defer keys.stop()
	release := a.signals.take(func(sig os.Signal) {
		if sig == syscall.SIGHUP || sig == syscall.SIGTERM || sig == syscall.SIGINT || sig == syscall.SIGQUIT {
			a.signals.end(sig) // the terminal is gone, or berth is to go; the session stays
		}
	})
	defer release()
	return j(ctx, t.Size(), client.Attach{
		Stdin: keys, Stdout: t, Stderr: t, Resize: sizes, Detach: keys.detached,
	})
}

// keys reads what is typed, but for the keys that detach.
type keys struct {
	t        *terminal.Terminal
	in       io.Reader
	filter   terminal.Detacher
	ready    []byte        // to be passed on
	detached chan struct{} // closed when the keys came
	over     chan struct{} // closed when nobody reads any more
	once     sync.Once
}

func newKeys(t *terminal.Terminal, in io.Reader) *keys {
	return &keys{t: t, in: in, detached: make(chan struct{}), over: make(chan struct{})}
}

// stop lets a Read that waits after detaching return.
func (k *keys) stop() { k.once.Do(func() { close(k.over) }) }

var errDetached = errors.New("detached")

// Read implements io.Reader. After the detach keys it waits for stop and fails:
// an end of file would be passed on to the session.
func (k *keys) Read(p []byte) (int, error) {
	defer k.t.Guard()
	for len(k.ready) == 0 {
		n, err := k.in.Read(p)
		pass, detached := k.filter.Filter(p[:n])
		k.ready = append(k.ready, pass...)
		if detached {
			close(k.detached)
			<-k.over
			return 0, errDetached
		}
		if err != nil {
			if rest := k.filter.Rest(); errors.Is(err, io.EOF) && len(rest) > 0 {
				k.ready = append(k.ready, rest...)
				break
			}
			if len(k.ready) == 0 {
				return 0, err
			}
			break
		}
	}
	n := copy(p, k.ready)
	k.ready = k.ready[n:]
	return n, nil
}

// interactive reports whether this process has a terminal to show a session on.
func (a *app) interactive() bool { return terminal.Is(a.In) && terminal.Is(a.Out) }

// finish turns the end of a session into that of the command.
func (a *app) finish(name string, res guestapi.Result, err error, quiet bool) error {
	if err != nil {
		if sandbox.ClassOf(err) == sandbox.ErrUnavailable && sandbox.HintOf(err) == "" {
			return sandbox.Errorf(sandbox.ErrUnavailable, "the connection to sandbox %s was lost: %w", name, err).
				WithHint("see what it wrote: berth logs %s; if it still runs: berth attach %s", name, name)
		}
		return err
	}
	if res.Detached {
		if !quiet {
			// The cursor may be anywhere in a line.
			fmt.Fprintln(a.Err)
			a.note("detached from %s; it goes on. Come back with: berth attach %s", name, name)
		}
		return nil
	}
	if res.ExitCode != 0 {
		return exitStatus(res.ExitCode)
	}
	return nil
}

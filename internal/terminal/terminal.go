// Package terminal is the host's side of an interactive session: the user's
// terminal in raw mode and back again whatever happens, its size as it
// changes, the keys that detach, and the state that a full-screen program must
// not leave behind. It knows nothing of sandboxes; only the CLI imports it.
package terminal

import (
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"berth.dev/internal/guestapi"
	"berth.dev/internal/guestapi/termmode"
)

// Is reports whether a stream of the process is a terminal.
func Is(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && f != nil && term.IsTerminal(int(f.Fd()))
}

// Forget throws away what was typed on a terminal and not read yet, so that a
// question is not answered by what was meant for something else.
func Forget(stream any) {
	if Is(stream) {
		_ = unix.IoctlSetInt(int(stream.(*os.File).Fd()), unix.TCFLSH, unix.TCIFLUSH)
	}
}

// Terminal is the terminal that a session is shown on. Its methods are safe
// for concurrent use, but for Write, which one goroutine at a time may call.
type Terminal struct {
	in, out *os.File

	mu    sync.Mutex
	saved *term.State      // while it is raw
	modes termmode.Tracker // what the program has switched on
}

// Open returns the terminal of a process whose standard input and output these
// are; ok is false when they are not both terminals.
func Open(in io.Reader, out io.Writer) (t *Terminal, ok bool) {
	if !Is(in) || !Is(out) {
		return nil, false
	}
	return &Terminal{in: in.(*os.File), out: out.(*os.File)}, true
}

// Size is the terminal's size in characters, zero when it does not say.
func (t *Terminal) Size() guestapi.Size { return sizeOf(t.out) }

func sizeOf(f *os.File) guestapi.Size {
	cols, rows, err := term.GetSize(int(f.Fd()))
	if err != nil || cols < 0 || rows < 0 || cols > 1<<16-1 || rows > 1<<16-1 {
		return guestapi.Size{}
	}
	return guestapi.Size{Cols: uint16(cols), Rows: uint16(rows)}
}

// Raw hands every key to whoever reads the input, Ctrl-C and Ctrl-Z included.
// The caller defers Restore at once.
func (t *Terminal) Raw() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.saved != nil {
		return nil
	}
	saved, err := term.MakeRaw(int(t.in.Fd()))
	if err != nil {
		return err
	}
	t.saved = saved
	return nil
}

// Restore undoes Raw and whatever modes the program left switched on: the
// alternate screen, mouse reports, bracketed paste, a hidden cursor, colours.
// It is idempotent, and does nothing to a terminal that is not raw.
func (t *Terminal) Restore() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.saved == nil {
		return
	}
	if off := t.modes.Off(); len(off) > 0 {
		_, _ = t.out.Write(off)
	}
	// A key's release, or a mouse report, that is still underway would be
	// typed into the user's shell.
	_ = unix.IoctlSetInt(int(t.in.Fd()), unix.TCFLSH, unix.TCIFLUSH)
	_ = term.Restore(int(t.in.Fd()), t.saved)
	t.saved, t.modes = nil, termmode.Tracker{}
}

// Guard restores the terminal when the goroutine that defers it panics, and
// lets the panic go on: a deferred Restore elsewhere would not run.
func (t *Terminal) Guard() {
	if r := recover(); r != nil {
		t.Restore()
		panic(r)
	}
}

// Write shows a program's output and follows the modes in it.
func (t *Terminal) Write(p []byte) (int, error) {
	t.mu.Lock()
	_, _ = t.modes.Write(p)
	t.mu.Unlock()
	return t.out.Write(p)
}

// Sizes sends the size whenever the terminal changes, the newest only when the
// reader is slow, until stop is called; the channel is then closed.
func (t *Terminal) Sizes() (sizes <-chan guestapi.Size, stop func()) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGWINCH)
	out, done, ended := make(chan guestapi.Size), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		defer close(out)
		defer t.Guard()
		for {
			select {
			case <-done:
				return
			case <-signals:
			}
			select {
			case <-done:
				return
			case out <- t.Size():
			}
		}
	}()
	return out, sync.OnceFunc(func() {
		signal.Stop(signals)
		close(done)
		<-ended
	})
}

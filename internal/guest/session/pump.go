package session

import (
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"berth.dev/internal/guest/ring"
	"berth.dev/internal/guestapi"
)

// When a session's process has ended, its descendants may still hold the
// terminal or the pipes. What they write counts as output until they were
// silent for quiet, or until both overtime and overrun are passed, so that a
// daemon started in a session does not keep the session open.
const (
	quiet    = 200 * time.Millisecond
	overtime = 2 * time.Second
	overrun  = 1 << 20 // bytes: more than a pipe holds of what the process itself wrote
)

// wait follows the session to its end.
func (s *Session) wait() {
	var gone atomic.Bool
	var pumps sync.WaitGroup
	for _, st := range s.streams {
		pumps.Go(func() {
			rest := s.pump(st.src, st.buf, &gone)
			st.buf.Close()
			if rest && s.master == nil {
				// The descendants live on and must not block, nor die of
				// SIGPIPE, because nobody listens any more.
				go discard(st.src)
				return
			}
			// For a terminal this hangs up what still runs in it, as closing
			// a window does.
			st.src.Close()
		})
	}
	<-s.proc.Done()
	gone.Store(true)
	for _, st := range s.streams {
		_ = st.src.SetReadDeadline(time.Now()) // wake the pump
	}
	pumps.Wait()
	s.finish()
}

// finish records the result and tells who waits.
func (s *Session) finish() {
	if s.stdin != nil {
		s.stdin.Close()
	}
	s.mu.Lock()
	s.ended = time.Now()
	s.result = resultOf(s.proc.Status())
	s.mu.Unlock()
	close(s.done)
	s.store.touch()
	s.store.retire(s)
}

func resultOf(ws unix.WaitStatus) *guestapi.Result {
	if ws.Signaled() {
		sig := ws.Signal()
		return &guestapi.Result{ExitCode: 128 + int(sig), Signal: signalName(sig)}
	}
	return &guestapi.Result{ExitCode: ws.ExitStatus()}
}

// pump moves output from src to buf until src ends, or until the process is
// gone and its descendants are quiet; then rest is true.
func (s *Session) pump(src *os.File, buf *ring.Buffer, gone *atomic.Bool) (rest bool) {
	p := make([]byte, 32<<10)
	var since time.Time // when the process was first seen gone
	over := 0
	for woken := false; ; {
		if gone.Load() {
			now := time.Now()
			if since.IsZero() {
				since = now
			}
			if over > overrun && now.Sub(since) > overtime {
				return true
			}
			_ = src.SetReadDeadline(now.Add(quiet))
		}
		n, err := src.Read(p)
		if n > 0 {
			_, _ = buf.Write(p[:n])
			s.touch()
			if !since.IsZero() {
				over += n
			}
		}
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded):
			if woken {
				return true
			}
			woken = true // the first one is wait's call
		default:
			return false // EOF, or EIO of a terminal that nobody has open
		}
	}
}

// discard reads until the end of a pipe and throws it away.
func discard(src *os.File) {
	_ = src.SetReadDeadline(time.Time{})
	_, _ = io.Copy(io.Discard, src)
	src.Close()
}

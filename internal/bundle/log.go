package bundle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Names of the logs that every sandbox has.
const (
	AgentLog      = "sandbox"    // what the sessions wrote to their terminals
	SupervisorLog = "supervisor" // what Berth itself has to say
)

// logPoll is how soon a follower sees what was written.
const logPoll = 50 * time.Millisecond

// LogFile is a log of bounded size: log/NAME.log, and log/NAME.log.1 with what
// came before. It is safe for concurrent use by one process.
type LogFile struct {
	mu   sync.Mutex
	path string
	half int64
	f    *os.File
	size int64
}

// OpenLog opens a log to append to it. It and its predecessor together stay
// below limit bytes and the size of one write. The caller must hold the bundle
// and closes the log.
func (h *Held) OpenLog(name string, limit int64) (*LogFile, error) {
	if err := os.MkdirAll(h.LogDir(), 0o700); err != nil {
		return nil, diskError("open log", err)
	}
	l := &LogFile{path: h.logPath(name), half: limit / 2}
	return l, l.open()
}

func (b *Bundle) logPath(name string) string { return filepath.Join(b.LogDir(), name+".log") }

func (l *LogFile) open() error {
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return diskError("open log", err)
	}
	info, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return fmt.Errorf("open log: %w", err)
	}
	l.f, l.size = f, info.Size()
	return nil
}

// Write appends p whole, after turning the log over when half of the limit is
// reached.
func (l *LogFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f == nil {
		return 0, fs.ErrClosed
	}
	if l.size > 0 && l.size+int64(len(p)) > l.half {
		if err := l.turn(); err != nil {
			return 0, err
		}
	}
	n, err := l.f.Write(p)
	l.size += int64(n)
	return n, err
}

// turn makes the log its own predecessor and begins a new one.
func (l *LogFile) turn() error {
	if err := os.Rename(l.path, l.path+".1"); err != nil {
		return diskError("rotate log", err)
	}
	old := l.f
	if err := l.open(); err != nil {
		return err
	}
	return old.Close()
}

// Close ends writing. A second call does nothing.
func (l *LogFile) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f == nil {
		return nil
	}
	err := l.f.Close()
	l.f = nil
	return err
}

// ReadLog copies the last lines of a log to w, all that there is when lines is
// negative. A log that nobody ever wrote is empty.
func (b *Bundle) ReadLog(w io.Writer, name string, lines int) error {
	f, err := b.tailLog(w, name, lines)
	if f != nil {
		_ = f.Close()
	}
	return err
}

// FollowLog is ReadLog that goes on with what is written later, until ctx ends
// or done says that nobody writes any more; what was written by then is still
// copied. It returns nil in both cases. done is called often and may be nil.
func (b *Bundle) FollowLog(ctx context.Context, w io.Writer, name string, lines int, done func() bool) error {
	f, err := b.tailLog(w, name, lines)
	defer func() {
		if f != nil {
			_ = f.Close()
		}
	}()
	tick := time.NewTicker(logPoll)
	defer tick.Stop()
	for err == nil {
		last := done != nil && done()
		if f, err = b.drain(w, name, f); err != nil || last {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
	return err
}

// drain copies what was appended to f, and when the log was turned over since,
// goes on with the new one, which it returns.
func (b *Bundle) drain(w io.Writer, name string, f *os.File) (*os.File, error) {
	now, err := os.Open(b.logPath(name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return f, fmt.Errorf("follow log: %w", err)
	}
	if f != nil {
		// After the open: what was written to f before it was turned over is
		// all there by now.
		if _, err := io.Copy(w, f); err != nil {
			_ = now.Close()
			return f, err
		}
	}
	if now == nil {
		return f, nil
	}
	if f != nil && sameFile(f, now) {
		return f, now.Close()
	}
	if f != nil {
		_ = f.Close()
	}
	_, err = io.Copy(w, now)
	return now, err
}

func sameFile(a, b *os.File) bool {
	x, errX := a.Stat()
	y, errY := b.Stat()
	return errX == nil && errY == nil && os.SameFile(x, y)
}

// tailLog copies the last lines and returns the log, read to its end; nil when
// there is none.
func (b *Bundle) tailLog(w io.Writer, name string, lines int) (*os.File, error) {
	f, err := os.Open(b.logPath(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("read log: %w", err)
	}
	old, err := os.ReadFile(b.logPath(name) + ".1")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return f, fmt.Errorf("read log: %w", err)
	}
	text, err := io.ReadAll(f) // bounded by the log's limit
	if err != nil {
		return f, fmt.Errorf("read log: %w", err)
	}
	_, err = w.Write(lastLines(append(old, text...), lines))
	return f, err
}

// lastLines returns the end of text that has at most n lines; a last line
// without its newline counts.
func lastLines(text []byte, n int) []byte {
	if n < 0 {
		return text
	}
	end := len(bytes.TrimSuffix(text, []byte("\n")))
	for at := end; ; n-- {
		if n == 0 {
			if at == end {
				return nil
			}
			return text[at+1:]
		}
		if at = bytes.LastIndexByte(text[:at], '\n'); at < 0 {
			return text
		}
	}
}

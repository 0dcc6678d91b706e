package audit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/gofrs/flock"

	"berth.dev/internal/sandbox"
)

// Bounds of what waits to be written: events, and bytes of text in them.
const (
	queueEvents = 8192
	queueBytes  = 4 << 20
)

// Options of a log. The zero value will do.
type Options struct {
	// MaxFile is the size in bytes at which a file is rotated, 0 for 16 MiB.
	MaxFile int64
	// MaxFiles is how many files are kept, the current one included, 0 for 8.
	MaxFiles int
	// Sandbox and ID are put into events that have none, gaps among them. Meta
	// is written into the folder by whoever makes the sandbox.
	Sandbox, ID string

	// For tests, in which a disk is full and time is short.
	openFile func(path string) (file, error)
	retry    time.Duration
}

func (o Options) withDefaults() Options {
	if o.MaxFile <= 0 {
		o.MaxFile = 16 << 20
	}
	if o.MaxFiles <= 0 {
		o.MaxFiles = 8
	}
	if o.openFile == nil {
		o.openFile = appendTo
	}
	if o.retry <= 0 {
		o.retry = time.Second
	}
	return o
}

// file is what a log needs of an *os.File.
type file interface {
	Write([]byte) (int, error)
	Sync() error
	Close() error
	Stat() (os.FileInfo, error)
}

func appendTo(path string) (file, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|noFollow, 0o600)
}

// Log is a log that this process writes to. It is safe for concurrent use.
//
// An event goes through a queue to one goroutine, which writes what is there in
// one go. Another one keeps the head, because that waits for the disk.
type Log struct {
	lock   *flock.Flock
	keeper *keeper

	mu    sync.Mutex // guards the four below
	queue []Event
	bytes int
	lost  uint64 // events that found the queue full
	ended bool

	wake    chan struct{} // holds one when there is something in the queue
	closing chan struct{} // closed by Close
	done    chan struct{} // closed when the writer has ended
	err     error         // of the writer; read it when done is closed
}

// Open opens the log in dir to add to it, and makes the folder, not those above
// it, when there is none. sandbox.ErrPrecondition says that another process
// writes to it, or that a newer Berth did. What a writer that was killed left
// unfinished is mended, and a Gap event tells of it. The caller closes the log.
func Open(dir string, opts Options) (*Log, error) {
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	ok, err := lock.TryLock()
	if err == nil && !ok {
		err = busy(dir)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open audit log: %w", err), lock.Close())
	}
	return start(dir, lock, opts)
}

func busy(dir string) error {
	return sandbox.Errorf(sandbox.ErrPrecondition, "another process writes to the audit log in %s", dir)
}

// lockDir makes the folder of a log and returns its lock, not yet taken.
func lockDir(dir string) (*flock.Flock, error) {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	return flock.New(filepath.Join(dir, lockFile), flock.SetPermissions(0o600)), nil
}

// start takes over a lock that is held.
func start(dir string, lock *flock.Flock, opts Options) (*Log, error) {
	opts = opts.withDefaults()
	abs, err := filepath.Abs(dir) // the folder's name is part of the chain
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	at, err := mend(abs)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open audit log: %w", err), lock.Close())
	}
	l := &Log{
		lock: lock, keeper: newKeeper(abs, at.head, opts.retry),
		wake: make(chan struct{}, 1), closing: make(chan struct{}), done: make(chan struct{}),
	}
	w := &writer{log: l, dir: abs, opts: opts, seq: at.seq, prev: at.hash, enc: newEncoder()}
	if err := w.openCurrent(); err != nil {
		return nil, errors.Join(fmt.Errorf("open audit log: %w", err), lock.Close())
	}
	for _, gap := range at.gaps {
		l.Record(gap)
	}
	go l.keeper.run()
	go w.run()
	return l, nil
}

// Record implements Recorder. An event that finds the queue full is counted,
// and a Gap event says so as soon as there is room. After Close it does
// nothing.
func (l *Log) Record(e Event) {
	n := e.clean()
	l.mu.Lock()
	switch {
	case l.ended:
	case len(l.queue) >= queueEvents || l.bytes+n > queueBytes:
		l.lost++
	default:
		l.queue = append(l.queue, e)
		l.bytes += n
	}
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default: // it is awake already
	}
}

// take empties the queue into one whose turn it is to be filled.
func (l *Log) take(empty []Event) (events []Event, lost uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	events, lost = l.queue, l.lost
	l.queue, l.bytes, l.lost = empty, 0, 0
	return events, lost
}

// Close writes what is queued and ends the log. When that cannot be written
// the error says so, and the next Open records a gap. A second call does
// nothing but return the same.
func (l *Log) Close() error {
	l.mu.Lock()
	first := !l.ended
	l.ended = true
	l.mu.Unlock()
	if first {
		close(l.closing)
	}
	<-l.done
	return l.err
}

// appendWait bounds the wait of Append for its turn.
const appendWait = 10 * time.Second

// Append adds one event to the log in dir, for a process that has no more than
// that to say. It waits while another one writes, up to ten seconds, and then
// returns sandbox.ErrPrecondition.
func Append(dir string, e Event) error {
	lock, err := lockDir(dir)
	if err != nil {
		return err
	}
	if err := waitLock(lock, appendWait); err != nil {
		return errors.Join(fmt.Errorf("add to audit log: %w", err), lock.Close())
	}
	l, err := start(dir, lock, Options{Sandbox: e.Sandbox, ID: e.ID})
	if err != nil {
		return err
	}
	l.Record(e)
	return l.Close()
}

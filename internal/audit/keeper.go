package audit

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// keepEvery is how often the head is written at most.
const keepEvery = time.Second

// keeper writes the head, and drops the files that it no longer speaks of. It
// has a goroutine of its own, as it waits until lines have reached the disk.
type keeper struct {
	dir   string
	retry time.Duration
	kick  chan struct{} // holds one when there is something to write
	tried chan struct{} // closed when that was first tried, with the error in first
	first error
	ready chan struct{} // closed when it first succeeded
	stop  chan struct{} // closed by end
	done  chan struct{} // closed when the goroutine has ended

	mu      sync.Mutex // guards those below
	head    head
	current file     // whose lines the head speaks of
	old     []file   // rotated since, to be closed
	drop    []string // names of files
}

// newKeeper makes one that will write h before anything else.
func newKeeper(dir string, h head, retry time.Duration) *keeper {
	k := &keeper{
		dir: dir, head: h, retry: retry,
		kick: make(chan struct{}, 1), tried: make(chan struct{}), ready: make(chan struct{}),
		stop: make(chan struct{}), done: make(chan struct{}),
	}
	k.kick <- struct{}{}
	return k
}

// wrote tells of lines that were written.
func (k *keeper) wrote(seq uint64, hash string) {
	k.change(func() { k.head.LastSeq, k.head.LastHash = seq, hash })
}

// opened tells of the file that is written to from now on.
func (k *keeper) opened(f file) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.current != nil {
		k.old = append(k.old, k.current)
	}
	k.current = f
}

// begins tells where the first file that is kept begins; those that came before
// are deleted when the head says so.
func (k *keeper) begins(seq uint64, prev string, drop []string) {
	k.change(func() {
		k.head.FirstSeq, k.head.FirstPrev = seq, prev
		k.drop = append(k.drop, drop...)
	})
}

func (k *keeper) change(do func()) {
	k.mu.Lock()
	do()
	k.mu.Unlock()
	select {
	case k.kick <- struct{}{}:
	default:
	}
}

// firstTry waits for the first attempt to write the head.
func (k *keeper) firstTry() error {
	<-k.tried
	return k.first
}

func (k *keeper) run() {
	defer close(k.done)
	for tries, ready := 0, false; ; tries++ {
		select {
		case <-k.kick:
		case <-k.stop:
			return
		}
		err := k.save()
		if tries == 0 {
			k.first = err
			close(k.tried)
		}
		pause := keepEvery
		switch {
		case err != nil:
			pause = k.retry
			k.change(func() {}) // again
		case !ready:
			ready = true
			close(k.ready)
		}
		select {
		case <-time.After(pause):
		case <-k.stop:
			return
		}
	}
}

// save writes the head as it is now.
func (k *keeper) save() error {
	k.mu.Lock()
	h, old, current, drop := k.head, k.old, k.current, k.drop
	k.old, k.drop = nil, nil
	k.mu.Unlock()
	var errs []error
	for _, f := range old {
		errs = append(errs, f.Sync(), f.Close())
	}
	if current != nil {
		errs = append(errs, current.Sync())
	}
	errs = append(errs, h.write(k.dir))
	if err := errors.Join(errs...); err != nil {
		k.mu.Lock()
		k.drop = append(drop, k.drop...)
		k.mu.Unlock()
		return err
	}
	for _, name := range drop {
		_ = os.Remove(filepath.Join(k.dir, name)) // the next rotation tries again
	}
	return nil
}

// end writes the head for the last time, closed when all that was recorded is
// in the log, and closes the files.
func (k *keeper) end(whole bool) error {
	close(k.stop)
	<-k.done
	k.head.Closed = whole
	err := k.save()
	if k.current != nil {
		err = errors.Join(err, k.current.Close())
	}
	return err
}

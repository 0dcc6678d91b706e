package image

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/gofrs/flock"

	"berth.dev/internal/sandbox"
)

// session is the folder in work that one Store writes in. Its lock tells GC
// that the process lives.
type session struct {
	dir  string
	lock *flock.Flock

	mu    sync.Mutex
	pins  map[string]int    // file name in dir: how many want it kept
	added map[string]*stage // layers by digest that are in no image yet
}

// Kinds of pins: the first part of a pin's file name, before the hex digits.
const (
	pinBlob  = "pin-blob-"  // one blob
	pinIndex = "pin-index-" // one layer's index
	pinImage = "pin-image-" // a manifest and all that it needs
)

const sessionLock = "lock"

// session returns this Store's folder, making it on first need.
func (s *Store) session() (*session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.work != nil {
		return s.work, nil
	}
	unlock, err := s.lock(shared) // else GC could find the folder before its lock is held
	if err != nil {
		return nil, err
	}
	defer unlock()
	dir := filepath.Join(s.dir, "work", sandbox.NewID())
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	l := flock.New(filepath.Join(dir, sessionLock), flock.SetPermissions(0o600))
	if ok, err := l.TryLock(); err != nil || !ok {
		return nil, errors.Join(fmt.Errorf("lock %s", dir), err, os.RemoveAll(dir))
	}
	s.work = &session{dir: dir, lock: l, pins: map[string]int{}, added: map[string]*stage{}}
	return s.work, nil
}

// temp makes a file that GC leaves alone while this process lives. The caller
// removes or renames it.
func (w *session) temp(kind string) (*os.File, error) {
	return os.CreateTemp(w.dir, kind+"-*")
}

// pin keeps a thing from being collected until unpin, or until the Store is
// closed or the process ends. The caller holds the store's lock, shared.
func (w *session) pin(kind, hex string) error {
	name := kind + hex
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.pins[name] == 0 {
		f, err := os.OpenFile(filepath.Join(w.dir, name), os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	w.pins[name]++
	return nil
}

// unpin undoes one pin. A pin file that cannot be removed only keeps something
// longer than needed, so that is no error.
func (w *session) unpin(kind, hex string) {
	name := kind + hex
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.pins[name]--; w.pins[name] <= 0 {
		delete(w.pins, name)
		_ = os.Remove(filepath.Join(w.dir, name))
	}
}

// hold keeps the pins of an added layer until let or Close.
func (w *session) hold(digest string, t *stage) {
	w.mu.Lock()
	old := w.added[digest]
	w.added[digest] = t
	w.mu.Unlock()
	if old != nil {
		old.release()
	}
}

// let lets go of an added layer, which is part of a named image now.
func (w *session) let(digest string) {
	w.mu.Lock()
	t := w.added[digest]
	delete(w.added, digest)
	w.mu.Unlock()
	if t != nil {
		t.release()
	}
}

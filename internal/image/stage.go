package image

import (
	"os"
	"path/filepath"

	"berth.dev/internal/atomicfile"
)

// stage is one change of the store in the making: files that are written but
// not yet in their places, and pins. Commit moves all files at once; until then,
// and after a failure, the store is what it was.
type stage struct {
	s     *Store
	w     *session
	files []staged
	held  [][2]string // pins: kind and hex digits
}

type staged struct{ temp, path string }

func (s *Store) stage() (*stage, error) {
	w, err := s.session()
	if err != nil {
		return nil, err
	}
	return &stage{s: s, w: w}, nil
}

// pin keeps a thing until release. The caller holds the store's lock.
func (t *stage) pin(kind, hex string) error {
	if err := t.w.pin(kind, hex); err != nil {
		return err
	}
	t.held = append(t.held, [2]string{kind, hex})
	return nil
}

// release lets go of all pins.
func (t *stage) release() {
	for _, h := range t.held {
		t.w.unpin(h[0], h[1])
	}
	t.held = nil
}

// abort removes what was staged and lets go of all pins. After commit it does
// nothing to the files, so it may be deferred.
func (t *stage) abort() {
	for _, f := range t.files {
		_ = os.Remove(f.temp)
	}
	t.files = nil
	t.release()
}

// have pins what belongs at path, and reports whether it is there or staged.
// What is not there stays pinned too, because the caller is about to make it.
func (t *stage) have(kind, hex, path string) (bool, error) {
	unlock, err := t.s.lock(shared)
	if err != nil {
		return false, err
	}
	defer unlock()
	if err := t.pin(kind, hex); err != nil {
		return false, err
	}
	return exists(t.where(path))
}

// where returns the path under which a file of the store can be read now.
func (t *stage) where(path string) string {
	for _, f := range t.files {
		if f.path == path {
			return f.temp
		}
	}
	return path
}

// add stages a finished temporary file. The file is synced and closed.
func (t *stage) add(f *os.File, path string) error {
	err := f.Sync()
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return err
	}
	t.files = append(t.files, staged{f.Name(), path})
	return nil
}

// commit moves the staged files to their places. What is in a place already is
// as good and stays. Everything that was staged must be pinned, or GC could take
// it before a name refers to it.
func (t *stage) commit() error {
	unlock, err := t.s.lock(shared)
	if err != nil {
		return err
	}
	defer unlock()
	dirs := map[string]bool{}
	for _, f := range t.files {
		if ok, err := exists(f.path); err != nil {
			return err
		} else if ok {
			_ = os.Remove(f.temp)
			continue
		}
		if err := os.Rename(f.temp, f.path); err != nil {
			return err
		}
		dirs[filepath.Dir(f.path)] = true
	}
	t.files = nil
	for d := range dirs {
		if err := atomicfile.SyncDir(d); err != nil {
			return err
		}
	}
	return nil
}

// discard closes and removes a temporary file that was not staged.
func discard(f *os.File) {
	_ = f.Close()
	_ = os.Remove(f.Name())
}

package bundle

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/gofrs/flock"

	"berth.dev/internal/failpoint"
	"berth.dev/internal/sandbox"
)

// Delete removes the sandbox of that name or ID and everything in it, however
// broken it is. While it runs it is sandbox.ErrPrecondition. The name is free
// at once; a crash in between leaves only what Sweep removes.
func (s *Store) Delete(nameOrID string) error {
	b, err := s.Find(nameOrID)
	if err == nil {
		h, err := b.Lock()
		if err == nil {
			return h.Delete()
		}
		if c := sandbox.ClassOf(err); c == sandbox.ErrPrecondition || c == sandbox.ErrNotFound {
			return err
		}
		return s.deleteBroken(b.dir)
	}
	if errors.Is(err, sandbox.ErrNotFound) || sandbox.CheckName(nameOrID) != nil || !s.exists(nameOrID) {
		return err
	}
	return s.deleteBroken(filepath.Join(s.dir, nameOrID))
}

// deleteBroken removes a folder that does not load as a bundle. A supervisor
// may run in it all the same, so its lock is asked, if it has one.
func (s *Store) deleteBroken(dir string) error {
	path := filepath.Join(dir, lockFile)
	if info, err := os.Lstat(path); err == nil && info.Mode().IsRegular() {
		fl := flock.New(path, flock.SetPermissions(0o600))
		defer fl.Close()
		if ok, err := fl.TryLock(); err == nil && !ok {
			return sandbox.Errorf(sandbox.ErrPrecondition, "sandbox %s is running", filepath.Base(dir)).
				WithHint("stop it with: berth stop %s", filepath.Base(dir))
		}
	}
	return discard(dir)
}

// Delete removes the bundle that the caller holds, and gives up the lock.
func (h *Held) Delete() error {
	err := discard(h.dir)
	return errors.Join(err, h.Unlock())
}

// discard moves a folder out of the way in one step, then removes it.
func discard(dir string) error {
	trash := filepath.Join(filepath.Dir(dir), trashPrefix+filepath.Base(dir)+"-"+sandbox.NewID())
	if err := os.Rename(dir, trash); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return notFound(filepath.Base(dir))
		}
		return fmt.Errorf("remove sandbox: %w", err)
	}
	if err := failpoint.Hit("bundle.delete.moved"); err != nil {
		return err
	}
	if err := removeTree(trash); err != nil {
		return fmt.Errorf("remove sandbox: %w", err)
	}
	return nil
}

// Sweep removes what killed creations and deletions left in the store, and
// returns how many of these there were.
func (s *Store) Sweep() (int, error) {
	// Whoever creates holds this lock, so a stage seen under it is nobody's.
	unlock, err := lockPath(filepath.Join(s.dir, createLock))
	if err != nil {
		return 0, err
	}
	defer unlock()
	infos, err := os.ReadDir(s.dir)
	if err != nil {
		return 0, fmt.Errorf("sweep sandboxes: %w", err)
	}
	n := 0
	var errs []error
	for _, info := range infos {
		if strings.HasPrefix(info.Name(), trashPrefix) || strings.HasPrefix(info.Name(), stagePrefix) {
			n++
			errs = append(errs, removeTree(filepath.Join(s.dir, info.Name())))
		}
	}
	return n, errors.Join(errs...)
}

// removeTree is os.RemoveAll that also gets into folders which their owner may
// not enter, as a file store full of a guest's folders may have them. It does
// not follow symlinks.
func removeTree(dir string) error {
	if os.RemoveAll(dir) == nil {
		return nil
	}
	// The walk tells of a folder before it reads it, which is the moment to
	// open it.
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			_ = os.Chmod(path, 0o700)
		}
		return nil
	})
	return os.RemoveAll(dir)
}

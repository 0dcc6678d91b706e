package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/gofrs/flock"

	"berth.dev/internal/sandbox"
)

// GC deletes what nothing needs: no name, no digest of inUse (of images, those
// of sandboxes above all), and no Store that is open now and pinned it (see
// AddLayer, Commit and Root). It also removes what dead processes left. It
// returns the bytes of disk that became free. When something in the store cannot
// be read, so that what it needs is not known, nothing is deleted.
func (s *Store) GC(ctx context.Context, inUse []string) (freed int64, err error) {
	unlock, err := s.lock(exclusive)
	if err != nil {
		return 0, err
	}
	defer unlock()
	c := collection{ctx: ctx, s: s, keep: map[string]bool{}}
	if err := c.mark(inUse); err != nil {
		return 0, fmt.Errorf("collect garbage in the image store: %w", err)
	}
	if err := c.sweep(); err != nil {
		return c.freed, fmt.Errorf("collect garbage in the image store: %w", err)
	}
	return c.freed, nil
}

// collection is one run of GC.
type collection struct {
	ctx   context.Context
	s     *Store
	keep  map[string]bool // folder and hex digits, as in "index/0123…"
	dead  []string        // folders in work whose process is gone
	freed int64
}

const (
	keepBlob  = "blobs/sha256/"
	keepIndex = "index/"
	keepErofs = "erofs/"
)

func (c *collection) mark(inUse []string) error {
	refs, err := c.s.readRefs()
	if err != nil {
		return err
	}
	for ref, d := range refs {
		if err := c.markImage(d); err != nil {
			return sandbox.Errorf(sandbox.ErrPrecondition, "image %q: %w", ref, err).
				WithHint("remove it with `berth template rm %s`", ref)
		}
	}
	for _, d := range inUse {
		if err := c.markImage(d); err != nil {
			return err
		}
	}
	return c.markPins()
}

// markImage keeps an image. One that is not there (any more) needs nothing.
func (c *collection) markImage(digest string) error {
	img, err := c.s.load(digest)
	if errors.Is(err, sandbox.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	needs := [][2]string{{keepBlob, digest}, {keepBlob, img.config}}
	for _, l := range img.Layers {
		needs = append(needs, [2]string{keepBlob, l.Digest}, [2]string{keepIndex, l.DiffID})
	}
	for _, m := range img.mounts() {
		needs = append(needs, [2]string{keepErofs, chainID(img.diffIDsAt(m))})
	}
	for _, n := range needs {
		h, err := hexOf(n[1])
		if err != nil {
			return err
		}
		c.keep[n[0]+h] = true
	}
	return nil
}

// markPins keeps what live processes pinned, and finds the dead ones.
func (c *collection) markPins() error {
	work := filepath.Join(c.s.dir, "work")
	sessions, err := os.ReadDir(work)
	if err != nil {
		return err
	}
	for _, d := range sessions {
		dir := filepath.Join(work, d.Name())
		alive, err := locked(filepath.Join(dir, sessionLock))
		if err != nil {
			return err
		}
		if !alive {
			c.dead = append(c.dead, dir)
			continue
		}
		files, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, f := range files {
			if err := c.markPin(f.Name()); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *collection) markPin(name string) error {
	if hex, ok := strings.CutPrefix(name, pinBlob); ok {
		c.keep[keepBlob+hex] = true
	} else if hex, ok := strings.CutPrefix(name, pinIndex); ok {
		c.keep[keepIndex+hex] = true
	} else if hex, ok := strings.CutPrefix(name, pinImage); ok {
		return c.markImage(digestPrefix + hex)
	}
	return nil
}

// locked reports whether some process, this one included, holds a session's
// lock. The caller holds the store's lock exclusively, so no session is just
// being made.
func locked(path string) (bool, error) {
	if ok, err := exists(path); !ok {
		return false, err
	}
	l := flock.New(path, flock.SetPermissions(0o600))
	got, err := l.TryLock()
	if err != nil {
		return true, err
	}
	_ = l.Close()
	return !got, nil
}

func (c *collection) sweep() error {
	for _, dir := range c.dead {
		if err := c.remove(dir); err != nil {
			return err
		}
	}
	for _, folder := range []string{keepErofs, keepBlob, keepIndex} {
		files, err := os.ReadDir(filepath.Join(c.s.dir, folder))
		if err != nil {
			return err
		}
		for _, f := range files {
			// What is behind the digits is the kind and its format, which an
			// older or newer Berth may have written: they share the digits.
			hex, _, _ := strings.Cut(f.Name(), ".")
			if c.keep[folder+hex] {
				continue
			}
			if err := c.remove(filepath.Join(c.s.dir, folder, f.Name())); err != nil {
				return err
			}
		}
	}
	// What atomicfile leaves when its process is killed. It is used under the
	// store's lock only.
	stale, err := filepath.Glob(filepath.Join(c.s.dir, ".*.tmp-*"))
	for _, f := range stale {
		err = errors.Join(err, c.remove(f))
	}
	return err
}

// remove deletes a file or folder and counts the disk that it occupied. Whoever
// has a file open keeps it: a running sandbox loses nothing.
func (c *collection) remove(path string) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	var size int64
	err := filepath.WalkDir(path, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			size += st.Blocks * 512
		}
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	c.freed += size
	return nil
}

package bundle

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"

	"berth.dev/internal/sandbox"
)

// shortWait bounds the wait for locks that are only held for a moment.
const (
	shortWait = 10 * time.Second
	retryWait = 2 * time.Millisecond
)

// Lock makes the caller the one process that may change the bundle, without
// waiting. While another one is, it is sandbox.ErrPrecondition; when the
// bundle was deleted, or another made in its place, sandbox.ErrNotFound. The
// kernel gives the lock back when the process ends, however it ends.
func (b *Bundle) Lock() (*Held, error) {
	open, err := lockPath(filepath.Join(b.dir, gateFile))
	if err != nil {
		return nil, b.goneOr(err)
	}
	defer open()
	fl := flock.New(filepath.Join(b.dir, lockFile), flock.SetPermissions(0o600))
	ok, err := fl.TryLock()
	if err != nil {
		return nil, b.goneOr(fmt.Errorf("lock sandbox: %w", err))
	}
	if !ok {
		return nil, sandbox.Errorf(sandbox.ErrPrecondition, "sandbox %s is running", b.Name()).
			WithHint("stop it with: berth stop %s", b.Name())
	}
	// What the path names may have been replaced between look-up and lock.
	now, err := load(b.dir)
	if err == nil && now.ID() != b.ID() {
		err = notFound(b.Name())
	}
	if err != nil {
		_ = fl.Close()
		return nil, err
	}
	return &Held{Bundle: b, lock: fl, state: b.State()}, nil
}

// StartLock makes the caller the one process that starts this sandbox's
// supervisor, and waits for its turn until ctx ends. Whoever gets it looks
// again whether the sandbox runs by now.
func (b *Bundle) StartLock(ctx context.Context) (unlock func() error, err error) {
	path := filepath.Join(b.dir, startFile)
	fl := flock.New(path, flock.SetPermissions(0o600))
	if _, err := fl.TryLockContext(ctx, retryWait); err != nil {
		return nil, b.goneOr(fmt.Errorf("wait for the start of sandbox %s: %w", b.Name(), err))
	}
	if !samePath(fl, path) {
		return nil, errors.Join(fl.Close(), notFound(b.Name()))
	}
	return fl.Close, nil
}

// isHeld reports whether some process holds the lock called name. Probing
// takes the lock for a moment; the gate keeps that moment from Lock's sight.
func (b *Bundle) isHeld(name string) bool {
	open, err := lockPath(filepath.Join(b.dir, gateFile))
	if err != nil {
		return false // deleted, or so broken that nothing can run in it
	}
	defer open()
	fl := flock.New(filepath.Join(b.dir, name), flock.SetPermissions(0o600))
	defer fl.Close()
	ok, err := fl.TryRLock()
	return err == nil && !ok
}

// goneOr says sandbox.ErrNotFound when the bundle's folder no longer exists.
func (b *Bundle) goneOr(err error) error {
	if _, serr := os.Stat(b.dir); errors.Is(serr, fs.ErrNotExist) {
		return notFound(b.Name())
	}
	return err
}

// lockPath waits for a lock that others hold only for a moment.
func lockPath(path string) (unlock func(), err error) {
	ctx, cancel := context.WithTimeout(context.Background(), shortWait)
	defer cancel()
	fl := flock.New(path, flock.SetPermissions(0o600))
	if _, err := fl.TryLockContext(ctx, retryWait); err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			return nil, sandbox.Errorf(sandbox.ErrUnavailable, "%s has been locked for %s", path, shortWait).
				WithHint("another berth process hangs; end it and try again")
		}
		return nil, diskError("lock", err)
	}
	return func() { _ = fl.Close() }, nil
}

// samePath reports whether the locked file is still the one at path.
func samePath(fl *flock.Flock, path string) bool {
	locked, err := fl.Stat()
	if err != nil {
		return false
	}
	now, err := os.Stat(path)
	return err == nil && os.SameFile(locked, now)
}

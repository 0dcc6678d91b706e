package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/gofrs/flock"

	"berth.dev/internal/atomicfile"
	"berth.dev/internal/sandbox"
)

// format is the number of the store's layout on disk (see the package comment).
const format = 1

// Store is an open store. It is safe for concurrent use, and so are several
// Stores of one folder in several processes. Close lets go of what it pinned.
type Store struct {
	dir    string
	limits Limits

	mu   sync.Mutex
	work *session // made on first need
}

// Option changes how a Store works.
type Option func(*Store)

// WithLimits replaces the limits on layers and archives; fields that are zero
// keep their defaults.
func WithLimits(l Limits) Option {
	return func(s *Store) { s.limits = l.withDefaults() }
}

// Open opens the store in dir and makes it (0700) if there is none. A store
// that a newer Berth has changed is sandbox.ErrPrecondition.
func Open(dir string, opts ...Option) (*Store, error) {
	s := &Store{dir: dir, limits: Limits{}.withDefaults()}
	for _, o := range opts {
		o(s)
	}
	if err := s.prepare(); err != nil {
		return nil, hostError(fmt.Errorf("open image store: %w", err))
	}
	return s, nil
}

func (s *Store) prepare() error {
	for _, d := range []string{"", "blobs", "blobs/sha256", "index", "erofs", "locks", "work"} {
		if err := os.MkdirAll(filepath.Join(s.dir, d), 0o700); err != nil {
			return err
		}
	}
	// The folder may have been made by hand, or by a copy.
	if err := os.Chmod(s.dir, 0o700); err != nil {
		return err
	}
	unlock, err := s.lock(exclusive) // two processes may find no version at once
	if err != nil {
		return err
	}
	defer unlock()
	path := filepath.Join(s.dir, "version")
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return atomicfile.Write(path, []byte(strconv.Itoa(format)+"\n"), 0o600)
	}
	if err != nil {
		return err
	}
	if v, err := strconv.Atoi(strings.TrimSpace(string(b))); err != nil || v != format {
		return sandbox.Errorf(sandbox.ErrPrecondition, "the image store in %s has format %.20q, this Berth knows %d", s.dir, strings.TrimSpace(string(b)), format).
			WithHint("a newer Berth has been here: use that one, or move the folder away to begin a new store")
	}
	return nil
}

// Close removes what this Store was writing and lets go of what it pinned. No
// method may be running.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.work == nil {
		return nil
	}
	err := os.RemoveAll(s.work.dir)
	if uerr := s.work.lock.Unlock(); err == nil {
		err = uerr
	}
	s.work = nil
	return err
}

const (
	shared    = false
	exclusive = true
)

// lock takes the store's lock; see the package comment for who holds it how and
// for how long. Each call has a descriptor of its own, so that goroutines
// exclude each other as processes do.
func (s *Store) lock(excl bool) (unlock func(), err error) {
	l := flock.New(filepath.Join(s.dir, "lock"), flock.SetPermissions(0o600))
	take := l.RLock
	if excl {
		take = l.Lock
	}
	if err := take(); err != nil {
		return nil, fmt.Errorf("lock image store: %w", err)
	}
	return func() { _ = l.Close() }, nil
}

func (s *Store) blobPath(hex string) string  { return filepath.Join(s.dir, "blobs", "sha256", hex) }
func (s *Store) indexPath(hex string) string { return filepath.Join(s.dir, "index", hex) }
func (s *Store) erofsPath(hex string) string { return filepath.Join(s.dir, "erofs", hex+".v1.erofs") }
func (s *Store) xattrPath(hex string) string { return filepath.Join(s.dir, "erofs", hex+".v1.xattrs") }

func exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

package audit

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/gofrs/flock"

	"berth.dev/internal/atomicfile"
	"berth.dev/internal/sandbox"
)

const metaFile = "meta.json"

// UserDir is the name of the folder, beside those of the sandboxes, of the log
// of what the user changed for all of them.
const UserDir = "user"

// trashPrefix begins the names of folders that are being deleted.
const trashPrefix = ".trash-"

// Bounds of the logs of sandboxes that were removed, as Prune keeps them.
const (
	keepRemoved = 30 * 24 * time.Hour
	maxRemoved  = 200
)

// Meta says whose log it is. It is for finding a log, and no part of its chain.
type Meta struct {
	Version int       `json:"version"`
	Name    string    `json:"name"`
	ID      string    `json:"id"`
	Created time.Time `json:"created"`
	Removed time.Time `json:"removed,omitzero"` // zero: the sandbox exists
}

// WriteMeta writes down whose log is in dir, and makes the folder when there is
// none.
func WriteMeta(dir string, m Meta) error {
	m.Version = Version
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return fmt.Errorf("write whose audit log it is: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("write whose audit log it is: %w", err)
	}
	if err := atomicfile.Write(filepath.Join(dir, metaFile), append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("write whose audit log it is: %w", err)
	}
	return nil
}

// ReadMeta reads whose log is in dir: fs.ErrNotExist when that is not written
// down.
func ReadMeta(dir string) (Meta, error) {
	f, err := openFile(filepath.Join(dir, metaFile))
	if err != nil {
		return Meta{}, fmt.Errorf("read whose audit log it is: %w", err)
	}
	defer f.Close()
	var m Meta
	if err := json.NewDecoder(io.LimitReader(f, maxLine)).Decode(&m); err != nil {
		return Meta{}, fmt.Errorf("read whose audit log it is: %w", err)
	}
	if m.Version > Version {
		return Meta{}, newer(dir, m.Version)
	}
	return m, nil
}

// MarkRemoved writes down that the sandbox of the log in dir is gone, which
// lets Prune delete the log one day. No log, or one that is marked, is no error.
func MarkRemoved(dir string, now time.Time) error {
	if !exists(dir) {
		return nil
	}
	m, err := ReadMeta(dir)
	switch {
	case isMissing(err):
		m = Meta{ID: filepath.Base(dir)}
	case err != nil:
		return err
	case !m.Removed.IsZero():
		return nil
	}
	m.Removed = now.UTC()
	return WriteMeta(dir, m)
}

// Entry is one log among others.
type Entry struct {
	Meta        // with nothing but the ID when that is all that is known
	Dir  string // its folder
}

// List returns the logs of sandboxes below root, those that exist and those
// that were removed, the newest first.
func List(root string) ([]Entry, error) {
	folders, err := os.ReadDir(root)
	if err != nil {
		return nil, fmt.Errorf("list audit logs: %w", err)
	}
	var all []Entry
	for _, f := range folders {
		if !f.IsDir() || f.Name() == UserDir || strings.HasPrefix(f.Name(), ".") {
			continue
		}
		e := Entry{Dir: filepath.Join(root, f.Name())}
		// A meta.json that cannot be read must not hide the log.
		if e.Meta, err = ReadMeta(e.Dir); err != nil || e.ID != f.Name() {
			e.Meta = Meta{ID: f.Name()}
		}
		all = append(all, e)
	}
	slices.SortStableFunc(all, func(a, b Entry) int { return b.Created.Compare(a.Created) })
	return all, nil
}

// Find returns the log of the sandbox of that name or ID. When several
// sandboxes had the name, it is that of the one that exists, else the newest.
func Find(root, nameOrID string) (Entry, error) {
	all, err := List(root)
	if err != nil {
		return Entry{}, err
	}
	var found []Entry
	for _, e := range all {
		if e.ID == nameOrID {
			return e, nil
		}
		if e.Name == nameOrID && e.Name != "" {
			found = append(found, e)
		}
	}
	if i := slices.IndexFunc(found, func(e Entry) bool { return e.Removed.IsZero() }); i >= 0 {
		return found[i], nil
	}
	if len(found) > 0 {
		return found[0], nil
	}
	return Entry{}, sandbox.Errorf(sandbox.ErrNotFound, "there is no sandbox %q, and no log of one that was removed", nameOrID).
		WithHint("see them all with: berth ls -a")
}

// Prune deletes the logs of sandboxes that were removed more than 30 days ago,
// and beyond the 200 that were removed last. Logs that are written to stay.
func Prune(root string, now time.Time) error {
	all, err := List(root)
	if err != nil {
		return err
	}
	errs := []error{sweep(root)}
	removed := slices.DeleteFunc(all, func(e Entry) bool { return e.Removed.IsZero() })
	slices.SortStableFunc(removed, func(a, b Entry) int { return b.Removed.Compare(a.Removed) })
	for i, e := range removed {
		if i >= maxRemoved || now.Sub(e.Removed) > keepRemoved {
			errs = append(errs, remove(root, e.Dir))
		}
	}
	return errors.Join(errs...)
}

// remove deletes a log that nobody writes to. It goes out of sight in one step.
func remove(root, dir string) error {
	lock := flock.New(filepath.Join(dir, lockFile), flock.SetPermissions(0o600))
	defer lock.Close()
	if ok, err := lock.TryLock(); err != nil || !ok {
		return err
	}
	if err := os.Rename(dir, filepath.Join(root, trashPrefix+filepath.Base(dir))); err != nil {
		return fmt.Errorf("delete audit log: %w", err)
	}
	return sweep(root)
}

// sweep deletes what is out of sight.
func sweep(root string) error {
	trash, err := filepath.Glob(filepath.Join(root, trashPrefix+"*"))
	errs := []error{err}
	for _, dir := range trash {
		errs = append(errs, os.RemoveAll(dir))
	}
	return errors.Join(errs...)
}

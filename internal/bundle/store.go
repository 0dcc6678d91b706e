package bundle

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"

	"berth.dev/internal/failpoint"
	"berth.dev/internal/sandbox"
)

// Folders of a store that are not bundles. No sandbox's name starts with a dot.
const (
	stagePrefix = ".new-"
	trashPrefix = ".trash-"
	createLock  = ".create.lock"
)

// Store is the folder of all bundles. It holds no state in memory, so any
// number of them, in any number of processes, may be used at once.
type Store struct{ dir string }

// Open returns the store in dir, which must exist, belong to the user and be
// 0700 (hostdir.Dirs.Bundles makes it so).
func Open(dir string) (*Store, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(abs)
	if err != nil {
		return nil, fmt.Errorf("open sandboxes: %w", err)
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("open sandboxes: %s is not a folder", abs)
	}
	return &Store{dir: abs}, nil
}

// Create makes the bundle of a new sandbox. With spec.Name it gets exactly
// that name, or sandbox.ErrExists. Without, it gets sandbox.NameFrom the agent
// and the workspace, with a number when another sandbox has that name; but
// when that agent already has a sandbox for that workspace (FindFor), it is
// sandbox.ErrExists too, unless spec.Remove is set: one that goes away again
// never stands for the workspace. A crash at any moment leaves either the
// whole bundle or none.
func (s *Store) Create(spec sandbox.Spec) (*Bundle, error) {
	named := spec.Name != ""
	if named {
		if err := sandbox.CheckName(spec.Name); err != nil {
			return nil, err
		}
	}
	for _, m := range spec.Mounts {
		if err := m.Check(); err != nil {
			return nil, err
		}
	}
	unlock, err := lockPath(filepath.Join(s.dir, createLock))
	if err != nil {
		return nil, err
	}
	defer unlock()
	if !named && !spec.Remove {
		if b, err := s.FindFor(spec.Agent, spec.Workspace); err == nil {
			return nil, taken(b.Name(), fmt.Sprintf("%s already has the sandbox %s for %s", spec.Agent, b.Name(), spec.Workspace))
		} else if !errors.Is(err, sandbox.ErrNotFound) {
			return nil, err
		}
	}
	if spec.Name, err = s.freeName(spec); err != nil {
		return nil, err
	}
	rec := record{Format: Format, ID: s.freeID(), Created: time.Now().UTC().Truncate(time.Millisecond), Named: named, Spec: spec}
	return s.stage(rec)
}

// freeName is the name that a new bundle gets. The store's lock is held.
func (s *Store) freeName(spec sandbox.Spec) (string, error) {
	if spec.Name != "" {
		if s.exists(spec.Name) {
			return "", taken(spec.Name, fmt.Sprintf("there is already a sandbox %s", spec.Name))
		}
		return spec.Name, nil
	}
	base := sandbox.NameFrom(spec.Agent, spec.Workspace)
	if !s.exists(base) {
		return base, nil
	}
	for i := 2; i < 100000; i++ {
		if name := base + "-" + strconv.Itoa(i); !s.exists(name) {
			return name, nil
		}
	}
	return "", taken(base, fmt.Sprintf("all names from %s to %s-99999 are taken", base, base))
}

// freeID draws until the ID is nobody's ID and nobody's name, so that what
// users type means one thing.
func (s *Store) freeID() string {
	used := map[string]bool{}
	for _, e := range s.entries() {
		used[e.Name] = true
		if e.Bundle != nil {
			used[e.Bundle.ID()] = true
		}
	}
	for {
		if id := sandbox.NewID(); !used[id] {
			return id
		}
	}
}

// stage builds the bundle beside its place and moves it there in one step.
func (s *Store) stage(rec record) (b *Bundle, err error) {
	tmp := filepath.Join(s.dir, stagePrefix+rec.ID)
	if err := os.Mkdir(tmp, 0o700); err != nil {
		return nil, diskError("make sandbox", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, removeTree(tmp))
		}
	}()
	for _, sub := range []string{keysDir, logDir, rootDir} {
		if err := os.Mkdir(filepath.Join(tmp, sub), 0o700); err != nil {
			return nil, diskError("make sandbox", err)
		}
	}
	data, err := json.MarshalIndent(rec, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", specFile, err)
	}
	if err := writeSynced(filepath.Join(tmp, specFile), append(data, '\n')); err != nil {
		return nil, diskError("make sandbox", err)
	}
	if err := failpoint.Hit("bundle.create.staged"); err != nil {
		return nil, err
	}
	dir := filepath.Join(s.dir, rec.Spec.Name)
	// Never replaces a bundle: rename(2) onto a folder wants it empty. (os.Rename
	// refuses every folder, even the empty one that somebody made by hand.)
	if err := syscall.Rename(tmp, dir); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil, taken(rec.Spec.Name, fmt.Sprintf("there is already a sandbox %s", rec.Spec.Name))
		}
		return nil, diskError("make sandbox", err)
	}
	return &Bundle{dir: dir, rec: rec}, nil
}

// exists reports whether the name is taken; an empty folder is not a bundle.
func (s *Store) exists(name string) bool {
	names, err := os.ReadDir(filepath.Join(s.dir, name))
	return !errors.Is(err, fs.ErrNotExist) && (err != nil || len(names) > 0)
}

// Entry is one folder of the store: a bundle, or what is left of one.
type Entry struct {
	Name   string
	Bundle *Bundle // nil when it cannot be read
	Err    error   // why not
}

// List returns all sandboxes, running and stopped and broken, by name.
func (s *Store) List() ([]Entry, error) {
	if _, err := os.ReadDir(s.dir); err != nil {
		return nil, fmt.Errorf("list sandboxes: %w", err)
	}
	return s.entries(), nil
}

func (s *Store) entries() []Entry {
	infos, _ := os.ReadDir(s.dir)
	var out []Entry
	for _, info := range infos {
		name := info.Name()
		if strings.HasPrefix(name, ".") || !info.IsDir() || !s.exists(name) {
			continue
		}
		b, err := load(filepath.Join(s.dir, name))
		if errors.Is(err, sandbox.ErrNotFound) {
			continue // deleted since the folder was read
		}
		out = append(out, Entry{Name: name, Bundle: b, Err: err})
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}

func taken(name, message string) error {
	return sandbox.Errorf(sandbox.ErrExists, "%s", message).
		WithHint("use it with: berth run %s; or remove it with: berth rm %s", name, name)
}

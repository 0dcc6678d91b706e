package filecopy

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"time"

	"berth.dev/internal/sandbox"
)

// hostSource reads a tree of the host's.
type hostSource struct{ root string }

// FromHost reads the file or folder at root. A symbolic link at root itself is
// copied as a link.
func FromHost(root string) Source { return hostSource{root} }

// Walk implements Source.
func (s hostSource) Walk(ctx context.Context, visit func(Entry, func() (io.ReadCloser, error)) error) error {
	return filepath.WalkDir(s.root, func(full string, d fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
		info, err := d.Info()
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
		rel, err := filepath.Rel(s.root, full)
		if err != nil {
			return err
		}
		e := Entry{Path: filepath.ToSlash(rel), Mode: info.Mode(), Size: info.Size(), ModTime: info.ModTime()}
		if info.Mode().Type() == fs.ModeSymlink {
			if e.Link, err = os.Readlink(full); err != nil {
				return fmt.Errorf("read: %w", err)
			}
		}
		return visit(e, func() (io.ReadCloser, error) { return os.Open(full) })
	})
}

// hostTarget writes a tree into a folder of the host's. All of it goes through
// an os.Root, so that no name and no link in the tree, not even one that was
// written a moment ago or that somebody else plants meanwhile, leads outside.
type hostTarget struct {
	root *os.Root
	base string // where the tree's own root goes, within root
	dirs []Entry
}

// ToHost writes a tree so that its root becomes dst. The folder that dst is in
// must exist; what is at dst already is replaced when it is a file, and added
// to when it is a folder.
func ToHost(dst string) (Target, error) {
	dst, err := filepath.Abs(dst)
	if err != nil {
		return nil, err
	}
	parent, base := filepath.Split(dst)
	if info, err := os.Stat(dst); err == nil && info.IsDir() {
		parent, base = dst, "."
	} else if real, err := filepath.EvalSymlinks(dst); err == nil {
		// A link that the user named stands for the file that it leads to.
		parent, base = filepath.Split(real)
	}
	root, err := os.OpenRoot(parent)
	if err != nil {
		return nil, sandbox.Errorf(sandbox.ErrNotFound, "there is no folder %s to copy to: %w", filepath.Clean(parent), err)
	}
	return &hostTarget{root: root, base: base}, nil
}

// Put implements Target.
func (t *hostTarget) Put(e Entry, content io.Reader) error {
	at := path.Join(t.base, e.Path)
	var err error
	switch {
	case e.Mode.IsDir():
		err = t.putDir(at, e)
	case e.Mode.Type() == fs.ModeSymlink:
		err = t.replace(at, func(tmp string) error { return t.root.Symlink(e.Link, tmp) })
	case e.Hard != "":
		err = t.replace(at, func(tmp string) error { return t.root.Link(path.Join(t.base, e.Hard), tmp) })
	default:
		err = t.putFile(at, e, content)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", at, err)
	}
	return nil
}

func (t *hostTarget) putDir(at string, e Entry) error {
	err := t.root.Mkdir(at, 0o700)
	if errors.Is(err, fs.ErrExist) {
		info, err := t.root.Lstat(at)
		if err != nil {
			return err
		}
		if !info.IsDir() {
			return sandbox.Errorf(sandbox.ErrInvalid, "there is something else than a folder already")
		}
		return nil // the user's own; it keeps its mode
	}
	if err == nil {
		e.Path = at
		t.dirs = append(t.dirs, e)
	}
	return err
}

// putFile writes beside the place and moves the whole file there.
func (t *hostTarget) putFile(at string, e Entry, content io.Reader) error {
	return t.replace(at, func(tmp string) error {
		f, err := t.root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, content)
		if err == nil {
			// Never a setuid or setgid bit: the file would be the user's own.
			err = f.Chmod(e.Mode.Perm())
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
		return t.root.Chtimes(tmp, time.Time{}, e.ModTime)
	})
}

// replace makes something under a name of its own and renames it to at. A
// folder that is at at stays and is an error.
func (t *hostTarget) replace(at string, make func(tmp string) error) error {
	if info, err := t.root.Lstat(at); err == nil && info.IsDir() {
		return sandbox.Errorf(sandbox.ErrInvalid, "there is a folder already")
	}
	var random [8]byte
	_, _ = rand.Read(random[:]) // never fails: crypto/rand.Read since Go 1.24
	tmp := path.Join(path.Dir(at), ".berth-copy-"+hex.EncodeToString(random[:]))
	if err := make(tmp); err != nil {
		return errors.Join(err, ignoreMissing(t.root.Remove(tmp)))
	}
	if err := t.root.Rename(tmp, at); err != nil {
		return errors.Join(err, t.root.Remove(tmp))
	}
	return nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Close implements Target: folders get their modes and times last, the deepest
// first, since a mode may forbid to write and writing changes the time.
func (t *hostTarget) Close() error {
	var errs []error
	for i := len(t.dirs) - 1; i >= 0; i-- {
		d := t.dirs[i]
		errs = append(errs, t.root.Chtimes(d.Path, time.Time{}, d.ModTime), t.root.Chmod(d.Path, d.Mode.Perm()))
	}
	return errors.Join(append(errs, t.root.Close())...)
}

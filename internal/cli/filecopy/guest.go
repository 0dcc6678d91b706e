package filecopy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/pkg/sftp"

	"berth.dev/internal/guestapi"
	"berth.dev/internal/sandbox"
)

// maxList bounds the members of one folder of a guest.
const maxList = 1 << 20

// guestSource reads a tree of a guest's.
type guestSource struct {
	c    *sftp.Client
	root string
}

// FromGuest reads the file or folder at root, an absolute path. A symbolic link
// at root itself is copied as a link. What the guest says is checked and never
// believed; the caller bounds how much it may say at once, in c's connection.
func FromGuest(c *sftp.Client, root string) Source { return guestSource{c, root} }

// Walk implements Source.
func (s guestSource) Walk(ctx context.Context, visit func(Entry, func() (io.ReadCloser, error)) error) error {
	info, err := s.c.Lstat(s.root)
	if err != nil {
		return guestError("read", s.root, err)
	}
	return s.walk(ctx, ".", info, visit)
}

func (s guestSource) walk(ctx context.Context, rel string, info fs.FileInfo, visit func(Entry, func() (io.ReadCloser, error)) error) error {
	full := path.Join(s.root, rel)
	e := Entry{Path: rel, Mode: info.Mode(), Size: info.Size(), ModTime: info.ModTime()}
	if info.Mode().Type() == fs.ModeSymlink {
		var err error
		if e.Link, err = s.c.ReadLink(full); err != nil {
			return guestError("read", full, err)
		}
	}
	open := func() (io.ReadCloser, error) {
		f, err := s.c.Open(full)
		if err != nil {
			return nil, guestError("read", full, err)
		}
		return f, nil
	}
	if err := visit(e, open); err != nil || !info.IsDir() {
		return err
	}
	members, err := s.c.ReadDirContext(ctx, full)
	if err != nil {
		return guestError("read", full, err)
	}
	if len(members) > maxList {
		return refuse(rel, fmt.Sprintf("it has more than %d members", maxList))
	}
	for _, m := range members {
		name := m.Name()
		// A name is one step down and nothing else.
		if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
			return refuse(name, "its name leads out of the tree")
		}
		if err := s.walk(ctx, path.Join(rel, name), m, visit); err != nil {
			return err
		}
	}
	return nil
}

// guestTarget writes a tree into a guest.
type guestTarget struct {
	c    *sftp.Client
	root string
	dirs []Entry
}

// ToGuest writes a tree so that its root becomes root, an absolute path whose
// folder must exist.
func ToGuest(c *sftp.Client, root string) Target { return &guestTarget{c: c, root: root} }

// Put implements Target.
func (t *guestTarget) Put(e Entry, content io.Reader) error {
	at := path.Join(t.root, e.Path)
	switch {
	case e.Mode.IsDir():
		return t.putDir(at, e)
	case e.Mode.Type() == fs.ModeSymlink:
		_ = t.c.Remove(at) // an old one; when it is a folder, what follows says so
		return guestError("write", at, t.c.Symlink(e.Link, at))
	case e.Hard != "":
		_ = t.c.Remove(at)
		return guestError("write", at, t.c.Link(path.Join(t.root, e.Hard), at))
	}
	return guestError("write", at, t.putFile(at, e, content))
}

func (t *guestTarget) putDir(at string, e Entry) error {
	if info, err := t.c.Stat(at); err == nil && info.IsDir() {
		return nil
	}
	if err := t.c.Mkdir(at); err != nil {
		return guestError("make folder", at, err)
	}
	e.Path = at
	t.dirs = append(t.dirs, e)
	return nil
}

func (t *guestTarget) putFile(at string, e Entry, content io.Reader) error {
	f, err := t.c.OpenFile(at, os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return err
	}
	// ReadFromWithConcurrency: the size of a reader that is no file is unknown
	// to ReadFrom, which would then wait for each packet.
	_, err = f.ReadFromWithConcurrency(content, 32)
	if err == nil {
		err = f.Chmod(e.Mode.Perm())
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return t.c.Chtimes(at, e.ModTime, e.ModTime)
}

// Close implements Target.
func (t *guestTarget) Close() error {
	var errs []error
	for i := len(t.dirs) - 1; i >= 0; i-- {
		d := t.dirs[i]
		errs = append(errs,
			guestError("write", d.Path, t.c.Chtimes(d.Path, d.ModTime, d.ModTime)),
			guestError("write", d.Path, t.c.Chmod(d.Path, d.Mode.Perm())))
	}
	return errors.Join(errs...)
}

// guestError is an error about a path in the guest, in words fit for a
// terminal; nil stays nil.
func guestError(doing, name string, err error) error {
	if err == nil {
		return nil
	}
	name = guestapi.Printable(name, 256)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return sandbox.Errorf(sandbox.ErrNotFound, "%s %s in the sandbox: there is no such file or folder", doing, name)
	case errors.Is(err, fs.ErrPermission):
		return sandbox.Errorf(sandbox.ErrForbidden, "%s %s in the sandbox: permission denied", doing, name).
			WithHint("to copy as the sandbox's root, add: -u root")
	}
	return fmt.Errorf("%s %s in the sandbox: %s", doing, name, guestapi.Printable(err.Error(), 512))
}

// GuestKind tells what there is at an absolute path in the guest, links
// followed when follow is set.
func GuestKind(c *sftp.Client, name string, follow bool) (Kind, error) {
	stat := c.Lstat
	if follow {
		stat = c.Stat
	}
	info, err := stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return Missing, nil
	}
	if err != nil {
		return Missing, guestError("look at", name, err)
	}
	return KindOf(info.Mode()), nil
}

// Package filecopy copies files and folders between the host and a guest, and
// to and from tar archives. It owns the rules of where a copy goes, which are
// those of `docker cp`, and what may be written: a tree that comes out of a
// guest is hostile, and nothing in it, neither a name nor a link, leads
// outside of the folder that the user named. It knows nothing of sandboxes;
// the CLI gives it an SFTP client.
package filecopy

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"path"
	"strings"
	"time"

	"berth.dev/internal/guestapi"
	"berth.dev/internal/sandbox"
)

// Bounds of a tree that comes out of a guest or an archive.
const (
	maxPath  = 4096 // bytes of a path within the tree
	maxDepth = 256
	maxLink  = 4096 // bytes of a link's target
)

// Entry is one member of a tree.
type Entry struct {
	// Path is relative to the tree, slash-separated, fs.ValidPath; "." is the
	// tree's own root: a single file, or the folder whose content follows.
	Path    string
	Mode    fs.FileMode // the type, and the permissions
	Size    int64
	ModTime time.Time
	Link    string // of a symbolic link: its target, as it stands
	Hard    string // of another name for a file: the path of the first one
}

// Source is a tree to read.
type Source interface {
	// Walk visits the members, folders before what is in them. open reads the
	// content of a regular file and is valid during its visit.
	Walk(ctx context.Context, visit func(e Entry, open func() (io.ReadCloser, error)) error) error
}

// Target is a place to write a tree to.
type Target interface {
	// Put writes one member; content is nil unless it is a regular file.
	Put(e Entry, content io.Reader) error
	// Close finishes: it sets the times and modes of folders. It must be called
	// once, after an error too.
	Close() error
}

// Copy copies a tree. Members that are no file, folder or link are left out,
// and skipped is called with their paths.
func Copy(ctx context.Context, src Source, dst Target, skipped func(path string)) (err error) {
	defer func() { err = errors.Join(err, dst.Close()) }()
	return src.Walk(ctx, func(e Entry, open func() (io.ReadCloser, error)) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := check(e); err != nil {
			return err
		}
		if t := e.Mode.Type(); t != 0 && t != fs.ModeDir && t != fs.ModeSymlink {
			skipped(e.Path)
			return nil
		}
		if !e.Mode.IsRegular() || e.Hard != "" {
			return dst.Put(e, nil)
		}
		r, err := open()
		if err != nil {
			return err
		}
		defer r.Close()
		return dst.Put(e, &contextReader{ctx, r})
	})
}

// check is the one gate that every member passes, whatever its source.
func check(e Entry) error {
	switch {
	case !fs.ValidPath(e.Path) || strings.ContainsRune(e.Path, 0):
		return refuse(e.Path, "its name leads out of the tree")
	case len(e.Path) > maxPath || strings.Count(e.Path, "/") >= maxDepth:
		return refuse(e.Path, "it lies too deep")
	case len(e.Link) > maxLink || strings.ContainsRune(e.Link, 0):
		return refuse(e.Path, "its link is malformed")
	case e.Mode.Type() == fs.ModeSymlink && e.Link == "":
		return refuse(e.Path, "its link is empty")
	case e.Hard != "" && (!fs.ValidPath(e.Hard) || e.Hard == "." || !e.Mode.IsRegular()):
		return refuse(e.Path, "what it is another name of leads out of the tree")
	case e.Path == "." && e.Mode.Type() == 0 && e.Hard != "":
		return refuse(e.Path, "it is another name of itself")
	}
	return nil
}

func refuse(name, why string) error {
	return sandbox.Errorf(sandbox.ErrForbidden, "copy %q: %s", guestapi.Printable(name, 256), why)
}

// Kind is what there is at a path.
type Kind int

// The kinds. Other is a device, a pipe or a socket.
const (
	Missing Kind = iota
	File
	Dir
	Other
)

// KindOf returns the kind of a file's mode.
func KindOf(mode fs.FileMode) Kind {
	switch {
	case mode.IsDir():
		return Dir
	case mode.IsRegular():
		return File
	}
	return Other
}

// Place says where a copy goes: src is copied to the result. A file goes into
// a folder, onto a file, or to a new name; a folder goes into a folder, or, when
// src ends in "/.", its content does; it becomes dst when there is none.
// Both paths are slash-separated, src is what the user wrote.
func Place(src string, srcDir bool, dst string, kind Kind) (string, error) {
	name, contents := sourceName(src)
	bad := func(format string, args ...any) (string, error) {
		return "", sandbox.Errorf(sandbox.ErrInvalid, format, args...)
	}
	trailing := strings.HasSuffix(dst, "/") || strings.HasSuffix(dst, "/.")
	switch kind {
	case Missing:
		if !srcDir && trailing {
			return bad("%s is not a folder", dst)
		}
		return dst, nil
	case Dir:
		if srcDir && contents {
			return dst, nil
		}
		return path.Join(dst, name), nil
	}
	if srcDir {
		return bad("a folder cannot be copied onto %s, which is a file", dst)
	}
	if trailing {
		return bad("%s is not a folder", dst)
	}
	return dst, nil
}

// sourceName is the name that a copy of src has in a folder, and whether it is
// only src's content that is meant.
func sourceName(src string) (name string, contents bool) {
	if src == "." || strings.HasSuffix(src, "/.") {
		return "", true
	}
	name = path.Base(path.Clean(src))
	if name == "/" || name == "." || name == ".." {
		return "", true
	}
	return name, false
}

// contextReader ends a copy between two reads.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

// Read implements io.Reader.
func (c *contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// WriteTo keeps the concurrent reads of an SFTP file.
func (c *contextReader) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(&contextWriter{c.ctx, w}, c.r)
}

type contextWriter struct {
	ctx context.Context
	w   io.Writer
}

// Write implements io.Writer.
func (c *contextWriter) Write(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.w.Write(p)
}

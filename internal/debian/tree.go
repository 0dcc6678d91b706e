package debian

import (
	"archive/tar"
	"bytes"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"berth.dev/internal/sandbox"
)

// tree writes the root file system: each path once, parents before children,
// and symbolic links to folders (/bin, /var/run) followed as a kernel would.
type tree struct {
	out   *tar.Writer
	nodes map[string]node // by clean absolute path
}

type node struct {
	kind   byte   // of archive/tar: TypeDir, TypeReg, TypeSymlink, ...
	target string // of a symbolic link
	owner  string // the package that brought it
}

func newTree(w io.Writer) *tree {
	return &tree{out: tar.NewWriter(w), nodes: map[string]node{"/": {kind: tar.TypeDir}}}
}

// maxLinks bounds symbolic links in one path, as the kernel does.
const maxLinks = 40

// resolve returns where a path leads when its folders are followed; its last
// element is not, like lstat. It never leads out of the root.
func (t *tree) resolve(name string) (string, error) {
	rest := splitPath(name)
	at := "/"
	for links := 0; len(rest) > 0; {
		elem := rest[0]
		rest = rest[1:]
		if elem == ".." {
			at = path.Dir(at)
			continue
		}
		next := path.Join(at, elem)
		n, known := t.nodes[next]
		if !known || n.kind != tar.TypeSymlink || len(rest) == 0 {
			at = next
			continue
		}
		if links++; links > maxLinks {
			return "", sandbox.Errorf(sandbox.ErrInvalid, "path %q goes through too many symbolic links", name)
		}
		if path.IsAbs(n.target) {
			at = "/"
		}
		rest = append(splitPath(n.target), rest...)
	}
	return at, nil
}

func splitPath(p string) []string {
	return slices.DeleteFunc(strings.Split(p, "/"), func(e string) bool { return e == "" || e == "." })
}

// put writes an entry whose header's Name is its resolved path. The header's
// names of users and groups are dropped: numbers are what counts.
func (t *tree) put(h *tar.Header, n node, data io.Reader) error {
	if err := t.parents(h.Name); err != nil {
		return err
	}
	t.nodes[h.Name] = n
	out := &tar.Header{
		Typeflag: h.Typeflag, Name: strings.TrimPrefix(h.Name, "/"), Linkname: h.Linkname, Size: h.Size,
		Mode: h.Mode & 0o7777, Uid: h.Uid, Gid: h.Gid, ModTime: h.ModTime.Truncate(time.Second),
		Devmajor: h.Devmajor, Devminor: h.Devminor,
	}
	for k, v := range h.PAXRecords {
		if strings.HasPrefix(k, "SCHILY.xattr.") {
			if out.PAXRecords == nil {
				out.PAXRecords = map[string]string{}
			}
			out.PAXRecords[k] = v
		}
	}
	if n.kind == tar.TypeDir {
		out.Name += "/"
	}
	if err := t.out.WriteHeader(out); err != nil {
		return err
	}
	if h.Typeflag != tar.TypeReg {
		return nil
	}
	_, err := io.CopyN(t.out, data, h.Size)
	return err
}

// parents makes the folders above a path that nobody brought.
func (t *tree) parents(name string) error {
	dir := path.Dir(name)
	if n, ok := t.nodes[dir]; ok {
		if n.kind != tar.TypeDir {
			return sandbox.Errorf(sandbox.ErrInvalid, "%s of package %s is no folder, but %s lies in it", dir, n.owner, name)
		}
		return nil
	}
	return t.put(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755, ModTime: epoch}, node{kind: tar.TypeDir}, nil)
}

// file writes a file of ours, where no package may have brought one.
func (t *tree) file(name string, mode int64, mtime time.Time, data []byte) error {
	name, err := t.resolve(name)
	if err != nil {
		return err
	}
	if n, ok := t.nodes[name]; ok {
		return sandbox.Errorf(sandbox.ErrInvalid, "package %s brings %s, which is made here", n.owner, name)
	}
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(data)), ModTime: mtime}
	return t.put(h, node{kind: tar.TypeReg}, bytes.NewReader(data))
}

// dir makes a folder unless it is there.
func (t *tree) dir(name string, mode int64, mtime time.Time) error {
	name, err := t.resolve(name)
	if err != nil {
		return err
	}
	if _, ok := t.nodes[name]; ok {
		return nil
	}
	return t.put(&tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode, ModTime: mtime}, node{kind: tar.TypeDir}, nil)
}

// link makes a symbolic link unless something is there.
func (t *tree) link(name, target string, mtime time.Time) error {
	if _, ok := t.nodes[name]; ok {
		return nil
	}
	h := &tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777, ModTime: mtime}
	return t.put(h, node{kind: tar.TypeSymlink, target: target}, nil)
}

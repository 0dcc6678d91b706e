package filecopy

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"berth.dev/internal/sandbox"
)

// tarSource reads an archive.
type tarSource struct{ r io.Reader }

// FromTar reads an uncompressed tar archive as the content of a folder.
func FromTar(r io.Reader) Source { return tarSource{r} }

// Walk implements Source.
func (s tarSource) Walk(_ context.Context, visit func(Entry, func() (io.ReadCloser, error)) error) error {
	archive := tar.NewReader(s.r)
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return sandbox.Errorf(sandbox.ErrInvalid, "read archive: %w", err)
		}
		e, ok := tarEntry(h)
		if !ok {
			continue
		}
		if err := visit(e, func() (io.ReadCloser, error) { return io.NopCloser(archive), nil }); err != nil {
			return err
		}
	}
}

// tarEntry is a header as an Entry; ok is false for what is no member.
func tarEntry(h *tar.Header) (e Entry, ok bool) {
	e = Entry{Path: tarPath(h.Name), Size: h.Size, ModTime: h.ModTime, Mode: h.FileInfo().Mode()}
	switch h.Typeflag {
	case tar.TypeSymlink:
		e.Mode, e.Link = e.Mode.Perm()|fs.ModeSymlink, h.Linkname
	case tar.TypeLink:
		e.Mode, e.Hard = e.Mode.Perm(), tarPath(h.Linkname)
	case tar.TypeXGlobalHeader:
		return e, false
	}
	return e, e.Path != "." || e.Mode.IsDir()
}

// tarPath takes off what archives write around a path. What climbs with ".."
// stays as it is, for check to refuse.
func tarPath(name string) string {
	name = strings.TrimPrefix(name, "./")
	if strings.Contains("/"+name+"/", "/../") || path.IsAbs(name) {
		return name
	}
	return path.Clean(name)
}

// tarTarget writes an archive.
type tarTarget struct {
	w    *tar.Writer
	name string
}

// ToTar writes a tree as an uncompressed tar archive whose members are below
// name, or, when name is "", without a folder around them.
func ToTar(w io.Writer, name string) Target { return &tarTarget{w: tar.NewWriter(w), name: name} }

// Put implements Target.
func (t *tarTarget) Put(e Entry, content io.Reader) error {
	name := path.Join(t.name, e.Path)
	h := &tar.Header{Name: name, Mode: int64(e.Mode.Perm()), ModTime: e.ModTime, Format: tar.FormatPAX}
	switch {
	case e.Mode.IsDir():
		if name == "." {
			name = "./"
		}
		h.Typeflag, h.Name = tar.TypeDir, strings.TrimSuffix(name, "/")+"/"
	case e.Mode.Type() == fs.ModeSymlink:
		h.Typeflag, h.Linkname = tar.TypeSymlink, e.Link
	default:
		h.Typeflag, h.Size = tar.TypeReg, e.Size
	}
	if err := t.w.WriteHeader(h); err != nil {
		return fmt.Errorf("write archive: %w", err)
	}
	if content == nil {
		return nil
	}
	// The header has promised a size. A file that grows meanwhile is cut, one
	// that shrinks makes the archive wrong, and that is an error.
	n, err := io.Copy(t.w, io.LimitReader(content, e.Size))
	if err != nil {
		return fmt.Errorf("write archive: %w", err)
	}
	if n < e.Size {
		return fmt.Errorf("write archive: %s became shorter while it was read", name)
	}
	return nil
}

// Close implements Target.
func (t *tarTarget) Close() error { return t.w.Close() }

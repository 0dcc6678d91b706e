package image

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
)

// archive is a tar of files that refer to each other: an OCI layout, or what
// docker save writes. It must be a file, because the list of what is in it may
// be at its end.
type archive struct {
	r     io.ReaderAt
	size  int64
	files map[string]member
}

// member is one file of an archive: where it lies, or what it is a link to.
type member struct {
	off, size int64
	link      string
}

// openArchive lists an archive's files. It reads headers only.
func openArchive(ctx context.Context, r io.ReaderAt, size int64, l *Limits) (*archive, error) {
	a := &archive{r: r, size: size, files: map[string]member{}}
	sec := io.NewSectionReader(r, 0, size)
	tr := tar.NewReader(sec)
	for n := 0; ; n++ {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		h, err := tr.Next()
		if err == io.EOF {
			return a, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read archive: %w", err)
		}
		if n >= maxArchiveFiles {
			return nil, fmt.Errorf("the archive has more than %d files", maxArchiveFiles)
		}
		// The tar reader reads whole blocks and no further, so this is where
		// the content begins.
		off, err := sec.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		if err := a.add(h, off, l); err != nil {
			return nil, fmt.Errorf("archive entry %.200q: %w", h.Name, err)
		}
	}
}

func (a *archive) add(h *tar.Header, off int64, l *Limits) error {
	name, err := cleanName(h.Name, l)
	if err != nil {
		return err
	}
	m := member{off: off, size: h.Size}
	switch h.Typeflag {
	case tar.TypeDir, tar.TypeXGlobalHeader:
		return nil
	case tar.TypeReg:
		for k := range h.PAXRecords {
			if strings.HasPrefix(k, "GNU.sparse.") {
				return errors.New("sparse files do not belong in an image archive")
			}
		}
		if h.Size < 0 || h.Size > a.size-off {
			return io.ErrUnexpectedEOF
		}
	case tar.TypeSymlink:
		// Older docker save writes a layer once and links to it. The target is
		// looked up in this list and nowhere else.
		m = member{link: path.Join(path.Dir(name), h.Linkname)}
	case tar.TypeLink:
		m = member{link: path.Clean(h.Linkname)}
	default:
		return fmt.Errorf("type %q does not belong in an image archive", h.Typeflag)
	}
	if _, ok := a.files[name]; ok {
		return errors.New("is in the archive twice")
	}
	a.files[name] = m
	return nil
}

// find returns a regular file of the archive, following links within it.
func (a *archive) find(name string) (member, error) {
	at := path.Clean(name)
	for range 8 {
		m, ok := a.files[at]
		switch {
		case !ok:
			return member{}, fmt.Errorf("%.200q is not in the archive", name)
		case m.link == "":
			return m, nil
		}
		at = m.link
	}
	return member{}, fmt.Errorf("%.200q in the archive is a link to a link to a link", name)
}

func (a *archive) has(name string) bool {
	_, err := a.find(name)
	return err == nil
}

func (a *archive) open(m member) io.Reader { return io.NewSectionReader(a.r, m.off, m.size) }

// bytes returns the content of a small file.
func (a *archive) bytes(name string, limit int64) ([]byte, error) {
	m, err := a.find(name)
	if err != nil {
		return nil, err
	}
	if m.size > limit {
		return nil, fmt.Errorf("%.200q in the archive has %d bytes, %d is the most", name, m.size, limit)
	}
	return io.ReadAll(a.open(m))
}

// openFile opens what the user named as an archive. One that is compressed, or
// that is no regular file (a pipe), is first written to a temporary file.
func (t *stage) openFile(ctx context.Context, file string) (*os.File, func(), error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, nil, err
	}
	st, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return nil, nil, err
	}
	plain := false
	if st.Mode().IsRegular() {
		if plain, err = isTar(f); err != nil {
			_ = f.Close()
			return nil, nil, err
		}
	}
	if plain {
		return f, func() { _ = f.Close() }, nil
	}
	defer f.Close()
	if st.IsDir() {
		return nil, nil, fmt.Errorf("%s is a folder", file)
	}
	return t.spool(ctx, f)
}

// isTar reports whether a file is not compressed in a way that we undo.
func isTar(f *os.File) (bool, error) {
	var head [4]byte
	n, err := f.ReadAt(head[:], 0)
	if err != nil && err != io.EOF {
		return false, err
	}
	return n < len(head) || (string(head[:2]) != gzipMagic && string(head[:]) != zstdMagic), nil
}

// spool unpacks r into a temporary file.
func (t *stage) spool(ctx context.Context, r io.Reader) (*os.File, func(), error) {
	tmp, err := t.w.temp("archive")
	if err != nil {
		return nil, nil, err
	}
	undo := func() { discard(tmp) }
	in := &ctxReader{ctx: ctx, r: r}
	plain, err := decompress(in)
	if err != nil {
		undo()
		return nil, nil, err
	}
	defer plain.Close()
	m := &meter{r: plain, in: in, l: &t.s.limits, max: t.s.limits.ArchiveSize}
	if _, err := io.Copy(tmp, bufio.NewReaderSize(m, readSize)); err != nil {
		undo()
		return nil, nil, err
	}
	return tmp, undo, nil
}

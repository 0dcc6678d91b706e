package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Whiteouts of an OCI layer.
const (
	whiteoutPrefix = ".wh."
	opaqueName     = ".wh..wh..opq"
)

// writeLayer writes what the root has beyond its template as a tar with
// whiteouts. The folders that hold mounts are in it as the empty ones that the
// overlay has below them.
func (l *layout) writeLayer(w io.Writer) error {
	tw := tar.NewWriter(w)
	links := map[uint64]string{} // first name of each file that has several
	err := filepath.WalkDir(upperDir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name == upperDir {
			return nil
		}
		rel := strings.TrimPrefix(name, upperDir+"/")
		if err := writeEntry(tw, name, rel, links); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s: %w", rel, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return tw.Close()
}

func writeEntry(tw *tar.Writer, name, rel string, links map[uint64]string) error {
	var st unix.Stat_t
	if err := unix.Lstat(name, &st); err != nil {
		return err
	}
	h := &tar.Header{
		Name: rel, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid),
		ModTime: time.Unix(st.Mtim.Sec, st.Mtim.Nsec), Format: tar.FormatPAX,
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		h.Typeflag, h.Name = tar.TypeDir, rel+"/"
	case unix.S_IFLNK:
		to, err := os.Readlink(name)
		if err != nil {
			return err
		}
		h.Typeflag, h.Linkname = tar.TypeSymlink, to
	case unix.S_IFCHR:
		if st.Rdev == 0 { // an overlay's whiteout
			dir, base := path.Split(rel)
			return tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: dir + whiteoutPrefix + base, Mode: 0o600, ModTime: h.ModTime})
		}
		h.Typeflag, h.Devmajor, h.Devminor = tar.TypeChar, int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	case unix.S_IFBLK:
		h.Typeflag, h.Devmajor, h.Devminor = tar.TypeBlock, int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	case unix.S_IFREG:
		h.Typeflag = tar.TypeReg
		if first, ok := links[st.Ino]; ok {
			h.Typeflag, h.Linkname = tar.TypeLink, first
			break
		}
		if st.Nlink > 1 {
			links[st.Ino] = rel
		}
		h.Size = st.Size
	default:
		return nil // sockets are of a process that will not be there
	}
	h.PAXRecords = attributes(name)
	if h.Typeflag == tar.TypeReg {
		return writeFile(tw, h, name)
	}
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeDir && opaque(name) {
		return tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: rel + "/" + opaqueName, Mode: 0o600, ModTime: h.ModTime})
	}
	return nil
}

// writeFile writes a file of the size that was found, however it changes.
func writeFile(tw *tar.Writer, h *tar.Header, name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	n, err := io.Copy(tw, io.LimitReader(f, h.Size))
	if err != nil {
		return err
	}
	_, err = io.CopyN(tw, zeros{}, h.Size-n)
	return err
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func opaque(name string) bool {
	var v [1]byte
	n, err := unix.Lgetxattr(name, "trusted.overlay.opaque", v[:])
	return err == nil && n == 1 && v[0] == 'y'
}

// attributes are the extended attributes that a file keeps in a layer: what
// programs may do (security.capability) and what users wrote.
func attributes(name string) map[string]string {
	list := make([]byte, 16<<10)
	n, err := unix.Llistxattr(name, list)
	if err != nil || n <= 0 {
		return nil
	}
	records := map[string]string{}
	for key := range strings.SplitSeq(strings.TrimSuffix(string(list[:n]), "\x00"), "\x00") {
		if key != "security.capability" && !strings.HasPrefix(key, "user.") {
			continue
		}
		value := make([]byte, 64<<10)
		if n, err := unix.Lgetxattr(name, key, value); err == nil {
			records["SCHILY.xattr."+key] = string(value[:n])
		}
	}
	return records
}

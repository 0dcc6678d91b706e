package image

import (
	"archive/tar"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"berth.dev/internal/image/erofs"
)

// kind is what an entry of a layer does.
type kind byte

const (
	kindDir kind = iota + 1
	kindRegular
	kindSymlink
	kindChar
	kindBlock
	kindFifo
	kindLink     // a further name of the file at Link
	kindWhiteout // hides Name in the layers below
	kindOpaque   // hides all that the layers below have in the folder Name
	// kindOverlayWhiteout becomes kindWhiteout when the layer has been read.
	kindOverlayWhiteout
)

// entry is one checked entry of a layer. Its fields are exported for the index
// only.
type entry struct {
	Kind     kind
	Name     string // clean and relative; "" is the root
	Link     string // kindSymlink: the target as it is; kindLink: clean and relative
	Mode     uint16 // permission bits with set-uid, set-gid and sticky
	UID, GID uint32
	Mtime    int64
	Nsec     uint32
	Size     int64
	Rdev     uint32
	Ordinal  int // place in the tar, counted from 0
	Xattrs   []xattr
}

type xattr struct{ Name, Value string }

const (
	paxXattr     = "SCHILY.xattr."
	whiteoutMark = ".wh."
	aufsMark     = ".wh..wh."
	opaqueMark   = ".wh..wh..opq"
)

var errEscapes = errors.New("path leaves the layer")

// cleanName checks the path of an entry and returns it clean and relative.
// Some tools write a leading slash for the image's root, so that is accepted;
// ".." is not, not even where it would stay inside: no honest tool writes it.
func cleanName(name string, l *Limits) (string, error) {
	if len(name) > l.PathLength {
		return "", fmt.Errorf("path has %d bytes, %d is the most", len(name), l.PathLength)
	}
	if strings.ContainsRune(name, 0) {
		return "", errors.New("path holds a zero byte")
	}
	depth := 0
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case part == "..":
			return "", errEscapes
		case len(part) > maxName:
			return "", fmt.Errorf("name has %d bytes, %d is the most", len(part), maxName)
		case part != "" && part != ".":
			depth++
		}
	}
	if depth > l.Depth {
		return "", fmt.Errorf("path is %d folders deep, %d is the most", depth, l.Depth)
	}
	return strings.TrimPrefix(path.Clean("/"+name), "/"), nil
}

// parseEntries checks one tar header. It gives no entry for what a layer may
// hold but an image does not (a pax comment, AUFS's own files), one for most,
// and two for a folder that hides what lies below it.
func parseEntries(h *tar.Header, ordinal int, l *Limits) ([]entry, error) {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil, nil
	}
	name, err := cleanName(h.Name, l)
	if err != nil {
		return nil, err
	}
	e := entry{Name: name, Ordinal: ordinal, Mode: uint16(h.Mode & 0o7777)}
	if mark, err := parseMark(&e); err != nil || mark {
		if err != nil || e.Kind == 0 {
			return nil, err
		}
		return []entry{e}, nil
	}
	if err := e.parseType(h, l); err != nil {
		return nil, err
	}
	if err := e.parseMeta(h); err != nil {
		return nil, err
	}
	opaque, err := e.parseXattrs(h, l)
	if err != nil {
		return nil, err
	}
	if name == "" && e.Kind != kindDir {
		return nil, errors.New("the root must be a folder")
	}
	if opaque {
		return []entry{{Kind: kindOpaque, Name: name, Ordinal: ordinal}, e}, nil
	}
	return []entry{e}, nil
}

// parseMark recognises the whiteouts of the OCI image spec, which are files
// whose names begin with ".wh.". It leaves Kind 0 for other marks of AUFS, which
// mean nothing here.
func parseMark(e *entry) (mark bool, err error) {
	dir, base := path.Split(e.Name)
	if strings.Contains("/"+dir, "/"+whiteoutMark) {
		return false, errors.New("a folder has the name of a whiteout")
	}
	hidden, mark := strings.CutPrefix(base, whiteoutMark)
	switch {
	case !mark:
		return false, nil
	case base == opaqueMark:
		e.Kind, e.Name = kindOpaque, strings.TrimSuffix(dir, "/")
	case strings.HasPrefix(base, aufsMark):
		e.Kind = 0
	case hidden == "" || hidden == "." || hidden == "..":
		// ".wh..." would hide "..": the folder above.
		return true, errors.New("a whiteout that names no file")
	default:
		e.Kind, e.Name = kindWhiteout, dir+hidden
	}
	return true, nil
}

func (e *entry) parseType(h *tar.Header, l *Limits) error {
	switch h.Typeflag {
	case tar.TypeDir:
		e.Kind = kindDir
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		e.Kind, e.Size = kindRegular, h.Size
		if h.Size < 0 || h.Size > l.LayerSize {
			return fmt.Errorf("size %d is more than the %d that a layer may have", h.Size, l.LayerSize)
		}
	case tar.TypeSymlink:
		e.Kind, e.Link = kindSymlink, h.Linkname
		if h.Linkname == "" || len(h.Linkname) > maxTarget || strings.ContainsRune(h.Linkname, 0) {
			return fmt.Errorf("a symbolic link's target has 1 to %d bytes, none of them zero", maxTarget)
		}
	case tar.TypeLink:
		return e.parseLink(h, l)
	case tar.TypeFifo:
		e.Kind = kindFifo
	case tar.TypeChar, tar.TypeBlock:
		return e.parseDevice(h)
	default:
		return fmt.Errorf("type %q is not one that a layer may hold", h.Typeflag)
	}
	return nil
}

// parseLink checks a hard link. An absolute target is refused: no tool that
// makes layers writes one, and what it would mean is a file of the host.
func (e *entry) parseLink(h *tar.Header, l *Limits) (err error) {
	if path.IsAbs(h.Linkname) {
		return fmt.Errorf("hard link to the absolute path %.200q", h.Linkname)
	}
	e.Kind = kindLink
	if e.Link, err = cleanName(h.Linkname, l); err != nil {
		return fmt.Errorf("hard link to %.200q: %w", h.Linkname, err)
	}
	if e.Link == "" {
		return errors.New("hard link to a folder")
	}
	return nil
}

// parseDevice checks a device node. Character device 0:0 is overlayfs's
// whiteout: gVisor writes a sandbox's changes with those, and every overlay
// that the image ends under reads them so.
func (e *entry) parseDevice(h *tar.Header) error {
	if h.Devmajor < 0 || h.Devmajor > 1<<12-1 || h.Devminor < 0 || h.Devminor > 1<<20-1 {
		return fmt.Errorf("device number %d:%d does not exist", h.Devmajor, h.Devminor)
	}
	e.Kind, e.Rdev = kindBlock, erofs.Rdev(uint32(h.Devmajor), uint32(h.Devminor))
	if h.Typeflag == tar.TypeChar {
		e.Kind = kindChar
		if e.Rdev == 0 {
			e.Kind = kindOverlayWhiteout
		}
	}
	return nil
}

func (e *entry) parseMeta(h *tar.Header) error {
	// -1 means "leave it as it is" to chown, hence the maximum.
	const maxID = 1<<32 - 2
	if h.Uid < 0 || int64(h.Uid) > maxID || h.Gid < 0 || int64(h.Gid) > maxID {
		return fmt.Errorf("owner %d:%d does not exist", h.Uid, h.Gid)
	}
	e.UID, e.GID = uint32(h.Uid), uint32(h.Gid)
	if !h.ModTime.IsZero() {
		e.Mtime, e.Nsec = h.ModTime.Unix(), uint32(h.ModTime.Nanosecond())
	}
	return nil
}

// parseXattrs reads extended attributes from the pax records where GNU tar,
// star, Go and gVisor put them. Those that steer an overlay are not content: the
// mark of an opaque folder is understood, the others are refused.
func (e *entry) parseXattrs(h *tar.Header, l *Limits) (opaque bool, err error) {
	total := 0
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, paxXattr)
		if !ok {
			continue
		}
		total += len(name) + len(value)
		if name == "" || len(name) > maxXattrName || total > l.XattrSize {
			return false, fmt.Errorf("extended attributes of more than %d bytes, or one with no or a long name", l.XattrSize)
		}
		_, overlay := strings.CutPrefix(name, "trusted.overlay.")
		if !overlay {
			_, overlay = strings.CutPrefix(name, "user.overlay.")
		}
		if overlay {
			if !strings.HasSuffix(name, ".overlay.opaque") || e.Kind != kindDir {
				return false, fmt.Errorf("extended attribute %q would steer the sandbox's overlay", name)
			}
			opaque = opaque || value == "y"
			continue
		}
		e.Xattrs = append(e.Xattrs, xattr{name, value})
	}
	slices.SortFunc(e.Xattrs, func(a, b xattr) int { return strings.Compare(a.Name, b.Name) })
	return opaque, nil
}

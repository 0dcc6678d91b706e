package debian

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"

	"berth.dev/internal/sandbox"
)

// maxEntries bounds the files of one package.
const maxEntries = 1 << 20

// unpacker puts packages into a tree, one after the other, and remembers what
// dpkg's database has to say of them.
type unpacker struct {
	tree  *tree
	ids   ownerIDs
	debs  map[string]*deb     // by name
	lists map[string][]string // paths as shipped, by package
}

// unpack writes a package's files; data is its uncompressed data part.
func (u *unpacker) unpack(ctx context.Context, d *deb, data io.Reader) error {
	conffiles := map[string]bool{}
	for _, c := range d.conffiles() {
		conffiles[c] = true
	}
	tr := tar.NewReader(data)
	for n := 0; ; n++ {
		h, err := tr.Next()
		if err == io.EOF {
			// What follows the end of a tar stream is padding; reading it lets
			// the decompressor check its own sums.
			_, err = io.Copy(io.Discard, data)
			return err
		}
		if err != nil {
			return err
		}
		if n >= maxEntries {
			return sandbox.Errorf(sandbox.ErrInvalid, "it has more than %d files", maxEntries)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := u.entry(d, h, tr, conffiles); err != nil {
			return fmt.Errorf("entry %q: %w", h.Name, err)
		}
	}
}

// entry writes one entry of a package.
func (u *unpacker) entry(d *deb, h *tar.Header, data io.Reader, conffiles map[string]bool) error {
	if strings.Contains("/"+h.Name+"/", "/../") || strings.ContainsRune(h.Name, 0) || strings.ContainsRune(h.Name, '\n') {
		return sandbox.Errorf(sandbox.ErrInvalid, "that is no path of a package")
	}
	shipped := path.Clean("/" + h.Name)
	u.lists[d.Name] = append(u.lists[d.Name], shipped)
	if shipped == "/" || excluded(shipped) {
		return nil
	}
	at, err := u.tree.resolve(shipped)
	if err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse:
		h.Typeflag = tar.TypeReg
		if conffiles[shipped] {
			// dpkg unpacks configuration files under this name, and its
			// configure step puts them in place.
			at += ".dpkg-new"
		}
		if shipped == passwdMaster || shipped == groupMaster {
			if data, err = u.ids.learn(shipped, h.Size, data); err != nil {
				return err
			}
		}
	case tar.TypeLink:
		if h.Linkname, err = u.linkTarget(h.Linkname, conffiles); err != nil {
			return err
		}
	case tar.TypeDir, tar.TypeSymlink, tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
	default:
		return sandbox.Errorf(sandbox.ErrInvalid, "its type %q is not known", h.Typeflag)
	}
	skip, err := u.meet(d, at, h)
	if skip || err != nil {
		return err
	}
	h.Uid, h.Gid = u.ids.uid(h), u.ids.gid(h)
	if h.Uid < 0 || h.Gid < 0 {
		return sandbox.Errorf(sandbox.ErrInvalid, "it belongs to user %d, group %d", h.Uid, h.Gid)
	}
	h.Name = at
	return u.tree.put(h, node{kind: h.Typeflag, target: h.Linkname, owner: d.Name}, data)
}

// linkTarget finds the entry that a hard link means; it is of the same package
// and stands before the link.
func (u *unpacker) linkTarget(name string, conffiles map[string]bool) (string, error) {
	shipped := path.Clean("/" + name)
	at, err := u.tree.resolve(shipped)
	if err != nil {
		return "", err
	}
	if conffiles[shipped] {
		at += ".dpkg-new"
	}
	if n, ok := u.tree.nodes[at]; !ok || n.kind == tar.TypeDir {
		return "", sandbox.Errorf(sandbox.ErrInvalid, "it is a hard link to %q, which is not there", name)
	}
	return strings.TrimPrefix(at, "/"), nil
}

// meet decides what becomes of an entry when its path is taken, by dpkg's
// rules: a folder, and a symbolic link to one, stay as they are; a file of a
// package that was replaced gives way; everything else is a conflict.
func (u *unpacker) meet(d *deb, at string, h *tar.Header) (skip bool, err error) {
	old, taken := u.tree.nodes[at]
	switch {
	case !taken:
		return false, nil
	case h.Typeflag == tar.TypeDir && (old.kind == tar.TypeDir || old.kind == tar.TypeSymlink),
		h.Typeflag == tar.TypeSymlink && old.kind == tar.TypeDir:
		return true, nil
	case old.owner != d.Name && u.debs[old.owner] != nil && replaces(u.debs[old.owner], d):
		shipped := u.lists[d.Name]
		u.lists[d.Name] = shipped[:len(shipped)-1] // it is the other's now
		return true, nil
	}
	return false, sandbox.Errorf(sandbox.ErrInvalid, "package %s brings it too", old.owner)
}

// replaces reports whether a's files may stand in place of b's (Policy 7.6).
func replaces(a, b *deb) bool {
	rels, _ := parseRelations(a.control.get("Replaces"))
	for _, dep := range rels {
		for _, r := range dep {
			if r.name == b.Name && relationHolds(b.Version, r.op, r.version) {
				return true
			}
		}
	}
	return false
}

// unpackOrder sorts packages so that the result is one that dpkg could have
// come to: base-passwd, whose tables say who owns files; base-files, whose
// links and folders the others build on; then by name, but packages that
// replace others' files before those.
func unpackOrder(debs []*deb) []*deb {
	left := slices.Clone(debs)
	slices.SortFunc(left, func(a, b *deb) int { return strings.Compare(a.Name, b.Name) })
	var out []*deb
	take := func(i int) {
		out = append(out, left[i])
		left = slices.Delete(left, i, i+1)
	}
	for _, name := range []string{"base-passwd", "base-files"} {
		if i := slices.IndexFunc(left, func(d *deb) bool { return d.Name == name }); i >= 0 {
			take(i)
		}
	}
	for len(left) > 0 {
		i := slices.IndexFunc(left, func(d *deb) bool {
			return !slices.ContainsFunc(left, func(o *deb) bool { return o != d && replaces(o, d) })
		})
		take(max(i, 0)) // two that replace each other: by name
	}
	return out
}

// The tables of base-passwd: who has which number on every Debian system.
const (
	passwdMaster = "/usr/share/base-passwd/passwd.master"
	groupMaster  = "/usr/share/base-passwd/group.master"
)

// ownerIDs maps names to numbers. dpkg goes by the names in a package, because
// numbers are the build machine's.
type ownerIDs struct{ users, groups map[string]int }

func (o *ownerIDs) learn(file string, size int64, r io.Reader) (io.Reader, error) {
	if size > maxHostFile {
		return nil, sandbox.Errorf(sandbox.ErrInvalid, "it has %d bytes", size)
	}
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	table := map[string]int{}
	for line := range strings.SplitSeq(string(data), "\n") {
		if f := strings.Split(line, ":"); len(f) > 2 {
			if id, err := strconv.ParseUint(f[2], 10, 31); err == nil {
				table[f[0]] = int(id)
			}
		}
	}
	if file == passwdMaster {
		o.users = table
	} else {
		o.groups = table
	}
	return bytes.NewReader(data), nil
}

func (o *ownerIDs) uid(h *tar.Header) int {
	if id, ok := o.users[h.Uname]; ok {
		return id
	}
	return h.Uid
}

func (o *ownerIDs) gid(h *tar.Header) int {
	if id, ok := o.groups[h.Gname]; ok {
		return id
	}
	return h.Gid
}

package image

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"berth.dev/internal/image/erofs"
)

// tree is what several layers look like when they lie on each other. It is built
// from their entries alone, in memory: no path of a layer ever reaches the host.
type tree struct {
	limits *Limits
	root   *node
	mount  *node // where all content must go; nil for the whole tree
	layer  Layer // being applied
	number int   // of that layer, counted from 0
	count  int   // nodes ever made
	meta   int64 // bytes of names and attributes ever held
	trail  int64 // bytes of symbolic links' targets ever followed
}

// node is one file of the tree. Hard links are several names for one node.
type node struct {
	erofs.Inode
	parent   *node            // folders only
	children map[string]*node // folders only
	depth    int              // folders only: 0 is the root
	layer    int32            // where the content comes from
	ordinal  int32
	xattrs   []xattr
}

func (n *node) isDir() bool { return n.Mode&erofs.TypeMask == erofs.TypeDir }

func newDir(parent *node) *node {
	n := &node{Inode: erofs.Inode{Mode: erofs.TypeDir | 0o755}, parent: parent, children: map[string]*node{}}
	if parent == nil {
		n.parent = n
	} else {
		n.depth = parent.depth + 1
	}
	return n
}

// newTree returns an empty tree for content below mount ("" for any).
func newTree(l *Limits, mount string) (*tree, error) {
	t := &tree{limits: l, root: newDir(nil)}
	if mount == "" {
		return t, nil
	}
	var err error
	t.mount, err = t.folder(strings.TrimPrefix(mount, "/"), true)
	return t, err
}

// top is the folder that becomes the root of the file system.
func (t *tree) top() *node {
	if t.mount != nil {
		return t.mount
	}
	return t.root
}

// apply lays one more layer on the tree. First everything that the layer hides
// disappears, wherever in the layer that stands: a whiteout never hides what its
// own layer brings (OCI image spec, "Whiteouts").
func (t *tree) apply(layer Layer, entries []entry) error {
	t.layer = layer
	defer func() { t.number++ }()
	for i := range entries {
		if err := t.hide(&entries[i]); err != nil {
			return refuse(layer.label(), entries[i].Name, err)
		}
	}
	for i := range entries {
		e := &entries[i]
		if e.Kind == kindWhiteout || e.Kind == kindOpaque {
			continue
		}
		t.meta += e.weight()
		if t.meta > t.limits.Metadata {
			return refuse(layer.label(), e.Name, fmt.Errorf("the image has more than %d bytes of names and attributes", t.limits.Metadata))
		}
		if err := t.put(e); err != nil {
			return refuse(layer.label(), e.Name, err)
		}
	}
	return nil
}

// hide carries out a whiteout or an opaque mark; other entries are left alone.
// That which is not there is hidden already.
func (t *tree) hide(e *entry) error {
	switch e.Kind {
	case kindOpaque:
		dir, err := t.find(e.Name)
		if err != nil || dir == nil || !dir.isDir() {
			return err
		}
		if !t.within(dir) {
			dir = t.mount // a folder on the way there; there is nothing else in it
		}
		clear(dir.children)
	case kindWhiteout:
		dirName, base := path.Split(e.Name)
		dir, err := t.folder(dirName, false)
		if err != nil || dir == nil {
			return err
		}
		if !t.within(dir) {
			clear(t.mount.children) // the mount folder itself must stay
			return nil
		}
		delete(dir.children, base)
	}
	return nil
}

// put adds one file, or changes the folder that is there.
func (t *tree) put(e *entry) error {
	if e.Name == "" {
		t.root.setMeta(e)
		return nil
	}
	dirName, base := path.Split(e.Name)
	dir, err := t.folder(dirName, true)
	if err != nil {
		return err
	}
	if !t.within(dir) {
		return t.above(dir, base, e)
	}
	old := dir.children[base]
	switch {
	case e.Kind == kindDir && old != nil && old.isDir():
		old.setMeta(e)
		return nil
	case e.Kind == kindLink:
		return t.link(e, dir, base)
	}
	n, err := t.newNode(e, dir)
	if err != nil {
		return err
	}
	dir.children[base] = n
	return nil
}

// above handles an entry outside the mount folder: only the folders on the way
// there may be, and what they look like does not matter. Names were checked
// before; this is about symbolic links that lead out.
func (t *tree) above(dir *node, base string, e *entry) error {
	if child := dir.children[base]; child != nil && child.isDir() && e.Kind == kindDir {
		child.setMeta(e)
		return nil
	}
	return errors.New("would change something outside the layer's mount folder")
}

// within reports whether what is put into dir becomes part of the image.
func (t *tree) within(dir *node) bool {
	if t.mount == nil {
		return true
	}
	for dir.depth > t.mount.depth {
		dir = dir.parent
	}
	return dir == t.mount
}

func (t *tree) link(e *entry, dir *node, base string) error {
	target, err := t.find(e.Link)
	switch {
	case err != nil:
		return fmt.Errorf("hard link to %.200q: %w", e.Link, err)
	case target == nil:
		return fmt.Errorf("hard link to %.200q, which does not exist", e.Link)
	case target.isDir():
		return fmt.Errorf("hard link to %.200q, which is a folder", e.Link)
	}
	dir.children[base] = target
	return nil
}

// find returns what is at a path without following a symbolic link there, or nil.
func (t *tree) find(name string) (*node, error) {
	if name == "" {
		return t.root, nil
	}
	dirName, base := path.Split(name)
	dir, err := t.folder(dirName, false)
	if err != nil || dir == nil {
		return nil, err
	}
	return dir.children[base], nil
}

// folder returns the folder at a path, following symbolic links as a program
// inside the image would: usr-merged images have layers that speak of bin/x
// where bin is a link. Folders that are missing are made, or nil is returned. A
// link that climbs above the root is refused.
func (t *tree) folder(name string, make bool) (*node, error) {
	cur, links := t.root, 0
	rest := name
	for rest != "" {
		var part string
		part, rest, _ = strings.Cut(rest, "/")
		if part == "" || part == "." {
			continue
		}
		if part == ".." {
			// Only a symbolic link's target can say this.
			if cur == t.root {
				return nil, errEscapes
			}
			cur = cur.parent
			continue
		}
		child := cur.children[part]
		if child != nil && child.Mode&erofs.TypeMask == erofs.TypeSymlink {
			links++
			var err error
			if cur, rest, err = t.follow(cur, child, rest, links); err != nil {
				return nil, err
			}
			continue
		}
		next, err := t.enter(cur, child, part, make)
		if next == nil || err != nil {
			return nil, err
		}
		cur = next
	}
	return cur, nil
}

// follow goes through a symbolic link in the folder cur: it returns where to go
// on, and the path from there.
func (t *tree) follow(cur, link *node, rest string, links int) (*node, string, error) {
	t.trail += int64(len(link.Target)) // a bound on the time that hostile links cost
	if links > maxSymlinks || t.trail > t.limits.Metadata {
		return nil, "", errors.New("too many symbolic links on the way to it")
	}
	if path.IsAbs(link.Target) {
		cur = t.root
	}
	if rest = link.Target + "/" + rest; len(rest) > 2*t.limits.PathLength {
		return nil, "", errors.New("symbolic links on the way to it make too long a path")
	}
	return cur, rest, nil
}

// enter goes into the folder child, called part, of cur; it is made if it is nil
// and make says so. Without make, what is no folder is nil.
func (t *tree) enter(cur, child *node, part string, make bool) (*node, error) {
	switch {
	case child != nil && child.isDir():
		return child, nil
	case !make:
		return nil, nil
	case child != nil:
		return nil, fmt.Errorf("%q on the way to it is not a folder", part)
	}
	// No entry describes it (yet).
	if err := t.room(cur); err != nil {
		return nil, err
	}
	dir := newDir(cur)
	cur.children[part] = dir
	return dir, nil
}

// room counts one more node below parent.
func (t *tree) room(parent *node) error {
	if t.count++; t.count > t.limits.Entries {
		return fmt.Errorf("the image has more than %d files", t.limits.Entries)
	}
	if parent.depth >= t.limits.Depth {
		return fmt.Errorf("lies more than %d folders deep", t.limits.Depth)
	}
	return nil
}

func (t *tree) newNode(e *entry, parent *node) (*node, error) {
	if err := t.room(parent); err != nil {
		return nil, err
	}
	if e.Kind == kindDir {
		n := newDir(parent)
		n.setMeta(e)
		return n, nil
	}
	n := &node{layer: int32(t.number), ordinal: int32(e.Ordinal)}
	switch e.Kind {
	case kindRegular:
		n.Mode, n.Size = erofs.TypeRegular, e.Size
	case kindSymlink:
		n.Mode, n.Target = erofs.TypeSymlink, e.Link
	case kindChar:
		n.Mode, n.Rdev = erofs.TypeChar, e.Rdev
	case kindBlock:
		n.Mode, n.Rdev = erofs.TypeBlock, e.Rdev
	case kindFifo:
		n.Mode = erofs.TypeFifo
	default:
		return nil, fmt.Errorf("unknown kind of entry %d", e.Kind)
	}
	n.setMeta(e)
	return n, nil
}

// setMeta gives a node what an entry says besides its content.
func (n *node) setMeta(e *entry) {
	n.Mode = n.Mode&erofs.TypeMask | e.Mode&0o7777
	if n.Mode&erofs.TypeMask == erofs.TypeSymlink {
		n.Mode = erofs.TypeSymlink | 0o777 // as Linux shows every link
	}
	n.UID, n.GID = e.UID, e.GID
	n.Mtime, n.MtimeNsec = e.Mtime, e.Nsec
	n.xattrs = e.Xattrs
}

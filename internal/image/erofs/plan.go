package erofs

import (
	"fmt"
	"strings"
)

// plan walks the tree depth first with the names in order, and gives every
// inode its number (which is its place), layout and link count. It returns the
// inodes in the order of their places, each once however many names it has.
func plan(root *Inode) ([]*Inode, error) {
	if root.Mode&TypeMask != TypeDir {
		return nil, fmt.Errorf("the root is no directory (mode %o)", root.Mode)
	}
	p := planner{next: rootOffset}
	if err := p.add(root, root); err != nil {
		return nil, err
	}
	return p.inodes, nil
}

type planner struct {
	inodes []*Inode
	next   int64 // first free byte of the metadata area
}

// add places one directory and, recursively, what it holds.
func (p *planner) add(dir, parent *Inode) error {
	if dir.nid != 0 {
		return fmt.Errorf("inode %d: a directory has two names", dir.nid)
	}
	dir.parent, dir.nlink = parent, 2
	sortDirents(dir.Children)
	if err := p.place(dir); err != nil {
		return err
	}
	for i, c := range dir.Children {
		if err := checkName(c.Name); err != nil {
			return err
		}
		if i > 0 && dir.Children[i-1].Name == c.Name {
			return fmt.Errorf("two entries named %q in one directory", c.Name)
		}
		if c.Inode.Mode&TypeMask == TypeDir {
			dir.nlink++
			if err := p.add(c.Inode, dir); err != nil {
				return fmt.Errorf("%s/%w", c.Name, err)
			}
			continue
		}
		c.Inode.nlink++
		if c.Inode.nlink > 1 {
			continue // a further hard link
		}
		if err := p.place(c.Inode); err != nil {
			return fmt.Errorf("%s: %w", c.Name, err)
		}
	}
	return nil
}

func checkName(name string) error {
	if name == "" || name == "." || name == ".." || len(name) > maxNameLen || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("%q cannot be a file's name", name)
	}
	return nil
}

// place decides an inode's layout and gives it the next free place. An inode
// and its inline data never cross into another block.
func (p *planner) place(n *Inode) error {
	n.layout = layoutPlain
	switch n.Mode & TypeMask {
	case TypeDir:
		n.ends, n.tail = splitDirents(allDirents(n, n.parent))
		n.Size = int64(len(n.ends)-1)*BlockSize + int64(n.tail)
		if n.tail <= inlineMax {
			n.layout = layoutInline
		}
	case TypeSymlink:
		if n.Target == "" || len(n.Target) > maxTarget {
			return fmt.Errorf("a symbolic link's target has 1 to %d bytes, not %d", maxTarget, len(n.Target))
		}
		n.Size = int64(len(n.Target))
		if n.Size <= inlineMax {
			n.layout = layoutInline
		}
	case TypeRegular:
	case TypeChar, TypeBlock, TypeFifo:
		n.Size, n.Block = 0, 0
	default:
		return fmt.Errorf("mode %o is of no known type", n.Mode)
	}
	need := int64(inodeSize + n.inlineSize())
	if p.next/BlockSize != (p.next+need-1)/BlockSize {
		p.next = (p.next + BlockSize - 1) / BlockSize * BlockSize
	}
	n.nid = uint64(p.next / slotSize)
	// Rounded up to the size of an inode, so that none crosses a block.
	p.next += (need + inodeSize - 1) / inodeSize * inodeSize
	p.inodes = append(p.inodes, n)
	return nil
}

// inlineSize is the number of bytes stored right behind the inode.
func (n *Inode) inlineSize() int {
	switch {
	case n.layout != layoutInline:
		return 0
	case n.Mode&TypeMask == TypeSymlink:
		return len(n.Target)
	default:
		return n.tail
	}
}

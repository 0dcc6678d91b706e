package erofs

import (
	"cmp"
	"encoding/binary"
	"slices"
)

// Dirent is one name in a directory.
type Dirent struct {
	Name  string
	Inode *Inode
}

// sortDirents puts a directory's names in byte order, which is what the
// readers' binary search relies on.
func sortDirents(d []Dirent) {
	slices.SortFunc(d, func(a, b Dirent) int { return cmp.Compare(a.Name, b.Name) })
}

// allDirents returns the names of a directory with "." and ".." in their
// places: they are not always first ("+x" and "-x" sort before them).
func allDirents(self, parent *Inode) []Dirent {
	all := make([]Dirent, 0, len(self.Children)+2)
	all = append(all, Dirent{".", self}, Dirent{"..", parent})
	all = append(all, self.Children...)
	sortDirents(all)
	return all
}

// splitDirents cuts names into blocks: each holds the fixed-size entries first
// and the names behind them, and no name crosses into the next block. It
// returns where each block ends in d and the bytes that the last one uses.
func splitDirents(d []Dirent) (ends []int, tail int) {
	used := 0
	for i, e := range d {
		need := direntSize + len(e.Name)
		if used+need > BlockSize {
			ends = append(ends, i)
			used = 0
		}
		used += need
	}
	return append(ends, len(d)), used
}

// putDirents writes the names d into b, which is zero: one block, or the tail
// that the last block of a directory is.
func putDirents(b []byte, d []Dirent) {
	nameOff := len(d) * direntSize
	for i, e := range d {
		p := b[i*direntSize:]
		binary.LittleEndian.PutUint64(p[0:], e.Inode.nid)
		binary.LittleEndian.PutUint16(p[8:], uint16(nameOff))
		p[10] = direntType(e.Inode.Mode)
		nameOff += copy(b[nameOff:], e.Name)
	}
}

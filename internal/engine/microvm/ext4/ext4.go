// Package ext4 makes an empty, journalled ext4 file system in a sparse file,
// with no program of the host's. It makes one group of blocks, 128 MiB; the
// kernel that mounts it grows it to the size of its disk (resize2fs's ioctl),
// which takes a moment whatever the size, because group descriptors lie beside
// their groups (meta_bg). The format is described in the kernel's
// Documentation/filesystems/ext4.
package ext4

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"time"
)

// Geometry. Each number is one of mke2fs's defaults.
const (
	blockSize      = 4096
	blocksPerGroup = 8 * blockSize // what one block of bitmap can tell of
	inodesPerGroup = 8192
	inodeSize      = 256
	inodeBlocks    = inodesPerGroup * inodeSize / blockSize
	descSize       = 64
	firstInode     = 11 // the first that is not reserved
)

// Where things are, in blocks.
const (
	superBlock       = 0
	descBlock        = 1
	blockBitmap      = 2
	inodeBitmap      = 3
	inodeTable       = 4
	rootDir          = inodeTable + inodeBlocks
	lostDir          = rootDir + 1
	lostBlocks       = 4
	journal          = lostDir + lostBlocks
	smallJournal     = 1024 // blocks; the least that the kernel takes
	largeJournal     = 16384
	largeJournalFrom = blocksPerGroup
)

// MinSize is the smallest disk that Make takes, in bytes.
const MinSize = 8 << 20

// Inode numbers.
const (
	rootInode    = 2
	journalInode = 8
	lostInode    = 11
)

// Make writes an empty file system for a disk of the given size. What it does
// not write must read as zeros. The caller makes the file as large as the disk.
func Make(w io.WriterAt, size int64, uuid [16]byte, now time.Time) error {
	if size < MinSize {
		return errors.New("the disk is too small for a file system")
	}
	m := maker{w: w, uuid: uuid, now: uint32(now.Unix()), seed: crc(^uint32(0), uuid[:])}
	m.blocks = uint32(min(size/blockSize, blocksPerGroup))
	m.journal = smallJournal
	if m.blocks >= largeJournalFrom {
		m.journal = largeJournal
	}
	m.used = journal + m.journal
	if m.used >= m.blocks {
		return errors.New("the disk is too small for a file system")
	}
	for _, step := range []func() error{m.bitmaps, m.inodes, m.folders, m.journalHead, m.descriptor, m.super} {
		if err := step(); err != nil {
			return fmt.Errorf("make a file system: %w", err)
		}
	}
	return nil
}

type maker struct {
	w                     io.WriterAt
	uuid                  [16]byte
	now                   uint32
	seed                  uint32 // of all checksums
	blocks, journal, used uint32
	blockSum, inodeSum    uint32 // of the bitmaps
}

var (
	le         = binary.LittleEndian
	be         = binary.BigEndian
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// crc is the kernel's crc32c: without the inversions that Go adds at both ends.
func crc(seed uint32, data []byte) uint32 { return ^crc32.Update(^seed, castagnoli, data) }

func (m *maker) put(block uint32, data []byte) error {
	_, err := m.w.WriteAt(data, int64(block)*blockSize)
	return err
}

// bitmaps marks what is used, and what is beyond the end.
func (m *maker) bitmaps() error {
	b := make([]byte, blockSize)
	for i := range uint32(blocksPerGroup) {
		if i < m.used || i >= m.blocks {
			b[i/8] |= 1 << (i % 8)
		}
	}
	m.blockSum = crc(m.seed, b)
	if err := m.put(blockBitmap, b); err != nil {
		return err
	}
	clear(b)
	for i := range uint32(8 * blockSize) {
		if i < firstInode || i >= inodesPerGroup {
			b[i/8] |= 1 << (i % 8)
		}
	}
	m.inodeSum = crc(m.seed, b[:inodesPerGroup/8])
	return m.put(inodeBitmap, b)
}

func (m *maker) inodes() error {
	for _, n := range []struct {
		number        uint32
		mode          uint16
		links         uint16
		start, blocks uint32
	}{
		{rootInode, 0o40755, 3, rootDir, 1},
		{journalInode, 0o100600, 1, journal, m.journal},
		{lostInode, 0o40700, 2, lostDir, lostBlocks},
	} {
		b := make([]byte, inodeSize)
		le.PutUint16(b[0x00:], n.mode)
		le.PutUint32(b[0x04:], n.blocks*blockSize)
		for _, at := range []int{0x08, 0x0c, 0x10, 0x90} {
			le.PutUint32(b[at:], m.now)
		}
		le.PutUint16(b[0x1a:], n.links)
		le.PutUint32(b[0x1c:], n.blocks*(blockSize/512))
		le.PutUint32(b[0x20:], 0x80000) // it has extents
		le.PutUint16(b[0x28:], 0xf30a)  // the header of their list: magic,
		le.PutUint16(b[0x2a:], 1)       // entries,
		le.PutUint16(b[0x2c:], 4)       // and room
		le.PutUint16(b[0x38:], uint16(n.blocks))
		le.PutUint32(b[0x3c:], n.start)
		le.PutUint16(b[0x80:], 32) // bytes beyond the old size of an inode
		sum := crc(m.inodeSeed(n.number), b)
		le.PutUint16(b[0x7c:], uint16(sum))
		le.PutUint16(b[0x82:], uint16(sum>>16))
		if _, err := m.w.WriteAt(b, inodeTable*blockSize+int64(n.number-1)*inodeSize); err != nil {
			return err
		}
	}
	return nil
}

// inodeSeed is what the checksums of an inode, and of its blocks, begin with.
func (m *maker) inodeSeed(number uint32) uint32 {
	return crc(m.seed, append(le.AppendUint32(nil, number), 0, 0, 0, 0)) // generation 0
}

// dirTail is the size of the entry that holds a directory block's checksum.
const dirTail = 12

func (m *maker) folders() error {
	root := m.folder(rootInode, rootInode, "lost+found")
	if err := m.put(rootDir, root); err != nil {
		return err
	}
	if err := m.put(lostDir, m.folder(lostInode, rootInode, "")); err != nil {
		return err
	}
	for i := uint32(1); i < lostBlocks; i++ { // so that it never has to grow
		b := make([]byte, blockSize)
		le.PutUint16(b[4:], blockSize-dirTail)
		if err := m.put(lostDir+i, m.seal(lostInode, b)); err != nil {
			return err
		}
	}
	return nil
}

// folder makes the block of a directory with one entry at most.
func (m *maker) folder(self, parent uint32, entry string) []byte {
	b := make([]byte, blockSize)
	add := func(at int, inode uint32, length int, name string) {
		le.PutUint32(b[at:], inode)
		le.PutUint16(b[at+4:], uint16(length))
		b[at+6], b[at+7] = byte(len(name)), 2 // a directory
		copy(b[at+8:], name)
	}
	add(0, self, 12, ".")
	if entry == "" {
		add(12, parent, blockSize-dirTail-12, "..")
	} else {
		add(12, parent, 12, "..")
		add(24, lostInode, blockSize-dirTail-24, entry)
	}
	return m.seal(self, b)
}

func (m *maker) seal(inode uint32, b []byte) []byte {
	tail := b[blockSize-dirTail:]
	le.PutUint16(tail[4:], dirTail)
	tail[7] = 0xde
	le.PutUint32(tail[8:], crc(m.inodeSeed(inode), b[:blockSize-dirTail]))
	return b
}

// journalHead makes the journal's own superblock: empty, of one user.
func (m *maker) journalHead() error {
	b := make([]byte, 1024)
	for at, v := range map[int]uint32{
		0x00: 0xc03b3998, 0x04: 4, // magic, a superblock of the second version
		0x0c: blockSize, 0x10: m.journal, 0x14: 1, // its first block for use
		0x18: 1, // the first transaction
		0x40: 1, // users
	} {
		be.PutUint32(b[at:], v)
	}
	copy(b[0x30:], m.uuid[:])
	return m.put(journal, b)
}

func (m *maker) descriptor() error {
	b := make([]byte, descSize)
	le.PutUint32(b[0x00:], blockBitmap)
	le.PutUint32(b[0x04:], inodeBitmap)
	le.PutUint32(b[0x08:], inodeTable)
	le.PutUint16(b[0x0c:], uint16(m.blocks-m.used))
	le.PutUint16(b[0x0e:], inodesPerGroup-firstInode)
	le.PutUint16(b[0x10:], 2) // directories
	le.PutUint16(b[0x12:], 4) // the inode table is zeroed
	le.PutUint16(b[0x1c:], inodesPerGroup-firstInode)
	le.PutUint16(b[0x18:], uint16(m.blockSum))
	le.PutUint16(b[0x1a:], uint16(m.inodeSum))
	le.PutUint16(b[0x38:], uint16(m.blockSum>>16))
	le.PutUint16(b[0x3a:], uint16(m.inodeSum>>16))
	sum := crc(crc(m.seed, []byte{0, 0, 0, 0}), b)
	le.PutUint16(b[0x1e:], uint16(sum))
	return m.put(descBlock, b)
}

// Features (fs/ext4/ext4.h).
const (
	compat   = 0x4 | 0x8 | 0x20                      // has_journal, ext_attr, dir_index
	incompat = 0x2 | 0x10 | 0x40 | 0x80 | 0x200      // filetype, meta_bg, extents, 64bit, flex_bg
	roCompat = 0x1 | 0x2 | 0x8 | 0x20 | 0x40 | 0x400 // sparse_super, large_file, huge_file, dir_nlink, extra_isize, metadata_csum
)

func (m *maker) super() error {
	b := make([]byte, 1024)
	for at, v := range map[int]uint32{
		0x00: inodesPerGroup, 0x04: m.blocks, 0x0c: m.blocks - m.used, 0x10: inodesPerGroup - firstInode,
		0x18: 2, 0x1c: 2, // 1024 << 2 bytes a block, and a cluster
		0x20: blocksPerGroup, 0x24: blocksPerGroup, 0x28: inodesPerGroup,
		0x30: m.now, 0x40: m.now, 0x108: m.now,
		0x4c: 1, 0x54: firstInode, // revision
		0x5c: compat, 0x60: incompat, 0x64: roCompat,
		0xe0:  journalInode,
		0x100: 0xc, // by default with user attributes and access lists
		0x160: 1,   // hashes of names are of signed characters
	} {
		le.PutUint32(b[at:], v)
	}
	le.PutUint16(b[0x36:], 0xffff) // never to be checked for its age
	le.PutUint16(b[0x38:], 0xef53)
	le.PutUint16(b[0x3a:], 1) // clean
	le.PutUint16(b[0x3c:], 1) // after an error: go on
	le.PutUint16(b[0x58:], inodeSize)
	copy(b[0x68:], m.uuid[:])
	copy(b[0xec:], m.uuid[:]) // seed of the hashes of names
	b[0xfc] = 1               // half MD4
	le.PutUint16(b[0xfe:], descSize)
	le.PutUint16(b[0x15c:], 32)
	le.PutUint16(b[0x15e:], 32)
	b[0x174] = 4 // 16 groups keep their tables together
	b[0x175] = 1 // crc32c
	le.PutUint32(b[0x3fc:], crc(^uint32(0), b[:0x3fc]))
	_, err := m.w.WriteAt(b, superBlock*blockSize+1024)
	return err
}

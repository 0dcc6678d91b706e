package erofs

import (
	"encoding/binary"
	"hash/crc32"
)

// The numbers below are those of fs/erofs/erofs_fs.h in Linux.
const (
	// BlockSize is the size of a block in bytes. It is 4 KiB because gVisor
	// wants a multiple of its page size and maps file data page by page.
	BlockSize = 4096

	magic           = 0xe0f5e1e2
	superOffset     = 1024
	superSize       = 128
	blockBits       = 12
	slotSize        = 32 // inode numbers count slots of 32 bytes
	inodeSize       = 64 // extended inodes only: compact ones have no mtime
	direntSize      = 12
	featureChecksum = 0x1 // the superblock has a CRC-32C
	featureMtime    = 0x2 // inode times are mtimes
	layoutPlain     = 0
	layoutInline    = 2
	formatExtended  = 1
	inlineMax       = BlockSize - inodeSize // what fits behind an inode in one block
	rootOffset      = inodeSize             // leaves inode number 0 unused: some programs skip it
	maxBlocks       = 1<<32 - 1
	maxNameLen      = 255
	maxTarget       = BlockSize - 1 // PATH_MAX with its terminating zero
	fileTypeRegular = 1
	fileTypeDir     = 2
	fileTypeChar    = 3
	fileTypeBlock   = 4
	fileTypeFifo    = 5
	fileTypeSymlink = 7
	uuidOffset      = superOffset + 48
	checksumOffset  = superOffset + 4
)

// File type bits of Inode.Mode, as in stat(2).
const (
	TypeMask    = 0o170000
	TypeRegular = 0o100000
	TypeDir     = 0o040000
	TypeSymlink = 0o120000
	TypeChar    = 0o020000
	TypeBlock   = 0o060000
	TypeFifo    = 0o010000
)

// direntType returns the type byte of a directory entry, 0 for an unknown mode.
func direntType(mode uint16) byte {
	switch mode & TypeMask {
	case TypeRegular:
		return fileTypeRegular
	case TypeDir:
		return fileTypeDir
	case TypeChar:
		return fileTypeChar
	case TypeBlock:
		return fileTypeBlock
	case TypeFifo:
		return fileTypeFifo
	case TypeSymlink:
		return fileTypeSymlink
	}
	return 0
}

// superblock is what varies in the first block.
type superblock struct {
	rootNid   uint16
	inodes    uint64
	blocks    uint32
	metaBlock uint32
	uuid      [16]byte
}

// block returns the image's first block.
func (s superblock) block() []byte {
	b := make([]byte, BlockSize)
	le := binary.LittleEndian
	p := b[superOffset:]
	le.PutUint32(p[0:], magic)
	le.PutUint32(p[8:], featureChecksum|featureMtime)
	p[12] = blockBits
	le.PutUint16(p[14:], s.rootNid)
	le.PutUint64(p[16:], s.inodes)
	le.PutUint32(p[36:], s.blocks)
	le.PutUint32(p[40:], s.metaBlock)
	copy(b[uuidOffset:], s.uuid[:])
	// The kernel's CRC-32C starts from all ones and is not inverted at the
	// end; Go's is, hence the complement.
	sum := ^crc32.Checksum(p, crc32.MakeTable(crc32.Castagnoli))
	le.PutUint32(b[checksumOffset:], sum)
	return b
}

// putInode writes an extended inode into b, which has inodeSize zero bytes.
func putInode(b []byte, n *Inode) {
	le := binary.LittleEndian
	le.PutUint16(b[0:], uint16(n.layout)<<1|formatExtended)
	le.PutUint16(b[4:], n.Mode)
	le.PutUint64(b[8:], uint64(n.Size))
	switch n.Mode & TypeMask {
	case TypeChar, TypeBlock:
		le.PutUint32(b[16:], n.Rdev)
	default:
		le.PutUint32(b[16:], n.Block)
	}
	le.PutUint32(b[20:], uint32(n.nid))
	le.PutUint32(b[24:], n.UID)
	le.PutUint32(b[28:], n.GID)
	le.PutUint64(b[32:], uint64(n.Mtime)) // two's complement before 1970, as Linux reads it
	le.PutUint32(b[40:], n.MtimeNsec)
	le.PutUint32(b[44:], n.nlink)
}

// Rdev packs a device number as Linux's new_encode_dev does: 12 bits of major,
// 20 bits of minor.
func Rdev(major, minor uint32) uint32 {
	return minor&0xff | major<<8 | (minor&^0xff)<<12
}

package erofs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Inode is one file, directory, link or device. Several directory entries may
// name the same non-directory: they are its hard links.
type Inode struct {
	Mode      uint16 // type and permission bits as in stat(2), set-uid, set-gid and sticky included
	UID, GID  uint32
	Mtime     int64 // seconds since 1970
	MtimeNsec uint32
	Rdev      uint32   // devices: see Rdev
	Target    string   // symbolic links: 1 to 4095 bytes
	Size      int64    // regular files: bytes of content
	Block     uint32   // regular files: what Writer.Data returned; unused when Size is 0
	Children  []Dirent // directories: in any order, without "." and ".."; Finish sorts them

	layout byte
	nid    uint64
	nlink  uint32
	parent *Inode
	ends   []int // directories: where each block of names ends
	tail   int   // directories: bytes used in the last block
}

const (
	// bufferSize is how much is written at once: big enough that the number
	// of system calls does not matter, small enough to stay in the L2 cache.
	bufferSize = 1 << 20
	// writebackEvery is how often the kernel is told to begin writing, so that
	// the final fsync does not find gigabytes of dirty pages.
	writebackEvery = 32 << 20
)

// Writer writes one image: first the contents of the files, in the order that
// they come, then Finish with the tree. It is not safe for concurrent use. Its
// memory does not grow with the contents.
type Writer struct {
	f       *os.File
	buf     []byte
	off     int64 // where buf goes in f
	synced  int64 // up to where writeback was begun
	zeros   []byte
	UUID    [16]byte // recorded in the superblock; may be set until Finish
	written bool
}

// NewWriter returns a Writer on f, an empty file open for writing. Closing and
// syncing f remains the caller's affair.
func NewWriter(f *os.File) *Writer {
	return &Writer{f: f, off: BlockSize, buf: make([]byte, 0, bufferSize), zeros: make([]byte, bufferSize)}
}

// Data stores the content of one regular file: exactly size bytes of r. It
// returns the block where it starts, for Inode.Block. A shorter r is
// io.ErrUnexpectedEOF.
func (w *Writer) Data(r io.Reader, size int64) (uint32, error) {
	start, err := w.block()
	if err != nil {
		return 0, err
	}
	for size > 0 {
		if len(w.buf) == cap(w.buf) {
			if err := w.flush(); err != nil {
				return 0, err
			}
		}
		room := w.buf[len(w.buf):min(int64(cap(w.buf)), int64(len(w.buf))+size)]
		n, err := r.Read(room)
		w.buf = w.buf[:len(w.buf)+n]
		size -= int64(n)
		if size > 0 && err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return 0, err
		}
	}
	return start, w.pad()
}

// block returns the number of the block that comes next; buf is always at a
// block's start between two calls of Data.
func (w *Writer) block() (uint32, error) {
	b := (w.off + int64(len(w.buf))) / BlockSize
	if b > maxBlocks {
		return 0, errors.New("an EROFS image holds 16 TiB at most")
	}
	return uint32(b), nil
}

// pad fills the block with zeros. The tail of a file's last block is visible to
// a program that maps the file, so it must be zero.
func (w *Writer) pad() error {
	if rest := len(w.buf) % BlockSize; rest != 0 {
		return w.write(w.zeros[:BlockSize-rest])
	}
	return nil
}

func (w *Writer) write(p []byte) error {
	for len(p) > 0 {
		if len(w.buf) == cap(w.buf) {
			if err := w.flush(); err != nil {
				return err
			}
		}
		n := min(len(p), cap(w.buf)-len(w.buf))
		w.buf = append(w.buf, p[:n]...)
		p = p[n:]
	}
	return nil
}

// flush writes the buffer. One that is all zeros becomes a hole, so that the
// image of a sparse file costs no disk.
func (w *Writer) flush() error {
	if !bytes.Equal(w.buf, w.zeros[:len(w.buf)]) {
		if _, err := w.f.WriteAt(w.buf, w.off); err != nil {
			return err
		}
	}
	w.off += int64(len(w.buf))
	w.buf = w.buf[:0]
	if w.off-w.synced >= writebackEvery {
		// Only a hint: file systems that cannot do it lose nothing.
		_ = unix.SyncFileRange(int(w.f.Fd()), w.synced, w.off-w.synced, unix.SYNC_FILE_RANGE_WRITE)
		w.synced = w.off
	}
	return nil
}

// Finish writes the directories, the inodes and at last the superblock: before
// that the file is no image. The Writer is of no use afterwards.
func (w *Writer) Finish(root *Inode) error {
	if w.written {
		return errors.New("the image is finished already")
	}
	w.written = true
	inodes, err := plan(root)
	if err != nil {
		return err
	}
	if err := w.writeDirBlocks(inodes); err != nil {
		return err
	}
	meta, err := w.block()
	if err != nil {
		return err
	}
	if err := w.writeInodes(inodes); err != nil {
		return err
	}
	end, err := w.block()
	if err != nil {
		return err
	}
	if err := w.flush(); err != nil {
		return err
	}
	sb := superblock{
		rootNid: uint16(root.nid), inodes: uint64(len(inodes)),
		blocks: end, metaBlock: meta, uuid: w.UUID,
	}
	if _, err := w.f.WriteAt(sb.block(), 0); err != nil {
		return err
	}
	return w.f.Truncate(w.off) // the last buffer may have been a hole
}

// writeDirBlocks stores the whole blocks of the directories that need any,
// behind the files' contents.
func (w *Writer) writeDirBlocks(inodes []*Inode) error {
	block := make([]byte, BlockSize)
	for _, n := range inodes {
		if n.Mode&TypeMask == TypeSymlink && n.layout == layoutPlain {
			if err := w.plainTarget(n); err != nil {
				return err
			}
		}
		whole := len(n.ends)
		if n.layout == layoutInline {
			whole--
		}
		if n.Mode&TypeMask != TypeDir || whole == 0 {
			continue
		}
		var err error
		if n.Block, err = w.block(); err != nil {
			return err
		}
		all, from := allDirents(n, n.parent), 0
		for _, to := range n.ends[:whole] {
			clear(block)
			putDirents(block, all[from:to])
			if err := w.write(block); err != nil {
				return err
			}
			from = to
		}
	}
	return nil
}

func (w *Writer) plainTarget(n *Inode) (err error) {
	if n.Block, err = w.block(); err != nil {
		return err
	}
	if err := w.write([]byte(n.Target)); err != nil {
		return err
	}
	return w.pad()
}

// writeInodes stores the metadata area: each inode at the place that plan gave
// it, with its inline data behind it.
func (w *Writer) writeInodes(inodes []*Inode) error {
	var buf [BlockSize]byte
	pos := int64(0)
	for _, n := range inodes {
		at := int64(n.nid) * slotSize
		if err := w.write(w.zeros[:at-pos]); err != nil {
			return err
		}
		b := buf[:inodeSize+n.inlineSize()]
		clear(b)
		putInode(b, n)
		if n.layout == layoutInline {
			n.putInline(b[inodeSize:])
		}
		if err := w.write(b); err != nil {
			return fmt.Errorf("write inode %d: %w", n.nid, err)
		}
		pos = at + int64(len(b))
	}
	return w.pad()
}

func (n *Inode) putInline(b []byte) {
	if n.Mode&TypeMask == TypeSymlink {
		copy(b, n.Target)
		return
	}
	from := 0
	if k := len(n.ends); k > 1 {
		from = n.ends[k-2]
	}
	putDirents(b, allDirents(n, n.parent)[from:])
}

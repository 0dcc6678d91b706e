package ring

import (
	"context"
	"io"
	"time"
)

// Reader reads a Buffer from an offset on. It is for one goroutine, apart from
// Close.
type Reader struct {
	b        *Buffer
	patience time.Duration
	off      int64
	lost     int64
	lagging  bool // does not hold the writer back
	closed   bool
}

// NewReader makes a reader that begins at off: a byte that is no longer kept
// means the oldest that is, -1 the same, and beyond the end means the end. It
// holds the writer back for at most patience at a time. The caller closes it.
func (b *Buffer) NewReader(off int64, patience time.Duration) *Reader {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := &Reader{b: b, patience: patience, off: min(max(off, b.start), b.end)}
	if off >= 0 {
		r.lost = max(0, b.start-off)
	}
	b.readers[r] = struct{}{}
	return r
}

// Offset is the position of the next byte.
func (r *Reader) Offset() int64 {
	r.b.mu.Lock()
	defer r.b.mu.Unlock()
	return r.off
}

// Lost is how many bytes this reader did not get so far.
func (r *Reader) Lost() int64 {
	r.b.mu.Lock()
	defer r.b.mu.Unlock()
	return r.lost
}

// Read fills p with what is there, waiting for at least one byte, and returns
// the offset of the first. When bytes were lost the offset is ahead of the
// previous one's end. io.EOF comes after the last byte of a closed buffer;
// io.ErrClosedPipe after Close; ctx's error when that ends.
func (r *Reader) Read(ctx context.Context, p []byte) (n int, off int64, err error) {
	b := r.b
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		if r.closed {
			return 0, r.off, io.ErrClosedPipe
		}
		if r.off < b.start {
			r.lost += b.start - r.off
			r.off = b.start
		}
		if r.off < b.end {
			break
		}
		r.lagging = false // it caught up
		if b.closed {
			return 0, r.off, io.EOF
		}
		if err := b.wait(ctx); err != nil {
			return 0, r.off, err
		}
	}
	off = r.off
	for n < len(p) && r.off < b.end {
		src := b.data[r.off%int64(len(b.data)):]
		src = src[:min(int64(len(src)), b.end-r.off)]
		c := copy(p[n:], src)
		n, r.off = n+c, r.off+int64(c)
	}
	b.wake() // the writer may wait for room
	return n, off, nil
}

// Close takes the reader off the buffer, so that it holds nothing back, and
// ends a Read that waits.
func (r *Reader) Close() {
	r.b.mu.Lock()
	defer r.b.mu.Unlock()
	r.closed = true
	delete(r.b.readers, r)
	r.b.wake()
}

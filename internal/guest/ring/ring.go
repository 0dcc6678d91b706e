// Package ring is a bounded buffer of a session's output with one writer and
// any number of readers, each at its own offset. It keeps the newest bytes. A
// reader that is behind holds the writer back for as long as its patience
// lasts, and then loses bytes, and is told how many. It knows nothing of
// processes and of SSH.
package ring

import (
	"context"
	"io"
	"sync"
	"time"
)

// Forever is the patience of a reader that never loses a byte.
const Forever = time.Duration(1<<63 - 1)

// first is the storage that a buffer begins with; it doubles up to the bound.
const first = 4 << 10

// Buffer is the ring. Make it with New. Its methods are safe for concurrent
// use, but Write is for one goroutine.
type Buffer struct {
	max int
	tap func([]byte)

	mu      sync.Mutex
	data    []byte // storage; the byte at offset o lies at o % len(data)
	start   int64  // oldest byte kept
	end     int64  // bytes written so far
	closed  bool
	readers map[*Reader]struct{}
	waiting int           // goroutines that wait on changed
	changed chan struct{} // closed and replaced at each change, when somebody waits
}

// New makes a buffer of at most max bytes. tap, when it is not nil, sees every
// byte in order, under the buffer's lock: what it makes of them agrees with
// what View shows. It must not call the buffer.
func New(max int, tap func([]byte)) *Buffer {
	return &Buffer{max: max, tap: tap, readers: map[*Reader]struct{}{}, changed: make(chan struct{})}
}

// Write appends p. It blocks while a patient reader has not yet read what it
// would overwrite. It writes nothing after Close.
func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	written := 0
	for len(p) > 0 {
		if b.closed {
			return written, io.ErrClosedPipe
		}
		n := min(b.room(), len(p))
		if n == 0 {
			b.waitForReaders()
			continue
		}
		b.put(p[:n])
		if b.tap != nil {
			b.tap(p[:n])
		}
		b.wake()
		p, written = p[n:], written+n
	}
	return written, nil
}

// room is how many bytes may be written now.
func (b *Buffer) room() int {
	oldest := b.end
	for r := range b.readers {
		if !r.lagging {
			oldest = min(oldest, r.off)
		}
	}
	return b.max - int(b.end-oldest)
}

// waitForReaders waits for a change, at most until the patience of a reader
// that is in the way is over; such readers are then left behind.
func (b *Buffer) waitForReaders() {
	began := time.Now()
	patience := Forever
	for r := range b.readers {
		if !r.lagging && int(b.end-r.off) >= b.max {
			patience = min(patience, r.patience)
		}
	}
	ctx, cancel := context.Background(), context.CancelFunc(func() {})
	if patience != Forever {
		ctx, cancel = context.WithTimeout(ctx, patience)
	}
	defer cancel()
	// Any change ends the wait; a new reader is one too, so what counts is
	// whether there is room now.
	for b.room() == 0 && !b.closed {
		if b.wait(ctx) != nil {
			waited := time.Since(began)
			for r := range b.readers {
				r.lagging = r.lagging || (int(b.end-r.off) >= b.max && r.patience <= waited)
			}
			return
		}
	}
}

// put copies p, no longer than max, into the storage.
func (b *Buffer) put(p []byte) {
	need := int(min(int64(b.max), b.end-b.start+int64(len(p))))
	if need > len(b.data) {
		b.grow(need)
	}
	for len(p) > 0 {
		n := copy(b.data[b.end%int64(len(b.data)):], p)
		p, b.end = p[n:], b.end+int64(n)
	}
	b.start = max(b.start, b.end-int64(len(b.data)))
}

func (b *Buffer) grow(need int) {
	size := max(first, len(b.data))
	for size < need {
		size *= 2
	}
	b.resize(min(size, b.max))
}

// resize moves the kept bytes to new storage that can hold them.
func (b *Buffer) resize(size int) {
	old, data := b.data, make([]byte, size)
	for o := b.start; o < b.end; {
		src := old[o%int64(len(old)):]
		src = src[:min(int64(len(src)), b.end-o)]
		o += int64(copy(data[o%int64(size):], src))
	}
	b.data = data
}

// Close says that no more will be written. Readers get what is left, then
// io.EOF. The storage shrinks to what is kept.
func (b *Buffer) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return
	}
	b.closed = true
	if n := int(b.end - b.start); n < len(b.data) && n > 0 {
		b.resize(n)
	}
	b.wake()
}

// Drop forgets the kept bytes of a closed buffer and returns how many.
func (b *Buffer) Drop() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := int(b.end - b.start)
	b.start, b.data = b.end, nil
	return n
}

// Range returns the offset of the oldest byte kept and of the next to come.
func (b *Buffer) Range() (start, end int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.start, b.end
}

// View calls fn with a copy of the kept bytes and the offset of their end,
// while nothing can be written.
func (b *Buffer) View(fn func(kept []byte, start, end int64)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	kept := make([]byte, 0, b.end-b.start)
	for o := b.start; o < b.end; {
		src := b.data[o%int64(len(b.data)):]
		src = src[:min(int64(len(src)), b.end-o)]
		kept, o = append(kept, src...), o+int64(len(src))
	}
	fn(kept, b.start, b.end)
}

// wake tells everybody who waits that something changed.
func (b *Buffer) wake() {
	if b.waiting > 0 {
		close(b.changed)
		b.changed = make(chan struct{})
		b.waiting = 0
	}
}

// wait gives the lock up until the next change or the end of ctx.
func (b *Buffer) wait(ctx context.Context) error {
	b.waiting++
	changed := b.changed
	b.mu.Unlock()
	defer b.mu.Lock()
	select {
	case <-changed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

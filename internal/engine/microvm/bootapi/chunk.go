package bootapi

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// maxChunk bounds a chunk, in bytes.
const maxChunk = 64 << 10

// ChunkWriter writes a stream that has an end onto a port that has none: each
// chunk after its length as a big-endian uint32; an empty one is the end.
type ChunkWriter struct{ w io.Writer }

// NewChunkWriter writes to w, which should take each write whole.
func NewChunkWriter(w io.Writer) ChunkWriter { return ChunkWriter{w} }

// Write implements io.Writer.
func (c ChunkWriter) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		chunk := p[:min(len(p), maxChunk)]
		b := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(chunk)), uint32(len(chunk)))
		if _, err := c.w.Write(append(b, chunk...)); err != nil {
			return n, err
		}
		n += len(chunk)
		p = p[len(chunk):]
	}
	return n, nil
}

// Close writes the end.
func (c ChunkWriter) Close() error {
	_, err := c.w.Write(make([]byte, 4))
	return err
}

// ChunkReader reads what a ChunkWriter wrote, until its end.
type ChunkReader struct {
	r    io.Reader
	left int
	done bool
}

// NewChunkReader reads from r, and nothing beyond the end.
func NewChunkReader(r io.Reader) *ChunkReader { return &ChunkReader{r: r} }

// Read implements io.Reader.
func (c *ChunkReader) Read(p []byte) (int, error) {
	if c.done {
		return 0, io.EOF
	}
	if c.left == 0 {
		var head [4]byte
		if _, err := io.ReadFull(c.r, head[:]); err != nil {
			return 0, unexpected(err)
		}
		n := binary.BigEndian.Uint32(head[:])
		if n > maxChunk {
			return 0, fmt.Errorf("a chunk of %d bytes", n)
		}
		if n == 0 {
			c.done = true
			return 0, io.EOF
		}
		c.left = int(n)
	}
	n, err := c.r.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, unexpected(err)
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

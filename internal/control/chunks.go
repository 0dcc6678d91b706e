package control

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"

	"berth.dev/internal/sandbox"
)

// maxChunk bounds one chunk of a stream, in bytes.
const maxChunk = 1 << 20

// ChunkWriter carries a stream whose end, good or bad, the reader can tell
// from a broken connection: chunks with their length as a big-endian uint32
// before them, a zero length, and a line of JSON with the writer's error.
type ChunkWriter struct{ w io.Writer }

// NewChunkWriter returns a writer to w.
func NewChunkWriter(w io.Writer) *ChunkWriter { return &ChunkWriter{w} }

// Write sends p as chunks.
func (c *ChunkWriter) Write(p []byte) (int, error) {
	n := 0
	for len(p) > 0 {
		part := p[:min(len(p), maxChunk)]
		var head [4]byte
		binary.BigEndian.PutUint32(head[:], uint32(len(part)))
		if _, err := c.w.Write(head[:]); err != nil {
			return n, err
		}
		m, err := c.w.Write(part)
		n += m
		if err != nil {
			return n, err
		}
		p = p[len(part):]
	}
	return n, nil
}

// Finish ends the stream with the writer's error or nil.
func (c *ChunkWriter) Finish(err error) error {
	if _, werr := c.w.Write(make([]byte, 4)); werr != nil {
		return werr
	}
	return WriteLine(c.w, Reply{Version: Version, Error: WrapError(err)})
}

// ReadChunks copies a stream of chunks to w until its end and returns the
// error that the writer ended it with.
func ReadChunks(w io.Writer, r *bufio.Reader) error {
	for {
		var head [4]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return fmt.Errorf("the stream broke off: %w", err)
		}
		size := binary.BigEndian.Uint32(head[:])
		if size == 0 {
			break
		}
		if size > maxChunk {
			return sandbox.Errorf(sandbox.ErrInvalid, "a chunk of %d bytes is longer than %d", size, maxChunk)
		}
		if _, err := io.CopyN(w, r, int64(size)); err != nil {
			return fmt.Errorf("copy the stream: %w", err)
		}
	}
	var reply Reply
	if err := ReadLine(r, &reply); err != nil {
		return err
	}
	return reply.Error.Unwrap()
}

package image

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// readSize is how much is read at once from a layer.
const readSize = 256 << 10

// What compressed streams begin with.
const (
	gzipMagic = "\x1f\x8b"
	zstdMagic = "\x28\xb5\x2f\xfd"
)

// ctxReader ends with the context, and counts.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
	n   atomic.Int64 // the zstd decoder reads ahead on a goroutine of its own
}

func (c *ctxReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// sinkError marks an error of where data goes, so that it is not blamed on the
// layer that the data came from.
type sinkError struct{ err error }

func (e *sinkError) Error() string { return e.err.Error() }
func (e *sinkError) Unwrap() error { return e.err }

// sink marks the errors of a writer.
type sink struct{ w io.Writer }

func (s sink) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	if err != nil {
		err = &sinkError{err}
	}
	return n, err
}

// decompress undoes gzip or zstd, told by the first bytes rather than by a media
// type, which an archive may state wrongly and docker-save archives do not
// state at all.
func decompress(r io.Reader) (io.ReadCloser, error) {
	br := bufio.NewReaderSize(r, readSize)
	head, err := br.Peek(6)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(head, []byte(gzipMagic)):
		return gzip.NewReader(br)
	case bytes.HasPrefix(head, []byte(zstdMagic)):
		d, err := zstd.NewReader(br, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(2))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	case bytes.HasPrefix(head, []byte("BZh")), bytes.HasPrefix(head, []byte("\xfd7zXZ")):
		return nil, errors.New("compressed with neither gzip nor zstd")
	}
	return io.NopCloser(br), nil
}

// meter stops a bomb: what comes out is bounded, and bounded against what went
// in.
type meter struct {
	r   io.Reader
	in  *ctxReader
	out int64
	l   *Limits
	max int64 // absolute bound on out
}

var errBomb = errors.New("unpacks to far more than its size allows (a bomb?)")

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	m.out += int64(n)
	if berr := m.check(m.out); berr != nil {
		return n, berr
	}
	return n, err
}

// check reports whether out bytes are too many for what was read so far.
func (m *meter) check(out int64) error {
	if out > m.max {
		return fmt.Errorf("%w: more than %d bytes", errBomb, m.max)
	}
	if out > m.l.RatioFloor && out/m.l.LayerRatio > m.in.n.Load() {
		return fmt.Errorf("%w: %d bytes of %d", errBomb, out, m.in.n.Load())
	}
	return nil
}

// tailCheck counts the zero bytes that a stream ends with. A tar ends with two
// blocks of them; one that was cut between two entries does not.
type tailCheck struct{ zeros int64 }

func (t *tailCheck) Write(p []byte) (int, error) {
	trailing := len(p) - len(bytes.TrimRight(p, "\x00"))
	if trailing < len(p) {
		t.zeros = 0
	}
	t.zeros += int64(trailing)
	return len(p), nil
}

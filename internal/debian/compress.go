package debian

import (
	"bufio"
	"compress/gzip"
	"io"

	"berth.dev/internal/sandbox"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// decompress opens a stream by the ending of its name: .xz, .gz, .zst, or ""
// for none. Reading more than limit bytes is an error. What is given here has
// been verified against a signed index.
func decompress(r io.Reader, ext string, limit int64) (io.ReadCloser, error) {
	in := bufio.NewReaderSize(r, 128<<10)
	switch ext {
	case "", ".tar":
		return bounded(in, nil, limit), nil
	case ".xz":
		x, err := xz.NewReader(in)
		if err != nil {
			return nil, sandbox.Errorf(sandbox.ErrInvalid, "open xz stream: %w", err)
		}
		return bounded(x, nil, limit), nil
	case ".gz":
		g, err := gzip.NewReader(in)
		if err != nil {
			return nil, sandbox.Errorf(sandbox.ErrInvalid, "open gzip stream: %w", err)
		}
		return bounded(g, nil, limit), nil
	case ".zst":
		z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(512<<20))
		if err != nil {
			return nil, sandbox.Errorf(sandbox.ErrInvalid, "open zstd stream: %w", err)
		}
		return bounded(z, z.Close, limit), nil
	}
	return nil, sandbox.Errorf(sandbox.ErrInvalid, "compression %q is not known", ext)
}

// boundedReader is a decompressed stream that may not grow beyond a limit.
type boundedReader struct {
	r     io.Reader
	left  int64
	close func()
}

func bounded(r io.Reader, close func(), limit int64) io.ReadCloser {
	return &boundedReader{r, limit, close}
}

func (b *boundedReader) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, sandbox.Errorf(sandbox.ErrInvalid, "it decompresses to more than is allowed")
	}
	return n, err
}

func (b *boundedReader) Close() error {
	if b.close != nil {
		b.close()
	}
	return nil
}

package credential

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
)

// maxCodings is how many encodings one body may have, one in another.
const maxCodings = 3

// maxWindow bounds the memory that a zstd stream can ask for, in bytes: what
// RFC 9659 allows on the web.
const maxWindow = 8 << 20

// codingsOf is the list of a Content-Encoding's values, without identity.
func codingsOf(values []string) []string {
	var list []string
	for _, v := range values {
		for c := range strings.SplitSeq(v, ",") {
			if c = strings.ToLower(strings.TrimSpace(c)); c != "" && c != "identity" {
				list = append(list, c)
			}
		}
	}
	return list
}

// decoder undoes encodings. It reads nothing before it is read from, so that a
// header does not wait for the beginning of a body.
type decoder struct {
	src   io.Reader
	codes []string // in the order in which they were applied
	r     io.Reader
	close []func()
	err   error
}

// newDecoder returns nil for encodings that it does not know.
func newDecoder(src io.Reader, codes []string) *decoder {
	if len(codes) > maxCodings {
		return nil
	}
	for _, c := range codes {
		if openers[c] == nil {
			return nil
		}
	}
	return &decoder{src: src, codes: codes}
}

// Read implements io.Reader.
func (d *decoder) Read(p []byte) (int, error) {
	if d.r == nil && d.err == nil {
		d.open()
	}
	if d.err != nil {
		return 0, d.err
	}
	return d.r.Read(p)
}

func (d *decoder) open() {
	d.r = d.src
	for i := len(d.codes) - 1; i >= 0; i-- {
		r, done, err := openers[d.codes[i]](d.r)
		if err != nil {
			d.err = err
			return
		}
		d.r = r
		if done != nil {
			d.close = append(d.close, done)
		}
	}
}

// Close gives back what it holds, but not its source.
func (d *decoder) Close() {
	for _, f := range d.close {
		f()
	}
	d.close = nil
	if d.err == nil {
		d.err = io.ErrClosedPipe
	}
}

type opener func(io.Reader) (r io.Reader, done func(), err error)

var openers = map[string]opener{
	"gzip":    openGzip,
	"x-gzip":  openGzip, // RFC 9110 §8.4.1.3
	"deflate": openDeflate,
	"br":      func(r io.Reader) (io.Reader, func(), error) { return brotli.NewReader(r), nil, nil },
	"zstd":    openZstd,
}

func openGzip(r io.Reader) (io.Reader, func(), error) {
	z, err := gzip.NewReader(r)
	return z, nil, err
}

// openDeflate reads zlib's format, or what some send for it: without its frame.
func openDeflate(r io.Reader) (io.Reader, func(), error) {
	b := bufio.NewReader(r)
	head, err := b.Peek(2)
	if err != nil && (len(head) == 0 || err != io.EOF) {
		return nil, nil, err
	}
	if len(head) == 2 && isZlib(head) {
		z, err := zlib.NewReader(b)
		return z, nil, err
	}
	return flate.NewReader(b), nil, nil
}

// isZlib reports whether two bytes are the header of RFC 1950 §2.2.
func isZlib(b []byte) bool {
	return b[0]&0x0f == 8 && b[0]>>4 <= 7 && b[1]&0x20 == 0 && (uint(b[0])<<8|uint(b[1]))%31 == 0
}

func openZstd(r io.Reader) (io.Reader, func(), error) {
	z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return nil, nil, err
	}
	return z, z.Close, nil
}

// sniffSize is how many bytes sniff needs.
const sniffSize = 4

// lag is how many bytes a decoder may have been given, about, before what they
// decode to is seen: it works in blocks.
func lag(codes []string) int {
	if slices.Contains(codes, "zstd") {
		return 160 << 10
	}
	return 64 << 10
}

// sniff says which encoding a body has that does not say so itself, "" for none
// that is known by its beginning.
func sniff(b []byte) string {
	switch s := string(b[:min(len(b), sniffSize)]); {
	case strings.HasPrefix(s, "\x1f\x8b\x08"):
		return "gzip"
	case s == "\x28\xb5\x2f\xfd":
		return "zstd"
	case len(b) >= 2 && isZlib(b):
		return "deflate"
	}
	return ""
}

// Bounds of what an encoded body of a guest's may grow to: a few bytes must not
// keep the supervisor busy for long.
const (
	growFree  = 16 << 20 // bytes
	growTimes = 256
)

var errGrows = errors.New("it grows too much when it is decoded")

// corrupt is what a body is whose encoding cannot be undone.
func corrupt(codes []string, err error) error {
	if errors.Is(err, errGrows) {
		return fmt.Errorf("a body encoded with %s: %w", strings.Join(codes, ", "), err)
	}
	return fmt.Errorf("a body that is not encoded with %s, as it says", strings.Join(codes, ", "))
}

package intercept

import (
	"bufio"
	"errors"
	"io"
	"net/http"
	"net/http/httputil"
	"net/textproto"
	"sync"
	"sync/atomic"
	"time"
)

const maxTrailer = 16 << 10 // bytes

var (
	errDetached  = errors.New("the request was answered before its body was read")
	errBadFrames = errors.New("the body's framing is broken")
)

// body is the body of one HTTP/1 request: exactly the bytes that its framing
// says, and its trailer. The transport reads it in a goroutine of its own, and
// may still do so when the answer is complete: detach takes it away then.
type body struct {
	c       *conn1
	gone    *watch
	trailer http.Header // announced fields; filled in at the end

	closed atomic.Bool
	eof    atomic.Bool

	mu      sync.Mutex // held while reading
	left    int64      // bytes, where the length is known
	chunks  io.Reader  // else
	expects bool       // the guest waits for a 100 before it sends
	err     error
}

func newBody(c *conn1, h *head, trailer http.Header, gone *watch) *body {
	b := &body{c: c, gone: gone, trailer: trailer, left: h.length, expects: h.expects}
	switch {
	case h.length < 0:
		b.chunks = httputil.NewChunkedReader(c.br)
	case h.length == 0:
		b.err = io.EOF
		b.eof.Store(true)
	}
	return b
}

// whole reports whether all of it was read.
func (b *body) whole() bool { return b.eof.Load() }

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed.Load() {
		return 0, errDetached
	}
	if b.err != nil || len(p) == 0 {
		return 0, b.err
	}
	if b.expects {
		b.expects = false
		if err := b.c.proceed(); err != nil {
			return 0, err
		}
	}
	n, err := b.read(p)
	if err != nil {
		b.err = err
		if err == io.EOF {
			b.eof.Store(true)
			b.gone.start()
		}
	}
	return n, err
}

func (b *body) read(p []byte) (int, error) {
	if b.chunks == nil {
		n, err := b.c.br.Read(p[:min(int64(len(p)), b.left)])
		b.left -= int64(n)
		switch {
		case b.left == 0:
			return n, io.EOF
		case err == io.EOF:
			err = io.ErrUnexpectedEOF
		}
		return n, err
	}
	n, err := b.chunks.Read(p)
	if err == io.EOF {
		if err = b.readTrailer(); err == nil {
			err = io.EOF
		}
	}
	return n, err
}

// readTrailer reads what follows the last chunk (RFC 9112 §7.1.2). Fields that
// were not announced are dropped.
func (b *body) readTrailer() error {
	for size := 0; ; {
		line, err := b.c.br.ReadSlice('\n')
		if size += len(line); size > maxTrailer || errors.Is(err, bufio.ErrBufferFull) {
			return errBadFrames
		}
		if err == io.EOF {
			return io.ErrUnexpectedEOF
		} else if err != nil {
			return err
		}
		if string(line) == "\r\n" {
			return nil
		}
		// The same rules as for a header: as a block of its own.
		lines, err := splitHead(append(append([]byte(nil), line...), '\r', '\n'))
		if err != nil || len(lines) != 1 {
			return errBadFrames
		}
		name, value, err := splitField(lines[0])
		if err != nil {
			return errBadFrames
		}
		key := textproto.CanonicalMIMEHeaderKey(name)
		if _, ok := b.trailer[key]; ok {
			b.trailer[key] = append(b.trailer[key], value)
		}
	}
}

// Close implements io.Closer. It may be called while Read waits, and does not
// wait for it.
func (b *body) Close() error {
	b.closed.Store(true)
	return nil
}

// detach ends reading: when it returns nobody reads the connection any more.
func (b *body) detach() {
	b.closed.Store(true)
	if !b.mu.TryLock() {
		_ = b.c.conn.SetReadDeadline(past)
		b.mu.Lock()
		_ = b.c.conn.SetReadDeadline(time.Time{})
	}
	b.mu.Unlock()
}

// discard reads a small rest that the guest has sent or is about to, so that
// the connection can be used again after an answer of our own.
func (b *body) discard() {
	if !b.mu.TryLock() {
		return // somebody reads it
	}
	skip := b.expects || b.left > smallBody
	b.mu.Unlock()
	if skip || b.whole() {
		return
	}
	_ = b.c.conn.SetReadDeadline(time.Now().Add(lingerTime))
	_, _ = io.CopyN(io.Discard, b, smallBody+1)
	_ = b.c.conn.SetReadDeadline(time.Time{})
}

// proceed tells the guest to send the body that it holds back, unless the
// answer has begun already.
func (c *conn1) proceed() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.begun {
		return nil
	}
	_, _ = c.bw.WriteString("HTTP/1.1 100 Continue\r\n\r\n")
	return c.bw.Flush()
}

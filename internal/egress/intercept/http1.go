package intercept

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"
)

// Times of a connection that speaks HTTP/1.
const (
	watchAfter = 100 * time.Millisecond // of waiting for a server
	lingerTime = 5 * time.Second
	lingerSize = 16 << 20         // bytes of a body that nobody wants any more
	smallBody  = 64 << 10         // bytes of one that is read before a refusal, so that the connection can stay
	answerTime = 10 * time.Second // for an answer of our own
)

// conn1 is a guest's connection that speaks HTTP/1. One goroutine runs it;
// while a request is under way the transport reads its body in another, and one
// more may wait for the guest to go.
type conn1 struct {
	p    *Proxy
	g    *guest
	conn net.Conn // with TLS or without
	br   *bufio.Reader
	head []byte // of the request that is being read; reused

	// mu guards writing until the final answer has begun: a 100 is written by
	// who reads the body, other 1xx by who reads from the server.
	mu    sync.Mutex
	bw    *bufio.Writer
	begun bool
}

// Buffers of an idle connection; bodies go around them.
const connBuffer = 4 << 10

var (
	readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, connBuffer) }}
	writers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, connBuffer) }}
)

// serve1 answers requests on conn until one is the last.
func (p *Proxy) serve1(ctx context.Context, g *guest, conn net.Conn) {
	c := &conn1{p: p, g: g, conn: conn, br: readers.Get().(*bufio.Reader), bw: writers.Get().(*bufio.Writer)}
	c.br.Reset(conn)
	c.bw.Reset(conn)
	defer func() {
		c.br.Reset(nil)
		c.bw.Reset(nil)
		readers.Put(c.br)
		writers.Put(c.bw)
	}()
	for first := true; ; first = false {
		err := c.next(ctx, first)
		switch {
		case err == nil:
			continue
		case errors.Is(err, errLast):
			c.linger()
		case errors.Is(err, errBroken):
			c.reset()
		default:
			_ = conn.Close()
		}
		return
	}
}

// The ways in which a connection ends that are no failure to read from it.
var (
	errLast   = errors.New("the last request of the connection")
	errBroken = errors.New("an answer was begun and cannot be finished")
)

// next reads one request and sees to its answer.
func (c *conn1) next(ctx context.Context, first bool) error {
	if err := c.readHead(first); err != nil {
		var bad badRequest
		if errors.As(err, &bad) {
			return c.malformed(bad, nil)
		}
		return err
	}
	start := time.Now()
	r, h, err := c.parse()
	if err != nil {
		var bad badRequest
		if !errors.As(err, &bad) {
			bad = badRequest(clean(err.Error()))
		}
		return c.malformed(bad, h)
	}
	return c.answer(ctx, start, r, h)
}

// readHead reads up to the end of a header block into c.head.
func (c *conn1) readHead(first bool) error {
	c.head = c.head[:0]
	if !first {
		_ = c.conn.SetReadDeadline(time.Now().Add(c.p.cfg.Limits.Idle))
		if _, err := c.br.Peek(1); err != nil {
			return err
		}
	}
	_ = c.conn.SetReadDeadline(time.Now().Add(c.p.cfg.Limits.Header))
	for {
		line, err := c.br.ReadSlice('\n')
		c.head = append(c.head, line...)
		if len(c.head) > maxHead {
			return badf("a header block of more than %d bytes", maxHead)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil {
			return err
		}
		switch {
		case bytes.HasSuffix(c.head, []byte("\r\n\r\n")):
			_ = c.conn.SetReadDeadline(time.Time{})
			return nil
		case !bytes.HasSuffix(c.head, []byte("\r\n")), len(c.head) == 2:
			// What is no HTTP, or has other line ends, would be waited for until
			// the time is up.
			return badRequest("a line that does not end with CR LF")
		}
	}
}

// parse takes the block apart twice, here and in net/http, and wants the same
// from both. The request's body is its own; everything else of it is net/http's.
func (c *conn1) parse() (*http.Request, *head, error) {
	h, err := checkHead(c.head)
	if err != nil {
		return nil, h, err
	}
	br := readers.Get().(*bufio.Reader)
	defer readers.Put(br)
	br.Reset(bytes.NewReader(c.head))
	r, err := http.ReadRequest(br)
	br.Reset(nil)
	if err != nil {
		return nil, h, err
	}
	if r.Method != h.method || r.RequestURI != h.target || r.ContentLength != h.length || r.ProtoMinor != h.minor {
		return nil, h, badRequest("a request that can be read in two ways")
	}
	t := c.g.target
	if r.Host, err = t.authority(h.host); err != nil {
		return nil, h, err
	}
	if r.URL, err = t.url(h.method, h.target); err != nil {
		return nil, h, err
	}
	return r, h, nil
}

// malformed refuses what is no proper request. What follows it cannot be found,
// so the connection ends.
func (c *conn1) malformed(bad badRequest, h *head) error {
	w := &answer1{c: c, header: http.Header{}, minor: 1, last: true}
	q := Request{Target: c.g.target, Proto: "http/1.1"}
	if h != nil {
		q.Method = h.method
	}
	c.p.refuseBad(w, q, bad)
	if w.finish() != nil {
		return errBroken
	}
	return errLast
}

// answer sees to one request that was read.
func (c *conn1) answer(ctx context.Context, start time.Time, r *http.Request, h *head) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c.mu.Lock()
	c.begun = false
	c.mu.Unlock()
	q := Request{Target: c.g.target, Method: r.Method, Path: r.URL.EscapedPath(), Proto: "http/1.1", Upgrade: h.upgrade}
	if h.minor == 0 {
		q.Proto = "http/1.0"
	}
	gone := &watch{c: c, cancel: cancel}
	b := newBody(c, h, r.Trailer, gone)
	r.Body = b
	w := &answer1{c: c, body: b, header: http.Header{}, head: r.Method == "HEAD", minor: h.minor,
		last: h.close || c.g.refusal != nil}
	// Also when a defect ends it: the buffers that they read go back to a pool.
	defer b.detach()
	defer gone.stop()
	if b.whole() {
		gone.start()
	}
	x := &exchange{p: c.p, g: c.g, q: q, w: w, r: r, start: start, stop: cancel}
	err := x.run(ctx)
	gone.stop()
	b.detach()
	switch {
	case err != nil:
		return errBroken
	case w.finish() != nil:
		return errBroken
	case w.last || !b.whole():
		return errLast
	}
	return nil
}

// watch notices that the guest goes away while its request is being answered.
// It waits for a byte, which is either none or of the next request, and only
// when the answer takes some time: most need no watching.
type watch struct {
	c      *conn1
	cancel context.CancelCauseFunc

	mu      sync.Mutex
	timer   *time.Timer
	done    chan struct{} // closed when run has ended
	stopped bool
}

var errGone = errors.New("the guest went away")

// start begins to watch; nothing else may read from the connection any more.
func (w *watch) start() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer != nil || w.stopped {
		return
	}
	w.done = make(chan struct{})
	w.timer = time.AfterFunc(watchAfter, w.run)
}

func (w *watch) run() {
	defer close(w.done)
	_, err := w.c.br.Peek(1)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil && !w.stopped {
		w.cancel(errGone)
	}
}

// stop gives reading from the connection back. It may be called again.
func (w *watch) stop() {
	w.mu.Lock()
	watching := w.timer != nil && !w.stopped
	w.stopped = true
	w.mu.Unlock()
	// An upgrade stops it, and then the end of the exchange does.
	if !watching || w.timer.Stop() {
		return
	}
	_ = w.c.conn.SetReadDeadline(past)
	<-w.done
	_ = w.c.conn.SetReadDeadline(time.Time{})
}

// past is a deadline that is over.
var past = time.Unix(1, 0)

// linger ends a connection so that the guest gets the answer even if it is
// still sending: closing with unread bytes resets, and a reset overtakes.
func (c *conn1) linger() {
	_ = c.conn.SetDeadline(time.Now().Add(lingerTime))
	if cw, ok := c.conn.(interface{ CloseWrite() error }); ok {
		_ = cw.CloseWrite()
	}
	if cw, ok := c.g.Conn.(interface{ CloseWrite() error }); ok && c.conn != c.g.Conn {
		_ = cw.CloseWrite()
	}
	buf := getBuffer()
	defer putBuffer(buf)
	for n := 0; n < lingerSize; {
		m, err := c.br.Read(*buf)
		n += m
		if err != nil {
			return
		}
	}
}

// reset ends a connection so that the guest sees that what it got is not whole:
// neither the end of the TLS session nor that of the stream is sent.
func (c *conn1) reset() {
	if l, ok := c.g.Conn.(interface{ SetLinger(int) error }); ok {
		_ = l.SetLinger(0)
	}
	_ = c.g.Close()
}

// copyBuffer is the size of a piece that is copied, in bytes.
const copyBuffer = 64 << 10

var buffers = sync.Pool{New: func() any { b := make([]byte, copyBuffer); return &b }}

func getBuffer() *[]byte  { return buffers.Get().(*[]byte) }
func putBuffer(b *[]byte) { buffers.Put(b) }

package intercept

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// maxInformational is how many 1xx answers of one request are passed on.
const maxInformational = 32

// exchange is one request under way, whichever protocol the guest speaks.
type exchange struct {
	p     *Proxy
	g     *guest
	q     Request
	w     http.ResponseWriter // also an http.Flusher
	r     *http.Request       // its URL and Host are the server's already
	start time.Time
	stop  context.CancelCauseFunc

	rec Exchange // what is known of its outcome

	sent     *counted
	received int64

	mu       sync.Mutex // guards what the transport's goroutines report
	answered bool
	infos    int
	upstream string
}

// errAborted: the guest has got a part of an answer and must not take it for
// the whole.
var errAborted = errors.New("the answer was broken off")

// run judges the request, passes it on, and records it. An error means that the
// connection, or the stream, has to be broken off.
func (x *exchange) run(ctx context.Context) (err error) {
	run := &running{req: x.q, cancel: x.stop}
	if !x.p.begin(run) {
		return errAborted
	}
	x.sent = &counted{ReadCloser: x.r.Body}
	x.rec = Exchange{Request: x.q, Start: x.start}
	returned := false
	defer func() {
		defer x.p.end(run) // last: whoever waits for the end finds the record
		x.mu.Lock()
		x.rec.Upstream = x.upstream
		x.mu.Unlock()
		x.rec.Duration = time.Since(x.start)
		x.rec.Sent += x.sent.n.Load()
		x.rec.Received += x.received
		if err != nil && x.rec.Error == "" {
			x.rec.Error = clean(err.Error())
		}
		if !returned {
			x.rec.Error = "a defect of Berth ended it"
		}
		x.p.cfg.Record(x.rec)
	}()
	err = x.handle(ctx)
	returned = true
	return err
}

// handle is run without what surrounds it.
func (x *exchange) handle(ctx context.Context) error {
	select { // before judging, which may wait for a person
	case x.p.slots <- struct{}{}:
		defer func() { <-x.p.slots }()
	default:
		x.rec.Ruling.Reason = "not judged"
		return x.fail(http.StatusServiceUnavailable, "too many requests at once")
	}
	if x.rec.Ruling = x.judge(ctx); !x.rec.Ruling.Allowed {
		return x.refuse(http.StatusForbidden, x.rec.Ruling)
	}
	if x.q.Upgrade != "" {
		return x.upgrade(ctx)
	}
	return x.forward(ctx)
}

func (x *exchange) judge(ctx context.Context) Ruling {
	if x.g.refusal != nil {
		return *x.g.refusal
	}
	return x.p.cfg.Judge.Judge(ctx, x.q)
}

// forward passes the request on and its answer back.
func (x *exchange) forward(ctx context.Context) error {
	out := x.outgoing(ctx)
	if err := x.before(ctx, out); err != nil {
		return x.stopped(err)
	}
	res, err := x.p.up.RoundTrip(out)
	x.mu.Lock()
	x.answered = true // from here on the answer is written by this goroutine
	x.mu.Unlock()
	if err != nil {
		return x.failed(ctx, err)
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode < 200 || res.StatusCode > 999 {
		return x.fail(http.StatusBadGateway, "the server answered with status "+strconv.Itoa(res.StatusCode)+", which was not asked for")
	}
	if err := x.after(ctx, res); err != nil {
		return x.stopped(err)
	}
	return x.respond(ctx, res)
}

// stopped answers what a stage refused.
func (x *exchange) stopped(err error) error {
	var failed *Failed
	var denied *Denied
	var answer *Answer
	switch {
	case errors.As(err, &answer):
		return x.answer(answer)
	case errors.As(err, &failed):
		return x.fail(http.StatusBadGateway, clean(failed.Reason))
	case errors.As(err, &denied):
		x.rec.Ruling = denied.Ruling
		x.rec.Ruling.Allowed = false
	default:
		x.rec.Ruling = Ruling{Reason: clean(err.Error())}
	}
	return x.refuse(http.StatusForbidden, x.rec.Ruling)
}

// outgoing makes the server's request of the guest's.
func (x *exchange) outgoing(ctx context.Context) *http.Request {
	out := x.r.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: x.gotConn, Got1xxResponse: x.inform,
	}))
	out.RequestURI, out.Close, out.TLS, out.TransferEncoding = "", false, nil, nil
	cleanHeader(out.Header)
	delete(out.Header, "Content-Length")
	out.Body = x.sent
	if out.ContentLength == 0 {
		out.Body = http.NoBody
		delete(out.Header, "Expect") // there is nothing to wait with
	}
	if _, ok := out.Header["User-Agent"]; !ok {
		out.Header["User-Agent"] = []string{""} // net/http's way of sending none
	}
	return out
}

// before runs the stages of requests.
func (x *exchange) before(ctx context.Context, out *http.Request) error {
	url, host := *out.URL, out.Host
	for _, s := range x.p.cfg.Requests {
		if err := s.Request(ctx, x.q.Target, out); err != nil {
			return err
		}
	}
	// A stage may rewrite what it likes but not where it goes.
	out.URL.Scheme, out.URL.Host, out.Host = url.Scheme, url.Host, host
	return nil
}

// after runs the stages of answers.
func (x *exchange) after(ctx context.Context, res *http.Response) error {
	for _, s := range x.p.cfg.Responses {
		if err := s.Response(ctx, x.q.Target, res); err != nil {
			return err
		}
	}
	return nil
}

func (x *exchange) gotConn(info httptrace.GotConnInfo) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.upstream = info.Conn.RemoteAddr().String()
}

// inform passes an informational answer on. The 100 is not among them: the
// guest gets its own when its body is read.
func (x *exchange) inform(status int, header textproto.MIMEHeader) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.infos++; x.infos > maxInformational {
		return errors.New("too many informational answers")
	}
	if x.answered || status == http.StatusContinue || status == http.StatusSwitchingProtocols {
		return nil
	}
	info := &http.Response{StatusCode: status, Header: http.Header(header), Body: http.NoBody}
	if x.after(x.r.Context(), info) != nil {
		return nil
	}
	h := x.w.Header()
	for k, v := range info.Header {
		h[k] = v
	}
	cleanHeader(h)
	x.w.WriteHeader(status)
	clear(h)
	return nil
}

// respond passes the answer on.
func (x *exchange) respond(ctx context.Context, res *http.Response) error {
	h := x.w.Header()
	cleanHeader(res.Header)
	if res.StatusCode == http.StatusNoContent {
		delete(res.Header, "Content-Length")
	}
	for k, v := range res.Header {
		h[k] = v
	}
	if res.ContentLength >= 0 && bodyAllowed(x.q.Method, res.StatusCode) {
		h["Content-Length"] = []string{strconv.FormatInt(res.ContentLength, 10)}
	} else if res.ContentLength < 0 {
		delete(h, "Content-Length")
	}
	for _, k := range []string{"Date", "Content-Type"} {
		if _, ok := h[k]; !ok {
			h[k] = nil // else the HTTP/2 library makes one up
		}
	}
	announced := make([]string, 0, len(res.Trailer))
	for k := range res.Trailer {
		announced = append(announced, k)
	}
	if len(announced) > 0 {
		h["Trailer"] = []string{strings.Join(announced, ", ")}
	}
	x.rec.Status = res.StatusCode
	x.w.WriteHeader(res.StatusCode)
	if err := x.copy(ctx, res); err != nil {
		x.rec.Error = x.broken(ctx, err)
		return errAborted
	}
	for k, v := range res.Trailer {
		if len(v) == 0 {
			continue
		}
		if !containsKey(announced, k) {
			k = http.TrailerPrefix + k
		}
		h[k] = v
	}
	return nil
}

// copy passes the body on. Nothing is held back while more is waited for, so
// that events and messages arrive when they are sent; a short answer of a known
// length is put together into one write.
func (x *exchange) copy(ctx context.Context, res *http.Response) error {
	if !bodyAllowed(x.q.Method, res.StatusCode) {
		return nil
	}
	flush := x.w.(http.Flusher).Flush
	left := res.ContentLength
	if left < 0 || left > connBuffer {
		flush()
	}
	buf := getBuffer()
	defer putBuffer(buf)
	for {
		n, err := res.Body.Read(*buf)
		if n > 0 {
			m, werr := x.w.Write((*buf)[:n])
			x.received += int64(m)
			if werr != nil {
				return werr
			}
			if left >= 0 {
				left -= int64(n)
			}
			if left != 0 {
				flush()
			}
		}
		if err == io.EOF {
			// A server that is told of a cut by the end of its connection may end
			// the answer in time for that to arrive, as if it had been whole.
			return context.Cause(ctx)
		}
		if err != nil {
			return err
		}
	}
}

func bodyAllowed(method string, status int) bool {
	return method != http.MethodHead && status != http.StatusNoContent && status != http.StatusNotModified
}

func containsKey(list []string, key string) bool {
	for _, k := range list {
		if k == key {
			return true
		}
	}
	return false
}

// hopByHop are the fields that are about one connection (RFC 9110 §7.6.1).
var hopByHop = []string{
	"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization",
	"Trailer", "Transfer-Encoding", "Upgrade", "Http2-Settings", "Host",
}

// cleanHeader takes out what is about one connection, on either side.
func cleanHeader(h http.Header) {
	te := contains(list(h["Te"]), "trailers")
	for _, name := range list(h["Connection"]) {
		h.Del(name)
	}
	for _, name := range hopByHop {
		delete(h, name)
	}
	delete(h, "Te")
	if te {
		h["Te"] = []string{"trailers"} // gRPC wants it end to end
	}
}

// counted is the guest's body as it is read: how much, and whether that failed.
type counted struct {
	io.ReadCloser
	n      atomic.Int64
	failed atomic.Bool
}

// Read implements io.Reader.
func (c *counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.n.Add(int64(n))
	if err != nil && err != io.EOF && !errors.Is(err, errDetached) {
		c.failed.Store(true)
	}
	return n, err
}

// survive is deferred where a guest's bytes are worked on: a defect that they
// find ends what found it, and is logged without them.
func (p *Proxy) survive() {
	if v := recover(); v != nil {
		p.defect()
	}
}

func (p *Proxy) defect() {
	stack := debug.Stack()
	p.cfg.Logger.Error("intercept: a defect ended a connection", "stack", string(stack[:min(len(stack), 8<<10)]))
}

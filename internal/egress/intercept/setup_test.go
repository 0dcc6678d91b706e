package intercept

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

const testHost = "api.example.test"

// judgeFunc is a Judge.
type judgeFunc func(Request) Ruling

func (f judgeFunc) Judge(_ context.Context, r Request) Ruling { return f(r) }

func allowAll(Request) Ruling { return Ruling{Allowed: true, Rule: "allow all"} }

// allowPublic is a policy with a path: the tests' attacks want /secret.
func allowPublic(r Request) Ruling {
	if strings.HasPrefix(r.Path, "/public") {
		return Ruling{Allowed: true, Rule: "allow " + testHost + " /public/**"}
	}
	return Ruling{Hint: "berth policy allow " + testHost + ":443"}
}

// world is a guest's side, a Proxy, and a server.
type world struct {
	tb     testing.TB
	proxy  *Proxy
	ca     *CA // of the sandbox
	origin *httptest.Server
	addr   string // the wire: whoever connects here is a guest
	log    *lockedBuffer

	mu    sync.Mutex
	recs  []Exchange
	more  chan struct{} // one for each record
	dials int
}

type setup struct {
	judge   judgeFunc
	handler http.HandlerFunc
	h2      bool // the server speaks HTTP/2
	plain   bool // no TLS on either side
	refusal *Ruling
	host    string
	port    uint16
	cert    *tls.Certificate // of the server, when it is not a good one
	server  func(*httptest.Server)
	config  func(*Config)
	dial    func(ctx context.Context, host string, port uint16) (net.Conn, error)
}

func newWorld(tb testing.TB, s setup) *world {
	tb.Helper()
	if s.host == "" {
		s.host = testHost
	}
	if s.port == 0 {
		s.port = 443
		if s.plain {
			s.port = 80
		}
	}
	if s.judge == nil {
		s.judge = allowAll
	}
	w := &world{tb: tb, log: &lockedBuffer{}, more: make(chan struct{}, 1<<16)}
	w.ca = newTestCA(tb)
	servers := newTestCA(tb)
	w.origin = httptest.NewUnstartedServer(s.handler)
	w.origin.Config.ErrorLog = log.New(io.Discard, "", 0)
	if s.server != nil {
		s.server(w.origin)
	}
	if s.plain {
		w.origin.Start()
	} else {
		cert := s.cert
		if cert == nil {
			var err error
			if cert, err = servers.certificate(s.host); err != nil {
				tb.Fatal(err)
			}
		}
		w.origin.EnableHTTP2 = s.h2
		w.origin.TLS = &tls.Config{Certificates: []tls.Certificate{*cert}}
		w.origin.StartTLS()
	}
	if s.dial == nil {
		s.dial = func(ctx context.Context, host string, port uint16) (net.Conn, error) {
			if host != s.host || port != s.port {
				return nil, errors.New("the test dials " + host)
			}
			w.mu.Lock()
			w.dials++
			w.mu.Unlock()
			return (&net.Dialer{}).DialContext(ctx, "tcp", w.origin.Listener.Addr().String())
		}
	}
	cfg := Config{
		CA: w.ca, Judge: s.judge, Roots: pool(servers), Dial: s.dial,
		Record: func(e Exchange) {
			w.mu.Lock()
			w.recs = append(w.recs, e)
			w.mu.Unlock()
			w.more <- struct{}{}
		},
		Logger: slog.New(slog.NewTextHandler(w.log, nil)),
	}
	if s.config != nil {
		s.config(&cfg)
	}
	var err error
	if w.proxy, err = New(cfg); err != nil {
		tb.Fatal(err)
	}
	w.listen(s)
	return w
}

// listen makes the wire, and the end of all of it, with a look for what stayed.
func (w *world) listen(s setup) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.tb.Fatal(err)
	}
	w.addr = l.Addr().String()
	var wg sync.WaitGroup
	serve := w.proxy.ServeTLS
	if s.plain {
		serve = w.proxy.ServePlain
	}
	if s.refusal != nil {
		serve = func(ctx context.Context, c net.Conn, host string, port uint16) {
			if s.plain {
				w.proxy.RefusePlain(ctx, c, host, port, *s.refusal)
			} else {
				w.proxy.RefuseTLS(ctx, c, host, port, *s.refusal)
			}
		}
	}
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { serve(context.Background(), c, s.host, s.port) })
		}
	})
	w.tb.Cleanup(func() {
		_ = l.Close()
		_ = w.proxy.Close()
		wg.Wait()
		w.origin.CloseClientConnections()
		w.origin.Close()
		if n := len(w.proxy.guests) + len(w.proxy.running) + len(w.proxy.upstream) + len(w.proxy.slots); n != 0 {
			w.tb.Errorf("%d things were left in the proxy", n)
		}
		noLeaks(w.tb)
	})
}

// noLeaks waits until no goroutine of this package or of HTTP is left.
func noLeaks(tb testing.TB) {
	tb.Helper()
	var left string
	if !wait(func() bool {
		buf := make([]byte, 4<<20)
		left = ""
		for g := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			for _, s := range []string{"intercept.(*", "net/http.(*persistConn)", "http2.(*serverConn)", "net/http.(*http2", "http.(*conn)"} {
				if strings.Contains(g, s) && !strings.Contains(g, "testing.tRunner") && !strings.Contains(g, "testing.(*B)") {
					left = g
					return false
				}
			}
		}
		return true
	}) {
		tb.Errorf("a goroutine was left:\n%s", left)
	}
}

// wait asks until it is so, for ten seconds at most.
func wait(so func() bool) bool {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	end := time.After(10 * time.Second)
	for !so() {
		select {
		case <-tick.C:
		case <-end:
			return false
		}
	}
	return true
}

func newTestCA(tb testing.TB) *CA {
	tb.Helper()
	ca, err := NewCA(time.Now)
	if err != nil {
		tb.Fatal(err)
	}
	return ca
}

func pool(cas ...*CA) *x509.CertPool {
	p := x509.NewCertPool()
	for _, ca := range cas {
		p.AppendCertsFromPEM(ca.PEM())
	}
	return p
}

// records waits for n records and returns them.
func (w *world) records(n int) []Exchange {
	w.tb.Helper()
	for range n {
		select {
		case <-w.more:
		case <-time.After(10 * time.Second):
			w.tb.Fatalf("%d records, want %d", len(w.recs), n)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	out := w.recs
	w.recs = nil
	return out
}

func (w *world) dialed() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dials
}

// client is a guest's HTTP client.
func (w *world) client(h2 bool) *http.Client {
	tr := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", w.addr)
		},
		TLSClientConfig:       &tls.Config{RootCAs: pool(w.ca)},
		Protocols:             new(http.Protocols),
		DisableCompression:    true,
		ExpectContinueTimeout: 5 * time.Second,
	}
	tr.Protocols.SetHTTP1(!h2)
	tr.Protocols.SetHTTP2(h2)
	w.tb.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// raw is a guest's connection, with TLS unless the world is plain.
func (w *world) raw(cfg ...func(*tls.Config)) net.Conn {
	w.tb.Helper()
	c, err := net.Dial("tcp", w.addr)
	if err != nil {
		w.tb.Fatal(err)
	}
	w.tb.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	if w.origin.TLS == nil {
		return c
	}
	tc := &tls.Config{RootCAs: pool(w.ca), ServerName: testHost, NextProtos: []string{"http/1.1"}}
	for _, f := range cfg {
		f(tc)
	}
	t := tls.Client(c, tc)
	if err := t.Handshake(); err != nil {
		w.tb.Fatal(err)
	}
	return t
}

// send writes raw bytes and reads all that comes back until the end.
func (w *world) send(raw string) string {
	w.tb.Helper()
	c := w.raw()
	if _, err := io.WriteString(c, raw); err != nil {
		w.tb.Fatal(err)
	}
	b, _ := io.ReadAll(c)
	return string(b)
}

// get does a request and returns the answer and its body.
func get(tb testing.TB, c *http.Client, r *http.Request) (*http.Response, string) {
	tb.Helper()
	res, err := c.Do(r)
	if err != nil {
		tb.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		tb.Fatal(err)
	}
	return res, string(b)
}

func newRequest(tb testing.TB, method, url string, body io.Reader) *http.Request {
	tb.Helper()
	r, err := http.NewRequestWithContext(tb.Context(), method, url, body)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// response reads one answer off a raw connection.
func response(tb testing.TB, br *bufio.Reader, method string) (*http.Response, string) {
	tb.Helper()
	res, err := http.ReadResponse(br, &http.Request{Method: method})
	if err != nil {
		tb.Fatal(err)
	}
	b, err := io.ReadAll(res.Body)
	if err != nil {
		tb.Fatal(err)
	}
	return res, string(b)
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// protocols runs a test with each pair of protocols of the guest and the server.
func protocols(t *testing.T, f func(t *testing.T, guest, server bool)) {
	for _, p := range []struct {
		name          string
		guest, server bool
	}{{"h1-h1", false, false}, {"h1-h2", false, true}, {"h2-h1", true, false}, {"h2-h2", true, true}} {
		t.Run(p.name, func(t *testing.T) { f(t, p.guest, p.server) })
	}
}

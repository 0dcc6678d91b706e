package credential

import (
	"bytes"
	"compress/flate"
	"compress/zlib"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"berth.dev/internal/egress/intercept"
	"berth.dev/internal/secret"
	"berth.dev/internal/service"
)

// Hosts of the tests, which the certificate of httptest is for.
const (
	boundHost = "api.example.com"
	otherHost = "other.example.com"
	realKey   = "sk-ant-api03-thisIsTheRealKeyAndNothingElse+/=AA"
)

// world is a guest's side, a proxy with a Broker, and servers: one for each host
// that is asked for, all with the same handler.
type world struct {
	tb      testing.TB
	b       *Broker
	proxy   *intercept.Proxy
	ca      *intercept.CA
	https   *httptest.Server
	http    *httptest.Server
	handler http.HandlerFunc
	roots   *x509.CertPool

	mu    sync.Mutex
	uses  []Use
	recs  []intercept.Exchange
	guest sync.WaitGroup
}

type setup struct {
	handler  http.HandlerFunc
	h2       bool // of the servers
	off      bool // without the Broker: to see what it is good for
	bindings []Binding
}

func newWorld(tb testing.TB, s setup) *world {
	tb.Helper()
	w := &world{tb: tb, handler: s.handler, roots: x509.NewCertPool()}
	var err error
	if w.b, err = New(Config{Sandbox: "test", Key: testKey, Record: func(u Use) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.uses = append(w.uses, u)
	}}); err != nil {
		tb.Fatal(err)
	}
	if s.bindings == nil {
		s.bindings = []Binding{testBinding("KEY", realKey)}
	}
	if err := w.b.Bind(s.bindings...); err != nil {
		tb.Fatal(err)
	}
	w.https = w.server(func(s2 *httptest.Server) { s2.EnableHTTP2 = s.h2; s2.StartTLS() })
	w.http = w.server((*httptest.Server).Start)
	w.roots.AddCert(w.https.Certificate())
	if w.ca, err = intercept.NewCA(time.Now); err != nil {
		tb.Fatal(err)
	}
	cfg := intercept.Config{CA: w.ca, Judge: allow{}, Roots: w.roots, Dial: w.dial, Record: func(e intercept.Exchange) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.recs = append(w.recs, e)
	}}
	if !s.off {
		cfg.Requests, cfg.Responses = []intercept.RequestStage{w.b}, []intercept.ResponseStage{w.b}
	}
	if w.proxy, err = intercept.New(cfg); err != nil {
		tb.Fatal(err)
	}
	open++
	tb.Cleanup(w.close)
	return w
}

func (w *world) server(start func(*httptest.Server)) *httptest.Server {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { w.handler(rw, r) }))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	start(s)
	return s
}

func (w *world) close() {
	_ = w.proxy.Close()
	w.guest.Wait()
	for _, s := range []*httptest.Server{w.https, w.http} {
		s.CloseClientConnections()
		s.Close()
	}
	if open--; open == 0 {
		noLeaks(w.tb)
	}
}

// open is how many worlds there are. Tests run one after the other.
var open int

// noLeaks waits until no goroutine of this package is left.
func noLeaks(tb testing.TB) {
	tb.Helper()
	var left string
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		buf := make([]byte, 4<<20)
		left = ""
		for g := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			if (strings.Contains(g, "credential.(*") || strings.Contains(g, "intercept.(*")) && !strings.Contains(g, "testing.tRunner") {
				left = g
			}
		}
		if left == "" {
			return
		}
	}
	tb.Errorf("a goroutine was left:\n%s", left)
}

type allow struct{}

func (allow) Judge(context.Context, intercept.Request) intercept.Ruling {
	return intercept.Ruling{Allowed: true}
}

func (w *world) dial(ctx context.Context, host string, port uint16) (net.Conn, error) {
	to := w.https
	if port == 80 {
		to = w.http
	}
	if !strings.HasSuffix(host, ".example.com") {
		return nil, errors.New("the test dials " + host)
	}
	return (&net.Dialer{}).DialContext(ctx, "tcp", to.Listener.Addr().String())
}

// client is a guest's: its connections go where egress would send them.
func (w *world) client(h2 bool) *http.Client {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(w.ca.PEM())
	tr := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, Protocols: new(http.Protocols), DisableCompression: true,
		DialContext: func(_ context.Context, _, addr string) (net.Conn, error) {
			host, portText, _ := net.SplitHostPort(addr)
			port, err := strconv.ParseUint(portText, 10, 16)
			if err != nil {
				return nil, err
			}
			return w.wire(host, uint16(port))
		},
	}
	tr.Protocols.SetHTTP1(!h2)
	tr.Protocols.SetHTTP2(h2)
	if !h2 {
		tr.Protocols.SetHTTP1(true)
	}
	w.tb.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// wire is one connection of the guest's.
func (w *world) wire(host string, port uint16) (net.Conn, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer l.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return nil, err
	}
	inner, err := l.Accept()
	if err != nil {
		return nil, err
	}
	w.guest.Go(func() {
		if port == 80 {
			w.proxy.ServePlain(context.Background(), inner, host, port)
		} else {
			w.proxy.ServeTLS(context.Background(), inner, host, port)
		}
	})
	return conn, nil
}

// used returns what was recorded since it was asked last.
func (w *world) used() []Use {
	w.mu.Lock()
	defer w.mu.Unlock()
	u := w.uses
	w.uses = nil
	return u
}

// do sends a request and returns the answer's status and body; an answer that
// broke off has the status 0.
func do(tb testing.TB, c *http.Client, r *http.Request) (*http.Response, string) {
	tb.Helper()
	res, err := c.Do(r)
	if err != nil {
		return &http.Response{Header: http.Header{}}, err.Error()
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return &http.Response{Header: http.Header{}}, string(b) + err.Error()
	}
	return res, string(b)
}

// testService takes its key in every way that there is.
func testService() service.Definition {
	host := func(s string) service.Place {
		p, err := service.ParsePlace(s)
		if err != nil {
			panic(err)
		}
		return p
	}
	return service.Definition{
		Name: "test", Hosts: []service.Place{host(boundHost)}, Vars: []string{"KEY"}, Shape: service.Shape{Prefix: "sk-ant-api03-", Length: 60},
		Schemes: []service.Scheme{
			{Kind: service.Header, Name: "X-Api-Key", Format: "{}"}, {Kind: service.Bearer}, {Kind: service.Header, Name: "Authorization", Format: "token {}"},
			{Kind: service.Basic, Format: "*:{}"}, {Kind: service.Basic, Format: "{}:*"}, {Kind: service.Query, Name: "key"},
			{Kind: service.Header, Name: "Authorization", Format: "Bearer {base64}"},
		},
	}
}

func testBinding(name, value string) Binding {
	return Binding{Secret: name, Service: testService(), Source: secret.Fixed(secret.NewValue(value))}
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

// encoded is a body in an encoding of HTTP.
func encoded(tb testing.TB, code string, b []byte) []byte {
	tb.Helper()
	var buf bytes.Buffer
	var z io.WriteCloser
	switch code {
	case "":
		return b
	case "gzip":
		z = gzip.NewWriter(&buf)
	case "deflate":
		z = zlib.NewWriter(&buf)
	case "raw deflate":
		z, _ = flate.NewWriter(&buf, -1)
	case "br":
		z = brotli.NewWriterLevel(&buf, brotli.BestSpeed)
	case "zstd":
		return zstdWriter().EncodeAll(b, nil)
	default:
		inner, outer, _ := strings.Cut(code, ", ")
		return encoded(tb, outer, encoded(tb, inner, b))
	}
	if _, err := z.Write(b); err != nil {
		tb.Fatal(err)
	}
	if err := z.Close(); err != nil {
		tb.Fatal(err)
	}
	return buf.Bytes()
}

var zstdWriter = sync.OnceValue(func() *zstd.Encoder {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true))
	if err != nil {
		panic(err)
	}
	return z
})

// seen is what a server has got of requests.
type seen struct {
	mu   sync.Mutex
	text []string
	done int // requests that came as a whole
}

func (s *seen) add(text string, whole bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text = append(s.text, text)
	if whole {
		s.done++
	}
}

// take returns whether any of it contains a text, in whichever encoding, and how
// many requests came as a whole.
func (s *seen) take(text string) (contains bool, whole int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	contains = slices.ContainsFunc(s.text, func(t string) bool { return refContains(t, text, true) })
	whole = s.done
	s.text, s.done = nil, 0
	return contains, whole
}

// watch is a handler that notes all that it gets.
func (s *seen) watch(rw http.ResponseWriter, r *http.Request) {
	var b strings.Builder
	b.WriteString(r.RequestURI + "\n")
	_ = r.Header.Write(&b)
	b.WriteString("\n")
	var body io.Reader = r.Body
	raw, err := io.ReadAll(body)
	plain := raw
	if codes := codingsOf(r.Header["Content-Encoding"]); len(codes) > 0 || sniff(raw) != "" {
		if len(codes) == 0 {
			codes = []string{sniff(raw)}
		}
		if dec := newDecoder(bytes.NewReader(raw), codes); dec != nil {
			plain, _ = io.ReadAll(dec)
		}
	}
	b.Write(plain)
	b.WriteString("\n")
	_ = r.Trailer.Write(&b)
	s.add(b.String(), err == nil)
}

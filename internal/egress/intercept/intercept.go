// Package intercept looks at a guest's HTTP: it ends the guest's TLS with a
// certificate of the sandbox's own CA (or takes plain HTTP), reads each request,
// has it judged, and passes it on to the real server over TLS that it verifies.
//
// It owns the CA, the framing of HTTP/1.1 and HTTP/2 on the guest's side, the
// connections to servers, and the text that explains a refusal. It does not own
// names, addresses or rules: which host a connection is for was decided before,
// Config.Dial resolves and classifies, and Judge decides. It touches no files.
//
// Both ends are untrusted. Nothing of what a guest sends reaches a server as it
// was sent: a request is read whole, checked, judged, and written anew, so that
// there are no bytes about which the two could disagree. Bodies stream.
package intercept

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"golang.org/x/net/http2"
)

// Target is where a guest's connection goes.
type Target struct {
	// Host is a normalised name (lower case, no last dot) or an IP address
	// without brackets.
	Host string
	Port uint16
	TLS  bool
}

// Request is what is judged.
type Request struct {
	Target
	Method string
	// Path is the path without the query, percent-encoded exactly as the server
	// will get it; "*" for OPTIONS of the whole server.
	Path string
	// Proto is how the guest sent it: "http/1.1", "http/1.0" or "h2"; "tls" for
	// a handshake that did not succeed.
	Proto string
	// Upgrade is "websocket" or "".
	Upgrade string
}

// Ruling is a judgement. The zero value denies.
type Ruling struct {
	Allowed      bool
	Rule, Origin string // the deciding rule and where it stands; "" when there is none
	Reason       string // one clause for people
	Hint         string // the command that would allow it
}

// Judge decides about requests. It is called from many goroutines and may take
// its time; ctx ends when the guest has gone.
type Judge interface {
	Judge(ctx context.Context, r Request) Ruling
}

// Exchange is the record of one request, made when it has ended. A connection
// on which no request came to be has one with an empty Method.
type Exchange struct {
	Request
	Start          time.Time
	Duration       time.Duration
	Status         int   // that the guest was answered with; 0 when there was no answer
	Sent, Received int64 // bytes of the bodies, from and to the guest; after an upgrade of all that follows it
	Ruling         Ruling
	Error          string // what was allowed failed for this
	Upstream       string // address of the server's connection, "" when there was none
}

// RequestStage changes or refuses a request that was allowed, before it goes to
// the server. An error refuses it, with 403 and the error's text, or as Failed
// and Denied say, or is an Answer. The place that it goes to cannot be changed. A Body that a
// stage puts in refuses the rest of the request by a *Denied. Called from many
// goroutines.
type RequestStage interface {
	Request(ctx context.Context, t Target, r *http.Request) error
}

// ResponseStage changes or refuses what the server answered, before it goes to
// the guest. One that changes the length of the body sets ContentLength, -1 when
// it is not known. Of an answer that switches protocols it sees the header alone.
// It also gets informational answers, without a Body; an error drops those.
// Called from many goroutines.
type ResponseStage interface {
	Response(ctx context.Context, t Target, r *http.Response) error
}

// Failed is an error of a stage that means no decision: what it needed was not
// to be had. The guest is told with 502.
type Failed struct{ Reason string }

// Error implements error.
func (f *Failed) Error() string { return f.Reason }

// Answer is an error of a RequestStage that is the answer: the request does not
// go to the server.
type Answer struct {
	Status int
	Kind   string // the media type of Body
	Body   []byte
}

// Error implements error.
func (a *Answer) Error() string { return "answered on the host" }

// Denied is an error of Config.Dial, or of a stage, that means a decision, not a
// failure: the guest is told as of any other refusal.
type Denied struct{ Ruling Ruling }

// Error implements error.
func (d *Denied) Error() string { return "denied: " + d.Ruling.Reason }

// Limits bound what a guest can make Berth hold. Zero fields have defaults.
type Limits struct {
	Connections int           // of the guest's at once; 4096
	Requests    int           // at once; 2048
	Handshake   time.Duration // TLS with the guest and with servers; 15 s
	Header      time.Duration // until a request's header block is whole; 30 s
	Idle        time.Duration // of a connection between two requests; 5 min
}

// Config is what a Proxy is made of.
type Config struct {
	CA    *CA
	Judge Judge
	// Record is called once for each exchange, from many goroutines; it must not
	// block. nil records nothing.
	Record func(Exchange)
	// Roots are the CAs that servers are verified with; nil means the host's.
	Roots *x509.CertPool
	// Dial connects to a server. What it returns is closed by the Proxy.
	Dial func(ctx context.Context, host string, port uint16) (net.Conn, error)
	// Requests and Responses run in their order.
	Requests  []RequestStage
	Responses []ResponseStage
	Limits    Limits
	Logger    *slog.Logger // of defects; nil discards
}

// Proxy intercepts for one sandbox. It is safe for concurrent use.
type Proxy struct {
	cfg Config
	tls *tls.Config // for guests; cloned for each connection
	//lint:ignore SA1019 see http2.go
	h2       *http2.Server   // for guests
	up       *http.Transport // to servers
	upgrades *http.Transport // to servers that are asked to switch protocols: HTTP/1.1 only
	slots    chan struct{}   // one for each request under way

	mu       sync.Mutex
	closed   bool
	guests   map[*guest]struct{}
	running  map[*running]struct{}
	upstream map[*serverConn]struct{}
	wg       sync.WaitGroup // of guests, and of what runs: an HTTP/2 stream outlives its connection
}

// guest is one connection of the guest's.
type guest struct {
	net.Conn
	target  Target
	refusal *Ruling // judged already, as a whole
}

// running is one request under way.
type running struct {
	req    Request
	cancel context.CancelCauseFunc
}

// errCut is why what was running has ended when the policy changed.
var errCut = errors.New("cut: the policy does not allow it any more")

// New returns a Proxy.
func New(cfg Config) (*Proxy, error) {
	if cfg.CA == nil || cfg.Judge == nil || cfg.Dial == nil {
		return nil, errors.New("intercept needs a CA, a judge and a dialer")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Record == nil {
		cfg.Record = func(Exchange) {}
	}
	setDefault(&cfg.Limits.Connections, 4096)
	setDefault(&cfg.Limits.Requests, 2048)
	setDefault(&cfg.Limits.Handshake, 15*time.Second)
	setDefault(&cfg.Limits.Header, 30*time.Second)
	setDefault(&cfg.Limits.Idle, 5*time.Minute)
	p := &Proxy{
		cfg:      cfg,
		tls:      guestTLS(),
		slots:    make(chan struct{}, cfg.Limits.Requests),
		guests:   map[*guest]struct{}{},
		running:  map[*running]struct{}{},
		upstream: map[*serverConn]struct{}{},
	}
	p.h2 = p.newHTTP2()
	p.up, p.upgrades = p.newTransport(true), p.newTransport(false)
	return p, nil
}

func setDefault[T int | time.Duration](v *T, def T) {
	if *v <= 0 {
		*v = def
	}
}

// ServeTLS handles a connection that a guest means for TLS at host:port, until
// it ends or ctx does. It closes the connection.
func (p *Proxy) ServeTLS(ctx context.Context, conn net.Conn, host string, port uint16) {
	p.serve(ctx, &guest{Conn: conn, target: Target{host, port, true}})
}

// ServePlain handles a connection that a guest means for plain HTTP.
func (p *Proxy) ServePlain(ctx context.Context, conn net.Conn, host string, port uint16) {
	p.serve(ctx, &guest{Conn: conn, target: Target{host, port, false}})
}

// RefuseTLS answers the first request that comes over TLS with the reasons of r
// and closes the connection.
func (p *Proxy) RefuseTLS(ctx context.Context, conn net.Conn, host string, port uint16, r Ruling) {
	r.Allowed = false
	p.serve(ctx, &guest{Conn: conn, target: Target{host, port, true}, refusal: &r})
}

// RefusePlain answers the first plain request with the reasons of r and closes
// the connection.
func (p *Proxy) RefusePlain(ctx context.Context, conn net.Conn, host string, port uint16, r Ruling) {
	r.Allowed = false
	p.serve(ctx, &guest{Conn: conn, target: Target{host, port, false}, refusal: &r})
}

// serve runs a guest's connection. A defect that the guest finds here ends its
// connection, not the process in which all the others are served.
func (p *Proxy) serve(ctx context.Context, g *guest) {
	defer func() { _ = g.Close() }()
	if !p.enter(g) {
		return
	}
	defer p.leave(g)
	stop := context.AfterFunc(ctx, func() { _ = g.Close() })
	defer stop()
	defer p.survive()
	if !g.target.TLS {
		p.serve1(ctx, g, g.Conn)
		return
	}
	conn := p.handshake(ctx, g)
	if conn == nil {
		return
	}
	if conn.ConnectionState().NegotiatedProtocol == http2.NextProtoTLS {
		p.serve2(ctx, g, conn)
		return
	}
	p.serve1(ctx, g, conn)
}

func (p *Proxy) enter(g *guest) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.guests) >= p.cfg.Limits.Connections {
		return false
	}
	p.guests[g] = struct{}{}
	p.wg.Add(1)
	return true
}

func (p *Proxy) leave(g *guest) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.guests, g)
	p.wg.Done()
}

// begin reports whether a request may start.
func (p *Proxy) begin(r *running) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.running[r] = struct{}{}
	p.wg.Add(1)
	return true
}

func (p *Proxy) end(r *running) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.running, r)
	p.wg.Done()
}

// Cut ends what is no longer allowed: cut is asked about each connection, of
// the guest's and to servers, with an empty Method (and for servers with TLS not
// set), and about each request that is under way. It must not block.
func (p *Proxy) Cut(cut func(Request) bool) {
	p.mu.Lock()
	var conns []net.Conn
	for g := range p.guests {
		if g.refusal == nil && cut(Request{Target: g.target}) {
			conns = append(conns, g)
		}
	}
	for c := range p.upstream {
		if cut(Request{Target: c.target}) {
			conns = append(conns, c)
		}
	}
	for r := range p.running {
		if cut(r.req) {
			r.cancel(errCut)
		}
	}
	p.mu.Unlock() // a connection takes itself out when it closes
	for _, c := range conns {
		_ = c.Close()
	}
}

// Close ends every connection, of guests and to servers, and returns when
// nothing runs any more. Calls of Serve from then on close what they are given.
func (p *Proxy) Close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.Cut(func(Request) bool { return true })
	p.mu.Lock()
	for g := range p.guests { // also those that are being refused
		_ = g.Close()
	}
	p.mu.Unlock()
	p.wg.Wait()
	p.up.CloseIdleConnections()
	p.upgrades.CloseIdleConnections()
	p.Cut(func(Request) bool { return true }) // what was being dialed meanwhile
	return nil
}

// Client makes requests of the host's own by the same way: to servers that are
// verified, through Config.Dial. Nobody judges or records them, and no stage sees
// them.
func (p *Proxy) Client() *http.Client {
	return &http.Client{Transport: p.up, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// hostPort is the authority of a target, always with its port.
func (t Target) hostPort() string {
	return net.JoinHostPort(t.Host, strconv.Itoa(int(t.Port)))
}

func (t Target) scheme() string {
	if t.TLS {
		return "https"
	}
	return "http"
}

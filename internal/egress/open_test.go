package egress

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"berth.dev/internal/audit"
	"berth.dev/internal/egress/intercept"
	"berth.dev/internal/policy"
)

// patience bounds what takes a moment; only a hang comes near it.
const patience = 20 * time.Second

// connect is a guest's connection: what the network stack makes of a route.
func connect(tb testing.TB, e *Egress, dst netip.AddrPort) (net.Conn, error) {
	tb.Helper()
	r, err := e.Open(tb.Context(), guest, dst)
	if err != nil {
		return nil, err
	}
	near, far := net.Pipe()
	_ = near.SetDeadline(time.Now().Add(patience))
	tb.Cleanup(func() { _ = near.Close() })
	if r.Serve != nil {
		go func() { r.Serve(context.Background(), far); _ = far.Close() }()
		return near, nil
	}
	go func() {
		_, _ = io.Copy(r.Conn, far)
		_ = r.Conn.(interface{ CloseWrite() error }).CloseWrite()
	}()
	go func() { _, _ = io.Copy(far, r.Conn); _ = far.Close(); _ = r.Conn.Close() }()
	return near, nil
}

// to connects to a name.
func to(tb testing.TB, e *Egress, name string, port uint16) (net.Conn, error) {
	tb.Helper()
	return connect(tb, e, netip.AddrPortFrom(addressFor(tb, e, name), port))
}

// origin is a TLS server that says hello to every request, whatever its name,
// and a dialer that finds it behind every address.
func origin(tb testing.TB) (*httptest.Server, func(context.Context, string, string) (net.Conn, error)) {
	tb.Helper()
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "hello "+r.Host)
	}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	tb.Cleanup(srv.Close)
	return srv, func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", srv.Listener.Addr().String())
	}
}

// anywhere resolves every name.
func anywhere(tb testing.TB) []string {
	return []string{newZone(tb, records("example.com. 60 IN A 203.0.113.9", "evil.example. 60 IN A 203.0.113.9")).addr}
}

// handshake is a TLS client's, for a server name.
func handshake(conn net.Conn, serverName string) error {
	c := tls.Client(conn, &tls.Config{ServerName: serverName, InsecureSkipVerify: true})
	return c.Handshake()
}

// TestServerName: TLS that passes through is for the name that was asked for.
func TestServerName(t *testing.T) {
	srv, dial := origin(t)
	// The attack works where nothing guards: the server answers to any name.
	plain, err := dial(t.Context(), "", "")
	if err != nil || handshake(plain, "evil.example") != nil {
		t.Fatal("the server does not answer to another name")
	}
	_ = plain.Close()
	e, rec := newTest(t, Config{Servers: anywhere(t), Dial: dial, Policy: rules(t, "allow example.com")}, false)
	for name, ok := range map[string]bool{"example.com": true, "EXAMPLE.com": true, "evil.example": false, "": false, "example.com.evil.example": false} {
		c, err := to(t, e, "example.com", 443)
		if err != nil {
			t.Fatal(err)
		}
		err = handshake(c, name)
		if (err == nil) != ok {
			t.Errorf("server name %q: %v", name, err)
		}
		if !ok && err != nil && !strings.Contains(err.Error(), "unrecognized name") {
			t.Errorf("server name %q: %v, want an alert that says why", name, err)
		}
		_ = c.Close()
	}
	wait(t, func() bool { return len(rec.of(audit.Connection)) == 5 })
	denied := 0
	for _, r := range rec.of(audit.Connection) {
		if r.Protocol != "tls" {
			t.Errorf("record %+v", r)
		}
		if r.Verdict == "deny" && strings.Contains(r.Reason, "server name") {
			denied++
		}
	}
	if denied != 3 {
		t.Errorf("%d denials: %+v", denied, rec.of(audit.Connection))
	}
	_ = srv
}

func wait(t *testing.T, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it did not come to be")
		}
	}
}

// TestServerNameInPieces: a hello that comes byte by byte is seen whole before
// any of it is passed on.
func TestServerNameInPieces(t *testing.T) {
	var sink bytes.Buffer
	var mu sync.Mutex
	e, _ := newTest(t, Config{Servers: anywhere(t), Policy: rules(t, "allow example.com"),
		Dial: func(context.Context, string, string) (net.Conn, error) {
			a, b := net.Pipe()
			go func() {
				buf := make([]byte, 4096)
				for {
					n, err := b.Read(buf)
					mu.Lock()
					sink.Write(buf[:n])
					mu.Unlock()
					if err != nil {
						return
					}
				}
			}()
			return a, nil
		}}, false)
	r, err := e.Open(t.Context(), guest, netip.AddrPortFrom(addressFor(t, e, "example.com"), 8443))
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := net.Pipe()
	go func() { _ = handshake(ours, "evil.example") }()
	buf := make([]byte, 1)
	for err = nil; err == nil; {
		if _, err = theirs.Read(buf); err == nil {
			_, err = r.Conn.Write(buf)
		}
	}
	if !strings.Contains(err.Error(), "server name") {
		t.Errorf("ended with %v", err)
	}
	_ = r.Conn.Close()
	_ = ours.Close()
	mu.Lock()
	defer mu.Unlock()
	if sink.Len() != 0 {
		t.Errorf("%d bytes were passed on before the name was known", sink.Len())
	}
}

// echConfig is a key of a server's for ECH, for the public name (RFC 9849 §4).
func echConfig(tb testing.TB, public string) (list []byte, key tls.EncryptedClientHelloKey) {
	tb.Helper()
	private, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	vector := func(b []byte) []byte { return append([]byte{byte(len(b) >> 8), byte(len(b))}, b...) }
	contents := append([]byte{7, 0, 0x20}, vector(private.PublicKey().Bytes())...) // id, X25519
	contents = append(contents, vector([]byte{0, 1, 0, 1})...)                     // HKDF-SHA256, AES-128-GCM
	contents = append(contents, 32, byte(len(public)))
	contents = append(append(contents, public...), 0, 0)
	config := append([]byte{0xfe, 0x0d}, vector(contents)...)
	return vector(config), tls.EncryptedClientHelloKey{Config: config, PrivateKey: private.Bytes()}
}

// TestECHIsTakenOver: a hello that hides another name inside does not reach the
// server. The client meets a server that knows no ECH, and so falls back.
func TestECHIsTakenOver(t *testing.T) {
	srv, dial := origin(t)
	list, key := echConfig(t, "example.com")
	inner := make(chan string, 9)
	srv.TLS.EncryptedClientHelloKeys = []tls.EncryptedClientHelloKey{key}
	srv.TLS.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) { inner <- h.ServerName; return nil, nil }
	e, rec := newTest(t, Config{Servers: anywhere(t), Dial: dial, Policy: rules(t, "allow example.com")}, false)
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	roots.AppendCertsFromPEM(e.cfg.CA.PEM())
	front := func(c net.Conn) error {
		return tls.Client(c, &tls.Config{ServerName: "example.org", RootCAs: roots, EncryptedClientHelloConfigList: list, MinVersion: tls.VersionTLS13}).Handshake()
	}
	// The attack works where nothing guards: outside it says example.com.
	direct, err := dial(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	_ = front(direct)
	if got := <-inner; got != "example.org" {
		t.Fatalf("the server read %q", got)
	}
	c, err := to(t, e, "example.com", 443)
	if err != nil {
		t.Fatal(err)
	}
	var rejected *tls.ECHRejectionError
	if err := front(c); !errors.As(err, &rejected) || len(rejected.RetryConfigList) != 0 {
		t.Errorf("handshake: %v, want one without ECH", err)
	}
	if len(inner) != 0 {
		t.Errorf("the server was asked for %q", <-inner)
	}
	_ = c.Close()
	wait(t, func() bool {
		return slices.ContainsFunc(rec.of(audit.Connection), func(e audit.Event) bool { return e.Name == "example.com" && strings.Contains(e.Reason, "ECH") })
	})
}

// TestClosedAddressIsExplained: an allowed name that leads to a private address
// names the command that opens exactly that, where one does.
func TestClosedAddressIsExplained(t *testing.T) {
	z := newZone(t, records("nas.example. 0 IN A 192.168.1.5", "meta.example. 0 IN A 169.254.169.254"))
	for policy, hints := range map[string]map[string]string{
		"allow **":            {"nas.example": "berth policy allow 192.168.1.5:80 --sandbox box", "meta.example": ""},
		"deny 192.168.0.0/16": {"nas.example": ""},
	} {
		e, _ := newTest(t, Config{Servers: []string{z.addr}, Policy: rules(t, "allow **", policy)}, false)
		for name, hint := range hints {
			c, err := to(t, e, name, 80)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: "+name+"\r\nConnection: close\r\n\r\n")
			answer, _ := io.ReadAll(c)
			if text := string(answer); !strings.Contains(text, "resolves to") || hint != "" && !strings.Contains(text, hint) || hint == "" && strings.Contains(text, "policy allow") {
				t.Errorf("%s under %q: %s", name, policy, answer)
			}
		}
	}
}

func TestDroppedIsRecorded(t *testing.T) {
	e, rec := newTest(t, Config{}, false)
	a := addressFor(t, e, "quic.example")
	e.Dropped("udp", a, 443, 0)
	e.Dropped("icmp", netip.MustParseAddr("203.0.113.9"), 0, 41)
	e.Dropped("", netip.Addr{}, 0, 7)
	got := rec.of(audit.Connection)
	if len(got) != 3 {
		t.Fatalf("%+v", got)
	}
	for i, want := range []audit.Event{
		{Name: "quic.example", Port: 443, Protocol: "udp"}, {Address: "203.0.113.9", Protocol: "icmp"}, {},
	} {
		if g := got[i]; g.Name != want.Name || g.Address != want.Address || g.Port != want.Port || g.Protocol != want.Protocol || g.Verdict != audit.Deny || g.Reason == "" {
			t.Errorf("%+v, want %+v", g, want)
		}
	}
	if !strings.Contains(got[1].Reason, "41 more") {
		t.Errorf("%+v", got[1])
	}
}

// TestExplanation: a denied name is explained on the ports of HTTP and refused
// at once on others.
func TestExplanation(t *testing.T) {
	var d dialer
	e, rec := newTest(t, Config{Dial: d.dial, Policy: rules(t, "allow example.com")}, false)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(e.cfg.CA.PEM())
	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true,
		DialContext: func(_ context.Context, _, addr string) (net.Conn, error) {
			host, port, _ := net.SplitHostPort(addr)
			n := map[string]uint16{"80": 80, "443": 443}[port]
			return to(t, e, host, n)
		},
	}}
	for _, u := range []string{"http://evil.example/", "https://evil.example/x?secret=1"} {
		resp, err := client.Get(u)
		if err != nil {
			t.Errorf("%s: %v", u, err)
			continue
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != 403 || !strings.Contains(string(body), "evil.example") || !strings.Contains(string(body), "berth policy allow evil.example:") {
			t.Errorf("%s: %d %s", u, resp.StatusCode, body)
		}
	}
	begin := time.Now()
	if _, err := to(t, e, "evil.example", 22); err == nil || time.Since(begin) > time.Second {
		t.Errorf("another port: %v after %s", err, time.Since(begin))
	}
	if n := len(d.all()); n != 0 {
		t.Errorf("dialed %v", d.all())
	}
	for _, r := range rec.of(audit.HTTP) {
		if strings.Contains(r.Path, "secret") || r.Verdict != "deny" {
			t.Errorf("record %+v", r)
		}
	}
}

// TestPolicyChange cuts what is no longer allowed, and nothing else.
func TestPolicyChange(t *testing.T) {
	echo := func(context.Context, string, string) (net.Conn, error) {
		a, b := net.Pipe()
		go func() { _, _ = io.Copy(b, b) }()
		return a, nil
	}
	e, rec := newTest(t, Config{Servers: anywhere(t), Dial: echo, Policy: rules(t, "allow example.com", "allow evil.example")}, false)
	say := func(c net.Conn) error {
		if _, err := io.WriteString(c, "ping"); err != nil {
			return err
		}
		_, err := io.ReadFull(c, make([]byte, 4))
		return err
	}
	stays, err := to(t, e, "example.com", 22)
	if err != nil || say(stays) != nil {
		t.Fatal(err)
	}
	goes, err := to(t, e, "evil.example", 22)
	if err != nil || say(goes) != nil {
		t.Fatal(err)
	}
	e.SetPolicy(rules(t, "allow example.com"))
	if err := say(goes); err == nil {
		t.Error("a connection that is not allowed any more goes on")
	}
	if err := say(stays); err != nil {
		t.Errorf("one that is still allowed was cut: %v", err)
	}
	if _, err := to(t, e, "evil.example", 22); err == nil {
		t.Error("a new one is let through")
	}
	wait(t, func() bool {
		for _, r := range rec.of(audit.Connection) {
			if strings.Contains(r.Error, "cut") {
				return true
			}
		}
		return false
	})
}

// TestRecheck: what passes through is cut when it has to be looked at from now
// on, and is looked at when it comes back.
func TestRecheck(t *testing.T) {
	srv, dial := origin(t)
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	var bound atomic.Bool
	e, rec := newTest(t, Config{
		Servers: anywhere(t), Dial: dial, Roots: roots, Policy: rules(t, "allow example.com"),
		Inspect: func(host string, port uint16) bool { return bound.Load() && host == "example.com" && port == 443 },
	}, false)
	trust := roots.Clone()
	trust.AppendCertsFromPEM(e.cfg.CA.PEM())
	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: trust},
		DialContext:     func(_ context.Context, _, _ string) (net.Conn, error) { return to(t, e, "example.com", 443) },
	}}
	issuer := func() string {
		resp, err := client.Get("https://example.com/")
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		return resp.TLS.PeerCertificates[0].Issuer.String()
	}
	passed := issuer()
	if got := issuer(); got != passed || len(rec.of(audit.HTTP)) != 0 {
		t.Fatalf("%q, then %q", passed, got)
	}
	bound.Store(true)
	e.Recheck()
	wait(t, func() bool { return len(rec.of(audit.Connection)) == 1 })
	if got := issuer(); got == passed || len(rec.of(audit.HTTP)) != 1 {
		t.Errorf("it is not looked at: %q, %+v", got, rec.of(audit.HTTP))
	}
}

// TestInspection: methods and paths decide, request by request.
func TestInspection(t *testing.T) {
	srv, dial := origin(t)
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	e, rec := newTest(t, Config{Servers: anywhere(t), Dial: dial, Roots: roots, Policy: rules(t, "allow example.com:443 GET /open/**")}, false)
	ours := x509.NewCertPool()
	ours.AppendCertsFromPEM(e.cfg.CA.PEM())
	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: ours}, ForceAttemptHTTP2: true,
		DialContext: func(context.Context, string, string) (net.Conn, error) { return to(t, e, "example.com", 443) },
	}}
	for path, want := range map[string]int{"/open/a": 200, "/shut": 403, "/open/../shut": 403, "/open/%2e%2e/shut": 403} {
		req, _ := http.NewRequestWithContext(t.Context(), "GET", "https://example.com/", nil)
		req.URL.Opaque = "//example.com" + path
		resp, err := client.Do(req)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		_ = resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: %d, want %d", path, resp.StatusCode, want)
		}
	}
	if resp, err := client.Post("https://example.com/open/a", "", nil); err != nil || resp.StatusCode != 403 {
		t.Errorf("POST: %v", err)
	}
	if n := len(rec.of(audit.HTTP)); n != 5 {
		t.Errorf("%d records: %+v", n, rec.of(audit.HTTP))
	}
}

// askers answers every question with an answer of the test's.
type askers struct {
	once  bool
	then  func()
	asked []string
}

func (a *askers) Ask(_ context.Context, host string, port uint16) bool {
	a.asked = append(a.asked, fmt.Sprint(host, ":", port))
	if a.then != nil {
		a.then()
	}
	return a.once
}

func TestAsk(t *testing.T) {
	var d dialer
	a := &askers{}
	e, _ := newTest(t, Config{Servers: anywhere(t), Dial: d.dial, Ask: a, Policy: rules(t, "allow other.example", "deny evil.example")}, false)
	if _, err := to(t, e, "example.com", 22); err == nil || len(a.asked) != 1 || a.asked[0] != "example.com:22" {
		t.Errorf("no answer: %v, asked %v", err, a.asked)
	}
	if _, err := to(t, e, "evil.example", 22); err == nil || len(a.asked) != 1 {
		t.Errorf("a deny rule: %v, asked %v", err, a.asked)
	}
	if _, err := connect(t, e, netip.MustParseAddrPort("127.0.0.1:22")); err == nil || len(a.asked) != 1 {
		t.Errorf("an address that no rule can open: %v, asked %v", err, a.asked)
	}
	a.once = true
	if _, err := to(t, e, "example.com", 22); err != nil {
		t.Errorf("allowed once: %v", err)
	}
	a.once, a.then = false, func() { e.SetPolicy(rules(t, "allow example.com")) }
	if _, err := to(t, e, "example.com", 22); err != nil {
		t.Errorf("a rule was made: %v", err)
	}
}

// TestProxy: what is allowed goes through the host's own HTTP proxy.
func TestProxy(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	asked := make(chan *http.Request, 1)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			req, err := http.ReadRequest(bufio.NewReader(c))
			if err != nil {
				return
			}
			asked <- req
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\nSSH-2.0-server\r\n")
		}
	}()
	via := &url.URL{Scheme: "http", Host: l.Addr().String(), User: url.UserPassword("u", "p")}
	e, _ := newTest(t, Config{
		Policy: rules(t, "allow example.com"),
		Proxy:  func(string, uint16) (*url.URL, error) { return via, nil },
	}, false)
	c, err := to(t, e, "example.com", 22)
	if err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	req := <-asked
	if err != nil || line != "SSH-2.0-server\r\n" || req.Method != "CONNECT" || req.Host != "example.com:22" || req.Header.Get("Proxy-Authorization") != "Basic dTpw" {
		t.Errorf("%q, %v; the proxy was asked %+v", line, err, req)
	}
}

// TestOverride: the user's own word for where a name is served.
func TestOverride(t *testing.T) {
	srv, _ := origin(t)
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	e, _ := newTest(t, Config{
		Policy: rules(t, "allow example.com:443"), Roots: roots,
		Overrides: []Override{{Host: "example.com", Port: 443, Address: srv.Listener.Addr().String(), Inspect: true}},
	}, false)
	ours := x509.NewCertPool()
	ours.AppendCertsFromPEM(e.cfg.CA.PEM())
	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: ours},
		DialContext:     func(context.Context, string, string) (net.Conn, error) { return to(t, e, "example.com", 443) },
	}}
	resp, err := client.Get("https://example.com/")
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("%v", err)
	}
	_ = resp.Body.Close()
}

func TestNames(t *testing.T) {
	n := newNames("seed")
	a, a6 := n.addresses("example.com", true)
	if b, _ := newNames("seed").addresses("example.com", false); a != b || !isName(a) || !isName(a6) {
		t.Errorf("%s and %s, after a restart", a, b)
	}
	for i := range 3 * maxNames {
		n.addresses(fmt.Sprintf("n%d.evil.example", i), false)
	}
	if b, _ := n.addresses("example.com", true); a != b {
		t.Error("names that are not allowed pushed out one that is")
	}
	for _, addr := range []netip.Addr{a, a6} {
		if name, ok := n.nameOf(addr); !ok || name != "example.com" {
			t.Errorf("%s stands for %q", addr, name)
		}
	}
	if len(n.byName) > maxNames || len(n.bySlot) != len(n.byName) || n.kept.Len()+n.loose.Len() != len(n.byName) {
		t.Errorf("%d names, %d slots", len(n.byName), len(n.bySlot))
	}
	if _, ok := n.nameOf(testAddr("fdbe:7274:6801::1:0:0:1")); ok {
		t.Error("an address that was never given stands for a name")
	}
	seen := map[netip.Addr]string{}
	for i := range maxNames {
		name := fmt.Sprintf("m%d.example", i)
		v4, _ := n.addresses(name, true)
		if seen[v4] != "" {
			t.Fatalf("%s stands for %s and %s", v4, seen[v4], name)
		}
		seen[v4] = name
	}
}

func TestConfigMistakes(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("without a CA: no error")
	}
	ca, err := intercept.NewCA(time.Now)
	if err != nil {
		t.Fatal(err)
	}
	e, err := New(Config{CA: ca})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if d := e.decide(place{name: "example.com", port: 443}); d.Verdict != policy.Deny {
		t.Error("no policy allows something")
	}
}

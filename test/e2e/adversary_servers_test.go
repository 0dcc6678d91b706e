package e2e

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"berth.dev/test/standin"
)

// Names of the world, and what a policy of the tests says of them.
const (
	passHost   = "pass.example"   // passes through
	apiHost    = "api.example"    // looked at: only /open/ may be asked for
	plainHost  = "plain.example"  // the same without TLS
	sloppyHost = "sloppy.example" // the same, on port 8080, of a server that takes anything for HTTP
	sloppyPort = 8080
	deniedHost = "denied.example"
	publicAddr = "93.184.216.34" // of every name that has no other
)

// serve starts every server of the world.
func (w *world) serve(t *testing.T) {
	t.Helper()
	w.ca = newAuthority(t, w.dir)
	w.ech = newECHKey(t, passHost)
	for _, where := range []string{":80", fmt.Sprintf(":%d", loopbackPort), fmt.Sprintf("127.0.0.1:%d", onlyLoopbackPort)} {
		w.serveHTTP(t, w.listen(t, "tcp", where), nil)
	}
	w.serveHTTP(t, w.listen(t, "tcp", ":443"), &tls.Config{
		GetConfigForClient:       w.hello,
		GetCertificate:           w.ca.certificate,
		EncryptedClientHelloKeys: []tls.EncryptedClientHelloKey{w.ech.key},
	})
	w.serveSloppy(t, w.listen(t, "tcp", fmt.Sprintf(":%d", sloppyPort)))
	w.serveDNS(t)
	for _, port := range []int{123, 443} {
		w.serveDatagrams(t, "udp", port)
	}
	for _, proto := range []string{"47", "132", "4"} { // GRE, SCTP, IP in IP
		w.serveDatagrams(t, "ip:"+proto, 0)
	}
}

func (w *world) hello(h *tls.ClientHelloInfo) (*tls.Config, error) {
	w.note("tls %s sni=%s.", h.Conn.LocalAddr(), h.ServerName)
	return nil, nil
}

// serveHTTP answers HTTP/1.1 and HTTP/2, with TLS or without.
func (w *world) serveHTTP(t *testing.T, l net.Listener, secure *tls.Config) {
	t.Helper()
	srv := &http.Server{Handler: http.HandlerFunc(w.answer), ErrorLog: log.New(io.Discard, "", 0)}
	t.Cleanup(func() { _ = srv.Close() })
	if secure == nil {
		srv.Protocols = new(http.Protocols)
		srv.Protocols.SetHTTP1(true)
		srv.Protocols.SetUnencryptedHTTP2(true)
		go func() { _ = srv.Serve(l) }()
		return
	}
	srv.TLSConfig = secure
	go func() { _ = srv.ServeTLS(l, "", "") }()
}

// answer tells the secret, but for what the policy of the tests lets be asked.
func (w *world) answer(rw http.ResponseWriter, r *http.Request) {
	local := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	w.note("http %s %s %s host=%s.", at(local), r.Method, r.RequestURI, r.Host)
	host, _, err := net.SplitHostPort(r.Host)
	if err != nil {
		host = r.Host
	}
	text := secret
	if a, err := netip.ParseAddrPort(local.String()); err == nil && a.Addr().Unmap().IsLoopback() {
		text += " of the loopback"
	}
	switch {
	case r.Method == http.MethodConnect:
		hijack(rw, "HTTP/1.1 200 OK\r\n\r\n"+text)
	case r.URL.Path == "/dns-query":
		w.answerDoH(rw, r)
	case r.Header.Get("Upgrade") == "h2c":
		w.upgrade(rw)
	case r.URL.Path == "/open/switch": // agrees to anything, and then tells anybody
		hijack(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"+text)
	case r.URL.Path == "/open/redirect":
		http.Redirect(rw, r, "http://"+deniedHost+"/", http.StatusFound)
	case r.TLS != nil && r.TLS.ServerName == passHost, (host == apiHost || host == plainHost) && opened(r.URL.Path):
		_, _ = io.WriteString(rw, "public\n")
	default:
		_, _ = fmt.Fprintf(rw, "%s at %s for %s\n", text, local, r.Host)
	}
}

// opened reports whether a server that resolves dots and backslashes takes a
// path for one that the policy lets be asked for.
func opened(p string) bool {
	return strings.HasPrefix(path.Clean(strings.ReplaceAll(p, `\`, "/")), "/open/")
}

func hijack(rw http.ResponseWriter, text string) {
	conn, _, err := http.NewResponseController(rw).Hijack()
	if err != nil {
		return
	}
	_, _ = io.WriteString(conn, text)
	_ = conn.Close()
}

// upgrade goes on in HTTP/2 on a connection that asked for it in HTTP/1.1, as
// RFC 7540 §3.2 had it: the second request is the first that is told the secret.
func (w *world) upgrade(rw http.ResponseWriter) {
	conn, buffered, err := http.NewResponseController(rw).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"); err != nil {
		return
	}
	if _, err := buffered.Discard(len(http2.ClientPreface)); err != nil {
		return
	}
	f := http2.NewFramer(conn, buffered)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	for err := f.WriteSettings(); err == nil; {
		var frame http2.Frame
		if frame, err = f.ReadFrame(); err != nil {
			return
		}
		asked, ok := frame.(*http2.MetaHeadersFrame)
		if !ok {
			continue
		}
		w.note("http %s by an upgrade %s.", at(conn.LocalAddr()), asked.PseudoValue("path"))
		var block bytes.Buffer
		if err = hpack.NewEncoder(&block).WriteField(hpack.HeaderField{Name: ":status", Value: "200"}); err == nil {
			err = f.WriteHeaders(http2.HeadersFrameParam{StreamID: asked.StreamID, BlockFragment: block.Bytes(), EndHeaders: true})
		}
		if err == nil {
			err = f.WriteData(asked.StreamID, true, []byte(secret))
		}
	}
}

// at is an address without the form in which IPv6 sockets have IPv4.
func at(a net.Addr) string {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return a.String()
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()).String()
}

// serveSloppy is a server that takes anything for HTTP, in the way that the
// sender of a smuggled request hopes for.
func (w *world) serveSloppy(t *testing.T, l net.Listener) {
	t.Helper()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(patience))
				for r := bufio.NewReader(conn); w.sloppy(conn, r) == nil; {
				}
			}()
		}
	}()
}

func (w *world) sloppy(conn net.Conn, r *bufio.Reader) error {
	first, err := r.ReadString('\n')
	if err != nil {
		return err
	}
	parts := strings.Fields(first)
	if len(parts) < 2 {
		return nil // blank lines between requests
	}
	length, chunked := 0, false
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return err
		}
		line = strings.ToLower(strings.TrimSpace(line))
		if line == "" {
			break
		}
		switch {
		case strings.Contains(line, "chunked"):
			chunked = true
		case strings.HasPrefix(line, "content-length"):
			digits := strings.TrimFunc(line[len("content-length"):], func(r rune) bool { return r < '0' || r > '9' })
			digits, _, _ = strings.Cut(digits, ",")
			length, _ = strconv.Atoi(digits)
		}
	}
	if chunked {
		for {
			size, err := r.ReadString('\n')
			if err != nil {
				return err
			}
			size, _, _ = strings.Cut(strings.TrimSpace(size), ";")
			n, err := strconv.ParseInt(size, 16, 32)
			if err != nil {
				return err
			}
			if _, err := r.Discard(int(n)); err != nil {
				return err
			}
			if _, err := r.ReadString('\n'); err != nil {
				return err
			}
			if n == 0 {
				break
			}
		}
	} else if _, err := r.Discard(length); err != nil {
		return err
	}
	target, _, _ := strings.Cut(parts[1], "?")
	if decoded, err := url.PathUnescape(target); err == nil {
		target = decoded
	}
	body := "public\n"
	if !opened(target) {
		body = secret + "\n"
		w.note("sloppy %s %s.", parts[0], parts[1])
	}
	_, err = fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	return err
}

// serveDatagrams answers those that come to any address, from that address:
// network is "udp", or "ip:" with a protocol.
func (w *world) serveDatagrams(t *testing.T, network string, port int) {
	t.Helper()
	family := func(n string) string {
		kind, proto, raw := strings.Cut(network, ":")
		if raw {
			return kind + n + ":" + proto
		}
		return kind + n
	}
	where := func(any string) string {
		if port == 0 {
			return any
		}
		return net.JoinHostPort(any, strconv.Itoa(port))
	}
	four := ipv4.NewPacketConn(w.listenPacket(t, family("4"), where("0.0.0.0")))
	six := ipv6.NewPacketConn(w.listenPacket(t, family("6"), where("::")))
	if err := four.SetControlMessage(ipv4.FlagDst, true); err != nil {
		t.Fatal(err)
	}
	if err := six.SetControlMessage(ipv6.FlagDst, true); err != nil {
		t.Fatal(err)
	}
	// An answer comes here too, where no port keeps the two apart.
	arrived := func(dst net.IP, b []byte) bool {
		if bytes.Contains(b, []byte(secret)) {
			return false
		}
		w.note("%s %s ", network, where(dst.String()))
		return true
	}
	go func() {
		buf := make([]byte, 2048)
		for {
			n, cm, from, err := four.ReadFrom(buf)
			if err != nil {
				return
			}
			if arrived(cm.Dst, buf[:n]) {
				_, _ = four.WriteTo([]byte(secret), &ipv4.ControlMessage{Src: cm.Dst}, from)
			}
		}
	}()
	go func() {
		buf := make([]byte, 2048)
		for {
			n, cm, from, err := six.ReadFrom(buf)
			if err != nil {
				return
			}
			if arrived(cm.Dst, buf[:n]) {
				_, _ = six.WriteTo([]byte(secret), &ipv6.ControlMessage{Src: cm.Dst}, from)
			}
		}
	}()
}

// serveDNS is the resolver of the host, and every other one that there is.
func (w *world) serveDNS(t *testing.T) {
	t.Helper()
	servers := []*dns.Server{
		{PacketConn: w.listenPacket(t, "udp4", "0.0.0.0:53"), Net: "udp"},
		{PacketConn: w.listenPacket(t, "udp6", "[::]:53"), Net: "udp"},
		{Listener: w.listen(t, "tcp", ":53"), Net: "tcp"},
		{Listener: tls.NewListener(w.listen(t, "tcp", ":853"), &tls.Config{GetCertificate: w.ca.certificate}), Net: "tls"},
	}
	for _, srv := range servers {
		srv.Handler = dns.HandlerFunc(func(rw dns.ResponseWriter, q *dns.Msg) {
			if m := w.resolve(srv.Net, q); m != nil {
				_ = rw.WriteMsg(m)
			}
		})
		started := make(chan struct{})
		srv.NotifyStartedFunc = func() { close(started) }
		go func() { _ = srv.ActivateAndServe() }()
		<-started
		t.Cleanup(func() { _ = srv.Shutdown() })
	}
}

// tunnels are zones whose own servers, of the tunnel's, listen on the loopback.
var tunnels = map[string]int{"iodine.example.": 5301, "dns2tcp.example.": 5302}

// addresses are those of names that have others than publicAddr. More than one
// are given all at once, or in turns where the name says so.
var addresses = map[string][]string{
	"loopback.example.":    {"127.0.0.1"},
	"unspecified.example.": {"0.0.0.0"},
	"metadata.example.":    {"169.254.169.254"},
	"linklocal.example.":   {"169.254.7.7"},
	"private.example.":     {"10.9.8.7"},
	"cgnat.example.":       {"100.64.1.2"},
	"own.example.":         {"192.168.77.1"},
	"mapped.example.":      {"::ffff:127.0.0.1"},
	"nat64.example.":       {"64:ff9b::7f00:1"},
	"sixtofour.example.":   {"2002:7f00:1::1"},
	"compatible.example.":  {"::7f00:2"},
	"ula.example.":         {"fd00:ec2::254"},
	"loopback6.example.":   {"::1"},
	"flip.example.":        {publicAddr, "127.0.0.1"},
	"flip3.example.":       {publicAddr, publicAddr, "127.0.0.1"},
	"both.example.":        {publicAddr, "127.0.0.1"},
}

// aliases are names that stand for others, outside of what is allowed.
var aliases = map[string]string{"alias.example.": "loopback.example."}

// resolve answers a question that came by a network.
func (w *world) resolve(network string, q *dns.Msg) *dns.Msg {
	asked := q.Question[0]
	name := strings.ToLower(asked.Name)
	w.note("dns %s %s %s", network, name, dns.TypeToString[asked.Qtype])
	for zone, port := range tunnels {
		if dns.IsSubDomain(zone, name) {
			return w.forward(q, port)
		}
	}
	m := new(dns.Msg)
	m.SetReply(q)
	m.RecursionAvailable = true
	m.Extra = []dns.RR{&dns.TXT{Hdr: dns.RR_Header{Name: asked.Name, Rrtype: dns.TypeTXT, Class: dns.ClassINET}, Txt: []string{secret}}}
	hdr := dns.RR_Header{Name: asked.Name, Rrtype: asked.Qtype, Class: dns.ClassINET}
	list := addresses[name]
	switch target, alias := aliases[name]; {
	case alias:
		list = addresses[target]
		m.Answer = append(m.Answer, &dns.CNAME{Hdr: dns.RR_Header{Name: asked.Name, Rrtype: dns.TypeCNAME, Class: dns.ClassINET}, Target: target})
		hdr.Name = target
	case list == nil:
		list = []string{publicAddr}
	case strings.HasPrefix(name, "flip") && asked.Qtype == dns.TypeA:
		w.mu.Lock()
		list = list[w.flips[name]%len(list):][:1]
		w.flips[name]++
		w.mu.Unlock()
	}
	switch asked.Qtype {
	case dns.TypeA, dns.TypeAAAA:
		for _, s := range list {
			a := netip.MustParseAddr(s)
			if a.Is4() && asked.Qtype == dns.TypeA {
				m.Answer = append(m.Answer, &dns.A{Hdr: hdr, A: a.AsSlice()})
			} else if a.Is6() && asked.Qtype == dns.TypeAAAA {
				m.Answer = append(m.Answer, &dns.AAAA{Hdr: hdr, AAAA: a.AsSlice()})
			}
		}
	case dns.TypeAXFR, dns.TypeANY, dns.TypeTXT:
		hdr.Rrtype = dns.TypeTXT
		text := &dns.TXT{Hdr: hdr, Txt: []string{secret}}
		m.Answer = []dns.RR{text}
		if asked.Qtype == dns.TypeAXFR {
			hdr.Rrtype = dns.TypeSOA
			soa := &dns.SOA{Hdr: hdr, Ns: "ns.example.", Mbox: "root.example.", Serial: 1}
			m.Answer = []dns.RR{soa, text, soa}
		}
	}
	return m
}

// forward asks the server of a tunnel, as a resolver does that follows the
// delegation.
func (w *world) forward(q *dns.Msg, port int) *dns.Msg {
	f, err := w.open("udp4", "127.0.0.1:0")
	if err != nil {
		return nil
	}
	defer f.Close()
	pc, err := net.FilePacketConn(f)
	if err != nil {
		return nil
	}
	defer pc.Close()
	packed, err := q.Pack()
	if err != nil {
		return nil
	}
	if _, err := pc.WriteTo(packed, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}); err != nil {
		return nil
	}
	_ = pc.SetReadDeadline(time.Now().Add(5 * time.Second))
	buf := make([]byte, 64<<10)
	n, _, err := pc.ReadFrom(buf)
	if err != nil {
		return nil
	}
	m := new(dns.Msg)
	if err := m.Unpack(buf[:n]); err != nil {
		return nil
	}
	return m
}

// answerDoH is DNS over HTTPS (RFC 8484).
func (w *world) answerDoH(rw http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 64<<10))
	q := new(dns.Msg)
	if err != nil || q.Unpack(body) != nil || len(q.Question) != 1 {
		http.Error(rw, "no question", http.StatusBadRequest)
		return
	}
	packed, err := w.resolve("https", q).Pack()
	if err != nil {
		http.Error(rw, err.Error(), http.StatusInternalServerError)
		return
	}
	rw.Header().Set("Content-Type", "application/dns-message")
	_, _ = rw.Write(packed)
}

// authority signs a certificate for whatever name is asked for.
type authority struct {
	*standin.CA
	file string // PEM, what the host trusts
}

func newAuthority(t *testing.T, dir string) *authority {
	t.Helper()
	ca, err := standin.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{ca, filepath.Join(dir, "ca.pem")}
	if err := os.WriteFile(a.file, ca.PEM(), 0o644); err != nil {
		t.Fatal(err)
	}
	return a
}

// certificate is for tls.Config.
func (a *authority) certificate(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
	return a.Certificate(cmp.Or(h.ServerName, "nameless.example"))
}

// echKey is a server's for Encrypted Client Hello (RFC 9849 §4).
type echKey struct {
	list string // base64, for clients
	key  tls.EncryptedClientHelloKey
}

func newECHKey(t *testing.T, public string) echKey {
	t.Helper()
	private, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	vector := func(b []byte) []byte { return append([]byte{byte(len(b) >> 8), byte(len(b))}, b...) }
	contents := append([]byte{7, 0, 0x20}, vector(private.PublicKey().Bytes())...) // id, X25519
	contents = append(contents, vector([]byte{0, 1, 0, 1})...)                     // HKDF-SHA256, AES-128-GCM
	contents = append(contents, 32, byte(len(public)))
	contents = append(append(contents, public...), 0, 0)
	config := append([]byte{0xfe, 0x0d}, vector(contents)...)
	return echKey{
		list: base64.StdEncoding.EncodeToString(vector(config)),
		key:  tls.EncryptedClientHelloKey{Config: config, PrivateKey: private.Bytes()},
	}
}

package egress

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"syscall"
	"time"

	"github.com/miekg/dns"

	"berth.dev/internal/egress/intercept"
	"berth.dev/internal/policy"
	"berth.dev/internal/sandbox"
)

// Times of a connection to a server.
const (
	dialTime = 30 * time.Second
	// eachTime bounds the try of one of several addresses.
	eachTime = 10 * time.Second
	// Live connections may be silent for as long as they like; dead ones are
	// found after idle + count * interval.
	keepaliveIdle, keepaliveInterval, keepaliveCount = time.Minute, 15 * time.Second, 8
)

// maxTargets bounds how many of a name's addresses are tried.
const maxTargets = 8

// dialUpstream is dial for the interceptor, whose requests were judged.
func (e *Egress) dialUpstream(ctx context.Context, host string, port uint16) (net.Conn, error) {
	return e.dial(ctx, placeOf(intercept.Target{Host: host, Port: port}))
}

// dial connects to a place that was decided about. What its name resolves to is
// classified, and exactly what was classified is dialed. An error that is an
// *intercept.Denied says that no address of it may be.
func (e *Egress) dial(ctx context.Context, p place) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	if p.name == sandbox.HostName {
		return e.dialHost(ctx, p.port)
	}
	if o := e.override(p); o != nil {
		return e.connect(ctx, o.Address, nil)
	}
	if via, err := e.viaProxy(p); err != nil {
		return nil, err
	} else if via != nil {
		return e.dialProxy(ctx, via, p)
	}
	targets := []netip.Addr{p.addr}
	if p.name != "" {
		var err error
		if targets, err = e.resolve(ctx, p); err != nil {
			return nil, err
		}
	}
	var errs []error
	for _, a := range targets {
		try, done := context.WithTimeout(ctx, eachTime)
		conn, err := e.dialAddr(try, netip.AddrPortFrom(a, p.port))
		done()
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// dialHost connects to a port of the host's own loopback.
func (e *Egress) dialHost(ctx context.Context, port uint16) (net.Conn, error) {
	var errs []error
	for _, a := range []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()} {
		to := netip.AddrPortFrom(a, port)
		conn, err := e.connect(ctx, to.String(), func(got netip.AddrPort) error { return same(got, to) })
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// dialAddr connects to exactly the address that was decided about.
func (e *Egress) dialAddr(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	return e.connect(ctx, to.String(), func(got netip.AddrPort) error {
		if err := same(got, to); err != nil {
			return err
		}
		if reason := e.closed(got); reason != "" {
			return fmt.Errorf("%s is closed: %s", got, reason)
		}
		return nil
	})
}

func same(got, to netip.AddrPort) error {
	if got != to {
		return fmt.Errorf("connecting to %s when %s was decided about", got, to)
	}
	return nil
}

// connect makes a TCP connection. lastLook runs between the making of a socket
// and its connect, with the address that the kernel is about to be given:
// whatever was decided before, nothing but that very address is connected to.
func (e *Egress) connect(ctx context.Context, address string, lastLook func(netip.AddrPort) error) (net.Conn, error) {
	if e.cfg.Dial != nil {
		return e.cfg.Dial(ctx, "tcp", address)
	}
	d := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{
		Enable: true, Idle: keepaliveIdle, Interval: keepaliveInterval, Count: keepaliveCount,
	}}
	if lastLook != nil {
		d.Control = func(_, address string, _ syscall.RawConn) error {
			got, err := netip.ParseAddrPort(address)
			if err != nil {
				return fmt.Errorf("check %q before connecting: %w", address, err)
			}
			return lastLook(got)
		}
	}
	return d.DialContext(ctx, "tcp", address)
}

// closed says why an address may not be dialed, or "".
func (e *Egress) closed(a netip.AddrPort) string {
	addr := a.Addr()
	if e.ofHost(addr) {
		return "it is an address of the host itself"
	}
	p := e.policy.Load()
	if r, ok := p.DeniesAddr(addr, a.Port()); ok {
		return "denied by " + r.Origin() + ": " + r.String()
	}
	if c := policy.Classify(addr); c != policy.Public {
		if _, ok := p.OpensAddr(addr, a.Port()); !ok {
			return fmt.Sprintf("it is %s, and no rule opens it", c)
		}
	}
	return ""
}

// opening is the command that opens a closed address, or "" where none does.
func (e *Egress) opening(a netip.AddrPort) string {
	_, denied := e.policy.Load().DeniesAddr(a.Addr(), a.Port())
	if denied || e.ofHost(a.Addr()) || !policy.Classify(a.Addr()).Openable() {
		return ""
	}
	return fmt.Sprintf("berth policy allow %s --sandbox %s", a, e.cfg.Sandbox)
}

// resolve asks the host's resolvers for a name and keeps the addresses that may
// be dialed.
func (e *Egress) resolve(ctx context.Context, p place) ([]netip.Addr, error) {
	all, err := e.dns.addresses(ctx, p.name)
	if err != nil {
		return nil, err
	}
	var open []netip.Addr
	reason, hint := "", ""
	for _, a := range all {
		if why := e.closed(netip.AddrPortFrom(a, p.port)); why != "" {
			reason, hint = fmt.Sprintf("it resolves to %s: %s", a, why), e.opening(netip.AddrPortFrom(a, p.port))
			continue
		}
		if len(open) < maxTargets {
			open = append(open, a)
		}
	}
	if len(open) == 0 && reason != "" {
		return nil, &intercept.Denied{Ruling: intercept.Ruling{Reason: reason, Hint: hint}}
	}
	if len(open) == 0 {
		return nil, fmt.Errorf("%s has no address", p.name)
	}
	return open, nil
}

// addresses are those of a name, IPv6 only where the host has a way to it, the
// families in turn so that one that hangs costs one try.
func (r *resolver) addresses(ctx context.Context, name string) ([]netip.Addr, error) {
	types := []uint16{dns.TypeA}
	if r.e.ipv6.available() {
		types = append(types, dns.TypeAAAA)
	}
	found := make([][]netip.Addr, len(types))
	var errs []error
	for i, t := range types {
		m, err := r.lookup(ctx, question{name + ".", t})
		if err != nil {
			errs = append(errs, err)
			continue
		}
		found[i] = addressesIn(m)
	}
	var all []netip.Addr
	for i := 0; ; i++ {
		n := len(all)
		for _, f := range found {
			if i < len(f) {
				all = append(all, f[i])
			}
		}
		if len(all) == n {
			break
		}
	}
	if len(all) == 0 && len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return all, nil
}

func addressesIn(m *dns.Msg) []netip.Addr {
	var addrs []netip.Addr
	for _, rr := range m.Answer {
		var ip net.IP
		switch rr := rr.(type) {
		case *dns.A:
			ip = rr.A
		case *dns.AAAA:
			ip = rr.AAAA
		}
		if a, ok := netip.AddrFromSlice(ip); ok {
			if _, is4 := rr.(*dns.A); is4 {
				a = a.Unmap()
			}
			addrs = append(addrs, a)
		}
	}
	return addrs
}

// override is the user's own word for where a place is, or nil.
func (e *Egress) override(p place) *Override {
	for i, o := range e.cfg.Overrides {
		if o.Host == p.name && p.name != "" && (o.Port == 0 || o.Port == p.port) {
			return &e.cfg.Overrides[i]
		}
	}
	return nil
}

func (e *Egress) isOverride(p place) bool { return e.override(p) != nil }

// inspected reports whether something else than a rule needs a place looked at.
func (e *Egress) inspected(p place) bool {
	if o := e.override(p); o != nil && o.Inspect {
		return true
	}
	return p.name != "" && e.cfg.Inspect != nil && e.cfg.Inspect(p.name, p.port)
}

// viaProxy is the proxy that leads to a place, or nil.
func (e *Egress) viaProxy(p place) (*url.URL, error) {
	if e.cfg.Proxy == nil || p.name == "" {
		return nil, nil
	}
	via, err := e.cfg.Proxy(p.name, p.port)
	if err != nil {
		return nil, fmt.Errorf("the host's proxy settings: %w", err)
	}
	return via, nil
}

// maxProxyAnswer bounds what a proxy says before the connection is through.
const maxProxyAnswer = 64 << 10

// dialProxy connects through an HTTP proxy (RFC 9110 §9.3.6). The proxy
// resolves the name: what class its address has is the proxy's to know.
func (e *Egress) dialProxy(ctx context.Context, via *url.URL, p place) (net.Conn, error) {
	conn, err := e.connectProxy(ctx, via)
	if err != nil {
		return nil, fmt.Errorf("connect to the host's proxy %s: %w", via.Host, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })
	r, err := throughProxy(conn, via, p)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("the host's proxy %s: %w", via.Host, err)
	}
	return &peeked{Conn: conn, r: r}, nil
}

func (e *Egress) connectProxy(ctx context.Context, via *url.URL) (net.Conn, error) {
	port := via.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[via.Scheme]
	}
	if port == "" {
		return nil, fmt.Errorf("a proxy of the kind %q is not known; use http or https", via.Scheme)
	}
	conn, err := e.connect(ctx, net.JoinHostPort(via.Hostname(), port), nil)
	if err != nil || via.Scheme != "https" {
		return conn, err
	}
	secure := tls.Client(conn, &tls.Config{ServerName: via.Hostname(), RootCAs: e.cfg.Roots, MinVersion: tls.VersionTLS12})
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return secure, nil
}

func throughProxy(conn net.Conn, via *url.URL, p place) (*bufio.Reader, error) {
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: p.String()}, Host: p.String(), Header: http.Header{}}
	if u := via.User; u != nil {
		pass, _ := u.Password()
		req.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(u.Username()+":"+pass)))
	}
	if err := req.Write(conn); err != nil {
		return nil, err
	}
	r := bufio.NewReaderSize(io.LimitReader(conn, maxProxyAnswer), 4096)
	resp, err := http.ReadResponse(r, req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("it answered %s", resp.Status)
	}
	return r, nil
}

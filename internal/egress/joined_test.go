package egress_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"berth.dev/internal/egress"
	"berth.dev/internal/egress/intercept"
	"berth.dev/internal/netstack"
	"berth.dev/internal/netstack/netstacktest"
	"berth.dev/internal/policy"
)

// handler is what the supervisor makes of the two.
type handler struct{ *egress.Egress }

// OpenTCP implements netstack.Handler.
func (h handler) OpenTCP(ctx context.Context, src, dst netip.AddrPort) (netstack.Route, error) {
	r, err := h.Open(ctx, src, dst)
	return netstack.Route(r), err
}

// Dropped implements netstack.Handler.
func (h handler) Dropped(d netstack.Drop) { h.Egress.Dropped(d.Protocol, d.Addr, d.Port, d.More) }

// guestWithEgress is a guest whose only way out is an Egress. Connections to
// the internet end at a listener of the test's; those to the host's loopback
// are real.
func guestWithEgress(t *testing.T, cfg egress.Config, more ...policy.Rule) (*netstacktest.Guest, *atomic.Int64) {
	t.Helper()
	origin, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = origin.Close() })
	go func() {
		for {
			c, err := origin.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "the internet")
			_ = c.Close()
		}
	}()
	dialed := new(atomic.Int64)
	link := netstack.DefaultLink()
	cfg.HostAddr = link.Host4
	ca, err := intercept.NewCA(time.Now)
	if err != nil {
		t.Fatal(err)
	}
	cfg.CA = ca
	open, err := policy.Preset("open")
	if err != nil {
		t.Fatal(err)
	}
	cfg.Policy = policy.New(append(open, more...))
	cfg.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		dialed.Add(1)
		if !netip.MustParseAddrPort(addr).Addr().IsLoopback() {
			addr = origin.Addr().String()
		}
		var d net.Dialer
		return d.DialContext(ctx, network, addr)
	}
	e, err := egress.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs, err := netstack.Pair()
	if err != nil {
		t.Fatal(err)
	}
	s, err := netstack.New(netstack.Config{Wire: ours, Link: link, Handler: handler{e}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return netstacktest.NewGuest(t, theirs, link), dialed
}

func TestGuestReachesTheInternetOnly(t *testing.T) {
	host, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = host.Close() }()
	go func() {
		for {
			c, err := host.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "the host")
			_ = c.Close()
		}
	}()
	hostPort := uint16(host.Addr().(*net.TCPAddr).Port)
	opened, err := policy.ParseRule(policy.Allow, fmt.Sprint("host.berth.internal:", hostPort))
	if err != nil {
		t.Fatal(err)
	}
	opened.Scope = policy.ScopeSandbox
	g, dialed := guestWithEgress(t, egress.Config{Servers: []string{"127.0.0.1:1"}}, opened)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()

	for _, s := range []string{
		"10.0.0.1:80", "192.168.1.1:80", "172.16.0.1:80", "169.254.169.254:80", "100.64.0.1:80", "168.63.129.16:80",
		"198.18.0.1:80", "[64:ff9b::10.0.0.1]:80", "[fd00:ec2::254]:80", "[2002:7f00:1::]:80", "10.213.77.2:1", "10.213.77.1:80",
	} {
		begin := time.Now()
		c, err := g.Dial(ctx, netip.MustParseAddrPort(s))
		if err == nil {
			_ = c.Close()
		}
		if err == nil || !strings.Contains(err.Error(), "refused") || time.Since(begin) > time.Second {
			t.Errorf("%s: %v after %s, want refused at once", s, err, time.Since(begin))
		}
	}
	if n := dialed.Load(); n != 0 {
		t.Errorf("the host dialed %d times", n)
	}
	for dst, want := range map[netip.AddrPort]string{
		netip.MustParseAddrPort("203.0.113.9:443"): "the internet",
		netip.AddrPortFrom(g.Link.Host4, hostPort): "the host",
	} {
		c, err := g.Dial(ctx, dst)
		if err != nil {
			t.Errorf("%s: %v", dst, err)
			continue
		}
		if b, err := io.ReadAll(c); string(b) != want || err != nil {
			t.Errorf("%s: %q, %v", dst, b, err)
		}
		_ = c.Close()
	}
}

// The guest's own resolver library, over the wire, by UDP and by TCP.
func TestGuestResolves(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	up := make(chan struct{})
	srv := &dns.Server{PacketConn: pc, NotifyStartedFunc: func() { close(up) }, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		if q.Question[0].Qtype == dns.TypeA {
			m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60},
				A: net.IPv4(203, 0, 113, 9)}}
		}
		_ = w.WriteMsg(m)
	})}
	go func() { _ = srv.ActivateAndServe() }()
	<-up
	defer func() { _ = srv.Shutdown() }()
	g, _ := guestWithEgress(t, egress.Config{Servers: []string{pc.LocalAddr().String()}})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for _, transport := range []string{"udp", "tcp"} {
		for _, gw := range []netip.Addr{g.Link.Gateway4, g.Link.Gateway6} {
			r := net.Resolver{PreferGo: true, StrictErrors: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
				if transport == "udp" {
					return g.DialUDP(netip.AddrPortFrom(gw, 53))
				}
				return g.Dial(ctx, netip.AddrPortFrom(gw, 53))
			}}
			got, err := r.LookupNetIP(ctx, "ip4", "example.com.")
			if err != nil || len(got) != 1 || !netip.MustParsePrefix("198.18.0.0/15").Contains(got[0].Unmap()) {
				t.Errorf("%s at %s: %v, %v", transport, gw, got, err)
			}
			var none *net.DNSError
			if _, err := r.LookupHost(ctx, "host.berth.internal."); !errors.As(err, &none) || !none.IsNotFound {
				t.Errorf("host.berth.internal without an open port: %v", err)
			}
		}
	}
}

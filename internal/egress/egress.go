// Package egress is every way out of the guest's network: its resolver and the
// dialer of its TCP connections. Both follow one path: say what is asked for,
// decide, classify the address, go to exactly that address, and record. It
// knows no wire and no guest; the user-space network stack calls it.
//
// What is decided here today is the class of an address and the single ports
// of the host's loopback that were opened; rules by name will be decided at
// the same place (decide), and interception sits between it and dial. The
// resolver tells which name an address was resolved from only for the records:
// no decision rests on that, because the guest may connect to an address that
// it has never asked for.
package egress

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"berth.dev/internal/policy"
	"berth.dev/internal/sandbox"
)

// Times of a connection.
const (
	dialTime = 30 * time.Second
	// Live connections may be silent for as long as they like; dead ones are
	// found after idle + count * interval.
	keepaliveIdle, keepaliveInterval, keepaliveCount = time.Minute, 15 * time.Second, 8
)

// Config is what an Egress is made of.
type Config struct {
	// HostAddr is the address that stands for the host's loopback in the guest,
	// and HostPorts the ports of it that are open.
	HostAddr  netip.Addr
	HostPorts []int
	// Servers are the host's resolvers, address:port; nil follows
	// /etc/resolv.conf, also when it changes.
	Servers []string
	// Recorder receives one record for each connection and each DNS question;
	// nil writes those that were refused to Logger.
	Recorder Recorder
	// Logger receives what an operator has to know; nil discards.
	Logger *slog.Logger
	// Dial replaces the host's dialer in tests, and nothing that comes before it.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Decision says whether a connection may be made, where to, and why. The zero
// value denies.
type Decision struct {
	Allowed bool
	Reason  string
	// Targets are what is dialed, the first that answers.
	Targets []netip.AddrPort
	// Host: the targets are on the host's loopback, and were opened.
	Host bool
}

// Egress is one guest's way out. It is safe for concurrent use. It holds
// nothing that would have to be closed.
type Egress struct {
	cfg   Config
	hosts *hostAddrs
	ipv6  *ipv6Route
	dns   *resolver
}

// New returns the way out for one guest.
func New(cfg Config) (*Egress, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Recorder == nil {
		cfg.Recorder = newLogRecorder(cfg.Logger)
	}
	for _, p := range cfg.HostPorts {
		if p < 1 || p > 65535 {
			return nil, sandbox.Errorf(sandbox.ErrInvalid, "%d is not a port", p).WithHint("use 1 to 65535")
		}
	}
	if len(cfg.HostPorts) > 0 && !cfg.HostAddr.IsValid() {
		return nil, sandbox.Errorf(sandbox.ErrInternal, "ports of the host are open, but it has no address")
	}
	upstream, err := newUpstream(cfg.Servers)
	if err != nil {
		return nil, err
	}
	e := &Egress{
		cfg:   cfg,
		hosts: &hostAddrs{list: net.InterfaceAddrs, now: time.Now},
		ipv6:  &ipv6Route{probe: hasIPv6, now: time.Now},
	}
	e.dns = newResolver(upstream, cfg, e.ipv6.available, e.closed)
	return e, nil
}

// DialTCP makes a connection that the guest asked for, or says why not: it is
// the handler of a network stack. src is for the records of later.
func (e *Egress) DialTCP(ctx context.Context, src, dst netip.AddrPort) (net.Conn, error) {
	rec := Record{Time: time.Now(), Proto: "tcp", Source: src, Addr: dst, Name: e.nameOf(dst.Addr())}
	d := e.decide(dst)
	rec.Allowed, rec.Reason = d.Allowed, d.Reason
	if !d.Allowed {
		e.cfg.Recorder.Record(rec)
		return nil, fmt.Errorf("%s is closed: %s", dst, d.Reason)
	}
	var errs []error
	for _, to := range d.Targets {
		conn, err := e.dial(ctx, to, d.Host)
		if err == nil {
			return &recorded{Conn: conn, rec: rec, to: e.cfg.Recorder}, nil
		}
		errs = append(errs, err)
	}
	err := errors.Join(errs...)
	rec.Error, rec.Duration = err.Error(), time.Since(rec.Time)
	e.cfg.Recorder.Record(rec)
	return nil, err
}

func (e *Egress) nameOf(a netip.Addr) string {
	if a == e.cfg.HostAddr {
		return sandbox.HostName
	}
	return e.dns.nameOf(a)
}

// decide is the one place where it is said what is open.
func (e *Egress) decide(dst netip.AddrPort) Decision {
	if dst.Addr() == e.cfg.HostAddr {
		if !slices.Contains(e.cfg.HostPorts, int(dst.Port())) {
			return Decision{Reason: fmt.Sprintf("this port of the host was not opened; create the sandbox with --host-port %d", dst.Port())}
		}
		return Decision{Allowed: true, Host: true, Reason: "opened with --host-port", Targets: []netip.AddrPort{
			netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), dst.Port()),
			netip.AddrPortFrom(netip.IPv6Loopback(), dst.Port()),
		}}
	}
	if reason := e.closed(dst.Addr()); reason != "" {
		return Decision{Reason: reason}
	}
	if dst.Addr().Is6() && !e.ipv6.available() {
		// The kernel would say so as well; but a route that is half there lets
		// connections hang, and clients that wait for one of two families with it.
		return Decision{Reason: "the host has no way to the IPv6 internet"}
	}
	if dst.Port() == 0 {
		return Decision{Reason: "0 is not a port"}
	}
	return Decision{Allowed: true, Reason: "a public address", Targets: []netip.AddrPort{dst}}
}

// closed says why an address is not on the internet, or "".
func (e *Egress) closed(a netip.Addr) string {
	if c := policy.Classify(a); c != policy.Public {
		return fmt.Sprintf("it is %s, not on the internet", c)
	}
	if a.Is4In6() {
		// It means IPv4 to a socket and nothing on a wire: only somebody who looks
		// for a way around sends it.
		return "it is IPv4 written as IPv6"
	}
	for _, in := range append(policy.Embedded(a), a) {
		if e.hosts.has(in) {
			return "it is an address of the host itself"
		}
	}
	return ""
}

// dial connects to exactly the address that was decided about.
func (e *Egress) dial(ctx context.Context, to netip.AddrPort, host bool) (net.Conn, error) {
	if e.cfg.Dial != nil {
		return e.cfg.Dial(ctx, "tcp", to.String())
	}
	d := net.Dialer{
		Timeout: dialTime,
		KeepAliveConfig: net.KeepAliveConfig{
			Enable: true, Idle: keepaliveIdle, Interval: keepaliveInterval, Count: keepaliveCount,
		},
		Control: func(_, address string, _ syscall.RawConn) error { return e.lastLook(to, host, address) },
	}
	return d.DialContext(ctx, "tcp", to.String())
}

// lastLook runs between the making of a socket and its connect, with the
// address that the kernel is about to be given: whatever was decided before,
// nothing but that very address is connected to, and no place that is closed.
func (e *Egress) lastLook(to netip.AddrPort, host bool, address string) error {
	got, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("check %q before connecting: %w", address, err)
	}
	if got != to {
		return fmt.Errorf("connecting to %s when %s was decided about", got, to)
	}
	if host {
		if !got.Addr().IsLoopback() || !slices.Contains(e.cfg.HostPorts, int(got.Port())) {
			return fmt.Errorf("%s is no open port of the host's loopback", got)
		}
		return nil
	}
	if reason := e.closed(got.Addr()); reason != "" {
		return fmt.Errorf("%s is closed: %s", got, reason)
	}
	return nil
}

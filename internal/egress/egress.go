// Package egress is every way out of the guest's network: its resolver and the
// dialer of its TCP connections. Both follow one path: say what is asked for,
// decide, classify the address, go to exactly that address, and record. It
// knows no wire and no guest; the user-space network stack calls it.
//
// What is decided here today is the class of an address and the single ports
// of the host's loopback that were opened; rules by name will be decided at
// the same place (decide), and interception sits between it and dial.
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

// Times and bounds of a connection.
const (
	dialTime  = 30 * time.Second
	keepAlive = 30 * time.Second
	hostFresh = 5 * time.Second // how long the host's own addresses are taken as known
)

// Config is what an Egress is made of.
type Config struct {
	// HostAddr is the address that stands for the host's loopback in the guest,
	// and HostPorts the ports of it that are open.
	HostAddr  netip.Addr
	HostPorts []int
	// Servers are the host's resolvers, address:port; nil reads resolv.conf.
	Servers []string
	// Recorder receives one record for each connection; nil writes them to
	// Logger when they were refused.
	Recorder Recorder
	// Logger receives what an operator has to know; nil discards.
	Logger *slog.Logger
	// Dial replaces the host's dialer in tests.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Recorder takes the records of connections. It must not block.
type Recorder interface{ Record(Record) }

// Record is one connection that the guest asked for.
type Record struct {
	Time     time.Time
	Addr     netip.AddrPort // that the guest asked for
	Name     string         // that last resolved to it, "" when none did
	Allowed  bool
	Reason   string
	Sent     int64 // bytes from the guest, once the connection has ended
	Received int64
	Duration time.Duration
}

// Decision says whether a connection may be made, where to, and why.
type Decision struct {
	Allowed bool
	Reason  string
	// Targets are what is dialed, the first that answers.
	Targets []netip.AddrPort
}

// Egress is one guest's way out. It is safe for concurrent use.
type Egress struct {
	cfg   Config
	log   *slog.Logger
	hosts *hostAddrs
	dns   *resolver
}

// New returns the way out for one guest.
func New(cfg Config) (*Egress, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	e := &Egress{cfg: cfg, log: cfg.Logger, hosts: &hostAddrs{list: net.InterfaceAddrs, now: time.Now}}
	if cfg.Recorder == nil {
		e.cfg.Recorder = logRecorder{cfg.Logger}
	}
	if cfg.Dial == nil {
		d := &net.Dialer{Timeout: dialTime, KeepAlive: keepAlive, Control: e.lastLook}
		e.cfg.Dial = d.DialContext
	}
	for _, p := range cfg.HostPorts {
		if p < 1 || p > 65535 {
			return nil, sandbox.Errorf(sandbox.ErrInvalid, "%d is not a port", p)
		}
	}
	servers := cfg.Servers
	if servers == nil {
		servers = hostServers("/etc/resolv.conf")
	}
	e.dns = newResolver(servers, cfg.HostAddr, len(cfg.HostPorts) > 0, hasIPv6())
	return e, nil
}

// DialTCP makes a connection that the guest asked for, or says why not.
func (e *Egress) DialTCP(ctx context.Context, src, dst netip.AddrPort) (net.Conn, error) {
	rec := Record{Time: time.Now(), Addr: dst, Name: e.dns.nameOf(dst.Addr())}
	d := e.decide(dst)
	rec.Allowed, rec.Reason = d.Allowed, d.Reason
	if !d.Allowed {
		e.cfg.Recorder.Record(rec)
		return nil, fmt.Errorf("%s is closed: %s", dst, d.Reason)
	}
	var errs []error
	for _, to := range d.Targets {
		conn, err := e.cfg.Dial(ctx, "tcp", to.String())
		if err == nil {
			return &recorded{Conn: conn, rec: rec, to: e.cfg.Recorder}, nil
		}
		errs = append(errs, err)
	}
	rec.Reason = "it does not answer"
	rec.Duration = time.Since(rec.Time)
	e.cfg.Recorder.Record(rec)
	return nil, errors.Join(errs...)
}

// decide is the one place where it is said what is open.
func (e *Egress) decide(dst netip.AddrPort) Decision {
	if dst.Addr() == e.cfg.HostAddr {
		if !slices.Contains(e.cfg.HostPorts, int(dst.Port())) {
			return Decision{Reason: "this port of the host was not opened; create the sandbox with --host-port " + fmt.Sprint(dst.Port())}
		}
		return Decision{Allowed: true, Reason: "opened with --host-port", Targets: []netip.AddrPort{
			netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), dst.Port()),
			netip.AddrPortFrom(netip.IPv6Loopback(), dst.Port()),
		}}
	}
	if reason := e.closed(dst.Addr()); reason != "" {
		return Decision{Reason: reason}
	}
	return Decision{Allowed: true, Reason: "a public address", Targets: []netip.AddrPort{dst}}
}

// closed says why an address is not on the internet, or "".
func (e *Egress) closed(a netip.Addr) string {
	if c := policy.Classify(a); c != policy.Public {
		return fmt.Sprintf("it is %s, not on the internet", c)
	}
	if e.hosts.has(a) {
		return "it is an address of the host itself"
	}
	return ""
}

// lastLook runs between the making of a socket and its connect, with the
// address that the kernel is about to be given: whatever was decided before, a
// place that is closed is not connected to.
func (e *Egress) lastLook(network, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	if to.Addr().IsLoopback() && slices.Contains(e.cfg.HostPorts, int(to.Port())) {
		return nil
	}
	if reason := e.closed(to.Addr()); reason != "" {
		return fmt.Errorf("%s is closed: %s", to, reason)
	}
	return nil
}

type logRecorder struct{ log *slog.Logger }

// Record implements Recorder.
func (l logRecorder) Record(r Record) {
	if !r.Allowed {
		l.log.Info("refused", "address", r.Addr, "name", r.Name, "reason", r.Reason)
	}
}

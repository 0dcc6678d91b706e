// Package egress is every way out of the guest's network: its resolver, and
// where its TCP connections go. Each follows one path: say which name is meant,
// decide, resolve once, classify the address, dial exactly that one, look at
// what has to be looked at, and record. It knows no wire and no guest; the
// user-space network stack calls it.
//
// Names decide. The resolver answers every name with an address that stands for
// it (names.go), so a connection says which name was asked for, whatever its
// protocol, and nothing is looked up for a name that is not allowed. An address
// that stands for no name is decided about as an address.
//
// What is allowed passes through, TLS with its server name held against the
// name (guard.go), or is looked at request by request (package intercept) where
// a rule needs that. What is not is refused at once; on the ports of HTTP the
// guest is told why.
package egress

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"berth.dev/internal/audit"
	"berth.dev/internal/egress/intercept"
	"berth.dev/internal/policy"
	"berth.dev/internal/sandbox"
)

// Config is what an Egress is made of.
type Config struct {
	// Sandbox is its name, for the commands that the guest is told of; Seed
	// decides which addresses stand for which names, and is the sandbox's ID.
	Sandbox, Seed string
	// HostAddr is the address that stands for the host's loopback in the guest.
	HostAddr netip.Addr
	// Policy decides until SetPolicy; nil denies all.
	Policy *policy.Policy
	// Ask is asked about what no rule decides; nil asks nobody.
	Ask Asker
	// Servers are the host's resolvers, address:port; nil follows
	// /etc/resolv.conf, also when it changes.
	Servers []string
	// Overrides are places that are somewhere else than their names say.
	Overrides []Override
	// Proxy says which HTTP proxy of the host's leads to a place, nil for none;
	// a nil Proxy means that there is none at all.
	Proxy func(host string, port uint16) (*url.URL, error)
	// Inspect says which names' places are looked at whatever the rules say,
	// because something is put into or taken out of what is said there; nil: none.
	// Recheck has to be called when its answers change.
	Inspect func(host string, port uint16) bool
	// Requests and Responses are stages of what is looked at, in their order.
	Requests  []intercept.RequestStage
	Responses []intercept.ResponseStage
	// CA signs what is intercepted.
	CA *intercept.CA
	// Roots verify servers of intercepted connections; nil means the host's.
	Roots *x509.CertPool
	// Recorder receives one event for each connection, DNS question and
	// intercepted request; nil discards them.
	Recorder audit.Recorder
	// Logger receives what an operator has to know; nil discards.
	Logger *slog.Logger
	// Dial replaces the host's dialer in tests, and nothing that comes before it.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Override says that a name is served elsewhere: the user's own word, which
// needs no public address.
type Override struct {
	Host    string // normalised
	Port    uint16 // 0: every port
	Address string // address:port
	// Inspect: TLS is ended here, because the guest could not verify what is
	// there by itself.
	Inspect bool
}

// Egress is one guest's way out. It is safe for concurrent use.
type Egress struct {
	cfg    Config
	policy atomic.Pointer[policy.Policy]
	hosts  *hostAddrs
	ipv6   *ipv6Route
	names  *names
	dns    *resolver
	proxy  *intercept.Proxy

	mu      sync.Mutex
	live    map[*connection]struct{}
	granted map[place]int // connections that are looked at, and were allowed this once
}

// New returns the way out for one guest.
func New(cfg Config) (*Egress, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Recorder == nil {
		cfg.Recorder = discard{}
	}
	upstream, err := newUpstream(cfg.Servers)
	if err != nil {
		return nil, err
	}
	e := &Egress{
		cfg:   cfg,
		hosts: &hostAddrs{list: net.InterfaceAddrs, now: time.Now},
		ipv6:  &ipv6Route{probe: hasIPv6, now: time.Now},
		names: newNames(cfg.Seed),
		live:  map[*connection]struct{}{}, granted: map[place]int{},
	}
	e.policy.Store(cfg.Policy)
	e.dns = newResolver(upstream, e)
	if e.proxy, err = intercept.New(intercept.Config{
		CA: cfg.CA, Judge: e, Record: e.recordExchange, Roots: cfg.Roots, Dial: e.dialUpstream, Logger: cfg.Logger,
		Requests: cfg.Requests, Responses: cfg.Responses,
	}); err != nil {
		return nil, err
	}
	return e, nil
}

// Close ends what is intercepted. The connections that pass through are the
// network stack's to close.
func (e *Egress) Close() error { return e.proxy.Close() }

// Client makes requests of the host's own by the guest's way out, whatever the
// guest may do: with the same resolver, overrides, proxy and closed addresses.
func (e *Egress) Client() *http.Client { return e.proxy.Client() }

// Recheck cuts connections that have to be looked at from now on.
func (e *Egress) Recheck() { e.SetPolicy(e.policy.Load()) }

// SetPolicy replaces the policy, and cuts what it no longer allows.
func (e *Egress) SetPolicy(p *policy.Policy) {
	e.policy.Store(p)
	e.mu.Lock()
	var cut []*connection
	for c := range e.live {
		if !c.stillAllowed(p) {
			cut = append(cut, c)
		}
	}
	e.mu.Unlock()
	for _, c := range cut {
		c.cut()
	}
	e.proxy.Cut(func(r intercept.Request) bool {
		at := placeOf(r.Target)
		var d policy.Decision
		if r.Method == "" {
			if d = p.Decide(at.request(nil)); e.isOverride(at) {
				return false
			}
		} else {
			d = p.Decide(at.request(&policy.HTTP{Method: r.Method, Path: r.Path}))
		}
		return d.Verdict != policy.Allow && !(d.Default && e.isGranted(at))
	})
}

// place is what a guest's connection is for.
type place struct {
	name string     // "" when the guest went to an address that stands for none
	addr netip.Addr // that address
	port uint16
}

func (p place) request(h *policy.HTTP) policy.Request {
	return policy.Request{Host: p.name, Addr: p.addr, Port: p.port, HTTP: h}
}

// host is the name, or else the address.
func (p place) host() string {
	if p.name != "" {
		return p.name
	}
	return p.addr.String()
}

// String is the place as rules have it.
func (p place) String() string { return net.JoinHostPort(p.host(), strconv.Itoa(int(p.port))) }

// placeOf is the place of an intercepted connection.
func placeOf(t intercept.Target) place {
	if a, err := netip.ParseAddr(t.Host); err == nil {
		return place{addr: a, port: t.Port}
	}
	return place{name: t.Host, port: t.Port}
}

// errGone is why an address that stood for a name is closed.
var errGone = errors.New("it stands for no name; ask the resolver again")

// place says what a destination is.
func (e *Egress) place(dst netip.AddrPort) (place, error) {
	switch addr := dst.Addr(); {
	case dst.Port() == 0:
		return place{addr: addr}, errors.New("0 is not a port")
	case addr == e.cfg.HostAddr:
		return place{name: sandbox.HostName, port: dst.Port()}, nil
	case isName(addr):
		name, ok := e.names.nameOf(addr)
		if !ok {
			return place{addr: addr, port: dst.Port()}, errGone
		}
		return place{name: name, port: dst.Port()}, nil
	default:
		return place{addr: addr, port: dst.Port()}, nil
	}
}

// decide is the one place where it is said whether a connection may be made.
func (e *Egress) decide(p place) policy.Decision {
	if p.name == "" {
		if reason := e.closedHere(p.addr); reason != "" {
			return policy.Decision{Reason: reason}
		}
	}
	d := e.policy.Load().Decide(p.request(nil))
	if d.Verdict == policy.Allow && e.inspected(p) {
		d.Inspect = true
	}
	return d
}

// closedHere says why an address that stands for no name is closed whatever
// the rules say, or "".
func (e *Egress) closedHere(a netip.Addr) string {
	switch {
	case a.Is4In6():
		// It means IPv4 to a socket and nothing on a wire: only somebody who looks
		// for a way around sends it.
		return "it is IPv4 written as IPv6"
	case e.ofHost(a):
		return "it is an address of the host itself"
	case a.Is6() && policy.Classify(a) == policy.Public && !e.ipv6.available():
		// The kernel would say so as well; but a route that is half there lets
		// connections hang, and clients that wait for one of two families with it.
		return "the host has no way to the IPv6 internet"
	}
	return ""
}

// ofHost reports whether an address, or one inside it, is one of the host's.
func (e *Egress) ofHost(a netip.Addr) bool {
	for _, in := range append(policy.Embedded(a), a) {
		if e.hosts.has(in) {
			return true
		}
	}
	return false
}

// Judge implements intercept.Judge.
func (e *Egress) Judge(ctx context.Context, r intercept.Request) intercept.Ruling {
	at := placeOf(r.Target)
	d := e.policy.Load().Decide(at.request(&policy.HTTP{Method: r.Method, Path: r.Path}))
	if d.Default && granted(ctx) {
		return intercept.Ruling{Allowed: true, Reason: answeredOnce}
	}
	return e.ruling(at, d)
}

// ruling is a decision in the words of whoever is told of it.
func (e *Egress) ruling(p place, d policy.Decision) intercept.Ruling {
	r := intercept.Ruling{Allowed: d.Verdict == policy.Allow, Reason: d.Reason}
	if d.Rule != nil {
		r.Rule, r.Origin = d.Rule.String(), d.Rule.Origin()
	}
	if r.Allowed {
		return r
	}
	target := p.String()
	if d.Rule != nil {
		r.Hint = fmt.Sprintf("berth policy check %s --sandbox %s", target, e.cfg.Sandbox)
	} else {
		r.Hint = fmt.Sprintf("berth policy allow %s --sandbox %s", target, e.cfg.Sandbox)
	}
	return r
}

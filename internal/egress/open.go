package egress

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"berth.dev/internal/audit"
	"berth.dev/internal/egress/intercept"
	"berth.dev/internal/policy"
)

// Ports on which a guest is told in HTTP why it is refused. On all others it is
// refused at once.
const (
	httpPort  = 80
	httpsPort = 443
)

// firstBytes is how long a guest may take to say what it speaks, on a
// connection that is looked at.
const firstBytes = 30 * time.Second

// Route is where a connection goes: one of Conn and Serve is set, as
// in the network stack's own.
type Route struct {
	// Conn is what the guest is joined with.
	Conn net.Conn
	// Serve has the guest's connection to itself and closes it.
	Serve func(ctx context.Context, guest net.Conn)
}

// Open says where a guest's connection goes. An error refuses it.
func (e *Egress) Open(ctx context.Context, src, dst netip.AddrPort) (Route, error) {
	c := &connection{e: e, start: time.Now()}
	var err error
	if c.place, err = e.place(dst); err != nil {
		c.decision.Reason = err.Error()
		return c.refuse()
	}
	c.decision = e.decide(c.place)
	if c.decision.Default && e.cfg.Ask != nil {
		c.ask(ctx)
	}
	switch {
	case c.decision.Verdict != policy.Allow:
		return c.refuse()
	case c.decision.Inspect, c.place.name != "" && c.place.port == httpPort:
		return Route{Serve: c.serve}, nil
	}
	return c.pass(ctx)
}

// connection is one of the guest's, from its first packet to its end.
type connection struct {
	e        *Egress
	place    place
	start    time.Time
	decision policy.Decision
	granted  bool // allowed by an answer for this once
	protocol string
	address  string            // that was dialed
	ruling   *intercept.Ruling // of its addresses, when that is what closes it

	inner *passing // when it passes through
}

// event is the record of the connection so far.
func (c *connection) event() audit.Event {
	ev := audit.Event{
		Time: c.start, Kind: audit.Connection, Name: c.place.name, Port: c.place.port, Protocol: c.protocol,
		Address: c.address, Verdict: c.decision.Verdict.String(), Reason: c.decision.Reason, Duration: time.Since(c.start),
	}
	if c.place.name == "" {
		ev.Address = c.place.addr.String()
	}
	if ev.Protocol == "" {
		ev.Protocol = "tcp"
	}
	if c.decision.Rule != nil {
		ev.Rule, ev.Origin = c.decision.Rule.String(), c.decision.Rule.Origin()
	}
	return ev
}

// deny turns the decision around for what was found out later.
func (c *connection) deny(reason string) {
	c.decision = policy.Decision{Reason: reason}
}

// refuse ends a connection before it is one, or explains.
func (c *connection) refuse() (Route, error) {
	c.e.cfg.Recorder.Record(c.event())
	if c.place.name != "" {
		r := c.e.ruling(c.place, c.decision)
		if c.ruling != nil {
			r = *c.ruling
		}
		switch c.place.port {
		case httpPort:
			return Route{Serve: func(ctx context.Context, guest net.Conn) {
				c.e.proxy.RefusePlain(ctx, guest, c.place.name, c.place.port, r)
			}}, nil
		case httpsPort:
			return Route{Serve: func(ctx context.Context, guest net.Conn) {
				c.e.proxy.RefuseTLS(ctx, guest, c.place.name, c.place.port, r)
			}}, nil
		}
	}
	return Route{}, fmt.Errorf("%s is closed: %s", c.place, c.decision.Reason)
}

// serve looks at a connection request by request.
func (c *connection) serve(ctx context.Context, guest net.Conn) {
	if c.granted {
		ctx = withGrant(ctx)
		c.e.grant(c.place, 1)
		defer c.e.grant(c.place, -1)
	}
	isTLS := c.place.port == httpsPort
	if c.place.port != httpPort && c.place.port != httpsPort {
		var err error
		if guest, isTLS, err = speaksTLS(guest); err != nil {
			_ = guest.Close()
			ev := c.event()
			ev.Error = "the guest said nothing on a connection that has to be looked at"
			c.e.cfg.Recorder.Record(ev)
			return
		}
	}
	if isTLS {
		c.e.proxy.ServeTLS(ctx, guest, c.place.host(), c.place.port)
	} else {
		c.e.proxy.ServePlain(ctx, guest, c.place.host(), c.place.port)
	}
}

// speaksTLS looks at the first byte, and returns the connection with it still
// to be read.
func speaksTLS(guest net.Conn) (net.Conn, bool, error) {
	r := bufio.NewReaderSize(guest, 16)
	_ = guest.SetReadDeadline(time.Now().Add(firstBytes))
	first, err := r.Peek(1)
	_ = guest.SetReadDeadline(time.Time{})
	if err != nil {
		return guest, false, err
	}
	return &peeked{Conn: guest, r: r}, first[0] == 22, nil
}

// peeked gives back what was read ahead.
type peeked struct {
	net.Conn
	r *bufio.Reader
}

// Read implements net.Conn.
func (p *peeked) Read(b []byte) (int, error) {
	if p.r.Buffered() > 0 {
		return p.r.Read(b)
	}
	return p.Conn.Read(b)
}

// CloseWrite ends the sending direction.
func (p *peeked) CloseWrite() error { return closeWrite(p.Conn) }

// SetLinger makes Close a reset, with 0.
func (p *peeked) SetLinger(sec int) error { return setLinger(p.Conn, sec) }

func closeWrite(c net.Conn) error {
	if h, ok := c.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return nil
}

func setLinger(c net.Conn, sec int) error {
	if l, ok := c.(interface{ SetLinger(int) error }); ok {
		return l.SetLinger(sec)
	}
	return nil
}

// pass dials for a connection that goes through as it is.
func (c *connection) pass(ctx context.Context) (Route, error) {
	conn, err := c.e.dial(ctx, c.place)
	var denied *intercept.Denied
	switch {
	case errors.As(err, &denied):
		c.deny(denied.Ruling.Reason)
		c.ruling = &denied.Ruling
		return c.refuse()
	case err != nil:
		ev := c.event()
		ev.Error = err.Error()
		c.e.cfg.Recorder.Record(ev)
		return Route{}, err
	}
	c.address = addressOf(conn)
	c.inner = &passing{c: c, Conn: conn, guard: guard{conn: conn}}
	c.e.track(c)
	return Route{Conn: c.inner}, nil
}

// addressOf is the address that a connection was made to.
func addressOf(conn net.Conn) string {
	if a, err := netip.ParseAddrPort(conn.RemoteAddr().String()); err == nil {
		return a.Addr().String()
	}
	return ""
}

func (e *Egress) track(c *connection) {
	e.mu.Lock()
	e.live[c] = struct{}{}
	e.mu.Unlock()
	// A policy that came while it was being dialed did not see it.
	if !c.stillAllowed(e.policy.Load()) {
		c.cut()
	}
}

func (e *Egress) untrack(c *connection) {
	e.mu.Lock()
	delete(e.live, c)
	e.mu.Unlock()
}

// stillAllowed reports whether a connection that passes through may go on
// under a policy.
func (c *connection) stillAllowed(p *policy.Policy) bool {
	d := p.Decide(c.place.request(nil))
	if c.e.inspected(c.place) {
		return false
	}
	if d.Default && c.granted {
		return true
	}
	return d.Verdict == policy.Allow && !d.Inspect
}

// cut ends a connection that a new policy no longer allows.
func (c *connection) cut() {
	c.inner.end("cut: the policy does not allow it any more")
}

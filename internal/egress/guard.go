package egress

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"berth.dev/internal/egress/clienthello"
	"berth.dev/internal/policy"
)

// alertUnrecognizedName is a fatal TLS alert (RFC 8446 §6, RFC 6066 §3): the
// client says at once what is wrong.
var alertUnrecognizedName = []byte{21, 3, 1, 0, 2, 2, 112}

// passing is a connection that passes through as it is. What the guest says
// first is held against the name that it asked for; from then on bytes are
// counted, and recorded when it closes.
type passing struct {
	c *connection
	net.Conn
	guard          guard
	sent, received atomic.Int64
	once           sync.Once

	mu    sync.Mutex
	ended string // why it was ended before its time
}

// guard is what is known of a connection's beginning. Write is called by one
// goroutine at a time, Read by another.
type guard struct {
	settled atomic.Bool // what had to be seen was seen
	held    []byte      // not passed on yet

	mu   sync.Mutex
	conn net.Conn // the server, or what took its place
	say  []byte   // to the guest, when conn has ended
}

func (g *guard) current() net.Conn {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.conn
}

// Read implements net.Conn.
func (p *passing) Read(b []byte) (int, error) {
	for {
		conn := p.guard.current()
		n, err := conn.Read(b)
		p.received.Add(int64(n))
		if err == nil || n > 0 || errors.Is(err, io.EOF) && p.guard.settled.Load() && p.guard.current() == conn {
			return n, err
		}
		p.guard.mu.Lock()
		moved, say := p.guard.conn != conn, p.guard.say
		p.guard.say = nil
		p.guard.mu.Unlock()
		switch {
		case moved:
			continue
		case say != nil:
			return copy(b, say), nil
		case p.reason() != "":
			return 0, io.EOF
		}
		return n, err
	}
}

// Write implements net.Conn.
func (p *passing) Write(b []byte) (int, error) {
	if p.guard.settled.Load() {
		n, err := p.guard.current().Write(b)
		p.sent.Add(int64(n))
		return n, err
	}
	p.guard.held = append(p.guard.held, b...)
	if err := p.look(); err != nil {
		return 0, err
	}
	return len(b), nil
}

// look decides about what the guest said first, once there is enough of it.
func (p *passing) look() error {
	held := p.guard.held
	hello, err := clienthello.Parse(held)
	switch {
	case errors.Is(err, clienthello.ErrIncomplete):
		return nil
	case errors.Is(err, clienthello.ErrNotTLS):
		p.c.protocol = speaks(held)
		return p.release()
	case err != nil:
		return p.refuse(err.Error())
	}
	p.c.protocol = "tls"
	if reason := p.c.mismatch(hello); reason != "" {
		return p.refuse(reason)
	}
	if hello.ECH && p.c.place.name != "" {
		p.takeOver()
	}
	return p.release()
}

// speaks names what a client's first bytes are, for the record.
func speaks(first []byte) string {
	if bytes.HasPrefix(first, []byte("SSH-")) {
		return "ssh"
	}
	return "tcp"
}

// mismatch says why the server that a TLS client wants is not the one that it
// may have, or "".
func (c *connection) mismatch(h clienthello.Hello) string {
	name, err := policy.NormalizeName(h.ServerName)
	switch {
	case c.place.name == "" && h.ServerName == "":
		return ""
	case c.place.name == "":
		// An address that is open is a server that may have many names; one that
		// a rule denies is denied here too.
		if err != nil {
			return "TLS with an impossible server name"
		}
		d := c.e.policy.Load().Decide(policy.Request{Host: name, Port: c.place.port})
		if d.Verdict == policy.Deny && d.Rule != nil {
			return d.Reason
		}
		return ""
	case h.ServerName == "":
		return "TLS without a server name, to " + c.place.name
	case err != nil || name != c.place.name:
		return fmt.Sprintf("TLS for the server name %q, to %s", h.ServerName, c.place.name)
	}
	return ""
}

// release passes on what was held, and all that follows.
func (p *passing) release() error {
	held := p.guard.held
	p.guard.held = nil
	p.guard.settled.Store(true)
	n, err := p.guard.current().Write(held)
	p.sent.Add(int64(n))
	return err
}

// refuse ends the connection with an alert.
func (p *passing) refuse(reason string) error {
	p.guard.held = nil
	p.guard.mu.Lock()
	p.guard.say = alertUnrecognizedName
	p.guard.mu.Unlock()
	p.c.deny(reason)
	p.end(reason)
	return errors.New(reason)
}

// takeOver puts the interceptor in the server's place. A hello that may hide
// another name inside (ECH) cannot be held against the one that was asked for;
// a server that does not know ECH makes its client fall back (RFC 9849 §6.1.6),
// and such a one answers here.
func (p *passing) takeOver() {
	ours, theirs := net.Pipe()
	p.guard.mu.Lock()
	server := p.guard.conn
	p.guard.conn = ours
	p.guard.mu.Unlock()
	_ = server.Close()
	p.c.address = ""
	if p.c.decision.Reason != "" {
		p.c.decision.Reason += "; "
	}
	p.c.decision.Reason += "its hello is encrypted (ECH), so Berth answers it"
	go p.c.e.proxy.ServeTLS(context.Background(), theirs, p.c.place.name, p.c.place.port)
}

// end ends the connection, with its reason for the record.
func (p *passing) end(reason string) {
	p.mu.Lock()
	p.ended = reason
	p.mu.Unlock()
	conn := p.guard.current()
	_ = setLinger(conn, 0)
	_ = conn.Close()
}

func (p *passing) reason() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ended
}

// CloseWrite passes on the end of what the guest sends. Half a hello is never
// passed on.
func (p *passing) CloseWrite() error { return closeWrite(p.guard.current()) }

// SetLinger makes Close a reset, with 0.
func (p *passing) SetLinger(sec int) error { return setLinger(p.guard.current(), sec) }

// Close implements net.Conn.
func (p *passing) Close() error {
	err := p.guard.current().Close()
	p.once.Do(func() {
		p.c.e.untrack(p.c)
		ev := p.c.event()
		ev.Sent, ev.Received = p.sent.Load(), p.received.Load()
		ev.Error = p.reason()
		if ev.Verdict == "deny" {
			ev.Error = ""
		}
		p.c.e.cfg.Recorder.Record(ev)
	})
	return err
}

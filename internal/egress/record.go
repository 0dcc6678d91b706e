package egress

import (
	"fmt"
	"net/netip"
	"time"

	"berth.dev/internal/audit"
	"berth.dev/internal/egress/intercept"
)

// discard is where events go that nobody wants.
type discard struct{}

// Record implements audit.Recorder.
func (discard) Record(audit.Event) {}

// recordExchange writes down a request on a connection that is looked at, or
// the end of one on which no request came to be.
func (e *Egress) recordExchange(x intercept.Exchange) {
	at := placeOf(x.Target)
	ev := audit.Event{
		Time: x.Start, Kind: audit.HTTP, Name: at.name, Address: x.Upstream, Port: at.port, Protocol: x.Proto,
		Method: x.Method, Path: x.Path, Status: x.Status, Verdict: "deny",
		Rule: x.Ruling.Rule, Origin: x.Ruling.Origin, Reason: x.Ruling.Reason, Error: x.Error,
		Sent: x.Sent, Received: x.Received, Duration: x.Duration,
	}
	if a, err := netip.ParseAddrPort(x.Upstream); err == nil {
		ev.Address = a.Addr().String()
	}
	if x.Upgrade != "" {
		ev.Protocol = x.Upgrade
	}
	if x.Ruling.Allowed {
		ev.Verdict = "allow"
	}
	if x.Method == "" {
		ev.Kind = audit.Connection
	}
	if at.name == "" && ev.Address == "" {
		ev.Address = at.addr.String()
	}
	e.cfg.Recorder.Record(ev)
}

// Dropped writes down what the guest sent that is neither TCP nor a question:
// no rule opens a way for it. More is how many packets like it there were that
// have no line of their own. An invalid addr stands for places that are too many.
func (e *Egress) Dropped(protocol string, addr netip.Addr, port uint16, more uint64) {
	ev := audit.Event{
		Time: time.Now(), Kind: audit.Connection, Protocol: protocol, Port: port, Verdict: audit.Deny,
		Reason: "only TCP and DNS leave a sandbox",
	}
	switch {
	case protocol == "":
		ev.Reason += "; packets to more places than are listed"
	case protocol == "tcp":
		ev.Reason = "a TCP packet that no system sends: options of IP, fragments, or another's address as its source"
	}
	if more > 0 {
		ev.Reason += fmt.Sprintf("; %d more since the last line", more)
	}
	if addr.IsValid() {
		ev.Address = addr.String()
		if p, err := e.place(netip.AddrPortFrom(addr, max(port, 1))); err == nil && p.name != "" {
			ev.Name, ev.Address = p.name, ""
		}
	}
	e.cfg.Recorder.Record(ev)
}

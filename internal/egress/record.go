package egress

import (
	"net/netip"

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

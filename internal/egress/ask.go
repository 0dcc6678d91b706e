package egress

import (
	"context"

	"berth.dev/internal/policy"
)

// Asker asks the user about a place that no rule decides, and blocks until
// there is an answer, nobody answered in time, or ctx ends. A lasting answer has
// become a rule, and reached SetPolicy, before it returns; once reports that
// this very connection may be made although no rule allows it. It is called from
// many goroutines.
type Asker interface {
	Ask(ctx context.Context, host string, port uint16) (once bool)
}

// answeredOnce is the reason of what was allowed by such an answer.
const answeredOnce = "the user allowed it this once"

// ask lets the user decide about a connection that no rule decides.
func (c *connection) ask(ctx context.Context) {
	once := c.e.cfg.Ask.Ask(ctx, c.place.host(), c.place.port)
	c.decision = c.e.decide(c.place)
	switch {
	case !c.decision.Default:
	case once:
		c.granted = true
		c.decision = policy.Decision{Verdict: policy.Allow, Reason: answeredOnce, Inspect: c.e.inspected(c.place)}
	default:
		c.decision.Reason = "no rule allows it, and the user did not"
	}
}

// grantKey marks the context of a connection that was allowed once.
type grantKey struct{}

func withGrant(ctx context.Context) context.Context {
	return context.WithValue(ctx, grantKey{}, true)
}

func granted(ctx context.Context) bool { return ctx.Value(grantKey{}) != nil }

// grant counts connections that were allowed once, while they are looked at.
func (e *Egress) grant(p place, n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.granted[p] += n; e.granted[p] == 0 {
		delete(e.granted, p)
	}
}

func (e *Egress) isGranted(p place) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.granted[p] > 0
}

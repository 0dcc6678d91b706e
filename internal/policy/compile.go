package policy

import (
	"net/netip"
	"slices"
)

// compiled is a rule made ready for decisions. It never changes.
type compiled struct {
	rule    Rule
	paths   []pathPattern
	reason  string // "allowed by preset balanced: allow ..."
	invalid bool
}

func compile(r Rule) compiled {
	c := compiled{rule: r.clone()}
	verb := "denied"
	if r.Verdict == Allow {
		verb = "allowed"
	}
	c.reason = verb + " by " + r.Origin() + ": " + r.String()
	if r.Check() != nil {
		c.invalid = true
		return c
	}
	for _, p := range r.Paths {
		pattern, err := parsePath(p)
		c.invalid = c.invalid || err != nil
		c.paths = append(c.paths, pattern)
	}
	return c
}

// covers reports whether the rule is about a port.
func (c *compiled) covers(port uint16) bool {
	if len(c.rule.Ports) == 0 {
		return true
	}
	return slices.ContainsFunc(c.rule.Ports, func(p PortRange) bool { return p.contains(port) })
}

// asks reports whether the rule is about a request of that method whose path
// reads as view; readable is false when no view of it exists.
func (c *compiled) asks(method string, view []string, readable bool) bool {
	if len(c.rule.Methods) > 0 && !slices.Contains(c.rule.Methods, method) {
		return false
	}
	if len(c.paths) == 0 {
		return true
	}
	if !readable {
		return c.rule.Verdict == Deny // whatever it means, it may mean that
	}
	return slices.ContainsFunc(c.paths, func(p pathPattern) bool { return p.match(view) })
}

// particular reports whether the rule is the user's own word about one very
// place: that is what a preset's deny yields to.
func (c *compiled) particular() bool {
	return c.rule.Verdict == Allow && (c.rule.Scope == ScopeUser || c.rule.Scope == ScopeSandbox) &&
		(c.rule.Host.Exact() || c.rule.Prefix.IsValid() && c.rule.Prefix.IsSingleIP())
}

// openable are the ranges in which a rule can open what is not public.
var openable = func() []netip.Prefix {
	var open []netip.Prefix
	for _, e := range ranges {
		if e.class == Private || e.class == CGNAT || e.class == LinkLocal {
			open = append(open, e.prefix)
		}
	}
	return open
}()

// opens reports whether the rule was written about addresses that are not
// public: 0.0.0.0/0 takes in 10.0.0.1 too, and does not mean it.
func (c *compiled) opens() bool {
	p := c.rule.Prefix
	return c.rule.Verdict == Allow && c.rule.Scope != ScopePreset &&
		slices.ContainsFunc(openable, func(o netip.Prefix) bool { return o.Bits() <= p.Bits() && o.Contains(p.Addr()) })
}

package policy

import (
	"fmt"
	"net/netip"
	"slices"
)

// Request is what is to be decided.
type Request struct {
	Host string     // normalised name; "" when the guest went to an address that stands for no name
	Addr netip.Addr // that address, when Host is ""
	Port uint16     // 0: any port, as of a DNS question
	HTTP *HTTP      // nil: a connection as a whole
}

// HTTP is a request on a connection that is looked at.
type HTTP struct {
	Method string
	Path   string // without query, as it was sent
}

// Decision is what a policy says of a request. The zero value denies.
type Decision struct {
	Verdict Verdict
	// Inspect, with Allow and no HTTP in the request: the connection may go on
	// only as HTTP that is looked at, request by request.
	Inspect bool
	// Rule is the deciding one; nil when no rule says anything, which denies.
	// It is shared: read, do not change.
	Rule *Rule
	// Reason is one clause for people.
	Reason string
	// Default: denied only because no rule allows it, and one could: asking the
	// user makes sense.
	Default bool
}

// noRule is the decision about what nobody said anything about.
var noRule = Decision{Reason: "no rule allows it", Default: true}

// Decide says whether a request may go out.
//
// Deny beats allow, whatever the scopes, but for one thing: a preset's deny
// yields to an allow of user or sandbox scope that names this very host or
// address. A rule with methods or paths makes an otherwise allowed connection
// one that is looked at; each request on it is then decided with HTTP set, in
// all ways in which its path can be read.
//
// An address that stands for no name, Request.Addr, must be public or opened
// by a rule (see OpensAddr).
func (p *Policy) Decide(req Request) Decision {
	switch {
	case p == nil || p.rules == nil && p.broken == nil:
		return noRule
	case p.broken != nil:
		return Decision{Rule: &p.broken.rule, Reason: "a deny rule cannot be understood: " + p.broken.rule.String()}
	case req.Host != "":
		return decide(p.forName(req.Host), req)
	}
	return p.decideAddr(req)
}

// forName returns the rules that are about a name.
func (p *Policy) forName(name string) []*compiled {
	rules := p.named(name)
	if name != HostName {
		return rules
	}
	// It is no host of the internet: only a rule that names it, and the ports,
	// opens it.
	return slices.DeleteFunc(rules, func(c *compiled) bool {
		return c.rule.Verdict == Allow && (!c.rule.Host.Exact() || len(c.rule.Ports) == 0)
	})
}

func (p *Policy) decideAddr(req Request) Decision {
	addr := req.Addr.Unmap()
	class := Classify(addr)
	public := class == Public
	rules := p.forAddr(addr, func(c *compiled) bool { return public || c.opens() })
	d := decide(rules, req)
	if public || d.Verdict == Allow && class.Openable() {
		return d
	}
	if d.Rule == nil || d.Verdict == Allow {
		return Decision{
			Reason:  fmt.Sprintf("its address is %s, and no rule opens it", class),
			Default: class.Openable(),
		}
	}
	return d
}

// forAddr returns the deny rules that take in an address, or one that it
// carries inside, and those allow rules that take it in and pass usable.
func (p *Policy) forAddr(addr netip.Addr, usable func(*compiled) bool) []*compiled {
	if !addr.IsValid() || addr.Zone() != "" {
		return nil
	}
	inside := Embedded(addr)
	var rules []*compiled
	for _, i := range p.addrs {
		c := &p.rules[i]
		has := c.rule.Prefix.Contains(addr)
		if c.rule.Verdict == Deny {
			has = has || slices.ContainsFunc(inside, c.rule.Prefix.Contains)
		} else {
			has = has && usable(c)
		}
		if has {
			rules = append(rules, c)
		}
	}
	return rules
}

// Openable reports whether a rule can open addresses of a class. Metadata is
// not among them although it lies in such ranges: it hands out the host's own
// credentials.
func (c Class) Openable() bool { return c == Private || c == CGNAT || c == LinkLocal }

// OpensAddr says whether a rule about addresses opens one that is not public,
// to which an allowed name resolved: a single private host or a range of them,
// by a rule that speaks of nothing else. Only Private, CGNAT and LinkLocal can
// be opened. Port 0 means any.
func (p *Policy) OpensAddr(a netip.Addr, port uint16) (*Rule, bool) {
	if p == nil || p.broken != nil || !Classify(a).Openable() {
		return nil, false
	}
	rules := p.forAddr(a.Unmap(), (*compiled).opens)
	d := decide(rules, Request{Port: port})
	return d.Rule, d.Verdict == Allow
}

// DeniesAddr says whether a rule about addresses denies one to which an
// allowed name resolved. A preset's rules about addresses are for guests that
// go there without a name, and do not count.
func (p *Policy) DeniesAddr(a netip.Addr, port uint16) (*Rule, bool) {
	if p == nil {
		return nil, true
	}
	if p.broken != nil {
		return &p.broken.rule, true
	}
	for _, c := range p.forAddr(a.Unmap(), func(*compiled) bool { return false }) {
		if c.rule.Scope != ScopePreset && !c.rule.conditional() && c.covers(port) {
			return &c.rule, true
		}
	}
	return nil, false
}

// decide decides among the rules that are about the place of a request.
func decide(rules []*compiled, req Request) Decision {
	switch {
	case len(rules) == 0:
		return noRule
	case req.Port == 0:
		return decideAnyPort(rules)
	case req.HTTP == nil:
		return decideConnection(rules, req.Port)
	}
	return decideHTTP(rules, req.Port, *req.HTTP)
}

// decideAnyPort is allowed when a connection to some port is. Between two ends
// of ranges all ports are alike, so one of each stretch is tried.
func decideAnyPort(rules []*compiled) Decision {
	ports := []uint16{1}
	for _, c := range rules {
		for _, r := range c.rule.Ports {
			ports = append(ports, r.First)
			if r.Last < 1<<16-1 {
				ports = append(ports, r.Last+1)
			}
		}
	}
	slices.Sort(ports)
	var denied Decision
	for i, port := range slices.Compact(ports) {
		d := decideConnection(rules, port)
		if d.Verdict == Allow {
			d.Inspect = false // a question is no connection
			return d
		}
		// A rule about other ports is not why nothing is allowed.
		if i == 0 || d.Default {
			denied = d
		}
	}
	return denied
}

func decideConnection(rules []*compiled, port uint16) Decision {
	var plain, asking *compiled // the first allow rule without, with conditions
	inspect, yields := false, false
	for _, c := range rules {
		if c.rule.Verdict == Deny || !c.covers(port) {
			continue
		}
		yields = yields || c.particular()
		inspect = inspect || c.rule.Inspect
		if c.rule.conditional() {
			asking = first(asking, c)
		} else {
			plain = first(plain, c)
		}
	}
	for _, c := range rules {
		if c.rule.Verdict == Allow || !c.covers(port) || yields && c.rule.Scope == ScopePreset {
			continue
		}
		if !c.rule.conditional() {
			return c.decision(false)
		}
		inspect = true
	}
	switch {
	case plain != nil:
		return plain.decision(inspect)
	case asking != nil:
		return asking.decision(true)
	}
	return noRule
}

func decideHTTP(rules []*compiled, port uint16, h HTTP) Decision {
	all, readable := [][]string{nil}, true
	if slices.ContainsFunc(rules, func(c *compiled) bool { return len(c.paths) > 0 }) {
		if all, readable = views(h.Path); !readable {
			all = [][]string{nil}
		}
	}
	var d Decision
	for i, view := range all {
		v := decideView(rules, port, h.Method, view, readable)
		if v.Verdict == Deny && v.Rule != nil {
			return v
		}
		// The first view is what most servers see, and names the rule.
		if i == 0 || v.Verdict == Deny && d.Verdict == Allow {
			d = v
		}
	}
	if d.Verdict == Deny && !readable {
		d.Reason = "its path can be read in more than one way, and no rule allows every path"
	}
	return d
}

func decideView(rules []*compiled, port uint16, method string, view []string, readable bool) Decision {
	var deny, allow *compiled
	var presetDeny *compiled
	yields := false
	for _, c := range rules {
		switch {
		case !c.covers(port) || !c.asks(method, view, readable):
		case c.rule.Verdict == Allow:
			allow = first(allow, c)
			yields = yields || c.particular()
		case c.rule.Scope == ScopePreset:
			presetDeny = first(presetDeny, c)
		default:
			deny = first(deny, c)
		}
	}
	if !yields {
		deny = first(deny, presetDeny)
	}
	switch {
	case deny != nil:
		return deny.decision(false)
	case allow != nil:
		return allow.decision(false)
	}
	return noRule
}

// first is a, or b when there is no a yet.
func first(a, b *compiled) *compiled {
	if a != nil {
		return a
	}
	return b
}

func (c *compiled) decision(inspect bool) Decision {
	return Decision{Verdict: c.rule.Verdict, Inspect: inspect, Rule: &c.rule, Reason: c.reason}
}

// Package policy decides what a guest may reach. It owns the rules, by name,
// address, port, HTTP method and path; the presets; and the class of an IP
// address, which holds "the public internet" apart from everything that only
// looks like it. It does not know where rules are kept (policyfile does), and
// it does not dial, answer or record.
//
// The package is pure: it opens nothing, resolves nothing and keeps no state.
// It imports only the standard library and golang.org/x/net/idna, and whatever
// decides or enforces may import it. All functions are safe for concurrent use.
package policy

import "slices"

// HostName is the guest's name for the loopback of the host, as
// sandbox.HostName. No wildcard allows it.
const HostName = "host.berth.internal"

// Policy is a compiled list of rules. It is immutable and safe for concurrent
// use. nil and the zero Policy deny everything.
type Policy struct {
	rules []compiled

	// Indexes of rules by what their pattern ends in, so that a decision looks
	// at the few rules that can match and not at all of them.
	exact map[string][]int // "example.com"
	one   map[string][]int // "*.example.com", by "example.com"
	deep  map[string][]int // "**.example.com", by "example.com"
	any   []int            // "**"
	addrs []int            // address rules

	// broken is a deny rule that cannot be understood: leaving it out could
	// only widen, so everything is denied.
	broken *compiled
}

// New compiles rules. An allow rule that does not pass Rule.Check is left out;
// with such a deny rule the policy denies everything. The rules are copied.
func New(rules []Rule) *Policy {
	p := &Policy{
		rules: make([]compiled, len(rules)),
		exact: map[string][]int{}, one: map[string][]int{}, deep: map[string][]int{},
	}
	for i, r := range rules {
		c := &p.rules[i]
		*c = compile(r)
		switch {
		case c.invalid && r.Verdict == Deny:
			p.broken = c
		case c.invalid:
		case r.Prefix.IsValid():
			p.addrs = append(p.addrs, i)
		default:
			p.index(r.Host, i)
		}
	}
	return p
}

func (p *Policy) index(h Host, i int) {
	switch h.kind {
	case hostExact:
		p.exact[h.name] = append(p.exact[h.name], i)
	case hostOne:
		p.one[h.name] = append(p.one[h.name], i)
	case hostDeep:
		p.deep[h.name] = append(p.deep[h.name], i)
	case hostAny:
		p.any = append(p.any, i)
	}
}

// Rules returns a copy of the rules, in the order in which New got them.
func (p *Policy) Rules() []Rule {
	if p == nil {
		return nil
	}
	rules := make([]Rule, len(p.rules))
	for i := range p.rules {
		rules[i] = p.rules[i].rule.clone()
	}
	return rules
}

// named returns the rules whose pattern takes in a normalised name, in the
// order of New. For deny rules a wildcard takes in HostName too.
func (p *Policy) named(name string) []*compiled {
	found := slices.Concat(p.exact[name], p.any)
	for i := range len(name) {
		if name[i] == '.' && i > 0 {
			found = append(found, p.deep[name[i+1:]]...)
		}
	}
	if i := firstDot(name); i > 0 {
		found = append(found, p.one[name[i+1:]]...)
	}
	return p.pick(found)
}

// pick puts indexes into order and turns them into rules.
func (p *Policy) pick(found []int) []*compiled {
	if len(found) == 0 {
		return nil
	}
	slices.Sort(found)
	rules := make([]*compiled, len(found))
	for i, n := range found {
		rules[i] = &p.rules[n]
	}
	return rules
}

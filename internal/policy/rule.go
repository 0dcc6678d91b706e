package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Verdict is what a rule says and what a decision comes to. The zero value is
// Deny, so that what nobody decided is denied.
type Verdict uint8

// The verdicts.
const (
	Deny Verdict = iota
	Allow
)

// String returns "allow" or "deny".
func (v Verdict) String() string {
	if v == Allow {
		return "allow"
	}
	return "deny"
}

// Scope says whose rule it is, the widest first.
type Scope uint8

// The scopes.
const (
	ScopePreset  Scope = iota // built into Berth
	ScopeUser                 // of all of this user's sandboxes
	ScopeProject              // of the workspace
	ScopeSandbox              // of one sandbox
	ScopeAgent                // what the sandbox's agent cannot do without
)

var scopeNames = [...]string{
	ScopePreset: "preset", ScopeUser: "user", ScopeProject: "project", ScopeSandbox: "sandbox", ScopeAgent: "agent",
}

// String returns the scope as one word.
func (s Scope) String() string {
	if int(s) < len(scopeNames) {
		return scopeNames[s]
	}
	return "unknown"
}

// Rule says allow or deny of a place. Either Host or Prefix is set. The zero
// Rule is not valid. What matches a rule must match all that it says.
type Rule struct {
	Verdict Verdict
	Host    Host         // name pattern; zero when Prefix is valid
	Prefix  netip.Prefix // addresses, for connections to no name
	Ports   []PortRange  // empty: every port
	Methods []string     // upper case; empty: every method
	// Paths are path patterns, of which one must match; empty: every path. In
	// a pattern `*` stands for any characters of one segment, and a segment
	// `**` for any number of segments, none included: "/repos/**" takes in
	// "/repos", "/repos/" and "/repos/a/b".
	Paths []string
	// Inspect asks for HTTP to be looked at (TLS terminated) although no method
	// or path needs it. Of an allow rule only.
	Inspect bool

	Scope Scope
	// File is the one it stands in, "" when it is built in or comes from a
	// command line.
	File string
	// Preset is the name of the preset of a ScopePreset rule, and of the agent
	// of a ScopeAgent one.
	Preset string
	// Note is what its author wrote beside it. It decides nothing.
	Note string
}

// Place is the pattern, address or range, without ports: "**.example.com",
// "10.0.0.7", "10.0.0.0/8".
func (r Rule) Place() string {
	if !r.Prefix.IsValid() {
		return r.Host.String()
	}
	if r.Prefix.IsSingleIP() {
		return r.Prefix.Addr().String()
	}
	return r.Prefix.String()
}

// Target is the place with its ports, as ParseRule reads it.
func (r Rule) Target() string {
	place := r.Place()
	if len(r.Ports) == 0 {
		return place
	}
	if r.Prefix.IsValid() && r.Prefix.Addr().Is6() {
		place = "[" + place + "]"
	}
	return place + ":" + FormatPorts(r.Ports)
}

// String returns the rule as ParseText reads it, on one line:
//
//	allow api.github.com:443 GET,HEAD /repos/** inspect
func (r Rule) String() string {
	parts := []string{r.Verdict.String(), r.Target()}
	if len(r.Methods) > 0 {
		parts = append(parts, strings.Join(r.Methods, ","))
	}
	parts = append(parts, r.Paths...)
	if r.Inspect {
		parts = append(parts, inspectWord)
	}
	return strings.Join(parts, " ")
}

// inspectWord is Rule.Inspect in text. It is no method, as those are upper case.
const inspectWord = "inspect"

// Origin says for people where the rule comes from: "preset balanced", "user
// (/home/u/.config/berth/policy.toml)", "agent claude", "sandbox".
func (r Rule) Origin() string {
	s := r.Scope.String()
	if r.Preset != "" && (r.Scope == ScopePreset || r.Scope == ScopeAgent) {
		s += " " + r.Preset
	}
	if r.File != "" {
		s += " (" + r.File + ")"
	}
	return s
}

// Same reports whether two rules say the same, whoever says it.
func (r Rule) Same(o Rule) bool {
	return r.Verdict == o.Verdict && r.Host == o.Host && r.Prefix == o.Prefix && slices.Equal(r.Ports, o.Ports) &&
		slices.Equal(r.Methods, o.Methods) && slices.Equal(r.Paths, o.Paths) && r.Inspect == o.Inspect
}

// conditional reports whether only a request can tell if the rule matches.
func (r *Rule) conditional() bool { return len(r.Methods) > 0 || len(r.Paths) > 0 }

func (r Rule) clone() Rule {
	r.Ports, r.Methods, r.Paths = slices.Clone(r.Ports), slices.Clone(r.Methods), slices.Clone(r.Paths)
	return r
}

// Clean returns the rule in the one form that String prints: ports sorted and
// joined, methods in upper case, sorted, nothing twice. The error is Check's.
func (r Rule) Clean() (Rule, error) {
	r = r.clone()
	for i, m := range r.Methods {
		r.Methods[i] = strings.ToUpper(m)
	}
	slices.Sort(r.Methods)
	r.Methods = slices.Compact(r.Methods)
	var paths []string
	for _, p := range r.Paths {
		if !slices.Contains(paths, p) {
			paths = append(paths, p)
		}
	}
	r.Paths = paths
	if err := r.Check(); err != nil {
		return Rule{}, err
	}
	r.Ports = joinPorts(r.Ports)
	return r, nil
}

// Check reports why the rule makes no sense, in the words of whoever wrote it.
func (r Rule) Check() error {
	if err := r.checkPlace(); err != nil {
		return err
	}
	for _, p := range r.Ports {
		if p.First == 0 || p.First > p.Last {
			return fmt.Errorf("%s is no range of ports: those are 1 to 65535", p)
		}
	}
	for _, m := range r.Methods {
		if !isMethod(m) {
			return fmt.Errorf("%s is no HTTP method: write GET, POST and so on", quote(m))
		}
	}
	for _, p := range r.Paths {
		if _, err := parsePath(p); err != nil {
			return err
		}
	}
	if r.Inspect && r.Verdict == Deny {
		return errors.New("inspect goes with allow: what is denied is not looked at")
	}
	return nil
}

func (r Rule) checkPlace() error {
	named := r.Host.kind != hostNone
	switch {
	case named == (r.Prefix != netip.Prefix{}):
		return errors.New("a rule is about a host or about addresses")
	case named:
		if r.Verdict == Allow && r.Host == (Host{hostExact, HostName}) && len(r.Ports) == 0 {
			return fmt.Errorf("%s is this machine's loopback: say which ports, as in %s:5432", HostName, HostName)
		}
		return nil
	case !r.Prefix.IsValid() || r.Prefix != r.Prefix.Masked() || r.Prefix.Addr().Is4In6():
		return fmt.Errorf("%s is no range of addresses", quote(r.Prefix.String()))
	}
	return nil
}

// isMethod reports whether s is an upper-case token (RFC 9110 §5.6.2, §9.1).
func isMethod(s string) bool {
	if s == "" || len(s) > 32 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !('A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0) {
			return false
		}
	}
	return s[0] >= 'A' && s[0] <= 'Z'
}

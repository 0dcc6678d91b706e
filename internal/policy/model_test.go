package policy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// This file holds Decide against a model: the rules of the documentation,
// written down without an index, without a compiled form, by looking at every
// rule and, where any port will do, at every port.

// model says what a decision must be. Where several rules may be named as the
// deciding one, any of them will do.
type model struct{ rules []Rule }

var modelPorts = []uint16{1, 2, 3, 4, 5, 6, 7, 65535}

func (m model) decide(req Request) (v Verdict, inspect bool) {
	if req.Port == 0 {
		for _, port := range append([]uint16{8, 65534}, modelPorts...) {
			req.Port = port
			if v, _ := m.decide(req); v == Allow {
				return Allow, false
			}
		}
		return Deny, false
	}
	if req.HTTP == nil {
		return m.connection(req)
	}
	all, readable := views(req.HTTP.Path)
	if !readable {
		return m.request(req, nil), false
	}
	for _, view := range all {
		if m.request(req, view) == Deny {
			return Deny, false
		}
	}
	return Allow, false
}

func (m model) connection(req Request) (Verdict, bool) {
	conditional := func(r Rule) bool { return len(r.Methods)+len(r.Paths) > 0 }
	var allows, plain, inspect bool
	for _, r := range m.matching(req, Allow) {
		allows = true
		plain = plain || !conditional(r)
		inspect = inspect || r.Inspect
	}
	for _, r := range m.denying(req, m.matching(req, Allow)) {
		if !conditional(r) {
			return Deny, false
		}
		inspect = true
	}
	if !allows {
		return Deny, false
	}
	return Allow, inspect || !plain
}

// request decides about one view of a path; nil is one that has none.
func (m model) request(req Request, view []string) Verdict {
	fits := func(r Rule) bool {
		if len(r.Methods) > 0 && !slices.Contains(r.Methods, req.HTTP.Method) {
			return false
		}
		if len(r.Paths) == 0 {
			return true
		}
		if view == nil {
			return r.Verdict == Deny
		}
		return slices.ContainsFunc(r.Paths, func(p string) bool { return modelPath(p, view) })
	}
	allows := slices.DeleteFunc(m.matching(req, Allow), func(r Rule) bool { return !fits(r) })
	denies := slices.DeleteFunc(m.denying(req, allows), func(r Rule) bool { return !fits(r) })
	if len(denies) > 0 || len(allows) == 0 {
		return Deny
	}
	return Allow
}

// denying are the deny rules that hold beside those allow rules.
func (m model) denying(req Request, allows []Rule) []Rule {
	own := slices.ContainsFunc(allows, func(r Rule) bool {
		single := r.Prefix.IsValid() && r.Prefix.Bits() == r.Prefix.Addr().BitLen()
		return (r.Scope == ScopeUser || r.Scope == ScopeSandbox) && (single || r.Host.String() == req.Host && req.Host != "")
	})
	return slices.DeleteFunc(m.matching(req, Deny), func(r Rule) bool { return own && r.Scope == ScopePreset })
}

// matching are the rules of one verdict that are about the place.
func (m model) matching(req Request, v Verdict) []Rule {
	var found []Rule
	for _, r := range m.rules {
		if r.Verdict != v || !modelPort(r, req.Port) {
			continue
		}
		if req.Host != "" && !r.Prefix.IsValid() && modelHost(r, req.Host) || req.Host == "" && r.Prefix.IsValid() && modelAddr(r, req.Addr) {
			found = append(found, r)
		}
	}
	return found
}

func modelPort(r Rule, port uint16) bool {
	return len(r.Ports) == 0 || slices.ContainsFunc(r.Ports, func(p PortRange) bool { return port >= p.First && port <= p.Last })
}

func modelHost(r Rule, name string) bool {
	pattern := r.Host.String()
	if name == "host.berth.internal" && r.Verdict == Allow {
		return pattern == name && len(r.Ports) > 0
	}
	re := regexp.QuoteMeta(pattern)
	switch {
	case pattern == "**":
		re = ".+"
	case strings.HasPrefix(pattern, "**."):
		re = ".+" + re[len(`\*\*`):]
	case strings.HasPrefix(pattern, "*."):
		re = "[^.]+" + re[len(`\*`):]
	}
	return regexp.MustCompile("^" + re + "$").MatchString(name)
}

func modelAddr(r Rule, a netip.Addr) bool {
	if r.Verdict == Deny {
		return r.Prefix.Contains(a) || slices.ContainsFunc(Embedded(a), r.Prefix.Contains)
	}
	if !r.Prefix.Contains(a) {
		return false
	}
	switch Classify(a) {
	case Public:
		return true
	case Private, CGNAT, LinkLocal:
		// Ranges that are private as a whole.
		for _, private := range []string{"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16",
			"fc00::/7", "fe80::/10", "fec0::/10", "64:ff9b:1::/48"} {
			p := netip.MustParsePrefix(private)
			if r.Scope != ScopePreset && p.Contains(r.Prefix.Addr()) && p.Bits() <= r.Prefix.Bits() {
				return true
			}
		}
	}
	return false
}

func modelPath(pattern string, view []string) bool {
	var re strings.Builder
	for seg := range strings.SplitSeq(pattern[1:], "/") {
		if seg == "**" {
			re.WriteString("(?:\x00[^\x00]*)*")
			continue
		}
		re.WriteString("\x00" + strings.ReplaceAll(regexp.QuoteMeta(seg), `\*`, "[^\x00]*"))
	}
	return regexp.MustCompile("(?s)^" + re.String() + "$").MatchString("\x00" + strings.Join(view, "\x00"))
}

// Places, and what is asked about them: few of each, so that rules meet.
var (
	modelPlaces = []string{
		"a.test", "b.a.test", "c.b.a.test", "*.a.test", "**.a.test", "*.test", "**.test", "**", "test", "*.b.a.test",
		"host.berth.internal", "*.berth.internal", "**.internal",
		"8.8.8.8", "8.8.8.0/24", "0.0.0.0/0", "::/0", "10.0.0.0/8", "10.0.0.1", "192.168.0.0/16", "169.254.0.0/16",
		"100.64.0.0/10", "fd00::/8", "64:ff9b::/96", "127.0.0.1", "0.0.0.0/1", "2001:db8::/32",
	}
	modelNames = []string{"a.test", "b.a.test", "c.b.a.test", "test", "x.a.test", "x.y.b.a.test", "host.berth.internal", "x.berth.internal", "other"}
	modelAddrs = []string{
		"8.8.8.8", "8.8.8.9", "1.1.1.1", "10.0.0.1", "10.0.0.2", "192.168.0.1", "169.254.169.254", "169.254.0.1", "100.64.0.1",
		"127.0.0.1", "fd00::1", "64:ff9b::808:808", "64:ff9b::a00:1", "2001:db8::1", "0.0.0.0", "fe80::1",
	}
	modelMethods  = []string{"GET", "POST", "PUT"}
	modelPatterns = []string{"/", "/**", "/a", "/a/**", "/a/*", "/*/b", "/**/b", "/a*", "/a/b/**", "/a/"}
	modelPaths    = []string{
		"/", "", "/a", "/a/", "/a/b", "/a//b", "/b/../a", "/a/../b", "/a/%2e%2e/b", "/a%2fb", "/ab", "/a/b/c", "/a;x/b",
		"/a/%00", "*", `/a\b`, "/%61", "/%2561", "/a/..;/b",
	}
)

func modelPolicy(r *rand.Rand) []Rule {
	var out []Rule
	for range r.IntN(9) {
		v := Deny
		if r.IntN(3) > 0 {
			v = Allow
		}
		rule, err := ParseRule(Deny, modelPlaces[r.IntN(len(modelPlaces))])
		if err != nil {
			panic(err)
		}
		rule.Verdict, rule.Scope = v, Scope(r.IntN(int(ScopeAgent)+1))
		for range r.IntN(3) {
			first := modelPorts[r.IntN(len(modelPorts))]
			rule.Ports = append(rule.Ports, PortRange{first, max(first, modelPorts[r.IntN(len(modelPorts))])})
		}
		if r.IntN(3) == 0 {
			rule.Methods = append(rule.Methods, modelMethods[r.IntN(len(modelMethods))])
		}
		if r.IntN(3) == 0 {
			rule.Paths = append(rule.Paths, modelPatterns[r.IntN(len(modelPatterns))], modelPatterns[r.IntN(len(modelPatterns))])
		}
		rule.Inspect = v == Allow && r.IntN(8) == 0
		if rule, err = rule.Clean(); err == nil {
			out = append(out, rule)
		}
	}
	return out
}

func modelRequest(r *rand.Rand) Request {
	var req Request
	if r.IntN(3) > 0 {
		req.Host = modelNames[r.IntN(len(modelNames))]
	} else {
		req.Addr = netip.MustParseAddr(modelAddrs[r.IntN(len(modelAddrs))])
	}
	if r.IntN(4) > 0 {
		req.Port = modelPorts[r.IntN(len(modelPorts))]
	}
	if req.Port != 0 && r.IntN(2) == 0 {
		req.HTTP = &HTTP{modelMethods[r.IntN(len(modelMethods))], modelPaths[r.IntN(len(modelPaths))]}
	}
	return req
}

// FuzzDecideModel compares random policies and requests, grown from a seed.
func FuzzDecideModel(f *testing.F) {
	for seed := range uint64(300) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		r := rand.New(rand.NewPCG(seed, 1))
		rules := modelPolicy(r)
		p := New(rules)
		for range 40 {
			req := modelRequest(r)
			v, inspect := model{rules}.decide(req)
			d := p.Decide(req)
			if d.Verdict != v || d.Inspect != inspect {
				t.Fatalf("%s\nthe model says %s, inspect %v; Decide says %+v", show(rules, req), v, inspect, d)
			}
			checkDecision(t, rules, req, d)
		}
	})
}

// checkDecision holds what is true of every decision.
func checkDecision(t *testing.T, rules []Rule, req Request, d Decision) {
	t.Helper()
	switch {
	case d.Reason == "",
		d.Verdict == Allow && (d.Rule == nil || d.Default),
		d.Verdict == Deny && (d.Inspect || d.Default && d.Rule != nil),
		d.Rule != nil && d.Rule.Verdict != d.Verdict,
		d.Inspect && (req.HTTP != nil || req.Port == 0):
		t.Fatalf("%s\n%+v", show(rules, req), d)
	}
	if d.Rule != nil && !slices.ContainsFunc(rules, d.Rule.Same) {
		t.Fatalf("%s\na rule that there is not: %s", show(rules, req), d.Rule)
	}
}

func show(rules []Rule, req Request) string {
	var b strings.Builder
	for _, r := range rules {
		fmt.Fprintf(&b, "%s %s\n", r.Scope, r)
	}
	fmt.Fprintf(&b, "? %s%s:%d", req.Host, req.Addr, req.Port)
	if req.HTTP != nil {
		fmt.Fprintf(&b, " %s %q", req.HTTP.Method, req.HTTP.Path)
	}
	return b.String()
}

// FuzzDecide asks a fixed policy about any name and path: nothing but what is
// below the allowed path gets out, however it is written.
func FuzzDecide(f *testing.F) {
	for _, path := range modelPaths {
		f.Add("b.a.test", uint16(443), "GET", path)
	}
	f.Add("host.berth.internal", uint16(80), "GET", "/a")
	rule := func(text string) Rule {
		r, err := ParseText(text)
		if err != nil {
			f.Fatal(err)
		}
		r.Scope = ScopeUser
		return r
	}
	p := New([]Rule{rule("allow **.a.test:443 GET /repos/**"), rule("deny **.a.test /repos/secret/**"), rule("allow **:8443")})
	f.Fuzz(func(t *testing.T, host string, port uint16, method, path string) {
		name, err := NormalizeName(host)
		if err != nil {
			return
		}
		d := p.Decide(Request{Host: name, Port: port, HTTP: &HTTP{method, path}})
		if d.Verdict == Deny {
			return
		}
		if name == HostName {
			t.Fatalf("a wildcard opens %s", name)
		}
		if d.Rule.Host.kind == hostAny && port != 8443 && port != 0 || port != 0 && port != 443 && port != 8443 {
			t.Fatalf("port %d: %+v", port, d)
		}
		if port != 443 || !strings.HasSuffix(name, ".a.test") {
			return
		}
		clean := naiveClean(path)
		if method != "GET" || clean != "/repos" && !strings.HasPrefix(clean, "/repos/") ||
			clean == "/repos/secret" || strings.HasPrefix(clean, "/repos/secret/") {
			t.Fatalf("%s %q (%s) is allowed: %+v", method, path, clean, d)
		}
	})
}

package cli

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/publicsuffix"

	"berth.dev/internal/audit"
	"berth.dev/internal/policy"
)

// Bounds of what is made of a log, in which a guest may have left any number of
// names and paths.
const (
	maxPlaces = 10_000 // hosts and addresses that are looked at
	maxPaths  = 8      // in one rule; more become one pattern
	maxPorts  = 8      // of one place; to want more looks like a scan
	maxNotes  = 50     // remarks
	wideFrom  = 3      // hosts below one domain for which a pattern is proposed

	maxRequests = 1000 // of one place, by method and path
)

// suggested is a rule that would have allowed something.
type suggested struct {
	rule  policy.Rule
	count int
	last  time.Time
	// why it has to be thought about before it is added, "" for what is proposed
	// as it is.
	why string
	// balanced: the preset of that name allows it.
	balanced bool
}

// suggestions is what is made of a log.
type suggestions struct {
	rules   []suggested // the smallest that would have allowed it all
	options []suggested // that the user has to think about
	notes   []string    // what no rule was made of; they quote the guest
}

// suggestFrom says what is to be made of the events.
type suggestFrom struct {
	used   bool           // rules for what was allowed, rather than for what was denied
	policy *policy.Policy // as it is now: what it allows needs no rule; nil when there is none any more
}

// tally counts.
type tally struct {
	count int
	last  time.Time
}

func (t *tally) add(at time.Time) {
	t.count++
	if at.After(t.last) {
		t.last = at
	}
}

func (t *tally) merge(o *tally) {
	t.count += o.count
	if o.last.After(t.last) {
		t.last = o.last
	}
}

// request is what a rule about HTTP can tell apart.
type request struct {
	port         uint16
	method, path string // path without query; "" is any
}

// tallies is what was wanted of one place.
type tallies struct {
	host     string // or:
	addr     netip.Addr
	asked    tally // questions
	ports    map[uint16]*tally
	requests map[request]*tally
	private  map[netip.Addr]*tally // addresses of it that no rule opens
}

// collector makes rules of the events of one sandbox: all of them are added, then
// suggestions is called. It proposes nothing for addresses that no rule can
// open.
type collector struct {
	from    suggestFrom
	places  map[string]*tallies
	left    int // places beyond the bound
	notes   map[string]*tally
	dropped int // notes beyond the bound
}

func newCollector(from suggestFrom) *collector {
	return &collector{from: from, places: map[string]*tallies{}, notes: map[string]*tally{}}
}

func (c *collector) add(e audit.Event) {
	if e.Kind != audit.Connection && e.Kind != audit.DNS && e.Kind != audit.HTTP {
		return
	}
	want := audit.Deny
	if c.from.used {
		want = audit.Allow
	}
	if e.Verdict != want || c.from.used && e.Kind == audit.DNS || !c.byDefault(&e) {
		return
	}
	t := c.place(&e)
	if t == nil {
		return
	}
	if at, ok := resolvedTo(e.Reason); ok && !c.from.used {
		count(&t.private, at, e.Time)
		return
	}
	switch {
	case e.Kind == audit.DNS:
		t.asked.add(e.Time)
	case e.Port == 0:
	case e.Kind == audit.HTTP && e.Method != "" && !c.from.used && c.connects(t, e.Port):
		if strings.HasSuffix(e.Path, "…") {
			c.note(&e, "asked for a path of "+t.host+" that is too long for a rule")
			return
		}
		r := request{e.Port, e.Method, withoutQuery(e.Path)}
		if t.requests[r] == nil && len(t.requests) >= maxRequests {
			r.path = "" // any
		}
		count(&t.requests, r, e.Time)
	default:
		count(&t.ports, e.Port, e.Time)
	}
}

func count[K comparable](m *map[K]*tally, key K, at time.Time) {
	if *m == nil {
		*m = map[K]*tally{}
	}
	if (*m)[key] == nil {
		(*m)[key] = &tally{}
	}
	(*m)[key].add(at)
}

// byDefault reports whether an event is one that a rule would have allowed. Of
// the others it makes a note.
func (c *collector) byDefault(e *audit.Event) bool {
	switch {
	case c.from.used || strings.Contains(e.Reason, "no rule "):
		return true
	case strings.HasPrefix(e.Rule, policy.Deny.String()+" "):
		c.note(e, fmt.Sprintf("denied by the rule %q of %s", e.Rule, e.Origin))
	default:
		c.note(e, "refused, and no rule would help: "+e.Reason)
	}
	return false
}

func (c *collector) note(e *audit.Event, what string) {
	if c.notes[what] == nil {
		if len(c.notes) >= maxNotes {
			c.dropped++
			return
		}
		c.notes[what] = &tally{}
	}
	c.notes[what].add(e.Time)
}

// place finds what is known of the place of an event; nil when no rule can be
// about it, or when the policy allows it by now.
func (c *collector) place(e *audit.Event) *tallies {
	t := &tallies{}
	var err error
	switch {
	case e.Name != "":
		if t.host, err = policy.NormalizeName(e.Name); err != nil {
			c.note(e, "asked for what is no host name")
			return nil
		}
	default:
		if t.addr, err = netip.ParseAddr(e.Address); err != nil {
			return nil
		}
		t.addr = t.addr.Unmap()
		if class := policy.Classify(t.addr); class != policy.Public && !opens(class) {
			if !c.from.used {
				c.note(e, fmt.Sprintf("went to an address that is %s, which no rule opens", class))
			}
			return nil
		}
	}
	if c.allowed(t, e) {
		return nil
	}
	key := cmp.Or(t.host, t.addr.String())
	if has := c.places[key]; has != nil {
		return has
	}
	if len(c.places) >= maxPlaces {
		c.left++
		return nil
	}
	c.places[key] = t
	return t
}

// opens reports whether a rule can open addresses of that class.
func opens(c policy.Class) bool {
	return c == policy.Private || c == policy.CGNAT || c == policy.LinkLocal
}

// resolvedTo is the address in the reason for which a name was denied.
func resolvedTo(reason string) (netip.Addr, bool) {
	rest, ok := strings.CutPrefix(reason, "it resolves to ")
	if !ok {
		return netip.Addr{}, false
	}
	text, _, _ := strings.Cut(rest, ": ")
	a, err := netip.ParseAddr(text)
	return a.Unmap(), err == nil
}

// allowed reports whether the policy allows by now what it denied then.
func (c *collector) allowed(t *tallies, e *audit.Event) bool {
	if c.from.used || c.from.policy == nil {
		return false
	}
	if at, ok := resolvedTo(e.Reason); ok {
		_, open := c.from.policy.OpensAddr(at, e.Port)
		return open
	}
	req := policy.Request{Host: t.host, Addr: t.addr, Port: e.Port}
	if e.Kind == audit.HTTP && e.Method != "" {
		req.HTTP = &policy.HTTP{Method: e.Method, Path: withoutQuery(e.Path)}
	}
	return c.from.policy.Decide(req).Verdict == policy.Allow
}

// connects reports whether connections are allowed, so that it is for method
// and path that a request was denied. Without a policy that is what the event
// itself says: what is denied as a whole is no request.
func (c *collector) connects(t *tallies, port uint16) bool {
	if c.from.policy == nil {
		return true
	}
	return c.from.policy.Decide(policy.Request{Host: t.host, Addr: t.addr, Port: port}).Verdict == policy.Allow
}

func withoutQuery(p string) string {
	p, _, _ = strings.Cut(p, "?")
	return cmp.Or(p, "/")
}

func (c *collector) suggestions() suggestions {
	var s suggestions
	for _, key := range slices.Sorted(maps.Keys(c.places)) {
		c.rulesFor(c.places[key], &s)
	}
	s.options = append(s.options, wider(s.rules)...)
	byUse := func(a, b suggested) int { return cmp.Compare(b.count, a.count) }
	slices.SortStableFunc(s.rules, byUse)
	slices.SortStableFunc(s.options, byUse)
	for _, what := range slices.Sorted(maps.Keys(c.notes)) {
		s.notes = append(s.notes, fmt.Sprintf("%s: %s", times(*c.notes[what]), what))
	}
	if c.dropped > 0 {
		s.notes = append(s.notes, fmt.Sprintf("%d times more, for other reasons", c.dropped))
	}
	if c.left > 0 {
		s.notes = append(s.notes, fmt.Sprintf("%d times more, about other places: there are over %d", c.left, maxPlaces))
	}
	return s
}

// rulesFor makes the rules about one place.
func (c *collector) rulesFor(t *tallies, s *suggestions) {
	why := ""
	switch {
	case t.host == policy.HostName:
		why = "it is a service of this machine"
	case t.host == "" && policy.Classify(t.addr) != policy.Public:
		why = fmt.Sprintf("its address is %s", policy.Classify(t.addr))
	}
	put := func(r policy.Rule, n tally, why string) {
		r, err := r.Clean()
		if err != nil {
			s.notes = append(s.notes, fmt.Sprintf("%s: no rule can be written for it: %v", times(n), err))
			return
		}
		one := suggested{rule: r, count: n.count, last: n.last, why: why, balanced: c.from.used && inBalanced(r)}
		if why != "" {
			s.options = append(s.options, one)
		} else {
			s.rules = append(s.rules, one)
		}
	}
	ports, total := maps.Clone(t.ports), t.asked
	if len(ports) == 0 && len(t.requests) == 0 && len(t.private) == 0 && t.host != policy.HostName && t.asked.count > 0 {
		ports = map[uint16]*tally{443: {last: t.asked.last}} // only looked up; that it was meant is likely
	}
	if len(ports) > 0 {
		r := t.rule()
		for _, port := range slices.Sorted(maps.Keys(ports)) {
			if n := len(r.Ports); n > 0 && r.Ports[n-1].Last+1 == port {
				r.Ports[n-1].Last = port
			} else {
				r.Ports = append(r.Ports, policy.PortRange{First: port, Last: port})
			}
			total.merge(ports[port])
		}
		if len(ports) > maxPorts {
			why = cmp.Or(why, fmt.Sprintf("it was tried on %d ports", len(ports)))
		}
		put(r, total, why)
	}
	for _, r := range t.requestRules() {
		put(r.rule, tally{r.count, r.last}, cmp.Or(why, r.why))
	}
	for _, a := range slices.SortedFunc(maps.Keys(t.private), netip.Addr.Compare) {
		n := *t.private[a]
		if class := policy.Classify(a); opens(class) {
			put(policy.Rule{Verdict: policy.Allow, Prefix: netip.PrefixFrom(a, a.BitLen())}, n, fmt.Sprintf("%s resolves to it, and it is %s", t.host, class))
		} else {
			s.notes = append(s.notes, fmt.Sprintf("%s: %s resolves to an address that is %s, which no rule opens", times(n), t.host, class))
		}
	}
}

// rule is an allow rule about the place.
func (t *tallies) rule() policy.Rule {
	r := policy.Rule{Verdict: policy.Allow}
	if t.host == "" {
		r.Prefix = netip.PrefixFrom(t.addr, t.addr.BitLen())
		return r
	}
	r.Host, _ = policy.ParseHost(t.host) // it was normalised
	return r
}

// requestRules makes rules of requests: one for all methods and ports that want
// the same paths.
func (t *tallies) requestRules() []suggested {
	type group struct {
		port   uint16
		method string
	}
	paths, totals := map[group][]string{}, map[group]*tally{}
	for _, r := range slices.SortedFunc(maps.Keys(t.requests), func(a, b request) int {
		return cmp.Or(cmp.Compare(a.port, b.port), cmp.Compare(a.method, b.method), cmp.Compare(a.path, b.path))
	}) {
		g := group{r.port, r.method}
		if totals[g] == nil {
			totals[g] = &tally{}
		}
		totals[g].merge(t.requests[r])
		paths[g] = append(paths[g], strings.ReplaceAll(r.path, "*", "%2A"))
	}
	var rules []suggested
	for _, g := range slices.SortedFunc(maps.Keys(paths), func(a, b group) int {
		return cmp.Or(cmp.Compare(a.port, b.port), cmp.Compare(a.method, b.method))
	}) {
		list := fold(paths[g])
		ports := []policy.PortRange{{First: g.port, Last: g.port}}
		i := slices.IndexFunc(rules, func(s suggested) bool {
			return slices.Equal(s.rule.Paths, list) && slices.Equal(s.rule.Ports, ports)
		})
		if i < 0 {
			r := t.rule()
			r.Ports, r.Paths = ports, list
			rules, i = append(rules, suggested{rule: r}), len(rules)
		}
		rules[i].rule.Methods = append(rules[i].rule.Methods, g.method)
		n := tally{rules[i].count, rules[i].last}
		n.merge(totals[g])
		rules[i].count, rules[i].last = n.count, n.last
	}
	return rules
}

// fold makes one pattern of too many paths; nil is any path.
func fold(paths []string) []string {
	switch {
	case slices.Contains(paths, ""):
		return nil
	case len(paths) <= maxPaths:
		return paths
	}
	common := path.Dir(paths[0])
	for _, p := range paths[1:] {
		for common != "/" && !strings.HasPrefix(p, common+"/") {
			common = path.Dir(common)
		}
	}
	if common == "/" {
		return nil
	}
	return []string{common + "/**"}
}

// wider proposes a pattern in place of several hosts below one domain.
func wider(rules []suggested) []suggested {
	below := map[string]*suggested{}
	hosts := map[string]int{}
	for _, s := range rules {
		if s.rule.Prefix.IsValid() || len(s.rule.Methods)+len(s.rule.Paths) > 0 {
			continue
		}
		name := s.rule.Host.String()
		domain, err := publicsuffix.EffectiveTLDPlusOne(name)
		if err != nil || domain == name {
			continue
		}
		if below[domain] == nil {
			below[domain] = &suggested{rule: policy.Rule{Verdict: policy.Allow}}
			below[domain].rule.Host, _ = policy.ParseHost("**." + domain)
		}
		w := below[domain]
		w.rule.Ports = append(w.rule.Ports, s.rule.Ports...)
		n := tally{w.count, w.last}
		n.merge(&tally{s.count, s.last})
		w.count, w.last = n.count, n.last
		hosts[domain]++
	}
	var all []suggested
	for _, domain := range slices.Sorted(maps.Keys(below)) {
		if hosts[domain] < wideFrom {
			continue
		}
		w := *below[domain]
		var err error
		if w.rule, err = w.rule.Clean(); err != nil {
			continue
		}
		w.why = fmt.Sprintf("in place of %d rules for hosts below %s", hosts[domain], domain)
		all = append(all, w)
	}
	return all
}

// inBalanced reports whether the preset balanced allows all that a rule does.
func inBalanced(r policy.Rule) bool {
	rules, err := policy.Preset(policy.PresetBalanced)
	if err != nil || r.Prefix.IsValid() {
		return false
	}
	p := policy.New(rules)
	for _, port := range r.Ports {
		if p.Decide(policy.Request{Host: r.Host.String(), Port: port.First}).Verdict != policy.Allow {
			return false
		}
	}
	return true
}

// times says how often something happened, and when last.
func times(n tally) string {
	often := "once"
	if n.count > 1 {
		often = fmt.Sprintf("%d times", n.count)
	}
	return fmt.Sprintf("%s, last %s", often, n.last.Local().Format(time.DateTime))
}

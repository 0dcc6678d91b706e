package cli

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"berth.dev/internal/audit"
	"berth.dev/internal/policy"
)

// denied makes events of short texts: "conn NAME PORT", "dns NAME", "http NAME
// PORT METHOD PATH", "addr ADDRESS PORT", "to NAME PORT ADDRESS" for a name that
// resolved to a closed one.
func denied(t *testing.T, texts ...string) []audit.Event {
	t.Helper()
	var all []audit.Event
	for i, text := range texts {
		w := strings.Fields(text)
		e := audit.Event{Time: time.Unix(int64(i), 0), Verdict: audit.Deny, Reason: "no rule allows it", Kind: audit.Connection, Name: w[1]}
		if len(w) > 2 {
			if _, err := fmt.Sscan(w[2], &e.Port); err != nil {
				t.Fatal(err)
			}
		}
		switch w[0] {
		case "dns":
			e.Kind = audit.DNS
		case "http":
			e.Kind, e.Method, e.Path = audit.HTTP, w[3], w[4]
		case "addr":
			e.Name, e.Address = "", w[1]
		case "to":
			e.Reason = "it resolves to " + w[3] + ": it is private, and no rule opens it"
		}
		all = append(all, e)
	}
	return all
}

func suggest(events []audit.Event, from suggestFrom) suggestions {
	c := newCollector(from)
	for _, e := range events {
		c.add(e)
	}
	return c.suggestions()
}

func texts(list []suggested) []string {
	var all []string
	for _, s := range list {
		all = append(all, s.rule.String())
	}
	return all
}

func rules(t *testing.T, texts ...string) *policy.Policy {
	t.Helper()
	var all []policy.Rule
	for _, text := range texts {
		r, err := policy.ParseText(text)
		if err != nil {
			t.Fatal(err)
		}
		r.Scope = policy.ScopeUser
		all = append(all, r)
	}
	return policy.New(all)
}

func TestSuggest(t *testing.T) {
	for what, c := range map[string]struct {
		events  []string
		policy  []string
		rules   []string
		options []string
		notes   []string // parts of
	}{
		"nothing": {},
		"a host, its ports in one rule": {
			events: []string{"dns a.example", "conn a.example 443", "conn A.example. 22", "conn a.example 443"},
			rules:  []string{"allow a.example:22,443"},
		},
		"only looked up": {events: []string{"dns a.example"}, rules: []string{"allow a.example:443"}},
		"hosts below one domain": {
			events:  []string{"conn a.x.example.co.uk 443", "conn b.example.co.uk 443", "conn c.example.co.uk 80", "conn example.co.uk 443"},
			rules:   []string{"allow a.x.example.co.uk:443", "allow b.example.co.uk:443", "allow c.example.co.uk:80", "allow example.co.uk:443"},
			options: []string{"allow **.example.co.uk:80,443"},
		},
		"two are not enough": {
			events: []string{"conn a.example.com 443", "conn b.example.com 443", "conn example.com 443"},
			rules:  []string{"allow a.example.com:443", "allow b.example.com:443", "allow example.com:443"},
		},
		"hosts of different people below one suffix": {
			events: []string{"conn a.github.io 443", "conn b.github.io 443", "conn c.github.io 443"},
			rules:  []string{"allow a.github.io:443", "allow b.github.io:443", "allow c.github.io:443"},
		},
		"a request where connections are allowed": {
			events: []string{"http a.example 443 GET /x?q", "http a.example 443 POST /y", "http a.example 443 POST /x", "http a.example 443 DELETE /y"},
			policy: []string{"allow a.example:443 GET /allowed"},
			rules:  []string{"allow a.example:443 POST /x /y", "allow a.example:443 DELETE /y", "allow a.example:443 GET /x"},
		},
		"methods with the same paths": {
			events: []string{"http a.example 443 PUT /x*", "http a.example 443 GET /x*"},
			policy: []string{"allow a.example:443 GET /allowed"},
			rules:  []string{"allow a.example:443 GET,PUT /x%2A"},
		},
		"many paths": {
			events: countedEvents(12, "http a.example 443 GET /repos/me/%d"),
			policy: []string{"allow a.example:443 GET /allowed"},
			rules:  []string{"allow a.example:443 GET /repos/me/**"},
		},
		"many paths of nothing in common": {
			events: countedEvents(12, "http a.example 443 GET /%d"),
			policy: []string{"allow a.example:443 POST"},
			rules:  []string{"allow a.example:443 GET"},
		},
		"a request where nothing is allowed": {
			events: []string{"http a.example 80 GET /x", "conn a.example 80"},
			policy: []string{"allow b.example"},
			rules:  []string{"allow a.example:80"},
		},
		"allowed by now": {
			events: []string{"conn a.example 443", "conn b.example 443", "http c.example 443 GET /x", "to d.example 443 10.1.2.3"},
			policy: []string{"allow a.example", "allow c.example GET /x", "allow 10.0.0.0/8"},
			rules:  []string{"allow b.example:443"},
		},
		"addresses": {
			events:  []string{"addr 203.0.113.7 443", "addr 203.0.113.7 80", "addr 2001:4860:4860::8888 53", "addr 192.168.1.10 22", "addr 127.0.0.1 80", "addr ::ffff:169.254.169.254 80", "addr 0.0.0.0 1", "addr nonsense 1"},
			rules:   []string{"allow 203.0.113.7:80,443", "allow [2001:4860:4860::8888]:53"},
			options: []string{"allow 192.168.1.10:22"},
			notes:   []string{"loopback, which no rule opens", "metadata, which no rule opens", "unspecified, which no rule opens"},
		},
		"a name of a private host": {
			events:  []string{"to db.corp.example 5432 10.1.2.3", "to meta.example 80 169.254.169.254", "to self.example 80 127.0.0.1"},
			options: []string{"allow 10.1.2.3"},
			notes:   []string{"meta.example resolves to an address that is metadata", "self.example resolves to an address that is loopback"},
		},
		"this machine": {
			events:  []string{"dns host.berth.internal", "conn host.berth.internal 5432"},
			options: []string{"allow host.berth.internal:5432"},
		},
		"a scan": {events: countedEvents(20, "conn a.example 10%d"), options: []string{"allow a.example:100-109,1010-1019"}},
		"what is no name": {
			events: []string{"conn a..b 443", "conn 2130706433 80", "conn $(reboot).example 443"},
			notes:  []string{"3 times, last", "no host name"},
		},
		"a path that no rule can have": {
			events: []string{"http a.example 443 GET /a//b"},
			policy: []string{"allow a.example POST"},
			notes:  []string{"no rule can be written"},
		},
	} {
		from := suggestFrom{}
		if c.policy != nil {
			from.policy = rules(t, c.policy...)
		}
		events := denied(t, c.events...)
		s := suggest(events, from)
		got := texts(s.rules)
		slices.Sort(got)
		slices.Sort(c.rules)
		if !slices.Equal(got, c.rules) {
			t.Errorf("%s: rules %q, want %q", what, got, c.rules)
		}
		if got := texts(s.options); !slices.Equal(got, c.options) {
			t.Errorf("%s: options %q, want %q", what, got, c.options)
		}
		notes := strings.Join(s.notes, "\n")
		for _, part := range c.notes {
			if !strings.Contains(notes, part) {
				t.Errorf("%s: %q lacks %q", what, notes, part)
			}
		}
		if c.notes == nil && notes != "" {
			t.Errorf("%s: notes %q", what, notes)
		}
	}
}

func countedEvents(n int, format string) []string {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf(format, i))
	}
	return all
}

// TestSuggestedRulesAllow: what was proposed allows what was denied.
func TestSuggestedRulesAllow(t *testing.T) {
	events := denied(t, "conn a.example 443", "dns b.example", "addr 203.0.113.7 8080", "http c.example 443 GET /x/y", "http c.example 443 PATCH /z")
	before := rules(t, "allow c.example:443 GET /allowed")
	s := suggest(events, suggestFrom{policy: before})
	all := before.Rules()
	for _, r := range s.rules {
		r.rule.Scope = policy.ScopeSandbox
		all = append(all, r.rule)
	}
	after := policy.New(all)
	if left := suggest(events, suggestFrom{policy: after}); len(left.rules)+len(left.options)+len(left.notes) > 0 {
		t.Errorf("%q still need rules", texts(left.rules))
	}
}

func TestSuggestNotesRules(t *testing.T) {
	events := denied(t, "conn a.example 443", "conn a.example 443", "conn b.example 443")
	for i := range 2 {
		events[i].Rule, events[i].Origin, events[i].Reason = "deny **.example", "user (/x/policy.toml)", "denied by user: deny **.example"
	}
	events[2].Reason = "the TLS client named c.example, the connection is for b.example"
	s := suggest(events, suggestFrom{})
	if len(s.rules)+len(s.options) > 0 || len(s.notes) != 2 ||
		!strings.Contains(s.notes[0], `2 times, last`) && !strings.Contains(s.notes[1], `denied by the rule "deny **.example" of user (/x/policy.toml)`) {
		t.Errorf("%q, %q", texts(s.rules), s.notes)
	}
}

func TestSuggestUsed(t *testing.T) {
	events := denied(t, "conn a.example 443", "dns c.example", "http api.github.com 443 GET /x", "http api.github.com 443 GET /y", "conn denied.example 443")
	for i := range events[:4] {
		events[i].Verdict, events[i].Reason, events[i].Rule = audit.Allow, "", "allow **"
	}
	s := suggest(events, suggestFrom{used: true, policy: rules(t, "allow **")})
	if got := texts(s.rules); !slices.Equal(got, []string{"allow api.github.com:443", "allow a.example:443"}) || !s.rules[0].balanced || s.rules[1].balanced || s.rules[0].count != 2 {
		t.Errorf("%q: %+v", got, s.rules)
	}
}

// TestSuggestIsBounded: a guest may leave any number of names, ports and paths.
func TestSuggestIsBounded(t *testing.T) {
	c := newCollector(suggestFrom{})
	for i := range maxPlaces + 500 {
		c.add(denied(t, fmt.Sprintf("conn %d.tunnel.example 443", i))[0])
	}
	for i := range 5 * maxRequests {
		c.add(denied(t, fmt.Sprintf("http 0.tunnel.example 443 GET /%d", i))[0])
	}
	for i := range 10 * maxNotes {
		e := denied(t, "conn x.example 443")[0]
		e.Reason = fmt.Sprint("other ", i)
		c.add(e)
	}
	s := c.suggestions()
	if len(s.rules) > maxPlaces+10 || len(s.notes) > maxNotes+2 {
		t.Errorf("%d rules, %d notes", len(s.rules), len(s.notes))
	}
}

// TestSuggestedCommands: a shell reads back exactly what was meant, whatever the
// guest chose.
func TestSuggestedCommands(t *testing.T) {
	place := logPlace{name: "box", exists: true}
	for _, path := range []string{"/a", "/$(touch${IFS}x)", "/`id`", `/a'b"c`, "/a;b&c|d>e", "/~", "/é", "/!x", "/**", "-x"} {
		r := policy.Rule{Verdict: policy.Allow, Methods: []string{"GET", "M-SEARCH"}, Paths: []string{path}}
		r.Host, _ = policy.ParseHost("**.example.com")
		line := suggested{rule: r}.command(place)
		out, err := exec.Command("sh", "-c", "berth() { printf '%s\\n' \"$@\"; }; "+line).Output()
		want := "policy\nallow\n**.example.com\n--method\nGET\n--method\nM-SEARCH\n--path\n" + path + "\n--sandbox\nbox\n"
		if err != nil || string(out) != want {
			t.Errorf("%s: %q, %v", line, out, err)
		}
	}
}

package policy

import (
	"net/netip"
	"strings"
	"testing"
)

// rules reads one rule a line, with its scope in front: "user allow x.io".
func rules(t testing.TB, text string) []Rule {
	t.Helper()
	var all []Rule
	for line := range strings.Lines(text) {
		scope, rule, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok {
			continue
		}
		r, err := ParseText(rule)
		if err != nil {
			t.Fatal(err)
		}
		for i, name := range scopeNames {
			if name == scope {
				r.Scope = Scope(i)
			}
		}
		all = append(all, r)
	}
	return all
}

// ask reads "HOST:PORT [METHOD PATH]".
func ask(t testing.TB, text string) Request {
	t.Helper()
	fields := strings.Fields(text)
	r, err := ParseRule(Deny, fields[0])
	if err != nil {
		t.Fatal(err)
	}
	req := Request{Host: r.Host.name}
	if r.Prefix.IsValid() {
		req.Addr = r.Prefix.Addr()
	}
	if len(r.Ports) > 0 {
		req.Port = r.Ports[0].First
	}
	if len(fields) > 1 {
		req.HTTP = &HTTP{Method: fields[1], Path: fields[2]}
	}
	return req
}

func TestDecide(t *testing.T) {
	const policy = `
		preset allow **.github.com:22,80,443
		preset allow github.com:22,80,443
		preset deny **:853
		preset deny dns.google
		preset deny **.adguard-dns.com
		user allow api.example.com:443 GET,HEAD /v1/**
		user allow api.example.com:443 POST /v1/items
		user deny evil.github.com
		user deny uploads.github.com:443 POST
		user allow wide.example.com
		user allow wide.example.com GET /x
		user allow look.example.com:443 inspect
		user allow dns.google:443
		user allow *.adguard-dns.com
		user allow 10.0.0.7:5432
		user allow 192.168.0.0/16
		user deny 192.168.1.1
		user allow 203.0.113.0/24:80
		user deny 203.0.113.9
		user allow 0.0.0.0/0:8080
		user allow host.berth.internal:5432
		user allow **.berth.internal
		sandbox allow files.example.com GET /pub/**
		sandbox deny files.example.com GET /pub/secret/**
		project deny blocked.example.com
		sandbox allow blocked.example.com
		agent allow dns.google:8443
		sandbox allow 100.64.0.0/10
		sandbox allow 169.254.0.0/16
		sandbox allow fd00::/8
	`
	p := New(rules(t, policy))
	const (
		deny    = "deny"
		nothing = "nothing" // no rule allows it
		allow   = "allow"
		inspect = "inspect"
	)
	for _, tt := range []struct{ ask, want, rule string }{
		{"api.github.com:443", allow, "**.github.com"},
		{"api.github.com", allow, "**.github.com"},
		{"github.com:22", allow, "github.com"},
		{"github.com:23", nothing, ""},
		{"gihub.com:443", nothing, ""},
		{"evil.github.com:443", deny, "deny evil.github.com"},
		{"evil.github.com", deny, "deny evil.github.com"},
		{"x.github.com:853", deny, "**:853"},
		{"nowhere.net:853", deny, "**:853"},
		{"nowhere.net", nothing, ""},

		// A deny with conditions makes the connection one that is looked at.
		{"uploads.github.com:443", inspect, "**.github.com"},
		{"uploads.github.com:22", allow, "**.github.com"},
		{"uploads.github.com:443 GET /", allow, "**.github.com"},
		{"uploads.github.com:443 POST /", deny, "POST"},

		{"api.example.com:443", inspect, "GET,HEAD"},
		{"api.example.com", allow, "GET,HEAD"},
		{"api.example.com:80", nothing, ""},
		{"api.example.com:443 GET /v1/a", allow, "GET,HEAD"},
		{"api.example.com:443 POST /v1/items", allow, "POST"},
		{"api.example.com:443 POST /v1/other", nothing, ""},
		{"api.example.com:443 get /v1/a", nothing, ""}, // methods are case-sensitive
		{"api.example.com:443 GET /v2", nothing, ""},
		{"api.example.com:443 GET /v1/../v2", nothing, ""},
		{"api.example.com:443 GET /v1/%2e%2e/v2", nothing, ""},
		{"api.example.com:443 GET /v1%2f..%2fv2", nothing, ""},
		{"api.example.com:443 GET /v1/..%2fv2", nothing, ""},
		{"api.example.com:443 GET /v1/%252e%252e/v2", nothing, ""},
		{"api.example.com:443 GET /v1/..;/v2", nothing, ""},
		{`api.example.com:443 GET /v1\..\v2`, nothing, ""},
		{"api.example.com:443 GET /v2/../v1/a", nothing, ""}, // as sent it is below /v2
		{"api.example.com:443 GET /v1/a%00", nothing, ""},
		{"api.example.com:443 GET /v1//a", allow, "GET,HEAD"},

		{"wide.example.com:443", allow, "wide.example.com"},
		{"wide.example.com:443 POST /%zz", allow, "wide.example.com"}, // no rule asks for its path
		{"look.example.com:443", inspect, "inspect"},

		{"files.example.com:443 GET /pub/a", allow, "/pub/**"},
		{"files.example.com:443 GET /pub/secret/a", deny, "/pub/secret"},
		{"files.example.com:443 GET /pub/secret", deny, "/pub/secret"},
		{"files.example.com:443 GET /pub/x/../secret/a", deny, "/pub/secret"},
		{"files.example.com:443 GET /pub//secret/a", deny, "/pub/secret"},
		{"files.example.com:443 GET /pub/secret;a=b/c", deny, "/pub/secret"},
		{"files.example.com:443 GET /pub/%73ecret/a", deny, "/pub/secret"},
		{"files.example.com:443 GET /pub/%2573ecret/a", deny, "/pub/secret"},
		{"files.example.com:443 GET /pub%2fsecret/a", deny, "/pub/secret"},
		{"files.example.com:443 GET /pub/%zz", deny, "/pub/secret"}, // it may mean that
		{"files.example.com:443 PUT /pub/%zz", nothing, ""},

		// A preset's deny yields to the user's word about that very host only.
		{"dns.google:443", allow, "dns.google:443"},
		{"dns.google:80", deny, "deny dns.google"},
		{"dns.google:8443", deny, "deny dns.google"},
		{"dns.google", allow, "dns.google:443"},
		{"a.adguard-dns.com:443", deny, "**.adguard-dns.com"},
		{"blocked.example.com:443", deny, "deny blocked.example.com"},

		{"host.berth.internal:5432", allow, "host.berth.internal:5432"},
		{"host.berth.internal", allow, "host.berth.internal:5432"},
		{"host.berth.internal:5433", nothing, ""},
		{"host.berth.internal:853", deny, "**:853"},
		{"x.berth.internal:5433", allow, "**.berth.internal"},

		{"10.0.0.7:5432", allow, "10.0.0.7"},
		{"::ffff:10.0.0.7", allow, "10.0.0.7"},
		{"10.0.0.7:80", nothing, ""},
		{"10.0.0.8:5432", nothing, ""},
		{"10.0.0.8:8080", nothing, ""}, // 0.0.0.0/0 does not mean it
		{"192.168.7.7:1", allow, "192.168.0.0/16"},
		{"192.168.1.1:1", deny, "192.168.1.1"},
		{"203.0.113.7:80", allow, "203.0.113.0/24"},
		{"203.0.113.7:81", nothing, ""},
		{"203.0.113.9:80", deny, "203.0.113.9"},
		{"[64:ff9b::203.0.113.9]:80", deny, "203.0.113.9"},
		{"8.8.8.8:8080", allow, "0.0.0.0/0"},
		{"127.0.0.1:8080", nothing, ""},
		{"0.0.0.0:8080", nothing, ""},
		{"169.254.169.254:8080", nothing, ""}, // metadata, opened range or not
		{"169.254.1.1:80", allow, "169.254.0.0/16"},
		{"100.64.0.1:80", allow, "100.64.0.0/10"},
		{"100.100.100.200:80", nothing, ""},
		{"[fd00::1]:80", allow, "fd00::/8"},
		{"[fd00:ec2::254]:80", nothing, ""},
		{"[64:ff9b::10.0.0.7]:5432", nothing, ""},
		{"224.0.0.1:8080", nothing, ""},
	} {
		d := p.Decide(ask(t, tt.ask))
		got := d.Verdict.String()
		switch {
		case d.Verdict == Deny && d.Rule == nil:
			got = nothing
		case d.Inspect:
			got = inspect
		}
		if got != tt.want || tt.rule != "" && !strings.Contains(d.Rule.String(), tt.rule) {
			t.Errorf("%s: %s by %v, want %s by %s", tt.ask, got, d.Rule, tt.want, tt.rule)
		}
		if d.Reason == "" || d.Rule != nil && !strings.Contains(d.Reason, d.Rule.String()) {
			t.Errorf("%s: the reason is %q", tt.ask, d.Reason)
		}
		if d.Default && (d.Verdict == Allow || d.Rule != nil) {
			t.Errorf("%s is a default: %+v", tt.ask, d)
		}
	}
	for q, want := range map[string]bool{
		"gihub.com:443": true, "host.berth.internal:1": true, "10.0.0.8:1": true, "127.0.0.1:1": false,
		"169.254.169.254:80": false, "224.0.0.1:1": false, "9.9.9.9:1": true, "evil.github.com:443": false,
	} {
		if d := p.Decide(ask(t, q)); d.Default != want {
			t.Errorf("%s: default is %v", q, d.Default)
		}
	}
}

func TestDecideNothing(t *testing.T) {
	for name, p := range map[string]*Policy{"nil": nil, "zero": {}, "empty": New(nil)} {
		for _, q := range []string{"example.com:443", "8.8.8.8:443", "host.berth.internal:80", "example.com"} {
			if d := p.Decide(ask(t, q)); d.Verdict != Deny || d.Rule != nil {
				t.Errorf("%s policy: %s: %+v", name, q, d)
			}
		}
		if _, ok := p.OpensAddr(netip.MustParseAddr("10.0.0.1"), 0); ok {
			t.Errorf("%s policy opens an address", name)
		}
		if len(p.Rules()) != 0 {
			t.Errorf("%s policy has rules", name)
		}
	}
	if d := New(nil).Decide(Request{}); d.Verdict != Deny || d.Default {
		t.Errorf("no place at all: %+v", d)
	}
	if d := New(rules(t, "user allow ::/0")).Decide(Request{Addr: netip.MustParseAddr("2606::1%eth0"), Port: 1}); d.Verdict != Deny {
		t.Errorf("a zone: %+v", d)
	}
}

// A deny rule that cannot be understood must not be lost, an allow rule must.
func TestDecideInvalid(t *testing.T) {
	ok := rules(t, "user allow **")
	bad := Rule{Verdict: Deny, Host: Host{hostExact, "x.io"}, Paths: []string{"no path"}}
	p := New(append(ok, bad))
	if d := p.Decide(ask(t, "y.io:443")); d.Verdict != Deny || d.Rule == nil {
		t.Errorf("%+v", d)
	}
	if _, open := p.OpensAddr(netip.MustParseAddr("10.0.0.1"), 1); open {
		t.Error("opens an address")
	}
	if _, denied := p.DeniesAddr(netip.MustParseAddr("8.8.8.8"), 1); !denied {
		t.Error("does not deny an address")
	}
	bad.Verdict = Allow
	if d := New([]Rule{bad, {Verdict: Allow}, {Verdict: Allow, Host: Host{hostExact, HostName}}}).Decide(ask(t, "x.io:443 GET /")); d.Verdict != Deny {
		t.Errorf("%+v", d)
	}
}

func TestAddresses(t *testing.T) {
	p := New(rules(t, `
		preset allow 0.0.0.0/0
		preset allow ::/0
		preset deny 0.0.0.0/0:853
		preset allow 10.9.0.0/16
		user allow 10.0.0.0/8:5432
		user deny 10.6.6.6
		sandbox allow 169.254.0.0/16
		user allow fe80::/10
		user deny 9.9.9.0/24
		user deny 7.7.7.7:25
	`))
	for _, tt := range []struct {
		addr   string
		port   uint16
		opened bool
	}{
		{"10.1.2.3", 5432, true}, {"10.1.2.3", 0, true}, {"10.1.2.3", 80, false}, {"::ffff:10.1.2.3", 5432, true},
		{"10.6.6.6", 5432, false}, {"10.9.0.1", 80, false}, {"192.168.0.1", 5432, false},
		{"127.0.0.1", 5432, false}, {"8.8.8.8", 5432, false}, {"169.254.169.254", 80, false}, {"169.254.7.7", 80, true},
		{"fe80::1", 80, true}, {"fe80::a9fe:a9fe", 80, false}, {"64:ff9b::10.1.2.3", 5432, false}, {"0.0.0.0", 1, false},
	} {
		rule, ok := p.OpensAddr(netip.MustParseAddr(tt.addr), tt.port)
		if ok != tt.opened || ok && rule == nil {
			t.Errorf("OpensAddr(%s, %d) = %v, %v", tt.addr, tt.port, rule, ok)
		}
	}
	for _, tt := range []struct {
		addr   string
		port   uint16
		denied bool
	}{
		{"9.9.9.9", 443, true}, {"64:ff9b::9.9.9.9", 443, true}, {"10.6.6.6", 1, true}, {"7.7.7.7", 25, true},
		{"7.7.7.7", 26, false}, {"8.8.8.8", 853, false}, {"8.8.8.8", 443, false},
	} {
		if rule, ok := p.DeniesAddr(netip.MustParseAddr(tt.addr), tt.port); ok != tt.denied {
			t.Errorf("DeniesAddr(%s, %d) = %v, %v", tt.addr, tt.port, rule, ok)
		}
	}
}

// What callers do to their slices does not reach a policy.
func TestPolicyIsImmutable(t *testing.T) {
	in := rules(t, "user allow x.io:443 GET /a")
	p := New(in)
	in[0].Verdict, in[0].Methods[0], in[0].Ports[0] = Deny, "POST", PortRange{1, 1}
	out := p.Rules()
	out[0].Methods[0] = "PUT"
	if d := p.Decide(ask(t, "x.io:443 GET /a")); d.Verdict != Allow {
		t.Errorf("%+v", d)
	}
}

func BenchmarkDecide(b *testing.B) {
	preset, err := Preset(PresetBalanced)
	if err != nil {
		b.Fatal(err)
	}
	p := New(append(preset, rules(b, "user allow api.example.com:443 GET /v1/**")...))
	for _, q := range []string{"registry.npmjs.org:443", "nowhere.example.net:443", "api.example.com:443 GET /v1/items/7", "registry.npmjs.org"} {
		req := ask(b, q)
		b.Run(q, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				p.Decide(req)
			}
		})
	}
}

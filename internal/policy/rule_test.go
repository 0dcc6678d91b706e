package policy

import (
	"slices"
	"strings"
	"testing"
)

// golden are rules as people write them and as Berth prints them.
var golden = []struct{ in, out string }{
	{"allow example.com", "allow example.com"},
	{"deny  Example.COM.", "deny example.com"},
	{"allow *.example.com:443", "allow *.example.com:443"},
	{"allow **.github.com:443,22,80", "allow **.github.com:22,80,443"},
	{"allow x.io:8000-8100,8050-8200,80,81", "allow x.io:80,81,8000-8200"},
	{"allow **", "allow **"},
	{"deny **:853", "deny **:853"},
	{"allow bücher.example:80", "allow xn--bcher-kva.example:80"},
	{"allow api.github.com:443 get,HEAD,GET /repos/** /user", "allow api.github.com:443 GET,HEAD /repos/** /user"},
	{"allow api.github.com /repos/*/x", "allow api.github.com /repos/*/x"},
	{"allow api.github.com POST", "allow api.github.com POST"},
	{"allow api.github.com:443 inspect", "allow api.github.com:443 inspect"},
	{"allow api.github.com GET / inspect", "allow api.github.com GET / inspect"},
	{"deny api.github.com DELETE", "deny api.github.com DELETE"},
	{"allow 10.0.0.7", "allow 10.0.0.7"},
	{"allow 10.0.0.7/32:5432", "allow 10.0.0.7:5432"},
	{"allow 10.0.0.0/8:80", "allow 10.0.0.0/8:80"},
	{"allow fd00::1", "allow fd00::1"},
	{"allow [FD00::1]:443", "allow [fd00::1]:443"},
	{"allow [fd00::/8]:443,80", "allow [fd00::/8]:80,443"},
	{"allow [fd00::/8]", "allow fd00::/8"},
	{"deny ::/0", "deny ::/0"},
	{"allow ::ffff:10.0.0.7", "allow 10.0.0.7"},
	{"allow ::ffff:10.0.0.0/104", "allow 10.0.0.0/8"},
	{"allow host.berth.internal:5432", "allow host.berth.internal:5432"},
	{"deny host.berth.internal", "deny host.berth.internal"},
}

func TestRuleGolden(t *testing.T) {
	for _, tt := range golden {
		r, err := ParseText(tt.in)
		if err != nil {
			t.Errorf("%s: %v", tt.in, err)
			continue
		}
		if got := r.String(); got != tt.out {
			t.Errorf("%s prints as %s, want %s", tt.in, got, tt.out)
		}
		again, err := ParseText(r.String())
		if err != nil || !again.Same(r) {
			t.Errorf("%s comes back as %s, %v", r, again, err)
		}
	}
}

func TestRuleRefuses(t *testing.T) {
	for in, want := range map[string]string{
		"":                              "no rule",
		"allow":                         "no rule",
		"permit example.com":            "no rule",
		"allow https://example.com":     "URL",
		"allow example.com:":            "no target",
		"allow :443":                    "no target",
		"allow example.com:0":           "no port",
		"allow example.com:65536":       "no port",
		"allow example.com:0443":        "no port",
		"allow example.com:+443":        "no port",
		"allow example.com:443-80":      "no port",
		"allow example.com:80,":         "no port",
		"allow example.com:http":        "no port",
		"allow [fd00::1]443":            "no target",
		"allow [fd00::1]:":              "no target",
		"allow [fd00::1":                "no target",
		"allow [10.0.0.1]:80":           "no target",
		"allow [example.com]:80":        "no target",
		"allow fd00::1:zz":              "no address",
		"allow fe80::1%eth0":            "zone",
		"allow 10.0.0.1/8":              "did you mean 10.0.0.0/8",
		"allow 10.0.0.0/33":             "no range",
		"allow ::ffff:0.0.0.0/90":       "mixes",
		"allow 127.1":                   "ends in a number",
		"allow 0x7f000001":              "ends in a number",
		"allow 010.0.0.1":               "ends in a number",
		"allow 2130706433":              "ends in a number",
		"allow *":                       "write **",
		"allow a.*.com":                 "in front",
		"allow host.berth.internal":     "say which ports",
		"allow example.com G(T":         "method",
		"allow example.com repos/":      "method",
		"allow example.com /a/../b":     "dot segment",
		"allow example.com /a/%2e%2E/b": "dot segment",
		"allow example.com /a//b":       "empty segment",
		"allow example.com /a?b":        "character",
		"allow example.com /a#b":        "character",
		`allow example.com /a\b`:        "character",
		"allow example.com /a%zz":       "percent",
		"allow example.com /a%":         "percent",
		"allow example.com /a**":        "whole segments",
		"allow example.com /" + strings.Repeat("x", 2000): "longer",
		"deny example.com inspect":                        "inspect goes with allow",
	} {
		r, err := ParseText(in)
		if err == nil {
			t.Errorf("%q parses as %s", in, r)
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q in it", in, err, want)
		}
	}
	many := "allow x.io:1" + strings.Repeat(",2", 300)
	if _, err := ParseText(many); err == nil {
		t.Error("ports without bound")
	}
	if err := (Rule{}).Check(); err == nil {
		t.Error("the zero Rule is valid")
	}
}

func TestRuleOrigin(t *testing.T) {
	for want, r := range map[string]Rule{
		"preset balanced":                 {Scope: ScopePreset, Preset: "balanced"},
		"user (/c/policy.toml)":           {Scope: ScopeUser, File: "/c/policy.toml"},
		"user":                            {Scope: ScopeUser},
		"project (/w/.berth/policy.toml)": {Scope: ScopeProject, File: "/w/.berth/policy.toml"},
		"sandbox":                         {Scope: ScopeSandbox},
		"agent claude":                    {Scope: ScopeAgent, Preset: "claude"},
	} {
		if got := r.Origin(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func FuzzParseRule(f *testing.F) {
	for _, tt := range golden {
		f.Add(tt.in)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ParseText(text)
		if err != nil {
			return
		}
		if err := r.Check(); err != nil {
			t.Fatalf("%q parses as %s, which is not valid: %v", text, r, err)
		}
		again, err := ParseText(r.String())
		if err != nil || !again.Same(r) || again.String() != r.String() {
			t.Fatalf("%q parses as %s, which comes back as %s, %v", text, r, again, err)
		}
		if clean, err := r.Clean(); err != nil || !clean.Same(r) {
			t.Fatalf("%s is not clean: %s, %v", r, clean, err)
		}
		if r.Host.Exact() == r.Prefix.IsValid() && r.Host.Exact() {
			t.Fatalf("%s is about a host and about addresses", r)
		}
		p := New([]Rule{r})
		if rules := p.Rules(); len(rules) != 1 || !rules[0].Same(r) {
			t.Fatalf("compiled, %s is %v", r, rules)
		}
		if d := p.Decide(Request{Host: "a.example", Port: 443}); r.Verdict == Deny && d.Verdict == Allow {
			t.Fatalf("%s allows", r)
		}
	})
}

func TestPorts(t *testing.T) {
	ports, err := ParsePorts("443,1-3,2-5,65535")
	if err != nil || FormatPorts(ports) != "1-5,443,65535" {
		t.Error(ports, err)
	}
	if !slices.Equal(joinPorts(nil), nil) {
		t.Error("ports of nothing")
	}
}

package policy

import (
	"strings"
	"testing"
)

func TestNormalizeName(t *testing.T) {
	long := strings.Repeat("a", 63)
	for in, want := range map[string]string{
		"example.com":              "example.com",
		"EXAMPLE.Com":              "example.com",
		"example.com.":             "example.com",
		"localhost":                "localhost",
		"_dmarc.example.com":       "_dmarc.example.com",
		"_443._tcp.example.com":    "_443._tcp.example.com",
		"r3---sn-abc.example.com":  "r3---sn-abc.example.com",
		"1.2.3.4.in-addr.arpa":     "1.2.3.4.in-addr.arpa",
		"10.example.com":           "10.example.com",
		"0xg":                      "0xg",
		"bücher.example":           "xn--bcher-kva.example",
		"BÜCHER.example":           "xn--bcher-kva.example",
		"xn--bcher-kva.example":    "xn--bcher-kva.example",
		"XN--BCHER-KVA.example":    "xn--bcher-kva.example",
		"faß.de":                   "xn--fa-hia.de",            // not "fass": non-transitional
		"ｅｘａｍｐｌｅ.com":              "example.com",              // full width
		"example。com":              "example.com",              // ideographic full stop
		"example．com｡":             "example.com",              // full width and half width dots
		"exam\u00adple.com":        "example.com",              // soft hyphen
		"аpple.com":                "xn--pple-43d.com",         // Cyrillic а: another name than apple.com
		"apple.com":                "apple.com",                //
		"ΑΒΓ.gr":                   "xn--mxacd.gr",             // Greek capitals
		"日本語.jp":                   "xn--wgv71a119e.jp",        //
		long + ".com":              long + ".com",              // 63 bytes
		"K.example":                "k.example",                // Kelvin sign
		"a.b.c.d.e.f.g.example.io": "a.b.c.d.e.f.g.example.io", //
	} {
		got, err := NormalizeName(in)
		if err != nil || got != want {
			t.Errorf("NormalizeName(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
}

// The last group are the notations in which some resolver reads an address.
func TestNormalizeNameRefuses(t *testing.T) {
	for _, in := range []string{
		"", ".", "..", "a..b", ".a", "a. ", " a", "a b", "a\tb", "a\x00b", "a\nb", "a\x7fb", "a/b", "a:b", "a@b", "a?b", "a#b",
		"a%b", "a%2eb", "[a]", "*.example.com", "a*.b", "a,b", "a\\b", "a;b", "\xff.com", "a\u200b..b", "http://a",
		strings.Repeat("a", 64) + ".com", strings.Repeat("a.", 127) + "aa", strings.Repeat("x", 5000),
		strings.Repeat("ü", 60) + ".com",
		"xn--.com", "xn--a.com", "xn--example-.com", "xn--abc-.com", "xn--BÜCHER.de",
		"xn--ls8h\u00fc.example", "℀.com", "a⒈com", "a\u2024com", "\u202eabc.com", "a\u200db.com",

		"127.0.0.1", "127.0.0.1.", "127.1", "127.0.1", "0", "2130706433", "017700000001", "0x7f000001", "0X7F000001",
		"0x7f.1", "0x7f.0.0.0x1", "0177.0.0.1", "127.0.0.0x", "1.2.3.08", "256.256.256.256", "99999999999", "1.2.3.4.5",
		"example.123", "example.0x1f", "１２７.０.０.１", "①②⑦.0.0.1", "127。0。0。1", "::1", "[::1]", "fe80::1%eth0",
		"::ffff:127.0.0.1", "0:0:0:0:0:0:0:1",
	} {
		if got, err := NormalizeName(in); err == nil {
			t.Errorf("NormalizeName(%q) = %q", in, got)
		} else if len(err.Error()) > 400 {
			t.Errorf("NormalizeName(%.20q...): an error of %d bytes", in, len(err.Error()))
		}
	}
}

func TestHost(t *testing.T) {
	for _, tt := range []struct {
		pattern, text string
		match, not    string // names, separated by space
	}{
		{"example.com", "example.com", "example.com", "a.example.com xexample.com example.com.evil.net com"},
		{"Example.COM.", "example.com", "example.com", "EXAMPLE.COM example.com."}, // Match wants normalised names
		{"*.example.com", "*.example.com", "a.example.com", "example.com a.b.example.com xexample.com .example.com"},
		{"**.example.com", "**.example.com", "a.example.com a.b.example.com", "example.com xexample.com .example.com"},
		{"**", "**", "a example.com a.b.c", "host.berth.internal"},
		{"*.berth.internal", "*.berth.internal", "x.berth.internal", "host.berth.internal"},
		{"**.internal", "**.internal", "a.internal b.berth.internal", "host.berth.internal internal"},
		{"host.berth.internal", "host.berth.internal", "host.berth.internal", "x.host.berth.internal"},
		{"**.bücher.example", "**.xn--bcher-kva.example", "a.xn--bcher-kva.example", "xn--bcher-kva.example"},
		{"*.com", "*.com", "example.com", "a.example.com com"},
	} {
		h, err := ParseHost(tt.pattern)
		if err != nil || h.String() != tt.text {
			t.Errorf("ParseHost(%q) = %q, %v", tt.pattern, h, err)
			continue
		}
		for name := range strings.FieldsSeq(tt.match) {
			if !h.Match(name) {
				t.Errorf("%s does not match %q", h, name)
			}
		}
		for name := range strings.FieldsSeq(tt.not) {
			if h.Match(name) {
				t.Errorf("%s matches %q", h, name)
			}
		}
		if h.Match("") {
			t.Errorf("%s matches nothing", h)
		}
	}
	if (Host{}).Match("") || (Host{}).Match("a") || (Host{}).String() != "" {
		t.Error("the zero Host matches")
	}
	for _, bad := range []string{
		"", "*", "***", "*.", "**.", "*.*", "*.*.com", "**.*.com", "a.*.com", "a*.com", "*a.com", "***.com", "example.*",
		"*.1", "**.0x7f", "127.0.0.1", "10.0.0.0/8", "https://example.com", "example.com/x", "exa mple.com", "*.a..b", ".", "**..",
	} {
		if h, err := ParseHost(bad); err == nil {
			t.Errorf("ParseHost(%q) = %q", bad, h)
		}
	}
}

// FuzzNormalizeName holds that what comes out is canonical and safe to compare.
func FuzzNormalizeName(f *testing.F) {
	for _, s := range []string{"example.com", "BÜCHER.de.", "xn--bcher-kva.example", "127.0.0.1", "ａ。ｂ", "xn--a", "a\u00adb.c", "faß.de", "_x.y"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		name, err := NormalizeName(s)
		if err != nil {
			return
		}
		if again, err := NormalizeName(name); err != nil || again != name {
			t.Fatalf("%q normalises to %q, and that to %q, %v", s, name, again, err)
		}
		if upper, err := NormalizeName(strings.ToUpper(name) + "."); err != nil || upper != name {
			t.Fatalf("%q in capitals is %q, %v", name, upper, err)
		}
		if name == "" || len(name) > maxName || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-_.") != "" {
			t.Fatalf("%q normalises to %q", s, name)
		}
		for l := range strings.SplitSeq(name, ".") {
			if l == "" || len(l) > maxLabel {
				t.Fatalf("%q has a label %q", name, l)
			}
		}
		if _, ok, err := parsePrefix(name); ok || err != nil {
			t.Fatalf("%q is an address", name)
		}
		h, err := ParseHost(s)
		if err != nil || !h.Exact() || !h.match(name) {
			t.Fatalf("ParseHost(%q) = %v, %v", s, h, err)
		}
	})
}

func FuzzParseHost(f *testing.F) {
	for _, s := range []string{"**", "*.example.com", "**.example.com", "example.com", "*", "**.*.a", "*.ü.de"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		h, err := ParseHost(s)
		if err != nil {
			return
		}
		if again, err := ParseHost(h.String()); err != nil || again != h {
			t.Fatalf("%q is %s, which is %s, %v", s, h, again, err)
		}
		if h.Match(HostName) && h.String() != HostName {
			t.Fatalf("%s matches the host's loopback", h)
		}
		if !h.Exact() && h.match(h.name) && h.kind != hostAny {
			t.Fatalf("%s matches what it is below", h)
		}
	})
}

func BenchmarkNormalizeName(b *testing.B) {
	for b.Loop() {
		if _, err := NormalizeName("registry.npmjs.org."); err != nil {
			b.Fatal(err)
		}
	}
}

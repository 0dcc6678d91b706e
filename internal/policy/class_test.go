package policy

import (
	"fmt"
	"net/netip"
	"testing"
)

// registry is IANA's special-purpose address registries, both families, first
// and last address of each entry, and what Berth makes of it.
var registry = []struct {
	prefix string
	want   Class
	rfc    string
}{
	{"0.0.0.0/8", Unspecified, "RFC 791"},
	{"0.0.0.0/32", Unspecified, "RFC 1122"},
	{"10.0.0.0/8", Private, "RFC 1918"},
	{"100.64.0.0/10", CGNAT, "RFC 6598"},
	{"127.0.0.0/8", Loopback, "RFC 1122"},
	{"169.254.0.0/16", LinkLocal, "RFC 3927"},
	{"172.16.0.0/12", Private, "RFC 1918"},
	{"192.0.0.0/24", Reserved, "RFC 6890"},
	{"192.0.0.0/29", Reserved, "RFC 7335"},
	{"192.0.0.8/32", Reserved, "RFC 7600"},
	{"192.0.0.9/32", Reserved, "RFC 7723"},
	{"192.0.0.10/32", Reserved, "RFC 8155"},
	{"192.0.0.170/31", Reserved, "RFC 8880"},
	{"192.0.2.0/24", Public, "RFC 5737, documentation"},
	{"192.31.196.0/24", Public, "RFC 7535"},
	{"192.52.193.0/24", Public, "RFC 7450"},
	{"192.88.99.0/24", Reserved, "RFC 7526"},
	{"192.168.0.0/16", Private, "RFC 1918"},
	{"192.175.48.0/24", Public, "RFC 7534"},
	{"198.18.0.0/15", Benchmark, "RFC 2544"},
	{"198.51.100.0/24", Public, "RFC 5737, documentation"},
	{"203.0.113.0/24", Public, "RFC 5737, documentation"},
	{"240.0.0.0/5", Reserved, "RFC 1112"},
	{"255.255.255.255/32", Broadcast, "RFC 919"},
	{"224.0.0.0/4", Multicast, "RFC 5771"},

	{"::1/128", Loopback, "RFC 4291"},
	{"::/128", Unspecified, "RFC 4291"},
	{"64:ff9b:1::/48", Private, "RFC 8215"},
	{"100::/64", Reserved, "RFC 6666"},
	{"100:0:0:1::/64", Reserved, "RFC 9780"},
	{"2001:1::1/128", Reserved, "RFC 7723"},
	{"2001:1::2/128", Reserved, "RFC 8155"},
	{"2001:1::3/128", Reserved, "RFC 9665"},
	{"2001:2::/48", Benchmark, "RFC 5180"},
	{"2001:3::/32", Reserved, "RFC 7450"},
	{"2001:4:112::/48", Reserved, "RFC 7535"},
	{"2001:10::/28", Reserved, "RFC 4843"},
	{"2001:20::/28", Reserved, "RFC 7343"},
	{"2001:30::/28", Reserved, "RFC 9374"},
	{"2001:db8::/32", Public, "RFC 3849, documentation"},
	{"2620:4f:8000::/48", Public, "RFC 7534"},
	{"3fff::/20", Public, "RFC 9637, documentation"},
	{"5f00::/16", Reserved, "RFC 9602"},
	{"fc00::/7", Private, "RFC 4193"},
	{"fe80::/10", LinkLocal, "RFC 4291"},
	{"fec0::/10", Private, "RFC 3879"},
	{"ff00::/8", Multicast, "RFC 4291"},
	{"4000::/3", Reserved, "RFC 4291: not given out"},
	{"200::/7", Reserved, "RFC 4048"},
}

// last returns the highest address of a prefix.
func last(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

func TestClassifyAgainstRegistry(t *testing.T) {
	for _, tt := range registry {
		p := netip.MustParsePrefix(tt.prefix)
		for _, a := range []netip.Addr{p.Addr(), last(p)} {
			if tt.prefix == "64:ff9b:1::/48" {
				// Whatever is inside, it is never public.
				if c := Classify(a); c == Public {
					t.Errorf("Classify(%s) = public", a)
				}
				continue
			}
			if got := Classify(a); got != tt.want {
				t.Errorf("Classify(%s) of %s = %s, want %s (%s)", a, p, got, tt.want, tt.rfc)
			}
		}
	}
}

func TestClassifyPublic(t *testing.T) {
	for _, s := range []string{
		"1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0",
		"126.255.255.255", "128.0.0.0", "169.253.255.255", "169.255.0.0", "172.15.255.255",
		"172.32.0.0", "192.0.1.0", "192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0",
		"203.0.113.7", "223.255.255.255", "168.63.129.15", "168.63.129.17",
		"2606:4700::1111", "2a00:1450::1", "2001:200::1", "2001:db8::1", "3fff::1",
		"64:ff9b::8.8.8.8", "64:ff9b::203.0.113.7", "2002:808:808::1", "::ffff:8.8.8.8",
		"2001:0:808:808:0:0:f7f7:f7f7", // Teredo: server 8.8.8.8, client 8.8.8.8
		"2606:4700::5efe:808:808",      // ISATAP-like, 8.8.8.8 inside
	} {
		if got := Classify(netip.MustParseAddr(s)); got != Public {
			t.Errorf("Classify(%s) = %s, want public", s, got)
		}
	}
}

func TestClassifyMetadata(t *testing.T) {
	for _, e := range metadata {
		if got := Classify(e.prefix.Addr()); got != Metadata {
			t.Errorf("Classify(%s) = %s, want metadata", e.prefix.Addr(), got)
		}
	}
	if got := Classify(netip.MustParseAddr("64:ff9b::169.254.169.254")); got != Metadata {
		t.Errorf("metadata behind NAT64 is %s", got)
	}
}

func TestClassifyInvalid(t *testing.T) {
	for _, a := range []netip.Addr{
		{}, netip.MustParseAddr("fe80::1%eth0"), netip.MustParseAddr("2606:4700::1%eth0"),
		netip.MustParseAddr("::ffff:8.8.8.8").WithZone("x"),
	} {
		if got := Classify(a); got != Invalid {
			t.Errorf("Classify(%s) = %s, want invalid", a, got)
		}
	}
	if got := Class(200).String(); got != "invalid" {
		t.Errorf("unknown class prints as %q", got)
	}
}

// carriers wrap an IPv4 address in every way that some host undoes.
var carriers = map[string]func(v4 [4]byte) netip.Addr{
	"mapped":     func(v [4]byte) netip.Addr { return with("::ffff:0:0", 12, v) },
	"compatible": func(v [4]byte) netip.Addr { return with("::", 12, v) },
	"translated": func(v [4]byte) netip.Addr { return with("::ffff:0:0:0", 12, v) },
	"nat64":      func(v [4]byte) netip.Addr { return with("64:ff9b::", 12, v) },
	"nat64local": func(v [4]byte) netip.Addr { return with("64:ff9b:1::", 12, v) },
	"6to4":       func(v [4]byte) netip.Addr { return with("2002::1", 2, v) },
	"teredo server": func(v [4]byte) netip.Addr {
		return with("2001:0:0:0:0:0:f7f7:f7f7", 4, v)
	},
	"teredo client": func(v [4]byte) netip.Addr {
		return with("2001:0:808:808::", 12, [4]byte{^v[0], ^v[1], ^v[2], ^v[3]})
	},
	"isatap":        func(v [4]byte) netip.Addr { return with("2606:4700::5efe:0:0", 12, v) },
	"isatap global": func(v [4]byte) netip.Addr { return with("2606:4700::200:5efe:0:0", 12, v) },
	"6to4 isatap":   func(v [4]byte) netip.Addr { return with("2002:808:808::5efe:0:0", 12, v) },
}

func with(base string, at int, v4 [4]byte) netip.Addr {
	b := netip.MustParseAddr(base).As16()
	copy(b[at:], v4[:])
	return netip.AddrFrom16(b)
}

// A closed IPv4 address stays closed whatever carries it.
func TestEmbeddedNeverOpens(t *testing.T) {
	closed := []string{
		"0.0.0.0", "0.1.2.3", "10.1.2.3", "100.64.0.1", "127.0.0.1", "127.8.8.8", "169.254.1.1",
		"169.254.169.254", "172.16.5.5", "192.0.0.192", "192.168.1.1", "198.18.0.1", "224.0.0.251",
		"240.0.0.1", "255.255.255.255", "168.63.129.16", "100.100.100.200",
	}
	for _, s := range closed {
		v4 := netip.MustParseAddr(s)
		for name, wrap := range carriers {
			a := wrap(v4.As4())
			if c := Classify(a); c == Public {
				t.Errorf("%s inside %s (%s) is public", s, name, a)
			}
		}
	}
	for name, wrap := range carriers {
		a := wrap([4]byte{8, 8, 8, 8})
		public := name != "compatible" && name != "translated" && name != "nat64local"
		if c := Classify(a); (c == Public) != public {
			t.Errorf("8.8.8.8 inside %s (%s) is %s", name, a, c)
		}
	}
}

// FuzzClassify holds, for any 16 bytes, what Classify promises: an embedded
// address never widens, std's own view of an address is never contradicted, and
// the answer depends on the value only.
func FuzzClassify(f *testing.F) {
	for _, tt := range registry {
		f.Add(netip.MustParsePrefix(tt.prefix).Addr().AsSlice())
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		a, ok := netip.AddrFromSlice(raw)
		if !ok {
			return
		}
		c := Classify(a)
		if c != Public {
			return
		}
		if a.IsPrivate() || a.IsLoopback() || a.IsUnspecified() || a.IsMulticast() || a.IsLinkLocalUnicast() ||
			!a.IsGlobalUnicast() && !a.Is4In6() {
			t.Fatalf("%s is public", a)
		}
		if u := a.Unmap(); Classify(u) != c {
			t.Fatalf("%s is public, unmapped it is %s", a, Classify(u))
		}
		for _, in := range Embedded(a) {
			if Classify(in) != Public {
				t.Fatalf("%s is public and carries %s, which is %s", a, in, Classify(in))
			}
		}
	})
}

func BenchmarkClassify(b *testing.B) {
	for _, s := range []string{"8.8.8.8", "2606:4700::1111"} {
		a := netip.MustParseAddr(s)
		b.Run(s, func(b *testing.B) {
			for range b.N {
				Classify(a)
			}
		})
	}
}

func ExampleClassify() {
	fmt.Println(Classify(netip.MustParseAddr("64:ff9b::10.0.0.1")))
	// Output: private
}

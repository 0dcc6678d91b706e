package policy

import "net/netip"

// Class says what kind of place an address is. The zero value is Invalid, so
// a class that nobody computed never passes for Public.
type Class uint8

// The classes. Only Public is the internet; every other one is closed unless a
// rule opens that very place.
const (
	// Invalid is the zero netip.Addr, or an address with a zone: a zone names an
	// interface of the host, and a guest has no business with those.
	Invalid Class = iota
	// Public is globally reachable unicast space.
	Public
	// Unspecified is 0.0.0.0/8, "this network" (RFC 791 §3.2, RFC 1122 §3.2.1.3),
	// and :: (RFC 4291 §2.5.2). Linux connects 0.0.0.0 to its own loopback.
	Unspecified
	// Loopback is 127.0.0.0/8 (RFC 1122 §3.2.1.3) and ::1 (RFC 4291 §2.5.3).
	Loopback
	// Private is RFC 1918, unique local fc00::/7 (RFC 4193), the deprecated
	// site-local fec0::/10 (RFC 3879) and local-use NAT64 (RFC 8215).
	Private
	// LinkLocal is 169.254.0.0/16 (RFC 3927) and fe80::/10 (RFC 4291 §2.5.6).
	LinkLocal
	// CGNAT is shared address space, 100.64.0.0/10 (RFC 6598): carriers, and
	// overlay networks such as a company's VPN.
	CGNAT
	// Multicast is 224.0.0.0/4 (RFC 5771) and ff00::/8 (RFC 4291 §2.7).
	Multicast
	// Broadcast is 255.255.255.255 (RFC 919).
	Broadcast
	// Metadata is a cloud's instance metadata or control address: it hands out
	// the host's own credentials.
	Metadata
	// Benchmark is 198.18.0.0/15 (RFC 2544) and 2001:2::/48 (RFC 5180). Berth
	// keeps the former for the addresses that it makes up for names.
	Benchmark
	// Reserved is all that is none of these: 240.0.0.0/4 (RFC 1112 §4), the
	// protocol assignments of IANA's special-purpose registries (RFC 6890), and
	// IPv6 space outside of 2000::/3, which nobody was given (RFC 4291 §4).
	Reserved
)

var classNames = [...]string{
	Invalid: "invalid", Public: "public", Unspecified: "unspecified", Loopback: "loopback",
	Private: "private", LinkLocal: "link-local", CGNAT: "CGNAT", Multicast: "multicast",
	Broadcast: "broadcast", Metadata: "metadata", Benchmark: "benchmark", Reserved: "reserved",
}

// String returns the class as a word for logs and messages.
func (c Class) String() string {
	if int(c) < len(classNames) {
		return classNames[c]
	}
	return "invalid"
}

// Classify returns the class of an address. Where an address carries others
// inside (see Embedded), the first one inside that is not Public decides, as
// whoever translates or tunnels it would deliver there; only an address whose
// every layer is public is Public.
//
// Documentation ranges (RFC 5737, RFC 3849, RFC 9637) count as Public: nothing
// on the host listens there, and in some networks registries resolve to them.
func Classify(a netip.Addr) Class {
	if !a.IsValid() || a.Zone() != "" {
		return Invalid
	}
	if a.Is4() {
		return classifyOuter(a)
	}
	// Exact IPv6 entries come first: ::1 is no IPv4-compatible 0.0.0.1.
	if c, ok := lookup(exact6, a); ok {
		return c
	}
	for _, in := range Embedded(a) {
		if c := classifyOuter(in); c != Public {
			return c
		}
	}
	if a.Is4In6() {
		return Public // its inner address was, and it has no outer one of its own
	}
	return classifyOuter(a)
}

// classifyOuter looks at the address itself, not at what it carries.
func classifyOuter(a netip.Addr) Class {
	if c, ok := lookup(ranges, a); ok {
		return c
	}
	if a.Is4() || globalUnicast6.Contains(a) {
		return Public
	}
	return Reserved
}

// entry gives a class to a range; of two that contain an address, the first in
// the table counts.
type entry struct {
	prefix netip.Prefix
	class  Class
}

func lookup(table []entry, a netip.Addr) (Class, bool) {
	for _, e := range table {
		if e.prefix.Contains(a) {
			return e.class, true
		}
	}
	return Invalid, false
}

func table(class Class, prefixes ...string) []entry {
	var t []entry
	for _, p := range prefixes {
		t = append(t, entry{netip.MustParsePrefix(p), class})
	}
	return t
}

func join(tables ...[]entry) []entry {
	var all []entry
	for _, t := range tables {
		all = append(all, t...)
	}
	return all
}

// globalUnicast6 is all of IPv6 that IANA hands out to networks (RFC 4291 §4).
var globalUnicast6 = netip.MustParsePrefix("2000::/3")

// exact6 must be seen before an IPv6 address is taken for a carrier of IPv4.
var exact6 = join(
	table(Unspecified, "::/128"),
	table(Loopback, "::1/128"),
)

// metadata addresses, each with whose they are. Those in private or link-local
// space would be closed anyway; they stand here so that a rule which opens such
// a range, and the record of a try, tell them apart.
var metadata = table(Metadata,
	"169.254.169.254/32",     // AWS, GCP, Azure, DigitalOcean, Hetzner, OpenStack and most others
	"169.254.169.253/32",     // AWS resolver
	"169.254.170.2/32",       // AWS ECS task credentials
	"169.254.170.23/32",      // AWS EKS pod identity
	"169.254.42.42/32",       // Scaleway
	"169.254.0.23/32",        // Tencent
	"100.100.100.200/32",     // Alibaba, inside CGNAT
	"168.63.129.16/32",       // Azure's host agent, in public space
	"192.0.0.192/32",         // Oracle, older form
	"fd00:ec2::254/128",      // AWS
	"fd00:ec2::253/128",      // AWS resolver
	"fd00:ec2::23/128",       // AWS EKS pod identity
	"fd20:ce::254/128",       // GCP
	"fd00:c1::a9fe:a9fe/128", // Oracle
	"fd00:42::42/128",        // Scaleway
	"fe80::a9fe:a9fe/128",    // OpenStack
)

// ranges follows IANA's special-purpose address registries for IPv4 and IPv6
// (RFC 6890 and its updates). It is stricter than their "globally reachable"
// column where an entry is reachable by design but is no place to fetch
// anything from: anycast addresses that mean a network's own router
// (RFC 7723, RFC 8155), the deprecated 6to4 relay (RFC 7526), and 2001::/23.
var ranges = join(
	metadata,

	table(Unspecified, "0.0.0.0/8"),
	table(Private, "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"), // RFC 1918
	table(CGNAT, "100.64.0.0/10"),                                   // RFC 6598
	table(Loopback, "127.0.0.0/8"),                                  // RFC 1122
	table(LinkLocal, "169.254.0.0/16"),                              // RFC 3927
	table(Reserved, "192.0.0.0/24"),                                 // RFC 6890 §2.1: protocol assignments
	table(Reserved, "192.88.99.0/24"),                               // RFC 7526: was the 6to4 relay anycast
	table(Benchmark, "198.18.0.0/15"),                               // RFC 2544
	table(Multicast, "224.0.0.0/4"),                                 // RFC 5771
	table(Broadcast, "255.255.255.255/32"),                          // RFC 919
	table(Reserved, "240.0.0.0/4"),                                  // RFC 1112

	table(Private, "64:ff9b:1::/48"),              // RFC 8215: NAT64 of this network's own making
	table(Public, "64:ff9b::/96"),                 // RFC 6052: public where the inner address is
	table(Reserved, "100::/64", "100:0:0:1::/64"), // RFC 6666, RFC 9780: discard, dummy
	table(Public, "2001::/32"),                    // RFC 4380: Teredo, public where both inner addresses are
	table(Benchmark, "2001:2::/48"),               // RFC 5180
	table(Public, "2001:db8::/32"),                // RFC 3849: documentation
	table(Reserved, "2001::/23"),                  // RFC 2928: protocol assignments
	table(Public, "2002::/16"),                    // RFC 3056: 6to4, public where the inner address is
	table(Reserved, "5f00::/16"),                  // RFC 9602: segment routing
	table(Private, "fc00::/7"),                    // RFC 4193
	table(LinkLocal, "fe80::/10"),                 // RFC 4291
	table(Private, "fec0::/10"),                   // RFC 3879
	table(Multicast, "ff00::/8"),                  // RFC 4291
)

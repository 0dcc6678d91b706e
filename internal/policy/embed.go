package policy

import "net/netip"

// Prefixes of IPv6 addresses that carry an IPv4 address.
var (
	compatible = netip.MustParsePrefix("::/96")           // RFC 4291 §2.5.5.1, deprecated
	translated = netip.MustParsePrefix("::ffff:0:0:0/96") // RFC 2765 §2.1, "IPv4-translated"
	nat64      = netip.MustParsePrefix("64:ff9b::/96")    // RFC 6052 §2.1
	nat64Local = netip.MustParsePrefix("64:ff9b:1::/48")  // RFC 8215
	teredo     = netip.MustParsePrefix("2001::/32")       // RFC 4380 §4
	sixToFour  = netip.MustParsePrefix("2002::/16")       // RFC 3056 §2
)

// Embedded returns the IPv4 addresses that an IPv6 address carries, in no
// order that means anything, or nil: IPv4-mapped, IPv4-compatible,
// IPv4-translated, NAT64 by the well-known prefix and by the local-use one
// (every length of RFC 6052 §2.2 that fits, as the one in use cannot be known),
// 6to4, Teredo (its server, and its client with the obfuscation undone), and an
// ISATAP interface identifier (RFC 5214 §6.1) in any network.
//
// NAT64 by a network's own prefix cannot be seen in an address: see RFC 7050.
func Embedded(a netip.Addr) []netip.Addr {
	if !a.Is6() {
		return nil
	}
	b := a.As16()
	at := func(i int) netip.Addr { return netip.AddrFrom4([4]byte(b[i : i+4])) }
	bare := a.WithZone("")
	var in []netip.Addr
	switch {
	case a.Is4In6(), // RFC 4291 §2.5.5.2
		compatible.Contains(bare), translated.Contains(bare), nat64.Contains(bare):
		return append(in, at(12))
	case nat64Local.Contains(bare):
		// /48 and /56 step over byte 8, which RFC 6052 keeps zero.
		in = append(in, at(12),
			netip.AddrFrom4([4]byte{b[6], b[7], b[9], b[10]}),
			netip.AddrFrom4([4]byte{b[7], b[9], b[10], b[11]}),
			netip.AddrFrom4([4]byte{b[9], b[10], b[11], b[12]}))
	case sixToFour.Contains(bare):
		in = append(in, at(2))
	case teredo.Contains(bare):
		in = append(in, at(4), netip.AddrFrom4([4]byte{^b[12], ^b[13], ^b[14], ^b[15]}))
	}
	// The identifier is 0000:5efe or, with the universal bit set, 0200:5efe.
	if b[8]&^0x02 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe {
		in = append(in, at(12))
	}
	return in
}

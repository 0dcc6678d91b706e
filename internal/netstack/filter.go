package netstack

import (
	"encoding/binary"
	"net/netip"
)

const (
	ethernetSize = 14
	ipv4Size     = 20
	ipv6Size     = 40
	arpSize      = 28

	etherIPv4 = 0x0800
	etherARP  = 0x0806
	etherIPv6 = 0x86dd

	protoICMP   = 1
	protoTCP    = 6
	protoUDP    = 17
	protoICMPv6 = 58

	// headSize is how much of a frame the filter may look at.
	headSize = 128
)

// filter says which of the guest's frames the stack gets to see. It names what
// a guest needs; everything else is dropped unread, so that the parsers behind
// it (fragments, options, extension headers, routers, groups) face no hostile
// input, and so that nothing but the guest and the containers inside it can be
// the source of a packet. It is immutable.
type filter struct {
	mac                [6]byte
	guest4, guest6     netip.Addr
	gateway4, gateway6 netip.Addr
	host4              netip.Addr
	routes             []netip.Prefix
}

func newFilter(l Link) *filter {
	return &filter{
		mac:    [6]byte(l.GatewayMAC),
		guest4: l.Guest4.Addr(), guest6: l.Guest6.Addr(),
		gateway4: l.Gateway4, gateway6: l.Gateway6, host4: l.Host4,
		routes: l.Routes,
	}
}

// admit reports whether a frame of total bytes may enter the stack; head is its
// beginning, all of it or headSize bytes.
func (f *filter) admit(head []byte, total int) bool {
	if len(head) < ethernetSize || total < len(head) || len(head) < min(total, headSize) {
		return false
	}
	toUs := [6]byte(head[:6]) == f.mac
	packet, size := head[ethernetSize:], total-ethernetSize
	switch binary.BigEndian.Uint16(head[12:]) {
	case etherIPv4:
		return toUs && f.admit4(packet, size)
	case etherIPv6:
		return f.admit6(packet, size, toUs)
	case etherARP:
		return f.admitARP(packet)
	}
	return false
}

// admit4: no options, no fragments. Nothing that a guest does needs either: the
// MTU is beyond every datagram that is answered here, and TCP does not fragment.
func (f *filter) admit4(p []byte, size int) bool {
	if len(p) < ipv4Size || p[0] != 0x45 {
		return false
	}
	length := int(binary.BigEndian.Uint16(p[2:]))
	fragment := binary.BigEndian.Uint16(p[6:])&0x3fff != 0 // MF or an offset
	src, dst := netip.AddrFrom4([4]byte(p[12:16])), netip.AddrFrom4([4]byte(p[16:20]))
	if length > size || fragment || !f.source(src) || !plain4(dst) {
		return false
	}
	switch p[9] {
	case protoTCP:
		return length >= ipv4Size+20
	case protoUDP:
		return length >= ipv4Size+8
	case protoICMP:
		// Echo request, and only to the gateway itself.
		return length >= ipv4Size+8 && p[ipv4Size] == 8 && p[ipv4Size+1] == 0 && dst == f.gateway4
	}
	return false
}

// plain4: neither multicast nor 240/4 with broadcast, nor "this network", nor
// loopback, which no wire carries (RFC 1122 §3.2.1.3).
func plain4(a netip.Addr) bool { b := a.As4(); return b[0] != 0 && b[0] != 127 && b[0] < 224 }

// admit6: no extension headers, so no fragments, routing headers or tunnels.
func (f *filter) admit6(p []byte, size int, toUs bool) bool {
	if len(p) < ipv6Size || p[0]>>4 != 6 {
		return false
	}
	length := int(binary.BigEndian.Uint16(p[4:]))
	src, dst := netip.AddrFrom16([16]byte(p[8:24])), netip.AddrFrom16([16]byte(p[24:40]))
	if ipv6Size+length > size {
		return false
	}
	if p[6] == protoICMPv6 && len(p) >= ipv6Size+24 && p[ipv6Size] == 135 {
		return f.admitSolicit(p, length, src)
	}
	if !toUs || !f.source(src) || dst.IsMulticast() || dst.IsUnspecified() || dst.IsLoopback() {
		return false
	}
	switch p[6] {
	case protoTCP:
		return length >= 20
	case protoUDP:
		return length >= 8
	case protoICMPv6:
		return length >= 8 && p[ipv6Size] == 128 && p[ipv6Size+1] == 0 && dst == f.gateway6
	}
	return false
}

// admitSolicit: the guest asks for the gateway's link address (RFC 4861 §4.3).
// Questions about any other address stay without an answer, and the guest's
// test whether its own is taken, from ::, needs none.
func (f *filter) admitSolicit(p []byte, length int, src netip.Addr) bool {
	const hopLimit = 7
	target := netip.AddrFrom16([16]byte(p[ipv6Size+8 : ipv6Size+24]))
	return length >= 24 && p[hopLimit] == 255 && p[ipv6Size+1] == 0 && target == f.gateway6 &&
		(src == f.guest6 || src.IsLinkLocalUnicast())
}

// admitARP: the guest asks for the gateway or for the host's address (RFC 826).
func (f *filter) admitARP(p []byte) bool {
	if len(p) < arpSize || [8]byte(p[:8]) != [8]byte{0, 1, 8, 0, 6, 4, 0, 1} {
		return false
	}
	sender, target := netip.AddrFrom4([4]byte(p[14:18])), netip.AddrFrom4([4]byte(p[24:28]))
	return sender == f.guest4 && (target == f.gateway4 || target == f.host4)
}

// source reports whether a packet may come from a.
func (f *filter) source(a netip.Addr) bool {
	if a == f.guest4 || a == f.guest6 {
		return true
	}
	for _, r := range f.routes {
		if r.Contains(a) {
			return true
		}
	}
	return false
}

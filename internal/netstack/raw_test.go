package netstack_test

import (
	"encoding/binary"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"berth.dev/internal/netstack"
)

// frame is an ethernet frame from the guest to the gateway.
func frame(link netstack.Link, ethertype uint16, payload []byte) []byte {
	b := append(append([]byte(nil), link.GatewayMAC...), link.GuestMAC...)
	return append(binary.BigEndian.AppendUint16(b, ethertype), payload...)
}

// packet is an IP packet.
func packet(src, dst netip.Addr, proto uint8, payload []byte) []byte {
	if src.Is4() {
		b := make([]byte, header.IPv4MinimumSize, header.IPv4MinimumSize+len(payload))
		h := header.IPv4(b)
		h.Encode(&header.IPv4Fields{
			TotalLength: uint16(cap(b)), TTL: 64, Protocol: proto,
			SrcAddr: tcpip.AddrFromSlice(src.AsSlice()), DstAddr: tcpip.AddrFromSlice(dst.AsSlice()),
		})
		h.SetChecksum(^h.CalculateChecksum())
		return append(b, payload...)
	}
	b := make([]byte, header.IPv6MinimumSize)
	header.IPv6(b).Encode(&header.IPv6Fields{
		PayloadLength: uint16(len(payload)), HopLimit: 255,
		TransportProtocol: tcpip.TransportProtocolNumber(proto),
		SrcAddr:           tcpip.AddrFromSlice(src.AsSlice()), DstAddr: tcpip.AddrFromSlice(dst.AsSlice()),
	})
	return append(b, payload...)
}

func syn(srcPort, dstPort uint16) []byte {
	b := make([]byte, header.TCPMinimumSize)
	header.TCP(b).Encode(&header.TCPFields{
		SrcPort: srcPort, DstPort: dstPort, SeqNum: 1, DataOffset: header.TCPMinimumSize,
		Flags: header.TCPFlagSyn, WindowSize: 65535,
	})
	return b
}

func datagram(srcPort, dstPort uint16, payload string) []byte {
	b := make([]byte, header.UDPMinimumSize)
	header.UDP(b).Encode(&header.UDPFields{SrcPort: srcPort, DstPort: dstPort, Length: uint16(8 + len(payload))})
	return append(b, payload...)
}

func echo4() []byte {
	b := make([]byte, header.ICMPv4MinimumSize)
	header.ICMPv4(b).SetType(header.ICMPv4Echo)
	header.ICMPv4(b).SetChecksum(^checksum.Checksum(b, 0))
	return b
}

func echo6(src, dst netip.Addr) []byte {
	b := header.ICMPv6(make([]byte, header.ICMPv6EchoMinimumSize))
	b.SetType(header.ICMPv6EchoRequest)
	b.SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{
		Header: b, Src: tcpip.AddrFromSlice(src.AsSlice()), Dst: tcpip.AddrFromSlice(dst.AsSlice())}))
	return b
}

func arpRequest(link netstack.Link, sender, target netip.Addr) []byte {
	b := append([]byte{0, 1, 8, 0, 6, 4, 0, 1}, link.GuestMAC...)
	b = append(append(b, sender.AsSlice()...), 0, 0, 0, 0, 0, 0)
	return append(b, target.AsSlice()...)
}

// rawGuest is a guest that writes frames itself.
type rawGuest struct {
	tb   testing.TB
	wire *os.File
	link netstack.Link
}

func newRawGuest(tb testing.TB, wire *os.File, link netstack.Link) *rawGuest {
	tb.Cleanup(func() { _ = wire.Close() })
	return &rawGuest{tb, wire, link}
}

func (g *rawGuest) send(frame []byte) {
	g.tb.Helper()
	for {
		err := unix.Send(int(g.wire.Fd()), frame, 0)
		if err == nil {
			return
		}
		if err != unix.EINTR && err != unix.EAGAIN {
			g.tb.Fatalf("send frame: %v", err)
		}
	}
}

// replies asks for the gateway's MAC and returns what has come until the
// answer to that, as the wire keeps the order of what it carries and the stack
// answers ARP at once.
func (g *rawGuest) replies() [][]byte {
	g.tb.Helper()
	g.send(frame(g.link, 0x0806, arpRequest(g.link, g.link.Guest4.Addr(), g.link.Gateway4)))
	tv := unix.NsecToTimeval(int64(10 * time.Second))
	if err := unix.SetsockoptTimeval(int(g.wire.Fd()), unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		g.tb.Fatal(err)
	}
	var got [][]byte
	buf := make([]byte, 1<<17)
	for {
		n, err := unix.Read(int(g.wire.Fd()), buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			g.tb.Fatalf("no answer to ARP for the gateway: %v", err)
		}
		f := append([]byte(nil), buf[:n]...)
		if n >= 42 && binary.BigEndian.Uint16(f[12:]) == 0x0806 &&
			netip.AddrFrom4([4]byte(f[28:32])) == g.link.Gateway4 {
			return got
		}
		got = append(got, f)
	}
}

// What no guest may send gets no answer, and no handler hears of it; the same
// packet from the guest's own address shows that it would have.
func TestFramesThatAreDropped(t *testing.T) {
	var o origins
	s, wire, link := startRaw(t, &o)
	g := newRawGuest(t, wire, link)
	out4, out6 := netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("2001:db8::9")
	me4, me6 := link.Guest4.Addr(), link.Guest6.Addr()
	ip := netip.MustParseAddr

	options := packet(me4, out4, 6, syn(1, 80))
	options = append(append(append([]byte(nil), options[:20]...), 1, 1, 1, 0), options[20:]...)
	options[0] = 0x46
	fragment := packet(me4, out4, 6, syn(1, 80))
	fragment[6] |= 0x20
	hop := append([]byte{6, 0, 1, 4, 0, 0, 0, 0}, syn(1, 80)...)
	wrongMAC := frame(link, 0x0800, packet(me4, out4, 6, syn(1, 80)))
	wrongMAC[5] ^= 0xff

	for name, f := range map[string][]byte{
		"spoofed private source":  frame(link, 0x0800, packet(ip("10.0.0.5"), out4, 6, syn(1, 80))),
		"spoofed public source":   frame(link, 0x0800, packet(ip("8.8.8.8"), out4, 6, syn(1, 80))),
		"the gateway as source":   frame(link, 0x0800, packet(link.Gateway4, out4, 6, syn(1, 80))),
		"spoofed IPv6 source":     frame(link, 0x86dd, packet(ip("2001:db8::5"), out6, 6, syn(1, 80))),
		"mapped IPv6 source":      frame(link, 0x86dd, packet(ip("::ffff:10.213.77.3"), out6, 6, syn(1, 80))),
		"link-local IPv6 source":  frame(link, 0x86dd, packet(ip("fe80::3"), out6, 6, syn(1, 80))),
		"IP options":              frame(link, 0x0800, options),
		"fragment":                frame(link, 0x0800, fragment),
		"hop-by-hop header":       frame(link, 0x86dd, packet(me6, out6, 0, hop)),
		"other MAC":               wrongMAC,
		"echo to the internet":    frame(link, 0x0800, packet(me4, out4, 1, echo4())),
		"echo to the host":        frame(link, 0x0800, packet(me4, link.Host4, 1, echo4())),
		"IPv6 echo elsewhere":     frame(link, 0x86dd, packet(me6, out6, 58, echo6(me6, out6))),
		"multicast":               frame(link, 0x0800, packet(me4, ip("224.0.0.251"), 17, datagram(5353, 5353, "x"))),
		"broadcast":               frame(link, 0x0800, packet(me4, ip("255.255.255.255"), 17, datagram(68, 67, "x"))),
		"IPv6 multicast":          frame(link, 0x86dd, packet(me6, ip("ff02::fb"), 17, datagram(5353, 5353, "x"))),
		"loopback":                frame(link, 0x0800, packet(me4, ip("127.0.0.1"), 6, syn(1, 80))),
		"IPv6 loopback":           frame(link, 0x86dd, packet(me6, ip("::1"), 6, syn(1, 80))),
		"this network":            frame(link, 0x0800, packet(me4, ip("0.0.0.0"), 6, syn(1, 80))),
		"GRE":                     frame(link, 0x0800, packet(me4, out4, 47, make([]byte, 40))),
		"SCTP":                    frame(link, 0x0800, packet(me4, out4, 132, make([]byte, 40))),
		"IP in IP":                frame(link, 0x0800, packet(me4, out4, 4, packet(me4, out4, 6, syn(1, 80)))),
		"6in4":                    frame(link, 0x0800, packet(me4, out4, 41, packet(me6, out6, 6, syn(1, 80)))),
		"VLAN":                    frame(link, 0x8100, append([]byte{0, 1, 8, 0}, packet(me4, out4, 6, syn(1, 80))...)),
		"ARP for another address": frame(link, 0x0806, arpRequest(link, me4, ip("10.213.77.4"))),
		"ARP as somebody else":    frame(link, 0x0806, arpRequest(link, link.Host4, link.Gateway4)),
		"short":                   {1, 2, 3},
		"empty":                   {},
	} {
		g.send(f)
		if r := g.replies(); len(r) != 0 {
			t.Errorf("%s: answered with %x", name, r)
		}
	}
	// SYNs are handed over on another goroutine: once this one has arrived, the
	// earlier ones would have too.
	g.send(frame(link, 0x0800, packet(me4, out4, 6, syn(7, 80))))
	g.send(frame(link, 0x0800, packet(ip("172.17.0.2"), out4, 6, syn(7, 81))))
	eventually(t, "the guest's own SYNs", func() bool { return s.Stats().Refused >= 2 })
	if got := o.tries(); len(got) != 2 {
		t.Errorf("handler was asked for %v, want the last two only", got)
	}
	// All of it is told, but for what never leaves a wire and what has no
	// destination to tell of.
	for _, want := range []netstack.Drop{
		{Protocol: "icmp", Addr: out4}, {Protocol: "icmp", Addr: link.Host4}, {Protocol: "icmpv6", Addr: out6},
		{Protocol: "ip-47", Addr: out4}, {Protocol: "ip-132", Addr: out4}, {Protocol: "ip-4", Addr: out4}, {Protocol: "ip-41", Addr: out4},
		{Protocol: "ip-0", Addr: out6}, {Protocol: "tcp", Addr: out4, Port: 80}, {Protocol: "tcp", Addr: out6, Port: 80},
		{Protocol: "tcp", Addr: ip("127.0.0.1"), Port: 80}, {Protocol: "udp", Addr: ip("224.0.0.251"), Port: 5353},
	} {
		if !slices.Contains(o.dropped(), want) {
			t.Errorf("nothing was told of %+v", want)
		}
	}
}

func TestPingGatewayOnly(t *testing.T) {
	var o origins
	_, wire, link := startRaw(t, &o)
	g := newRawGuest(t, wire, link)
	g.send(frame(link, 0x0800, packet(link.Guest4.Addr(), link.Gateway4, 1, echo4())))
	r := g.replies()
	if len(r) != 1 || r[0][23] != 1 || r[0][34] != 0 || string(r[0][:6]) != string(link.GuestMAC) {
		t.Errorf("ping of the gateway got %x", r)
	}
	me, gw := link.Guest6.Addr(), link.Gateway6
	g.send(frame(link, 0x86dd, packet(me, gw, 58, echo6(me, gw))))
	if r := g.replies(); len(r) != 1 || r[0][54] != 129 {
		t.Errorf("IPv6 ping of the gateway got %x", r)
	}
}

// The address of the host's loopback is found by ARP, as it lies on the link.
func TestARPForHost(t *testing.T) {
	var o origins
	_, wire, link := startRaw(t, &o)
	g := newRawGuest(t, wire, link)
	g.send(frame(link, 0x0806, arpRequest(link, link.Guest4.Addr(), link.Host4)))
	r := g.replies()
	if len(r) != 1 || string(r[0][22:28]) != string(link.GatewayMAC) {
		t.Errorf("got %x", r)
	}
}

// A SYN flood holds a bounded number of goroutines, and none after Close,
// although no handshake is ever finished.
func TestSYNFlood(t *testing.T) {
	var o origins
	o.serve(t, "203.0.113.9:80", echo)
	s, wire, link := startRaw(t, &o, func(c *netstack.Config) { c.MaxConns = 100 })
	g := newRawGuest(t, wire, link)
	for i := range 3000 {
		g.send(frame(link, 0x0800, packet(link.Guest4.Addr(), netip.MustParseAddr("203.0.113.9"), 6, syn(uint16(1024+i), 80))))
	}
	eventually(t, "refusals", func() bool { return s.Stats().OverLimit > 0 })
	if n := s.Stats().Active; n > 100 {
		t.Errorf("%d connections, want 100 at most", n)
	}
	if err := s.Close(); err != nil { // the leak check sees the rest
		t.Error(err)
	}
}

// UDP that is not DNS at the gateway is refused, not swallowed.
func TestUDPRefused(t *testing.T) {
	var o origins
	_, wire, link := startRaw(t, &o)
	g := newRawGuest(t, wire, link)
	for _, s := range []string{
		"8.8.8.8:53", "203.0.113.9:443", "10.213.77.1:123", "10.213.77.2:53", "10.0.0.1:53",
		"[2001:db8::9]:443", "[fdbe:7274:6800::1]:123",
	} {
		dst := netip.MustParseAddrPort(s)
		me, ethertype, at, want := link.Guest4.Addr(), uint16(0x0800), 34, []byte{3, 3}
		if dst.Addr().Is6() {
			me, ethertype, at, want = link.Guest6.Addr(), 0x86dd, 54, []byte{1, 4}
		}
		g.send(frame(link, ethertype, packet(me, dst.Addr(), 17, datagram(9999, dst.Port(), "hello"))))
		if r := g.replies(); len(r) != 1 || string(r[0][at:at+2]) != string(want) {
			t.Errorf("%s: got %x, want one port unreachable", dst, r)
		}
		if want := (netstack.Drop{Protocol: "udp", Addr: dst.Addr(), Port: dst.Port()}); !slices.Contains(o.dropped(), want) {
			t.Errorf("nothing was told of %+v", want)
		}
	}
	// What is answered is not among it.
	g.send(frame(link, 0x0800, packet(link.Guest4.Addr(), link.Gateway4, 17, datagram(9999, 53, "hello"))))
	g.send(frame(link, 0x0800, packet(link.Guest4.Addr(), link.Gateway4, 1, echo4())))
	g.replies()
	if n := len(o.dropped()); n != 7 {
		t.Errorf("%d reports, want 7: %+v", n, o.dropped())
	}
}

package netstack

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// seeds are frames of every kind that a guest really sends, and damaged ones.
func seeds(l Link) [][]byte {
	eth := func(ethertype uint16, payload ...byte) []byte {
		b := append(append([]byte(nil), l.GatewayMAC...), l.GuestMAC...)
		return append(binary.BigEndian.AppendUint16(b, ethertype), payload...)
	}
	ip4 := func(proto byte, payload ...byte) []byte {
		b := []byte{0x45, 0, 0, byte(20 + len(payload)), 0, 0, 0, 0, 64, proto, 0, 0, 10, 213, 77, 3, 203, 0, 113, 9}
		return append(b, payload...)
	}
	ip6 := func(next byte, payload ...byte) []byte {
		b := []byte{0x60, 0, 0, 0, 0, byte(len(payload)), next, 255}
		b = append(b, l.Guest6.Addr().AsSlice()...)
		return append(append(b, l.Gateway6.AsSlice()...), payload...)
	}
	tcp := []byte{0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0}
	tcpOptions := append(append([]byte(nil), tcp...), 2, 4, 0xfd, 0xe8, 4, 2, 8, 10, 0, 0, 0, 1)
	tcpOptions[12] = 0x80
	udp := []byte{0x9c, 0x40, 0, 53, 0, 12, 0, 0, 1, 2, 3, 4}
	arp := append(append([]byte{0, 1, 8, 0, 6, 4, 0, 1}, l.GuestMAC...), 10, 213, 77, 3, 0, 0, 0, 0, 0, 0, 10, 213, 77, 1)
	solicit := append(append([]byte{135, 0, 0, 0, 0, 0, 0, 0}, l.Gateway6.AsSlice()...), 1, 1, 2, 0xbe, 0x72, 0x74, 0x68, 3)
	return [][]byte{
		nil, {1}, eth(0x0800), eth(0x0806, arp...),
		eth(0x0800, ip4(6, tcp...)...), eth(0x0800, ip4(6, tcpOptions...)...), eth(0x0800, ip4(17, udp...)...),
		eth(0x0800, ip4(1, 8, 0, 0, 0, 0, 0, 0, 0)...), eth(0x0800, ip4(6)...),
		eth(0x86dd, ip6(6, tcp...)...), eth(0x86dd, ip6(17, udp...)...), eth(0x86dd, ip6(58, solicit...)...),
		eth(0x86dd, ip6(44, append([]byte{6, 0, 0, 1, 0, 0, 0, 1}, tcp...)...)...),
		eth(0x86dd, ip6(0, append([]byte{6, 0, 1, 4, 0, 0, 0, 0}, tcp...)...)...),
	}
}

// FuzzFilter: whatever is admitted is addressed and made as the filter says;
// here said again, in other words, by offsets into the whole frame.
func FuzzFilter(f *testing.F) {
	link := DefaultLink()
	flt := newFilter(link)
	for _, s := range seeds(link) {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		if !flt.admit(frame[:min(len(frame), headSize)], len(frame)) {
			return
		}
		switch binary.BigEndian.Uint16(frame[12:]) {
		case 0x0806:
			if netip.AddrFrom4([4]byte(frame[28:32])) != link.Guest4.Addr() {
				t.Fatalf("ARP from another: %x", frame)
			}
		case 0x0800:
			src := netip.AddrFrom4([4]byte(frame[26:30]))
			if src != link.Guest4.Addr() && !link.Routes[0].Contains(src) {
				t.Fatalf("source %s", src)
			}
			if p := frame[23]; p == 1 && netip.AddrFrom4([4]byte(frame[30:34])) != link.Gateway4 || p != 1 && p != 6 && p != 17 {
				t.Fatalf("protocol %d to %x", p, frame[30:34])
			}
		case 0x86dd:
			src := netip.AddrFrom16([16]byte(frame[22:38]))
			if solicit := frame[20] == 58 && frame[54] == 135; src != link.Guest6.Addr() && !(solicit && src.IsLinkLocalUnicast()) {
				t.Fatalf("source %s", src)
			}
		default:
			t.Fatalf("ethertype %x", frame[12:14])
		}
	})
}

type refuser struct{}

func (refuser) OpenTCP(context.Context, netip.AddrPort, netip.AddrPort) (Route, error) {
	return Route{}, errors.New("refused")
}

func (refuser) Dropped(Drop) {}

func (refuser) ServeDNS(_ context.Context, q []byte, _ string) ([]byte, error) { return q, nil }

// FuzzFrames puts frames into a running stack, a changed one and then all of
// a series; it has to go on answering ARP.
func FuzzFrames(f *testing.F) {
	link := DefaultLink()
	for _, s := range seeds(link) {
		f.Add(s)
	}
	gateway, guest, err := Pair()
	if err != nil {
		f.Fatal(err)
	}
	s, err := New(Config{Wire: gateway, Link: link, Handler: refuser{}})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		_ = s.Close()
		_ = guest.Close()
	})
	alive := seeds(link)[3]
	f.Fuzz(func(t *testing.T, frame []byte) {
		inject(t, guest, frame)
		// Past the filter as well: headers made good, the rest as it is.
		if len(frame) > ethernetSize+ipv4Size {
			fixed := append([]byte(nil), frame...)
			copy(fixed, link.GatewayMAC)
			copy(fixed[12:], []byte{8, 0, 0x45})
			binary.BigEndian.PutUint16(fixed[16:], uint16(min(len(frame)-ethernetSize, 0xffff)))
			fixed[20], fixed[21] = 0, 0
			copy(fixed[26:], link.Guest4.Addr().AsSlice())
			sum := uint32(0)
			fixed[24], fixed[25] = 0, 0
			for i := 14; i < 34; i += 2 {
				sum += uint32(binary.BigEndian.Uint16(fixed[i:]))
			}
			sum = sum&0xffff + sum>>16
			binary.BigEndian.PutUint16(fixed[24:], ^uint16(sum&0xffff+sum>>16))
			inject(t, guest, fixed)
		}
		inject(t, guest, alive)
		waitARP(t, guest)
	})
}

func inject(t *testing.T, wire *os.File, frame []byte) {
	if len(frame) > 1<<16 {
		return
	}
	for {
		err := unix.Send(int(wire.Fd()), frame, 0)
		if err == nil {
			return
		}
		if err != unix.EINTR {
			t.Fatalf("send: %v", err)
		}
	}
}

func waitARP(t *testing.T, wire *os.File) {
	tv := unix.NsecToTimeval(int64(10 * time.Second))
	_ = unix.SetsockoptTimeval(int(wire.Fd()), unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
	buf := make([]byte, 1<<17)
	for {
		n, err := unix.Read(int(wire.Fd()), buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			t.Fatalf("the stack is dead: %v", err)
		}
		if n >= 42 && binary.BigEndian.Uint16(buf[12:]) == 0x0806 {
			return
		}
	}
}

func TestLinkCheck(t *testing.T) {
	if err := DefaultLink().Check(); err != nil {
		t.Fatalf("default link: %v", err)
	}
	for name, change := range map[string]func(*Link){
		"MTU too small":       func(l *Link) { l.MTU = 500 },
		"MTU too large":       func(l *Link) { l.MTU = 70000 },
		"no MAC":              func(l *Link) { l.GuestMAC = nil },
		"group MAC":           func(l *Link) { l.GatewayMAC = net.HardwareAddr{1, 0, 0, 0, 0, 1} },
		"gateway off link":    func(l *Link) { l.Gateway4 = netip.MustParseAddr("10.0.0.1") },
		"host is the gateway": func(l *Link) { l.Host4 = l.Gateway4 },
		"guest is gateway":    func(l *Link) { l.Gateway6 = l.Guest6.Addr() },
		"IPv4 as IPv6":        func(l *Link) { l.Guest6 = l.Guest4 },
		"route with gateway":  func(l *Link) { l.Routes = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} },
	} {
		l := DefaultLink()
		change(&l)
		if l.Check() == nil {
			t.Errorf("%s: no error", name)
		}
		if s, err := New(Config{Wire: os.Stdin, Link: l, Handler: refuser{}}); err == nil {
			t.Errorf("%s: New made %v", name, s)
		}
	}
	if _, err := New(Config{}); err == nil {
		t.Error("New without a wire: no error")
	}
}

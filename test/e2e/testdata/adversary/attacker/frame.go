package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// frames IFACE MAC KIND,SOURCE,DESTINATION[,PORT]...: writes frames of the
// attacker's own making to the wire and looks for answers. It prints which were
// answered, and the secret when one was.
func frames(args []string) ([]byte, error) {
	wire, err := open(args[0], args[1])
	if err != nil {
		return nil, err
	}
	defer wire.close()
	waiting := map[string]*shot{}
	for i, spec := range args[2:] {
		s, err := aim(spec, uint16(40000+i))
		if err != nil {
			return nil, err
		}
		waiting[spec] = s
		for _, packet := range s.packets {
			if err := wire.send(s.ether(), packet); err != nil {
				return nil, fmt.Errorf("%s: %w", spec, err)
			}
		}
	}
	var got []byte
	buf := make([]byte, 70000)
	for deadline := time.Now().Add(patience); len(waiting) > 0 && time.Now().Before(deadline); {
		n, err := wire.receive(buf)
		if err != nil {
			continue // nobody answers: until the time is up
		}
		for spec, s := range waiting {
			if s.answered(buf[:n]) {
				got = fmt.Appendf(got, "%s %s\n", spec, secret)
				delete(waiting, spec)
			}
		}
	}
	if len(waiting) > 0 {
		err = fmt.Errorf("%d without an answer", len(waiting))
		for spec := range waiting {
			err = errors.Join(err, errors.New(spec))
		}
	}
	return got, err
}

// wire is a packet socket.
type wire struct {
	fd  int
	mac net.HardwareAddr
	own net.HardwareAddr
}

const every = 0x0300 // ETH_P_ALL in network order

func open(name, mac string) (*wire, error) {
	iface, err := net.InterfaceByName(name)
	if err != nil {
		return nil, err
	}
	w := &wire{own: iface.HardwareAddr}
	if w.mac, err = net.ParseMAC(mac); err != nil {
		return nil, err
	}
	if len(w.own) != 6 {
		w.own = make(net.HardwareAddr, 6)
	}
	if w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, every); err != nil {
		return nil, err
	}
	if err := unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: every, Ifindex: iface.Index}); err != nil {
		return nil, err
	}
	return w, unix.SetsockoptTimeval(w.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000})
}

func (w *wire) close() { _ = unix.Close(w.fd) }

func (w *wire) send(ethertype uint16, packet []byte) error {
	frame := append(append(append([]byte(nil), w.mac...), w.own...), byte(ethertype>>8), byte(ethertype))
	_, err := unix.Write(w.fd, append(frame, packet...))
	return err
}

// receive returns how much of buf is a packet, without its frame.
func (w *wire) receive(buf []byte) (int, error) {
	n, err := unix.Read(w.fd, buf)
	if err != nil || n < 14 {
		return 0, errors.Join(err, errors.New("no frame"))
	}
	return copy(buf, buf[14:n]), nil
}

// shot is what is sent, and how its answer is known.
type shot struct {
	src, dst netip.Addr
	proto    byte
	own      uint16 // port, or identifier of an echo
	port     uint16
	packets  [][]byte
}

const (
	icmp4 = 1
	tcp6  = 6
	udp17 = 17
	icmp6 = 58
)

func (s *shot) ether() uint16 {
	if s.dst.Is4() {
		return unix.ETH_P_IP
	}
	return unix.ETH_P_IPV6
}

// aim makes the packets of one shot.
func aim(spec string, own uint16) (*shot, error) {
	parts := strings.Split(spec, ",")
	s := &shot{own: own, port: 123}
	var err error
	if s.src, err = netip.ParseAddr(parts[1]); err != nil {
		return nil, err
	}
	if s.dst, err = netip.ParseAddr(parts[2]); err != nil {
		return nil, err
	}
	if len(parts) > 3 {
		if _, err := fmt.Sscan(parts[3], &s.port); err != nil {
			return nil, err
		}
	}
	kind, transport, _ := strings.Cut(parts[0], "-")
	if transport == "" {
		kind, transport = "plain", parts[0]
	}
	payload := s.payload(transport)
	switch {
	case kind == "plain":
		s.packets = [][]byte{s.packet(s.proto, payload, nil, 0)}
	case kind == "options" && s.dst.Is4():
		s.packets = [][]byte{s.packet(s.proto, payload, []byte{1, 1, 1, 0}, 0)}
	case kind == "options": // hop by hop, padding
		s.packets = [][]byte{s.packet(0, append([]byte{s.proto, 0, 1, 4, 0, 0, 0, 0}, payload...), nil, 0)}
	case kind == "destination":
		s.packets = [][]byte{s.packet(60, append([]byte{s.proto, 0, 1, 4, 0, 0, 0, 0}, payload...), nil, 0)}
	case kind == "fragments" && s.dst.Is4():
		const more = 0x2000
		s.packets = [][]byte{s.packet(s.proto, payload[:8], nil, more), s.packet(s.proto, payload[8:], nil, 1)}
	case kind == "fragments":
		head := func(offset uint16) []byte {
			return []byte{s.proto, 0, byte(offset >> 8), byte(offset), 0, 0, 7, byte(own)}
		}
		s.packets = [][]byte{s.packet(44, append(head(1), payload[:8]...), nil, 0), s.packet(44, append(head(8), payload[8:]...), nil, 0)}
	default:
		return nil, errors.New("no such kind: " + kind)
	}
	return s, nil
}

func (s *shot) payload(transport string) []byte {
	var b []byte
	at := 0 // of the checksum
	switch transport {
	case "udp":
		s.proto, at = udp17, 6
		b = binary.BigEndian.AppendUint16(nil, s.own)
		b = binary.BigEndian.AppendUint16(b, s.port)
		b = append(b, 0, 24, 0, 0)
		b = append(b, "what is it, then"...)
	case "tcp":
		s.proto, at = tcp6, 16
		b = binary.BigEndian.AppendUint16(nil, s.own)
		b = binary.BigEndian.AppendUint16(b, s.port)
		b = append(b, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0) // SYN
	case "icmp":
		s.proto, at = icmp4, 2
		b = []byte{8, 0, 0, 0, byte(s.own >> 8), byte(s.own), 0, 1}
		if s.dst.Is6() {
			s.proto, b[0] = icmp6, 128
		}
		b = append(b, secret...)
	default: // an IP protocol by its number, with an answer like a datagram's
		if _, err := fmt.Sscan(transport, &s.proto); err != nil {
			panic("no such transport: " + transport)
		}
		return []byte("what is it, then")
	}
	var pseudo []byte
	if s.proto != icmp4 {
		pseudo = append(append(pseudo, s.src.AsSlice()...), s.dst.AsSlice()...)
		pseudo = append(pseudo, 0, s.proto, byte(len(b)>>8), byte(len(b)))
	}
	binary.BigEndian.PutUint16(b[at:], checksum(append(pseudo, b...)))
	return b
}

// packet puts an IP header before a payload.
func (s *shot) packet(next byte, payload, options []byte, fragment uint16) []byte {
	if s.dst.Is6() {
		p := []byte{0x60, 0, 0, 0, byte(len(payload) >> 8), byte(len(payload)), next, 64}
		return append(append(append(p, s.src.AsSlice()...), s.dst.AsSlice()...), payload...)
	}
	total := 20 + len(options) + len(payload)
	p := []byte{byte(0x45 + len(options)/4), 0, byte(total >> 8), byte(total), byte(s.own >> 8), byte(s.own), byte(fragment >> 8), byte(fragment), 64, next, 0, 0}
	p = append(append(append(p, s.src.AsSlice()...), s.dst.AsSlice()...), options...)
	binary.BigEndian.PutUint16(p[10:], checksum(p))
	return append(p, payload...)
}

func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		word := uint32(b[i]) << 8
		if i+1 < len(b) {
			word |= uint32(b[i+1])
		}
		sum += word
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// answered reports whether a packet is what its destination answers.
func (s *shot) answered(p []byte) bool {
	var src, dst netip.Addr
	var proto byte
	var body []byte
	switch {
	case len(p) >= 40 && p[0]>>4 == 6:
		src, dst = netip.AddrFrom16([16]byte(p[8:24])), netip.AddrFrom16([16]byte(p[24:40]))
		proto, body = p[6], p[40:]
	case len(p) >= 20 && int(p[0]&0xf)*4 <= len(p):
		src, dst = netip.AddrFrom4([4]byte(p[12:16])), netip.AddrFrom4([4]byte(p[16:20]))
		proto, body = p[9], p[int(p[0]&0xf)*4:]
	}
	if src != s.dst || dst != s.src || proto != s.proto || len(body) < 8 {
		return false
	}
	switch proto {
	case icmp4, icmp6:
		return (body[0] == 0 || body[0] == 129) && binary.BigEndian.Uint16(body[4:]) == s.own
	case tcp6:
		return len(body) >= 20 && body[13]&0x12 == 0x12 && binary.BigEndian.Uint16(body[2:]) == s.own
	}
	if proto != udp17 {
		return bytes.Contains(body, []byte(secret))
	}
	return binary.BigEndian.Uint16(body) == s.port && binary.BigEndian.Uint16(body[2:]) == s.own
}

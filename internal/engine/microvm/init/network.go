package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"

	"berth.dev/internal/engine/microvm/bootapi"
)

const interfaceName = "eth0"

// network configures the loopback and the one interface over rtnetlink(7).
func network(n bootapi.Network) error {
	s, err := openNetlink()
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.link("lo", 0); err != nil {
		return err
	}
	if err := s.link(interfaceName, uint32(n.MTU)); err != nil {
		return err
	}
	eth, err := net.InterfaceByName(interfaceName)
	if err != nil {
		return err
	}
	for _, p := range n.Addrs {
		if err := s.address(eth.Index, p); err != nil {
			return fmt.Errorf("address %s: %w", p, err)
		}
	}
	for _, g := range n.Gateways {
		if n.GatewayMAC != "" {
			mac, err := net.ParseMAC(n.GatewayMAC)
			if err != nil {
				return err
			}
			if err := s.neighbour(eth.Index, g, mac); err != nil {
				return fmt.Errorf("neighbour %s: %w", g, err)
			}
		}
		if err := s.defaultRoute(eth.Index, g); err != nil {
			return fmt.Errorf("route to %s: %w", g, err)
		}
	}
	return nil
}

type netlink struct {
	fd  int
	seq uint32
}

func openNetlink() (*netlink, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	return &netlink{fd: fd}, unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
}

func (s *netlink) close() { _ = unix.Close(s.fd) }

// link brings an interface up, with an MTU unless that is 0.
func (s *netlink) link(name string, mtu uint32) error {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	m := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(m[4:], uint32(i.Index))
	binary.NativeEndian.PutUint32(m[8:], unix.IFF_UP)
	binary.NativeEndian.PutUint32(m[12:], unix.IFF_UP)
	if mtu > 0 {
		m = append(m, attribute(unix.IFLA_MTU, binary.NativeEndian.AppendUint32(nil, mtu))...)
	}
	if err := s.call(unix.RTM_NEWLINK, 0, m); err != nil {
		return fmt.Errorf("bring up %s: %w", name, err)
	}
	return nil
}

func family(a netip.Addr) byte {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func (s *netlink) address(index int, p netip.Prefix) error {
	// NODAD: there is nobody on the wire who could have it too.
	m := []byte{family(p.Addr()), byte(p.Bits()), unix.IFA_F_NODAD, unix.RT_SCOPE_UNIVERSE, 0, 0, 0, 0}
	binary.NativeEndian.PutUint32(m[4:], uint32(index))
	m = append(m, attribute(unix.IFA_LOCAL, p.Addr().AsSlice())...)
	m = append(m, attribute(unix.IFA_ADDRESS, p.Addr().AsSlice())...)
	return s.call(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, m)
}

func (s *netlink) defaultRoute(index int, gateway netip.Addr) error {
	m := make([]byte, unix.SizeofRtMsg)
	m[0], m[4], m[5], m[6], m[7] = family(gateway), unix.RT_TABLE_MAIN, unix.RTPROT_BOOT, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST
	m = append(m, attribute(unix.RTA_GATEWAY, gateway.AsSlice())...)
	m = append(m, attribute(unix.RTA_OIF, binary.NativeEndian.AppendUint32(nil, uint32(index)))...)
	return s.call(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, m)
}

func (s *netlink) neighbour(index int, a netip.Addr, mac net.HardwareAddr) error {
	m := make([]byte, unix.SizeofNdMsg)
	m[0] = family(a)
	binary.NativeEndian.PutUint32(m[4:], uint32(index))
	binary.NativeEndian.PutUint16(m[8:], unix.NUD_PERMANENT)
	m = append(m, attribute(unix.NDA_DST, a.AsSlice())...)
	m = append(m, attribute(unix.NDA_LLADDR, mac)...)
	return s.call(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, m)
}

// attribute encodes one routing attribute, padded (rtnetlink(7)).
func attribute(kind uint16, value []byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// call sends a request and waits for its acknowledgement.
func (s *netlink) call(kind, flags uint16, body []byte) error {
	s.seq++
	b := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, flags|unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	b = binary.NativeEndian.AppendUint32(b, s.seq)
	b = binary.NativeEndian.AppendUint32(b, 0)
	if err := unix.Sendto(s.fd, append(b, body...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	answer := make([]byte, 8192)
	n, _, err := unix.Recvfrom(s.fd, answer, 0)
	if err != nil {
		return err
	}
	if n < unix.SizeofNlMsghdr+4 || binary.NativeEndian.Uint16(answer[4:]) != unix.NLMSG_ERROR {
		return fmt.Errorf("netlink answered with %d bytes", n)
	}
	if code := int32(binary.NativeEndian.Uint32(answer[unix.SizeofNlMsghdr:])); code != 0 {
		return unix.Errno(-code)
	}
	return nil
}

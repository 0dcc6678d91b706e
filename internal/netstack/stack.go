package netstack

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

const (
	// maxPending bounds connections whose handshake is not complete. SYNs beyond
	// it are dropped, as a full backlog drops them.
	maxPending = 1024
	// timeWait is next to nothing where RFC 9293 §3.6.1 has minutes. That guards
	// against late segments, and a wire that keeps order has none behind a FIN; a
	// lost last ACK is answered with a reset, which at that point ends the same
	// connection. It must be short: guests take the same port again within
	// milliseconds, and their SYN would be ignored for a second.
	timeWait = time.Millisecond
	// linger is how long a closed connection waits for the guest's FIN.
	linger = 10 * time.Second
)

// start builds the stack on the wire. On an error s.stack is still to be
// destroyed.
func (s *Stack) start() error {
	s.stack = stack.New(stack.Options{
		NetworkProtocols: []stack.NetworkProtocolFactory{
			ipv4.NewProtocol, arp.NewProtocol,
			// The zero options solicit no routers, heed no advertisements and make
			// up no addresses; the link is static.
			ipv6.NewProtocolWithOptions(ipv6.Options{}),
		},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol},
	})
	if err := s.configureTCP(); err != nil {
		return err
	}
	opts := stack.NICOptions{Name: "guest", QDisc: newQueue(s.wire)}
	if err := s.stack.CreateNICWithOptions(nicID, s.wire, opts); err != nil {
		return fmt.Errorf("create interface: %s", err)
	}
	// The gateway stands for every address, as destination and as source.
	if err := s.stack.SetPromiscuousMode(nicID, true); err != nil {
		return fmt.Errorf("set promiscuous mode: %s", err)
	}
	if err := s.stack.SetSpoofing(nicID, true); err != nil {
		return fmt.Errorf("set spoofing: %s", err)
	}
	if err := s.configureAddresses(); err != nil {
		return err
	}
	forwarder := tcp.NewForwarder(s.stack, receiveBuffer, maxPending, s.accept)
	s.stack.SetTransportProtocolHandler(tcp.ProtocolNumber, forwarder.HandlePacket)
	if !s.begin() {
		return errors.New("stack is closed")
	}
	go func() {
		defer s.wg.Done()
		s.wire.drops.run(s.ctx.Done())
	}()
	return s.listenDNS()
}

func (s *Stack) configureTCP() error {
	sack := tcpip.TCPSACKEnabled(true)
	nagle := tcpip.TCPDelayEnabled(false)
	// Buffers have a fixed size (see bufferSizes): what a guest makes the
	// supervisor hold is known, and on a wire without delay a window that grows
	// wins nothing.
	moderate := tcpip.TCPModerateReceiveBufferOption(false)
	wait := tcpip.TCPTimeWaitTimeoutOption(timeWait)
	finWait := tcpip.TCPLingerTimeoutOption(linger)
	for _, opt := range []tcpip.SettableTransportProtocolOption{&sack, &nagle, &moderate, &wait, &finWait} {
		if err := s.stack.SetTransportProtocolOption(tcp.ProtocolNumber, opt); err != nil {
			return fmt.Errorf("set TCP option %T: %s", opt, err)
		}
	}
	return nil
}

func (s *Stack) configureAddresses() error {
	l := s.link
	for _, p := range []netip.Prefix{
		netip.PrefixFrom(l.Gateway4, l.Guest4.Bits()),
		netip.PrefixFrom(l.Gateway6, l.Guest6.Bits()),
	} {
		addr := tcpip.ProtocolAddress{
			Protocol:          protocolOf(p.Addr()),
			AddressWithPrefix: tcpip.AddressWithPrefix{Address: toAddress(p.Addr()), PrefixLen: p.Bits()},
		}
		if err := s.stack.AddProtocolAddress(nicID, addr, stack.AddressProperties{}); err != nil {
			return fmt.Errorf("set address %s: %s", p, err)
		}
	}
	// A static entry, so that no frame of the guest says where its own go.
	mac := tcpip.LinkAddress(l.GuestMAC)
	for _, a := range []netip.Addr{l.Guest4.Addr(), l.Guest6.Addr()} {
		if err := s.stack.AddStaticNeighbor(nicID, protocolOf(a), toAddress(a), mac); err != nil {
			return fmt.Errorf("set neighbour %s: %s", a, err)
		}
	}
	s.stack.SetRouteTable(s.routes())
	return nil
}

// routes: the link's own prefixes directly, and all else, nested containers
// among it, through the guest. Only answers ever take the latter.
func (s *Stack) routes() []tcpip.Route {
	l := s.link
	direct4, _ := tcpip.NewSubnet(toAddress(l.Guest4.Masked().Addr()), tcpip.MaskFromBytes(net.CIDRMask(l.Guest4.Bits(), 32)))
	direct6, _ := tcpip.NewSubnet(toAddress(l.Guest6.Masked().Addr()), tcpip.MaskFromBytes(net.CIDRMask(l.Guest6.Bits(), 128)))
	return []tcpip.Route{
		{Destination: direct4, NIC: nicID},
		{Destination: direct6, NIC: nicID},
		{Destination: header.IPv4EmptySubnet, Gateway: toAddress(l.Guest4.Addr()), NIC: nicID},
		{Destination: header.IPv6EmptySubnet, Gateway: toAddress(l.Guest6.Addr()), NIC: nicID},
	}
}

func protocolOf(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return header.IPv4ProtocolNumber
	}
	return header.IPv6ProtocolNumber
}

// listenDNS binds UDP port 53 of both gateway addresses. No other UDP socket
// exists, so the stack answers all other datagrams with port unreachable.
func (s *Stack) listenDNS() error {
	for _, gw := range []netip.Addr{s.link.Gateway4, s.link.Gateway6} {
		local := fullAddress(gw, dnsPort)
		conn, err := gonet.DialUDP(s.stack, &local, nil, protocolOf(gw))
		if err != nil {
			return fmt.Errorf("listen for DNS on %s: %w", gw, err)
		}
		if !s.begin() {
			return errors.New("stack is closed")
		}
		go s.serveUDP(conn)
	}
	return nil
}

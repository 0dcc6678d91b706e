// Package netstacktest is a guest for tests: a second user-space stack on the
// guest's end of a wire, set up as an engine sets up the real one, so that
// tests exchange real packets with a netstack.Stack in one process. Only tests
// import it.
package netstacktest

import (
	"context"
	"net"
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/fdbased"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"berth.dev/internal/netstack"
)

const nicID = 1

// Guest is a network stack like the one inside a sandbox. It is torn down with
// the test.
type Guest struct {
	Stack *stack.Stack
	Link  netstack.Link
}

// NewGuest starts a guest on wire, which it owns from then on. The gateways'
// MAC is not told: it is found by ARP and NDP.
func NewGuest(tb testing.TB, wire *os.File, link netstack.Link) *Guest {
	tb.Helper()
	g := &Guest{Link: link, Stack: stack.New(stack.Options{
		NetworkProtocols: []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{
			tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
	})}
	ep, err := fdbased.New(&fdbased.Options{
		FDs: []int{int(wire.Fd())}, MTU: uint32(link.MTU), EthernetHeader: true,
		Address: tcpip.LinkAddress(link.GuestMAC), PacketDispatchMode: fdbased.RecvMMsg,
		TXChecksumOffload: !link.Checksums, RXChecksumOffload: !link.Checksums,
		IsPacketSocket: []bool{false}, PreConfigured: true, ProcessorsPerChannel: 1,
	})
	if err != nil {
		tb.Fatalf("make guest's link: %v", err)
	}
	if err := g.Stack.CreateNIC(nicID, ep); err != nil {
		tb.Fatalf("create guest's interface: %v", err)
	}
	tb.Cleanup(func() {
		g.Stack.Close()
		// The reader has to be gone before the interface is removed: that waits
		// for it with the stack's lock held, which the reader may want.
		_ = unix.Shutdown(int(wire.Fd()), unix.SHUT_RDWR)
		ep.Wait()
		_ = g.Stack.RemoveNIC(nicID)
		g.Stack.Wait()
		_ = wire.Close()
	})
	g.AddAddress(tb, link.Guest4)
	g.AddAddress(tb, link.Guest6)
	g.Stack.SetRouteTable([]tcpip.Route{
		{Destination: subnet(link.Guest4), NIC: nicID},
		{Destination: subnet(link.Guest6), NIC: nicID},
		{Destination: header.IPv4EmptySubnet, Gateway: tcpip.AddrFromSlice(link.Gateway4.AsSlice()), NIC: nicID},
		{Destination: header.IPv6EmptySubnet, Gateway: tcpip.AddrFromSlice(link.Gateway6.AsSlice()), NIC: nicID},
	})
	return g
}

// AddAddress gives the guest one more address, its own or a stolen one.
func (g *Guest) AddAddress(tb testing.TB, p netip.Prefix) {
	tb.Helper()
	err := g.Stack.AddProtocolAddress(nicID, tcpip.ProtocolAddress{
		Protocol: protocolOf(p.Addr()),
		AddressWithPrefix: tcpip.AddressWithPrefix{
			Address: tcpip.AddrFromSlice(p.Addr().AsSlice()), PrefixLen: p.Bits()},
	}, stack.AddressProperties{})
	if err != nil {
		tb.Fatalf("give guest the address %s: %v", p, err)
	}
}

// Dial connects by TCP from the guest's own address.
func (g *Guest) Dial(ctx context.Context, dst netip.AddrPort) (*gonet.TCPConn, error) {
	return gonet.DialContextTCP(ctx, g.Stack, full(dst), protocolOf(dst.Addr()))
}

// DialFrom connects by TCP from an address and port (0 picks one) of its own.
func (g *Guest) DialFrom(ctx context.Context, src, dst netip.AddrPort) (*gonet.TCPConn, error) {
	return gonet.DialTCPWithBind(ctx, g.Stack, full(src), full(dst), protocolOf(dst.Addr()))
}

// DialUDP makes a connected UDP socket.
func (g *Guest) DialUDP(dst netip.AddrPort) (*gonet.UDPConn, error) {
	raddr := full(dst)
	return gonet.DialUDP(g.Stack, nil, &raddr, protocolOf(dst.Addr()))
}

// Listen listens on a TCP port of the guest's IPv4 address.
func (g *Guest) Listen(port uint16) (net.Listener, error) {
	return gonet.ListenTCP(g.Stack, full(netip.AddrPortFrom(g.Link.Guest4.Addr(), port)), header.IPv4ProtocolNumber)
}

func full(a netip.AddrPort) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: nicID, Addr: tcpip.AddrFromSlice(a.Addr().AsSlice()), Port: a.Port()}
}

func subnet(p netip.Prefix) tcpip.Subnet {
	n, _ := tcpip.NewSubnet(tcpip.AddrFromSlice(p.Masked().Addr().AsSlice()),
		tcpip.MaskFromBytes(net.CIDRMask(p.Bits(), p.Addr().BitLen())))
	return n
}

func protocolOf(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return header.IPv4ProtocolNumber
	}
	return header.IPv6ProtocolNumber
}

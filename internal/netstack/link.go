package netstack

import (
	"fmt"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
)

// Link is the wire between a guest and its gateway: plain values, the same for
// both ends. The guest needs no more than these: an address of each family, a
// default route to each gateway, and (or ARP and NDP) the gateway's MAC.
type Link struct {
	MTU                  int // bytes of an IP packet
	GuestMAC, GatewayMAC net.HardwareAddr
	Guest4, Guest6       netip.Prefix // the guest's address, with the length of the link's prefix
	Gateway4, Gateway6   netip.Addr   // default route and DNS server of the guest
	// Host4 is a second address of the gateway's side. It stands for the host's
	// loopback (host.berth.internal) and is passed to the handler as it is.
	Host4 netip.Addr
	// Routes are networks behind the guest: containers inside it, which reach
	// the wire with their own addresses. Nothing else may be a source.
	Routes []netip.Prefix
	// Checksums: the guest's end computes and verifies checksums, as a virtual
	// machine's does. gVisor's is told to leave them out, which is faster, and
	// loses nothing on a wire inside one kernel.
	Checksums bool
}

// DefaultLink returns the link that every sandbox has; they can be all the same
// because each has a wire of its own.
//
// Its addresses hide nothing that a guest could want: a /29 high in 10/8,
// beside the ranges that Docker hands out to nested containers (172.16/12,
// 192.168/16), that Kubernetes, LXD, Podman and VPNs choose by default, and
// that routers give to homes. Not link-local ones, because gVisor and Linux
// do not forward those for a nested container; not 100.64/10, which is a
// company's overlay network; not 198.18/15, which is kept for addresses that
// stand for names. The IPv6 prefix is a unique local one (RFC 4193).
func DefaultLink() Link {
	return Link{
		MTU:        65000,
		GuestMAC:   net.HardwareAddr{0x02, 0xbe, 0x72, 0x74, 0x68, 0x03},
		GatewayMAC: net.HardwareAddr{0x02, 0xbe, 0x72, 0x74, 0x68, 0x01},
		Guest4:     netip.MustParsePrefix("10.213.77.3/29"),
		Gateway4:   netip.MustParseAddr("10.213.77.1"),
		Host4:      netip.MustParseAddr("10.213.77.2"),
		Guest6:     netip.MustParsePrefix("fdbe:7274:6800::3/64"),
		Gateway6:   netip.MustParseAddr("fdbe:7274:6800::1"),
		Routes:     []netip.Prefix{netip.MustParsePrefix("172.16.0.0/12")},
	}
}

// Check reports what is wrong with a link.
func (l Link) Check() error {
	switch {
	case l.MTU < 1280 || l.MTU > maxFrame-ethernetSize:
		return fmt.Errorf("MTU %d is not in 1280..%d", l.MTU, maxFrame-ethernetSize)
	case len(l.GuestMAC) != 6 || len(l.GatewayMAC) != 6 || (l.GuestMAC[0]|l.GatewayMAC[0])&1 != 0:
		return fmt.Errorf("%s and %s are not two unicast MAC addresses", l.GuestMAC, l.GatewayMAC)
	case !l.Guest4.Addr().Is4() || !l.Guest4.Contains(l.Gateway4) || !l.Guest4.Contains(l.Host4):
		return fmt.Errorf("%s, %s and %s are not one IPv4 link", l.Guest4, l.Gateway4, l.Host4)
	case l.Gateway4 == l.Guest4.Addr() || l.Gateway4 == l.Host4 || l.Host4 == l.Guest4.Addr():
		return fmt.Errorf("two of %s, %s and %s are the same", l.Guest4, l.Gateway4, l.Host4)
	case !l.Guest6.Addr().Is6() || l.Guest6.Addr().Is4In6() || !l.Guest6.Contains(l.Gateway6) || l.Gateway6 == l.Guest6.Addr():
		return fmt.Errorf("%s and %s are not one IPv6 link", l.Guest6, l.Gateway6)
	}
	for _, r := range l.Routes {
		if !r.IsValid() || r.Contains(l.Gateway4) || r.Contains(l.Host4) || r.Contains(l.Gateway6) {
			return fmt.Errorf("route %s takes in the gateway", r)
		}
	}
	return nil
}

// sendBuffer is how many bytes may be on their way in one direction. The
// socket pair is the wire: when it is full the guest's end drops frames.
const sendBuffer = 4 << 20

// Pair makes a wire: two connected datagram sockets, close-on-exec, with send
// buffers as large as this process may have. The first end is for Config.Wire,
// the other for the guest's engine. The caller closes both.
func Pair() (gateway, guest *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make socket pair: %w", err)
	}
	for _, fd := range fds {
		// FORCE passes net.core.wmem_max and needs CAP_NET_ADMIN on the host.
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, sendBuffer) == nil {
			continue
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, sendBuffer); err != nil {
			_ = unix.Close(fds[0])
			_ = unix.Close(fds[1])
			return nil, nil, fmt.Errorf("set send buffer: %w", err)
		}
	}
	return os.NewFile(uintptr(fds[0]), "wire"), os.NewFile(uintptr(fds[1]), "guest wire"), nil
}

// nicID is the stack's one interface.
const nicID = 1

func toAddress(a netip.Addr) tcpip.Address { return tcpip.AddrFromSlice(a.AsSlice()) }

func fullAddress(a netip.Addr, port uint16) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: nicID, Addr: toAddress(a), Port: port}
}

// toAddrPort keeps IPv4 inside IPv6 as it is: the handler must see the form
// that the guest chose.
func toAddrPort(a tcpip.Address, port uint16) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(a.AsSlice())
	return netip.AddrPortFrom(addr, port)
}

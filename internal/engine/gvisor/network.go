package gvisor

import (
	"fmt"
	"net"
	"net/netip"
	"os"

	"gvisor.dev/gvisor/pkg/control/client"
	"gvisor.dev/gvisor/runsc/boot"
	"gvisor.dev/gvisor/runsc/config"

	"berth.dev/internal/engine"
)

// interfaceName and index of the guest's only interface.
const (
	interfaceName  = "eth0"
	interfaceIndex = 2
)

// start configures the guest's network and runs its first process: what
// container.Start does, with our wire instead of a network namespace's.
func (m *machine) start(wire *os.File) error {
	conn, err := client.ConnectTo(m.container.Sandbox.GetControlSocketPath())
	if err != nil {
		return fmt.Errorf("connect to the sentry: %w", err)
	}
	defer conn.Close()
	if err := conn.Call(boot.ContMgrSetNetworkArgs, networkArgs(m.cfg.Network, wire), nil); err != nil {
		return fmt.Errorf("configure the guest's network: %w", err)
	}
	id := m.cfg.ID
	if err := conn.Call(boot.ContMgrRootContainerStart, &id, nil); err != nil {
		return fmt.Errorf("start the guest: %w", err)
	}
	return nil
}

func networkArgs(n engine.Network, wire *os.File) *boot.CreateLinksAndRoutesArgs {
	link := boot.FDBasedLink{
		Name: interfaceName, InterfaceIndex: interfaceIndex, MTU: n.MTU, LinkAddress: n.MAC,
		// Frames never leave this machine, so no checksum can be wrong.
		TXChecksumOffload: true, RXChecksumOffload: true,
		QDisc: config.QDiscNone, NumChannels: 1, ProcessorsPerChannel: 1,
		IsPacket: []bool{false}, PreConfigured: true,
	}
	args := &boot.CreateLinksAndRoutesArgs{LoopbackLinks: []boot.LoopbackLink{boot.DefaultLoopbackLink}}
	for _, p := range n.Addrs {
		link.Addresses = append(link.Addresses, boot.IPWithPrefix{Address: p.Addr().AsSlice(), PrefixLen: p.Bits()})
		link.Routes = append(link.Routes, boot.Route{Destination: ipNet(p.Masked())})
	}
	for _, gw := range n.Gateways {
		if n.GatewayMAC != nil {
			link.Neighbors = append(link.Neighbors, boot.Neighbor{IP: gw.AsSlice(), HardwareAddr: n.GatewayMAC})
		}
		bits, dst := 128, &args.Defaultv6Gateway
		if gw.Is4() {
			bits, dst = 32, &args.Defaultv4Gateway
		}
		any := net.IPNet{IP: make(net.IP, bits/8), Mask: net.CIDRMask(0, bits)}
		*dst = boot.DefaultRoute{Name: interfaceName, Route: boot.Route{Destination: any, Gateway: gw.AsSlice()}}
	}
	args.FDBasedLinks = []boot.FDBasedLink{link}
	args.Files = []*os.File{wire}
	return args
}

func ipNet(p netip.Prefix) net.IPNet {
	return net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

package egress

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// How long what the host says about itself is taken as known. Both follow a
// laptop from one network to the next.
const (
	hostFresh = 5 * time.Second
	ipv6Fresh = 30 * time.Second
)

// hostAddrs knows the addresses of the host's interfaces: a service that is
// bound to one of them is not on the internet, public as the address may be.
// What a cloud translates to the host cannot be seen here: a machine whose
// public address lives in the provider's router reaches itself as anybody does.
type hostAddrs struct {
	list func() ([]net.Addr, error)
	now  func() time.Time

	mu    sync.Mutex
	at    time.Time
	addrs map[netip.Addr]bool
}

func (h *hostAddrs) has(a netip.Addr) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.addrs == nil || h.now().Sub(h.at) > hostFresh {
		if found, err := h.list(); err == nil {
			h.addrs, h.at = map[netip.Addr]bool{}, h.now()
			for _, f := range found {
				if n, ok := f.(*net.IPNet); ok {
					if ip, ok := netip.AddrFromSlice(n.IP); ok {
						h.addrs[ip.Unmap()] = true
					}
				}
			}
		}
	}
	// With no list at all nothing is known to be foreign.
	return h.addrs == nil || h.addrs[a.Unmap().WithZone("")]
}

// ipv6Route knows whether the host reaches the IPv6 internet.
type ipv6Route struct {
	probe func() bool
	now   func() time.Time

	mu  sync.Mutex
	at  time.Time
	yes bool
}

func (r *ipv6Route) available() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.at.IsZero() || r.now().Sub(r.at) > ipv6Fresh {
		r.yes, r.at = r.probe(), r.now()
	}
	return r.yes
}

// hasIPv6 asks the kernel which way it would send to a public address, which
// sends nothing. A unique local address on this side counts: it may be
// translated, and clients that have both families try IPv4 first with one
// (RFC 6724 §5, rule 5), as the guest's own address is of that kind.
func hasIPv6() bool {
	c, err := net.Dial("udp6", "[2001:4860:4860::8888]:53")
	if err != nil {
		return false
	}
	defer func() { _ = c.Close() }()
	local, ok := c.LocalAddr().(*net.UDPAddr)
	return ok && !local.IP.IsLinkLocalUnicast() && !local.IP.IsLoopback()
}

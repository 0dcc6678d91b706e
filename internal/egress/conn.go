package egress

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// recorded is a connection that is recorded when it is closed.
type recorded struct {
	net.Conn
	rec            Record
	to             Recorder
	sent, received atomic.Int64
	once           sync.Once
}

// Read implements net.Conn.
func (c *recorded) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.received.Add(int64(n))
	return n, err
}

// Write implements net.Conn.
func (c *recorded) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.sent.Add(int64(n))
	return n, err
}

// CloseWrite passes on the end of what the guest sends.
func (c *recorded) CloseWrite() error {
	if cw, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return nil
}

// SetLinger makes Close a reset, with 0.
func (c *recorded) SetLinger(sec int) error {
	if l, ok := c.Conn.(interface{ SetLinger(int) error }); ok {
		return l.SetLinger(sec)
	}
	return nil
}

// Close implements net.Conn.
func (c *recorded) Close() error {
	c.once.Do(func() {
		c.rec.Sent, c.rec.Received = c.sent.Load(), c.received.Load()
		c.rec.Duration = time.Since(c.rec.Time)
		c.to.Record(c.rec)
	})
	return c.Conn.Close()
}

// hostAddrs knows the addresses of the host's interfaces: a service that is
// bound to one of them is not on the internet, public as the address may be.
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
	return h.addrs == nil || h.addrs[a.Unmap()]
}

// hasIPv6 reports whether the host has a route to the IPv6 internet. Connecting
// a datagram socket sends nothing.
func hasIPv6() bool {
	c, err := net.Dial("udp6", "[2001:4860:4860::8888]:53")
	if err != nil {
		return false
	}
	return c.Close() == nil
}

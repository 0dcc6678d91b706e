package netstack

import (
	"context"
	"net"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// accept handles one SYN of the guest, on a goroutine of its own. The handshake
// waits for the handler, so that the guest's connect succeeds only when there
// is somebody at the other end, and is refused when there is not.
func (s *Stack) accept(r *tcp.ForwarderRequest) {
	if !s.begin() {
		r.Complete(true)
		return
	}
	defer s.wg.Done()
	s.counters.connections.Add(1)
	n, ok := s.enter()
	if !ok {
		r.Complete(true)
		s.counters.overLimit.Add(1)
		s.warn("guest has too many connections; refusing more", "limit", s.maxConns)
		return
	}
	defer s.leave()

	id := r.ID()
	src, dst := toAddrPort(id.RemoteAddress, id.RemotePort), toAddrPort(id.LocalAddress, id.LocalPort)
	if dst.Addr() == s.link.Gateway4 || dst.Addr() == s.link.Gateway6 {
		s.acceptGateway(r, dst.Port())
		return
	}
	route, err := s.handler.OpenTCP(s.ctx, src, dst)
	if err != nil {
		s.counters.refused.Add(1)
		r.Complete(true)
		return
	}
	guest, ep := s.complete(r, n)
	switch {
	case guest == nil && route.Conn != nil:
		_ = route.Conn.Close()
	case guest == nil:
	case route.Serve != nil:
		s.serve(guest, ep, route.Serve)
	default:
		s.relay(&relay{guest: guest, ep: ep, host: route.Conn})
	}
}

// serve gives the guest's connection to whoever answers it.
func (s *Stack) serve(guest *gonet.TCPConn, ep tcpip.Endpoint, handle func(context.Context, net.Conn)) {
	defer guest.Close()
	r := &relay{guest: guest, ep: ep} // so that Close reaches it
	if !s.track(r) {
		r.abort()
		return
	}
	defer s.untrack(r)
	handle(s.ctx, &counted{TCPConn: guest, counters: &s.counters})
}

// counted is a guest's connection whose bytes are counted.
type counted struct {
	*gonet.TCPConn
	counters *counters
}

// Read implements net.Conn.
func (c *counted) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	c.counters.fromGuest.Add(uint64(n))
	return n, err
}

// Write implements net.Conn.
func (c *counted) Write(p []byte) (int, error) {
	n, err := c.TCPConn.Write(p)
	c.counters.toGuest.Add(uint64(n))
	return n, err
}

// acceptGateway: the gateway itself has DNS and nothing else.
func (s *Stack) acceptGateway(r *tcp.ForwarderRequest, port uint16) {
	if port != dnsPort {
		s.counters.refused.Add(1)
		r.Complete(true)
		return
	}
	select {
	case s.tcpSlots <- struct{}{}:
		defer func() { <-s.tcpSlots }()
	default:
		s.counters.overLimit.Add(1)
		r.Complete(true)
		return
	}
	if guest, ep := s.complete(r, s.maxConns); guest != nil {
		s.serveTCP(guest, ep)
	}
}

// complete does the handshake; nil when the guest did not finish it. n is how
// many connections there are.
func (s *Stack) complete(r *tcp.ForwarderRequest, n int) (*gonet.TCPConn, tcpip.Endpoint) {
	wq := new(waiter.Queue)
	// CreateEndpoint waits for the guest's ACK, and is told of nothing else:
	// when the stack closes it has to be woken, and then sees that it failed.
	done := make(chan struct{})
	defer close(done)
	if !s.begin() {
		r.Complete(true)
		return nil, nil
	}
	go func() {
		defer s.wg.Done()
		select {
		case <-done:
		case <-s.ctx.Done():
			wq.Notify(waiter.WritableEvents)
		}
	}()
	ep, err := r.CreateEndpoint(wq)
	r.Complete(err != nil)
	if err != nil {
		s.counters.abandoned.Add(1)
		return nil, nil
	}
	receive, send := bufferSizes(n)
	opts := ep.SocketOptions()
	opts.SetReceiveBufferSize(receive, true)
	opts.SetSendBufferSize(send, true)
	setKeepalive(ep)
	return gonet.NewTCPConn(wq, ep), ep
}

// receiveBuffer is the largest receive buffer. Half of it is the window, four
// full frames: what an ordinary user's socket takes at net.core.wmem_max as
// kernels have it. With a larger one the guest's end has to drop frames, and
// an upload waits for retransmissions most of its time (70 against 250 MB/s).
const receiveBuffer = 512 << 10

// bufferSizes returns the sizes in bytes of the n-th connection's receive
// buffer and of its send buffer. A guest that fills those of the default 4,096
// makes the supervisor hold 480 and 544 MiB; one with a few connections gets
// what full speed needs.
func bufferSizes(n int) (receive, send int64) {
	switch {
	case n <= 128:
		return receiveBuffer, 1 << 20
	case n <= 1024:
		return 256 << 10, 256 << 10
	default:
		return 64 << 10, 64 << 10
	}
}

// setKeepalive finds guests whose end is gone without a word, after a restored
// snapshot for one. Live ones may be silent for as long as they like.
func setKeepalive(ep tcpip.Endpoint) {
	idle, interval := tcpip.KeepaliveIdleOption(2*time.Minute), tcpip.KeepaliveIntervalOption(30*time.Second)
	_ = ep.SetSockOpt(&idle)
	_ = ep.SetSockOpt(&interval)
	_ = ep.SetSockOptInt(tcpip.KeepaliveCountOption, 6)
	ep.SocketOptions().SetKeepAlive(true)
}

// enter counts a connection in; false when there are too many.
func (s *Stack) enter() (int, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns >= s.maxConns {
		return 0, false
	}
	s.conns++
	return s.conns, true
}

func (s *Stack) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns--
}

// track makes Close reach a relay; false means that the stack is closing.
func (s *Stack) track(r *relay) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending {
		return false
	}
	s.relays[r] = struct{}{}
	return true
}

func (s *Stack) untrack(r *relay) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.relays, r)
}

// halfCloser is what net.TCPConn and gonet.TCPConn have beyond net.Conn.
type halfCloser interface{ CloseWrite() error }

var _ halfCloser = (*net.TCPConn)(nil)

// Package netstack is where the guest's only wire ends: a user-space TCP/IP
// stack in the supervisor's process, on one end of a datagram socket pair that
// carries raw ethernet frames. It turns frames into connections, and passes
// those to a Handler that decides about them.
//
// It owns the link (its addresses, its socket pair), what of the guest's frames
// is looked at all (filter.go), the limits on what a guest can make it hold,
// and the copying of bytes. It does not own any decision about where a guest
// may go, nor DNS: the Handler has those.
//
// The guest controls every byte that arrives here. What it can reach is:
//
//   - TCP to any address but the gateway's, through Handler.OpenTCP;
//   - DNS on port 53 of the gateway, UDP and TCP, through Handler.ServeDNS;
//   - an answer to ping from the gateway, and from nothing else;
//   - the gateway's link address, by ARP and neighbour discovery.
//
// TCP that is refused is reset at once, UDP that is refused gets an ICMP port
// unreachable; nothing else is answered. Multicast, broadcast, fragments, IP
// options and extension headers, and sources that are not the guest's are
// dropped unread.
//
// A Stack is valid from New to Close. Only the supervisor wires one.
package netstack

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// Handler decides where the guest's connections go. Methods are called from
// many goroutines at once, and must return soon after their context ends, which
// happens when the Stack closes.
type Handler interface {
	// OpenTCP is asked for each TCP connection of the guest before its handshake
	// is completed. An error refuses the connection: the guest sees a reset at
	// once. dst is never the gateway's own address.
	OpenTCP(ctx context.Context, src, dst netip.AddrPort) (Route, error)

	// ServeDNS answers one DNS message of the guest, up to 4 KiB by "udp" and
	// 64 KiB by "tcp", its form unchecked. The answer has to fit the transport.
	// An error means no answer: nothing is sent by UDP, the connection is closed
	// by TCP.
	ServeDNS(ctx context.Context, query []byte, transport string) ([]byte, error)

	// Dropped is told of all else that the guest sent, which went nowhere: each
	// kind at once, and then how much more of it there was every ten seconds. It
	// holds up the guest's frames, and must not block.
	Dropped(Drop)
}

// Route is where a connection that was let in goes: one of its fields is set.
type Route struct {
	// Conn is joined with the guest's connection. The Stack closes it; where it
	// has CloseWrite() error and SetLinger(int) error, as *net.TCPConn does, half
	// closes and resets reach it too.
	Conn net.Conn
	// Serve has the guest's connection to itself, which has CloseWrite() error,
	// and returns when it is done with it; the Stack then closes it. ctx ends
	// when the Stack closes, which also breaks the connection. When the guest
	// does not complete its handshake it is not called.
	Serve func(ctx context.Context, guest net.Conn)
}

// Config is what a Stack is made of.
type Config struct {
	// Wire is this side's end of Pair. The Stack owns it once New has returned
	// without an error, and closes it in Close.
	Wire *os.File
	// Link says how the two ends are called.
	Link Link
	// Handler decides; required.
	Handler Handler
	// Logger receives what an operator has to know; nil discards.
	Logger *slog.Logger
	// MaxConns bounds the guest's TCP connections that exist at one time; those
	// beyond are reset. 0 means 4096, or half of this process's limit of open
	// files where that is less.
	MaxConns int
}

// Stack is a running network stack. Its methods are safe for concurrent use.
type Stack struct {
	link     Link
	handler  Handler
	log      *slog.Logger
	maxConns int
	file     *os.File
	wire     *wire
	stack    *stack.Stack
	udpSlots chan struct{} // one for each DNS question by UDP that is being answered
	tcpSlots chan struct{} // one for each DNS connection by TCP
	counters counters

	ctx    context.Context
	cancel context.CancelFunc
	once   sync.Once
	closed error

	mu      sync.Mutex
	ending  bool
	wg      sync.WaitGroup // all goroutines of this package but the wire's
	relays  map[*relay]struct{}
	conns   int // of the guest, pending ones included
	warned  time.Time
	skipped int // warnings not written since warned
}

// New starts a stack on cfg.Wire. On an error nothing is left running and the
// wire still belongs to the caller.
func New(cfg Config) (*Stack, error) {
	if cfg.Wire == nil || cfg.Handler == nil {
		return nil, errors.New("start network stack: no wire or no handler")
	}
	if err := cfg.Link.Check(); err != nil {
		return nil, fmt.Errorf("start network stack: %w", err)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.MaxConns <= 0 {
		cfg.MaxConns = defaultMaxConns()
	}
	w, err := newWire(int(cfg.Wire.Fd()), cfg.Link, cfg.Handler.Dropped)
	if err != nil {
		return nil, fmt.Errorf("start network stack: %w", err)
	}
	s := &Stack{
		link: cfg.Link, handler: cfg.Handler, log: cfg.Logger, maxConns: cfg.MaxConns,
		file: cfg.Wire, wire: w, relays: map[*relay]struct{}{},
		udpSlots: make(chan struct{}, maxUDPQuestions), tcpSlots: make(chan struct{}, maxDNSConns),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if err := s.start(); err != nil {
		s.cancel()
		w.halt()
		s.stack.Destroy()
		s.wg.Wait()
		w.release()
		return nil, fmt.Errorf("start network stack: %w", err)
	}
	return s, nil
}

// defaultMaxConns leaves room for everything else that a supervisor opens: a
// guest that uses up its descriptors would cut the user off from it.
func defaultMaxConns() int {
	const want = 4096
	var lim unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &lim) == nil && lim.Cur/2 < want {
		return max(64, int(lim.Cur/2))
	}
	return want
}

// DialGuest connects from the gateway's address to a TCP port of the guest. A
// port where nothing listens is an error at once. The connection has
// CloseWrite() error; Close of the Stack cuts it. Its local port is not one
// that anything but the guest's own end of this connection can talk to: the
// stack matches whole four-tuples, and the filter lets no other source in.
func (s *Stack) DialGuest(ctx context.Context, port uint16) (net.Conn, error) {
	if s.ctx.Err() != nil {
		return nil, net.ErrClosed
	}
	c, err := gonet.DialTCPWithBind(ctx, s.stack, fullAddress(s.link.Gateway4, 0),
		fullAddress(s.link.Guest4.Addr(), port), header.IPv4ProtocolNumber)
	if err != nil {
		return nil, fmt.Errorf("connect to guest port %d: %w", port, err)
	}
	return c, nil
}

// Close cuts all connections, waits until every goroutine of the stack is gone,
// and closes the wire. It is idempotent; all calls return the same error.
func (s *Stack) Close() error {
	s.once.Do(func() {
		s.cancel()
		s.mu.Lock()
		s.ending = true // from here on nothing is added to wg or relays
		for r := range s.relays {
			r.abort()
		}
		s.mu.Unlock()
		// The wire stops first: removing the NIC waits for its reader with the
		// stack's lock held, which the reader may want.
		s.wire.halt()
		s.stack.Destroy()
		s.wg.Wait()
		s.wire.release()
		s.closed = s.file.Close()
	})
	return s.closed
}

// begin registers one more goroutine; false means that the stack is closing.
func (s *Stack) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending {
		return false
	}
	s.wg.Add(1)
	return true
}

// warn logs at most one line per ten seconds, because its cause is the guest's
// to repeat as often as it likes.
func (s *Stack) warn(msg string, args ...any) {
	s.mu.Lock()
	now := time.Now()
	if now.Sub(s.warned) < 10*time.Second {
		s.skipped++
		s.mu.Unlock()
		return
	}
	skipped := s.skipped
	s.warned, s.skipped = now, 0
	s.mu.Unlock()
	s.log.Warn(msg, append(args, "not_logged_since_last", skipped)...)
}

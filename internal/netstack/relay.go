package netstack

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
)

// relay joins a guest's connection with the handler's.
type relay struct {
	guest *gonet.TCPConn
	ep    tcpip.Endpoint // guest's, for Abort
	host  net.Conn       // nil where the handler answers by itself
}

// relay copies both ways until both are done, or one is broken.
func (s *Stack) relay(r *relay) {
	if !s.track(r) {
		r.abort()
		return
	}
	defer s.untrack(r)
	var both sync.WaitGroup
	both.Go(func() { r.up(&s.counters.fromGuest) })
	r.down(&s.counters.toGuest)
	both.Wait()
	_ = r.guest.Close()
	_ = r.host.Close()
}

// up carries what the guest sends. Its end is passed on as an end, a broken
// guest breaks the other side. When the host's side takes no more, what it has
// already said still reaches the guest: down ends the connection then.
func (r *relay) up(count *atomic.Uint64) {
	readErr, _ := pump(r.host, r.guest, count)
	switch {
	case readErr == nil: // the write failed; down sees that the host is gone
	case errors.Is(readErr, io.EOF):
		if h, ok := r.host.(halfCloser); ok {
			_ = h.CloseWrite()
		}
	default:
		r.abort()
	}
}

// down carries what the host sends.
func (r *relay) down(count *atomic.Uint64) {
	readErr, writeErr := pump(r.guest, r.host, count)
	if writeErr == nil && errors.Is(readErr, io.EOF) {
		if r.guest.CloseWrite() == nil {
			return
		}
	}
	r.abort()
}

// abort ends both sides with a reset where they can.
func (r *relay) abort() {
	r.ep.Abort()
	if r.host == nil {
		return
	}
	if l, ok := r.host.(interface{ SetLinger(int) error }); ok {
		_ = l.SetLinger(0)
	}
	_ = r.host.Close()
}

// Buffers come in two sizes: a connection that is idle or chats holds the
// small one, one that moves bulk the large one.
const (
	smallBuffer = 4 << 10
	largeBuffer = 64 << 10
)

var (
	smallBuffers = sync.Pool{New: func() any { b := make([]byte, smallBuffer); return &b }}
	largeBuffers = sync.Pool{New: func() any { b := make([]byte, largeBuffer); return &b }}
)

// pump copies until reading or writing fails, and says which did; reading's end
// is io.EOF.
func pump(dst io.Writer, src io.Reader, count *atomic.Uint64) (readErr, writeErr error) {
	pool := &smallBuffers
	buf := pool.Get().(*[]byte)
	defer func() { pool.Put(buf) }()
	for {
		n, err := src.Read(*buf)
		if n > 0 {
			if _, werr := dst.Write((*buf)[:n]); werr != nil {
				return nil, werr
			}
			count.Add(uint64(n))
		}
		if err != nil {
			return err, nil
		}
		next := pool
		if n == len(*buf) {
			next = &largeBuffers
		} else if n < smallBuffer {
			next = &smallBuffers
		}
		if next != pool {
			pool.Put(buf)
			pool = next
			buf = pool.Get().(*[]byte)
		}
	}
}

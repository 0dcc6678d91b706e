package netstack

import (
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	// queueBytes bounds what waits for room in the wire. It counts bytes, not
	// frames as gVisor's own discipline does: a thousand answers to connection
	// attempts must not be lost, and a thousand full frames must not be held.
	queueBytes = 8 << 20
	// queueBatch is how many frames go to the wire in one system call.
	queueBatch = 32
)

// queue stands between the stack and the wire, so that the stack never waits
// for a guest that does not read; it is the interface's queueing discipline.
// What does not fit is dropped, and TCP sends it again.
type queue struct {
	wire   *wire
	writer sync.WaitGroup

	mu     sync.Mutex
	more   sync.Cond // on mu: packets or closed changed
	pkts   []*stack.PacketBuffer
	bytes  int
	closed bool
}

var _ stack.QueueingDiscipline = (*queue)(nil)

func newQueue(w *wire) *queue {
	q := &queue{wire: w}
	q.more.L = &q.mu
	q.writer.Go(q.write)
	return q
}

// WritePacket implements stack.QueueingDiscipline.
func (q *queue) WritePacket(pkt *stack.PacketBuffer) tcpip.Error {
	q.mu.Lock()
	defer q.mu.Unlock()
	size := pkt.Size()
	switch {
	case q.closed:
		return &tcpip.ErrClosedForSend{}
	case q.bytes+size > queueBytes:
		q.wire.unsent.Add(1)
		return &tcpip.ErrNoBufferSpace{}
	}
	q.bytes += size
	q.pkts = append(q.pkts, pkt.IncRef())
	q.more.Signal()
	return nil
}

// write sends in the order of arrival until the queue is closed.
func (q *queue) write() {
	var batch stack.PacketBufferList
	for q.next(&batch) {
		_, _ = q.wire.WritePackets(batch) // the wire counts what it loses
		batch.Reset()
	}
}

// next waits for packets and moves some into batch; false when there are none
// and never will be.
func (q *queue) next(batch *stack.PacketBufferList) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.pkts) == 0 && !q.closed {
		q.more.Wait()
	}
	n := min(len(q.pkts), queueBatch)
	for _, pkt := range q.pkts[:n] {
		q.bytes -= pkt.Size()
		batch.PushBack(pkt) // takes over the reference
	}
	rest := copy(q.pkts, q.pkts[n:])
	clear(q.pkts[rest:])
	q.pkts = q.pkts[:rest]
	return n > 0
}

// Close implements stack.QueueingDiscipline: what is queued is still tried.
func (q *queue) Close() {
	q.mu.Lock()
	q.closed = true
	q.more.Broadcast()
	q.mu.Unlock()
	q.writer.Wait()
}

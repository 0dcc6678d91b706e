package netstack

import "sync/atomic"

// counters are what Stats reports, as they are counted.
type counters struct {
	connections, refused, overLimit, abandoned atomic.Uint64
	questions                                  atomic.Uint64
	fromGuest, toGuest                         atomic.Uint64
}

// Stats is what has happened on a stack so far.
type Stats struct {
	// Active is how many TCP connections of the guest exist now, those that are
	// still being opened included.
	Active int
	// Connections were asked for by the guest; of those, Refused were refused by
	// the handler or aimed at the gateway, and Abandoned by the guest itself.
	Connections, Refused, Abandoned uint64
	// OverLimit counts connections and DNS questions turned away for their number.
	OverLimit uint64
	// Questions by DNS, UDP and TCP.
	Questions uint64
	// FromGuest and ToGuest are payload bytes of relayed TCP.
	FromGuest, ToGuest uint64
	// Dropped frames of the guest were not looked at: see the package comment.
	Dropped uint64
	// Unsent frames to the guest were lost for want of a reader.
	Unsent uint64
}

// Stats returns the numbers so far. It is cheap, and may be called after Close.
func (s *Stack) Stats() Stats {
	s.mu.Lock()
	active := s.conns
	s.mu.Unlock()
	c := &s.counters
	return Stats{
		Active:      active,
		Connections: c.connections.Load(), Refused: c.refused.Load(), Abandoned: c.abandoned.Load(),
		OverLimit: c.overLimit.Load(), Questions: c.questions.Load(),
		FromGuest: c.fromGuest.Load(), ToGuest: c.toGuest.Load(),
		Dropped: s.wire.dropped.Load(), Unsent: s.wire.unsent.Load(),
	}
}

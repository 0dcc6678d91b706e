package egress

import (
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// Recorder takes the records of what the guest did. It is called from many
// goroutines and must not block.
type Recorder interface{ Record(Record) }

// Record is one connection or one DNS question of the guest's, written when it
// has ended or was refused.
type Record struct {
	Time   time.Time      // of the beginning
	Proto  string         // "tcp" or "dns"
	Source netip.AddrPort // in the guest; zero for dns
	Addr   netip.AddrPort // that the guest asked for; zero for dns
	// Name that last resolved to Addr, "" when none did; the question's for dns.
	Name     string
	Allowed  bool
	Reason   string // why, or for dns the question's type and the answer's code
	Error    string // what was allowed failed for this
	Sent     int64  // bytes from the guest
	Received int64  // bytes to the guest
	Duration time.Duration
}

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

// logRecorder writes what was refused to a log, as far as that makes sense to
// read: how often is for the guest to choose.
type logRecorder struct {
	log     *slog.Logger
	limit   *rate.Limiter
	skipped atomic.Int64
}

func newLogRecorder(log *slog.Logger) *logRecorder {
	return &logRecorder{log: log, limit: rate.NewLimiter(2, 50)}
}

// Record implements Recorder.
func (l *logRecorder) Record(r Record) {
	if r.Allowed && r.Error == "" {
		return
	}
	if !l.limit.Allow() {
		l.skipped.Add(1)
		return
	}
	l.log.Info("refused", "proto", r.Proto, "source", r.Source, "address", r.Addr, "name", r.Name,
		"reason", r.Reason, "error", r.Error, "not_logged_before", l.skipped.Swap(0))
}

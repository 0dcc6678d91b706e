package audit

import (
	"path/filepath"
	"testing"
	"time"
)

func folder(t testing.TB) string {
	t.Helper()
	return filepath.Join(t.TempDir(), "0123456789ab")
}

func openLog(t testing.TB, dir string, opts Options) *Log {
	t.Helper()
	l, err := Open(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// conn is an event of the usual kind.
func conn(n int) Event {
	return Event{
		Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).Add(time.Duration(n) * time.Second), Kind: Connection, Name: "api.example.com",
		Address: "192.0.2.7", Port: 443, Protocol: "tls", Verdict: Allow, Rule: "allow **.example.com:443", Origin: "preset balanced",
		Reason: "allowed by preset balanced", Sent: int64(n), Received: 1 << 20, Duration: time.Second, Sandbox: "box", ID: "0123456789ab",
	}
}

func BenchmarkRecord(b *testing.B) {
	dir := folder(b)
	l := openLog(b, dir, Options{})
	e := conn(1)
	b.ReportAllocs()
	var lost uint64
	for i := 0; b.Loop(); i++ {
		l.Record(e)
		if i%4096 == 4095 { // a writer that is never waited for is never awake
			for l.waiting() > 0 {
				time.Sleep(10*time.Microsecond)
			}
		}
	}
	_ = lost
}

func (l *Log) waiting() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.queue)
}

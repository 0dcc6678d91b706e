package netstack_test

import (
	"io"
	"net"
	"testing"
	"time"
)

// download streams b.N MiB from an origin to the guest, or the other way.
func benchStream(b *testing.B, toGuest bool) {
	const chunk = 1 << 20
	var o origins
	total := int64(b.N) * chunk
	done := make(chan int64, 1)
	addr := o.serve(b, "203.0.113.9:80", func(c *net.TCPConn) {
		var n int64
		if toGuest {
			n, _ = io.CopyN(c, zeros{}, total)
		} else {
			n, _ = io.Copy(io.Discard, c)
		}
		_ = c.Close()
		done <- n
	})
	s, g := start(b, &o)
	c, err := g.Dial(ctx(b), addr)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(chunk)
	b.ResetTimer()
	if toGuest {
		n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c}, make([]byte, 256<<10))
		if n != total || err != nil {
			b.Fatalf("got %d of %d bytes, %v", n, total, err)
		}
	} else {
		buf := make([]byte, 256<<10)
		for left := total; left > 0; left -= int64(len(buf)) {
			if _, err := c.Write(buf); err != nil {
				b.Fatal(err)
			}
		}
		_ = c.CloseWrite()
	}
	if n := <-done; n != total {
		b.Fatalf("origin moved %d of %d bytes", n, total)
	}
	b.StopTimer()
	b.ReportMetric(float64(s.Stats().Unsent), "unsent")
	_ = c.Close()
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

func BenchmarkDownload(b *testing.B) { benchStream(b, true) }
func BenchmarkUpload(b *testing.B)   { benchStream(b, false) }

// BenchmarkRequest is a new connection, a small question and a small answer.
func BenchmarkRequest(b *testing.B) {
	var o origins
	addr := o.serve(b, "203.0.113.9:80", func(c *net.TCPConn) {
		buf := make([]byte, 200)
		_, _ = io.ReadFull(c, buf)
		_, _ = c.Write(buf)
		_ = c.Close()
	})
	_, g := start(b, &o)
	buf := make([]byte, 200)
	b.ResetTimer()
	for range b.N {
		c, err := g.Dial(ctx(b), addr)
		if err != nil {
			b.Fatal(err)
		}
		_, _ = c.Write(buf)
		if _, err := io.ReadFull(c, buf); err != nil {
			b.Fatal(err)
		}
		_ = c.Close()
	}
}

// BenchmarkRoundTrip is a question and an answer on an open connection.
func BenchmarkRoundTrip(b *testing.B) {
	var o origins
	addr := o.serve(b, "203.0.113.9:80", echo)
	_, g := start(b, &o)
	c, err := g.Dial(ctx(b), addr)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	buf := make([]byte, 200)
	b.ResetTimer()
	for range b.N {
		_, _ = c.Write(buf)
		if _, err := io.ReadFull(c, buf); err != nil {
			b.Fatal(err)
		}
	}
}

package guest_test

import (
	"net/netip"
	"os/exec"
	"testing"
	"time"

	"berth.dev/internal/guest/guesttest"
	"berth.dev/internal/guestapi"
	"berth.dev/internal/guestapi/client"
)

// BenchmarkTrue is a command in a running guest over an open connection.
func BenchmarkTrue(b *testing.B) {
	c := guesttest.Start(b).Dial(b)
	for b.Loop() {
		if _, err := c.Start(b.Context(), guestapi.SessionSpec{Args: []string{"true"}}, client.Attach{}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkTerminalTrue is the same in a terminal.
func BenchmarkTerminalTrue(b *testing.B) {
	c := guesttest.Start(b).Dial(b)
	for b.Loop() {
		if _, err := c.Start(b.Context(), guestapi.SessionSpec{Args: []string{"true"}, TTY: true}, client.Attach{}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkHandshake is a new connection.
func BenchmarkHandshake(b *testing.B) {
	g := guesttest.Start(b)
	for b.Loop() {
		conn, err := g.Conn(netip.Addr{})
		if err != nil {
			b.Fatal(err)
		}
		c, err := client.Dial(b.Context(), conn, g.ClientKey, g.HostKey)
		if err != nil {
			b.Fatal(err)
		}
		c.Close()
	}
}

// BenchmarkBoot is from the start of the process to its being ready, and its
// end.
func BenchmarkBoot(b *testing.B) {
	bin := guesttest.Binary(b)
	var ready time.Duration
	for b.Loop() {
		g := guesttest.New(b)
		began := time.Now()
		g.Run(b, exec.Command(bin))
		ready += time.Since(began)
		g.Stop(b)
	}
	b.ReportMetric(float64(ready.Microseconds())/float64(b.N)/1000, "ms/ready")
}

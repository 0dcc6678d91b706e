package netstack_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"berth.dev/internal/netstack"
	"berth.dev/internal/netstack/netstacktest"
)

// origins is a handler for tests: the internet is one listener on the host's
// loopback per address that the guest may dial.
type origins struct {
	mu     sync.Mutex
	addrs  map[netip.AddrPort]string // what the guest dials -> where that is
	tried  []netip.AddrPort
	srcs   []netip.AddrPort
	drops  []netstack.Drop
	dns    func(query []byte, transport string) ([]byte, error)
	answer func(context.Context, net.Conn) // when set, all connections are its own
	hold   chan struct{}                   // when set, OpenTCP waits for it
}

var errRefused = errors.New("refused by test")

func (o *origins) OpenTCP(ctx context.Context, src, dst netip.AddrPort) (netstack.Route, error) {
	o.mu.Lock()
	o.tried = append(o.tried, dst)
	o.srcs = append(o.srcs, src)
	to, ok := o.addrs[dst]
	hold := o.hold
	o.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return netstack.Route{}, ctx.Err()
		}
	}
	if o.answer != nil {
		return netstack.Route{Serve: o.answer}, nil
	}
	if !ok {
		return netstack.Route{}, errRefused
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", to)
	return netstack.Route{Conn: c}, err
}

func (o *origins) Dropped(d netstack.Drop) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.drops = append(o.drops, d)
}

func (o *origins) dropped() []netstack.Drop {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.drops)
}

func (o *origins) ServeDNS(_ context.Context, query []byte, transport string) ([]byte, error) {
	if o.dns == nil {
		return nil, errRefused
	}
	return o.dns(query, transport)
}

func (o *origins) tries() []netip.AddrPort {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]netip.AddrPort(nil), o.tried...)
}

// serve starts an origin: dst, as the guest knows it, is answered by f.
func (o *origins) serve(tb testing.TB, dst string, f func(*net.TCPConn)) netip.AddrPort {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { f(c.(*net.TCPConn)) })
		}
	})
	tb.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	addr := netip.MustParseAddrPort(dst)
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.addrs == nil {
		o.addrs = map[netip.AddrPort]string{}
	}
	o.addrs[addr] = l.Addr().String()
	return addr
}

// start joins a stack and a guest by a wire. Goroutines that outlive the test
// are a failure.
func start(tb testing.TB, o *origins, change ...func(*netstack.Config)) (*netstack.Stack, *netstacktest.Guest) {
	tb.Helper()
	s, wire, link := startRaw(tb, o, change...)
	return s, netstacktest.NewGuest(tb, wire, link)
}

// startRaw leaves the guest's end of the wire to the test.
func startRaw(tb testing.TB, o *origins, change ...func(*netstack.Config)) (*netstack.Stack, *os.File, netstack.Link) {
	tb.Helper()
	noLeaks(tb)
	gateway, guest, err := netstack.Pair()
	if err != nil {
		tb.Fatal(err)
	}
	cfg := netstack.Config{Wire: gateway, Link: netstack.DefaultLink(), Handler: o}
	for _, f := range change {
		f(&cfg)
	}
	s, err := netstack.New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Errorf("close stack: %v", err)
		}
	})
	return s, guest, cfg.Link
}

// noLeaks fails the test when, after all its clean-ups, goroutines of a stack
// are left.
func noLeaks(tb testing.TB) {
	tb.Helper()
	tb.Cleanup(func() {
		var stacks string
		eventually(tb, "goroutines to go", func() bool {
			stacks = goroutines()
			return stacks == ""
		}, func() string { return stacks })
	})
}

// goroutines returns the traces of those that run this package's code or gVisor's.
func goroutines() string {
	buf := make([]byte, 1<<22)
	buf = buf[:runtime.Stack(buf, true)]
	var left []string
	for _, g := range bytes.Split(buf, []byte("\n\n")) {
		s := string(g)
		ours := strings.Contains(s, "gvisor.dev/") || strings.Contains(s, "netstack.(")
		if ours && !strings.Contains(s, "goroutines()") && !strings.Contains(s, "testing.tRunner") {
			left = append(left, s)
		}
	}
	return strings.Join(left, "\n\n")
}

func openFiles(tb testing.TB) int {
	tb.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		tb.Fatal(err)
	}
	return len(d)
}

// eventually polls ok, for ten seconds at most.
func eventually(tb testing.TB, what string, ok func() bool, detail ...func() string) {
	tb.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			for _, d := range detail {
				what += "\n" + d()
			}
			tb.Fatalf("waited in vain for %s", what)
		}
		runtime.Gosched()
		time.Sleep(time.Millisecond)
	}
}

func ctx(tb testing.TB) context.Context {
	c, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	tb.Cleanup(cancel)
	return c
}

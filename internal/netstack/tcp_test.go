package netstack_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"

	"berth.dev/internal/netstack"
)

func echo(c *net.TCPConn) {
	_, _ = io.Copy(c, c)
	_ = c.Close()
}

func TestTCPBothFamilies(t *testing.T) {
	var o origins
	_, g := start(t, &o)
	for _, dst := range []string{"203.0.113.9:80", "[2001:db8::9]:80"} {
		addr := o.serve(t, dst, echo)
		c, err := g.Dial(ctx(t), addr)
		if err != nil {
			t.Fatalf("dial %s: %v", dst, err)
		}
		want := make([]byte, 3<<20)
		_, _ = rand.Read(want)
		go func() {
			_, _ = c.Write(want)
			_ = c.CloseWrite() // the echo ends only when this end arrives
		}()
		got, err := io.ReadAll(c)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes came back, %v; want the %d sent", dst, len(got), err, len(want))
		}
		_ = c.Close()
	}
}

// The server ends first and goes on to read: the guest's half stays open.
func TestHalfCloseByServer(t *testing.T) {
	var o origins
	got := make(chan string, 1)
	addr := o.serve(t, "203.0.113.9:80", func(c *net.TCPConn) {
		_, _ = io.WriteString(c, "that is all")
		_ = c.CloseWrite()
		b, _ := io.ReadAll(c)
		got <- string(b)
		_ = c.Close()
	})
	_, g := start(t, &o)
	c, err := g.Dial(ctx(t), addr)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(c); string(b) != "that is all" || err != nil {
		t.Fatalf("read %q, %v", b, err)
	}
	_, _ = io.WriteString(c, "not from me")
	_ = c.Close()
	if s := <-got; s != "not from me" {
		t.Errorf("server got %q", s)
	}
}

func TestResetIsPassedOn(t *testing.T) {
	var o origins
	addr := o.serve(t, "203.0.113.9:80", func(c *net.TCPConn) {
		_, _ = io.ReadFull(c, make([]byte, 1))
		_ = c.SetLinger(0)
		_ = c.Close()
	})
	_, g := start(t, &o)
	c, err := g.Dial(ctx(t), addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = c.Write([]byte("x"))
	if _, err := io.ReadAll(c); err == nil || !strings.Contains(err.Error(), "reset") {
		t.Errorf("guest read: %v, want a reset", err)
	}
}

func TestRefusedAtOnce(t *testing.T) {
	var o origins
	s, g := start(t, &o)
	for _, dst := range []string{
		"203.0.113.9:443", "[2001:db8::9]:443", "10.0.0.1:22", "192.168.1.1:80", "169.254.169.254:80",
		"10.213.77.1:80", "10.213.77.1:22", "[fdbe:7274:6800::1]:80", // the gateway itself
	} {
		begin := time.Now()
		c, err := g.Dial(ctx(t), netip.MustParseAddrPort(dst))
		if err == nil {
			_ = c.Close()
			t.Errorf("%s: connected", dst)
			continue
		}
		if !strings.Contains(err.Error(), "refused") {
			t.Errorf("%s: %v, want refused", dst, err)
		}
		if d := time.Since(begin); d > 500*time.Millisecond {
			t.Errorf("%s: refused after %s", dst, d)
		}
	}
	for _, tried := range o.tries() {
		if a := tried.Addr().String(); a == "10.213.77.1" || a == "fdbe:7274:6800::1" {
			t.Errorf("handler was asked for the gateway: %s", tried)
		}
	}
	if st := s.Stats(); st.Refused != 8 || st.Active != 0 {
		t.Errorf("stats: %+v, want 8 refused and none active", st)
	}
}

func TestManyConnections(t *testing.T) {
	n := 1000
	if testing.Short() {
		n = 200
	}
	var o origins
	addr := o.serve(t, "203.0.113.9:80", echo)
	s, g := start(t, &o)
	conns := make([]net.Conn, n)
	var wg sync.WaitGroup
	for i := range conns {
		wg.Go(func() {
			c, err := g.Dial(ctx(t), addr)
			if err != nil {
				t.Errorf("connection %d: %v", i, err)
				return
			}
			conns[i] = c
			msg := fmt.Sprintf("connection %d", i)
			_, _ = io.WriteString(c, msg)
			buf := make([]byte, len(msg))
			if _, err := io.ReadFull(c, buf); err != nil || string(buf) != msg {
				t.Errorf("connection %d: %q, %v", i, buf, err)
			}
		})
	}
	wg.Wait()
	if st := s.Stats(); st.Active != n {
		t.Errorf("%d connections active, want %d", st.Active, n)
	}
	for _, c := range conns {
		if c != nil {
			_ = c.Close()
		}
	}
	eventually(t, "connections to end", func() bool { return s.Stats().Active == 0 })
}

func TestConnectionLimit(t *testing.T) {
	var o origins
	addr := o.serve(t, "203.0.113.9:80", echo)
	s, g := start(t, &o, func(c *netstack.Config) { c.MaxConns = 3 })
	var open []net.Conn
	for range 3 {
		c, err := g.Dial(ctx(t), addr)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	if c, err := g.Dial(ctx(t), addr); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Fatalf("fourth connection: %v, %v; want refused", c, err)
	}
	if s.Stats().OverLimit != 1 {
		t.Errorf("stats: %+v", s.Stats())
	}
	_ = open[0].Close()
	eventually(t, "room", func() bool { return s.Stats().Active == 2 })
	if _, err := g.Dial(ctx(t), addr); err != nil {
		t.Errorf("connection after one ended: %v", err)
	}
}

func TestDialGuest(t *testing.T) {
	var o origins
	s, g := start(t, &o)
	l, err := g.Listen(2222)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = fmt.Fprint(c, c.RemoteAddr().(*net.TCPAddr).IP)
		_ = c.Close()
	}()
	c, err := s.DialGuest(ctx(t), 2222)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(c)
	if string(b) != "10.213.77.1" || err != nil {
		t.Errorf("guest saw a connection from %q, %v", b, err)
	}
	_ = c.Close()
	begin := time.Now()
	if _, err := s.DialGuest(ctx(t), 2223); err == nil || time.Since(begin) > time.Second {
		t.Errorf("closed port: %v after %s", err, time.Since(begin))
	}
}

// Close cuts what is open, what is being dialled and what is being shaken
// hands on; the leak check of start sees whether anything is left.
func TestCloseCutsEverything(t *testing.T) {
	var o origins
	addr := o.serve(t, "203.0.113.9:80", echo)
	s, g := start(t, &o)
	c, err := g.Dial(ctx(t), addr)
	if err != nil {
		t.Fatal(err)
	}
	o.mu.Lock()
	o.hold = make(chan struct{})
	o.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(func() {
		if c, err := g.Dial(ctx(t), netip.MustParseAddrPort("203.0.113.10:80")); err == nil {
			t.Errorf("connected: %v", c)
		}
	})
	eventually(t, "second dial", func() bool { return len(o.tries()) == 2 })
	l, err := g.Listen(2222)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	in, err := s.DialGuest(ctx(t), 2222)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	if _, err := in.Read(make([]byte, 1)); err == nil {
		t.Error("connection into the guest reads on after Close")
	}
	if _, err := s.DialGuest(ctx(t), 2222); err == nil {
		t.Error("DialGuest works after Close")
	}
	_ = c.SetReadDeadline(time.Now())
	g.Stack.Close() // the guest's own attempt ends with it
	wg.Wait()
}

func TestCloseClosesDescriptors(t *testing.T) {
	before := openFiles(t)
	var o origins
	s, wire, _ := startRaw(t, &o)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	_ = wire.Close()
	eventually(t, "descriptors to be closed", func() bool { return openFiles(t) <= before })
}

// A virtual machine verifies checksums, so they have to be there.
func TestChecksums(t *testing.T) {
	var o origins
	addr := o.serve(t, "203.0.113.9:80", echo)
	_, g := start(t, &o, func(c *netstack.Config) { c.Link.Checksums = true; c.Link.MTU = 1500 })
	c, err := g.Dial(ctx(t), addr)
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Repeat([]byte("0123456789"), 10000)
	go func() { _, _ = c.Write(want); _ = c.CloseWrite() }()
	if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes came back, %v", len(got), err)
	}
}

// A guest takes the port of a connection that the server ended again at once.
// Once in a while it does so before the stack has seen the end itself, and then
// its SYN waits for a second; were the port held as RFC 9293 says, it would each
// time.
func TestPortTakenAgain(t *testing.T) {
	var o origins
	addr := o.serve(t, "203.0.113.9:80", func(c *net.TCPConn) { _ = c.Close() })
	_, g := start(t, &o)
	src := netip.AddrPortFrom(g.Link.Guest4.Addr(), 40000)
	slow := 0
	for range 6 {
		var c *gonet.TCPConn
		var begin time.Time
		// The guest's own stack needs a moment until the port is free.
		eventually(t, "port to be free in the guest", func() (ok bool) {
			begin = time.Now()
			var err error
			c, err = g.DialFrom(ctx(t), src, addr)
			return err == nil
		})
		if b, err := io.ReadAll(c); len(b) != 0 || err != nil {
			t.Fatalf("read %q, %v", b, err)
		}
		_ = c.Close()
		if time.Since(begin) > 500*time.Millisecond {
			slow++
		}
	}
	if slow > 2 {
		t.Errorf("%d of 6 connections waited", slow)
	}
}

// A connection that the handler answers by itself: it ends when the handler
// returns, and Close of the stack breaks it.
func TestServedByHandler(t *testing.T) {
	served, waiting := make(chan error, 1), make(chan struct{})
	o := origins{answer: func(ctx context.Context, c net.Conn) {
		line := make([]byte, 4)
		if _, err := io.ReadFull(c, line); err != nil {
			served <- err
			return
		}
		if string(line) == "wait" {
			close(waiting)
			<-ctx.Done()
			_, err := c.Read(line)
			served <- err
			return
		}
		_, err := c.Write(line)
		served <- err
	}}
	s, g := start(t, &o)
	dst := netip.MustParseAddrPort("203.0.113.9:80")
	c, err := g.Dial(ctx(t), dst)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(c, "ping")
	if got, err := io.ReadAll(c); err != nil || string(got) != "ping" || <-served != nil {
		t.Errorf("%q, %v", got, err)
	}
	waits, err := g.Dial(ctx(t), dst)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(waits, "wait")
	<-waiting
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := <-served; err == nil {
		t.Error("a read went on after Close")
	}
}

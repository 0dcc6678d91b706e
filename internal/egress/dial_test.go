package egress

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"berth.dev/internal/sandbox"
)

func testAddr(s string) netip.Addr { return netip.MustParseAddr(s) }

var guest = netip.MustParseAddrPort("10.213.77.3:40000")

// closedEverywhere is closed in every form that reaches the dialer as an
// address; decimal, octal and the like are the guest's own resolver's to read.
var closedEverywhere = []string{
	"0.0.0.0", "0.1.2.3", "127.0.0.1", "127.1.2.3", "10.0.0.1", "10.213.77.1", "10.213.77.3", "172.16.0.1", "172.17.0.2",
	"192.168.1.1", "100.64.0.1", "169.254.1.1", "169.254.169.254", "168.63.129.16", "100.100.100.200", "192.0.0.192",
	"198.18.0.1", "224.0.0.251", "240.0.0.1", "255.255.255.255",
	"::", "::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "64:ff9b::127.0.0.1", "64:ff9b::10.0.0.1",
	"64:ff9b::a9fe:a9fe", "64:ff9b:1::808:808", "2002:7f00:1::", "2002:a00:1::1", "2001:0:a00:1::1", "2606:4700::5efe:a00:1",
	"fe80::1", "fc00::1", "fd00:ec2::254", "fdbe:7274:6800::1", "fec0::1", "ff02::1", "100::1", "2001:2::1", "4000::1",
	"198.51.100.7", "2001:db8::7", "64:ff9b::198.51.100.7", // the host's own, below
}

func TestClosedAddresses(t *testing.T) {
	e, rec := newTest(t, Config{
		HostPorts: []int{8080},
		Dial: func(_ context.Context, _, addr string) (net.Conn, error) {
			t.Errorf("dialed %s", addr)
			return nil, errors.New("dialed")
		},
	}, true, "198.51.100.7", "2001:db8::7")
	for _, s := range closedEverywhere {
		for _, port := range []uint16{80, 8080} {
			dst := netip.AddrPortFrom(testAddr(s), port)
			if c, err := e.DialTCP(t.Context(), guest, dst); err == nil || !strings.Contains(err.Error(), "closed") {
				t.Errorf("%s: %v, %v", dst, c, err)
			}
		}
	}
	for _, s := range []string{"203.0.113.9:0", testHost.String() + ":80", "[fe80::1%eth0]:80", "[2606:4700::1%lo]:80"} {
		if _, err := e.DialTCP(t.Context(), guest, netip.MustParseAddrPort(s)); err == nil {
			t.Errorf("%s: connected", s)
		}
	}
	if _, err := e.DialTCP(t.Context(), guest, netip.AddrPort{}); err == nil {
		t.Error("no address: connected")
	}
	for _, r := range rec.of("tcp") {
		if r.Allowed || r.Reason == "" || r.Source != guest {
			t.Errorf("record %+v", r)
		}
	}
	if n := len(rec.of("tcp")); n != 2*len(closedEverywhere)+5 {
		t.Errorf("%d records", n)
	}
}

func TestPublicAddresses(t *testing.T) {
	var dialed []string
	e, rec := newTest(t, Config{Dial: func(_ context.Context, network, addr string) (net.Conn, error) {
		dialed = append(dialed, network+" "+addr)
		a, b := net.Pipe()
		go func() { _, _ = io.Copy(io.Discard, b) }()
		return a, nil
	}}, true)
	e.dns.remember(net.ParseIP("203.0.113.9"), "Example.com.")
	for _, s := range []string{"203.0.113.9:443", "8.8.8.8:53", "[2606:4700::1]:22", "[64:ff9b::808:808]:80"} {
		c, err := e.DialTCP(t.Context(), guest, netip.MustParseAddrPort(s))
		if err != nil {
			t.Errorf("%s: %v", s, err)
			continue
		}
		_, _ = c.Write([]byte("hello"))
		_ = c.Close()
		_ = c.Close()
	}
	if want := []string{"tcp 203.0.113.9:443", "tcp 8.8.8.8:53", "tcp [2606:4700::1]:22", "tcp [64:ff9b::808:808]:80"}; !slices.Equal(dialed, want) {
		t.Errorf("dialed %v, want %v", dialed, want)
	}
	recs := rec.of("tcp")
	if len(recs) != 4 || recs[0].Name != "example.com" || !recs[0].Allowed || recs[0].Sent != 5 || recs[0].Duration <= 0 {
		t.Errorf("records: %+v", recs)
	}
}

func TestIPv6WithoutRoute(t *testing.T) {
	e, _ := newTest(t, Config{Dial: func(context.Context, string, string) (net.Conn, error) {
		t.Error("dialed")
		return nil, errors.New("dialed")
	}}, false)
	if _, err := e.DialTCP(t.Context(), guest, netip.MustParseAddrPort("[2606:4700::1]:22")); err == nil || !strings.Contains(err.Error(), "IPv6") {
		t.Errorf("got %v", err)
	}
}

// An opened port of the host's loopback is reached by the real dialer, of
// either family; the ones beside it are not.
func TestHostPort(t *testing.T) {
	for _, listen := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", listen)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = io.WriteString(c, "hello")
				_ = c.Close()
			}
		}()
		port := l.Addr().(*net.TCPAddr).Port
		e, rec := newTest(t, Config{HostPorts: []int{port}}, true, "127.0.0.1", "::1")
		c, err := e.DialTCP(t.Context(), guest, netip.AddrPortFrom(testHost, uint16(port)))
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(c); string(b) != "hello" || err != nil {
			t.Errorf("read %q, %v", b, err)
		}
		_ = c.Close()
		if r := rec.of("tcp"); len(r) != 1 || r[0].Name != sandbox.HostName || r[0].Received != 5 {
			t.Errorf("records: %+v", r)
		}
		shut, _ := newTest(t, Config{HostPorts: []int{port%65535 + 1}}, true)
		if _, err := shut.DialTCP(t.Context(), guest, netip.AddrPortFrom(testHost, uint16(port))); err == nil || !strings.Contains(err.Error(), "--host-port") {
			t.Errorf("port that was not opened: %v", err)
		}
		_ = l.Close()
		begin := time.Now()
		if _, err := e.DialTCP(t.Context(), guest, netip.AddrPortFrom(testHost, uint16(port))); err == nil || time.Since(begin) > 5*time.Second {
			t.Errorf("port where nothing listens: %v", err)
		}
	}
}

// The dialer's own check holds when the decision was wrong.
func TestLastLook(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	here := netip.MustParseAddrPort(l.Addr().String())
	e, _ := newTest(t, Config{HostPorts: []int{int(here.Port())%65535 + 1}}, true)
	for _, host := range []bool{false, true} {
		if c, err := e.dial(t.Context(), here, host); err == nil {
			_ = c.Close()
			t.Errorf("host %v: connected to a closed place", host)
		}
	}
	public := netip.MustParseAddrPort("203.0.113.9:80")
	if err := e.lastLook(public, false, "203.0.113.10:80"); err == nil {
		t.Error("another address than was decided about: no error")
	}
	if err := e.lastLook(public, false, "203.0.113.9:80"); err != nil {
		t.Errorf("the address that was decided about: %v", err)
	}
	if e.lastLook(public, true, "203.0.113.9:80") == nil || e.lastLook(public, false, "nonsense") == nil {
		t.Error("no error")
	}
}

func TestHostAddressesAreAskedAgain(t *testing.T) {
	c := &clock{t: time.Unix(1e9, 0)}
	var now string
	h := &hostAddrs{now: c.now, list: func() ([]net.Addr, error) {
		if now == "" {
			return nil, errors.New("no list")
		}
		return []net.Addr{&net.IPNet{IP: net.ParseIP(now)}}, nil
	}}
	if !h.has(testAddr("203.0.113.1")) {
		t.Error("without a list an address counts as foreign")
	}
	now = "203.0.113.1"
	if !h.has(testAddr("203.0.113.1")) || !h.has(testAddr("::ffff:203.0.113.1")) || h.has(testAddr("203.0.113.2")) {
		t.Error("wrong about the first list")
	}
	now = "203.0.113.2"
	c.add(hostFresh + time.Second)
	if h.has(testAddr("203.0.113.1")) || !h.has(testAddr("203.0.113.2")) {
		t.Error("wrong about the second list")
	}
	calls := 0
	r := &ipv6Route{now: c.now, probe: func() bool { calls++; return calls > 1 }}
	for range 2 {
		if r.available() || calls != 1 {
			t.Error("probe is not remembered")
		}
	}
	c.add(ipv6Fresh + time.Second)
	if !r.available() {
		t.Error("probe is not asked again")
	}
	_ = hasIPv6() // whatever this host has, it must not block or fail the test
}

func TestConfig(t *testing.T) {
	for _, p := range []int{0, -1, 65536} {
		if _, err := New(Config{HostPorts: []int{p}, HostAddr: testHost}); !errors.Is(err, sandbox.ErrInvalid) {
			t.Errorf("port %d: %v", p, err)
		}
	}
	if _, err := New(Config{HostPorts: []int{80}}); err == nil {
		t.Error("open port without an address: no error")
	}
	if _, err := New(Config{}); err != nil {
		t.Errorf("zero config: %v", err)
	}
}

func TestLogRecorder(t *testing.T) {
	var out strings.Builder
	l := newLogRecorder(slog.New(slog.NewTextHandler(&out, nil)))
	l.Record(Record{Allowed: true})
	for i := range 1000 {
		l.Record(Record{Proto: "tcp", Reason: "refused " + strconv.Itoa(i)})
	}
	if n := strings.Count(out.String(), "\n"); n < 50 || n > 100 {
		t.Errorf("%d lines for 1000 refusals", n)
	}
}

package egress

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"berth.dev/internal/audit"
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
		Policy: rules(t, "allow **", "allow 0.0.0.0/0", "allow ::/0", "allow host.berth.internal:8080"),
		Dial: func(_ context.Context, _, addr string) (net.Conn, error) {
			t.Errorf("dialed %s", addr)
			return nil, errors.New("dialed")
		},
	}, true, "198.51.100.7", "2001:db8::7")
	for _, s := range closedEverywhere {
		for _, port := range []uint16{80, 8080} {
			dst := netip.AddrPortFrom(testAddr(s), port)
			if _, err := e.Open(t.Context(), guest, dst); err == nil || !strings.Contains(err.Error(), "closed") {
				t.Errorf("%s: %v", dst, err)
			}
		}
	}
	for _, s := range []string{"203.0.113.9:0", testHost.String() + ":81", "[fe80::1%eth0]:80", "[2606:4700::1%lo]:80"} {
		if _, err := e.Open(t.Context(), guest, netip.MustParseAddrPort(s)); err == nil {
			t.Errorf("%s: connected", s)
		}
	}
	if _, err := e.Open(t.Context(), guest, netip.AddrPort{}); err == nil {
		t.Error("no address: connected")
	}
	for _, r := range rec.of(audit.Connection) {
		if r.Verdict != "deny" || r.Reason == "" {
			t.Errorf("record %+v", r)
		}
	}
	if n := len(rec.of(audit.Connection)); n != 2*len(closedEverywhere)+5 {
		t.Errorf("%d records", n)
	}
}

// dialer connects to nothing and notes where to.
type dialer struct {
	mu     sync.Mutex
	dialed []string
}

func (d *dialer) dial(_ context.Context, network, addr string) (net.Conn, error) {
	d.mu.Lock()
	d.dialed = append(d.dialed, network+" "+addr)
	d.mu.Unlock()
	a, b := net.Pipe()
	go func() { _, _ = io.Copy(io.Discard, b) }()
	return a, nil
}

func (d *dialer) all() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.dialed)
}

func TestPublicAddresses(t *testing.T) {
	var d dialer
	e, rec := newTest(t, Config{Dial: d.dial}, true)
	for _, s := range []string{"203.0.113.9:443", "8.8.8.8:53", "[2606:4700::1]:22", "[64:ff9b::808:808]:80"} {
		r, err := e.Open(t.Context(), guest, netip.MustParseAddrPort(s))
		if err != nil || r.Conn == nil {
			t.Errorf("%s: %v", s, err)
			continue
		}
		_, _ = r.Conn.Write([]byte("hello"))
		_ = r.Conn.Close()
		_ = r.Conn.Close()
	}
	if want := []string{"tcp 203.0.113.9:443", "tcp 8.8.8.8:53", "tcp [2606:4700::1]:22", "tcp [64:ff9b::808:808]:80"}; !slices.Equal(d.all(), want) {
		t.Errorf("dialed %v, want %v", d.all(), want)
	}
	recs := rec.of(audit.Connection)
	if len(recs) != 4 || recs[0].Verdict != "allow" || recs[0].Sent != 5 || recs[0].Duration <= 0 || recs[0].Rule == "" {
		t.Errorf("records: %+v", recs)
	}
}

func TestIPv6WithoutRoute(t *testing.T) {
	var d dialer
	e, _ := newTest(t, Config{Dial: d.dial}, false)
	if _, err := e.Open(t.Context(), guest, netip.MustParseAddrPort("[2606:4700::1]:22")); err == nil || !strings.Contains(err.Error(), "IPv6") {
		t.Errorf("got %v", err)
	}
}

// A name is resolved when it is connected to, what it resolves to is classed,
// and exactly that is dialed: a name that turns to the host's networks is
// closed, however allowed it is.
func TestRebinding(t *testing.T) {
	z := newZone(t, records("a.example. 0 IN A 203.0.113.9", "b.example. 0 IN A 192.168.1.1", "c.example. 0 IN A 127.0.0.1",
		"c.example. 0 IN A 203.0.113.7", "d.example. 0 IN A 169.254.169.254", "nas.lan. 0 IN A 192.168.1.5"))
	var d dialer
	cfg := Config{Servers: []string{z.addr}, Dial: d.dial}
	e, rec := newTest(t, cfg, false)
	for name, want := range map[string]string{"a.example": "203.0.113.9", "b.example": "", "c.example": "203.0.113.7", "d.example": ""} {
		d.dialed = nil
		r, err := e.Open(t.Context(), guest, netip.AddrPortFrom(addressFor(t, e, name), 5432))
		if want == "" {
			if err == nil || len(d.all()) != 0 {
				t.Errorf("%s: %v, dialed %v", name, err, d.all())
			}
			continue
		}
		if err != nil || !slices.Equal(d.all(), []string{"tcp " + want + ":5432"}) {
			t.Errorf("%s: %v, dialed %v", name, err, d.all())
			continue
		}
		_ = r.Conn.Close()
	}
	denied := 0
	for _, r := range rec.of(audit.Connection) {
		if r.Verdict == "deny" && strings.Contains(r.Reason, "resolves to") {
			denied++
		}
	}
	if denied != 2 {
		t.Errorf("%d denials are recorded: %+v", denied, rec.of(audit.Connection))
	}
	// One private host is opened by a rule for its address.
	cfg.Policy = rules(t, "allow nas.lan", "allow 192.168.1.5:5432")
	opened, _ := newTest(t, cfg, false)
	if _, err := opened.Open(t.Context(), guest, netip.AddrPortFrom(addressFor(t, opened, "nas.lan"), 5432)); err != nil {
		t.Errorf("a private host that was opened: %v", err)
	}
	if _, err := opened.Open(t.Context(), guest, netip.AddrPortFrom(addressFor(t, opened, "nas.lan"), 22)); err == nil {
		t.Error("another port of it is open too")
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
		port := uint16(l.Addr().(*net.TCPAddr).Port)
		open := func(port uint16) Config {
			return Config{Policy: rules(t, fmt.Sprintf("allow host.berth.internal:%d", port))}
		}
		e, rec := newTest(t, open(port), true, "127.0.0.1", "::1")
		r, err := e.Open(t.Context(), guest, netip.AddrPortFrom(testHost, port))
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(r.Conn); string(b) != "hello" || err != nil {
			t.Errorf("read %q, %v", b, err)
		}
		_ = r.Conn.Close()
		if r := rec.of(audit.Connection); len(r) != 1 || r[0].Name != sandbox.HostName || r[0].Received != 5 {
			t.Errorf("records: %+v", r)
		}
		shut, _ := newTest(t, open(port%65535+1), true)
		if _, err := shut.Open(t.Context(), guest, netip.AddrPortFrom(testHost, port)); err == nil || !strings.Contains(err.Error(), "no rule") {
			t.Errorf("port that was not opened: %v", err)
		}
		_ = l.Close()
		if _, err := e.Open(t.Context(), guest, netip.AddrPortFrom(testHost, port)); err == nil {
			t.Error("port where nothing listens: connected")
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
	e, _ := newTest(t, Config{}, true)
	if c, err := e.dialAddr(t.Context(), netip.MustParseAddrPort(l.Addr().String())); err == nil {
		_ = c.Close()
		t.Error("connected to a closed place")
	}
	public := netip.MustParseAddrPort("203.0.113.9:80")
	if same(netip.MustParseAddrPort("203.0.113.10:80"), public) == nil || same(public, public) != nil {
		t.Error("wrong about the address that was decided about")
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

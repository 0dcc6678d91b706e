package egress

import (
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"berth.dev/internal/audit"
	"berth.dev/internal/egress/intercept"
	"berth.dev/internal/policy"
)

// zone is a DNS server of the test's, with UDP and TCP on one port.
type zone struct {
	addr string

	mu    sync.Mutex
	asked []string // "udp A example.com."
	serve func(w dns.ResponseWriter, q *dns.Msg)
}

func newZone(tb testing.TB, serve func(w dns.ResponseWriter, q *dns.Msg)) *zone {
	tb.Helper()
	z := &zone{serve: serve}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	z.addr = l.Addr().String()
	pc, err := net.ListenPacket("udp", z.addr)
	if err != nil {
		tb.Fatal(err)
	}
	for _, srv := range []*dns.Server{{Listener: l, Handler: z}, {PacketConn: pc, Handler: z}} {
		started := make(chan struct{})
		srv.NotifyStartedFunc = func() { close(started) }
		go func() { _ = srv.ActivateAndServe() }()
		<-started
		tb.Cleanup(func() { _ = srv.Shutdown() })
	}
	return z
}

// ServeDNS implements dns.Handler.
func (z *zone) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	z.mu.Lock()
	z.asked = append(z.asked, w.LocalAddr().Network()+" "+dns.TypeToString[q.Question[0].Qtype]+" "+q.Question[0].Name)
	z.mu.Unlock()
	z.serve(w, q)
}

func (z *zone) questions() []string {
	z.mu.Lock()
	defer z.mu.Unlock()
	return append([]string(nil), z.asked...)
}

// records answers with the resource records given in text for the name asked.
func records(rrs ...string) func(dns.ResponseWriter, *dns.Msg) {
	return func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(q)
		for _, s := range rrs {
			rr, err := dns.NewRR(s)
			if err != nil {
				panic(err)
			}
			if rr.Header().Name == q.Question[0].Name && (rr.Header().Rrtype == q.Question[0].Qtype || rr.Header().Rrtype == dns.TypeCNAME) {
				m.Answer = append(m.Answer, rr)
			}
		}
		_ = w.WriteMsg(m)
	}
}

// recorder keeps what it is given.
type recorder struct {
	mu   sync.Mutex
	recs []audit.Event
}

func (r *recorder) Record(ev audit.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.recs = append(r.recs, ev)
}

func (r *recorder) of(kind audit.Kind) []audit.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []audit.Event
	for _, rec := range r.recs {
		if rec.Kind == kind {
			out = append(out, rec)
		}
	}
	return out
}

var testHost = netip.MustParseAddr("10.213.77.2")

// rules makes a policy of lines such as "allow **.example.com:443".
func rules(tb testing.TB, lines ...string) *policy.Policy {
	tb.Helper()
	var all []policy.Rule
	for _, line := range lines {
		if name, ok := strings.CutPrefix(line, "preset "); ok {
			preset, err := policy.Preset(name)
			if err != nil {
				tb.Fatal(err)
			}
			all = append(all, preset...)
			continue
		}
		r, err := policy.ParseText(line)
		if err != nil {
			tb.Fatal(err)
		}
		r.Scope = policy.ScopeUser
		all = append(all, r)
	}
	return policy.New(all)
}

// newTest makes an Egress with a policy (nil: everything public), a resolver of
// the test's, IPv6 as told, and interfaces of the host that are the test's own.
func newTest(tb testing.TB, cfg Config, ipv6 bool, host ...string) (*Egress, *recorder) {
	tb.Helper()
	rec := &recorder{}
	cfg.Recorder, cfg.HostAddr, cfg.Sandbox, cfg.Seed = rec, testHost, "box", "seed"
	if cfg.Servers == nil {
		cfg.Servers = []string{}
	}
	if cfg.Policy == nil {
		cfg.Policy = rules(tb, "allow **", "allow 0.0.0.0/0", "allow ::/0")
	}
	if cfg.CA == nil {
		ca, err := intercept.NewCA(time.Now)
		if err != nil {
			tb.Fatal(err)
		}
		cfg.CA = ca
	}
	e, err := New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = e.Close() })
	e.ipv6.probe = func() bool { return ipv6 }
	e.hosts.list = func() ([]net.Addr, error) {
		var addrs []net.Addr
		for _, h := range host {
			addrs = append(addrs, &net.IPNet{IP: net.ParseIP(h)})
		}
		return addrs, nil
	}
	return e, rec
}

// addressFor asks the resolver for a name's IPv4 address.
func addressFor(tb testing.TB, e *Egress, name string) netip.Addr {
	tb.Helper()
	m := ask(tb, e, name+".", dns.TypeA)
	if len(m.Answer) != 1 {
		tb.Fatalf("%s has no address: %v", name, m)
	}
	a, _ := netip.AddrFromSlice(m.Answer[0].(*dns.A).A.To4())
	return a
}

// ask puts a question as a guest would, and returns the parsed answer.
func ask(tb testing.TB, e *Egress, name string, qtype uint16, change ...func(*dns.Msg)) *dns.Msg {
	tb.Helper()
	return askBy(tb, e, "udp", name, qtype, change...)
}

func askBy(tb testing.TB, e *Egress, transport, name string, qtype uint16, change ...func(*dns.Msg)) *dns.Msg {
	tb.Helper()
	q := new(dns.Msg)
	q.SetQuestion(name, qtype)
	for _, f := range change {
		f(q)
	}
	raw, err := q.Pack()
	if err != nil {
		tb.Fatal(err)
	}
	out, err := e.ServeDNS(tb.Context(), raw, transport)
	if err != nil {
		tb.Fatalf("%s %s: %v", name, dns.TypeToString[qtype], err)
	}
	limit := dns.MaxMsgSize
	if opt := q.IsEdns0(); transport == "udp" && opt != nil {
		limit = min(maxUDP, int(opt.UDPSize()))
	} else if transport == "udp" {
		limit = dns.MinMsgSize
	}
	if len(out) > limit {
		tb.Errorf("%s: %d bytes by %s, want %d at most", name, len(out), transport, limit)
	}
	m := new(dns.Msg)
	if err := m.Unpack(out); err != nil {
		tb.Fatal(err)
	}
	if m.Id != q.Id || !m.Response || len(m.Question) != 1 || m.Question[0] != q.Question[0] {
		tb.Errorf("%s: answer %v does not fit the question", name, m)
	}
	return m
}

// clock is a time that tests move.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

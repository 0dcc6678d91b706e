package egress

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/time/rate"

	"berth.dev/internal/audit"
)

// Names get addresses that stand for them; what is no address comes from the
// host's resolvers, without any.
func TestForwarding(t *testing.T) {
	z := newZone(t, records(
		"www.example.com. 300 IN CNAME example.com.", "example.com. 300 IN A 203.0.113.9",
		"example.com. 300 IN AAAA 2001:db8::9", `example.com. 300 IN TXT "hello"`, "example.com. 300 IN HTTPS 1 . ipv4hint=203.0.113.9 ech=AAAA"))
	e, rec := newTest(t, Config{Servers: []string{z.addr}}, true)
	m := ask(t, e, "Example.COM.", dns.TypeA)
	if len(m.Answer) != 1 || !names4.Contains(netip.AddrFrom4([4]byte(m.Answer[0].(*dns.A).A.To4()))) || !m.RecursionAvailable {
		t.Errorf("A: %v", m)
	}
	a := addressFor(t, e, "example.com")
	if m := ask(t, e, "example.com.", dns.TypeAAAA); len(m.Answer) != 1 || !names6.Contains(netip.AddrFrom16([16]byte(m.Answer[0].(*dns.AAAA).AAAA))) {
		t.Errorf("AAAA: %v", m)
	}
	if m := ask(t, e, "example.com.", dns.TypeTXT); len(m.Answer) != 1 {
		t.Errorf("TXT: %v", m)
	}
	if m := ask(t, e, "example.com.", dns.TypeHTTPS); len(m.Answer) != 0 || m.Rcode != dns.RcodeSuccess {
		t.Errorf("HTTPS: %v", m)
	}
	if m := ask(t, e, "www.example.com.", dns.TypeCNAME); len(m.Answer) != 1 {
		t.Errorf("CNAME: %v", m)
	}
	if got, ok := e.names.nameOf(a); !ok || got != "example.com" {
		t.Errorf("%s stands for %q", a, got)
	}
	reverse, _ := dns.ReverseAddr(a.String())
	if m := ask(t, e, reverse, dns.TypePTR); len(m.Answer) != 1 || m.Answer[0].(*dns.PTR).Ptr != "example.com." {
		t.Errorf("PTR: %v", m)
	}
	if recs := rec.of(audit.DNS); len(recs) != 7 || recs[0].Verdict != "allow" || recs[0].Name != "Example.COM" || recs[0].Question != "A" || recs[0].Answer != "NOERROR" || recs[0].Rule == "" {
		t.Errorf("records: %+v", recs)
	}
}

// TestDeniedNames: nobody is asked about a name that is not allowed, nor about
// what lies below it, and its addresses lead to the explanation.
func TestDeniedNames(t *testing.T) {
	z := newZone(t, records("example.com. 300 IN A 203.0.113.9", `t.evil.example. 300 IN TXT "x"`))
	open, _ := newTest(t, Config{Servers: []string{z.addr}}, true)
	if ask(t, open, "t.evil.example.", dns.TypeTXT); len(z.questions()) != 1 {
		t.Fatal("the tunnel does not work where nothing is denied")
	}
	e, rec := newTest(t, Config{Servers: []string{z.addr}, Policy: rules(t, "allow example.com")}, true)
	before := len(z.questions())
	for _, name := range []string{"t.evil.example.", "sub.example.com.", "data-0123.t.evil.example."} {
		for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
			if m := ask(t, e, name, qtype); len(m.Answer) != 1 {
				t.Errorf("%s: %v", name, m)
			}
		}
		for _, qtype := range []uint16{dns.TypeTXT, dns.TypeSRV, dns.TypeMX, dns.TypeCNAME, dns.TypeNULL, dns.TypeHTTPS} {
			if m := ask(t, e, name, qtype); m.Rcode != dns.RcodeRefused || len(m.Answer) != 0 {
				t.Errorf("%s: %v", name, m)
			}
		}
	}
	if got := z.questions(); len(got) != before {
		t.Errorf("the host's resolver was asked: %v", got[before:])
	}
	for _, r := range rec.of(audit.DNS) {
		if r.Verdict != "deny" || r.Reason == "" {
			t.Errorf("record %+v", r)
		}
	}
}

func TestNameThatDoesNotExist(t *testing.T) {
	z := newZone(t, func(w dns.ResponseWriter, q *dns.Msg) { _ = w.WriteMsg(reply(q, dns.RcodeNameError)) })
	e, _ := newTest(t, Config{Servers: []string{z.addr}}, true)
	if m := ask(t, e, "nope.example.com.", dns.TypeA); m.Rcode != dns.RcodeNameError {
		t.Errorf("answer: %v", m)
	}
	none, _ := newTest(t, Config{Servers: []string{}}, true)
	if m := ask(t, none, "example.com.", dns.TypeA); len(m.Answer) != 1 {
		t.Errorf("when nobody can tell, the connection will: %v", m)
	}
}

// What must never reach a resolver of the host's.
func TestNotForwarded(t *testing.T) {
	z := newZone(t, records())
	e, _ := newTest(t, Config{Servers: []string{z.addr}}, true, "203.0.113.50")
	for _, tt := range []struct {
		name  string
		qtype uint16
		code  int
	}{
		{"example.com.", dns.TypeANY, dns.RcodeRefused},
		{"example.com.", dns.TypeAXFR, dns.RcodeRefused},
		{"example.com.", dns.TypeIXFR, dns.RcodeRefused},
		{"example.com.", dns.TypeMAILB, dns.RcodeRefused},
		{"example.com.", dns.TypeTKEY, dns.RcodeRefused},
		{"example.com.", dns.TypeOPT, dns.RcodeRefused},
		{"example.com.", 0, dns.RcodeRefused},
		{"host.berth.internal.", dns.TypeA, dns.RcodeNameError},
		{"x.berth.internal.", dns.TypeA, dns.RcodeNameError},
		{"berth.internal.", dns.TypeTXT, dns.RcodeNameError},
		{"printer.local.", dns.TypeA, dns.RcodeNameError},
		{"nas.home.arpa.", dns.TypeSRV, dns.RcodeNameError},
		{"nas.", dns.TypeA, dns.RcodeSuccess},
		{"nas.", dns.TypeAAAA, dns.RcodeSuccess},
		{"_dmarc.local.", dns.TypeTXT, dns.RcodeNameError},
		{"1.1.168.192.in-addr.arpa.", dns.TypePTR, dns.RcodeNameError},
		{"1.0.0.127.in-addr.arpa.", dns.TypePTR, dns.RcodeNameError},
		{"50.113.0.203.in-addr.arpa.", dns.TypePTR, dns.RcodeNameError},
		{"168.192.in-addr.arpa.", dns.TypeSOA, dns.RcodeRefused},
		{"1." + strings.Repeat("0.", 30) + "f.ip6.arpa.", dns.TypePTR, dns.RcodeNameError},
		{"1.2.f.ip6.arpa.", dns.TypePTR, dns.RcodeRefused},
	} {
		m := ask(t, e, tt.name, tt.qtype)
		if m.Rcode != tt.code || len(m.Answer) != 0 {
			t.Errorf("%s %s: %s with %d answers, want %s", tt.name, dns.TypeToString[tt.qtype],
				dns.RcodeToString[m.Rcode], len(m.Answer), dns.RcodeToString[tt.code])
		}
	}
	chaos := ask(t, e, "version.bind.", dns.TypeTXT, func(q *dns.Msg) { q.Question[0].Qclass = dns.ClassCHAOS })
	update := ask(t, e, "example.com.", dns.TypeSOA, func(q *dns.Msg) { q.Opcode = dns.OpcodeUpdate })
	extra := ask(t, e, "example.com.", dns.TypeA, func(q *dns.Msg) { q.Extra = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: "a.", Rrtype: 1, Class: 1}}} })
	edns := ask(t, e, "example.com.", dns.TypeA, func(q *dns.Msg) { q.SetEdns0(1232, false).IsEdns0().SetVersion(7) })
	if chaos.Rcode != dns.RcodeRefused || update.Rcode != dns.RcodeNotImplemented || extra.Rcode != dns.RcodeFormatError || edns.Rcode != dns.RcodeBadVers {
		t.Errorf("codes %d %d %d %d", chaos.Rcode, update.Rcode, extra.Rcode, edns.Rcode)
	}
	if asked := z.questions(); len(asked) != 0 {
		t.Errorf("the host's resolver was asked: %v", asked)
	}
}

func TestNoAnswerToWhatIsNoQuestion(t *testing.T) {
	e, _ := newTest(t, Config{}, true)
	response := new(dns.Msg)
	response.SetQuestion("example.com.", dns.TypeA)
	response.Response = true
	two := new(dns.Msg)
	two.SetQuestion("example.com.", dns.TypeA)
	two.Question = append(two.Question, two.Question[0])
	for name, m := range map[string]*dns.Msg{"response": response, "two questions": two, "no question": new(dns.Msg)} {
		raw, _ := m.Pack()
		if out, err := e.ServeDNS(t.Context(), raw, "udp"); err == nil {
			t.Errorf("%s: answered with %x", name, out)
		}
	}
	for _, raw := range [][]byte{nil, {1}, make([]byte, 5000)} {
		if out, err := e.ServeDNS(t.Context(), raw, "tcp"); err == nil {
			t.Errorf("%d bytes: answered with %x", len(raw), out)
		}
	}
}

func TestHostName(t *testing.T) {
	e, _ := newTest(t, Config{Policy: rules(t, "allow host.berth.internal:5432")}, true)
	if m := ask(t, e, "HOST.berth.internal.", dns.TypeA); len(m.Answer) != 1 || m.Answer[0].(*dns.A).A.String() != testHost.String() {
		t.Errorf("A: %v", m)
	}
	if m := ask(t, e, "host.berth.internal.", dns.TypeAAAA); len(m.Answer) != 0 || m.Rcode != dns.RcodeSuccess {
		t.Errorf("AAAA: %v", m)
	}
	if m := ask(t, e, "localhost.", dns.TypeA); len(m.Answer) != 1 || m.Answer[0].(*dns.A).A.String() != "127.0.0.1" {
		t.Errorf("localhost: %v", m)
	}
}

// An answer that does not fit UDP is fetched by TCP, and cut for a guest that
// asks by UDP.
func TestTruncation(t *testing.T) {
	var rrs []string
	for i := range 300 {
		rrs = append(rrs, fmt.Sprintf(`big.example.com. 60 IN TXT "%040d"`, i))
	}
	all := records(rrs...)
	z := newZone(t, func(w dns.ResponseWriter, q *dns.Msg) {
		if w.LocalAddr().Network() == "tcp" {
			all(w, q)
			return
		}
		m := new(dns.Msg)
		m.SetReply(q).Truncated = true
		_ = w.WriteMsg(m)
	})
	e, _ := newTest(t, Config{Servers: []string{z.addr}}, true)
	if m := ask(t, e, "big.example.com.", dns.TypeTXT); !m.Truncated || len(m.Answer) == 0 {
		t.Errorf("by UDP: truncated %v, %d answers", m.Truncated, len(m.Answer))
	}
	if m := ask(t, e, "big.example.com.", dns.TypeTXT, func(q *dns.Msg) { q.SetEdns0(65000, false) }); m.IsEdns0() == nil {
		t.Error("EDNS question got no EDNS answer")
	}
	if m := askBy(t, e, "tcp", "big.example.com.", dns.TypeTXT); m.Truncated || len(m.Answer) != 300 {
		t.Errorf("by TCP: truncated %v, %d answers", m.Truncated, len(m.Answer))
	}
}

// Servers that are silent, fail, or answer something else are passed over, and
// the one that answered is asked first from then on.
func TestFailover(t *testing.T) {
	fails := newZone(t, func(w dns.ResponseWriter, q *dns.Msg) { _ = w.WriteMsg(reply(q, dns.RcodeServerFailure)) })
	lies := newZone(t, func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(q)
		m.Question[0].Name = "other.example."
		_ = w.WriteMsg(m)
	})
	good := newZone(t, records("example.com. 60 IN TXT x", "example.org. 60 IN TXT x"))
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	e, _ := newTest(t, Config{Servers: []string{fails.addr, lies.addr, silent.LocalAddr().String(), good.addr}}, true)
	e.dns.upstream.conf.try = 200 * time.Millisecond
	if m := ask(t, e, "example.com.", dns.TypeTXT); len(m.Answer) != 1 {
		t.Errorf("answer: %v", m)
	}
	if m := ask(t, e, "example.org.", dns.TypeTXT); len(m.Answer) != 1 || len(fails.questions()) != 1 {
		t.Errorf("answer %v, first server asked %d times, want once", m, len(fails.questions()))
	}
	alone, _ := newTest(t, Config{Servers: []string{fails.addr}}, true)
	if m := ask(t, alone, "example.com.", dns.TypeTXT); m.Rcode != dns.RcodeServerFailure {
		t.Errorf("answer: %v", m)
	}
	none, _ := newTest(t, Config{Servers: []string{lies.addr}}, true)
	if m := ask(t, none, "example.com.", dns.TypeTXT); m.Rcode != dns.RcodeServerFailure || len(m.Answer) != 0 {
		t.Errorf("answer: %v", m)
	}
}

// Equal questions at one time become one, later ones come from the cache, with
// less time to live, until that is over.
func TestCache(t *testing.T) {
	release := make(chan struct{})
	answer := records("example.com. 60 IN TXT x")
	z := newZone(t, func(w dns.ResponseWriter, q *dns.Msg) { <-release; answer(w, q) })
	e, _ := newTest(t, Config{Servers: []string{z.addr}}, true)
	c := &clock{t: time.Unix(1e9, 0)}
	e.dns.cache.now = c.now
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if m := ask(t, e, "example.com.", dns.TypeTXT); len(m.Answer) != 1 {
				t.Errorf("answer: %v", m)
			}
		})
	}
	for len(z.questions()) == 0 {
		time.Sleep(time.Millisecond)
	}
	close(release)
	wg.Wait()
	c.add(20 * time.Second)
	if m := ask(t, e, "example.com.", dns.TypeTXT); m.Answer[0].Header().Ttl != 40 {
		t.Errorf("after 20 s: %v", m.Answer)
	}
	if n := len(z.questions()); n != 1 {
		t.Errorf("asked %d times, want once", n)
	}
	c.add(41 * time.Second)
	ask(t, e, "example.com.", dns.TypeTXT)
	if n := len(z.questions()); n != 2 {
		t.Errorf("asked %d times after it expired, want twice", n)
	}
}

func TestLifetime(t *testing.T) {
	a, _ := dns.NewRR("a. 7200 IN A 203.0.113.9")
	b, _ := dns.NewRR("a. 30 IN A 203.0.113.9")
	soa, _ := dns.NewRR("a. 900 IN SOA ns. mail. 1 2 3 4 60")
	for name, tt := range map[string]struct {
		m    dns.Msg
		want time.Duration
	}{
		"capped":    {dns.Msg{Answer: []dns.RR{a}}, time.Hour},
		"smallest":  {dns.Msg{Answer: []dns.RR{a, b}}, 30 * time.Second},
		"negative":  {dns.Msg{MsgHdr: dns.MsgHdr{Rcode: dns.RcodeNameError}, Ns: []dns.RR{soa}}, time.Minute},
		"no data":   {dns.Msg{Ns: []dns.RR{soa}}, time.Minute},
		"no SOA":    {dns.Msg{}, 0},
		"a failure": {dns.Msg{MsgHdr: dns.MsgHdr{Rcode: dns.RcodeServerFailure}, Answer: []dns.RR{a}}, 0},
	} {
		if got := lifetime(&tt.m); got != tt.want {
			t.Errorf("%s: %s, want %s", name, got, tt.want)
		}
	}
}

func TestQuestionsAreBounded(t *testing.T) {
	e, rec := newTest(t, Config{}, true)
	e.dns.limit.SetLimit(rate.Every(time.Hour)) // however slow this machine is
	refused := 0
	for range questionBurst + 200 {
		if ask(t, e, "localhost.", dns.TypeA).Rcode == dns.RcodeRefused {
			refused++
		}
	}
	if refused == 0 {
		t.Error("no question was refused")
	}
	if n := len(rec.of(audit.DNS)); n != questionBurst+200 {
		t.Errorf("%d records, want one for each question", n)
	}
}

func TestResolvConf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	write := func(s string) {
		if err := os.WriteFile(path, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("# nameserver 1.1.1.1\nsearch corp.example\nnameserver 127.0.0.53\n nameserver fe80::1%eth0 \nnameserver bad\n" +
		"nameserver 192.0.2.1\nnameserver 192.0.2.2\noptions ndots:5 timeout:99 attempts:0 edns0 use-vc attempts:7\n")
	want := conf{servers: []string{"127.0.0.53:53", "[fe80::1%eth0]:53", "192.0.2.1:53"}, try: 10 * time.Second, attempts: 5, useTCP: true}
	if got := readConf(path); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	local := conf{servers: []string{"127.0.0.1:53", "[::1]:53"}, try: 2 * time.Second, attempts: 2}
	if got := readConf(filepath.Join(t.TempDir(), "none")); !reflect.DeepEqual(got, local) {
		t.Errorf("without a file: %+v", got)
	}
	u := &upstream{path: path}
	if c, _ := u.current(); len(c.servers) != 3 {
		t.Errorf("first: %+v", c)
	}
	write("nameserver 192.0.2.99\n")
	u.checked = time.Time{}
	if c, _ := u.current(); len(c.servers) != 1 || c.servers[0] != "192.0.2.99:53" {
		t.Errorf("after a change: %+v", c)
	}
	if _, err := New(Config{Servers: []string{"localhost"}}); err == nil {
		t.Error("a server without address and port: no error")
	}
}

func TestLRU(t *testing.T) {
	l := newLRU[int, string](2)
	l.put(1, "a")
	l.put(2, "b")
	l.get(1)
	l.put(3, "c") // 2 was used least recently
	l.put(1, "A")
	if _, ok := l.get(2); ok || len(l.items) != 2 || l.order.Len() != 2 {
		t.Errorf("%v", l.items)
	}
	if v, _ := l.get(1); v != "A" {
		t.Errorf("1 is %q", v)
	}
	l.remove(1)
	l.remove(9)
	if l.order.Len() != 1 {
		t.Errorf("%d left", l.order.Len())
	}
}

// FuzzServeDNS: any bytes get no answer or one that parses, fits, and carries
// the question's id; none of them is forwarded as it came.
func FuzzServeDNS(f *testing.F) {
	z := newZone(f, func(w dns.ResponseWriter, q *dns.Msg) {
		if len(q.Question) != 1 || q.Opcode != dns.OpcodeQuery || len(q.Answer)+len(q.Ns) != 0 || len(q.Extra) != 1 {
			panic(fmt.Sprintf("forwarded: %v", q))
		}
		_ = w.WriteMsg(reply(q, dns.RcodeNameError))
	})
	for _, q := range []*dns.Msg{
		new(dns.Msg).SetQuestion("example.com.", dns.TypeA), new(dns.Msg).SetQuestion("host.berth.internal.", dns.TypeAAAA),
		new(dns.Msg).SetQuestion("1.1.168.192.in-addr.arpa.", dns.TypePTR),
		new(dns.Msg).SetQuestion("example.com.", dns.TypeTXT).SetEdns0(1232, true),
	} {
		raw, _ := q.Pack()
		f.Add(raw, true)
	}
	f.Add([]byte("\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\xc0\x0c\x00\x01\x00\x01"), false)
	e, _ := newTest(f, Config{Servers: []string{z.addr}, Policy: rules(f, "preset balanced", "allow host.berth.internal:80")}, true)
	e.cfg.Recorder = discard{}
	f.Fuzz(func(t *testing.T, raw []byte, udp bool) {
		transport := "tcp"
		if udp {
			transport = "udp"
		}
		out, err := e.ServeDNS(t.Context(), raw, transport)
		if err != nil {
			return
		}
		var m dns.Msg
		if err := m.Unpack(out); err != nil || len(raw) < 2 || out[0] != raw[0] || out[1] != raw[1] || !m.Response {
			t.Fatalf("answer %x to %x: %v", out, raw, err)
		}
		if udp && len(out) > maxUDP {
			t.Fatalf("%d bytes by UDP", len(out))
		}
	})
}

func BenchmarkDNS(b *testing.B) {
	z := newZone(b, records("example.com. 60 IN A 203.0.113.9"))
	e, _ := newTest(b, Config{Servers: []string{z.addr}}, true)
	e.dns.limit.SetLimit(1e9)
	e.cfg.Recorder = discard{}
	b.Run("cached", func(b *testing.B) {
		for range b.N {
			ask(b, e, "example.com.", dns.TypeA)
		}
	})
	b.Run("forwarded", func(b *testing.B) {
		for range b.N {
			e.dns.cache = newCache()
			ask(b, e, "example.com.", dns.TypeA)
		}
	})
}

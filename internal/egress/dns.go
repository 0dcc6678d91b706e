package egress

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"

	"berth.dev/internal/sandbox"
)

// Bounds of the resolver.
const (
	maxQuery    = 4096 // bytes of a question
	maxUDP      = 1232 // bytes of an answer by UDP (DNS Flag Day 2020)
	queryTime   = 4 * time.Second
	maxParallel = 256
	maxNames    = 4096 // addresses whose name is remembered
	hostTTL     = 60
)

// resolver answers the guest's questions with what the host's resolvers say.
// It parses every message itself, both ways: no byte of the guest's reaches a
// resolver as it came, nor the other way round.
type resolver struct {
	servers  []string
	hostAddr netip.Addr
	hostOpen bool
	ipv6     bool // the host reaches the IPv6 internet
	slots    chan struct{}

	mu    sync.Mutex
	names map[netip.Addr]string
	order []netip.Addr // of names, oldest first
}

func newResolver(servers []string, hostAddr netip.Addr, hostOpen, ipv6 bool) *resolver {
	return &resolver{
		servers: servers, hostAddr: hostAddr, hostOpen: hostOpen, ipv6: ipv6,
		slots: make(chan struct{}, maxParallel), names: map[netip.Addr]string{},
	}
}

// ServeDNS answers one message of the guest's. An error means no answer.
func (e *Egress) ServeDNS(ctx context.Context, query []byte, transport string) ([]byte, error) {
	return e.dns.serve(ctx, query, transport)
}

func (r *resolver) serve(ctx context.Context, query []byte, transport string) ([]byte, error) {
	if len(query) > maxQuery {
		return nil, errors.New("the question is too long")
	}
	var q dns.Msg
	if err := q.Unpack(query); err != nil {
		return nil, err
	}
	if q.Response || len(q.Question) != 1 {
		return nil, errors.New("not a question")
	}
	select {
	case r.slots <- struct{}{}:
		defer func() { <-r.slots }()
	default:
		return pack(refuse(&q, dns.RcodeServerFailure), &q, transport)
	}
	return pack(r.answer(ctx, &q), &q, transport)
}

// answer decides what becomes of a question.
func (r *resolver) answer(ctx context.Context, q *dns.Msg) *dns.Msg {
	question := q.Question[0]
	name := strings.ToLower(strings.TrimSuffix(question.Name, "."))
	switch {
	case q.Opcode != dns.OpcodeQuery || question.Qclass != dns.ClassINET:
		return refuse(q, dns.RcodeNotImplemented)
	case question.Qtype == dns.TypeANY || question.Qtype == dns.TypeAXFR || question.Qtype == dns.TypeIXFR:
		return refuse(q, dns.RcodeRefused)
	case name == sandbox.HostName:
		return r.answerHost(q)
	case strings.HasSuffix(name, ".berth.internal"):
		return refuse(q, dns.RcodeNameError)
	case question.Qtype == dns.TypeAAAA && !r.ipv6:
		// An address that cannot be reached would only make clients wait.
		return refuse(q, dns.RcodeSuccess)
	}
	reply, err := r.forward(ctx, question)
	if err != nil {
		return refuse(q, dns.RcodeServerFailure)
	}
	return r.adopt(q, reply)
}

// answerHost answers for host.berth.internal, which exists where a port of the
// host is open.
func (r *resolver) answerHost(q *dns.Msg) *dns.Msg {
	if !r.hostOpen {
		return refuse(q, dns.RcodeNameError)
	}
	m := refuse(q, dns.RcodeSuccess)
	if q.Question[0].Qtype == dns.TypeA {
		m.Answer = []dns.RR{&dns.A{
			Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: hostTTL},
			A:   r.hostAddr.AsSlice(),
		}}
	}
	return m
}

// forward asks the host's resolvers, one after the other, by UDP and, when the
// answer does not fit that, by TCP.
func (r *resolver) forward(ctx context.Context, question dns.Question) (*dns.Msg, error) {
	m := new(dns.Msg)
	m.SetQuestion(question.Name, question.Qtype) // with an id of our own
	m.SetEdns0(maxUDP, false)
	errs := []error{errors.New("no resolver answers")}
	for _, server := range r.servers {
		for _, network := range []string{"udp", "tcp"} {
			c := dns.Client{Net: network, Timeout: queryTime, UDPSize: maxUDP}
			reply, _, err := c.ExchangeContext(ctx, m, server)
			if err == nil && !sameQuestion(reply, question) {
				err = errors.New("the answer is to another question")
			}
			if err != nil {
				errs = append(errs, err)
				break // the next server
			}
			if !reply.Truncated || network == "tcp" {
				return reply, nil
			}
		}
	}
	return nil, errors.Join(errs...)
}

func sameQuestion(m *dns.Msg, q dns.Question) bool {
	return len(m.Question) == 1 && m.Question[0].Qtype == q.Qtype && strings.EqualFold(m.Question[0].Name, q.Name)
}

// adopt makes the guest's answer out of a resolver's: its records and code
// under the guest's own id and question.
func (r *resolver) adopt(q, reply *dns.Msg) *dns.Msg {
	m := refuse(q, reply.Rcode)
	m.Answer, m.Ns = reply.Answer, reply.Ns
	name := strings.TrimSuffix(q.Question[0].Name, ".")
	for _, rr := range m.Answer {
		switch rr := rr.(type) {
		case *dns.A:
			r.remember(rr.A, name)
		case *dns.AAAA:
			r.remember(rr.AAAA, name)
		}
	}
	return m
}

// remember notes the name that resolved to an address, for the records.
func (r *resolver) remember(ip net.IP, name string) {
	a, ok := netip.AddrFromSlice(ip)
	if !ok {
		return
	}
	a = a.Unmap()
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.names[a]; !known {
		if len(r.order) == maxNames {
			delete(r.names, r.order[0])
			r.order = r.order[1:]
		}
		r.order = append(r.order, a)
	}
	r.names[a] = name
}

func (r *resolver) nameOf(a netip.Addr) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.names[a]
}

// refuse is an empty answer with a code.
func refuse(q *dns.Msg, code int) *dns.Msg {
	m := new(dns.Msg)
	m.SetRcode(q, code)
	m.RecursionAvailable = true
	return m
}

// pack fits an answer to its transport.
func pack(m, q *dns.Msg, transport string) ([]byte, error) {
	size := dns.MaxMsgSize - 1
	if transport == "udp" {
		size = dns.MinMsgSize
		if opt := q.IsEdns0(); opt != nil {
			size = min(max(int(opt.UDPSize()), dns.MinMsgSize), maxQuery)
			m.SetEdns0(maxUDP, false)
		}
	}
	m.Compress = true
	m.Truncate(size)
	return m.Pack()
}

// hostServers reads the host's resolvers. Without any it is the one that
// resolv.conf(5) falls back to.
func hostServers(path string) []string {
	f, err := os.Open(path)
	if err != nil {
		return []string{"127.0.0.1:53"}
	}
	defer f.Close()
	var servers []string
	for sc := bufio.NewScanner(f); sc.Scan() && len(servers) < 3; {
		fields := strings.Fields(sc.Text())
		if len(fields) >= 2 && fields[0] == "nameserver" {
			if _, err := netip.ParseAddr(fields[1]); err == nil {
				servers = append(servers, net.JoinHostPort(fields[1], "53"))
			}
		}
	}
	if len(servers) == 0 {
		return []string{"127.0.0.1:53"}
	}
	return servers
}

package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"
)

// Bounds of the resolver.
const (
	maxQuery    = 4096 // bytes of a question
	maxUDP      = 4096 // bytes of an answer by UDP, to those who take so much
	maxParallel = 256  // questions that are being answered
	maxNames    = 4096 // addresses whose name is remembered
	// A package manager asks for hundreds of names at once; a tunnel asks for
	// thousands, for as long as it is let.
	questionRate, questionBurst = 500, 2000
	hostTTL                     = 60 // seconds
)

// resolver answers the guest's questions with what the host's resolvers say.
// It parses every message itself, both ways: no byte of the guest's reaches a
// resolver as it came, nor the other way round. Of the host's own names it
// knows host.berth.internal and nothing else.
type resolver struct {
	cfg      Config
	upstream *upstream
	ipv6     func() bool             // the host reaches the IPv6 internet
	closed   func(netip.Addr) string // why an address is none of the internet's, or ""
	slots    chan struct{}
	limit    *rate.Limiter
	cache    *cache
	flights  singleflight.Group

	mu    sync.Mutex
	names *lru[netip.Addr, string]
}

func newResolver(u *upstream, cfg Config, ipv6 func() bool, closed func(netip.Addr) string) *resolver {
	return &resolver{
		cfg: cfg, upstream: u, ipv6: ipv6, closed: closed,
		slots: make(chan struct{}, maxParallel),
		limit: rate.NewLimiter(questionRate, questionBurst),
		cache: newCache(), names: newLRU[netip.Addr, string](maxNames),
	}
}

// ServeDNS answers one message of the guest's, which came by "udp" or "tcp": it
// is the DNS half of a network stack's handler. An error means no answer.
func (e *Egress) ServeDNS(ctx context.Context, query []byte, transport string) ([]byte, error) {
	return e.dns.serve(ctx, query, transport)
}

func (r *resolver) serve(ctx context.Context, query []byte, transport string) ([]byte, error) {
	if len(query) > maxQuery {
		return nil, errors.New("the question is too long")
	}
	var q dns.Msg
	if err := q.Unpack(query); err != nil {
		return nil, fmt.Errorf("parse question: %w", err)
	}
	if q.Response || len(q.Question) != 1 || len(q.Answer) > 0 || len(q.Ns) > 0 {
		return nil, errors.New("not a question")
	}
	begin := time.Now()
	m, reason := r.bounded(ctx, &q)
	asked := q.Question[0]
	r.cfg.Recorder.Record(Record{
		Time: begin, Proto: "dns", Name: asked.Name, Allowed: reason == "", Duration: time.Since(begin),
		Reason: join(dns.Type(asked.Qtype).String()+" "+dns.RcodeToString[m.Rcode], reason),
	})
	return pack(m, &q, transport)
}

func join(what, why string) string {
	if why == "" {
		return what
	}
	return what + ": " + why
}

// bounded answers, unless too much is asked. The reason is why it refused.
func (r *resolver) bounded(ctx context.Context, q *dns.Msg) (*dns.Msg, string) {
	if !r.limit.Allow() {
		return reply(q, dns.RcodeRefused), "too many questions"
	}
	select {
	case r.slots <- struct{}{}:
		defer func() { <-r.slots }()
	default:
		return reply(q, dns.RcodeServerFailure), "too many questions at once"
	}
	if m, reason := r.local(q); m != nil {
		return m, reason
	}
	asked := question{dns.CanonicalName(q.Question[0].Name), q.Question[0].Qtype}
	m, err := r.lookup(ctx, asked)
	if err != nil {
		r.cfg.Logger.Debug("no answer from the host's resolvers", "question", asked.name, "error", err)
		return reply(q, dns.RcodeServerFailure), ""
	}
	return r.adopt(q, m), ""
}

// lookup answers out of the cache or from the host's resolvers; equal questions
// that are asked at the same time become one.
func (r *resolver) lookup(ctx context.Context, q question) (*dns.Msg, error) {
	if m := r.cache.get(q); m != nil {
		return m, nil
	}
	done := r.flights.DoChan(fmt.Sprint(q.qtype, " ", q.name), func() (any, error) {
		m, err := r.upstream.ask(ctx, q)
		if err == nil {
			r.cache.put(q, m)
		}
		return m, err
	})
	select {
	case res := <-done:
		if res.Err != nil {
			return nil, res.Err
		}
		return res.Val.(*dns.Msg).Copy(), nil
	case <-ctx.Done(): // the exchange itself would notice only when its try is over
		return nil, ctx.Err()
	}
}

// adopt makes the guest's answer out of a resolver's: its records and code
// under the guest's own id and question, nothing of its additional section.
func (r *resolver) adopt(q, from *dns.Msg) *dns.Msg {
	code := from.Rcode
	if code > 0xf { // an extended code is between us and the resolver
		code = dns.RcodeServerFailure
	}
	m := reply(q, code)
	m.Answer, m.Ns = from.Answer, from.Ns
	name := q.Question[0].Name
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
	name = dns.CanonicalName(name)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.names.put(a.Unmap(), name[:len(name)-1])
}

func (r *resolver) nameOf(a netip.Addr) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	name, _ := r.names.get(a)
	return name
}

// reply is an empty answer with a code.
func reply(q *dns.Msg, code int) *dns.Msg {
	m := new(dns.Msg)
	m.SetRcode(q, code)
	m.RecursionAvailable = true
	return m
}

// pack fits an answer to its transport, and to what the question's EDNS says
// (RFC 6891 §6.2.3-5).
func pack(m, q *dns.Msg, transport string) ([]byte, error) {
	size := dns.MinMsgSize
	if opt := q.IsEdns0(); opt != nil {
		size = min(max(int(opt.UDPSize()), dns.MinMsgSize), maxUDP)
		m.SetEdns0(maxUDP, false)
	}
	if transport == "tcp" {
		size = dns.MaxMsgSize
	}
	m.Compress = true
	m.Truncate(size)
	b, err := m.Pack()
	if err != nil {
		return nil, fmt.Errorf("pack answer: %w", err)
	}
	return b, nil
}

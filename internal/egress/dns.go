package egress

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"

	"berth.dev/internal/audit"
	"berth.dev/internal/policy"
)

// Bounds of the resolver.
const (
	maxQuery    = 4096 // bytes of a question
	maxUDP      = 4096 // bytes of an answer by UDP, to those who take so much
	maxParallel = 256  // questions that are being answered
	// A package manager asks for hundreds of names at once; a tunnel asks for
	// thousands, for as long as it is let.
	questionRate, questionBurst = 500, 2000
	ownTTL                      = 60 // seconds, of the answers that Berth makes
)

// resolver answers the guest's questions. Addresses are Berth's own, which
// stand for names; whether a name that is allowed exists, and all that is no
// address, the host's resolvers say. It parses every message itself, both ways:
// no byte of the guest's reaches a resolver as it came, nor the other way round.
// A name that is not allowed is never asked for.
type resolver struct {
	e        *Egress
	upstream *upstream
	slots    chan struct{}
	limit    *rate.Limiter
	cache    *cache
	flights  singleflight.Group
}

func newResolver(u *upstream, e *Egress) *resolver {
	return &resolver{
		e: e, upstream: u,
		slots: make(chan struct{}, maxParallel),
		limit: rate.NewLimiter(questionRate, questionBurst),
		cache: newCache(),
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
	m, why := r.bounded(ctx, &q)
	asked := q.Question[0]
	ev := audit.Event{
		Time: begin, Kind: audit.DNS, Protocol: "dns", Name: strings.TrimSuffix(asked.Name, "."),
		Question: dns.Type(asked.Qtype).String(), Answer: dns.RcodeToString[m.Rcode],
		Verdict: "deny", Reason: why.Reason, Duration: time.Since(begin),
	}
	if why.Verdict == policy.Allow {
		ev.Verdict = "allow"
	}
	if why.Rule != nil {
		ev.Rule, ev.Origin = why.Rule.String(), why.Rule.Origin()
	}
	r.e.cfg.Recorder.Record(ev)
	return pack(m, &q, transport)
}

// refused is the decision about a question that is not one for a policy.
func refused(reason string) policy.Decision { return policy.Decision{Reason: reason} }

// answered is the decision about a question that nobody has to be asked.
func answered(reason string) policy.Decision {
	return policy.Decision{Verdict: policy.Allow, Reason: reason}
}

// bounded answers, unless too much is asked, and says by what decision.
func (r *resolver) bounded(ctx context.Context, q *dns.Msg) (*dns.Msg, policy.Decision) {
	if !r.limit.Allow() {
		return reply(q, dns.RcodeRefused), refused("too many questions")
	}
	select {
	case r.slots <- struct{}{}:
		defer func() { <-r.slots }()
	default:
		return reply(q, dns.RcodeServerFailure), refused("too many questions at once")
	}
	if code, reason := malformed(q); code != dns.RcodeSuccess {
		return reply(q, code), refused(reason)
	}
	name, err := policy.NormalizeName(q.Question[0].Name)
	if err != nil {
		return reply(q, dns.RcodeNameError), refused("no host can have this name")
	}
	d := r.e.policy.Load().Decide(policy.Request{Host: name})
	if m, local := r.local(q, name, d); m != nil {
		return m, local
	}
	switch qtype := q.Question[0].Qtype; {
	case qtype == dns.TypeA || qtype == dns.TypeAAAA:
		return r.standIn(ctx, q, name, d), d
	case d.Verdict != policy.Allow:
		return reply(q, dns.RcodeRefused), d
	case qtype == dns.TypeHTTPS || qtype == dns.TypeSVCB:
		// They carry addresses, which are not the guest's to have, and the keys of
		// ECH, which would hide whom it speaks with (RFC 9460, RFC 9848).
		return reply(q, dns.RcodeSuccess), d
	}
	m, err := r.lookup(ctx, question{name + ".", q.Question[0].Qtype})
	if err != nil {
		r.e.cfg.Logger.Debug("no answer from the host's resolvers", "question", name, "error", err)
		return reply(q, dns.RcodeServerFailure), d
	}
	return r.adopt(q, m), d
}

// standIn answers with the addresses that stand for a name. A name that is
// allowed has to exist; of one that is not nobody is asked, and the addresses
// lead to the explanation.
func (r *resolver) standIn(ctx context.Context, q *dns.Msg, name string, d policy.Decision) *dns.Msg {
	allowed := d.Verdict == policy.Allow
	if allowed && !r.exists(ctx, name) {
		return reply(q, dns.RcodeNameError)
	}
	v4, v6 := r.e.names.addresses(name, allowed)
	return addresses(q, v4, v6)
}

// exists reports whether a name does, as far as the host's resolvers know: when
// they cannot tell, the connection will.
func (r *resolver) exists(ctx context.Context, name string) bool {
	if r.e.named(name) {
		return true
	}
	m, err := r.lookup(ctx, question{name + ".", dns.TypeA})
	return err != nil || m.Rcode != dns.RcodeNameError
}

// named reports whether a name needs no resolver of the host's.
func (e *Egress) named(name string) bool {
	if via, err := e.viaProxy(place{name: name, port: httpsPort}); err == nil && via != nil {
		return true
	}
	for _, o := range e.cfg.Overrides {
		if o.Host == name {
			return true
		}
	}
	return false
}

// lookup answers out of the cache or from the host's resolvers; equal questions
// that are asked at the same time become one.
func (r *resolver) lookup(ctx context.Context, q question) (*dns.Msg, error) {
	if m := r.cache.get(q); m != nil {
		return m, nil
	}
	done := r.flights.DoChan(fmt.Sprint(q.qtype, " ", q.name), func() (any, error) {
		if m := r.cache.get(q); m != nil {
			return m, nil // another flight landed between the look above and this one
		}
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
// under the guest's own id and question, nothing of its additional section, and
// no address.
func (r *resolver) adopt(q, from *dns.Msg) *dns.Msg {
	code := from.Rcode
	if code > 0xf { // an extended code is between us and the resolver
		code = dns.RcodeServerFailure
	}
	m := reply(q, code)
	for _, rr := range from.Answer {
		switch rr.(type) {
		case *dns.A, *dns.AAAA, *dns.HTTPS, *dns.SVCB:
		default:
			m.Answer = append(m.Answer, rr)
		}
	}
	m.Ns = from.Ns
	return m
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

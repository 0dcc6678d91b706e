package egress

import (
	"net/netip"
	"strings"

	"github.com/miekg/dns"

	"berth.dev/internal/policy"
	"berth.dev/internal/sandbox"
)

// canary is a name that browsers ask for before they take DNS into their own
// hands; that it does not exist asks them not to.
const canary = "use-application-dns.net"

// local answers what is not for the host's resolvers nor for a rule, and says
// why; nil means that it is. d is what the policy says of the name.
func (r *resolver) local(q *dns.Msg, name string, d policy.Decision) (*dns.Msg, policy.Decision) {
	// A rule that names it, and not one that takes in all names, knows better
	// what a name of the local network is.
	own := d.Verdict == policy.Allow && d.Rule != nil && d.Rule.Host.Exact()
	switch {
	case name == sandbox.HostName && d.Verdict == policy.Allow:
		return addresses(q, r.e.cfg.HostAddr), d
	case inside(name, "berth.internal"):
		return reply(q, dns.RcodeNameError), refused("no port of the host is open")
	case inside(name, "localhost"):
		return addresses(q, netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()), answered("the guest's own") // RFC 6761 §6.3
	case inside(name, "in-addr.arpa"), inside(name, "ip6.arpa"):
		return r.reverse(q, name)
	case own:
		return nil, d
	case name == canary && d.Verdict != policy.Allow:
		return reply(q, dns.RcodeNameError), d
	case inside(name, "local"), inside(name, "home.arpa"):
		// Names of the network that the host is in: RFC 6762 §3, RFC 8375.
		return reply(q, dns.RcodeNameError), refused("a name of the local network")
	case !strings.Contains(name, "."):
		// A resolver may look these up around itself (LLMNR, a router's leases,
		// the host's /etc/hosts). An empty answer and not "no such name", because
		// that would be said of a whole top-level domain (RFC 8020).
		return reply(q, dns.RcodeSuccess), refused("a name of the local network")
	}
	return nil, d
}

// malformed returns the code for a question that nobody is asked.
func malformed(q *dns.Msg) (int, string) {
	asked := q.Question[0]
	opt := q.IsEdns0()
	switch {
	case q.Opcode != dns.OpcodeQuery:
		return dns.RcodeNotImplemented, "not a query"
	case len(q.Extra) > 1, len(q.Extra) == 1 && opt == nil:
		return dns.RcodeFormatError, "unexpected records"
	case opt != nil && opt.Version() != 0:
		return dns.RcodeBadVers, "unknown version of EDNS" // RFC 6891 §6.1.3
	case asked.Qclass != dns.ClassINET:
		return dns.RcodeRefused, "not the internet's class"
	case asked.Qtype == 0, asked.Qtype == dns.TypeOPT, asked.Qtype >= 128 && asked.Qtype <= 255:
		// Questions and meta types: zone transfers, ANY, TSIG (RFC 6895 §3.1).
		return dns.RcodeRefused, "this type is not asked"
	}
	return dns.RcodeSuccess, ""
}

// reverse says which name an address stands for. Names of other addresses are
// not asked for: an address that stands for none says nothing to a guest whose
// connections go by name.
func (r *resolver) reverse(q *dns.Msg, name string) (*dns.Msg, policy.Decision) {
	a, ok := parseReverse(name)
	if !ok {
		return reply(q, dns.RcodeRefused), refused("not the name of one address")
	}
	host, ok := r.e.names.nameOf(a)
	if !isName(a) || !ok {
		return reply(q, dns.RcodeNameError), refused("an address that stands for no name")
	}
	m := reply(q, dns.RcodeSuccess)
	if asked := q.Question[0]; asked.Qtype == dns.TypePTR {
		m.Answer = []dns.RR{&dns.PTR{
			Hdr: dns.RR_Header{Name: asked.Name, Rrtype: dns.TypePTR, Class: dns.ClassINET, Ttl: ownTTL}, Ptr: host + ".",
		}}
	}
	return m, answered("an address that stands for a name")
}

// parseReverse returns the address that a whole reverse name stands for
// (RFC 1035 §3.5, RFC 3596 §2.5).
func parseReverse(name string) (netip.Addr, bool) {
	var text strings.Builder
	if labels, ok := strings.CutSuffix(name, ".in-addr.arpa"); ok {
		parts := strings.Split(labels, ".")
		for i := len(parts) - 1; i >= 0; i-- {
			text.WriteString(parts[i])
			if i > 0 {
				text.WriteByte('.')
			}
		}
		a, err := netip.ParseAddr(text.String())
		return a, err == nil && a.Is4()
	}
	parts := strings.Split(strings.TrimSuffix(name, ".ip6.arpa"), ".")
	if len(parts) != 32 {
		return netip.Addr{}, false
	}
	for i := 31; i >= 0; i-- {
		if len(parts[i]) != 1 {
			return netip.Addr{}, false
		}
		text.WriteString(parts[i])
		if i > 0 && i%4 == 0 {
			text.WriteByte(':')
		}
	}
	a, err := netip.ParseAddr(text.String())
	return a, err == nil
}

// inside reports whether name is zone or lies below it.
func inside(name, zone string) bool {
	return name == zone || strings.HasSuffix(name, "."+zone)
}

// addresses answers with those of the addresses that the question's type is for.
func addresses(q *dns.Msg, addrs ...netip.Addr) *dns.Msg {
	m := reply(q, dns.RcodeSuccess)
	asked := q.Question[0]
	hdr := dns.RR_Header{Name: asked.Name, Rrtype: asked.Qtype, Class: dns.ClassINET, Ttl: ownTTL}
	for _, a := range addrs {
		switch {
		case a.Is4() && asked.Qtype == dns.TypeA:
			m.Answer = append(m.Answer, &dns.A{Hdr: hdr, A: a.AsSlice()})
		case a.Is6() && asked.Qtype == dns.TypeAAAA:
			m.Answer = append(m.Answer, &dns.AAAA{Hdr: hdr, AAAA: a.AsSlice()})
		}
	}
	return m
}

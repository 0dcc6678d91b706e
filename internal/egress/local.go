package egress

import (
	"net/netip"
	"strings"

	"github.com/miekg/dns"

	"berth.dev/internal/sandbox"
)

// local answers what is not for the host's resolvers, and says why when that
// is a refusal; nil means that they are to be asked.
func (r *resolver) local(q *dns.Msg) (*dns.Msg, string) {
	asked := q.Question[0]
	name := strings.TrimSuffix(dns.CanonicalName(asked.Name), ".")
	if code, reason := malformed(q); code != dns.RcodeSuccess {
		return reply(q, code), reason
	}
	switch {
	case name == sandbox.HostName && len(r.cfg.HostPorts) > 0:
		return addresses(q, r.cfg.HostAddr), ""
	case inside(name, "berth.internal"):
		return reply(q, dns.RcodeNameError), "no port of the host is open"
	case inside(name, "localhost"):
		return addresses(q, netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()), "" // RFC 6761 §6.3
	case inside(name, "local"), inside(name, "home.arpa"):
		// Names of the network that the host is in: RFC 6762 §3, RFC 8375.
		return reply(q, dns.RcodeNameError), "a name of the local network"
	case inside(name, "in-addr.arpa"), inside(name, "ip6.arpa"):
		return r.localReverse(q, name)
	case asked.Qtype != dns.TypeA && asked.Qtype != dns.TypeAAAA:
		return nil, ""
	case !strings.Contains(name, "."):
		// A resolver may look these up around itself (LLMNR, a router's leases,
		// the host's /etc/hosts). An empty answer and not "no such name", because
		// that would be said of a whole top-level domain (RFC 8020).
		return reply(q, dns.RcodeSuccess), "a name of the local network"
	case asked.Qtype == dns.TypeAAAA && !r.ipv6():
		// An address that cannot be reached would only make clients wait.
		return reply(q, dns.RcodeSuccess), ""
	}
	return nil, ""
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

// localReverse: names of public addresses are anybody's to know; those of
// others are the local network's (RFC 6303).
func (r *resolver) localReverse(q *dns.Msg, name string) (*dns.Msg, string) {
	a, ok := parseReverse(name)
	if !ok {
		return reply(q, dns.RcodeRefused), "not the name of one address"
	}
	if why := r.closed(a); why != "" {
		return reply(q, dns.RcodeNameError), why
	}
	return nil, ""
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
	hdr := dns.RR_Header{Name: asked.Name, Rrtype: asked.Qtype, Class: dns.ClassINET, Ttl: hostTTL}
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

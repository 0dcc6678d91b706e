package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Bounds of one rule, so that no file can make a decision slow.
const (
	maxPorts = 256
	maxPath  = 1024 // bytes of a path pattern
)

// PortRange is a range of ports, both ends in it.
type PortRange struct{ First, Last uint16 }

// String returns "443" or "8000-8100".
func (p PortRange) String() string {
	if p.First == p.Last {
		return strconv.Itoa(int(p.First))
	}
	return fmt.Sprintf("%d-%d", p.First, p.Last)
}

func (p PortRange) contains(port uint16) bool { return p.First <= port && port <= p.Last }

// ParsePorts reads ports as they follow a host: "443", "22,80,8000-8100". The
// result is sorted and no range overlaps another.
func ParsePorts(s string) ([]PortRange, error) {
	var ports []PortRange
	for part := range strings.SplitSeq(s, ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		a, aerr := parsePort(first)
		b, berr := parsePort(last)
		if aerr != nil || berr != nil || a > b {
			return nil, fmt.Errorf("%s is no port: write 443, or 8000-8100, or several with commas", quote(part))
		}
		ports = append(ports, PortRange{a, b})
		if len(ports) > maxPorts {
			return nil, fmt.Errorf("a rule has at most %d ranges of ports", maxPorts)
		}
	}
	return joinPorts(ports), nil
}

// parsePort takes only the digits that people write: no sign, no leading zero.
func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 || strconv.FormatUint(n, 10) != s {
		return 0, errors.New("no port")
	}
	return uint16(n), nil
}

// FormatPorts is the inverse of ParsePorts.
func FormatPorts(ports []PortRange) string {
	parts := make([]string, len(ports))
	for i, p := range ports {
		parts[i] = p.String()
	}
	return strings.Join(parts, ",")
}

// joinPorts sorts ranges and makes one of those that overlap. Neighbours stay
// apart: "80,81" reads better than "80-81".
func joinPorts(ports []PortRange) []PortRange {
	if len(ports) == 0 {
		return nil
	}
	ports = slices.Clone(ports)
	slices.SortFunc(ports, func(a, b PortRange) int { return int(a.First) - int(b.First) })
	joined := ports[:1]
	for _, p := range ports[1:] {
		last := &joined[len(joined)-1]
		if p.First <= last.Last {
			last.Last = max(last.Last, p.Last)
			continue
		}
		joined = append(joined, p)
	}
	return joined
}

// ParseRule reads what a rule is about: HOST[:PORT[-PORT][,PORT]...], where
// HOST is a pattern as of ParseHost, an address, or a range of addresses in
// CIDR notation. IPv6 goes in brackets when ports follow: [fd00::/8]:443.
// Methods, paths and Inspect are the caller's to set; Rule.Clean then checks
// the whole.
func ParseRule(v Verdict, target string) (Rule, error) {
	if strings.Contains(target, "://") {
		return Rule{}, fmt.Errorf("%s is a URL: write the host alone, and its port after a colon", quote(target))
	}
	place, ports, err := splitTarget(target)
	if err != nil {
		return Rule{}, err
	}
	r := Rule{Verdict: v}
	if ports != "" {
		if r.Ports, err = ParsePorts(ports); err != nil {
			return Rule{}, err
		}
	}
	if prefix, ok, err := parsePrefix(place); err != nil {
		return Rule{}, err
	} else if ok {
		r.Prefix = prefix
	} else if r.Host, err = ParseHost(place); err != nil {
		return Rule{}, err
	}
	return r, r.Check()
}

// splitTarget takes the ports off.
func splitTarget(target string) (place, ports string, err error) {
	bad := fmt.Errorf("%s is no target: write HOST, HOST:PORT, an address or a range such as 10.1.0.0/16", quote(target))
	if rest, ok := strings.CutPrefix(target, "["); ok {
		place, after, ok := strings.Cut(rest, "]")
		ports, colon := strings.CutPrefix(after, ":")
		if !ok || !strings.Contains(place, ":") || after != "" && !colon || colon && ports == "" {
			return "", "", bad
		}
		return place, ports, nil
	}
	if strings.Count(target, ":") > 1 {
		return target, "", nil // IPv6 without ports
	}
	place, ports, colon := strings.Cut(target, ":")
	if place == "" || colon && ports == "" {
		return "", "", bad
	}
	return place, ports, nil
}

// parsePrefix reads an address or a range; ok is false when s is neither. An
// IPv4 address that is written as an IPv6 one means the IPv4 one.
func parsePrefix(s string) (p netip.Prefix, ok bool, err error) {
	if addr, err := netip.ParseAddr(s); err == nil {
		if addr.Zone() != "" {
			return p, false, fmt.Errorf("%s names an interface of this machine: leave the zone out", quote(s))
		}
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), true, nil
	}
	p, perr := netip.ParsePrefix(s)
	if perr != nil {
		if strings.Contains(s, ":") {
			return p, false, fmt.Errorf("%s is no address and no range of addresses", quote(s))
		}
		if base, _, slash := strings.Cut(s, "/"); slash {
			if _, err := netip.ParseAddr(base); err == nil {
				return p, false, fmt.Errorf("%s is no range of addresses: write it as 10.1.0.0/16", quote(s))
			}
		}
		return p, false, nil
	}
	if p.Addr().Is4In6() {
		if p.Bits() < 96 {
			return p, false, fmt.Errorf("%s mixes IPv4 and IPv6: write the IPv4 range", quote(s))
		}
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	if p != p.Masked() {
		return p, false, fmt.Errorf("%s has bits set beyond its length: did you mean %s?", quote(s), p.Masked())
	}
	return p, true, nil
}

// ParseText reads a rule as Rule.String prints it.
func ParseText(text string) (Rule, error) {
	fields := strings.Fields(text)
	if len(fields) < 2 || fields[0] != "allow" && fields[0] != "deny" {
		return Rule{}, fmt.Errorf("%s is no rule: write allow or deny, and a target", quote(text))
	}
	v := Deny
	if fields[0] == "allow" {
		v = Allow
	}
	r, err := ParseRule(v, fields[1])
	if err != nil {
		return Rule{}, err
	}
	rest := fields[2:]
	if n := len(rest); n > 0 && rest[n-1] == inspectWord {
		r.Inspect, rest = true, rest[:n-1]
	}
	if len(rest) > 0 && !strings.HasPrefix(rest[0], "/") {
		r.Methods, rest = strings.Split(rest[0], ","), rest[1:]
	}
	if len(rest) > 0 {
		r.Paths = rest
	}
	return r.Clean()
}

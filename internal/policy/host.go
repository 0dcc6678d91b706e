package policy

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// Bounds of a host name, in bytes of its ASCII form without the final dot
// (RFC 1035 §2.3.4).
const (
	maxName  = 253
	maxLabel = 63
)

type hostKind uint8

const (
	hostNone  hostKind = iota
	hostExact          // example.com
	hostOne            // *.example.com
	hostDeep           // **.example.com
	hostAny            // **
)

// Host is a pattern of host names. The zero Host matches nothing. Values can
// be compared with ==.
//
//	example.com      that name alone
//	*.example.com    exactly one label below it
//	**.example.com   one or more labels below it
//	**               every name
//
// A wildcard never takes in HostName.
type Host struct {
	kind hostKind
	name string // what is matched, or what follows the wildcard; normalised
}

// ParseHost reads a pattern. What stands behind a wildcard, or all of it, is
// normalised as NormalizeName does.
func ParseHost(s string) (Host, error) {
	if s == "**" {
		return Host{kind: hostAny}, nil
	}
	kind, rest := hostExact, s
	if r, ok := strings.CutPrefix(s, "**."); ok {
		kind, rest = hostDeep, r
	} else if r, ok := strings.CutPrefix(s, "*."); ok {
		kind, rest = hostOne, r
	}
	switch {
	case s == "*":
		return Host{}, errors.New("\"*\" stands for one label only: write ** for every name")
	case strings.Contains(rest, "*"):
		return Host{}, fmt.Errorf("%s: a wildcard stands alone in front, as in *.example.com or **.example.com", quote(s))
	case strings.Contains(rest, "/"):
		return Host{}, fmt.Errorf("%s is no host: write the name alone, without https:// and path", quote(s))
	}
	name, err := NormalizeName(rest)
	if err != nil {
		return Host{}, err
	}
	return Host{kind: kind, name: name}, nil
}

// String returns the pattern as ParseHost reads it, "" for the zero Host.
func (h Host) String() string {
	switch h.kind {
	case hostExact:
		return h.name
	case hostOne:
		return "*." + h.name
	case hostDeep:
		return "**." + h.name
	case hostAny:
		return "**"
	}
	return ""
}

// Exact reports whether the pattern names one host, without a wildcard.
func (h Host) Exact() bool { return h.kind == hostExact }

// Match reports whether the pattern takes in a name. The name must be
// normalised; what NormalizeName would refuse, such as "", matches nothing.
func (h Host) Match(name string) bool {
	return h.match(name) && (h.kind == hostExact || name != HostName)
}

// match is Match without the exception for HostName.
func (h Host) match(name string) bool {
	switch h.kind {
	case hostExact:
		return name == h.name
	case hostOne:
		i := firstDot(name)
		return i > 0 && name[i+1:] == h.name
	case hostDeep:
		below, ok := strings.CutSuffix(name, h.name)
		return ok && len(below) > 1 && below[len(below)-1] == '.'
	case hostAny:
		return name != ""
	}
	return false
}

func firstDot(s string) int { return strings.IndexByte(s, '.') }

// profile maps and checks one label that is not plain ASCII, as a resolver
// must before a look-up (UTS 46 §4, non-transitional, with the rules for
// joiners and for right-to-left text). Which ASCII may stand in a label is
// checked by NormalizeName, more strictly than here.
var profile = idna.New(idna.MapForLookup(), idna.Transitional(false), idna.BidiRule(),
	idna.CheckHyphens(false), idna.CheckJoiners(true), idna.StrictDomainName(false))

// dots are the characters that UTS 46 §2.3 takes for a dot.
var dots = strings.NewReplacer("\u3002", ".", "\uff0e", ".", "\uff61", ".")

// NormalizeName returns the one form of a host name that rules are compared
// with: ASCII, lower case, without the final dot, IDNA as UTS 46 has it for
// look-ups. Its result normalises to itself.
//
// It refuses what is no host name: empty labels, labels over 63 and names over
// 253 bytes, any character but letters, digits, '-' and '_' (which services
// and some hosts have), punycode that is not in its one valid form, and every
// name that some resolver takes for an IP address: one whose last label is a
// number, decimal, octal or hexadecimal (URL Standard, "ends in a number").
func NormalizeName(s string) (string, error) {
	if len(s) > 4*maxName {
		return "", errors.New("a host name has at most 253 characters")
	}
	if !utf8.ValidString(s) {
		return "", fmt.Errorf("%s is no host name", quote(s))
	}
	name := s
	if !isPlain(s) {
		labels := strings.Split(dots.Replace(s), ".")
		for i, l := range labels {
			norm, err := normalizeLabel(l)
			if err != nil {
				return "", fmt.Errorf("%s is no host name: %w", quote(s), err)
			}
			labels[i] = norm
		}
		name = strings.Join(labels, ".")
	}
	name = strings.TrimSuffix(name, ".")
	if err := checkName(name); err != nil {
		return "", fmt.Errorf("%s is no host name: %w", quote(s), err)
	}
	return name, nil
}

// isPlain reports whether a name is lower-case ASCII without punycode, as
// nearly all are.
func isPlain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c >= utf8.RuneSelf || 'A' <= c && c <= 'Z' {
			return false
		}
	}
	return !strings.Contains(s, "xn--")
}

// normalizeLabel is one label at a time, so that nothing in a label can turn
// into a dot unseen.
func normalizeLabel(label string) (string, error) {
	lower := strings.ToLower(label)
	ascii := isASCII(label)
	if ascii && !strings.HasPrefix(lower, "xn--") {
		return lower, nil
	}
	norm, err := profile.ToASCII(label)
	if err != nil {
		return "", fmt.Errorf("label %s is not valid: %w", quote(label), err)
	}
	// Punycode of plain ASCII, or of what mapping would change, is a second
	// spelling of another name, and resolvers do not agree on what it means.
	if ascii && norm != lower {
		return "", fmt.Errorf("label %s is not in its normal form", quote(label))
	}
	if again, err := profile.ToASCII(norm); err != nil || again != norm {
		return "", fmt.Errorf("label %s is not valid", quote(label))
	}
	return norm, nil
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// checkName holds a mapped name against the rules for its ASCII form.
func checkName(name string) error {
	if name == "" {
		return errors.New("it is empty")
	}
	if len(name) > maxName {
		return errors.New("it is longer than 253 characters")
	}
	start := 0
	for i := 0; i <= len(name); i++ {
		if i < len(name) && name[i] != '.' {
			if !labelByte(name[i]) {
				return fmt.Errorf("%q cannot stand in it", rune(name[i]))
			}
			continue
		}
		switch n := i - start; {
		case n == 0:
			return errors.New("a label of it is empty")
		case n > maxLabel:
			return errors.New("a label of it is longer than 63 characters")
		}
		if i < len(name) {
			start = i + 1
		}
	}
	if isNumber(name[start:]) {
		return errors.New("it ends in a number, as an address does")
	}
	return nil
}

func labelByte(c byte) bool {
	return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_'
}

// isNumber reports whether inet_aton(3) or a browser would read a last label
// as a number.
func isNumber(label string) bool {
	digits := "0123456789"
	if hex, ok := strings.CutPrefix(label, "0x"); ok {
		label, digits = hex, "0123456789abcdef"
	}
	return strings.Trim(label, digits) == ""
}

// quote shows text of unknown origin in an error, bounded.
func quote(s string) string {
	const limit = 80
	if len(s) > limit {
		return fmt.Sprintf("%q...", strings.ToValidUTF8(s[:limit], ""))
	}
	return fmt.Sprintf("%q", s)
}

package debian

import (
	"cmp"
	"strings"

	"berth.dev/internal/sandbox"
)

// CompareVersions orders two package versions as Debian Policy 5.6.12 says:
// negative when a is older than b, 0 when they are equal, positive when a is
// newer. It is a total order on all strings; what is not a valid version is
// compared by the same rules.
func CompareVersions(a, b string) int {
	ea, ua, ra := splitVersion(a)
	eb, ub, rb := splitVersion(b)
	if c := compareNumber(ea, eb); c != 0 {
		return c
	}
	if c := comparePart(ua, ub); c != 0 {
		return c
	}
	return comparePart(ra, rb)
}

// splitVersion cuts [epoch:]upstream[-revision]. An absent epoch is the number
// 0 and so is an absent revision.
func splitVersion(v string) (epoch, upstream, revision string) {
	upstream = v
	if i := strings.IndexByte(v, ':'); i >= 0 && allDigits(v[:i]) {
		epoch, upstream = v[:i], v[i+1:]
	}
	if i := strings.LastIndexByte(upstream, '-'); i >= 0 {
		upstream, revision = upstream[:i], upstream[i+1:]
	}
	return epoch, upstream, revision
}

// comparePart compares an upstream version or a revision: non-digits and
// digits by turns, from the left.
func comparePart(a, b string) int {
	for a != "" || b != "" {
		var na, nb string
		na, a = cutWhile(a, func(c byte) bool { return !isDigit(c) })
		nb, b = cutWhile(b, func(c byte) bool { return !isDigit(c) })
		if c := compareText(na, nb); c != 0 {
			return c
		}
		na, a = cutWhile(a, isDigit)
		nb, b = cutWhile(b, isDigit)
		if c := compareNumber(na, nb); c != 0 {
			return c
		}
	}
	return 0
}

func compareText(a, b string) int {
	for i := range max(len(a), len(b)) {
		if c := cmp.Compare(weight(a, i), weight(b, i)); c != 0 {
			return c
		}
	}
	return 0
}

// weight orders the characters of a version: '~' before the end, the end
// before letters, letters before everything else.
func weight(s string, i int) int {
	switch {
	case i >= len(s):
		return 0
	case s[i] == '~':
		return -1
	case s[i] >= 'A' && s[i] <= 'Z', s[i] >= 'a' && s[i] <= 'z':
		return int(s[i])
	default:
		return int(s[i]) + 256
	}
}

// compareNumber compares strings of digits by value, of any length: versions
// such as 20250101235959123456789 do not fit a machine word.
func compareNumber(a, b string) int {
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	if c := cmp.Compare(len(a), len(b)); c != 0 {
		return c
	}
	return strings.Compare(a, b)
}

func cutWhile(s string, in func(byte) bool) (head, rest string) {
	i := 0
	for i < len(s) && in(s[i]) {
		i++
	}
	return s[:i], s[i:]
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func allDigits(s string) bool {
	_, rest := cutWhile(s, isDigit)
	return s != "" && rest == ""
}

// checkVersion reports why v cannot be a version (Policy 5.6.12). Versions end
// up in file names and in dpkg's database, so nothing else may pass.
func checkVersion(v string) error {
	epoch, upstream, revision := splitVersion(v)
	switch {
	case len(v) > 256:
		return sandbox.Errorf(sandbox.ErrInvalid, "version of %d characters", len(v))
	case upstream == "" || !isDigit(upstream[0]) && !isLetter(upstream[0]):
		return sandbox.Errorf(sandbox.ErrInvalid, "version %q has no upstream version", v)
	case len(epoch) > 9:
		return sandbox.Errorf(sandbox.ErrInvalid, "version %q has an absurd epoch", v)
	}
	for _, c := range []byte(upstream + revision) {
		if !isDigit(c) && !isLetter(c) && !strings.ContainsRune(".+-~:", rune(c)) {
			return sandbox.Errorf(sandbox.ErrInvalid, "version %q holds %q", v, c)
		}
	}
	return nil
}

func isLetter(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }

// relationHolds reports whether a version stands in a relation to another, as
// in "libc6 (>= 2.36)"; the empty operator always holds.
func relationHolds(version, op, bound string) bool {
	c := CompareVersions(version, bound)
	switch op {
	case "":
		return true
	case "<<":
		return c < 0
	case "<=", "<": // "<" is the obsolete spelling of "<=" (Policy 7.1)
		return c <= 0
	case "=":
		return c == 0
	case ">=", ">":
		return c >= 0
	case ">>":
		return c > 0
	}
	return false
}

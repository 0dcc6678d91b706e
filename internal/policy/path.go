package policy

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// pathPattern is a compiled path pattern, one segment after another.
type pathPattern []segment

// segment matches one segment of a path, or with deep any number of them.
// parts are what stands between the stars, percent-decoded.
type segment struct {
	deep  bool
	parts []string
}

// parsePath reads a path pattern. Percent-encoding in it is decoded, so that
// "%2A" is a star and "%2F" a slash that is part of a segment.
func parsePath(p string) (pathPattern, error) {
	bad := func(why string) error { return fmt.Errorf("path %s %s", quote(p), why) }
	rest, ok := strings.CutPrefix(p, "/")
	switch {
	case !ok:
		return nil, bad("does not begin with a slash")
	case len(p) > maxPath:
		return nil, bad(fmt.Sprintf("is longer than %d bytes", maxPath))
	case !utf8.ValidString(p) || strings.ContainsAny(p, "?#\\ ") || hasControl(p):
		return nil, bad("holds a character that cannot stand in one: encode it, and leave the query out")
	}
	var pattern pathPattern
	segments := strings.Split(rest, "/")
	for i, s := range segments {
		if s == "**" {
			// Two in a row mean the same as one.
			if n := len(pattern); n == 0 || !pattern[n-1].deep {
				pattern = append(pattern, segment{deep: true})
			}
			continue
		}
		switch {
		case strings.Contains(s, "**"):
			return nil, bad("has ** beside other characters: it stands for whole segments")
		case s == "" && i < len(segments)-1:
			return nil, bad("has an empty segment")
		}
		var seg segment
		for part := range strings.SplitSeq(s, "*") {
			text, ok := unescape(part, true)
			if !ok {
				return nil, bad("has a % that is no percent-encoding")
			}
			seg.parts = append(seg.parts, text)
		}
		if len(seg.parts) == 1 && (seg.parts[0] == "." || seg.parts[0] == "..") {
			return nil, bad("has a dot segment")
		}
		pattern = append(pattern, seg)
	}
	return pattern, nil
}

// match reports whether a path's segments fit. Like a glob it goes back only
// to the last **, so it takes time in proportion to pattern times path.
func (p pathPattern) match(path []string) bool {
	i, j := 0, 0
	star, from := -1, 0
	for j < len(path) {
		switch {
		case i < len(p) && p[i].deep:
			star, from = i, j
			i++
		case i < len(p) && p[i].match(path[j]):
			i++
			j++
		case star >= 0:
			from++
			i, j = star+1, from
		default:
			return false
		}
	}
	for i < len(p) && p[i].deep {
		i++
	}
	return i == len(p)
}

func (s segment) match(text string) bool {
	first, last := s.parts[0], s.parts[len(s.parts)-1]
	if len(s.parts) == 1 {
		return text == first
	}
	if len(text) < len(first)+len(last) || !strings.HasPrefix(text, first) || !strings.HasSuffix(text, last) {
		return false
	}
	text = text[len(first) : len(text)-len(last)]
	for _, part := range s.parts[1 : len(s.parts)-1] {
		_, after, ok := strings.Cut(text, part)
		if !ok {
			return false
		}
		text = after
	}
	return true
}

// Bounds of what a request may have for a path. Longer ones, and ones that
// were encoded more often than that, have no views.
const (
	maxRequestPath = 64 << 10
	maxDecode      = 4
)

// views are the ways in which servers read one path: as it was sent, with dot
// segments resolved, decoded before or after that, decoded more than once,
// with backslashes for slashes, and without the parameters that some cut off
// after a semicolon. The one that most have comes first. An allow rule must
// hold in all of them and a deny rule in one.
//
// ok is false when the path cannot be read in any one way.
func views(raw string) (all [][]string, ok bool) {
	if raw == "" {
		raw = "/" // what a client with a URL without a path sends
	}
	if raw[0] != '/' || len(raw) > maxRequestPath || strings.ContainsAny(raw, "?#") {
		return nil, false
	}
	text, ok := unescape(raw, true)
	if !ok || hasControl(text) || hasControl(raw) {
		return nil, false
	}
	add := func(view []string) {
		if !slices.ContainsFunc(all, func(v []string) bool { return slices.Equal(v, view) }) {
			all = append(all, view)
		}
	}
	// Decoded, then resolved; and again for as long as that changes anything.
	for n := 0; ; n++ {
		split := splitPath(strings.ReplaceAll(text, `\`, "/"))
		add(resolve(split))
		if strings.Contains(text, ";") {
			add(resolve(withoutParameters(split)))
		}
		again, _ := unescape(text, false)
		if again == text {
			break
		}
		if n == maxDecode || hasControl(again) {
			return nil, false
		}
		text = again
	}
	// Split, then decoded, with dot segments resolved or not.
	sent := splitPath(raw)
	add(decodeEach(resolve(sent)))
	add(decodeEach(sent))
	return all, true
}

func splitPath(p string) []string { return strings.Split(p[1:], "/") }

func decodeEach(segments []string) []string {
	out := make([]string, len(segments))
	for i, s := range segments {
		out[i], _ = unescape(s, false)
	}
	return out
}

// resolve takes out dot segments (RFC 3986 §5.2.4) and empty segments but the
// last. A dot segment with parameters, "..;x", counts as one.
func resolve(segments []string) []string {
	var out []string
	for _, s := range segments {
		switch bare, _, _ := strings.Cut(s, ";"); {
		case s == "", bare == ".":
		case bare == "..":
			out = out[:max(0, len(out)-1)]
		default:
			out = append(out, s)
		}
	}
	last, _, _ := strings.Cut(segments[len(segments)-1], ";")
	if len(out) == 0 || last == "" || last == "." || last == ".." {
		out = append(out, "")
	}
	return out
}

func withoutParameters(segments []string) []string {
	out := make([]string, len(segments))
	for i, s := range segments {
		out[i], _, _ = strings.Cut(s, ";")
	}
	return out
}

// unescape decodes percent-encoding once. With strict, a % that encodes
// nothing is not ok; without, it stays as it is.
func unescape(s string, strict bool) (string, bool) {
	if strings.IndexByte(s, '%') < 0 {
		return s, true
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' {
			if i+2 < len(s) {
				hi, hok := hexDigit(s[i+1])
				lo, lok := hexDigit(s[i+2])
				if hok && lok {
					b.WriteByte(hi<<4 | lo)
					i += 2
					continue
				}
			}
			if strict {
				return "", false
			}
		}
		b.WriteByte(s[i])
	}
	return b.String(), true
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

func hasControl(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] == 0x7f {
			return true
		}
	}
	return false
}

package credential

import (
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// maxEscape is the longest escape that unescape knows, in bytes: a pair of \u.
const maxEscape = 12

// isEscape reports whether c may begin an escape.
func isEscape(c byte) bool { return c == '%' || c == '\\' || c == '&' }

// unescaped is what an escape stands for.
type unescaped struct {
	text  [utf8.UTFMax]byte
	n     int // bytes of it
	width int // bytes of the escape; 0 when there is none
}

// unescape reads one escape at the start of b: %41 of URLs, \u0041, \x41, \n and
// the like of JSON and JavaScript, &#65; &#x41; and &amp; of HTML. more means
// that what is there may be the beginning of one; with final it is not.
func unescape(b []byte, final bool) (u unescaped, more bool) {
	switch b[0] {
	case '%':
		u, more = hexEscape(b, 1, 2)
	case '\\':
		u, more = backslash(b)
	case '&':
		u, more = entity(b)
	}
	if more && final {
		return unescaped{}, false
	}
	return u, more
}

// hexEscape reads n hexadecimal digits that stand for one byte.
func hexEscape(b []byte, skip, n int) (unescaped, bool) {
	v, ok, more := hexDigits(b, skip, n)
	if !ok {
		return unescaped{}, more
	}
	return unescaped{text: [utf8.UTFMax]byte{byte(v)}, n: 1, width: skip + n}, false
}

func hexDigits(b []byte, skip, n int) (v rune, ok, more bool) {
	for i := skip; i < skip+n; i++ {
		if i >= len(b) {
			return 0, false, true
		}
		d := hexValue(b[i])
		if d < 0 {
			return 0, false, false
		}
		v = v<<4 | rune(d)
	}
	return v, true, false
}

func hexValue(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

func character(r rune, width int) unescaped {
	u := unescaped{width: width}
	u.n = utf8.EncodeRune(u.text[:], r)
	return u
}

// short is what a backslash and a letter stand for, 0 when for nothing.
var short = [256]byte{'"': '"', '\\': '\\', '/': '/', '\'': '\'', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}

func backslash(b []byte) (unescaped, bool) {
	if len(b) < 2 {
		return unescaped{}, true
	}
	switch b[1] {
	case 'x':
		return hexEscape(b, 2, 2)
	case 'u':
		return utf16Escape(b)
	}
	if m := short[b[1]]; m != 0 {
		return unescaped{text: [utf8.UTFMax]byte{m}, n: 1, width: 2}, false
	}
	return unescaped{}, false
}

func utf16Escape(b []byte) (unescaped, bool) {
	r, ok, more := hexDigits(b, 2, 4)
	switch {
	case !ok:
		return unescaped{}, more
	case !utf16.IsSurrogate(r):
		return character(r, 6), false
	case r >= 0xdc00: // the second of a pair, alone
		return character(utf8.RuneError, 6), false
	case len(b) < 8 && strings.HasPrefix(`\u`, string(b[6:])):
		return unescaped{}, true
	case len(b) < 8 || b[6] != '\\' || b[7] != 'u':
		return character(utf8.RuneError, 6), false
	}
	low, ok, more := hexDigits(b, 8, 4)
	if more {
		return unescaped{}, true
	}
	if pair := utf16.DecodeRune(r, low); ok && pair != utf8.RuneError {
		return character(pair, 12), false
	}
	return character(utf8.RuneError, 6), false
}

// entities are the names that HTML's and XML's escaping functions write.
var entities = []struct {
	name string
	r    rune
}{{"&amp;", '&'}, {"&lt;", '<'}, {"&gt;", '>'}, {"&quot;", '"'}, {"&apos;", '\''}}

func entity(b []byte) (u unescaped, more bool) {
	if len(b) < 2 {
		return unescaped{}, true
	}
	if b[1] == '#' {
		return numeric(b)
	}
	for _, e := range entities {
		n := min(len(b), len(e.name))
		if string(b[:n]) != e.name[:n] {
			continue
		}
		if n < len(e.name) {
			return unescaped{}, true
		}
		return character(e.r, n), false
	}
	return unescaped{}, false
}

// numeric reads &#65; or &#x41;, of at most 7 or 6 digits.
func numeric(b []byte) (unescaped, bool) {
	start, base, most := 2, 10, 7
	if len(b) > 2 && (b[2] == 'x' || b[2] == 'X') {
		start, base, most = 3, 16, 6
	}
	end := start
	for end < len(b) && end-start < most && hexValue(b[end]) >= 0 && hexValue(b[end]) < base {
		end++
	}
	if end == len(b) {
		return unescaped{}, true
	}
	v, err := strconv.ParseUint(string(b[start:end]), base, 32)
	if b[end] != ';' || err != nil {
		return unescaped{}, false
	}
	return character(rune(min(v, utf8.MaxRune+1)), end+1), false
}

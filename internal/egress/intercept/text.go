package intercept

import (
	"strconv"
	"strings"
)

// maxText bounds what is repeated of what an untrusted peer said, in bytes.
const maxText = 300

// clean makes a text of an untrusted peer fit for a message or a record: one
// line of printable ASCII, bounded.
func clean(s string) string {
	cut := len(s) > maxText
	if cut {
		s = s[:maxText]
	}
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
	if cut {
		s += "..."
	}
	return s
}

// quote is clean with quotes around it, for what should be short.
func quote(s string) string {
	if len(s) > maxText {
		s = s[:maxText]
	}
	return strconv.QuoteToASCII(s)
}

// lower is strings.ToLower for ASCII only: Unicode has letters beyond it that
// fold into it (the Kelvin sign), and a name with one is another name.
func lower(s string) string {
	for i := range len(s) {
		if 'A' <= s[i] && s[i] <= 'Z' {
			b := []byte(s)
			for j, c := range b {
				if 'A' <= c && c <= 'Z' {
					b[j] = c + 'a' - 'A'
				}
			}
			return string(b)
		}
	}
	return s
}

package audit

import (
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// cut is put at the end of a text that was too long.
const cut = "…"

// clean bounds an event and makes its texts printable. It returns how many
// bytes of text there are. An event without a time happens now.
func (e *Event) clean() int {
	if y := e.Time.Year(); e.Time.IsZero() || y < 1 || y > 9999 { // RFC 3339 has four digits
		e.Time = time.Now()
	}
	e.Time = e.Time.Round(0).UTC()
	n := cleanText((*string)(&e.Kind), 32)
	// Bounds are those of the protocols where there are any: 253 bytes of a name
	// (RFC 1035 §2.3.4), and what no honest value reaches elsewhere.
	n += cleanText(&e.Sandbox, 64) + cleanText(&e.ID, 64) + cleanText(&e.Name, 255) + cleanText(&e.Address, 64)
	n += cleanText(&e.Protocol, 32) + cleanText(&e.Question, 32) + cleanText(&e.Answer, 32)
	n += cleanText(&e.Method, 32) + cleanText(&e.Path, 1024) + cleanText(&e.Verdict, 16)
	n += cleanText(&e.Rule, 1024) + cleanText(&e.Origin, 512) + cleanText(&e.Reason, 512)
	n += cleanText(&e.Error, 512) + cleanText(&e.Detail, 512) + cleanText(&e.Secret, 128)
	return n
}

// cleanText makes a text printable and at most limit bytes long, and returns
// its length.
func cleanText(s *string, limit int) int {
	if len(*s) > limit || !plainASCII(*s) {
		*s = printable(*s, limit)
	}
	return len(*s)
}

func plainASCII(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' {
			return false
		}
	}
	return true
}

// printable copies at most limit bytes of s, so that nothing keeps a long s in
// memory.
func printable(s string, limit int) string {
	var b strings.Builder
	whole := 0 // what may stay when a mark has to follow
	for _, r := range s {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			r = '?'
		}
		if b.Len()+utf8.RuneLen(r) > limit {
			return b.String()[:whole] + cut
		}
		b.WriteRune(r)
		if b.Len()+len(cut) <= limit {
			whole = b.Len()
		}
	}
	return b.String()
}

package credential

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"html"
	"regexp"
	"strings"
)

// The naive reference of the scanner: decode everything, then look.

var escapes = regexp.MustCompile(`%[0-9A-Fa-f]{2}` +
	`|\\u[dD][89abAB][0-9A-Fa-f]{2}\\u[dD][c-fC-F][0-9A-Fa-f]{2}|\\u[0-9A-Fa-f]{4}|\\x[0-9A-Fa-f]{2}|\\["\\/'bfnrt]` +
	`|&#[0-9]{1,7};|&#[xX][0-9A-Fa-f]{1,6};|&(?:amp|lt|gt|quot|apos);`)

func refUnescape(s string) string {
	return escapes.ReplaceAllStringFunc(s, func(m string) string {
		switch {
		case m[0] == '%' || strings.HasPrefix(m, `\x`):
			b, _ := hex.DecodeString(m[len(m)-2:])
			return string(b)
		case m == `\'`:
			return "'"
		case m[0] == '\\':
			var out string
			if json.Unmarshal([]byte(`"`+m+`"`), &out) != nil {
				return m
			}
			return out
		}
		return html.UnescapeString(m)
	})
}

var (
	base64Run  = regexp.MustCompile(`[A-Za-z0-9+/_-]+`)
	base64Wide = regexp.MustCompile(`[A-Za-z0-9+/_\-\r\n]+`)
	hexRun     = regexp.MustCompile(`[0-9A-Fa-f]+`)
	toStd      = strings.NewReplacer("-", "+", "_", "/", "\r", "", "\n", "")
)

// refDecoded returns all that s can be read as.
func refDecoded(s string, lines bool) []string {
	var all []string
	run := base64Run
	if lines {
		run = base64Wide
	}
	for _, view := range []string{s, refUnescape(s)} {
		all = append(all, view)
		for _, m := range run.FindAllString(view, -1) {
			m = toStd.Replace(m)
			for i := 0; i < min(4, len(m)); i++ {
				part := m[i:]
				if len(part)%4 == 1 {
					part = part[:len(part)-1]
				}
				b, _ := base64.RawStdEncoding.DecodeString(part)
				all = append(all, string(b))
			}
		}
		for _, m := range hexRun.FindAllString(view, -1) {
			for i := 0; i < min(2, len(m)); i++ {
				part := m[i:]
				b, _ := hex.DecodeString(part[:len(part)/2*2])
				all = append(all, string(b))
			}
		}
	}
	return all
}

func refContains(s, text string, lines bool) bool {
	for _, d := range refDecoded(s, lines) {
		if strings.Contains(d, text) {
			return true
		}
	}
	return false
}

// nearly reports whether a needle is there but for the bits that it shares with
// what is around it, which the scanner does not compare.
func nearly(s string, list []*needle) bool {
	for _, view := range []string{s, refUnescape(s)} {
		for _, n := range list {
			folded := []byte(view)
			for i, c := range folded {
				folded[i] = n.coding.fold(c)
			}
			if strings.Contains(string(folded), n.text) {
				return true
			}
		}
	}
	return false
}

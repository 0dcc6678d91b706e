package credential

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"berth.dev/internal/service"
)

var testKey = []byte("0123456789abcdef0123456789abcdef")

func testPlaceholder(name string) placeholder {
	return newPlaceholder(testKey, name, "", service.Shape{Prefix: "sk-ant-", Length: 50})
}

// written are ways to write a text down, each of which a guest or a server may
// use.
func written(text string) map[string]string {
	var percent, some, json, html, entities, mixed strings.Builder
	for i := range len(text) {
		fmt.Fprintf(&percent, "%%%02x", text[i])
		fmt.Fprintf(&json, `\u%04X`, text[i])
		fmt.Fprintf(&html, "&#%d;", text[i])
		fmt.Fprintf(&entities, "&#x%X;", text[i])
		if i%3 == 0 {
			fmt.Fprintf(&some, "%%%02X", text[i])
		} else {
			some.WriteByte(text[i])
		}
		fmt.Fprintf(&mixed, []string{"%c", `\u%04x`, "%%%02X", `\x%02x`, "&#%d;"}[i%5], text[i])
	}
	ways := map[string]string{
		"raw": text, "percent": percent.String(), "percent, some": some.String(), "JSON": json.String(), "HTML": html.String(),
		"HTML, hex": entities.String(), "mixed": mixed.String(), "hex": hex.EncodeToString([]byte(text)),
		"HEX": strings.ToUpper(hex.EncodeToString([]byte(text))), "slashes": strings.ReplaceAll(base64.StdEncoding.EncodeToString([]byte(text)), "/", `\/`),
	}
	for i := range 4 {
		before := strings.Repeat("?", i)
		ways[fmt.Sprint("base64, after ", i)] = base64.StdEncoding.EncodeToString([]byte(before + text + "\xff\xfe"))
		ways[fmt.Sprint("base64 of URLs, after ", i)] = base64.RawURLEncoding.EncodeToString([]byte(before + text + "\xff\xfe"))
		ways[fmt.Sprint("base64 percent-encoded, after ", i)] = strings.NewReplacer("+", "%2B", "/", "%2F", "=", "%3D").
			Replace(base64.StdEncoding.EncodeToString([]byte(before + text)))
	}
	return ways
}

func inPieces(b string, size int, write func([]byte)) {
	for len(b) > 0 {
		n := min(size, len(b))
		write([]byte(b[:n]))
		b = b[n:]
	}
}

func TestFinderFindsEncodings(t *testing.T) {
	p := testPlaceholder("A")
	for name, text := range written(p.text) {
		for _, around := range []string{"", `{"x": "`, "aaaa", "%", `\`, `\u00`, "&#", tag[:7], "\xff\xd8"} {
			for _, size := range []int{1, 2, 3, 7, 1 << 20} {
				f := newFinder()
				inPieces(around+text+around, size, f.s.write)
				f.s.end()
				if !slices.Equal(f.seen, []string{p.core}) && !joined(around, text) {
					t.Errorf("%s behind %q in pieces of %d: %q", name, around, size, f.seen)
				}
			}
		}
	}
}

// joined reports whether what is before a text makes something else of it.
func joined(around, text string) bool {
	p := testPlaceholder("A")
	return !refContains(around+text+around, p.core, true)
}

func TestFinderWrappedBase64(t *testing.T) {
	p := testPlaceholder("A")
	for offset := range 3 {
		all := base64.StdEncoding.EncodeToString([]byte(strings.Repeat(".", 40+offset) + p.text + "..."))
		for _, nl := range []string{"\n", "\r\n", `\n`} {
			var b strings.Builder
			for len(all) > 76 {
				b.WriteString(all[:76] + nl)
				all = all[76:]
			}
			b.WriteString(all)
			f := newFinder()
			if got := f.text(b.String()); len(got) != 1 || got[0] != p.core {
				t.Errorf("offset %d: %q", offset, got)
			}
		}
	}
}

func TestFinderOthers(t *testing.T) {
	p := testPlaceholder("A")
	other := newPlaceholder([]byte("another sandbox's key"), "A", "", service.Shape{})
	f := newFinder()
	if got := f.text(p.text + other.text); !slices.Equal(got, []string{p.core, other.core}) {
		t.Errorf("%q", got)
	}
	wrong := []byte(p.core)
	wrong[len(wrong)-1] ^= 1
	for _, s := range []string{tag, tag + tag + tag, strings.Repeat(tag, 100), string(wrong), p.core[:len(p.core)-1], strings.ToUpper(p.core)} {
		if got := f.text(s); len(got) > 0 && !strings.Contains(s, got[0]) {
			t.Errorf("%q: %q", s, got)
		}
	}
	if got := f.text(string(wrong)); got != nil {
		t.Errorf("a wrong check: %q", got)
	}
}

// pieces makes a text out of what is interesting to the scanner.
func pieces(rng *rand.Rand, texts []string) string {
	var b strings.Builder
	for range rng.IntN(8) {
		text := texts[rng.IntN(len(texts))]
		switch ways := written(text); rng.IntN(8) {
		case 0, 1, 2:
			keys := slices.Sorted(mapKeys(ways))
			b.WriteString(ways[keys[rng.IntN(len(keys))]])
		case 3:
			b.WriteString(text[:rng.IntN(len(text))])
		case 4:
			b.WriteString([]string{"%", `\`, "&", "%4", `\u00`, `\ud83d`, `\ud83d\ude00`, "&#6", "&am", "\n", "=", "=="}[rng.IntN(12)])
		case 5:
			for range rng.IntN(6) {
				b.WriteByte(byte(rng.Uint32()))
			}
		case 6:
			b.WriteString([]string{"a", "AAAA", "ff", " ", tag, `"`}[rng.IntN(6)])
		case 7:
			way := base64.StdEncoding.EncodeToString([]byte(text))
			b.WriteString(way[rng.IntN(4):])
		}
	}
	return b.String()
}

func mapKeys[V any](m map[string]V) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

func FuzzFinder(f *testing.F) {
	for i := range 80 {
		f.Add(uint64(i), "", uint8(i))
	}
	f.Add(uint64(0), `%41\u0041&#65;`, uint8(3))
	p, q := testPlaceholder("A"), testPlaceholder("B")
	f.Fuzz(func(t *testing.T, seed uint64, free string, size uint8) {
		rng := rand.New(rand.NewPCG(seed, 1))
		s := pieces(rng, []string{p.text, q.text, p.core}) + free + pieces(rng, []string{p.text, q.core})
		whole, parts := newFinder(), newFinder()
		whole.s.write([]byte(s))
		whole.s.end()
		inPieces(s, int(size)+1, parts.s.write)
		parts.s.end()
		for _, core := range []string{p.core, q.core} {
			want := refContains(s, core, true)
			if want && !slices.Contains(whole.seen, core) {
				t.Fatalf("not found: %q", s)
			}
			if slices.Contains(whole.seen, core) != slices.Contains(parts.seen, core) {
				t.Fatalf("in pieces of %d it is different: %q", int(size)+1, s)
			}
		}
		if len(whole.seen) > 0 && !nearly(s, needles(tag, 0, true)) {
			t.Fatalf("found %q in %q", whole.seen, s)
		}
	})
}

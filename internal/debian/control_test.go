package debian

import (
	"io"
	"reflect"
	"strings"
	"testing"
)

func TestStanzas(t *testing.T) {
	got, err := parseStanzas([]byte("# a comment\n\nPackage: a\nDepends: b,\n c\n# in between\n d\nDescription: one\n  verbatim\n .\n\n \nPackage: z\r\nEmpty:\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := []stanza{
		{{"Package", "a"}, {"Depends", "b,\nc\nd"}, {"Description", "one\n verbatim\n."}},
		{{"Package", "z"}, {"Empty", ""}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %q", got)
	}
	if got[0].get("depends") != "b,\nc\nd" || got[0].get("absent") != "" {
		t.Error("get does not find fields by name")
	}
}

func TestStanzasRefuse(t *testing.T) {
	for in, want := range map[string]string{
		" continued":   "line 1: continuation line without a field",
		"no colon\n":   "line 1: no field name",
		": x\n":        "no field name",
		"-a: x\n":      "no field name",
		"A: 1\na: 2\n": "line 2: field a stands twice",
		"A: " + strings.Repeat("x", maxControlLine):                        "line is longer",
		strings.Repeat("A: 1\n", 1) + many("F%d: 1\n", maxControlFields+1): "more than 512 fields",
	} {
		if _, err := parseStanzas([]byte(in)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: error %v, want %q", in, err, want)
		}
	}
}

// many repeats a line with a name that counts.
func many(line string, n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(strings.ReplaceAll(line, "%d", strings.Repeat("x", i%200)+string(rune('a'+i%26))+strings.Repeat("y", i/200)))
	}
	return b.String()
}

func TestStanzaReaderKeeps(t *testing.T) {
	r := newStanzaReader(strings.NewReader("A: 1\nB: 2\n more\nC: 3\n"))
	r.keep = func(name []byte) bool { return string(name) != "B" }
	s, err := r.next()
	if want := (stanza{{"A", "1"}, {"C", "3"}}); err != nil || !reflect.DeepEqual(s, want) {
		t.Errorf("got %q, %v", s, err)
	}
	if _, err := r.next(); err != io.EOF {
		t.Errorf("after the last: %v", err)
	}
}

func TestRelations(t *testing.T) {
	got, err := parseRelations("libc6 (>= 2.36), aa:any | bb (<<1:2~), cc(=3) ,")
	if err != nil {
		t.Fatal(err)
	}
	want := []dependency{
		{{name: "libc6", op: ">=", version: "2.36"}},
		{{name: "aa"}, {name: "bb", op: "<<", version: "1:2~"}},
		{{name: "cc", op: "=", version: "3"}},
	}
	want[1][0].arch = "any"
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v", got)
	}
	if s := got[1].String(); s != "aa:any | bb (<< 1:2~)" {
		t.Errorf("String: %s", s)
	}
	for _, bad := range []string{"aa |", "(>= 1)", "aa (>= 1", "aa (1)", "aa (~ 1)", "aa (>= 1) x", "a/b", "aa (>= ../x)", "aa [amd64]", "aa:b:c", "x"} {
		if got, err := parseRelations(bad); err == nil {
			t.Errorf("%q: %v", bad, got)
		}
	}
}

func FuzzControl(f *testing.F) {
	f.Add([]byte("Package: a\nDepends: b (>= 1) | c,\n d\n\nPackage: b\n"))
	f.Add([]byte("A:\n .\n#x\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		stanzas, err := parseStanzas(data)
		if err != nil {
			return
		}
		for _, s := range stanzas {
			if len(s) == 0 {
				t.Fatal("empty paragraph")
			}
			for _, fl := range s {
				deps, err := parseRelations(fl.value)
				if err != nil {
					continue
				}
				for _, d := range deps {
					again, err := parseRelations(d.String())
					if err != nil || len(again) != 1 || !reflect.DeepEqual(again[0], d) {
						t.Fatalf("%q is read as %v, then %v", fl.value, d, again)
					}
				}
			}
			_, _ = parseCandidate(s, "http://archive.example.org")
		}
	})
}

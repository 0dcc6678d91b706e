package debian

import (
	"errors"
	"strings"
	"testing"

	"berth.dev/internal/sandbox"
)

// universeOf makes packages of lines "name version [Field: value; ...]".
func universeOf(t *testing.T, text string) universe {
	t.Helper()
	u := universe{}
	for line := range strings.SplitSeq(strings.TrimSpace(text), "\n") {
		head, fields, _ := strings.Cut(strings.TrimSpace(line), "[")
		w := strings.Fields(head)
		s := stanza{
			{"Package", w[0]}, {"Version", w[1]}, {"Architecture", "amd64"}, {"Filename", "pool/x.deb"},
			{"Size", "1"}, {"SHA256", strings.Repeat("0", 64)},
		}
		for f := range strings.SplitSeq(strings.TrimSuffix(fields, "]"), ";") {
			if name, value, ok := strings.Cut(f, ":"); ok {
				s = append(s, field{strings.TrimSpace(name), strings.TrimSpace(value)})
			}
		}
		c, err := parseCandidate(s, "http://archive.test")
		if err != nil {
			t.Fatal(err)
		}
		u.add(c)
	}
	return u
}

func TestResolverChooses(t *testing.T) {
	for name, c := range map[string]struct{ universe, include, want string }{
		"essential, required and asked for": {
			"base 1 [Essential: yes]\nneeded 1 [Priority: required]\nasked 1\nother 1 [Priority: important]", "asked", "asked base needed",
		},
		"closure": {
			"aa 1 [Depends: bb]\nbb 1 [Pre-Depends: cc]\ncc 1 [Depends: aa]\ndd 1", "aa", "aa bb cc",
		},
		"newest version":               {"aa 1\naa 2~rc1 [Depends: bb]\naa 1.9 [Depends: cc]\nbb 1\ncc 1", "aa", "aa bb"},
		"first alternative":            {"aa 1 [Depends: bb | cc]\nbb 1\ncc 1", "aa", "aa bb"},
		"first that exists":            {"aa 1 [Depends: xx | bb (>= 2) | cc]\nbb 1\ncc 1", "aa", "aa cc"},
		"an alternative that is there": {"aa 1 [Depends: bb | cc]\nbb 1\ncc 1 [Essential: yes]", "aa", "aa cc"},
		"virtual package":              {"aa 1 [Depends: vv]\nbb 1 [Provides: vv]\ncc 1 [Provides: vv]", "aa", "aa bb"},
		"virtual package by priority":  {"aa 1 [Depends: vv]\nbb 1 [Provides: vv]\ncc 1 [Provides: vv; Priority: standard]", "aa", "aa cc"},
		"virtual package with version": {"aa 1 [Depends: vv (>= 2)]\nbb 1 [Provides: vv]\ncc 1 [Provides: vv (= 1)]\ndd 1 [Provides: vv (= 2.5)]", "aa", "aa dd"},
		"real before virtual":          {"aa 1 [Depends: vv]\nbb 1 [Provides: vv]\nvv 1", "aa", "aa vv"},
		"provided already":             {"aa 1 [Depends: vv]\nvv 1\nbb 1 [Provides: vv; Essential: yes]", "aa", "aa bb"},
		"not what is excluded":         {"aa 1 [Depends: bb | cc; Conflicts: bb]\nbb 1\ncc 1", "aa", "aa cc"},
		"any architecture":             {"aa 1 [Depends: bb:any]\nbb 1", "aa", "aa bb"},
		"not another machine's":        {"aa 1 [Depends: bb:i386 | cc:amd64]\nbb 1\ncc 1", "aa", "aa cc"},
		"a conflict with itself":       {"aa 1 [Provides: vv; Conflicts: vv]", "aa", "aa"},
		"breaks an old version only":   {"aa 1 [Depends: bb; Breaks: bb (<< 1)]\nbb 1", "aa", "aa bb"},
	} {
		got, err := resolve(universeOf(t, c.universe), strings.Fields(c.include))
		var list []string
		for _, p := range got {
			list = append(list, p.Name)
		}
		if err != nil || strings.Join(list, " ") != c.want {
			t.Errorf("%s: got %q, %v; want %q", name, list, err, c.want)
		}
	}
}

func TestResolverRefuses(t *testing.T) {
	for name, c := range map[string]struct{ universe, want string }{
		"no such package":     {"bb 1", "no package aa"},
		"no such dependency":  {"aa 1 [Depends: bb (>= 2) | cc]\nbb 1", `package aa 1 (asked for) depends on "bb (>= 2) | cc", which nothing`},
		"deep in the closure": {"aa 1 [Depends: bb]\nbb 1 [Depends: cc]", `package bb 1 (needed by aa) depends on "cc"`},
		"conflict":            {"aa 1 [Conflicts: bb]\nbb 1 [Essential: yes]", "aa (asked for) and bb (essential or required) exclude each other"},
		"broken virtual":      {"aa 1 [Breaks: vv]\nbb 1 [Essential: yes; Provides: vv]", "exclude each other"},
		"no sense":            {"aa 1 [Depends: b b b]", "makes no sense"},
	} {
		got, err := resolve(universeOf(t, c.universe), []string{"aa"})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, %v; want %q", name, got, err, c.want)
		}
		if sandbox.ClassOf(err) == sandbox.ErrInternal {
			t.Errorf("%s: error %v has no class", name, err)
		}
	}
}

func TestParseCandidateRefuses(t *testing.T) {
	good := stanza{
		{"Package", "aa"}, {"Version", "1"}, {"Architecture", "amd64"}, {"Filename", "./pool/x.deb"}, {"Size", "1"},
		{"SHA256", strings.Repeat("0", 64)}, {"Installed-Size", "10"},
	}
	c, err := parseCandidate(good, "http://archive.test/debian")
	if err != nil || c.URI != "http://archive.test/debian/pool/x.deb" || c.InstalledSize != 10240 {
		t.Errorf("got %+v, %v", c, err)
	}
	for field, values := range map[string][]string{
		"Package": {"", "../aa", "a"}, "Version": {"", "../1", "1/2"}, "Architecture": {"", "../x"}, "Size": {"", "0", "-1", "x", "99999999999999"},
		"SHA256": {"", "00", strings.Repeat("F", 64), strings.Repeat("/", 64)}, "Filename": {"", "../x.deb", "/x.deb", "a/../../x", "http://elsewhere.test/x/../y", "x?y"},
	} {
		for _, v := range values {
			bad := append(stanza(nil), good...)
			for i := range bad {
				if bad[i].name == field {
					bad[i].value = v
				}
			}
			if got, err := parseCandidate(bad, "http://archive.test"); !errors.Is(err, sandbox.ErrInvalid) {
				t.Errorf("%s: %q: %+v, %v", field, v, got, err)
			}
		}
	}
}

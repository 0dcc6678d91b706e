package policy

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestPathPattern(t *testing.T) {
	for _, tt := range []struct{ pattern, match, not string }{
		{"/", "/", "/a"},
		{"/**", "/ /a /a/ /a/b/c", ""},
		{"/repos/**", "/repos /repos/ /repos/a /repos/a/b", "/ /repo /reposx /x/repos"},
		{"/repos/*", "/repos/a /repos/", "/repos /repos/a/b /repos/a/"},
		{"/repos/*/issues", "/repos/a/issues", "/repos/issues /repos/a/b/issues"},
		{"/**/issues", "/issues /a/issues /a/b/issues", "/a/issuesx /issues/a"},
		{"/a/**/b/**/c", "/a/b/c /a/x/b/y/z/c", "/a/c /a/b/x"},
		{"/v*/x", "/v1/x /v/x /v1.2/x", "/w/x /v1/y"},
		{"/*.tar.*z", "/a.tar.gz /.tar.z", "/a.tar /a.tar.gzz2"},
		{"/a*b*c", "/abc /axbyc /abbc", "/ab /ac /acb"},
		{"/a%20b", "/a%20b", "/a+b /ab"},
		{"/%2A", "/* /%2a", "/x"},
		{"/a/", "/a/", "/a /a/b"},
		{"/@scope%2Fname", "", "/@scope/name"},
		{"/**/**/x", "/x /a/x", "/y"},
	} {
		p, err := parsePath(tt.pattern)
		if err != nil {
			t.Error(err)
			continue
		}
		matches := func(path string) bool {
			all, ok := views(path)
			return ok && !slices.ContainsFunc(all, func(v []string) bool { return !p.match(v) })
		}
		for path := range strings.FieldsSeq(tt.match) {
			if !matches(path) {
				t.Errorf("%s does not match %s", tt.pattern, path)
			}
		}
		for path := range strings.FieldsSeq(tt.not) {
			if matches(path) {
				t.Errorf("%s matches %s", tt.pattern, path)
			}
		}
	}
}

// A pattern with many stars takes no time that matters: a project file may
// hold one.
func TestPathPatternIsBounded(t *testing.T) {
	p, err := parsePath("/" + strings.Repeat("**/*a*b/", 100) + "x")
	if err != nil {
		t.Fatal(err)
	}
	all, ok := views("/" + strings.Repeat("aab/", 5000))
	if !ok {
		t.Fatal("no view")
	}
	start := time.Now()
	for _, v := range all {
		if p.match(v) {
			t.Error("matches")
		}
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("took %s", d)
	}
}

func TestViews(t *testing.T) {
	for path, want := range map[string]string{
		"/":             "/",
		"":              "/",
		"/a/b":          "/a/b",
		"/a/b/":         "/a/b/",
		"/a%20b":        "/a b",
		"/a//b":         "/a/b | /a//b",
		"//a":           "/a | //a",
		"/a/./b":        "/a/b | /a/./b",
		"/a/../b":       "/b | /a/../b",
		"/a/..":         "/ | /a/..",
		"/..":           "/ | /..",
		"/a/%2e%2E/b":   "/b | /a/../b",
		"/a%2fb":        "/a/b | /a∕b",
		"/a%2F..%2Fb":   "/b | /a∕..∕b",
		"/a%5cb":        `/a/b | /a\b`,
		`/a\..\b`:       `/b | /a\..\b`,
		"/a/..%5cb":     `/b | /a/..\b`,
		"/%252e%252e/a": "/%2e%2e/a | /a",
		"/a;x=1/b":      "/a;x=1/b | /a/b",
		"/a/..;/b":      "/b | /a/..;/b",
		"/100%25":       "/100%",
	} {
		all, ok := views(path)
		if !ok {
			t.Errorf("%s has no view", path)
			continue
		}
		var got []string
		for _, v := range all {
			for i := range v {
				v[i] = strings.ReplaceAll(v[i], "/", "∕")
			}
			got = append(got, "/"+strings.Join(v, "/"))
		}
		for w := range strings.SplitSeq(want, " | ") {
			if !slices.Contains(got, w) {
				t.Errorf("%s reads as %q, not as %q", path, got, w)
			}
		}
		if first, _, _ := strings.Cut(want, " | "); got[0] != first {
			t.Errorf("%s reads first as %q, want %q", path, got[0], first)
		}
	}
	for _, path := range []string{
		"a", "*", "example.com:443", "http://x/", "/a?b", "/a#b", "/a%", "/a%2", "/a%zz", "/a%00", "/a\x00b", "/a\nb", "/a%0d%0a",
		"/a%2500", "/%252525252525252e", "/" + strings.Repeat("a", maxRequestPath),
	} {
		if all, ok := views(path); ok {
			t.Errorf("%.40q reads as %.200q", path, all)
		}
	}
}

// FuzzViews holds what keeps a path from meaning two things: some view is the
// path as a plain server reads it, no resolved view climbs, and a path whose
// views all are below a prefix is below it for the naive reader too.
func FuzzViews(f *testing.F) {
	for _, s := range []string{"/a/../b", "/a%2f..%2fb", "/%252e%252e/x", `/a\..\b`, "/a;b/..;c/d", "//x", "/a/%2e/b/"} {
		f.Add(s)
	}
	below, err := parsePath("/repos/**")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		all, ok := views(raw)
		if !ok {
			return
		}
		if len(all) == 0 || len(all) > 2*maxDecode+4 {
			t.Fatalf("%q has %d views", raw, len(all))
		}
		for _, seg := range all[0] {
			if seg == ".." || seg == "." {
				t.Fatalf("%q reads first as %q", raw, all[0])
			}
		}
		if slices.ContainsFunc(all, func(v []string) bool { return !below.match(v) }) {
			return
		}
		if naive := naiveClean(raw); naive != "/repos" && !strings.HasPrefix(naive, "/repos/") {
			t.Fatalf("%q is below /repos, and a server reads %q", raw, naive)
		}
	})
}

// naiveClean is what a server does that decodes and then resolves.
func naiveClean(raw string) string {
	text, _ := unescape(raw, false)
	var out []string
	for s := range strings.SplitSeq(text, "/") {
		switch s {
		case "", ".":
		case "..":
			out = out[:max(0, len(out)-1)]
		default:
			out = append(out, s)
		}
	}
	return "/" + strings.Join(out, "/")
}

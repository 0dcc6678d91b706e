package credential

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"testing"

	"berth.dev/internal/egress/intercept"
	"berth.dev/internal/secret"
	"berth.dev/internal/service"
)

var (
	_ intercept.RequestStage  = (*Broker)(nil)
	_ intercept.ResponseStage = (*Broker)(nil)
)

func TestTag(t *testing.T) {
	for i := 1; i < len(tag); i++ {
		if strings.HasPrefix(tag, tag[i:]) {
			t.Errorf("the tag begins as it ends: %q", tag[i:])
		}
	}
	for _, a := range []service.Alphabet{service.Alnum, service.Lower, service.Hex, service.Base32} {
		if strings.Trim(tag, a.Characters()) != "" {
			t.Errorf("%s does not have all of %s", a, tag)
		}
	}
	// Then its codings are the same in every alphabet, and in either case.
	for _, n := range needles(tag, 0, true) {
		if strings.ContainsAny(n.text, "+/abcdef") && n.coding != base64ed || strings.ContainsAny(n.text, "+/") {
			t.Errorf("%q", n.text)
		}
		if len(n.text) > probeSize[n.coding] {
			t.Errorf("%q is longer than a probe", n.text)
		}
	}
}

// TestPlaceholders: of every built-in service: the right form, the same each
// time, another in another sandbox, and enough of it by chance.
func TestPlaceholders(t *testing.T) {
	seen := map[string]string{}
	for _, d := range service.Builtin() {
		for _, key := range []string{"one key of a sandbox", "another key of another"} {
			p := newPlaceholder([]byte(key), d.Name, "", d.Shape)
			if again := newPlaceholder([]byte(key), d.Name, "", d.Shape); again != p {
				t.Errorf("%s: %q, then %q", d.Name, p.text, again.text)
			}
			if other := seen[p.core]; other != "" {
				t.Errorf("%s: the same as %s", d.Name, other)
			}
			seen[p.core] = d.Name
			n, chars := d.Shape.Free()
			form := regexp.MustCompile(fmt.Sprintf("^%s[%s]{%d}%s$", d.Shape.Prefix, chars, n, d.Shape.Suffix))
			if !form.MatchString(p.text) || !isCore(p.core) || !strings.Contains(p.text, p.core) {
				t.Errorf("%s: %q", d.Name, p.text)
			}
			if bits := float64(n-len(tag)-checkSize) * math.Log2(float64(len(chars))); bits < 96 {
				t.Errorf("%s: %.0f bits", d.Name, bits)
			}
		}
	}
}

func TestEnvironment(t *testing.T) {
	github, _ := service.ByName("github")
	gemini, _ := service.ByName("gemini")
	own := testService()
	own.Env = []service.Var{{Name: "TOKEN"}, {Name: "USER_TOKEN", Value: "me:{}"}, {Name: "GH_TOKEN"}}
	own.Files = []service.File{{Path: ".netrc", Content: "password {}"}, {Path: ".docker/config.json", Content: `{"auth": "{basic:me}"}`}}
	other := testService()
	other.Name, other.Files = "other", []service.File{{Path: ".netrc", Content: "no"}, {Path: ".docker/config.json", Content: `{"also": "{}"}`}}
	b, err := New(Config{Sandbox: "s", Key: testKey})
	if err != nil {
		t.Fatal(err)
	}
	src := secret.Fixed(secret.NewValue("the real one"))
	if err := b.Bind(Binding{Secret: "mine", Service: own, Source: src}, Binding{Secret: "GH_TOKEN", Service: github, Source: src}, Binding{Secret: "GOOGLE_API_KEY", Service: gemini, Source: src}, Binding{Secret: "work", Service: gemini, Source: src}, Binding{Secret: "KEY", Service: other, Source: src}); err != nil {
		t.Fatal(err)
	}
	mine := b.Placeholder("mine")
	want := map[string]string{
		"TOKEN": mine, "USER_TOKEN": "me:" + mine, "GH_TOKEN": b.Placeholder("GH_TOKEN"),
		"GOOGLE_API_KEY": b.Placeholder("GOOGLE_API_KEY"), "GEMINI_API_KEY": b.Placeholder("work"), "KEY": b.Placeholder("KEY"),
	}
	if got := b.Environment(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	files := b.Files()
	if len(files) != 3 || !strings.Contains(string(files[2].Content), b.Placeholder("KEY")) || string(files[0].Content) != "password "+mine || !strings.Contains(string(files[1].Content), b64("me:"+mine)) {
		t.Errorf("%+v", files)
	}
	if !strings.HasPrefix(mine, "sk-ant-api03-") || b.Placeholder("none") != "" {
		t.Error(mine)
	}
	hosts := b.Hosts()
	if !slices.ContainsFunc(hosts, func(p service.Place) bool { return p.String() == "api.github.com" }) || len(hosts) != len(slices.Compact(slices.Clone(hosts))) {
		t.Errorf("%v", hosts)
	}
	for place, want := range map[string]bool{
		"api.github.com": true, "x.github.com": false, "api.individual.githubcopilot.com": true, boundHost: true, "github.com": true, "npm.pkg.github.com": true,
	} {
		if got := b.Inspect(place, 443); got != want {
			t.Errorf("%s: %v", place, got)
		}
		if b.Inspect(place, 80) {
			t.Errorf("%s: port 80", place)
		}
	}
}

func TestNewAndBindRefuse(t *testing.T) {
	if _, err := New(Config{Sandbox: "s", Key: []byte("short")}); err == nil {
		t.Error("a short key")
	}
	if _, err := New(Config{Key: testKey}); err == nil {
		t.Error("no sandbox")
	}
	b, _ := New(Config{Sandbox: "s", Key: testKey})
	for name, bad := range map[string]Binding{
		"no name": {Service: testService(), Source: failing{}}, "no source": {Secret: "x", Service: testService()}, "no service": {Secret: "x", Source: failing{}},
	} {
		if err := b.Bind(bad); err == nil {
			t.Error(name)
		}
	}
	c, _ := New(Config{Sandbox: "t", Key: testKey})
	one := testBinding("KEY", realKey)
	if b.Bind(one) != nil || c.Bind(one) != nil || b.Placeholder("KEY") == c.Placeholder("KEY") {
		t.Error("two sandboxes have the same")
	}
}

// TestShortSecret: one that is in everything by chance is put in but not taken
// out.
func TestShortSecret(t *testing.T) {
	b, _ := New(Config{Sandbox: "s", Key: testKey})
	b.remember("x", []revealed{{"admin", "placeholder"}})
	if b.known.Load() != nil {
		t.Error("it is looked for")
	}
}

// TestPartsAreRemembered: a token that was used a moment ago is still taken out
// of answers when it, and all that belongs to it, was renewed twice.
func TestPartsAreRemembered(t *testing.T) {
	b, err := New(Config{Sandbox: "test", Key: testKey})
	if err != nil {
		t.Fatal(err)
	}
	one := testBinding("KEY", realKey)
	one.Parts = []Part{{Name: "refresh"}, {Name: "id"}}
	if err := b.Bind(one); err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		for _, part := range []string{"", "refresh", "id"} {
			b.Remember("KEY", part, secret.NewValue(fmt.Sprintf("the-%s-token-number-%d", part, i)))
		}
	}
	k := b.known.Load()
	for i := range 10 {
		for _, part := range []string{"", "refresh", "id"} {
			text := fmt.Sprintf("the-%s-token-number-%d", part, i)
			kept := slices.ContainsFunc(k.list, func(r revealed) bool { return r.secret == text })
			if kept != (i >= 10-keptValues) {
				t.Errorf("%s: remembered: %v", text, kept)
			}
		}
	}
}

package service

import (
	"encoding/base64"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"berth.dev/internal/agent"
	"berth.dev/internal/sandbox"
)

func TestBuiltin(t *testing.T) {
	names, vars := map[string]bool{}, map[string]string{}
	for _, d := range Builtin() {
		if err := d.Check(); err != nil {
			t.Error(err)
		}
		if names[d.Name] {
			t.Errorf("%s is there twice", d.Name)
		}
		names[d.Name] = true
		if d.Title == "" || len(d.Vars) == 0 {
			t.Errorf("%s has no title or no variable", d.Name)
		}
		for _, v := range d.Vars {
			if other := vars[v]; other != "" {
				t.Errorf("%s is a variable of %s and %s", v, other, d.Name)
			}
			vars[v] = d.Name
		}
		if got, ok := ByName(d.Name); !ok || got.Name != d.Name {
			t.Errorf("%s is not found", d.Name)
		}
		if got, ok := ByVar(d.Vars[0]); !ok || got.Name != d.Name {
			t.Errorf("%s is not found", d.Vars[0])
		}
		for _, p := range d.Hosts {
			if p.Port != DefaultPort {
				t.Errorf("%s: port %d", d.Name, p.Port)
			}
		}
	}
	if _, ok := ByName("none"); ok {
		t.Error("none")
	}
	if _, ok := ByVar("PATH"); ok {
		t.Error("PATH")
	}
}

// TestNoCloudAtLarge: a secret that is sent must not go to a domain below which
// everybody can have a host; one that is signed with may.
func TestNoCloudAtLarge(t *testing.T) {
	for _, d := range Builtin() {
		for _, p := range d.Hosts {
			for _, cloud := range []string{"amazonaws.com", "googleapis.com", "azure.com", "cloudfront.net", "github.io", "hf.space", "vercel.app", "workers.dev"} {
				if !p.Host.Exact() && strings.HasSuffix(p.Host.String(), "."+cloud) && !d.Signs() && p.Host.String() != "*.aiplatform.googleapis.com" {
					t.Errorf("%s: %s", d.Name, p)
				}
			}
		}
	}
}

// TestAgents: what the agents read from the environment is known, and is bound to
// all the hosts that the table of agents has for it.
func TestAgents(t *testing.T) {
	for _, a := range agent.All() {
		for _, c := range a.Credentials {
			d, ok := ByVar(c.Env)
			if !ok || !d.Auto {
				t.Errorf("%s: %s is not known", a.Name, c.Env)
				continue
			}
			for _, h := range c.Hosts {
				name := strings.Replace(h, "*", "some", 1)
				if !slices.ContainsFunc(d.Hosts, func(p Place) bool { return p.Match(name, 443) }) {
					t.Errorf("%s: %s is not for %s", a.Name, c.Env, h)
				}
			}
		}
	}
	// And those that the issue names.
	for _, v := range strings.Fields(`ANTHROPIC_API_KEY OPENAI_API_KEY GEMINI_API_KEY GOOGLE_API_KEY GH_TOKEN GITHUB_TOKEN XAI_API_KEY
		MISTRAL_API_KEY GROQ_API_KEY OPENROUTER_API_KEY NPM_TOKEN AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN GITLAB_TOKEN`) {
		if d, ok := ByVar(v); !ok || !d.Auto {
			t.Errorf("%s is not taken from the shell", v)
		}
	}
}

func TestParsePlace(t *testing.T) {
	for in, want := range map[string]string{
		"api.example.com": "api.example.com", "API.Example.com.": "api.example.com", "*.example.com:8443": "*.example.com:8443", "x.example.com:443": "x.example.com",
		"**.amazonaws.com": "**.amazonaws.com", "localhost:1": "localhost:1",
	} {
		p, err := ParsePlace(in)
		if err != nil || p.String() != want {
			t.Errorf("%q: %v %v", in, p, err)
		}
	}
	for _, in := range []string{
		"", "**", "*", "*.com", "**.co.uk", "*.github.io", "**.s3.amazonaws.com", "https://example.com", "example.com/x", "example.com:", "example.com:0",
		"example.com:65536", "example.com:08", "example.com:+1", "example.com:x", "10.0.0.1", "a b", "*.internal", "ex:1:2",
	} {
		if p, err := ParsePlace(in); err == nil {
			t.Errorf("%q: %v", in, p)
		}
	}
	p, _ := ParsePlace("*.example.com")
	if !p.Match("a.example.com", 443) || p.Match("a.example.com", 80) || p.Match("example.com", 443) || p.Match("a.b.example.com", 443) {
		t.Error("match")
	}
}

const text = `
name = "tracker"
title = "Our tracker"
hosts = ["tracker.example.com", "*.tracker.example.com:8443"]
vars = ["TRACKER_TOKEN"]
quotes = true

[[scheme]]
kind = "header"
name = "x-key"
format = "Key {}"

[[scheme]]
kind = "basic"

[[env]]
name = "TRACKER_AUTH"
value = "me:{}"

[[file]]
path = ".tracker/config"
content = "a\n{basic:me}\n"

[placeholder]
prefix = "trk_"
length = 50
alphabet = "hex"
`

func TestParse(t *testing.T) {
	d, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	first, _ := ParsePlace("tracker.example.com")
	second, _ := ParsePlace("*.tracker.example.com:8443")
	want := Definition{
		Name: "tracker", Title: "Our tracker", Hosts: []Place{first, second}, Vars: []string{"TRACKER_TOKEN"}, Quotes: true,
		Schemes: []Scheme{{Header, "X-Key", "Key {}"}, {Basic, "", "*:{}"}}, Env: []Var{{"TRACKER_AUTH", "me:{}"}},
		Files: []File{{".tracker/config", "a\n{basic:me}\n"}}, Shape: Shape{Prefix: "trk_", Length: 50, Alphabet: Hex},
	}
	if !reflect.DeepEqual(d, want) {
		t.Errorf("%+v", d)
	}
	list, err := ParseAll([]byte("[[service]]\nname=\"a\"\nhosts=[\"a.example.com\"]\n[[service.scheme]]\nkind=\"bearer\"\n" +
		"[[service]]\nname=\"b\"\nhosts=[\"b.example.com\"]\n[[service.scheme]]\nkind=\"query\"\nname=\"k\"\n"))
	if err != nil || len(list) != 2 || list[1].Schemes[0] != (Scheme{Query, "k", ""}) {
		t.Errorf("%+v %v", list, err)
	}
}

func TestParseRefuses(t *testing.T) {
	change := func(old, with string) string {
		if !strings.Contains(text, old) {
			t.Fatal(old)
		}
		return strings.Replace(text, old, with, 1)
	}
	for in, want := range map[string]string{
		"":                                                 "needs a name",
		change("title", "titel"):                           "line 3: [titel] is no setting",
		change("format", "fromat"):                         "is no setting",
		change(`"tracker"`, `"A b"`):                       "needs a name",
		change(`"x-key"`, `"x key"`):                       "is no name of a header",
		change(`"x-key"`, `"Host"`):                        "cannot hold a credential",
		change(`Key {}`, `Key`):                            "exactly once",
		change(`Key {}`, `{} {}`):                          "exactly once",
		change(`Key {}`, "{}\\r\\na: b"):                   "not one line",
		change(`"header"`, `"cookie"`):                     "no kind of scheme",
		change(`"basic"`, "\"basic\"\nformat = \"{}:{}\""): "the format of basic",
		change(`"basic"`, "\"sigv4\""):                     "no other scheme",
		change("TRACKER_TOKEN", "A-B"):                     "no name of a variable",
		change(".tracker/config", "../x"):                  "no path of a file",
		change(".tracker/config", "/etc/passwd"):           "no path of a file",
		change("length = 50", "length = 20"):               "needs 36 characters",
		change("length = 50", "length = 5000"):             "at most 1024",
		change("length = 50", "length = -1"):               "at most 1024",
		change(`"trk_"`, `"a b"`):                          "cannot be around",
		change(`"hex"`, `"ascii"`):                         "no alphabet",
		change(`"*.tracker.example.com:8443"`, `"**"`):     "hosts of anyone",
		text + "x = [":                                     "line",
		"#" + strings.Repeat("x", maxSize):                 "more than",
	} {
		_, err := Parse([]byte(in))
		if !errors.Is(err, sandbox.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %v", want, err)
		}
	}
	if _, err := ParseAll([]byte("[[service]]\nname=\"a\"\nhosts=[\"a.example.com\"]\n[[service.scheme]]\nkind=\"bearer\"\n" +
		"[[service]]\nname=\"a\"\nhosts=[\"b.example.com\"]\n[[service.scheme]]\nkind=\"bearer\"\n")); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Error(err)
	}
}

// TestFormat: what is written is read back as it was, of every built-in service.
func TestFormat(t *testing.T) {
	for _, d := range Builtin() {
		data, err := Format(d)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse(data)
		if err != nil || !reflect.DeepEqual(again, d) {
			t.Errorf("%s: %v\n%s\n%+v\n%+v", d.Name, err, data, again, d)
		}
	}
	if _, err := Format(Definition{Name: "x"}); !errors.Is(err, sandbox.ErrInvalid) {
		t.Error(err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(text))
	for _, name := range []string{"github", "aws", "pypi", "gemini"} {
		d, _ := ByName(name)
		data, err := Format(d)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := Parse(data)
		if err != nil {
			return
		}
		out, err := Format(d)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse(out)
		if err != nil || !reflect.DeepEqual(normal(again), normal(d)) {
			t.Fatalf("%+v became %+v: %v", d, again, err)
		}
	})
}

// normal makes no difference between an empty list and none.
func normal(d Definition) Definition {
	if len(d.Vars) == 0 {
		d.Vars = nil
	}
	return d
}

func TestExpand(t *testing.T) {
	enc := base64.StdEncoding.EncodeToString
	for in, want := range map[string]string{
		"": "PH", "{}": "PH", "a {} b {}": "a PH b PH", "{id}:{}": "ID:PH", "{base64}": enc([]byte("PH")),
		`{"auth": "{basic:me}"}`: `{"auth": "` + enc([]byte("me:PH")) + `"}`, "{basic:}": enc([]byte(":PH")), "{other} {a:b}": "{other} {a:b}", "{{}}": "{PH}",
	} {
		if got := Expand(in, "PH", "ID"); got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
}

func TestDockerLogin(t *testing.T) {
	a, _ := ParsePlace("a.example.com:5000")
	b, _ := ParsePlace("*.example.com")
	f := DockerLogin("me", a, b)
	if got, want := Expand(f.Content, "PH", ""), `{"auths":{"a.example.com:5000":{"auth":"`+base64.StdEncoding.EncodeToString([]byte("me:PH"))+`"}}}`; got != want || !Joins(f.Path) {
		t.Errorf("%s\n%s", got, want)
	}
}

func TestGuest(t *testing.T) {
	github, _ := ByName("github")
	aws, _ := ByName("aws")
	for _, e := range []struct {
		d      Definition
		secret string
		want   []Var
	}{
		{github, "GITHUB_TOKEN", []Var{{Name: "GITHUB_TOKEN"}}}, {github, "work", []Var{{Name: "GH_TOKEN"}}},
		{aws, "AWS_SECRET_ACCESS_KEY", []Var{{"AWS_ACCESS_KEY_ID", "{id}"}, {"AWS_SECRET_ACCESS_KEY", "{}"}}}, {Definition{}, "X", nil},
	} {
		if got := e.d.Guest(e.secret); !reflect.DeepEqual(got, e.want) {
			t.Errorf("%s, %s: %v", e.d.Name, e.secret, got)
		}
	}
}

func TestAt(t *testing.T) {
	d, _ := ByName("openai")
	for in, want := range map[string]string{
		"https://gateway.example.com/v1": "gateway.example.com", "https://gateway.example.com:8443": "gateway.example.com:8443", "https://Example.com/?x": "example.com",
	} {
		got, err := d.At(in)
		if err != nil || len(got.Hosts) != 1 || got.Hosts[0].String() != want || got.Name != "openai" || len(d.Hosts) != 2 {
			t.Errorf("%q: %v %v", in, got.Hosts, err)
		}
	}
	for _, in := range []string{"", "http://example.com", "https://", "https://10.0.0.1", "https://a@example.com", "https://*.example.com", "example.com", "https://[::1]/"} {
		if got, err := d.At(in); !errors.Is(err, sandbox.ErrInvalid) {
			t.Errorf("%q: %v %v", in, got.Hosts, err)
		}
	}
}

func TestParseHeader(t *testing.T) {
	if s, err := ParseHeader("x-key: Token {}"); err != nil || s != (Scheme{Header, "X-Key", "Token {}"}) {
		t.Error(s, err)
	}
	for _, in := range []string{"X-Key", "X-Key: x", ": {}", "a b: {}", "Content-Length: {}"} {
		if s, err := ParseHeader(in); err == nil {
			t.Errorf("%q: %v", in, s)
		}
	}
}

func TestField(t *testing.T) {
	for _, e := range []struct {
		s       Scheme
		want    [3]string
		encoded bool
		ok      bool
	}{
		{Scheme{Kind: Bearer}, [3]string{"Authorization", "Bearer ", ""}, false, true}, {header("X-A", "a {} b"), [3]string{"X-A", "a ", " b"}, false, true},
		{header("X-A", "a {base64}"), [3]string{"X-A", "a ", ""}, true, true}, {Scheme{Kind: SigV4}, [3]string{}, false, false},
	} {
		name, before, after, encoded, ok := e.s.Field()
		if [3]string{name, before, after} != e.want || encoded != e.encoded || ok != e.ok {
			t.Errorf("%v: %q %q %q %v %v", e.s, name, before, after, encoded, ok)
		}
	}
}

func TestLooksLikeKey(t *testing.T) {
	for in, want := range map[string]bool{
		"sk-ant-api03-abcdefghijklmno": true, "ghp_0123456789abcdefghij": true, "AKIAIOSFODNN7EXAMPLE": true, "glpat-aaaaaaaaaaaaaaaaaaaa": true,
		"-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl": true, "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln": true, "ya29.a0Af_aaaaaaaaaaaaaaa": true,
		"-----BEGIN CERTIFICATE-----\nMIIB": false, "eyJhbGciOiJIUzI1NiJ9": false,
		"": false, "sk-": false, "/usr/local/share/some/path": false, "production": false, "en_US.UTF-8": false,
	} {
		if got := LooksLikeKey(in); got != want {
			t.Errorf("%q: %v", in, got)
		}
	}
}

package debian

import (
	"reflect"
	"strings"
	"testing"
)

func TestParseSourceLines(t *testing.T) {
	got, err := parseSourceLines("x.list", []byte(`# a comment
deb http://archive.test/debian/ bookworm main contrib # trailing
deb-src http://archive.test/debian bookworm main
deb [ arch=amd64,arm64 signed-by=/a.gpg,/b.gpg trusted=yes ] https://other.test/x stable main
deb [check-valid-until=no] http://snapshot.test/debian bookworm main
`))
	if err != nil {
		t.Fatal(err)
	}
	want := []aptSource{
		{uri: "http://archive.test/debian", suite: "bookworm", components: []string{"main", "contrib"}, file: "x.list"},
		{uri: "https://other.test/x", suite: "stable", components: []string{"main"}, file: "x.list", archs: []string{"amd64", "arm64"}, signedBy: "/a.gpg /b.gpg"},
		{uri: "http://snapshot.test/debian", suite: "bookworm", components: []string{"main"}, file: "x.list", ignoreValidUntil: true},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	for _, bad := range []string{"rpm http://a b c", "deb", "deb [a=b http://x y z", "deb http://x"} {
		if _, err := parseSourceLines("x.list", []byte("\n"+bad+"\n")); err == nil || !strings.Contains(err.Error(), "x.list: line 2") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestParseSourceStanzas(t *testing.T) {
	got, err := parseSourceStanzas("x.sources", []byte(`Types: deb deb-src
# http://snapshot.test/comment
URIs: http://one.test/debian/ http://two.test/debian
Suites: trixie trixie-updates
Components: main
Signed-By: /usr/share/keyrings/k.pgp

Enabled: no
Types: deb
URIs: http://off.test/debian
Suites: trixie
Components: main

Types: deb-src
URIs: http://src.test/debian
Suites: trixie
Components: main
`))
	if err != nil {
		t.Fatal(err)
	}
	var uris []string
	for _, s := range got {
		uris = append(uris, s.uri+" "+s.suite)
		if s.signedBy != "/usr/share/keyrings/k.pgp" {
			t.Errorf("signed by %q", s.signedBy)
		}
	}
	want := []string{"http://one.test/debian trixie", "http://one.test/debian trixie-updates", "http://two.test/debian trixie", "http://two.test/debian trixie-updates"}
	if !reflect.DeepEqual(uris, want) {
		t.Errorf("got %q", uris)
	}
}

func TestParseAptConf(t *testing.T) {
	c := aptConf{}
	var included []string
	err := parseAptConf([]byte(`// comment
/* another "
*/
Acquire::http::Proxy "http://proxy.test:3128"; # and another
Acquire {
	https { Proxy "DIRECT"; CaInfo "/etc/ca.pem"; };
	http::Proxy::mirror.test "DIRECT";
	Check-Valid-Until "false"
}
APT::Never { "^list"; "of$"; };
Old::Thing "1"; Old::Thing::Sub "2";
#clear Old::Thing;
#include "/etc/more.conf";
DPkg::Post-Invoke { "rm -f x; true"; };
`), c, func(f string) { included = append(included, f) })
	if err != nil {
		t.Fatal(err)
	}
	want := aptConf{
		"acquire::http::proxy": "http://proxy.test:3128", "acquire::https::proxy": "DIRECT", "acquire::https::cainfo": "/etc/ca.pem",
		"acquire::http::proxy::mirror.test": "DIRECT", "acquire::check-valid-until": "false",
	}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got %v", c)
	}
	if !reflect.DeepEqual(included, []string{"/etc/more.conf"}) {
		t.Errorf("included %q", included)
	}
	if err := parseAptConf([]byte(strings.Repeat("a{", 1000)), c, nil); err == nil {
		t.Error("deep nesting is not refused")
	}
	if err := parseAptConf([]byte(`a "b`), c, nil); err == nil {
		t.Error("an open quote is not refused")
	}
}

func FuzzSources(f *testing.F) {
	f.Add([]byte("deb [arch=amd64 signed-by=/x] http://a.test/debian trixie main\n"))
	f.Add([]byte("Types: deb\nURIs: http://a.test/debian\nSuites: trixie\nSigned-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n x\n"))
	f.Add([]byte("Acquire { http::Proxy \"http://p.test\"; };\n#clear x;"))
	f.Fuzz(func(t *testing.T, data []byte) {
		d := distro{name: "debian", codename: "trixie", suites: debianNames}
		lines, _ := parseSourceLines("f", data)
		stanzas, _ := parseSourceStanzas("f", data)
		for _, list := range [][]aptSource{lines, stanzas} {
			if s, ok := pick(d, list, pocketMain); ok && !strings.HasPrefix(s.uri, "http") {
				t.Fatalf("picked %q", s.uri)
			}
		}
		_ = parseAptConf(data, aptConf{}, func(string) {})
	})
}

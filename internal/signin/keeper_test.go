package signin

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"berth.dev/internal/secret"
	"berth.dev/test/standin"
)

func base64url(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// TestTokensStayOnTheHost: each agent's sign-in, its calls and its refresh, with
// no token in the guest; without a keeper they are all there.
func TestTokensStayOnTheHost(t *testing.T) {
	for agent, a := range apps {
		t.Run(agent, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			bare := w.box("bare", agent, true)
			if got := bare.sign(a, false).text("access_token"); !slices.ContainsFunc(w.signIn.Issued(), func(s standin.Secret) bool { return s.Value == got }) {
				t.Fatalf("without a keeper the guest has %q", got)
			}
			b := w.box("one", agent, false)
			got := b.sign(a, true)
			name := secret.LoginPrefix + a.provider
			if got.text("access_token") != b.broker.Placeholder(name) {
				t.Errorf("the guest has %q", got.text("access_token"))
			}
			if said := b.used(); !strings.Contains(said, "allow "+name+" ") || !strings.Contains(said, ": signed in") || !strings.Contains(said, "for all sandboxes") {
				t.Errorf("recorded: %s", said)
			}
			if r := b.call(a.call, got.text("access_token")); r.status != http.StatusOK {
				t.Errorf("a call: %d %s", r.status, r.body)
			}
			if refresh := got.text("refresh_token"); refresh != "" {
				before := w.signIn.Refreshes()
				if again := b.refresh(a, refresh); again.status != http.StatusOK || again.text("refresh_token") != refresh || w.signIn.Refreshes() != before {
					t.Errorf("a refresh: %d %s, %d at the provider", again.status, again.body, w.signIn.Refreshes()-before)
				}
				if said := b.used(); !strings.Contains(said, "renewed on the host") {
					t.Errorf("recorded: %s", said)
				}
			}
			// Another sandbox is signed in too, by placeholders of its own.
			other := w.box("two", agent, false)
			ph := other.broker.Placeholder(name)
			if ph == "" || ph == got.text("access_token") {
				t.Errorf("the other sandbox has %q, the first %q", ph, got.text("access_token"))
			}
			if r := other.call(a.call, ph); r.status != http.StatusOK {
				t.Errorf("the other's call: %d %s", r.status, r.body)
			}
			for _, u := range w.signIn.Uses() {
				if u.State == standin.Unknown {
					t.Errorf("%s got a placeholder", u.Line)
				}
			}
			b.clean()
			other.clean()
		})
	}
}

// TestConsoleKey: to sign in to Anthropic's Console is to have a key made.
func TestConsoleKey(t *testing.T) {
	w := newWorld(t)
	b := w.box("one", "claude", false)
	token := b.sign(apps["claude"], true).text("access_token")
	r, _ := http.NewRequest(http.MethodPost, "https://api.anthropic.com/api/oauth/claude_cli/create_api_key", http.NoBody)
	r.Header.Set("Authorization", "Bearer "+token)
	got := b.do(r)
	if got.status != http.StatusOK || got.text("raw_key") == "" || got.text("raw_key") != b.broker.Placeholder("login/anthropic-key") {
		t.Fatalf("%d %s", got.status, got.body)
	}
	if w.login("login/anthropic-key.one") == nil || w.login("login/anthropic-key") != nil {
		t.Error("the key is not this sandbox's alone")
	}
	b.clean()
}

// TestForm: who asks for a form gets one, without the tokens.
func TestForm(t *testing.T) {
	w := newWorld(t)
	w.instead(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", formType+"; charset=utf-8")
		_, _ = rw.Write([]byte("access_token=gho_theRealToken&scope=repo&token_type=bearer"))
	})
	b := w.box("one", "copilot", false)
	got := b.post(apps["copilot"].token, formType, apps["copilot"].redemption("x"))
	v, err := url.ParseQuery(got.body)
	if err != nil || got.status != http.StatusOK || v.Get("access_token") != b.broker.Placeholder("login/copilot") || v.Get("scope") != "repo" {
		t.Errorf("%d %s", got.status, got.body)
	}
}

// TestOddAnswers: what else an answer to a sign-in can be. The guest gets none of
// it that could have a token.
func TestOddAnswers(t *testing.T) {
	const real = "theRealAccessTokenOfSomebody"
	ok := `{"access_token":"` + real + `","token_type":"Bearer","scope":"user:inference"}`
	long := strings.Repeat("x", maxAnswer)
	escaped := `\u0074heRealAccessTokenOfSomebody`
	cases := []struct {
		name, kind, body string
		header           map[string]string
		status           int // of what the guest gets
	}{
		{name: "plain", body: ok, status: 200},
		{name: "charset", kind: `Application/JSON; charset="utf-8"`, body: ok, status: 200},
		{name: "no type", kind: "-", body: ok, status: 200},
		{name: "created", body: ok, header: map[string]string{"status": "201"}, status: 201},
		{name: "in a header", body: ok, header: map[string]string{"X-Token": "t=" + real + ";"}, status: 200},
		{name: "in a trailer", body: ok, header: map[string]string{http.TrailerPrefix + "X-Token": real}, status: 200},
		{name: "in scope", body: `{"access_token":"` + real + `","scope":"` + real + `"}`, status: 200},
		{name: "in scope, escaped", body: `{"access_token":"` + real + `","scope":"` + escaped + `"}`, status: 200},
		{name: "in account, escaped", body: `{"access_token":"` + real + `","account":{"uuid":"u","x":["` + escaped + `"]}}`, status: 200},
		{name: "in account, of another", body: `{"access_token":"another","account":{"uuid":"u","Refresh_Token":"` + real + `"}}`, status: 200},
		{name: "elsewhere", body: `{"access_token":"` + real + `","more":{"access_token":"` + real + `2"}}`, status: 200},
		{name: "escaped", body: `{"access_token":"` + escaped + `"}`, status: 200},
		{name: "twice", body: `{"access_token":"` + real + `","access_token":"another","scope":"` + real + `"}`, status: 502},
		{name: "encoded", body: ok, header: map[string]string{"Content-Encoding": "br"}, status: 502},
		{name: "too long", body: `{"access_token":"` + real + `","x":"` + long + `"}`, status: 502},
		{name: "token too long", body: `{"access_token":"` + real + strings.Repeat("a", maxToken) + `"}`, status: 502},
		{name: "token of two words", body: `{"access_token":"` + real + ` b"}`, status: 502},
		{name: "broken", body: ok[:len(ok)-1], status: 502},
		{name: "more behind", body: ok + ok, status: 502},
		{name: "list", body: "[" + ok + "]", status: 502},
		{name: "null", body: "null", status: 502},
		{name: "nested", body: `{"data":` + ok + `}`, status: 502},
		{name: "case", body: `{"Access_Token":"` + real + `"}`, status: 502},
		{name: "nested beside an error", body: `{"error":"none","data":` + ok + `}`, status: 200},
		{name: "case beside an error", body: `{"error":"none","Access_Token":"` + real + `"}`, status: 200},
		{name: "refresh beside an error", body: `{"error":"none","refresh_token":"` + real + `"}`, status: 200},
		{name: "trailer beside an error", body: `{"error":"none"}`, header: map[string]string{http.TrailerPrefix + "X-Token": real}, status: 200},
		{name: "object", body: `{"access_token":{"v":"` + real + `"}}`, status: 502},
		{name: "number", body: `{"access_token":12345678901234567890}`, status: 502},
		{name: "XML", kind: "application/xml", body: "<OAuth><access_token>" + real + "</access_token></OAuth>", status: 502},
		{name: "form said to be JSON", body: "access_token=" + real, status: 502},
		{name: "JSON said to be a form", kind: formType, body: ok, status: 502},
		{name: "form twice", kind: formType, body: "access_token=x&access_token=" + real, status: 502},
		{name: "UTF-16", kind: "application/json; charset=utf-16", body: "\xff\xfe{\x00", status: 502},
		{name: "empty", body: "", status: 502},
		{name: "many", body: "{" + members(maxFields) + `"access_token":"` + real + `"}`, status: 502},
	}
	w := newWorld(t)
	bare := w.box("bare", "claude", true)
	for _, c := range cases {
		w.instead(func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Type", jsonType)
			if c.kind != "" {
				rw.Header().Set("Content-Type", c.kind)
			}
			if c.kind == "-" {
				rw.Header()["Content-Type"] = nil
			}
			status := http.StatusOK
			for k, v := range c.header {
				if k == "status" {
					status = http.StatusCreated
				} else if !strings.HasPrefix(k, http.TrailerPrefix) {
					rw.Header().Set(k, v)
				}
			}
			rw.WriteHeader(status)
			_, _ = rw.Write([]byte(c.body))
			for k, v := range c.header {
				if strings.HasPrefix(k, http.TrailerPrefix) {
					rw.Header().Set(k, v)
				}
			}
		})
		// The attack without the guarantee: it would be seen.
		if got := bare.post(apps["claude"].token, jsonType, apps["claude"].redemption("x")); c.header["Content-Encoding"] == "" && len(c.body) < 1<<10 &&
			strings.Contains(c.body, "ealAccessToken") && !strings.Contains(got.body, "ealAccessToken") {
			t.Errorf("%s: without a keeper: %d %s", c.name, got.status, got.body)
		}
		b := w.box("one", "claude", false)
		got := b.post(apps["claude"].token, jsonType, apps["claude"].redemption("x"))
		if got.status != c.status {
			t.Errorf("%s: %d %.300s", c.name, got.status, got.body)
		}
		if all := unescaped(b.got.String()); strings.Contains(all, real) {
			t.Errorf("%s: the guest got %s", c.name, all)
		}
		said := b.used()
		if want := "deny login/claude"; c.status == 502 && !strings.Contains(said, want) {
			t.Errorf("%s: recorded: %s", c.name, said)
		}
		if strings.Contains(said, real) {
			t.Errorf("%s: the log has %s", c.name, said)
		}
	}
}

// members are so many of a JSON object.
func members(n int) string {
	var out strings.Builder
	for i := range n {
		fmt.Fprintf(&out, `"m%d":1,`, i)
	}
	return out.String()
}

// unescaped is a text with JSON's escapes of letters undone.
func unescaped(s string) string { return strings.ReplaceAll(s, `\u0074`, "t") }

// TestErrorsPass: what a provider says of a sign-in that did not work.
func TestErrorsPass(t *testing.T) {
	w := newWorld(t)
	b := w.box("one", "claude", false)
	got := b.post(apps["claude"].token, jsonType, apps["claude"].redemption("no such code"))
	if got.status != http.StatusBadRequest || got.text("error") != "invalid_grant" {
		t.Errorf("%d %s", got.status, got.body)
	}
	// A device whose user has not answered (RFC 8628 §3.5).
	c := w.box("two", "copilot", false)
	got = c.post("https://github.com/login/oauth/access_token", formType, map[string]string{
		"client_id": "Ov23li8tweQw6odWQebz", "device_code": "x", "grant_type": "urn:ietf:params:oauth:grant-type:device_code",
	})
	if got.status != http.StatusOK || got.text("error") != "incorrect_device_code" || got.text("error_description") == "" {
		t.Errorf("%d %s", got.status, got.body)
	}
	w.instead(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", jsonType)
		_, _ = rw.Write([]byte(`{"error":"slow_down","interval":10,"device":"x"}`))
	})
	if got = c.post(apps["copilot"].token, formType, apps["copilot"].redemption("x")); got.body != `{"error":"slow_down","interval":10}` {
		t.Errorf("%d %s", got.status, got.body)
	}
	if b.used()+c.used() != "" {
		t.Error("errors of the provider's are recorded as ours")
	}
}

// TestOtherPlaces: the endpoints of tokens are reached by their own names only.
func TestOtherPlaces(t *testing.T) {
	w := newWorld(t)
	w.instead(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", jsonType)
		_, _ = rw.Write([]byte(`{"access_token":"theRealAccessTokenOfSomebody","id_token":"a.b.c"}`))
	})
	for _, link := range []string{
		"https://platform.claude.com/v1/oauth/token/", "https://platform.claude.com/v1//oauth/token", "https://platform.claude.com/v1/oauth/%74oken",
		"https://platform.claude.com/v1/oauth/./token", "https://platform.claude.com/v1/oauth/x/../token", "https://platform.claude.com/V1/OAuth/Token",
		"https://platform.claude.com/v1/oauth/token;x=y", "https://platform.claude.com/v1%2foauth%2ftoken", "https://platform.claude.com/v1/oauth/%2574oken",
		"https://platform.claude.com/v1/oauth\\token", "https://platform.claude.com/v1/oauth/token%20", "https://platform.claude.com/v1/oauth/token.",
	} {
		b := w.box("one", "claude", false)
		if got := b.post(link, jsonType, apps["claude"].redemption("x")); got.status == http.StatusOK || strings.Contains(got.body, "theReal") {
			t.Errorf("%s: %d %s", link, got.status, got.body)
		}
	}
	for _, link := range []string{
		"https://platform.claude.com/v1/oauth/hello", "https://api.anthropic.com/v1/messages", "https://platform.claude.com/v1/oauth/tokens",
	} {
		b := w.box("one", "claude", false)
		if got := b.post(link, jsonType, "{}"); got.status != http.StatusOK {
			t.Errorf("%s: %d %s", link, got.status, got.body)
		}
	}
}

// TestOtherEndpoints: a provider that gives tokens in several places.
func TestOtherEndpoints(t *testing.T) {
	for _, p := range table {
		for _, link := range p.tokens {
			w := newWorld(t)
			w.instead(func(rw http.ResponseWriter, _ *http.Request) {
				rw.Header().Set("Content-Type", jsonType)
				_, _ = rw.Write([]byte(`{"access_token":"theRealAccessTokenOfSomebody","raw_key":"theRealAccessTokenOfSomebody","id_token":"a.b.c"}`))
			})
			b := w.box("one", p.Agents[0], false)
			host, _, _ := strings.Cut(link, "/")
			if !b.keeper.Inspect(host, httpsPort) {
				t.Errorf("connections to %s are not looked at", host)
			}
			got := b.post("https://"+link, formType, map[string]string{"code": "x"})
			if got.status != http.StatusOK || strings.Contains(got.body, "theReal") || w.login(p.Secret()+".one").Endpoint != link {
				t.Errorf("%s: %d %s", link, got.status, got.body)
			}
		}
	}
}

// TestPlaceholdersBuyNothing: what a guest could ask for with its placeholders.
func TestPlaceholdersBuyNothing(t *testing.T) {
	w := newWorld(t)
	a := apps["codex"]
	b, other := w.box("one", "codex", false), w.box("two", "codex", false)
	b.sign(a, true)
	if err := other.bind(); err != nil {
		t.Fatal(err)
	}
	b.used()
	exchange := func(token string) map[string]string {
		return map[string]string{
			"grant_type": "urn:ietf:params:oauth:grant-type:token-exchange", "client_id": a.fields["client_id"], "requested_token": "openai-api-key",
			"subject_token": token, "subject_token_type": "urn:ietf:params:oauth:token-type:id_token",
		}
	}
	// It is worth something: the real one is a key.
	bare := w.box("bare", "codex", true)
	if got := bare.post(a.token, formType, exchange(w.login("login/chatgpt").ID.Reveal())); !strings.HasPrefix(got.text("access_token"), "sk-proj-") {
		t.Fatalf("the exchange: %d %s", got.status, got.body)
	}
	id := b.broker.Part("login/chatgpt", "id")
	before := len(w.server.Requests())
	for _, token := range []string{id, "eyJ.e30." + id, b.broker.Part("login/chatgpt", "refresh"), b.broker.Placeholder("login/chatgpt")} {
		if got := b.post(a.token, formType, exchange(token)); got.status != http.StatusBadRequest || got.text("error") != "invalid_grant" {
			t.Errorf("%s: %d %s", token, got.status, got.body)
		}
		if said := b.used(); !strings.Contains(said, "deny login/chatgpt") || !strings.Contains(said, "token-exchange") {
			t.Errorf("recorded: %s", said)
		}
	}
	if got := b.refresh(a, b.broker.Placeholder("login/chatgpt")); got.status != http.StatusBadRequest {
		t.Errorf("a refresh with the access token's: %d %s", got.status, got.body)
	}
	r, _ := http.NewRequest(http.MethodPost, a.token, strings.NewReader("grant_type=x"))
	r.Header.Set("Authorization", "Bearer "+b.broker.Placeholder("login/chatgpt"))
	if got := b.do(r); got.status != http.StatusBadRequest {
		t.Errorf("in a header: %d %s", got.status, got.body)
	}
	if n := len(w.server.Requests()); n != before {
		t.Errorf("%d requests went to the provider", n-before)
	}
	// Another sandbox's are worth nothing: they are not renewed, and what the
	// provider gets is none of its tokens.
	uses := len(w.signIn.Uses())
	if got := b.refresh(a, other.broker.Part("login/chatgpt", "refresh")); got.status == http.StatusOK {
		t.Errorf("another's refresh: %s", got.body)
	}
	for _, u := range w.signIn.Uses()[uses:] {
		if u.State != standin.Unknown {
			t.Errorf("%s came with a token that is %s", u.Line, u.State)
		}
	}
	b.clean()
}

// TestRevocation: who signs out inside ends nobody's login.
func TestRevocation(t *testing.T) {
	for agent, link := range map[string]string{
		"claude": "https://platform.claude.com/v1/oauth/token/revoke", "codex": "https://auth.openai.com/oauth/revoke", "gemini": "https://oauth2.googleapis.com/revoke",
	} {
		t.Run(agent, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			b := w.box("one", agent, false)
			a := apps[agent]
			got := b.sign(a, true)
			b.used()
			before := len(w.server.Requests())
			for _, token := range []string{got.text("refresh_token"), got.text("access_token")} {
				if r := b.post(link, formType, map[string]string{"token": token}); r.status != http.StatusOK {
					t.Errorf("%d %s", r.status, r.body)
				}
				if r := b.post(link+"?token="+token, formType, ""); r.status != http.StatusOK {
					t.Errorf("in the query: %d %s", r.status, r.body)
				}
				r, _ := http.NewRequest(http.MethodPost, link, http.NoBody)
				r.Header.Set("Authorization", "Bearer "+token)
				if got := b.do(r); got.status != http.StatusOK {
					t.Errorf("in a header: %d %s", got.status, got.body)
				}
				if said := b.used(); strings.Count(said, "signed out inside") != 3 {
					t.Errorf("recorded: %s", said)
				}
			}
			if n := len(w.server.Requests()); n != before {
				t.Errorf("%d requests went to the provider", n-before)
			}
			if r := b.call(a.call, got.text("access_token")); r.status != http.StatusOK {
				t.Errorf("after it: %d %s", r.status, r.body)
			}
			// A token of its own is its own matter.
			if r := b.post(link, formType, map[string]string{"token": "nobodys"}); r.status == http.StatusForbidden || len(w.server.Requests()) != before+2 {
				t.Errorf("nobody's token: %d %s", r.status, r.body)
			}
			b.clean()
		})
	}
}

// account has the providers sign everybody in as somebody.
func (w *world) account(uuid string) {
	w.instead(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", jsonType)
		_, _ = rw.Write([]byte(`{"access_token":"token-of-` + uuid + `","refresh_token":"refresh-of-` + uuid + `","expires_in":3600,"scope":"user:inference","account":{"uuid":"` +
			uuid + `","email_address":"` + uuid + `@example.com"}}`))
	})
}

// TestWhoseLogin: whom a login is for.
func TestWhoseLogin(t *testing.T) {
	w := newWorld(t)
	b := w.box("one", "claude", false)
	try := func(who string, vouched bool) (everybody, own string) {
		t.Helper()
		w.account(who)
		said := apps["claude"].redemption("code of " + who)
		if vouched {
			said["code"] = b.vouch(apps["claude"], said["code"])
		}
		if got := b.post(apps["claude"].token, jsonType, said); got.status != http.StatusOK {
			t.Fatalf("%d %s", got.status, got.body)
		}
		person := func(name string) string {
			if l := w.login(name); l != nil {
				return l.Account
			}
			return ""
		}
		return person("login/claude"), person("login/claude.one")
	}
	for _, step := range []struct {
		who            string
		vouched        bool
		everybody, own string
	}{
		{"ann", false, "", "ann"},            // by a code: this sandbox's
		{"ann", true, "ann", ""},             // by the user's browser: everybody's, and no other
		{"mallory", false, "ann", "mallory"}, // a code of somebody else's does not replace it
		{"ann", false, "ann", ""},            // the same account does
		{"mallory", true, "mallory", ""},     // and so does the user
	} {
		if everybody, own := try(step.who, step.vouched); everybody != step.everybody || own != step.own {
			t.Errorf("%+v: everybody's is %q, the sandbox's own %q", step, everybody, own)
		}
	}
	if said := b.used(); strings.Count(said, "for this sandbox") != 2 || strings.Count(said, "for all sandboxes") != 3 {
		t.Errorf("recorded: %s", said)
	}
}

// TestNobodysAccount: of whom nothing is known is not the same as another of whom
// nothing is known.
func TestNobodysAccount(t *testing.T) {
	w := newWorld(t)
	b := w.box("one", "claude", false)
	answerWith := func(token, more string) {
		w.instead(func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Type", jsonType)
			_, _ = rw.Write([]byte(`{"access_token":"` + token + `"` + more + `}`))
		})
	}
	for _, more := range []string{"", `,"organization":{"uuid":"org"}`} {
		said := apps["claude"].redemption("first" + more)
		said["code"] = b.vouch(apps["claude"], said["code"])
		answerWith("token-of-ann", more)
		b.post(apps["claude"].token, jsonType, said)
		answerWith("token-of-mallory", more)
		b.post(apps["claude"].token, jsonType, apps["claude"].redemption("second"))
		if l := w.login("login/claude"); l == nil || l.Access.Reveal() != "token-of-ann" {
			t.Errorf("%s: everybody's login is %+v", more, l)
		}
	}
}

// TestVouches: a code that came by the user's browser counts once, not for long,
// at its provider, and there are not many.
func TestVouches(t *testing.T) {
	now := time.Now()
	k := New(Config{Agent: "claude", Now: func() time.Time { return now }})
	claude, chatGPT := table[0], table[2]
	vouch := func(standIn string) error {
		return k.Vouch("claude", sum(standIn), secret.NewValue("code of "+standIn))
	}
	has := func(p *Provider, standIn string) bool { return k.vouchedFor(p, standIn).Reveal() == "code of "+standIn }
	if err := vouch("a"); err != nil || has(chatGPT, "a") || has(claude, "code of a") || !has(claude, "a") || has(claude, "a") {
		t.Errorf("a code counts elsewhere, by itself, or twice: %v", err)
	}
	for _, p := range []string{"chatgpt", "", "claude.one"} {
		if k.Vouch(p, sum("a"), secret.NewValue("x")) == nil {
			t.Errorf("a code of %q is kept", p)
		}
	}
	if k.Vouch("claude", sum("a"), secret.Value{}) == nil {
		t.Error("no code is one")
	}
	if err := vouch("b"); err != nil {
		t.Error(err)
	}
	now = now.Add(vouchTime)
	if has(claude, "b") {
		t.Error("a code counts after its time")
	}
	for i := range 10 * maxVouched {
		if err := vouch(strings.Repeat("c", i+1)); (err == nil) != (i < maxVouched) {
			t.Errorf("the code %d: %v", i, err)
		}
	}
	now = now.Add(2 * vouchTime)
	if err := vouch("d"); err != nil || !has(claude, "d") || len(k.vouched) != 0 {
		t.Errorf("those of before are still there: %d, %v", len(k.vouched), err)
	}
}

// TestVouchIsForTheCode: a guest that has a code of the user's browser cannot
// have another one pass for it, whichever way the provider reads the request.
func TestVouchIsForTheCode(t *testing.T) {
	const (
		mine   = "what-stands-for-the-users-code"
		theirs = "the-attackers-code"
		token  = "https://platform.claude.com/v1/oauth/token"
	)
	form := "grant_type=authorization_code&code=" + mine
	for _, c := range []struct{ name, link, kind, body string }{
		{"twice in JSON", token, jsonType, `{"code":"` + theirs + `","code":"` + mine + `"}`},
		{"in another case", token, jsonType, `{"Code":"` + theirs + `","code":"` + mine + `"}`},
		{"twice in a form", token, formType, form + "&code=" + theirs},
		{"as a list", token, formType, form + "&code[]=" + theirs},
		{"in the query", token + "?code=" + theirs, formType, form},
		{"JSON that is a form", token, jsonType + "; x=x-www-form-urlencoded", `{"code":"` + theirs + `","x":"&code=` + mine + `&y="}`},
		{"form that is JSON", token, "text/plain", `{"code":"` + mine + `","x":"&code=` + theirs + `&y="}`},
		{"a charset", token, jsonType + "; charset=utf-7", `{"code":"` + mine + `","x":"` + theirs + `"}`},
		{"escaped", token, formType, form + "&%63ode=" + theirs},
		{"by a semicolon", token, formType, form + ";code=" + theirs},
		{"two types", token, "", form},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			b := w.box("one", "claude", false)
			var got, kind string
			w.instead(func(rw http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				got, kind = r.URL.RawQuery+" "+string(body), strings.Join(r.Header["Content-Type"], ", ")
				rw.Header().Set("Content-Type", jsonType)
				_, _ = rw.Write([]byte(`{"access_token":"token-of-somebody"}`))
			})
			if err := b.keeper.Vouch("claude", sum(mine), secret.NewValue("the-users-code")); err != nil {
				t.Fatal(err)
			}
			r, _ := http.NewRequest(http.MethodPost, c.link, strings.NewReader(c.body))
			if r.Header.Set("Content-Type", c.kind); c.kind == "" {
				r.Header["Content-Type"] = []string{formType, jsonType}
			}
			b.do(r)
			// What the provider may read of it is the user's code alone.
			if w.login("login/claude") != nil && (strings.Contains(got, theirs) && kind != formType && kind != jsonType ||
				strings.Contains(strings.ToLower(got), `code":"`+theirs) || strings.Contains(got, "code="+theirs) || strings.Contains(got, "code[]")) {
				t.Errorf("a login for all, of the request %q of type %q", got, kind)
			}
		})
	}
}

// TestCodeStaysOnTheHost: the code of the user's browser is worth something at the
// keeper alone, and no answer has it.
func TestCodeStaysOnTheHost(t *testing.T) {
	w := newWorld(t)
	b := w.box("one", "claude", false)
	a := apps["claude"]
	for _, answer := range []http.HandlerFunc{
		func(rw http.ResponseWriter, r *http.Request) {
			http.Error(rw, r.FormValue("code"), http.StatusBadRequest)
		},
		func(rw http.ResponseWriter, r *http.Request) {
			http.Redirect(rw, r, "/x?code="+r.FormValue("code"), http.StatusFound)
		},
		func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set(http.TrailerPrefix+"X", r.FormValue("code"))
			http.Error(rw, "no", http.StatusBadRequest)
		},
		func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("X", r.FormValue("code"))
			rw.Header().Set("Content-Type", jsonType)
			_, _ = rw.Write([]byte(`{"error":"x","error_description":"` + r.FormValue("code") + `"}`))
		},
		func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Content-Type", jsonType)
			_, _ = rw.Write([]byte(`{"error":"x","error_description":"\u0074` + r.FormValue("code")[1:] + `"}`))
		},
	} {
		w.instead(answer)
		got := b.post(a.token, formType, a.redemption(b.vouch(a, "the-code-of-the-browser")))
		if strings.Contains(b.got.String(), "the-code-of-the-browser") {
			t.Errorf("the guest got %d %v %s", got.status, got.header, got.body)
		}
		b.got.Reset()
	}
	// Elsewhere it is nothing.
	var got string
	w.instead(func(_ http.ResponseWriter, r *http.Request) { got += r.FormValue("code") })
	said := a.redemption(b.vouch(a, "the-code-of-the-browser"))
	b.post("https://evil.example.com/", formType, said)
	b.post("https://platform.claude.com/elsewhere", formType, said)
	if got != "in place of the-code-of-the-browserin place of the-code-of-the-browser" {
		t.Errorf("others got %s", got)
	}
}

// TestStoreThatFails: tokens that cannot be kept are given to nobody.
func TestStoreThatFails(t *testing.T) {
	w := newWorld(t)
	b := w.box("one", "claude", false)
	w.store() // which makes its folder
	blocked := w.dir + "/values"
	if err := os.RemoveAll(blocked); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(blocked, nil, 0o600); err != nil { // root too cannot write below it
		t.Fatal(err)
	}
	code := w.code(apps["claude"])
	got := b.post(apps["claude"].token, jsonType, apps["claude"].redemption(b.vouch(apps["claude"], code)))
	if got.status != http.StatusBadGateway || got.text("access_token") != "" {
		t.Errorf("%d %s", got.status, got.body)
	}
	if said := b.used(); !strings.Contains(said, "deny login/claude") || !strings.Contains(said, "a sign-in was not kept") {
		t.Errorf("recorded: %s", said)
	}
	b.clean()
}

// TestPersonIsText: what a provider calls somebody is printed, so it is short and
// has nothing that a terminal obeys.
func TestPersonIsText(t *testing.T) {
	w := newWorld(t)
	b := w.box("one", "claude", false)
	w.instead(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", jsonType)
		_, _ = rw.Write([]byte(`{"access_token":"token-of-ann","account":{"uuid":"u","email_address":"\u001b]0;x\u0007\u202eann\n` + strings.Repeat("x", 10000) + `"}}`))
	})
	b.post(apps["claude"].token, jsonType, apps["claude"].redemption("x"))
	said := strings.TrimSuffix(b.used(), "\n")
	if !strings.Contains(said, "signed in as ") || len(said) > 400 || strings.ContainsAny(said, "\x1b\x07\u202e\n") {
		t.Errorf("recorded: %q", said)
	}
	if a := b.keeper.Account(t.Context(), "login/claude"); len(a) > 200 || strings.ContainsAny(a, "\x1b\x07\u202e\n") {
		t.Errorf("the account is %q", a)
	}
}

// TestManySignIns: a guest that signs in again and again does not fill the store.
func TestManySignIns(t *testing.T) {
	w := newWorld(t)
	b := w.box("one", "claude", false)
	for _, who := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
		w.account(who)
		b.post(apps["claude"].token, jsonType, apps["claude"].redemption(who))
	}
	if logins, err := w.store().Logins(t.Context()); err != nil || len(logins) != 1 {
		t.Errorf("%d logins, %v", len(logins), err)
	}
	if files, err := os.ReadDir(w.dir + "/values"); err != nil || len(files) != 1 {
		t.Errorf("%d values, %v", len(files), err)
	}
}

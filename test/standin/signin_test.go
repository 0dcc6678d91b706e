package standin

import (
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// app is a program that signs in at one of the providers, as an agent does.
type app struct {
	page     string            // of the authorize endpoint
	token    string            // the token endpoint
	json     bool              // how it refreshes
	query    map[string]string // of the page, beside what all have
	fields   map[string]string // of each request for tokens
	callback string            // path; the host is the program's own
	call     string            // what it asks with its token
	rotates  bool
}

var apps = map[string]app{
	"claude": {
		page: "https://claude.com/cai/oauth/authorize", token: "https://platform.claude.com/v1/oauth/token", json: true,
		query:  map[string]string{"client_id": claudeClient, "scope": "user:profile user:inference"},
		fields: map[string]string{"client_id": claudeClient}, callback: "/callback",
		call: "https://api.anthropic.com/api/oauth/profile", rotates: true,
	},
	"codex": {
		page: "https://auth.openai.com/oauth/authorize", token: "https://auth.openai.com/oauth/token",
		query:  map[string]string{"client_id": codexClient, "scope": "openid offline_access"},
		fields: map[string]string{"client_id": codexClient}, callback: "/auth/callback",
		call: "https://chatgpt.com/backend-api/wham/accounts/check", rotates: true,
	},
	"gemini": {
		page: "https://accounts.google.com/o/oauth2/v2/auth", token: "https://oauth2.googleapis.com/token",
		query:  map[string]string{"client_id": geminiClient, "scope": "https://www.googleapis.com/auth/cloud-platform"},
		fields: map[string]string{"client_id": geminiClient, "client_secret": geminiSecret}, callback: "/oauth2callback",
		call: "https://www.googleapis.com/oauth2/v2/userinfo",
	},
	"copilot": {
		page: "https://github.com/login/oauth/authorize", token: "https://github.com/login/oauth/access_token",
		query:  map[string]string{"client_id": copilotClient, "scope": "repo"},
		fields: map[string]string{"client_id": copilotClient, "client_secret": "any"}, callback: "/callback",
		call: "https://api.github.com/copilot_internal/user",
	},
}

// redirects are where the apps' codes go. Codex has fixed ports, which may be
// in use where the tests run; so its browser goes nowhere.
func (a app) redirect(port string) string {
	switch a.callback {
	case "/callback":
		if strings.Contains(a.page, "github") {
			return "http://127.0.0.1:" + port + a.callback
		}
		return "http://localhost:" + port + a.callback
	case "/auth/callback":
		return "http://127.0.0.1:1455" + a.callback
	}
	return "http://127.0.0.1:" + port + a.callback
}

const verifier = "a-verifier-that-is-as-long-as-they-have-to-be-0123456789"

// bench is a SignIn that is served, and a browser.
type bench struct {
	*SignIn
	t       *testing.T
	browser *http.Client
	now     time.Time
}

func newBench(t *testing.T) *bench {
	t.Helper()
	ca, err := NewCA()
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{SignIn: NewSignIn("Paris"), t: t, now: time.Now()}
	b.SignIn.now = func() time.Time { return b.now }
	server, err := Serve(ca, b.SignIn, SignInHosts()...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	b.browser = server.Browser()
	return b
}

// link is where the app sends the browser.
func (a app) link(more map[string]string) string {
	q := url.Values{}
	for _, m := range []map[string]string{
		{"response_type": "code", "state": "0123456789", "code_challenge": challengeOf(verifier), "code_challenge_method": "S256", "redirect_uri": a.redirect("4321")},
		a.query, more,
	} {
		for k, v := range m {
			q.Set(k, v)
		}
	}
	return a.page + "?" + q.Encode()
}

// visit opens a page without following it, and says where it leads.
func (b *bench) visit(link string) (status int, to *url.URL) {
	b.t.Helper()
	c := *b.browser
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := c.Get(link)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	to, err = resp.Location()
	if err != nil {
		to = &url.URL{}
	}
	return resp.StatusCode, to
}

// post asks for tokens.
func (b *bench) post(link string, asJSON bool, fields ...map[string]string) (int, map[string]any) {
	b.t.Helper()
	all := map[string]string{}
	for _, f := range fields {
		maps.Copy(all, f)
	}
	kind, body := "application/json", ""
	if asJSON {
		data, _ := json.Marshal(all)
		body = string(data)
	} else {
		form := url.Values{}
		for k, v := range all {
			form.Set(k, v)
		}
		kind, body = "application/x-www-form-urlencoded;charset=UTF-8", form.Encode()
	}
	resp, err := b.browser.Post(link, kind, strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	var v map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&v); err != nil {
		b.t.Fatalf("%s: %v", link, err)
	}
	return resp.StatusCode, v
}

// call asks something with a token.
func (b *bench) call(method, link, token string) (int, string) {
	b.t.Helper()
	req, err := http.NewRequest(method, link, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := b.browser.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text)
}

// signIn does what the app does until it has tokens.
func (b *bench) signIn(a app) map[string]any {
	b.t.Helper()
	status, to := b.visit(a.link(nil))
	if status != http.StatusFound || !strings.HasPrefix(to.String(), a.redirect("4321")+"?") || to.Query().Get("state") != "0123456789" {
		b.t.Fatalf("authorize: %d, to %s", status, to)
	}
	status, v := b.redeem(a, to.Query().Get("code"), nil)
	if status != http.StatusOK || v["access_token"] == nil {
		b.t.Fatalf("token: %d %v", status, v)
	}
	return v
}

func (b *bench) redeem(a app, code string, more map[string]string) (int, map[string]any) {
	return b.post(a.token, a.json, a.fields, map[string]string{
		"grant_type": "authorization_code", "code": code, "redirect_uri": a.redirect("4321"), "code_verifier": verifier,
	}, more)
}

func (b *bench) refresh(a app, token string) (int, map[string]any) {
	return b.post(a.token, a.json, a.fields, map[string]string{"grant_type": "refresh_token", "refresh_token": token})
}

func text(v any) string { s, _ := v.(string); return s }

func (b *bench) expect(what string, got, want any) {
	b.t.Helper()
	if got != want {
		b.t.Errorf("%s: %v, not %v", what, got, want)
	}
}

// lastUse is what came last, and what it was worth.
func (b *bench) lastUse() State {
	uses := b.Uses()
	return uses[len(uses)-1].State
}

func TestSignIn(t *testing.T) {
	for name, a := range apps {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			first := b.signIn(a)
			access := text(first["access_token"])
			status, _ := b.call("GET", a.call, access)
			b.expect("a call", status, http.StatusOK)
			b.expect("its token", b.lastUse(), Current)
			for kind, field := range map[Kind]string{Access: "access_token", Refresh: "refresh_token", ID: "id_token"} {
				if v := text(first[field]); v != "" && !slices.Contains(b.Issued(), Secret{kind, v}) {
					t.Errorf("the %s is not among what was issued", kind)
				}
			}
			status, _ = b.call("GET", a.call, access+"x")
			b.expect("a call with another token", status, http.StatusUnauthorized)
			b.expect("another token", b.lastUse(), Unknown)
			if name == "copilot" { // its tokens have no end
				return
			}
			b.renews(a, first)
		})
	}
}

// renews goes on with tokens until they are at their end.
func (b *bench) renews(a app, first map[string]any) {
	b.t.Helper()
	access, refresh := text(first["access_token"]), text(first["refresh_token"])
	b.Expire()
	status, _ := b.call("GET", a.call, access)
	b.expect("a call after the end", status, http.StatusUnauthorized)
	b.expect("the token then", b.lastUse(), Expired)
	status, second := b.refresh(a, refresh)
	b.expect("refresh", status, http.StatusOK)
	b.expect("refreshes", b.Refreshes(), 1)
	status, _ = b.call("GET", a.call, text(second["access_token"]))
	b.expect("a call with the new token", status, http.StatusOK)
	b.expect("the new token", b.lastUse(), Current)
	status, third := b.refresh(a, refresh)
	if !a.rotates {
		b.expect("the refresh token again", status, http.StatusOK)
		b.expect("a new refresh token", third["refresh_token"], nil)
		status, _ = b.call("GET", a.call, text(second["access_token"]))
		b.expect("a call with a token that has not ended", status, http.StatusOK)
		b.expect("that token", b.lastUse(), Superseded)
		return
	}
	if status == http.StatusOK || third["error"] == nil {
		b.t.Errorf("a used refresh token: %d %v", status, third)
	}
	b.expect("a used refresh token", b.lastUse(), Ended)
	b.SignOut()
	if status, _ = b.refresh(a, text(second["refresh_token"])); status == http.StatusOK {
		b.t.Error("a refresh after everybody was signed out")
	}
}

func TestLife(t *testing.T) {
	b := newBench(t)
	b.Life = 3 * time.Second
	a := apps["claude"]
	v := b.signIn(a)
	b.expect("expires_in", v["expires_in"], 3.0)
	b.now = b.now.Add(2900 * time.Millisecond)
	status, _ := b.call("GET", a.call, text(v["access_token"]))
	b.expect("before the end", status, http.StatusOK)
	b.now = b.now.Add(100 * time.Millisecond)
	status, _ = b.call("GET", a.call, text(v["access_token"]))
	b.expect("at the end", status, http.StatusUnauthorized)
}

// TestRefused: what is wrong gets no code, or no tokens for it.
func TestRefused(t *testing.T) {
	b := newBench(t)
	a := apps["claude"]
	for what, more := range map[string]map[string]string{
		"another client":   {"client_id": "me"},
		"another redirect": {"redirect_uri": "https://evil.example.com/callback"},
		"another path":     {"redirect_uri": "http://localhost:4321/"},
		"a user in it":     {"redirect_uri": "http://localhost:4321@evil.example.com/callback"},
	} {
		status, to := b.visit(a.link(more))
		if status != http.StatusBadRequest || to.String() != "" {
			t.Errorf("%s: %d, to %s", what, status, to)
		}
	}
	for what, more := range map[string]map[string]string{
		"no challenge":    {"code_challenge": ""},
		"plain challenge": {"code_challenge_method": "plain"},
		"no state":        {"state": ""},
		"no scope":        {"scope": ""},
		"another type":    {"response_type": "token"},
	} {
		if _, to := b.visit(a.link(more)); to.Query().Get("error") == "" || to.Query().Get("code") != "" {
			t.Errorf("%s leads to %s", what, to)
		}
	}
	for what, more := range map[string]map[string]string{
		"another verifier": {"code_verifier": verifier + "x"},
		"another redirect": {"redirect_uri": "http://localhost:1/callback"},
		"another client":   {"client_id": codexClient},
		"another code":     {"code": "code-x"},
		"another grant":    {"grant_type": "password"},
	} {
		_, to := b.visit(a.link(nil))
		if status, v := b.redeem(a, to.Query().Get("code"), more); status == http.StatusOK || v["error"] == nil {
			t.Errorf("%s: %d %v", what, status, v)
		}
	}
	_, to := b.visit(a.link(nil))
	if status, v := b.redeem(a, to.Query().Get("code"), nil); status != http.StatusOK {
		t.Fatal(status, v)
	}
	if status, v := b.redeem(a, to.Query().Get("code"), nil); status == http.StatusOK {
		t.Error("a code works twice:", v)
	}
	if n := len(b.Issued()); n != 2 {
		t.Errorf("%d secrets were issued", n)
	}
}

// TestOthersToken: a token is one provider's only.
func TestOthersToken(t *testing.T) {
	b := newBench(t)
	tokens := map[string]string{}
	for name, a := range apps {
		tokens[name] = text(b.signIn(a)["access_token"])
	}
	for of, token := range tokens {
		for at, a := range apps {
			if status, _ := b.call("GET", a.call, token); (status == http.StatusOK) != (of == at) {
				t.Errorf("the token of %s at that of %s: %d", of, at, status)
			}
		}
	}
}

// TestBrowser: the code goes to a program on this machine, which sends the
// browser on, and it ends at the provider's page.
func TestBrowser(t *testing.T) {
	b := newBench(t)
	a := apps["gemini"]
	got := make(chan url.Values, 1)
	program := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got <- r.URL.Query()
		http.Redirect(w, r, "https://developers.google.com/gemini-code-assist/auth_success_gemini", http.StatusMovedPermanently)
	}))
	defer program.Close()
	own, _ := url.Parse(program.URL)
	resp, err := b.browser.Get(a.link(map[string]string{"redirect_uri": a.redirect(own.Port())}))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b.expect("the end", resp.Request.URL.Host, "developers.google.com")
	b.expect("its status", resp.StatusCode, http.StatusOK)
	status, _ := b.redeem(a, (<-got).Get("code"), map[string]string{"redirect_uri": a.redirect(own.Port())})
	b.expect("token", status, http.StatusOK)
}

// TestPaste: a link as Claude Code prints it leads to a page with the code.
func TestPaste(t *testing.T) {
	b := newBench(t)
	// Taken from its terminal: client 0, and all of the scopes of a sign-in.
	status, to := b.visit("https://claude.ai/oauth/authorize?z-" + challengeOf(verifier))
	b.expect("authorize", status, http.StatusFound)
	resp, err := b.browser.Get(to.String())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	page, _ := io.ReadAll(resp.Body)
	_, rest, _ := strings.Cut(string(page), "<code>")
	pasted, _, _ := strings.Cut(rest, "</code>")
	code, state, _ := strings.Cut(pasted, "#")
	if code == "" || state == "" {
		t.Fatalf("%s", page)
	}
	status, v := b.redeem(apps["claude"], code, map[string]string{"redirect_uri": "https://platform.claude.com/oauth/code/callback"})
	b.expect("token", status, http.StatusOK)
	b.expect("scope", v["scope"], "org:create_api_key user:profile user:inference user:sessions:claude_code user:mcp_servers user:file_upload user:plugins user:privacy_consents:write org:desktop_config")
}

// TestConsole: at the other page there is no right to call a model.
func TestConsole(t *testing.T) {
	b := newBench(t)
	a := apps["claude"]
	a.page = "https://platform.claude.com/oauth/authorize"
	b.expect("scope", b.signIn(a)["scope"], "org:create_api_key user:profile")
}

func TestDeviceGitHub(t *testing.T) {
	b := newBench(t)
	id := map[string]string{"client_id": copilotClient}
	_, d := b.post("https://github.com/login/device/code", false, id, map[string]string{"scope": "repo"})
	poll := func() map[string]any {
		_, v := b.post(apps["copilot"].token, false, id, map[string]string{"grant_type": deviceGrant, "device_code": text(d["device_code"])})
		return v
	}
	b.expect("before", poll()["error"], "authorization_pending")
	if b.Approve("XXXX-XXXX") == nil {
		t.Error("any code was approved")
	}
	if err := b.Approve(text(d["user_code"])); err != nil {
		t.Fatal(err)
	}
	v := poll()
	status, _ := b.call("GET", apps["copilot"].call, text(v["access_token"]))
	b.expect("a call", status, http.StatusOK)
	b.expect("a second time", poll()["error"], "incorrect_device_code")
}

func TestDeviceOpenAI(t *testing.T) {
	b := newBench(t)
	const accounts = "https://auth.openai.com/api/accounts/deviceauth/"
	_, d := b.post(accounts+"usercode", true, map[string]string{"client_id": codexClient})
	poll := func() (int, map[string]any) {
		return b.post(accounts+"token", true, map[string]string{"device_auth_id": text(d["device_auth_id"]), "user_code": text(d["user_code"])})
	}
	status, _ := poll()
	b.expect("before", status, http.StatusForbidden)
	if err := b.Approve(text(d["user_code"])); err != nil {
		t.Fatal(err)
	}
	status, v := poll()
	b.expect("after", status, http.StatusOK)
	status, _ = b.redeem(apps["codex"], text(v["authorization_code"]), map[string]string{
		"redirect_uri": deviceCallback, "code_verifier": text(v["code_verifier"]),
	})
	b.expect("token", status, http.StatusOK)
}

// TestKeys: an API key is had for a token, and is a secret that works.
func TestKeys(t *testing.T) {
	b := newBench(t)
	v := b.signIn(apps["codex"])
	exchange := map[string]string{
		"grant_type": "urn:ietf:params:oauth:grant-type:token-exchange", "client_id": codexClient, "requested_token": "openai-api-key",
		"subject_token": text(v["id_token"]), "subject_token_type": "urn:ietf:params:oauth:token-type:id_token",
	}
	status, key := b.post(apps["codex"].token, false, exchange)
	b.expect("exchange", status, http.StatusOK)
	status, _ = b.post(apps["codex"].token, false, exchange, map[string]string{"subject_token": text(v["access_token"])})
	b.expect("exchange of another token", status, http.StatusBadRequest)
	status, answer := b.call("POST", "https://api.anthropic.com/api/oauth/claude_cli/create_api_key", text(b.signIn(apps["claude"])["access_token"]))
	b.expect("create", status, http.StatusOK)
	var made struct {
		RawKey string `json:"raw_key"`
	}
	if err := json.Unmarshal([]byte(answer), &made); err != nil {
		t.Fatal(err)
	}
	for at, value := range map[string]string{"https://api.openai.com/v1/x": text(key["access_token"]), "https://api.anthropic.com/v1/x": made.RawKey} {
		status, _ := b.call("GET", at, value)
		b.expect("a call of "+at, status, http.StatusNotFound) // it got through, to a page that is not there
		if !slices.Contains(b.Issued(), Secret{Key, value}) {
			t.Errorf("the key for %s is not among what was issued", at)
		}
	}
}

func TestRevoke(t *testing.T) {
	b := newBench(t)
	a := apps["claude"]
	v, other := b.signIn(a), b.signIn(a)
	b.post(a.token+"/revoke", true, a.fields, map[string]string{"token": text(v["refresh_token"])})
	status, _ := b.call("GET", a.call, text(v["access_token"]))
	b.expect("the access token", status, http.StatusUnauthorized)
	status, _ = b.refresh(a, text(v["refresh_token"]))
	b.expect("the refresh token", status, http.StatusBadRequest)
	status, _ = b.call("GET", a.call, text(other["access_token"]))
	b.expect("another sign-in", status, http.StatusOK)
}

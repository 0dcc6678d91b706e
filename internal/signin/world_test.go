package signin

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"berth.dev/internal/credential"
	"berth.dev/internal/egress/intercept"
	"berth.dev/internal/secret"
	"berth.dev/test/standin"
)

// world is providers that one can sign in with, a store, and a clock.
type world struct {
	tb     testing.TB
	signIn *standin.SignIn
	server *standin.Server
	roots  *x509.CertPool
	dir    string // of the store

	mu   sync.Mutex
	odd  http.HandlerFunc // in place of the providers; nil for them
	late time.Duration    // how far the keepers' clocks are ahead
}

func newWorld(tb testing.TB) *world {
	tb.Helper()
	ca, err := standin.NewCA()
	if err != nil {
		tb.Fatal(err)
	}
	w := &world{tb: tb, signIn: standin.NewSignIn("Paris"), roots: x509.NewCertPool(), dir: filepath.Join(tb.TempDir(), "secrets")}
	w.roots.AppendCertsFromPEM(ca.PEM())
	w.server, err = standin.Serve(ca, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		odd := w.odd
		w.mu.Unlock()
		if odd != nil {
			odd(rw, r)
			return
		}
		w.signIn.ServeHTTP(rw, r)
	}), slices.Concat(standin.SignInHosts(), []string{"evil.example.com"})...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = w.server.Close() })
	return w
}

// instead has something answer in place of the providers; nil has them again.
func (w *world) instead(h http.HandlerFunc) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.odd = h
}

// pass lets time pass for the keepers; the providers do not notice.
func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.late += d
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Now().Add(w.late)
}

// store is what some process has open of the store.
func (w *world) store() *secret.Store {
	w.tb.Helper()
	s, err := secret.Open(w.dir, secret.WithoutKeyring())
	if err != nil {
		w.tb.Fatal(err)
	}
	return s
}

// login is one that is kept, nil for none.
func (w *world) login(name string) *Login {
	w.tb.Helper()
	v, err := w.store().Get(w.tb.Context(), name)
	if err != nil {
		return nil
	}
	l, err := parseLogin(v)
	if err != nil {
		w.tb.Fatal(err)
	}
	return l
}

// box is a sandbox: its keeper and its broker, in a real proxy, and what its
// guest has to speak with them.
type box struct {
	*world
	name   string
	keeper *Keeper
	broker *credential.Broker
	proxy  *intercept.Proxy
	guest  *http.Client

	mu   sync.Mutex
	uses []credential.Use
	got  strings.Builder // all that the guest ever got
}

// box makes a sandbox; without a keeper and a broker when bare.
func (w *world) box(name, agent string, bare bool) *box { return w.boxOf(name, agent, bare, "") }

// boxOf is box, of a sandbox that uses the logins below a home where there is one.
func (w *world) boxOf(name, agent string, bare bool, home string) *box {
	w.tb.Helper()
	b := &box{world: w, name: name}
	record := func(u credential.Use) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.uses = append(b.uses, u)
	}
	var err error
	if b.broker, err = credential.New(credential.Config{Sandbox: name, Key: []byte("a key of sixteen bytes, or more"), Record: record}); err != nil {
		w.tb.Fatal(err)
	}
	open := sync.OnceValues(func() (*secret.Store, error) { return secret.Open(w.dir, secret.WithoutKeyring()) })
	b.keeper = New(Config{
		Sandbox: name, Agent: agent, Store: func(bool) (*secret.Store, error) { return open() }, Broker: b.broker, Bind: b.bind,
		Client: func() *http.Client { return b.proxy.Client() }, Record: record, Now: w.now,
		FromHost: home != "", Home: home,
	})
	ca, err := intercept.NewCA(time.Now)
	if err != nil {
		w.tb.Fatal(err)
	}
	cfg := intercept.Config{CA: ca, Judge: allowAll{}, Roots: w.roots, Dial: func(ctx context.Context, _ string, _ uint16) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", w.server.Address)
	}}
	if !bare {
		cfg.Requests = []intercept.RequestStage{b.keeper, b.broker}
		cfg.Responses = []intercept.ResponseStage{b.keeper, b.broker}
	}
	if b.proxy, err = intercept.New(cfg); err != nil {
		w.tb.Fatal(err)
	}
	w.tb.Cleanup(func() { _ = b.proxy.Close() })
	b.guest = b.client(ca)
	if err := b.bind(); err != nil {
		w.tb.Fatal(err)
	}
	return b
}

type allowAll struct{}

func (allowAll) Judge(context.Context, intercept.Request) intercept.Ruling {
	return intercept.Ruling{Allowed: true}
}

func (b *box) bind() error {
	list, err := b.keeper.Bindings(b.tb.Context())
	if err != nil {
		return err
	}
	return b.broker.Bind(list...)
}

// client is a program in the guest, whose connections all end in the proxy.
func (b *box) client(ca *intercept.CA) *http.Client {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca.PEM())
	tr := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, DisableCompression: true, DisableKeepAlives: true,
		DialContext: func(_ context.Context, _, address string) (net.Conn, error) {
			host, _, _ := net.SplitHostPort(address)
			mine, theirs, err := pipe()
			if err == nil {
				go b.proxy.ServeTLS(context.Background(), theirs, host, httpsPort)
			}
			return mine, err
		},
	}
	return &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// pipe is a connection with a buffer.
func pipe() (a, b net.Conn, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	if a, err = net.Dial("tcp", l.Addr().String()); err != nil {
		return nil, nil, err
	}
	b, err = l.Accept()
	return a, b, err
}

// answer is what the guest got.
type answer struct {
	status int
	header http.Header
	body   string
	fields map[string]any // of a JSON body
}

func (a answer) text(name string) string { s, _ := a.fields[name].(string); return s }

// do is a request of the guest's. All of its answer is remembered.
func (b *box) do(r *http.Request) answer {
	b.tb.Helper()
	res, err := b.guest.Do(r)
	if err != nil {
		return answer{body: err.Error(), header: http.Header{}}
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return answer{body: err.Error(), header: http.Header{}}
	}
	b.mu.Lock()
	_ = res.Header.Write(&b.got)
	_ = res.Trailer.Write(&b.got)
	b.got.Write(body)
	b.mu.Unlock()
	a := answer{status: res.StatusCode, header: res.Header, body: string(body)}
	_ = json.Unmarshal(body, &a.fields)
	return a
}

// post sends fields, or a body that is whole already.
func (b *box) post(link, kind string, said any) answer {
	b.tb.Helper()
	var body string
	switch said := said.(type) {
	case string:
		body = said
	case map[string]string:
		if kind == formType {
			v := url.Values{}
			for name, text := range said {
				v.Set(name, text)
			}
			body = v.Encode()
		} else {
			data, _ := json.Marshal(said)
			body = string(data)
		}
	}
	r, err := http.NewRequest(http.MethodPost, link, strings.NewReader(body))
	if err != nil {
		b.tb.Fatal(err)
	}
	r.Header.Set("Content-Type", kind)
	r.Header.Set("Accept", "application/json")
	return b.do(r)
}

// call asks something with a token.
func (b *box) call(link, token string) answer {
	b.tb.Helper()
	r, err := http.NewRequest(http.MethodGet, link, nil)
	if err != nil {
		b.tb.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	return b.do(r)
}

// used are the lines of the log since it was asked last, as text.
func (b *box) used() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out strings.Builder
	for _, u := range b.uses {
		word := "allow"
		if u.Refused {
			word = "deny"
		}
		out.WriteString(word + " " + u.Secret + " " + u.Host + u.Path + ": " + u.Reason + "\n")
	}
	b.uses = nil
	return out.String()
}

// clean checks that the guest never got a secret of the providers'.
func (b *box) clean() {
	b.tb.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.signIn.Issued() {
		if strings.Contains(b.got.String(), s.Value) {
			b.tb.Errorf("the guest got the %s %s", s.Kind, s.Value)
		}
	}
}

// app is how an agent signs in.
type app struct {
	provider, page, token, kind, redirect, call string
	query, fields                               map[string]string
}

const verifier = "a-verifier-that-is-as-long-as-they-have-to-be-0123456789"

var apps = map[string]app{
	"claude": {
		provider: "claude", page: "https://claude.com/cai/oauth/authorize", token: "https://platform.claude.com/v1/oauth/token", kind: jsonType,
		redirect: "http://localhost:41234/callback", call: "https://api.anthropic.com/api/oauth/profile",
		query:  map[string]string{"client_id": "9d1c250a-e61b-44d9-88ed-5944d1962f5e", "scope": "user:profile user:inference"},
		fields: map[string]string{"client_id": "9d1c250a-e61b-44d9-88ed-5944d1962f5e"},
	},
	"codex": {
		provider: "chatgpt", page: "https://auth.openai.com/oauth/authorize", token: "https://auth.openai.com/oauth/token", kind: formType,
		redirect: "http://127.0.0.1:1455/auth/callback", call: "https://chatgpt.com/backend-api/wham/accounts/check",
		query:  map[string]string{"client_id": "app_EMoamEEZ73f0CkXaXp7hrann", "scope": "openid offline_access"},
		fields: map[string]string{"client_id": "app_EMoamEEZ73f0CkXaXp7hrann"},
	},
	"gemini": {
		provider: "google", page: "https://accounts.google.com/o/oauth2/v2/auth", token: "https://oauth2.googleapis.com/token", kind: formType,
		redirect: "http://127.0.0.1:41234/oauth2callback", call: "https://www.googleapis.com/oauth2/v2/userinfo",
		query: map[string]string{"client_id": geminiApp, "scope": "https://www.googleapis.com/auth/cloud-platform"},
		// In every copy of Gemini CLI: no secret.
		fields: map[string]string{"client_id": geminiApp, "client_secret": "GOCSPX-" + "4uHgMPm-1o7Sk-geV6Cu5clXFsxl"},
	},
	"copilot": {
		provider: "copilot", page: "https://github.com/login/oauth/authorize", token: "https://github.com/login/oauth/access_token", kind: formType,
		redirect: "http://127.0.0.1:41234/callback", call: "https://api.github.com/copilot_internal/user",
		query:  map[string]string{"client_id": "Ov23ctDVkRmgkPke0Mmm", "scope": "repo"},
		fields: map[string]string{"client_id": "Ov23ctDVkRmgkPke0Mmm", "client_secret": "any"},
	},
}

const geminiApp = "681255809395-oo8ft2oprdrnp9e3aqf6av3hmdib135j.apps.googleusercontent.com"

// link is where the app sends the browser.
func (a app) link() string {
	sum := sha256.Sum256([]byte(verifier))
	q := url.Values{
		"response_type": {"code"}, "state": {"0123456789"}, "redirect_uri": {a.redirect},
		"code_challenge": {base64url(sum[:])}, "code_challenge_method": {"S256"},
	}
	for k, v := range a.query {
		q.Set(k, v)
	}
	return a.page + "?" + q.Encode()
}

// code is what the user's browser comes back with.
func (w *world) code(a app) string {
	w.tb.Helper()
	c := w.server.Browser()
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	res, err := c.Get(a.link())
	if err != nil {
		w.tb.Fatal(err)
	}
	defer res.Body.Close()
	to, err := res.Location()
	if err != nil || to.Query().Get("code") == "" {
		w.tb.Fatalf("authorize: %s, to %v, %v", res.Status, to, err)
	}
	return to.Query().Get("code")
}

// redemption is what the app says for a code.
func (a app) redemption(code string) map[string]string {
	said := map[string]string{"grant_type": "authorization_code", "code": code, "redirect_uri": a.redirect, "code_verifier": verifier}
	maps.Copy(said, a.fields)
	return said
}

// sign is an app that signs in, with the user's browser or by a code that
// somebody typed.
func (b *box) sign(a app, browser bool) answer {
	b.tb.Helper()
	code := b.code(a)
	if browser {
		code = b.vouch(a, code)
	}
	got := b.post(a.token, a.kind, a.redemption(code))
	if got.status != http.StatusOK || got.text("access_token") == "" {
		b.tb.Fatalf("the sign-in: %d %s", got.status, got.body)
	}
	return got
}

// vouch has the user vouch for a code, and returns what the guest gets in its
// place.
func (b *box) vouch(a app, code string) string {
	b.tb.Helper()
	if err := b.keeper.Vouch(a.provider, sum("in place of "+code), secret.NewValue(code)); err != nil {
		b.tb.Fatal(err)
	}
	return "in place of " + code
}

// refresh is an app that renews.
func (b *box) refresh(a app, token string) answer {
	b.tb.Helper()
	said := map[string]string{"grant_type": "refresh_token", "refresh_token": token}
	maps.Copy(said, a.fields)
	return b.post(a.token, a.kind, said)
}

func sum(code string) [32]byte { return sha256.Sum256([]byte(code)) }

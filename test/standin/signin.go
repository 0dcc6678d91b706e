package standin

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// SignIn stands in for the providers' sign-in and for what is called with its
// tokens: authorize and token endpoints, device codes, refresh, revocation, the
// calls that the agents make after a sign-in, and their models. It is made by
// NewSignIn, serves SignInHosts, and is safe for concurrent use.
//
// It is as strict as the real ones where an agent, or a proxy between, could be
// wrong: PKCE, redirects, clients and single use of codes are checked, a refresh
// token of a provider that rotates them works once, a token of one provider is
// none of another's.
type SignIn struct {
	// Life is how long an access token holds; an hour when it is 0. It is set
	// before the first request.
	Life time.Duration
	// Claude answers Claude Code's model calls.
	Claude *Anthropic

	mux *http.ServeMux
	now func() time.Time

	mu        sync.Mutex
	tokens    map[string]*token
	issued    []Secret
	codes     map[string]*code
	devices   []*device
	uses      []Use
	refreshes int
}

// Secret is a value that is only its holder's and the provider's.
type Secret struct {
	Kind  Kind
	Value string
}

// Kind is what a secret is for.
type Kind string

// The kinds of secrets. Signature is the last part of an ID token: whoever has
// it has the token, whose other parts can be guessed.
const (
	Access    Kind = "access token"
	Refresh   Kind = "refresh token"
	ID        Kind = "ID token"
	Signature Kind = "signature of an ID token"
	Key       Kind = "API key"
)

// State is what a credential was worth when it came.
type State string

// The states. Superseded is an access token that still holds, although its
// sign-in has a newer one by now.
const (
	Current    State = "current"
	Superseded State = "superseded"
	Expired    State = "expired"
	Ended      State = "ended" // revoked, or used where it works once
	Unknown    State = "unknown"
	None       State = "none"
)

// Use is a request that a credential came with, or should have.
type Use struct {
	Line  string // method, host and path
	Value string // the credential
	State State
}

// token is a secret that opens something.
type token struct {
	Secret
	login   *login
	expires time.Time // zero for never
	state   State     // Current, Superseded or Ended; expiry is asked of the clock
}

// login is what one sign-in made.
type login struct {
	provider            *provider
	client, scope       string
	access, refresh, id string
	accessEnds          time.Time
}

// provider is who signs in.
type provider struct {
	clients map[string]client
	// rotates: a refresh token works once, and brings the next one.
	rotates bool
	// lasting: access tokens have no end, and there are no refresh tokens.
	lasting bool
	// openID: an ID token comes with the others.
	openID func(l *login) string

	access, refresh func(l *login) string
	// refuse answers a request for tokens, unauthorized one with a token.
	refuse       func(http.ResponseWriter, *refusal)
	unauthorized func(http.ResponseWriter, State)
}

// client is a program that the provider knows.
type client struct {
	secret    string   // "" for none
	redirects []string // where codes may be sent; the port * is any
	plain     bool     // need not use PKCE
	untyped   bool     // need not say that it wants a code
}

// anySecret is the secret of a client whose secret does not matter.
const anySecret = "*"

// refusal is why there is no token.
type refusal struct {
	code, text string
	reused     bool // a refresh token that has been used
}

// NewSignIn makes one whose models say text.
func NewSignIn(text string) *SignIn {
	s := &SignIn{
		Claude: &Anthropic{Text: text},
		mux:    http.NewServeMux(), now: time.Now,
		tokens: map[string]*token{}, codes: map[string]*code{},
	}
	s.serveAnthropic()
	s.serveOpenAI(OpenAI{Text: text})
	s.serveGoogle(Gemini{Text: text})
	s.serveGitHub(Copilot{Text: text})
	return s
}

// SignInHosts are the hosts that a SignIn serves.
func SignInHosts() []string {
	return slices.Concat(anthropicHosts, openaiHosts, googleHosts, githubHosts)
}

// ServeHTTP implements http.Handler.
func (s *SignIn) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// Issued are all secrets that it ever gave out.
func (s *SignIn) Issued() []Secret {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.issued)
}

// Uses are the requests with credentials, in order: calls with access tokens,
// refreshes, revocations. Nobody's tokens are None.
func (s *SignIn) Uses() []Use {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.uses)
}

// Refreshes counts the refreshes that were granted.
func (s *SignIn) Refreshes() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refreshes
}

// Expire ends all access tokens that there are, early; refresh tokens work on.
func (s *SignIn) Expire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.tokens {
		if t.Kind == Access && !t.expires.IsZero() {
			t.expires = s.now()
		}
	}
}

// SignOut ends all tokens that there are: nobody is signed in any more.
func (s *SignIn) SignOut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.tokens {
		t.state = Ended
	}
}

// guard passes requests with a token of p's that holds, and notes all.
func (s *SignIn) guard(p *provider, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		value := bearer(r)
		s.mu.Lock()
		state, _ := s.look(p, value, Access, Key)
		s.note(r, value, state)
		s.mu.Unlock()
		if state != Current && state != Superseded {
			p.unauthorized(w, state)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// look says what a value is worth to p. The lock is held.
func (s *SignIn) look(p *provider, value string, kinds ...Kind) (State, *token) {
	t := s.tokens[value]
	switch {
	case value == "":
		return None, nil
	case t == nil || t.login.provider != p || !slices.Contains(kinds, t.Kind):
		return Unknown, nil
	case t.state != Ended && !t.expires.IsZero() && !s.now().Before(t.expires):
		return Expired, t
	}
	return t.state, t
}

// note adds to the uses. The lock is held.
func (s *SignIn) note(r *http.Request, value string, state State) {
	s.uses = append(s.uses, Use{r.Method + " " + r.Host + r.URL.Path, value, state})
}

// keep makes value a token of l's. The lock is held.
func (s *SignIn) keep(l *login, kind Kind, value string, expires time.Time) string {
	secret := Secret{kind, value}
	s.issued = append(s.issued, secret)
	s.tokens[value] = &token{secret, l, expires, Current}
	return value
}

// renew gives l new tokens. The lock is held.
func (s *SignIn) renew(l *login) {
	p := l.provider
	if old := s.tokens[l.access]; old != nil && old.state == Current {
		old.state = Superseded
	}
	l.accessEnds = noEnd
	if !p.lasting {
		l.accessEnds = s.now().Add(cmp.Or(s.Life, time.Hour))
	}
	l.access = s.keep(l, Access, p.access(l), l.accessEnds)
	if p.refresh != nil && (p.rotates || l.refresh == "") {
		if old := s.tokens[l.refresh]; old != nil {
			old.state = Ended
		}
		l.refresh = s.keep(l, Refresh, p.refresh(l), noEnd)
	}
	if p.openID != nil {
		if old := s.tokens[l.id]; old != nil && old.state == Current {
			old.state = Superseded
		}
		l.id = s.keep(l, ID, p.openID(l), noEnd)
		s.issued = append(s.issued, Secret{Signature, l.id[strings.LastIndexByte(l.id, '.')+1:]})
	}
}

// noEnd is when what does not expire does.
var noEnd time.Time

// answer is the token endpoint's, with what the provider adds. The lock is held.
func (s *SignIn) answer(l *login, more object) object {
	v := object{"access_token": l.access, "token_type": "Bearer", "scope": l.scope}
	if !l.accessEnds.IsZero() {
		// Whole seconds, and never 0, which is no life.
		v["expires_in"] = max(1, int(l.accessEnds.Sub(s.now()).Round(time.Second)/time.Second))
	}
	if l.refresh != "" {
		v["refresh_token"] = l.refresh
	}
	if l.id != "" {
		v["id_token"] = l.id
	}
	for k, x := range more {
		v[k] = x
	}
	return v
}

// bearer is the credential of a request's header.
func bearer(r *http.Request) string {
	if key := r.Header.Get("X-Api-Key"); key != "" {
		return key
	}
	_, value, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	return value
}

// params are the fields of a request for tokens, which is JSON or a form.
func params(r *http.Request) (map[string]string, error) {
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	switch kind {
	case "application/json":
		var fields map[string]any
		if err := json.Unmarshal(body, &fields); err != nil {
			return nil, err
		}
		for k, v := range fields {
			out[k] = fmt.Sprint(v)
		}
	case "application/x-www-form-urlencoded":
		fields, err := url.ParseQuery(string(body))
		if err != nil {
			return nil, err
		}
		for k := range fields {
			out[k] = fields.Get(k)
		}
	default:
		return nil, fmt.Errorf("a body of type %q", kind)
	}
	return out, nil
}

package standin

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"html"
	"net/http"
	"net/url"
	"slices"
	"time"
)

// code is an authorization code, and what was asked for with it.
type code struct {
	provider         *provider
	client, redirect string
	challenge, scope string
	expires          time.Time
}

// device is a request for a sign-in from elsewhere.
type device struct {
	provider      *provider
	client, scope string
	id, user      string
	approved      bool
	done          bool
}

// Approve is a user who enters the code at the page for devices, signed in.
func (s *SignIn) Approve(userCode string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.devices {
		if d.user == userCode && !d.done {
			d.approved = true
			return nil
		}
	}
	return fmt.Errorf("no device waits with the code %q", userCode)
}

// authorize is the page where the user says yes; this one always does. What is
// wrong with the client or the redirect is never redirected.
func (s *SignIn) authorize(p *provider) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		c, known := p.clients[q.Get("client_id")]
		redirect, err := url.Parse(q.Get("redirect_uri"))
		switch {
		case !known:
			http.Error(w, "unknown client_id", http.StatusBadRequest)
			return
		case err != nil || !c.allows(redirect):
			http.Error(w, "redirect_uri is not registered", http.StatusBadRequest)
			return
		}
		back := redirect.Query()
		back.Set("state", q.Get("state"))
		if wrong := wrongRequest(c, q); wrong != "" {
			back.Set("error", "invalid_request")
			back.Set("error_description", wrong)
		} else {
			back.Set("code", s.newCode(&code{
				provider: p, client: q.Get("client_id"), redirect: q.Get("redirect_uri"),
				challenge: q.Get("code_challenge"), scope: q.Get("scope"),
			}))
		}
		redirect.RawQuery = back.Encode()
		http.Redirect(w, r, redirect.String(), http.StatusFound)
	}
}

func wrongRequest(c client, q url.Values) string {
	challenge, method := q.Get("code_challenge"), q.Get("code_challenge_method")
	switch {
	case q.Get("response_type") != "code" && !c.untyped:
		return "response_type is not code"
	case len(q.Get("state")) < 8:
		return "state is missing"
	case q.Get("scope") == "":
		return "scope is missing"
	case challenge == "" && c.plain:
		return ""
	case method != "S256" || len(challenge) != base64.RawURLEncoding.EncodedLen(sha256.Size):
		return "code_challenge is not S256"
	}
	return ""
}

// allows says whether codes may go there.
func (c client) allows(u *url.URL) bool {
	at := func(host string) string { return u.Scheme + "://" + host + u.Path }
	return u.Fragment == "" && u.User == nil &&
		(slices.Contains(c.redirects, at(u.Host)) || u.Port() != "" && slices.Contains(c.redirects, at(u.Hostname()+":*")))
}

// proves says whether the client is who it says.
func (c client) proves(secret string) bool { return c.secret == secret || c.secret == anySecret }

func (s *SignIn) newCode(c *code) string {
	value := "code-" + rand.Text()
	s.mu.Lock()
	defer s.mu.Unlock()
	c.expires = s.now().Add(10 * time.Minute)
	s.codes[value] = c
	return value
}

// showCode is the page from which a code is copied into a terminal, in a form
// made of the page's parameters.
func showCode(form func(code, state string) string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprintf(w, "<p>Paste this code: <code>%s</code></p>\n", html.EscapeString(form(r.FormValue("code"), r.FormValue("state"))))
	}
}

// redeem turns a code into a sign-in. A code works once, whatever comes of it.
// The lock is held.
func (s *SignIn) redeem(p *provider, f map[string]string) (*login, *refusal) {
	c := s.codes[f["code"]]
	delete(s.codes, f["code"])
	known, secret := p.clients[f["client_id"]], f["client_secret"]
	switch {
	case c == nil || c.provider != p || !s.now().Before(c.expires):
		return nil, &refusal{code: "invalid_grant", text: "Invalid 'code' in request."}
	case c.client != f["client_id"] || !known.proves(secret):
		return nil, &refusal{code: "invalid_client", text: "The client is not the one that asked for the code."}
	case c.redirect != f["redirect_uri"]:
		return nil, &refusal{code: "invalid_grant", text: "redirect_uri is not the one of the code."}
	case c.challenge != "" && !verifies(f["code_verifier"], c.challenge):
		return nil, &refusal{code: "invalid_grant", text: "Invalid 'code_verifier' in request."}
	}
	return s.begin(p, c.client, c.scope), nil
}

// begin makes a sign-in. The lock is held.
func (s *SignIn) begin(p *provider, client, scope string) *login {
	l := &login{provider: p, client: client, scope: scope}
	s.renew(l)
	return l
}

// exchange renews a sign-in by its refresh token. The lock is held.
func (s *SignIn) exchange(r *http.Request, p *provider, f map[string]string) (*login, *refusal) {
	state, t := s.look(p, f["refresh_token"], Refresh)
	s.note(r, f["refresh_token"], state)
	switch known := p.clients[f["client_id"]]; {
	case state == Ended:
		return nil, &refusal{code: "invalid_grant", text: "Refresh token not found or invalid", reused: true}
	case state != Current:
		return nil, &refusal{code: "invalid_grant", text: "Refresh token not found or invalid"}
	case t.login.client != f["client_id"] || !known.proves(f["client_secret"]):
		return nil, &refusal{code: "invalid_client", text: "The client is not the one that signed in."}
	}
	s.renew(t.login)
	s.refreshes++
	return t.login, nil
}

// revoke ends a token, and with a refresh token its sign-in.
func (s *SignIn) revoke(p *provider) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		f, err := params(r)
		if err != nil {
			p.refuse(w, &refusal{code: "invalid_request", text: err.Error()})
			return
		}
		s.mu.Lock()
		state, t := s.look(p, f["token"], Access, Refresh)
		s.note(r, f["token"], state)
		if t != nil {
			t.state = Ended
			for _, other := range s.tokens {
				if t.Kind == Refresh && other.login == t.login && other.Kind != Key {
					other.state = Ended
				}
			}
		}
		s.mu.Unlock()
		reply(w, object{}) // to an unknown token too, as the standard has it
	}
}

// grant answers a request for tokens. The lock is held.
type grant func(r *http.Request, f map[string]string) (object, *refusal)

// grants are those that all have, by grant_type; more is what the provider
// adds to its answers.
func (s *SignIn) grants(p *provider, more object) map[string]grant {
	return map[string]grant{
		"authorization_code": func(_ *http.Request, f map[string]string) (object, *refusal) {
			l, wrong := s.redeem(p, f)
			if wrong != nil {
				return nil, wrong
			}
			return s.answer(l, more), nil
		},
		"refresh_token": func(r *http.Request, f map[string]string) (object, *refusal) {
			l, wrong := s.exchange(r, p, f)
			if wrong != nil {
				return nil, wrong
			}
			v := s.answer(l, more)
			if !p.rotates { // it stays what it is, and is not repeated
				delete(v, "refresh_token")
			}
			return v, nil
		},
	}
}

// tokenEndpoint answers the grants, and those only.
func (s *SignIn) tokenEndpoint(p *provider, grants map[string]grant) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		f, err := params(r)
		if err != nil {
			p.refuse(w, &refusal{code: "invalid_request", text: err.Error()})
			return
		}
		give := grants[f["grant_type"]]
		if give == nil {
			p.refuse(w, &refusal{code: "unsupported_grant_type", text: "no such grant_type: " + f["grant_type"]})
			return
		}
		s.mu.Lock()
		v, wrong := give(r, f)
		s.mu.Unlock()
		if wrong != nil {
			p.refuse(w, wrong)
			return
		}
		w.Header().Set("Cache-Control", "no-store")
		reply(w, v)
	}
}

// newDevice begins a sign-in from elsewhere.
func (s *SignIn) newDevice(p *provider, client, scope string) *device {
	text := rand.Text()
	d := &device{provider: p, client: client, scope: scope, id: "device-" + rand.Text(), user: text[:4] + "-" + text[4:8]}
	s.mu.Lock()
	s.devices = append(s.devices, d)
	s.mu.Unlock()
	return d
}

// device is the one with the id. The lock is held.
func (s *SignIn) device(p *provider, id string) *device {
	for _, d := range s.devices {
		if d.provider == p && d.id == id && !d.done {
			return d
		}
	}
	return nil
}

func challengeOf(verifier string) string {
	sum := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func verifies(verifier, challenge string) bool {
	return len(verifier) >= 43 && subtle.ConstantTimeCompare([]byte(challengeOf(verifier)), []byte(challenge)) == 1
}

package standin

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// SignIn stands in for providers that one signs in with by OAuth 2.0, with a code
// (RFC 6749 §4.1, with the proof of RFC 7636) or on another device (RFC 8628):
// authorizing, tokens, renewals, of which each spends what it was made with, and
// what agents ask right after. What is behind a login it passes on to API. It is
// safe for concurrent use.
type SignIn struct {
	// API answers who comes with an access token that holds.
	API http.Handler
	// Life is how long an access token holds; 0 for an hour.
	Life time.Duration
	// Person is who signs in; "" for person@example.com.
	Person string

	mu      sync.Mutex
	codes   map[string]url.Values // that wait for their exchange
	access  map[string]time.Time  // tokens and their ends
	refresh map[string]bool       // those that were not spent
	issued  []string
	renewed int
	refused int
}

// SignInHosts are the hosts that it is.
var SignInHosts = []string{
	"claude.com", "claude.ai", "platform.claude.com", "api.anthropic.com",
	"auth.openai.com", "chatgpt.com", "api.openai.com",
	"accounts.google.com", "oauth2.googleapis.com", "www.googleapis.com", "cloudcode-pa.googleapis.com",
	"github.com", "api.github.com", "api.githubcopilot.com",
}

// Issued are all the tokens that it gave, none of which a guest may see.
func (s *SignIn) Issued() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.issued)
}

// Renewed is how often tokens were renewed, and Refused how often somebody came
// with one that does not hold.
func (s *SignIn) Renewed() int { s.mu.Lock(); defer s.mu.Unlock(); return s.renewed }

// Refused is how often somebody came with a token that does not hold.
func (s *SignIn) Refused() int { s.mu.Lock(); defer s.mu.Unlock(); return s.refused }

// Expire ends all access tokens, and with all also what renews them.
func (s *SignIn) Expire(all bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.access)
	if all {
		clear(s.refresh)
	}
}

// ServeHTTP implements http.Handler.
func (s *SignIn) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(io.LimitReader(r.Body, 8<<20))
	r.Body = io.NopCloser(strings.NewReader(string(body)))
	switch host := strings.TrimSuffix(r.Host, ":443"); host + r.URL.Path {
	case "claude.com/cai/oauth/authorize", "claude.ai/oauth/authorize", "auth.openai.com/oauth/authorize",
		"accounts.google.com/o/oauth2/v2/auth":
		s.authorize(w, r)
	case "platform.claude.com/v1/oauth/token", "auth.openai.com/oauth/token", "oauth2.googleapis.com/token",
		"github.com/login/oauth/access_token":
		s.token(w, r, host, body)
	case "github.com/login/device/code":
		say(w, http.StatusOK, map[string]any{
			"device_code": s.code(url.Values{}), "user_code": "ABCD-1234", "verification_uri": "https://github.com/login/device", "interval": 1, "expires_in": 900,
		})
	default:
		s.behind(w, r)
	}
}

// authorize is the page on which the person agrees, at once.
func (s *SignIn) authorize(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	to, err := url.Parse(q.Get("redirect_uri"))
	if err != nil || q.Get("response_type") != "code" || q.Get("client_id") == "" || q.Get("code_challenge_method") != "S256" || q.Get("code_challenge") == "" {
		http.Error(w, "bad request: "+r.URL.RawQuery, http.StatusBadRequest)
		return
	}
	code := s.code(q)
	to.RawQuery = url.Values{"code": {code}, "state": {q.Get("state")}}.Encode()
	http.Redirect(w, r, to.String(), http.StatusFound)
}

// code makes a code for what was asked.
func (s *SignIn) code(asked url.Values) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.codes == nil {
		s.codes, s.access, s.refresh = map[string]url.Values{}, map[string]time.Time{}, map[string]bool{}
	}
	code := "code-" + random()
	s.codes[code] = asked
	return code
}

// Code agrees to a page as a person would, and returns the code that they would
// type; "" for a page that makes no sense.
func (s *SignIn) Code(page string) string {
	u, err := url.Parse(page)
	if err != nil {
		return ""
	}
	return s.code(u.Query())
}

func random() string {
	var b [20]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// token is the token endpoint.
func (s *SignIn) token(w http.ResponseWriter, r *http.Request, host string, body []byte) {
	said := map[string]string{}
	if strings.Contains(r.Header.Get("Content-Type"), "json") {
		var all map[string]any
		_ = json.Unmarshal(body, &all)
		for name, v := range all {
			said[name], _ = v.(string)
		}
	} else if form, err := url.ParseQuery(string(body)); err == nil {
		for name := range form {
			said[name] = form.Get(name)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	fail := func(code string) {
		s.refused++
		say(w, http.StatusBadRequest, map[string]any{"error": code})
	}
	switch said["grant_type"] {
	case "authorization_code":
		asked, ok := s.codes[said["code"]]
		delete(s.codes, said["code"])
		sum := sha256.Sum256([]byte(said["code_verifier"]))
		if !ok || asked.Get("code_challenge") != base64.RawURLEncoding.EncodeToString(sum[:]) || asked.Get("client_id") != said["client_id"] {
			fail("invalid_grant")
			return
		}
	case "urn:ietf:params:oauth:grant-type:device_code":
		if _, ok := s.codes[said["device_code"]]; !ok {
			fail("expired_token")
			return
		}
		delete(s.codes, said["device_code"])
	case "refresh_token":
		if !s.refresh[said["refresh_token"]] {
			fail("invalid_grant")
			return
		}
		delete(s.refresh, said["refresh_token"])
		s.renewed++
	default:
		fail("unsupported_grant_type")
		return
	}
	say(w, http.StatusOK, s.issue(host))
}

// issue makes new tokens in the provider's form. s.mu is held.
func (s *SignIn) issue(host string) map[string]any {
	life, person := s.Life, s.Person
	if life == 0 {
		life = time.Hour
	}
	if person == "" {
		person = "person@example.com"
	}
	prefix := map[string]string{"platform.claude.com": "sk-ant-oat01-", "github.com": "gho_", "oauth2.googleapis.com": "ya29."}[host]
	access, refresh := prefix+random()+random(), strings.Replace(prefix, "oat01", "ort01", 1)+"refresh-"+random()
	s.access[access], s.refresh[refresh] = time.Now().Add(life), true
	s.issued = append(s.issued, access, refresh)
	out := map[string]any{"access_token": access, "token_type": "Bearer"}
	if host == "github.com" {
		out["scope"] = "read:user"
		return out
	}
	out["refresh_token"], out["expires_in"] = refresh, int(life.Seconds())
	id := hex.EncodeToString([]byte(person))
	switch host {
	case "platform.claude.com":
		out["scope"] = "user:inference user:profile user:sessions:claude_code"
		out["account"] = map[string]any{"uuid": "account-" + id, "email_address": person}
		out["organization"] = map[string]any{"uuid": "organization-" + id, "name": "An Organization"}
	case "auth.openai.com":
		token := jwt(map[string]any{
			"sub": "user-" + id, "email": person, "exp": time.Now().Add(life).Unix(),
			"https://api.openai.com/auth": map[string]any{"chatgpt_account_id": "account-" + id, "chatgpt_plan_type": "plus", "chatgpt_user_id": "user-" + id},
		})
		out["id_token"] = token
		s.issued = append(s.issued, token[strings.LastIndexByte(token, '.')+1:])
	case "oauth2.googleapis.com":
		out["scope"] = "https://www.googleapis.com/auth/cloud-platform openid https://www.googleapis.com/auth/userinfo.email"
	}
	return out
}

// jwt is a token with these claims and a signature that nobody can check.
func jwt(claims map[string]any) string {
	b, _ := json.Marshal(claims)
	enc := base64.RawURLEncoding.EncodeToString
	return enc([]byte(`{"alg":"RS256","typ":"JWT"}`)) + "." + enc(b) + "." + enc([]byte("signature-"+random()))
}

// behind is what needs a login.
func (s *SignIn) behind(w http.ResponseWriter, r *http.Request) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	s.mu.Lock()
	until, ok := s.access[token]
	ok = ok && time.Now().Before(until) && (strings.EqualFold(scheme, "bearer") || strings.EqualFold(scheme, "token"))
	if !ok && scheme != "" {
		s.refused++
	}
	s.mu.Unlock()
	if !ok {
		say(w, http.StatusUnauthorized, map[string]any{"type": "error", "error": map[string]any{"type": "authentication_error", "message": "no token that holds"}})
		return
	}
	person := s.Person
	if person == "" {
		person = "person@example.com"
	}
	id := hex.EncodeToString([]byte(person))
	switch r.URL.Path {
	case "/api/oauth/profile":
		say(w, http.StatusOK, map[string]any{
			"account":      map[string]any{"uuid": "account-" + id, "email": person, "display_name": "A Person", "created_at": "2024-01-01T00:00:00Z"},
			"organization": map[string]any{"uuid": "organization-" + id, "organization_type": "claude_max", "rate_limit_tier": "default", "billing_type": "stripe_subscription", "subscription_created_at": "2024-01-01T00:00:00Z"},
		})
	case "/api/oauth/claude_cli/roles":
		say(w, http.StatusOK, map[string]any{"organization_role": "user", "workspace_role": nil, "organization_name": "An Organization"})
	default:
		s.API.ServeHTTP(w, r)
	}
}

func say(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

package standin

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"io"
	"net/http"
	"net/url"
	"strings"
)

var anthropicHosts = []string{"claude.com", "claude.ai", "platform.claude.com", "console.anthropic.com", "api.anthropic.com"}

// claudeClient is Claude Code, as Anthropic knows it.
const claudeClient = "9d1c250a-e61b-44d9-88ed-5944d1962f5e"

// The account that signs in at Anthropic.
const (
	claudeAccount      = "0c0a0c0a-1111-4111-8111-111111111111"
	claudeOrganization = "0c0a0c0a-2222-4222-8222-222222222222"
)

func anthropic() *provider {
	return &provider{
		clients: map[string]client{claudeClient: {redirects: []string{
			"http://localhost:*/callback", "https://platform.claude.com/oauth/code/callback",
		}}},
		rotates: true,
		access:  func(*login) string { return "sk-ant-oat01-" + long() },
		refresh: func(*login) string { return "sk-ant-ort01-" + long() },
		refuse: func(w http.ResponseWriter, e *refusal) {
			replyStatus(w, http.StatusBadRequest, object{"error": e.code, "error_description": e.text})
		},
		unauthorized: func(w http.ResponseWriter, state State) {
			replyStatus(w, http.StatusUnauthorized, object{"type": "error", "error": object{
				"type": "authentication_error", "message": "OAuth token is " + string(state) + ". Please obtain a new token or refresh your existing token.",
			}})
		},
	}
}

func (s *SignIn) serveAnthropic() {
	p := anthropic()
	s.mux.HandleFunc("GET claude.com/cai/oauth/authorize", s.authorize(p))
	s.mux.HandleFunc("GET claude.ai/oauth/authorize", lengthen(s.authorize(p)))
	s.mux.HandleFunc("GET platform.claude.com/oauth/authorize", lengthen(console(s.authorize(p))))
	s.mux.HandleFunc("GET platform.claude.com/oauth/code/callback", showCode(func(code, state string) string { return code + "#" + state }))
	s.mux.HandleFunc("GET platform.claude.com/oauth/code/success", say("You are signed in."))
	s.mux.HandleFunc("GET platform.claude.com/buy_credits", say("You are signed in."))
	s.mux.HandleFunc("GET platform.claude.com/v1/oauth/hello", say("hello"))
	s.mux.HandleFunc("GET api.anthropic.com/api/hello", say("hello"))
	account := object{
		"account":      object{"uuid": claudeAccount, "email_address": "octo@example.com"},
		"organization": object{"uuid": claudeOrganization, "name": "Octo's Organization"},
	}
	s.mux.Handle("POST platform.claude.com/v1/oauth/token", stamped(s.tokenEndpoint(p, s.grants(p, account))))
	s.mux.Handle("POST platform.claude.com/v1/oauth/token/revoke", stamped(s.revoke(p)))
	guarded := func(pattern string, h http.HandlerFunc) { s.mux.Handle(pattern, stamped(s.guard(p, h))) }
	guarded("GET api.anthropic.com/api/oauth/profile", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, claudeProfile())
	})
	guarded("GET api.anthropic.com/api/oauth/claude_cli/roles", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, object{"organization_role": "admin", "workspace_role": nil, "organization_name": "Octo's Organization"})
	})
	guarded("POST api.anthropic.com/api/oauth/claude_cli/create_api_key", func(w http.ResponseWriter, r *http.Request) {
		reply(w, object{"raw_key": s.newKey(p, "sk-ant-api03-"+long())})
	})
	guarded("api.anthropic.com/", s.Claude.ServeHTTP)
}

// stamped answers with a number of the request, as Anthropic does: Claude Code
// does not take what has none for its word.
func stamped(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Request-Id", "req_"+rand.Text())
		h.ServeHTTP(w, r)
	})
}

// claudeScopes are those that a short link has as bits, from the second on.
var claudeScopes = []string{
	"org:create_api_key", "user:profile", "user:inference", "user:sessions:claude_code", "user:mcp_servers", "user:file_upload",
	"user:plugins", "user:projects:read", "user:projects:write", "user:privacy_consents:write", "org:desktop_config",
}

const shortDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

// lengthen understands the links that Claude Code prints for a terminal, where
// the query is digits that say client and scopes, and then the challenge. The
// code is to be pasted, and the state is the provider's.
func lengthen(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		short, rest, _ := strings.Cut(r.URL.RawQuery, "&")
		digits := len(short) - base64.RawURLEncoding.EncodedLen(sha256.Size)
		if strings.Contains(short, "=") || digits < 1 {
			h(w, r)
			return
		}
		bits := 0
		for _, c := range short[:digits] {
			bits = bits<<6 | strings.IndexRune(shortDigits, c)
		}
		scopes := []string{}
		for i, name := range claudeScopes {
			if bits&(2<<i) != 0 {
				scopes = append(scopes, name)
			}
		}
		q, err := url.ParseQuery(rest)
		if err != nil || bits&1 != 0 { // another client
			http.Error(w, "not a link of Claude Code's", http.StatusBadRequest)
			return
		}
		for k, v := range map[string]string{
			"code": "true", "response_type": "code", "client_id": claudeClient, "redirect_uri": "https://platform.claude.com/oauth/code/callback",
			"code_challenge": short[digits:], "code_challenge_method": "S256", "state": rand.Text(),
			"scope": strings.TrimSpace(strings.Join(scopes, " ") + " " + q.Get("scope")),
		} {
			q.Set(k, v)
		}
		r.URL.RawQuery = q.Encode()
		h(w, r)
	}
}

// console is the page for those who pay by use: whatever is asked for, there is
// no right to call a model, but one to make a key that has it.
func console(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		q.Set("scope", "org:create_api_key user:profile")
		r.URL.RawQuery = q.Encode()
		h(w, r)
	}
}

func claudeProfile() object {
	return object{
		"account": object{
			"uuid": claudeAccount, "email": "octo@example.com", "display_name": "Octo", "full_name": "Octo Cat",
			"has_claude_max": true, "has_claude_pro": false, "created_at": "2025-01-01T00:00:00Z",
		},
		"organization": object{
			"uuid": claudeOrganization, "name": "Octo's Organization", "organization_type": "claude_max",
			"rate_limit_tier": "default_claude_max_5x", "billing_type": "stripe_subscription", "has_extra_usage_enabled": false,
			"subscription_created_at": "2025-01-01T00:00:00Z", "cc_onboarding_flags": object{},
		},
	}
}

// newKey is an API key of p's.
func (s *SignIn) newKey(p *provider, value string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keep(&login{provider: p}, Key, value, noEnd)
}

// long is as long and as random as real tokens are.
func long() string { return rand.Text() + rand.Text() + rand.Text() }

// say is a page with one sentence.
func say(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text+"\n") }
}

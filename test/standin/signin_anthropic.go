package standin

import (
	"crypto/rand"
	"io"
	"net/http"
)

var anthropicHosts = []string{"claude.com", "claude.ai", "platform.claude.com", "console.anthropic.com", "api.anthropic.com"}

// claudeClient is Claude Code, as Anthropic knows it.
const claudeClient = "9d1c250a-e61b-44d9-88ed-5944d1962f5e"

// The account that signs in at Anthropic.
const (
	claudeAccount      = "0c0a0c0a-1111-4111-8111-111111111111"
	claudeOrganization = "0c0a0c0a-2222-4222-8222-222222222222"
)

func (s *SignIn) serveAnthropic() {
	p := &provider{
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
	stamped := func(h http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Request-Id", "req_"+rand.Text()) // what has none does not count as Anthropic's word
			h(w, r)
		}
	}
	account := object{"uuid": claudeAccount, "email_address": "octo@example.com"}
	organization := object{"uuid": claudeOrganization, "name": "Octo's Organization"}
	more := object{"account": account, "organization": organization}
	grants := map[string]func(*http.Request, map[string]string) (object, *refusal){
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
			return s.answer(l, more), nil
		},
	}
	for _, page := range []string{"claude.com/cai/oauth/authorize", "claude.ai/oauth/authorize", "platform.claude.com/oauth/authorize"} {
		s.mux.HandleFunc("GET "+page, s.authorize(p))
	}
	s.mux.HandleFunc("GET platform.claude.com/oauth/code/callback", showCode)
	s.mux.HandleFunc("GET platform.claude.com/oauth/code/success", say("You are signed in."))
	s.mux.HandleFunc("GET platform.claude.com/buy_credits", say("You are signed in."))
	s.mux.HandleFunc("GET platform.claude.com/v1/oauth/hello", say("hello"))
	s.mux.HandleFunc("GET api.anthropic.com/api/hello", say("hello"))
	s.mux.HandleFunc("POST platform.claude.com/v1/oauth/token", stamped(s.tokenEndpoint(p, grants)))
	s.mux.HandleFunc("POST platform.claude.com/v1/oauth/token/revoke", stamped(s.revoke(p)))
	guarded := func(h http.HandlerFunc) http.HandlerFunc { return stamped(s.guard(p, h).ServeHTTP) }
	s.mux.HandleFunc("GET api.anthropic.com/api/oauth/profile", guarded(func(w http.ResponseWriter, _ *http.Request) {
		reply(w, claudeProfile())
	}))
	s.mux.HandleFunc("GET api.anthropic.com/api/oauth/claude_cli/roles", guarded(func(w http.ResponseWriter, _ *http.Request) {
		reply(w, object{"organization_role": "admin", "workspace_role": nil, "organization_name": organization["name"]})
	}))
	s.mux.HandleFunc("POST api.anthropic.com/api/oauth/claude_cli/create_api_key", guarded(func(w http.ResponseWriter, r *http.Request) {
		reply(w, object{"raw_key": s.newKey(bearer(r), "sk-ant-api03-"+long())})
	}))
	s.mux.HandleFunc("api.anthropic.com/", guarded(s.Claude.ServeHTTP))
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

// newKey is an API key for the account that the token is of.
func (s *SignIn) newKey(accessToken, value string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := &login{provider: s.tokens[accessToken].login.provider}
	return s.keep(l, Key, value, noEnd)
}

// long is as long and as random as real tokens are.
func long() string { return rand.Text() + rand.Text() + rand.Text() }

// say is a page with one sentence.
func say(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text+"\n") }
}

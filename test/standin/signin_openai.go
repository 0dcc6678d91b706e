package standin

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
)

var openaiHosts = []string{"auth.openai.com", "chatgpt.com", "api.openai.com", "models.opencode.ai", "models.dev"}

// codexClient is Codex, and OpenCode under its name.
const codexClient = "app_EMoamEEZ73f0CkXaXp7hrann"

// openaiAccount is the account that signs in at OpenAI.
const openaiAccount = "acc0acc0-3333-4333-8333-333333333333"

const deviceCallback = "https://auth.openai.com/deviceauth/callback"

func openai() *provider {
	key := []byte(rand.Text())
	return &provider{
		clients: map[string]client{codexClient: {redirects: []string{
			"http://localhost:1455/auth/callback", "http://localhost:1457/auth/callback",
			"http://127.0.0.1:1455/auth/callback", "http://127.0.0.1:1457/auth/callback", deviceCallback,
		}}},
		rotates: true,
		access: func(l *login) string {
			return jwt(key, object{"exp": l.accessEnds.Unix(), "scp": []string{"openid"}, "https://api.openai.com/auth": openaiClaims()})
		},
		refresh: func(*login) string { return "rt_" + long() },
		openID: func(l *login) string {
			return jwt(key, object{
				"iss": "https://auth.openai.com", "aud": []string{l.client}, "exp": l.accessEnds.Unix(),
				"email": "octo@example.com", "email_verified": true, "https://api.openai.com/auth": openaiClaims(),
			})
		},
		refuse: func(w http.ResponseWriter, e *refusal) {
			status := http.StatusBadRequest
			if e.reused {
				status, e.code = http.StatusUnauthorized, "refresh_token_reused"
			}
			replyStatus(w, status, object{"error": object{"message": e.text, "type": "invalid_request_error", "param": nil, "code": e.code}})
		},
		unauthorized: func(w http.ResponseWriter, state State) {
			replyStatus(w, http.StatusUnauthorized, object{"error": object{
				"message": "Provided authentication token is " + string(state) + ". Please try signing in again.", "type": nil, "code": "token_" + string(state), "param": nil,
			}})
		},
	}
}

func (s *SignIn) serveOpenAI(model OpenAI) {
	p := openai()
	grants := s.grants(p, nil)
	grants["urn:ietf:params:oauth:grant-type:token-exchange"] = func(r *http.Request, f map[string]string) (object, *refusal) {
		return s.apiKey(r, p, f)
	}
	s.mux.HandleFunc("GET auth.openai.com/oauth/authorize", s.authorize(p))
	s.mux.HandleFunc("GET auth.openai.com/codex/device", say("Enter the code that the device shows."))
	s.mux.HandleFunc("POST auth.openai.com/oauth/token", s.tokenEndpoint(p, grants))
	s.mux.HandleFunc("POST auth.openai.com/oauth/revoke", s.revoke(p))
	s.mux.HandleFunc("POST auth.openai.com/api/accounts/deviceauth/usercode", func(w http.ResponseWriter, r *http.Request) {
		s.codexDevice(w, r, p)
	})
	s.mux.HandleFunc("POST auth.openai.com/api/accounts/deviceauth/token", func(w http.ResponseWriter, r *http.Request) {
		s.codexPoll(w, r, p)
	})
	// Codex takes no turn before it knows where its workspace is served.
	s.mux.Handle("GET chatgpt.com/backend-api/wham/accounts/check", s.guard(p, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		reply(w, object{"accounts": []any{openaiWorkspace()}, "default_account_id": openaiAccount, "account_ordering": []string{openaiAccount}})
	})))
	s.mux.Handle("chatgpt.com/backend-api/", s.guard(p, model))
	s.mux.Handle("api.openai.com/", s.guard(p, model))
	for _, host := range []string{"models.opencode.ai", "models.dev"} {
		s.mux.HandleFunc("GET "+host+"/api.json", func(w http.ResponseWriter, _ *http.Request) {
			all := catalogue("openai", "OpenAI", "gpt-5.5")
			maps.Copy(all, catalogue("github-copilot", "GitHub Copilot", copilotModels[0]))
			reply(w, all)
		})
	}
}

// apiKey trades an ID token for an API key. The lock is held.
func (s *SignIn) apiKey(r *http.Request, p *provider, f map[string]string) (object, *refusal) {
	state, t := s.look(p, f["subject_token"], ID)
	s.note(r, f["subject_token"], state)
	switch {
	case state != Current:
		return nil, &refusal{code: "invalid_grant", text: "subject_token is " + string(state)}
	case f["requested_token"] != "openai-api-key" || f["subject_token_type"] != "urn:ietf:params:oauth:token-type:id_token":
		return nil, &refusal{code: "invalid_request", text: "no such exchange"}
	}
	return object{"access_token": s.keep(t.login, Key, "sk-proj-"+long(), noEnd)}, nil
}

func (s *SignIn) codexDevice(w http.ResponseWriter, r *http.Request, p *provider) {
	f, err := params(r)
	if _, known := p.clients[f["client_id"]]; err != nil || !known {
		p.refuse(w, &refusal{code: "invalid_client", text: "unknown client"})
		return
	}
	d := s.newDevice(p, f["client_id"], "openid profile email offline_access")
	reply(w, object{"device_auth_id": d.id, "user_code": d.user, "interval": "1"})
}

// codexPoll hands out a code with the verifier that goes with it: here the
// provider, not the device, has made them.
func (s *SignIn) codexPoll(w http.ResponseWriter, r *http.Request, p *provider) {
	f, err := params(r)
	if err != nil {
		p.refuse(w, &refusal{code: "invalid_request", text: err.Error()})
		return
	}
	s.mu.Lock()
	d := s.device(p, f["device_auth_id"])
	granted := d != nil && d.user == f["user_code"] && d.approved
	if granted {
		d.done = true
	}
	s.mu.Unlock()
	if !granted {
		replyStatus(w, http.StatusForbidden, object{"error": object{"code": "deviceauth_authorization_pending"}})
		return
	}
	verifier := long()
	reply(w, object{
		"authorization_code": s.newCode(&code{
			provider: p, client: d.client, redirect: deviceCallback, challenge: challengeOf(verifier), scope: d.scope,
		}),
		"code_challenge": challengeOf(verifier), "code_verifier": verifier,
	})
}

func openaiClaims() object {
	return object{
		"chatgpt_account_id": openaiAccount, "chatgpt_user_id": "user-octo", "user_id": "user-octo", "chatgpt_plan_type": "plus",
		"organizations":   []any{object{"id": "org-octo", "is_default": true, "role": "owner", "title": "Personal"}},
		"organization_id": "org-octo", "project_id": "proj-octo", "completed_platform_onboarding": true, "is_org_owner": true,
	}
}

func openaiWorkspace() object {
	return object{
		"id": openaiAccount, "account_user_id": "user-octo", "account_user_role": "account-owner", "structure": "personal", "plan_type": "plus",
		"is_zdr": false, "workspace_backend_origin": "https://chatgpt.com", "account_routing_override": "NO_CONSTRAINT",
	}
}

// jwt is a token that says claims, and something that no other does.
func jwt(key []byte, claims object) string {
	claims["jti"] = rand.Text()
	part := func(v any) string {
		data, _ := json.Marshal(v) // maps of strings and numbers
		return base64.RawURLEncoding.EncodeToString(data)
	}
	text := part(object{"alg": "HS256", "typ": "JWT"}) + "." + part(claims)
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(text))
	return text + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

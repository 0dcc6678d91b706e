package standin

import "net/http"

var githubHosts = []string{"github.com", "api.github.com", "api.githubcopilot.com"}

// The programs that GitHub knows: Copilot CLI, and OpenCode. Copilot CLI has
// a secret for its browser flow, which everybody has.
const (
	copilotClient  = "Ov23ctDVkRmgkPke0Mmm"
	openCodeClient = "Ov23li8tweQw6odWQebz"
)

const deviceGrant = "urn:ietf:params:oauth:grant-type:device_code"

func github() *provider {
	return &provider{
		clients: map[string]client{
			copilotClient:  {secret: anySecret, untyped: true, redirects: []string{"http://127.0.0.1:*/callback"}},
			openCodeClient: {},
		},
		lasting: true,
		access:  func(*login) string { return "gho_" + long()[:36] },
		// GitHub's refusals have status 200.
		refuse: func(w http.ResponseWriter, e *refusal) {
			if e.code == "invalid_grant" {
				e.code = "bad_verification_code"
			}
			reply(w, object{"error": e.code, "error_description": e.text, "error_uri": "https://docs.github.com"})
		},
		unauthorized: func(w http.ResponseWriter, _ State) {
			replyStatus(w, http.StatusUnauthorized, object{"message": "Bad credentials", "documentation_url": "https://docs.github.com/rest", "status": "401"})
		},
	}
}

func (s *SignIn) serveGitHub(model Copilot) {
	p := github()
	grants := s.grants(p, nil)
	grants[""] = grants["authorization_code"] // GitHub does not ask for it
	grants[deviceGrant] = func(_ *http.Request, f map[string]string) (object, *refusal) {
		return s.githubPoll(p, f)
	}
	s.mux.HandleFunc("GET github.com/login/oauth/authorize", s.authorize(p))
	s.mux.HandleFunc("GET github.com/login/device", say("Enter the code that the device shows."))
	s.mux.HandleFunc("POST github.com/login/oauth/access_token", s.tokenEndpoint(p, grants))
	s.mux.HandleFunc("POST github.com/login/device/code", func(w http.ResponseWriter, r *http.Request) {
		s.githubDevice(w, r, p)
	})
	s.mux.Handle("api.github.com/", s.guard(p, model))
	s.mux.Handle("api.githubcopilot.com/", s.guard(p, model))
}

func (s *SignIn) githubDevice(w http.ResponseWriter, r *http.Request, p *provider) {
	f, err := params(r)
	if _, known := p.clients[f["client_id"]]; err != nil || !known {
		p.refuse(w, &refusal{code: "incorrect_client_credentials", text: "unknown client"})
		return
	}
	d := s.newDevice(p, f["client_id"], f["scope"])
	reply(w, object{
		"device_code": d.id, "user_code": d.user, "verification_uri": "https://github.com/login/device", "expires_in": 900, "interval": 1,
	})
}

// githubPoll answers a device that asks whether it may. The lock is held.
func (s *SignIn) githubPoll(p *provider, f map[string]string) (object, *refusal) {
	d := s.device(p, f["device_code"])
	switch {
	case d == nil || d.client != f["client_id"]:
		return nil, &refusal{code: "incorrect_device_code", text: "The device_code provided is not valid."}
	case !d.approved:
		return nil, &refusal{code: "authorization_pending", text: "The authorization request is still pending."}
	}
	d.done = true
	return s.answer(s.begin(p, d.client, d.scope), nil), nil
}

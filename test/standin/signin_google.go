package standin

import (
	"crypto/rand"
	"net/http"
	"strings"
)

var googleHosts = []string{"accounts.google.com", "oauth2.googleapis.com", "www.googleapis.com", "cloudcode-pa.googleapis.com",
	"codeassist.google.com", "developers.google.com"}

// Gemini CLI, as Google knows it. Its secret is none: it is in every copy of
// the program, and Google's documentation of installed programs says so.
const (
	geminiClient = "681255809395-oo8ft2oprdrnp9e3aqf6av3hmdib135j.apps.googleusercontent.com"
	geminiSecret = "GOCSPX-" + "4uHgMPm-1o7Sk-geV6Cu5clXFsxl"
)

func google() *provider {
	key := []byte(rand.Text())
	return &provider{
		clients: map[string]client{geminiClient: {
			secret: geminiSecret, plain: true,
			redirects: []string{"http://127.0.0.1:*/oauth2callback", "http://localhost:*/oauth2callback", "https://codeassist.google.com/authcode"},
		}},
		access:  func(*login) string { return "ya29." + long() },
		refresh: func(*login) string { return "1//0" + long() },
		openID: func(l *login) string {
			return jwt(key, object{"iss": "https://accounts.google.com", "aud": l.client, "exp": l.accessEnds.Unix(), "email": "octo@example.com", "sub": "1234567890"})
		},
		refuse: func(w http.ResponseWriter, e *refusal) {
			status := http.StatusBadRequest
			if e.code == "invalid_client" {
				status = http.StatusUnauthorized
			}
			replyStatus(w, status, object{"error": e.code, "error_description": e.text})
		},
		unauthorized: func(w http.ResponseWriter, state State) {
			replyStatus(w, http.StatusUnauthorized, object{"error": object{
				"code": http.StatusUnauthorized, "status": "UNAUTHENTICATED", "message": "Request had invalid authentication credentials: " + string(state),
			}})
		},
	}
}

func (s *SignIn) serveGoogle(model Gemini) {
	p := google()
	s.mux.HandleFunc("GET accounts.google.com/o/oauth2/v2/auth", s.authorize(p))
	s.mux.HandleFunc("GET codeassist.google.com/authcode", showCode(func(code, _ string) string { return code }))
	s.mux.HandleFunc("GET developers.google.com/gemini-code-assist/", say("You may close this page."))
	s.mux.HandleFunc("POST oauth2.googleapis.com/token", s.tokenEndpoint(p, s.grants(p, nil)))
	s.mux.HandleFunc("POST oauth2.googleapis.com/revoke", s.revoke(p))
	s.mux.HandleFunc("oauth2.googleapis.com/tokeninfo", s.guard(p, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		reply(w, object{"aud": geminiClient, "azp": geminiClient, "scope": "https://www.googleapis.com/auth/cloud-platform", "expires_in": "3000", "email": "octo@example.com"})
	})).ServeHTTP)
	s.mux.Handle("GET www.googleapis.com/oauth2/v2/userinfo", s.guard(p, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		reply(w, object{"id": "1234567890", "email": "octo@example.com", "verified_email": true, "name": "Octo Cat"})
	})))
	s.mux.Handle("cloudcode-pa.googleapis.com/", s.guard(p, codeAssist(model)))
}

// codeAssist stands in for the API that Gemini CLI uses with an account.
func codeAssist(model Gemini) http.Handler {
	model.assist = true
	tier := object{"id": "free-tier", "name": "Gemini Code Assist for individuals", "isDefault": true}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch _, verb, _ := strings.Cut(r.URL.Path, ":"); verb {
		case "loadCodeAssist":
			reply(w, object{"currentTier": tier, "allowedTiers": []any{tier}, "cloudaicompanionProject": "octo-project"})
		case "onboardUser":
			reply(w, object{"name": "operations/1", "done": true, "response": object{"cloudaicompanionProject": object{"id": "octo-project", "name": "octo-project"}}})
		case "listExperiments", "retrieveUserQuota", "getCodeAssistGlobalUserSetting", "recordCodeAssistMetrics", "fetchAdminControls":
			reply(w, object{})
		default:
			model.ServeHTTP(w, r)
		}
	})
}

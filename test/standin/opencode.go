package standin

import (
	"net/http"
	"strings"
)

// OpenCode stands in for what OpenCode asks: the catalogue of models, and one
// provider's API.
type OpenCode struct{ Anthropic *Anthropic }

// ServeHTTP implements http.Handler.
func (o OpenCode) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/api.json" {
		o.Anthropic.ServeHTTP(w, r)
		return
	}
	reply(w, catalogue("anthropic", "Anthropic", "claude-sonnet-4-5"))
}

// catalogue is of one provider with one model.
func catalogue(provider, name, model string) object {
	return object{provider: object{
		"id": provider, "name": name, "env": []string{strings.ToUpper(provider) + "_API_KEY"}, "npm": "@ai-sdk/" + provider,
		"models": object{model: object{
			"id": model, "name": model, "release_date": "2025-09-29", "last_updated": "2025-09-29",
			"attachment": false, "reasoning": false, "temperature": true, "tool_call": true, "open_weights": false,
			"modalities": object{"input": []string{"text"}, "output": []string{"text"}},
			"cost":       object{"input": 3, "output": 15},
			"limit":      object{"context": 200000, "output": 64000},
		}},
	}}
}

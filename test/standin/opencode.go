package standin

import "net/http"

// OpenCode stands in for what OpenCode asks: the catalogue of models, and one
// provider's API.
type OpenCode struct{ Anthropic *Anthropic }

// ServeHTTP implements http.Handler.
func (o OpenCode) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/api.json" {
		o.Anthropic.ServeHTTP(w, r)
		return
	}
	reply(w, object{"anthropic": object{
		"id": "anthropic", "name": "Anthropic", "env": []string{"ANTHROPIC_API_KEY"}, "npm": "@ai-sdk/anthropic",
		"models": object{"claude-sonnet-4-5": object{
			"id": "claude-sonnet-4-5", "name": "Claude Sonnet 4.5", "release_date": "2025-09-29", "last_updated": "2025-09-29",
			"attachment": false, "reasoning": false, "temperature": true, "tool_call": true, "open_weights": false,
			"modalities": object{"input": []string{"text"}, "output": []string{"text"}},
			"cost":       object{"input": 3, "output": 15},
			"limit":      object{"context": 200000, "output": 64000},
		}},
	}})
}

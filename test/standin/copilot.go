package standin

import (
	"encoding/json"
	"io"
	"net/http"
)

// copilotModels are offered: the client takes none that it does not know.
var copilotModels = []string{"gpt-5-mini", "gpt-5.4", "gpt-5.5", "claude-haiku-4.5", "claude-sonnet-4.6", "claude-sonnet-5"}

// Copilot stands in for GitHub's API, as far as its Copilot asks it who the
// user is, and for Copilot's own: whatever is asked, it says Text.
type Copilot struct{ Text string }

// ServeHTTP implements http.Handler.
func (c Copilot) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/user":
		reply(w, object{"login": "octocat", "id": 1})
	case "/copilot_internal/user":
		reply(w, object{
			"login": "octocat", "copilot_plan": "individual", "is_mcp_enabled": true, "access_type_sku": "copilot_for_individual", "chat_enabled": true,
			"endpoints": object{"api": "https://api.githubcopilot.com"},
		})
	case "/models":
		var all []any
		for _, id := range copilotModels {
			all = append(all, c.model(id))
		}
		reply(w, object{"object": "list", "data": all})
	case "/chat/completions":
		c.complete(w, r)
	default:
		http.NotFound(w, r)
	}
}

func (c Copilot) model(id string) object {
	return object{
		"id": id, "name": id, "object": "model", "vendor": "stand-in", "version": id, "preview": false,
		"model_picker_enabled": true, "policy": object{"state": "enabled"}, "supported_endpoints": []string{"/chat/completions"},
		"capabilities": object{
			"type": "chat", "family": id, "tokenizer": "o200k_base", "object": "model_capabilities",
			"limits":   object{"max_context_window_tokens": 128000, "max_output_tokens": 16000, "max_prompt_tokens": 112000},
			"supports": object{"streaming": true, "tool_calls": true, "parallel_tool_calls": true},
		},
	}
}

func (c Copilot) complete(w http.ResponseWriter, r *http.Request) {
	var req struct {
		Model  string `json:"model"`
		Stream bool   `json:"stream"`
	}
	if err := json.NewDecoder(io.LimitReader(r.Body, 64<<20)).Decode(&req); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	head := object{"id": "chatcmpl-01", "created": 1700000000, "model": req.Model}
	usage := object{"prompt_tokens": 10, "completion_tokens": 10, "total_tokens": 20}
	if !req.Stream {
		head["object"], head["usage"] = "chat.completion", usage
		head["choices"] = []any{object{"index": 0, "finish_reason": "stop", "message": object{"role": "assistant", "content": c.Text}}}
		reply(w, head)
		return
	}
	e := newEvents(w)
	head["object"] = "chat.completion.chunk"
	half := len(c.Text) / 2
	for _, delta := range []object{{"role": "assistant", "content": ""}, {"content": c.Text[:half]}, {"content": c.Text[half:]}} {
		head["choices"] = []any{object{"index": 0, "delta": delta, "finish_reason": nil}}
		e.send("", head)
	}
	head["choices"], head["usage"] = []any{object{"index": 0, "delta": object{}, "finish_reason": "stop"}}, usage
	e.send("", head)
	_, _ = io.WriteString(w, "data: [DONE]\n\n")
}

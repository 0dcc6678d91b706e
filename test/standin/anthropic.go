// Package standin serves, on the test's machine, what cannot be had there: a
// model provider's API. It speaks the real protocol to the real agents.
package standin

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
)

// Anthropic stands in for the Messages API. To a conversation in which its
// tool has not run yet it answers with a call of that tool, to one in which it
// has with a closing text that holds the tool's result.
type Anthropic struct {
	// Command is what the model wants its Bash tool to run.
	Command string
	// Port is where it listens on the loopback.
	Port int

	server *http.Server
	mu     sync.Mutex
	keys   map[string]int // API keys seen, with their number of requests
	paths  []string
}

// ServeAnthropic starts the stand-in on a free port of the loopback.
func ServeAnthropic(command string) (*Anthropic, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	a := &Anthropic{Command: command, Port: ln.Addr().(*net.TCPAddr).Port, keys: map[string]int{}}
	a.server = &http.Server{Handler: http.HandlerFunc(a.serve)}
	go func() { _ = a.server.Serve(ln) }()
	return a, nil
}

// Close stops it.
func (a *Anthropic) Close() error { return a.server.Close() }

// Keys are the API keys that were sent, with how often.
func (a *Anthropic) Keys() map[string]int {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := map[string]int{}
	for k, n := range a.keys {
		out[k] = n
	}
	return out
}

// Paths are the paths that were asked for, in order.
func (a *Anthropic) Paths() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]string(nil), a.paths...)
}

type message struct {
	Role    string          `json:"role"`
	Content json.RawMessage `json:"content"`
}

type request struct {
	Model    string            `json:"model"`
	Stream   bool              `json:"stream"`
	Tools    []json.RawMessage `json:"tools"`
	Messages []message         `json:"messages"`
}

func (a *Anthropic) serve(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	if key := r.Header.Get("x-api-key"); key != "" {
		a.keys[key]++
	}
	a.paths = append(a.paths, r.Method+" "+r.URL.Path)
	a.mu.Unlock()
	if r.Method == http.MethodHead || !strings.HasSuffix(r.URL.Path, "/messages") {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"input_tokens":1}`)
		return
	}
	var req request
	if err := json.NewDecoder(io.LimitReader(r.Body, 64<<20)).Decode(&req); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	block, stop := a.answer(&req)
	if req.Stream {
		stream(w, req.Model, block, stop)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(head(req.Model, []any{block}, stop))
}

// answer decides the one content block of the reply, and why it stops there.
func (a *Anthropic) answer(req *request) (block map[string]any, stop string) {
	if result, ok := toolResult(req.Messages); ok {
		return map[string]any{"type": "text", "text": "The tool said: " + result}, "end_turn"
	}
	if !hasBash(req.Tools) { // a title, a summary: the agents ask for such things beside
		return map[string]any{"type": "text", "text": "ok"}, "end_turn"
	}
	input := map[string]any{"command": a.Command, "description": "run the test's command"}
	return map[string]any{"type": "tool_use", "id": "toolu_01", "name": "Bash", "input": input}, "tool_use"
}

func hasBash(tools []json.RawMessage) bool {
	for _, t := range tools {
		var tool struct{ Name string }
		if json.Unmarshal(t, &tool) == nil && tool.Name == "Bash" {
			return true
		}
	}
	return false
}

// toolResult is the text of the last tool result in the conversation.
func toolResult(messages []message) (string, bool) {
	for i := len(messages) - 1; i >= 0; i-- {
		var blocks []struct {
			Type    string          `json:"type"`
			Content json.RawMessage `json:"content"`
		}
		if json.Unmarshal(messages[i].Content, &blocks) != nil {
			continue
		}
		for _, b := range blocks {
			if b.Type == "tool_result" {
				return plain(b.Content), true
			}
		}
	}
	return "", false
}

func plain(content json.RawMessage) string {
	var s string
	if json.Unmarshal(content, &s) == nil {
		return s
	}
	var parts []struct{ Text string }
	_ = json.Unmarshal(content, &parts)
	for _, p := range parts {
		s += p.Text
	}
	return s
}

func head(model string, content []any, stop any) map[string]any {
	return map[string]any{
		"id": "msg_01", "type": "message", "role": "assistant", "model": model,
		"content": content, "stop_reason": stop, "stop_sequence": nil,
		"usage": map[string]int{"input_tokens": 10, "output_tokens": 10},
	}
}

// stream sends the reply as the API's server-sent events.
func stream(w http.ResponseWriter, model string, block map[string]any, stop string) {
	w.Header().Set("Content-Type", "text/event-stream")
	send := func(kind string, v map[string]any) {
		v["type"] = kind
		data, _ := json.Marshal(v)
		fmt.Fprintf(w, "event: %s\ndata: %s\n\n", kind, data)
		w.(http.Flusher).Flush()
	}
	send("message_start", map[string]any{"message": head(model, []any{}, nil)})
	start, delta := opening(block)
	send("content_block_start", map[string]any{"index": 0, "content_block": start})
	send("content_block_delta", map[string]any{"index": 0, "delta": delta})
	send("content_block_stop", map[string]any{"index": 0})
	send("message_delta", map[string]any{"delta": map[string]any{"stop_reason": stop, "stop_sequence": nil}, "usage": map[string]int{"output_tokens": 10}})
	send("message_stop", map[string]any{})
}

// opening splits a block into the empty one that starts it and its content.
func opening(block map[string]any) (start, delta map[string]any) {
	if block["type"] == "text" {
		return map[string]any{"type": "text", "text": ""}, map[string]any{"type": "text_delta", "text": block["text"]}
	}
	input, _ := json.Marshal(block["input"])
	return map[string]any{"type": "tool_use", "id": block["id"], "name": block["name"], "input": map[string]any{}},
		map[string]any{"type": "input_json_delta", "partial_json": string(input)}
}

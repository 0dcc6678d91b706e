// Package standin serves, on the test's machine, what cannot be had there: the
// model providers' APIs and their sign-in, behind certificates of an authority
// made for the test. It speaks the real protocols to the real agents.
package standin

import (
	"cmp"
	"encoding/json"
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
	// Command is what the model wants its Bash tool to run; "" for nothing.
	Command string
	// Text is what it says when there is nothing to run; "" for "ok".
	Text string
	// Port is where it listens on the loopback, when it does so by itself.
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
	a.server = &http.Server{Handler: a}
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

// ServeHTTP implements http.Handler.
func (a *Anthropic) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	if key := r.Header.Get("x-api-key"); key != "" && a.keys != nil {
		a.keys[key]++
	}
	a.paths = append(a.paths, r.Method+" "+r.URL.Path)
	a.mu.Unlock()
	switch {
	case strings.HasSuffix(r.URL.Path, "/count_tokens"):
		reply(w, object{"input_tokens": 1})
		return
	case !strings.HasSuffix(r.URL.Path, "/messages"): // limits, telemetry: all may be missing
		http.NotFound(w, r)
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
	reply(w, head(req.Model, []any{block}, stop))
}

// answer decides the one content block of the reply, and why it stops there.
func (a *Anthropic) answer(req *request) (block object, stop string) {
	if result, ok := toolResult(req.Messages); ok {
		return object{"type": "text", "text": "The tool said: " + result}, "end_turn"
	}
	if a.Command == "" || !hasBash(req.Tools) { // a title, a summary: the agents ask for such things beside
		return object{"type": "text", "text": cmp.Or(a.Text, "ok")}, "end_turn"
	}
	input := object{"command": a.Command, "description": "run the test's command"}
	return object{"type": "tool_use", "id": "toolu_01", "name": "Bash", "input": input}, "tool_use"
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

func head(model string, content []any, stop any) object {
	return object{
		"id": "msg_01", "type": "message", "role": "assistant", "model": model,
		"content": content, "stop_reason": stop, "stop_sequence": nil,
		"usage": map[string]int{"input_tokens": 10, "output_tokens": 10},
	}
}

// stream sends the reply as the API's server-sent events.
func stream(w http.ResponseWriter, model string, block object, stop string) {
	e := newEvents(w)
	send := func(kind string, v object) {
		v["type"] = kind
		e.send(kind, v)
	}
	send("message_start", object{"message": head(model, []any{}, nil)})
	start, delta := opening(block)
	send("content_block_start", object{"index": 0, "content_block": start})
	send("content_block_delta", object{"index": 0, "delta": delta})
	send("content_block_stop", object{"index": 0})
	send("message_delta", object{"delta": object{"stop_reason": stop, "stop_sequence": nil}, "usage": map[string]int{"output_tokens": 10}})
	send("message_stop", object{})
}

// opening splits a block into the empty one that starts it and its content.
func opening(block object) (start, delta object) {
	if block["type"] == "text" {
		return object{"type": "text", "text": ""}, object{"type": "text_delta", "text": block["text"]}
	}
	input, _ := json.Marshal(block["input"])
	return object{"type": "tool_use", "id": block["id"], "name": block["name"], "input": object{}},
		object{"type": "input_json_delta", "partial_json": string(input)}
}

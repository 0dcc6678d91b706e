package standin

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// OpenAI stands in for the Responses API: whatever is asked, it says Text.
type OpenAI struct{ Text string }

// ServeHTTP implements http.Handler.
func (o OpenAI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !strings.HasSuffix(r.URL.Path, "/responses") {
		http.NotFound(w, r)
		return
	}
	// The API is there as a WebSocket too; a client that is told to use another
	// protocol asks by POST at once.
	if r.Method != http.MethodPost {
		http.Error(w, "POST it", http.StatusUpgradeRequired)
		return
	}
	var req struct {
		Model  string `json:"model"`
		Stream bool   `json:"stream"`
	}
	body, err := plainBody(r)
	if err == nil {
		err = json.NewDecoder(io.LimitReader(body, 64<<20)).Decode(&req)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if !req.Stream {
		reply(w, o.response(req.Model, "completed"))
		return
	}
	o.stream(newEvents(w), req.Model)
}

// plainBody is a request's body without its compression: Codex with an account
// sends zstd.
func plainBody(r *http.Request) (io.Reader, error) {
	if r.Header.Get("Content-Encoding") != "zstd" {
		return r.Body, nil
	}
	d, err := zstd.NewReader(r.Body, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, fmt.Errorf("decompress: %w", err)
	}
	return d, nil
}

// stream says the text as one item of one part, in two pieces.
func (o OpenAI) stream(e events, model string) {
	n := 0
	send := func(kind string, v object) {
		v["type"], v["sequence_number"] = kind, n
		n++
		e.send(kind, v)
	}
	at := func(more object) object {
		v := object{"item_id": "msg_01", "output_index": 0, "content_index": 0}
		for k, x := range more {
			v[k] = x
		}
		return v
	}
	send("response.created", object{"response": o.response(model, "in_progress")})
	send("response.output_item.added", object{"output_index": 0, "item": o.item("in_progress")})
	send("response.content_part.added", at(object{"part": object{"type": "output_text", "text": "", "annotations": []any{}}}))
	half := len(o.Text) / 2
	for _, piece := range []string{o.Text[:half], o.Text[half:]} {
		send("response.output_text.delta", at(object{"delta": piece}))
	}
	send("response.output_text.done", at(object{"text": o.Text}))
	send("response.content_part.done", at(object{"part": o.part()}))
	send("response.output_item.done", object{"output_index": 0, "item": o.item("completed")})
	send("response.completed", object{"response": o.response(model, "completed")})
}

func (o OpenAI) part() object {
	return object{"type": "output_text", "text": o.Text, "annotations": []any{}}
}

func (o OpenAI) item(status string) object {
	content := []any{}
	if status == "completed" {
		content = append(content, o.part())
	}
	return object{"id": "msg_01", "type": "message", "role": "assistant", "status": status, "content": content}
}

func (o OpenAI) response(model, status string) object {
	v := object{"id": "resp_01", "object": "response", "created_at": 1700000000, "model": model, "status": status, "output": []any{}}
	if status == "completed" {
		v["output"] = []any{o.item(status)}
		v["usage"] = object{
			"input_tokens": 10, "input_tokens_details": object{"cached_tokens": 0},
			"output_tokens": 10, "output_tokens_details": object{"reasoning_tokens": 0}, "total_tokens": 20,
		}
	}
	return v
}

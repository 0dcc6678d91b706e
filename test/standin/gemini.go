package standin

import (
	"net/http"
	"strings"
)

// Gemini stands in for the Gemini API: whatever is asked, it says Text.
type Gemini struct {
	Text string

	assist bool // as Code Assist says it: one level down
}

// ServeHTTP implements http.Handler.
func (g Gemini) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, verb, _ := strings.Cut(r.URL.Path, ":")
	switch verb {
	case "streamGenerateContent":
		half := len(g.Text) / 2
		e := newEvents(w)
		e.send("", g.content(g.Text[:half], ""))
		e.send("", g.content(g.Text[half:], "STOP"))
	case "generateContent":
		// Of all that is asked beside only the choice of a model matters, and that
		// wants JSON.
		reply(w, g.content(`{"reasoning": "it is simple", "model_choice": "flash", "complexity_score": 1, "complexity_reasoning": "it is simple"}`, "STOP"))
	case "countTokens":
		reply(w, object{"totalTokens": 10})
	default:
		http.NotFound(w, r)
	}
}

func (g Gemini) content(text, finish string) object {
	candidate := object{"index": 0, "content": object{"role": "model", "parts": []any{object{"text": text}}}}
	if finish != "" {
		candidate["finishReason"] = finish
	}
	v := object{
		"candidates":    []any{candidate},
		"usageMetadata": object{"promptTokenCount": 10, "candidatesTokenCount": 10, "totalTokenCount": 20},
	}
	if g.assist {
		return object{"response": v}
	}
	return v
}

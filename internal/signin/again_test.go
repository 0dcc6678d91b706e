package signin

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestSentAgain: a request whose token is refused before its end comes again, as
// it was, with the next one; and once.
func TestSentAgain(t *testing.T) {
	w := newWorld(t)
	b := w.box("one", "claude", false)
	ph := b.sign(apps["claude"], true).text("access_token")
	var seen []string
	refuse := 1
	w.instead(func(rw http.ResponseWriter, r *http.Request) {
		if r.Host != "api.anthropic.com" {
			w.signIn.ServeHTTP(rw, r)
			return
		}
		body, _ := io.ReadAll(r.Body)
		w.mu.Lock()
		defer w.mu.Unlock()
		seen = append(seen, r.Header.Get("Authorization"))
		if refuse--; refuse >= 0 {
			rw.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(rw, "no")
			return
		}
		_, _ = rw.Write(body)
	})
	ask := func(body io.Reader) answer {
		t.Helper()
		r, err := http.NewRequest(http.MethodPost, "https://api.anthropic.com/v1/messages", body)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", bearer+ph)
		w.mu.Lock()
		seen = nil
		w.mu.Unlock()
		return b.do(r)
	}
	long := strings.Repeat("a question ", 10000)
	if r := ask(strings.NewReader(long)); r.status != http.StatusOK || r.body != long || len(seen) != 2 || seen[0] == seen[1] {
		t.Errorf("%d, %d bytes, with %d tokens", r.status, len(r.body), len(seen))
	}
	w.pass(2 * between)
	// A server that takes none is asked twice, not for ever.
	refuse = 100
	if r := ask(strings.NewReader("x")); r.status != http.StatusUnauthorized || r.body != "no" || len(seen) != 2 {
		t.Errorf("%d %s, with %d tokens", r.status, r.body, len(seen))
	}
	// What is too long to be kept, or of a length that is not known, comes once.
	for what, body := range map[string]io.Reader{
		"too long": strings.NewReader(strings.Repeat("x", maxAgain+1)), "in chunks": io.MultiReader(strings.NewReader("x")),
	} {
		w.pass(2 * between)
		refuse = 1
		if r := ask(body); r.status != http.StatusUnauthorized || len(seen) != 1 {
			t.Errorf("%s: %d, with %d tokens", what, r.status, len(seen))
		}
		if r := ask(strings.NewReader("then")); r.status != http.StatusOK || r.body != "then" {
			t.Errorf("%s, and then: %d %s", what, r.status, r.body)
		}
	}
	// A guest does not have any amount kept, and what it had is free again.
	for end := time.Now().Add(5 * time.Second); b.keeper.kept.Load() != 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d bytes are kept", b.keeper.kept.Load())
		}
	}
	b.keeper.kept.Store(maxKept)
	w.pass(2 * between)
	refuse = 1
	if r := ask(strings.NewReader("x")); r.status != http.StatusUnauthorized || len(seen) != 1 {
		t.Errorf("with all kept that may be: %d, with %d tokens", r.status, len(seen))
	}
	b.clean()
}

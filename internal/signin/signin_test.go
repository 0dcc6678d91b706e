package signin

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"berth.dev/internal/secret"
)

// TestTable: each row is a service that can be bound.
func TestTable(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range table {
		if err := p.service().Check(); err != nil {
			t.Errorf("%s: %v", p.Name, err)
		}
		if seen[p.Name] || strings.Contains(p.Name, ".") {
			t.Errorf("%s: there twice, or with a dot", p.Name)
		}
		seen[p.Name] = true
	}
}

// TestLoginIsKept: a login is what it was after it was stored, and shows itself
// to nobody.
func TestLoginIsKept(t *testing.T) {
	p, _ := Find("claude")
	l, err := p.newLogin(fields{
		"access_token": json.RawMessage(`"the-access-token"`), "refresh_token": json.RawMessage(`"the-refresh-token"`),
		"expires_in": json.RawMessage(`3600`), "scope": json.RawMessage(`"user:inference"`),
		"account": json.RawMessage(`{"uuid":"u","email_address":"a@example.com"}`), "more": json.RawMessage(`"the-access-token"`),
	}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	v, err := l.value()
	if err != nil {
		t.Fatal(err)
	}
	again, err := parseLogin(v)
	if err != nil || !again.Access.Equal(l.Access) || !again.Refresh.Equal(l.Refresh) || again.Person != "a@example.com" || again.Account != "u" {
		t.Errorf("%+v, %v", again, err)
	}
	out, err := p.answer(l, placeholders{"placeholder-1", "placeholder-2", "placeholder-3"})
	if err != nil || l.shows(out) || !strings.Contains(string(out), "placeholder-1") || !strings.Contains(string(out), "placeholder-2") {
		t.Errorf("the guest gets %s, %v", out, err)
	}
	if _, err := parseLogin(secret.NewValue("{")); err == nil {
		t.Error("a damaged login is one")
	}
}

// TestBadAnswers: what is no token is not taken for one.
func TestBadAnswers(t *testing.T) {
	p, _ := Find("chatgpt")
	for _, f := range []fields{
		{"access_token": json.RawMessage(`"a b"`), "id_token": json.RawMessage(`"x"`)},
		{"access_token": json.RawMessage(`"` + strings.Repeat("a", maxToken+1) + `"`), "id_token": json.RawMessage(`"x"`)},
		{"access_token": json.RawMessage(`"a"`)},
	} {
		if _, err := p.newLogin(f, time.Now()); err == nil {
			t.Errorf("%d fields are a login", len(f))
		}
	}
}

func FuzzParseFields(f *testing.F) {
	f.Add("application/json", []byte(`{"access_token":"a"}`))
	f.Add("application/x-www-form-urlencoded", []byte("access_token=a&b=c"))
	f.Fuzz(func(t *testing.T, kind string, body []byte) {
		if got, err := parseFields(kind, body); err == nil && len(got) > maxFields {
			t.Errorf("%d fields", len(got))
		}
	})
}

// TestHostFiles: an agent's own file is read and, renewed, keeps what else is in
// it.
func TestHostFiles(t *testing.T) {
	const file = `{"claudeAiOauth":{"accessToken":"a","refreshToken":"r","expiresAt":1,"scopes":["user:inference"],"subscriptionType":"max"},"mcpOAuth":{"x":1}}`
	l, err := readClaude([]byte(file))
	if err != nil || l.Access.Reveal() != "a" || l.scopes()[0] != "user:inference" {
		t.Fatalf("%+v, %v", l, err)
	}
	l.Access = secret.NewValue("b")
	out, err := writeClaude([]byte(file), l)
	if err != nil || !strings.Contains(string(out), `"accessToken": "b"`) || !strings.Contains(string(out), "mcpOAuth") || !strings.Contains(string(out), `"subscriptionType": "max"`) {
		t.Errorf("%s, %v", out, err)
	}
}

package signin

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"berth.dev/internal/secret"
)

// hostBox is a sandbox that uses what Claude Code is signed in with on this
// machine. Its file is a link, as who keeps their settings elsewhere has it.
func (w *world) hostBox(target string) (b *box, home string) {
	w.tb.Helper()
	first := w.box("first", "claude", true)
	f := first.sign(apps["claude"], false)
	home = w.tb.TempDir()
	dir := filepath.Join(home, ".claude")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		w.tb.Fatal(err)
	}
	l := &Login{
		Access: secret.NewValue(f.text("access_token")), Refresh: secret.NewValue(f.text("refresh_token")), Expires: time.Now().Add(time.Hour),
	}
	content, err := writeClaude([]byte(`{"claudeAiOauth":{"scopes":["user:inference"]},"mcpOAuth":{"x":1}}`), l)
	if err != nil {
		w.tb.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(home, target), content, 0o600); err != nil {
		w.tb.Fatal(err)
	}
	if err := os.Symlink(filepath.Join("..", target), filepath.Join(dir, ".credentials.json")); err != nil {
		w.tb.Fatal(err)
	}
	return w.boxOf("one", "claude", false, home), home
}

// TestHostRenewal: a login of this machine's is renewed where it is, not while its
// agent does the same.
func TestHostRenewal(t *testing.T) {
	w := newWorld(t)
	b, home := w.hostBox("elsewhere.json")
	ph := b.broker.Placeholder("login/claude")
	if r := b.call(apps["claude"].call, ph); r.status != http.StatusOK {
		t.Fatalf("%d %s", r.status, r.body)
	}
	lock := filepath.Join(home, ".claude", ".oauth_refresh.lock")
	if err := os.Mkdir(lock, 0o700); err != nil {
		t.Fatal(err)
	}
	w.pass(58 * time.Minute)
	done := make(chan answer, 1)
	go func() { done <- b.call(apps["claude"].call, ph) }()
	select {
	case r := <-done:
		t.Fatalf("it did not wait for the agent: %d %s", r.status, r.body)
	case <-time.After(300 * time.Millisecond):
	}
	if n := w.signIn.Refreshes(); n != 0 {
		t.Fatalf("renewed %d times beside the agent", n)
	}
	if err := os.Remove(lock); err != nil {
		t.Fatal(err)
	}
	if r := <-done; r.status != http.StatusOK || w.signIn.Refreshes() != 1 {
		t.Errorf("%d %s, %d renewals", r.status, r.body, w.signIn.Refreshes())
	}
	if _, err := os.Stat(lock); err == nil {
		t.Error("the lock is still there")
	}
	got, err := os.ReadFile(filepath.Join(home, "elsewhere.json"))
	if err != nil {
		t.Fatal(err)
	}
	l, err := readClaude(got)
	if err != nil || !w.isCurrent(l.Refresh.Reveal()) || !strings.Contains(string(got), "mcpOAuth") {
		t.Errorf("the file does not have what was renewed, and the rest: %v", err)
	}
	// Of an agent that was killed while it renewed.
	if err := os.Mkdir(lock, 0o700); err != nil {
		t.Fatal(err)
	}
	long := time.Now().Add(-2 * staleLock)
	if err := os.Chtimes(lock, long, long); err != nil {
		t.Fatal(err)
	}
	w.pass(time.Hour)
	if r := b.call(apps["claude"].call, ph); r.status != http.StatusOK || w.signIn.Refreshes() != 2 {
		t.Errorf("with a lock that is nobody's: %d %s, %d renewals", r.status, r.body, w.signIn.Refreshes())
	}
	b.clean()
}

// TestHostRenewalNotWritten: what a login was renewed to is used though its file
// cannot be written, and is written when it can.
func TestHostRenewalNotWritten(t *testing.T) {
	w := newWorld(t)
	// Beside a name as long as names can be there is no place for a temporary one.
	long := strings.Repeat("x", 255)
	b, home := w.hostBox(long)
	ph := b.broker.Placeholder("login/claude")
	w.pass(58 * time.Minute)
	for range 2 {
		if r := b.call(apps["claude"].call, ph); r.status != http.StatusOK || w.signIn.Refreshes() != 1 {
			t.Fatalf("%d %s, %d renewals", r.status, r.body, w.signIn.Refreshes())
		}
	}
	link := filepath.Join(home, ".claude", ".credentials.json")
	if err := os.Rename(filepath.Join(home, long), link); err != nil {
		t.Fatal(err)
	}
	if r := b.call(apps["claude"].call, ph); r.status != http.StatusOK || w.signIn.Refreshes() != 1 {
		t.Errorf("when it can be written: %d %s, %d renewals", r.status, r.body, w.signIn.Refreshes())
	}
	got, err := os.ReadFile(link)
	if err != nil {
		t.Fatal(err)
	}
	if l, err := readClaude(got); err != nil || !w.isCurrent(l.Refresh.Reveal()) {
		t.Errorf("the file does not have what was renewed: %v", err)
	}
	b.clean()
}

// TestHostAlone: who signs in inside does not change what is used, nor anything
// that is kept; and a home without a login is said to be one.
func TestHostAlone(t *testing.T) {
	w := newWorld(t)
	b, home := w.hostBox("elsewhere.json")
	if r := b.post(apps["claude"].token, jsonType, apps["claude"].redemption(w.code(apps["claude"]))); r.status != http.StatusBadRequest || !strings.Contains(r.body, "sign in there") {
		t.Errorf("%d %s", r.status, r.body)
	}
	if used := b.used(); !strings.Contains(used, "deny login/claude") {
		t.Errorf("the record lacks it:\n%s", used)
	}
	if w.login("login/claude") != nil || w.login("login/claude.one") != nil {
		t.Error("it is kept")
	}
	for what, undo := range map[string]func() error{
		"damaged": func() error {
			return os.WriteFile(filepath.Join(home, "elsewhere.json"), []byte("junk sk-ant-x"), 0o600)
		},
		"gone": func() error { return os.Remove(filepath.Join(home, "elsewhere.json")) },
	} {
		if err := undo(); err != nil {
			t.Fatal(err)
		}
		list, err := b.keeper.Bindings(t.Context())
		if len(list) > 0 || err == nil || !strings.Contains(err.Error(), "nobody is signed in to Claude (~/.claude/.credentials.json)") || strings.Contains(err.Error(), "sk-ant-x") {
			t.Errorf("%s: %v, %v", what, list, err)
		}
	}
	b.clean()
}

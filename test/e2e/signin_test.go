package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"berth.dev/test/standin"
)

// signingIn is a user whose agents' providers are the test's own, and whose
// browser agrees to every sign-in.
type signingIn struct {
	u    *user
	api  *standin.SignIn
	o    origin
	env  []string // of the shell: which browser there is
	page string   // what the browser was last told to open
}

func newSigningIn(t *testing.T, u *user, api *standin.SignIn) *signingIn {
	t.Helper()
	o := serveTLS(t, api, standin.SignInHosts()...)
	s := &signingIn{u: u.apart(t, o), api: api, o: o}
	dir := s.u.workspace(t)
	s.page = filepath.Join(dir, "page")
	program := filepath.Join(dir, "browser")
	write(t, s.u, program, "#!/bin/sh\nprintf %s \"$1\" > "+s.page+".new && mv "+s.page+".new "+s.page+"\n")
	if err := os.Chmod(program, 0o755); err != nil {
		t.Fatal(err)
	}
	s.env = []string{"BROWSER=" + program}
	return s
}

// signIn runs a command in a sandbox that signs its agent in, by the browser.
func (s *signingIn) signIn(t *testing.T, name string, command ...string) {
	t.Helper()
	done := make(chan result, 1)
	go func() { done <- s.u.run(t, "", s.env, append([]string{"exec", name}, command...)...) }()
	s.visit(t)
	select {
	case r := <-done:
		if r.code != 0 {
			t.Fatalf("sign in: %+v", r)
		}
	case <-time.After(time.Minute):
		t.Fatal("the agent goes on waiting")
	}
}

// visit waits until a page is opened, and says yes there.
func (s *signingIn) visit(t *testing.T) {
	t.Helper()
	eventually(t, "the browser is opened", func() bool { _, err := os.Stat(s.page); return err == nil })
	page, err := os.ReadFile(s.page)
	if err != nil {
		t.Fatal(err)
	}
	_ = os.Remove(s.page)
	res, err := s.o.Browser().Get(string(page))
	if err != nil {
		t.Fatalf("the browser: %v", err)
	}
	_ = res.Body.Close()
	if res.StatusCode != 200 {
		t.Errorf("the browser ends at %s", res.Status)
	}
}

// hidden fails when the guest has one of the tokens.
func (s *signingIn) hidden(t *testing.T, name string) {
	t.Helper()
	if s.shown(t, name) {
		t.Errorf("the guest has a token")
	}
}

// shown reports whether the guest has one of the tokens in its files or in what
// its processes were started with.
func (s *signingIn) shown(t *testing.T, name string) bool {
	t.Helper()
	return search{s.u, s.values()}.guest(t, name, "cat /proc/[0-9]*/environ; tar c --ignore-failed-read /etc /home /root /run /tmp /dev/shm 2>/dev/null")
}

// taken fails unless a call was made with a token that held, and none with
// another.
func (s *signingIn) taken(t *testing.T, call string) {
	t.Helper()
	found := false
	for _, use := range s.api.Uses() {
		found = found || strings.HasPrefix(use.Line, call) && use.State == standin.Current
		if use.State == standin.Unknown {
			t.Errorf("%s came with %s", use.Line, use.Value)
		}
	}
	if !found {
		t.Errorf("no %s with the token came:\n%v", call, s.api.Uses())
	}
}

// status asks an agent whether it is signed in, after the words of its login.
func status(agent string) []string {
	if agent == "codex" {
		return []string{"login", "status"}
	}
	return []string{"status"}
}

// TestSignIn: who signs in in one sandbox is signed in in the next, and no token
// is in either; when a token runs out it is renewed outside.
func TestSignIn(t *testing.T) {
	for _, tt := range []struct {
		agent, call string   // which of them, and what it does then
		asks        []string // in a terminal, before it has the browser opened
		login, say  []string
	}{
		{"claude", "POST api.anthropic.com/v1/messages", nil, []string{"claude", "auth", "login"}, []string{"-p", "say it"}},
		{"codex", "POST chatgpt.com/backend-api/codex/responses", nil, []string{"codex", "login"}, []string{"exec", "--skip-git-repo-check", "say it"}},
		{
			"gemini", "POST cloudcode-pa.googleapis.com/v1internal:streamGenerateContent",
			[]string{"How would you like to authenticate", "Do you want to continue"}, []string{"gemini"}, []string{"-p", "say it"},
		},
		// GitHub's tokens do not run out.
		{"copilot", "POST api.githubcopilot.com/", nil, []string{"copilot", "login", "--web-flow"}, []string{"-p", "say it"}},
	} {
		least(t, func(t *testing.T, u *user) {
			t.Run(tt.agent, func(t *testing.T) {
				api := standin.NewSignIn("Paris, says the model.")
				s := newSigningIn(t, u, api)
				ws, first, next := s.u.workspace(t), s.u.fresh(t), s.u.fresh(t)
				s.u.must(t, ws, "create", "--name", first, tt.agent, ws)
				if tt.asks == nil {
					s.signIn(t, first, tt.login...)
				} else {
					s.u.openWith(t, "", s.env, append([]string{"exec", "-it", first}, tt.login...)...).agree(tt.asks...)
					s.visit(t)
					s.signedIn(t, first, tt.agent)
				}
				say := func(name string) {
					t.Helper()
					// A key that happens to be there does not take the login's place.
					r := s.u.run(t, ws, []string{"ANTHROPIC_API_KEY=" + realKey, "OPENAI_API_KEY=sk-not-this", "GEMINI_API_KEY=not-this"}, append([]string{"run", "--name", name, tt.agent, ws, "--"}, tt.say...)...)
					if r.code != 0 || !strings.Contains(r.out, "Paris, says the model.") {
						t.Errorf("status %d\n%s\n%s\n%v", r.code, r.out, r.err, s.api.Uses())
					}
					if !strings.Contains(r.err, "your login to") || strings.Contains(r.err, "is not used") == (tt.agent == "copilot") {
						t.Errorf("it does not say what is used: %s", r.err)
					}
				}
				say(first)
				s.taken(t, tt.call)
				s.hidden(t, first)
				say(next)
				s.hidden(t, next)
				if _, text := s.u.events(t, next, "--secrets"); !strings.Contains(text, "login/") {
					t.Errorf("the record says %s", text)
				}
				if tt.agent == "codex" { // the same login is for another program
					other := s.u.fresh(t)
					r := s.u.run(t, ws, nil, "run", "--name", other, "opencode", ws, "--", "run", "-m", "openai/gpt-5.5", "say it")
					if r.code != 0 || !strings.Contains(r.out, "Paris, says the model.") {
						t.Errorf("OpenCode: %+v", r)
					}
					s.hidden(t, other)
				}
				if tt.agent == "claude" || tt.agent == "codex" { // whose signing out gives tokens back
					out := []string{"exec", first, tt.login[0], "logout"}
					if tt.agent == "claude" {
						out = []string{"exec", first, "claude", "auth", "logout"}
					}
					s.u.must(t, ws, out...)
					if r := s.u.run(t, ws, nil, append(append([]string{"exec", first, tt.login[0]}, tt.login[1:len(tt.login)-1]...), status(tt.agent)...)...); r.code == 0 {
						t.Errorf("after it signed out: %+v", r)
					}
					for _, use := range s.api.Uses() {
						if strings.Contains(use.Line, "revoke") {
							t.Errorf("a sandbox has ended the login of all: %+v", use)
						}
					}
					say(next)
				}
				// Removing the sandbox that signed in signs nobody out.
				s.u.must(t, ws, "rm", "-f", first)
				say(next)
				if list := s.u.must(t, ws, "secret", "ls"); !strings.Contains(list, "login/") {
					t.Errorf("kept are %s", list)
				}
				if tt.agent == "copilot" {
					return
				}
				// A token that is refused before its end is renewed here, and the
				// agent does not notice.
				s.api.Expire()
				say(next)
				if n := s.api.Refreshes(); n != 1 {
					t.Errorf("%d renewals", n)
				}
				s.hidden(t, next)
			})
		})
	}
}

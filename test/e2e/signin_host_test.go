package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"berth.dev/test/standin"
)

// hostFiles are where the agents keep their logins, below the home.
var hostFiles = map[string]string{
	"claude": ".claude/.credentials.json", "codex": ".codex/auth.json", "gemini": ".gemini/oauth_creds.json",
	"copilot": ".copilot/config.json", "opencode": ".local/share/opencode/auth.json",
}

// TestSignInHost: what an agent of this machine is signed in with is used where it
// is. The files are those that the agents themselves have written, in a sandbox
// in which tokens are as they are, and that they read again after their renewal.
func TestSignInHost(t *testing.T) {
	for _, way := range byCodes {
		path := hostFiles[way.agent]
		if way.login == "login/anthropic-key" {
			path = ".claude.json"
		}
		least(t, func(t *testing.T, u *user) {
			t.Run(way.agent+" "+way.login, func(t *testing.T) {
				s := newSigningIn(t, u, standin.NewSignIn("Paris, says the model."))
				ws := s.u.workspace(t)
				s.u.home = s.u.workspace(t)
				home := filepath.Join(s.u.home, path)
				say := func(name string) {
					t.Helper()
					r := s.u.run(t, ws, nil, append([]string{"run", "--name", name, way.agent, ws, "--"}, way.say...)...)
					if r.code != 0 || !strings.Contains(r.out, "Paris, says the model.") {
						t.Fatalf("status %d\n%s\n%s\n%v", r.code, r.out, r.err, s.api.Uses())
					}
				}

				inside := s.open(t, way.agent, ws)
				s.signInBy(t, inside, way)
				if err := os.MkdirAll(filepath.Dir(home), 0o755); err != nil {
					t.Fatal(err)
				}
				s.own(t, filepath.Dir(home))
				guest := inside + ":/home/agent/" + path
				s.u.must(t, ws, "cp", guest, home)
				if !s.shown(t, inside) {
					t.Fatal("a sandbox that may have them has no tokens: nobody would see if the others had")
				}
				if list := s.u.must(t, ws, "secret", "ls"); strings.Contains(list, "login/") {
					t.Errorf("with --credentials none, kept are %s", list)
				}

				name := s.u.fresh(t)
				s.u.must(t, ws, "create", "--credentials", "host", "--name", name, way.agent, ws)
				say(name)
				s.taken(t, way.call)
				s.hidden(t, name)
				if way.login == "login/copilot" || way.login == "login/anthropic-key" {
					return // which have no end
				}
				s.api.Expire()
				say(name)
				if n := s.api.Refreshes(); n != 1 {
					t.Errorf("%d renewals", n)
				}
				s.hidden(t, name)
				// The agent of this machine goes on with what was renewed.
				s.u.must(t, ws, "cp", home, guest)
				say(inside)
			})
		})
	}
}

// open makes a sandbox in which tokens are as they are.
func (s *signingIn) open(t *testing.T, agent, ws string) string {
	t.Helper()
	name := s.u.fresh(t)
	s.u.must(t, ws, "create", "--credentials", "none", "--name", name, agent, ws)
	return name
}

// own hands everything below the user's home over to the user.
func (s *signingIn) own(t *testing.T, dir string) {
	t.Helper()
	for ; strings.HasPrefix(dir, s.u.home); dir = filepath.Dir(dir) {
		if err := os.Chown(dir, s.u.uid, s.u.uid); err != nil {
			t.Fatal(err)
		}
	}
}

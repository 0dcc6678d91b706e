package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"berth.dev/internal/audit"
)

// TestBalancedPackages: the package managers of a new sandbox work with no rule
// of the user's, against the registries and archives of the world.
func TestBalancedPackages(t *testing.T) {
	each(t, func(t *testing.T, u *user) {
		ws, name := u.workspace(t), u.fresh(t)
		u.must(t, ws, "create", "-q", "--name", name, "shell", ws)
		for what, c := range map[string]struct{ script, want string }{
			"npm": {`cd "$(mktemp -d)"; npm install --no-audit --no-fund is-odd@3.0.1 >&2; node -p 'require("is-odd")(3)'`, "true\n"},
			"apt": {"sudo apt-get update -qq; sudo apt-get install -y -qq hello >/dev/null; hello", "Hello, world!\n"},
			"go": {`cd "$(mktemp -d)"; go mod init x; go mod edit -require github.com/google/uuid@v1.6.0; go mod download github.com/google/uuid
				ls "$(go env GOMODCACHE)/github.com/google"`, "uuid@v1.6.0\n"},
		} {
			t.Run(what, func(t *testing.T) {
				t.Parallel()
				if out := u.must(t, ws, "exec", name, "sh", "-ec", c.script); out != c.want {
					t.Errorf("it printed %q, not %q", out, c.want)
				}
			})
		}
	})
}

// TestBalancedGit: git clones, fetches and pushes over HTTPS at the host's real
// name, and tells people why when the server refuses, or a rule of theirs does.
func TestBalancedGit(t *testing.T) {
	each(t, func(t *testing.T, u *user) {
		github := serveTLS(t, gitBackend(t, map[string]bool{"octocat/open.git": true, "octocat/closed.git": false}), "github.com")
		u = u.apart(t, github)
		ws, name := u.workspace(t), u.fresh(t)
		u.must(t, ws, "create", "-q", "--name", name, "shell", ws)
		git := func(script string) result {
			return u.run(t, ws, nil, "exec", "-w", ws, name, "sh", "-ec", "export GIT_TERMINAL_PROMPT=0; git config --global user.email a@example.com; git config --global user.name a\n"+script)
		}
		for _, repo := range []string{"open", "closed"} {
			if r := git("git clone -q https://github.com/octocat/" + repo + ".git && cat " + repo + "/README"); r.code != 0 || r.out != "first\n" {
				t.Fatalf("clone: %+v", r)
			}
		}
		const push = `; date +%s%N > README; git commit -qam second; git push -q`
		if r := git("cd closed" + push); r.code == 0 || !strings.Contains(r.err, "403") {
			t.Errorf("a push that the server refuses: %+v", r)
		}
		if r := git("cd open" + push + "; git ls-remote origin HEAD; git rev-parse HEAD"); r.code != 0 || len(strings.Fields(r.out)) != 3 || strings.Fields(r.out)[0] != strings.Fields(r.out)[2] {
			t.Errorf("a push that the server takes: %+v", r)
		}
		u.must(t, ws, "policy", "deny", "github.com:443", "--method", "POST", "--path", "/**/git-receive-pack", "--sandbox", name)
		if r := git("cd open" + push); r.code == 0 || !strings.Contains(r.err, "403") {
			t.Errorf("a push that a rule denies: %+v", r)
		}
		if r := git("cd open; git fetch -q; git ls-remote -q origin HEAD"); r.code != 0 {
			t.Errorf("a fetch beside a rule that denies to push: %+v", r)
		}
		events, _ := u.events(t, name, "--http")
		for _, want := range []string{
			"GET /octocat/open.git/info/refs 200 allow", "POST /octocat/open.git/git-upload-pack 200 allow",
			"POST /octocat/open.git/git-receive-pack 200 allow", "POST /octocat/open.git/git-receive-pack 403 deny",
			"GET /octocat/closed.git/info/refs 403 allow",
		} {
			if !slices.ContainsFunc(events, func(e audit.Event) bool {
				return fmt.Sprintf("%s %s %d %s", e.Method, e.Path, e.Status, e.Verdict) == want
			}) {
				t.Errorf("the record lacks %s:\n%s", want, summary(events))
			}
		}
	})
}

// gitBackend serves repositories of one commit with git's own server; the ones
// that are true can be pushed to.
func gitBackend(t *testing.T, repos map[string]bool) http.Handler {
	t.Helper()
	root := t.TempDir()
	git := func(args ...string) string {
		t.Helper()
		cmd := exec.Command("git", args...)
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	seed := filepath.Join(root, "seed")
	git("init", "-q", "-b", "main", seed)
	if err := os.WriteFile(filepath.Join(seed, "README"), []byte("first\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	git("-C", seed, "add", "README")
	git("-C", seed, "-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "-q", "-m", "first")
	for repo, open := range repos {
		git("clone", "-q", "--bare", seed, repo)
		git("-C", repo, "config", "http.receivepack", fmt.Sprint(open))
	}
	return &cgi.Handler{
		Path: filepath.Join(git("--exec-path"), "git-http-backend"), Logger: nil, Stderr: io.Discard,
		Env: []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_GLOBAL=/dev/null", "REMOTE_USER=octocat"},
	}
}

// TestBalancedBlocked: whoever meets a host that no rule allows is told the
// command that allows it, and that command does.
func TestBalancedBlocked(t *testing.T) {
	each(t, func(t *testing.T, u *user) {
		u = u.apart(t, serveTLS(t, http.HandlerFunc(hello), "api.example.com"))
		ws, name := u.workspace(t), u.fresh(t)
		u.must(t, ws, "create", "-q", "--name", name, "shell", ws)
		curl := func() result {
			return u.run(t, ws, nil, "exec", name, "curl", "-sS", "-w", " %{http_code}", "https://api.example.com/v1/x?token=hidden")
		}
		blocked := curl()
		text, hint, found := strings.Cut(blocked.out, "To allow it, on the host: ")
		command, code, _ := strings.Cut(hint, "\n")
		if !found || strings.TrimSpace(code) != "403" || !strings.Contains(text, "GET https://api.example.com/v1/x") || !strings.Contains(text, "no rule allows it") {
			t.Fatalf("what a blocked host answers: %+v", blocked)
		}
		if r := u.run(t, ws, nil, "policy", "check", "--sandbox", name, "api.example.com"); r.code != 1 || !strings.Contains(r.out, "deny") {
			t.Errorf("check before the rule: %+v", r)
		}
		denied := u.must(t, ws, "log", "--denied", name)
		if !strings.Contains(denied, "api.example.com") || strings.Contains(denied, "hidden") {
			t.Errorf("log --denied prints\n%s", denied)
		}
		suggested := u.must(t, ws, "policy", "suggest", name)
		if !slices.Contains(strings.Split(suggested, "\n"), "berth policy allow api.example.com:443 --sandbox "+name) {
			t.Errorf("suggest prints\n%s", suggested)
		}
		words := strings.Fields(command)
		if words[0] != "berth" {
			t.Fatalf("the command is %q", command)
		}
		u.must(t, ws, words[1:]...)
		if r := curl(); r.out != "hello 200" {
			t.Errorf("after %q: %+v", command, r)
		}
		if r := u.run(t, ws, nil, "policy", "check", "--sandbox", name, "api.example.com"); r.code != 0 || !strings.Contains(r.out, "allow") {
			t.Errorf("check after the rule: %+v", r)
		}
		if out := u.must(t, ws, "log", "verify", name); out == "" {
			t.Error("log verify says nothing")
		}
	})
}

// TestBalancedAsk: with --ask a connection to a place that no rule decides
// waits, and goes on when the user says so in another terminal.
func TestBalancedAsk(t *testing.T) {
	each(t, func(t *testing.T, u *user) {
		u = u.apart(t, serveTLS(t, http.HandlerFunc(hello), "api.example.com", "www.example.com"))
		ws, name := u.workspace(t), u.fresh(t)
		u.must(t, ws, "create", "-q", "--name", name, "--ask", "shell", ws)
		asked := u.watch(t, ws, name)
		for host, answer := range map[string]string{"api.example.com": "sandbox", "www.example.com": "never"} {
			done := make(chan result, 1)
			go func() {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				out, err := u.command(ctx, ws, "exec", name, "curl", "-sS", "https://"+host+"/").CombinedOutput()
				done <- result{string(out), fmt.Sprint(err), 0}
			}()
			q := <-asked
			if q.Host != host || q.Port != 443 || q.Sandbox != name {
				t.Fatalf("asked about %+v", q)
			}
			select {
			case r := <-done:
				t.Fatalf("curl did not wait: %+v", r)
			default:
			}
			u.must(t, ws, "policy", "answer", q.ID, answer)
			r := <-done
			if answer == "sandbox" && r.out != "hello" || answer == "never" && strings.Contains(r.out, "hello") {
				t.Errorf("answered %s, curl printed %+v", answer, r)
			}
		}
		// The answer holds from now on.
		if out := u.must(t, ws, "exec", name, "curl", "-sS", "https://api.example.com/again"); out != "hello" {
			t.Errorf("after the answer: %q", out)
		}
		_, text := u.events(t, name, "--kind", "decision")
		if !strings.Contains(text, "sandbox: api.example.com:443") || !strings.Contains(text, "never: www.example.com:443") {
			t.Errorf("the record of the answers:\n%s", text)
		}
	})
}

// question is one that `berth policy pending --json` prints.
type question struct {
	ID, Sandbox, Host string
	Port              uint16
}

// watch receives the questions of a sandbox until the test ends.
func (u *user) watch(t *testing.T, ws, name string) <-chan question {
	t.Helper()
	cmd := u.command(t.Context(), ws, "policy", "pending", "--watch", "--json", name)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	asked := make(chan question)
	go func() {
		defer close(asked)
		for d := json.NewDecoder(out); ; {
			var q question
			if d.Decode(&q) != nil {
				_ = cmd.Wait() // the test's end killed it
				return
			}
			select {
			case asked <- q:
			case <-t.Context().Done():
			}
		}
	}()
	return asked
}

func hello(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }

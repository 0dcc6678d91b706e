package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"berth.dev/internal/audit"
	"berth.dev/test/standin"
)

// provider is how an agent's model is called: by its real name, which the
// user's own settings say is served by the test.
type provider struct {
	agent    string
	args     []string
	variable string // of the shell, that holds the key
	key      string
	api      http.Handler
	hosts    []string // that api stands in for
	call     string   // the request that the answer came to, and no other
	says     string   // the answer
}

var providers = []provider{
	{
		agent: "claude", args: []string{"-p", "say it"},
		variable: "ANTHROPIC_API_KEY", key: "sk-ant-e2e-1111111111",
		api: &standin.Anthropic{Text: "Paris, says Claude."}, hosts: []string{"api.anthropic.com"},
		call: "POST api.anthropic.com/v1/messages", says: "Paris, says Claude.",
	},
	{
		agent: "codex", args: []string{"exec", "--skip-git-repo-check", "say it"},
		variable: "OPENAI_API_KEY", key: "sk-e2e-2222222222",
		api: standin.OpenAI{Text: "Paris, says Codex."}, hosts: []string{"api.openai.com"},
		call: "POST api.openai.com/v1/responses", says: "Paris, says Codex.",
	},
	{
		agent: "gemini", args: []string{"-p", "say it"},
		variable: "GEMINI_API_KEY", key: "gemini-e2e-3333333333",
		api: standin.Gemini{Text: "Paris, says Gemini."}, hosts: []string{"generativelanguage.googleapis.com"},
		call: "POST generativelanguage.googleapis.com/v1beta/models/", says: "Paris, says Gemini.",
	},
	{
		agent: "copilot", args: []string{"-p", "say it"},
		variable: "COPILOT_GITHUB_TOKEN", key: "github_pat_e2e4444444444",
		api: standin.Copilot{Text: "Paris, says Copilot."}, hosts: []string{"api.github.com", "api.githubcopilot.com"},
		call: "POST api.githubcopilot.com/chat/completions", says: "Paris, says Copilot.",
	},
	{
		agent: "opencode", args: []string{"run", "-m", "anthropic/claude-sonnet-4-5", "say it"},
		variable: "ANTHROPIC_API_KEY", key: "sk-ant-e2e-5555555555",
		api: standin.OpenCode{Anthropic: &standin.Anthropic{Text: "Paris, says OpenCode."}}, hosts: []string{"api.anthropic.com", "models.opencode.ai", "models.dev"},
		call: "POST api.anthropic.com/v1/messages", says: "Paris, says OpenCode.",
	},
}

// TestProviders: under the preset balanced, with no rule of the user's, each
// agent calls its model at the provider's real host name, and the record says
// what it asked.
func TestProviders(t *testing.T) {
	least(t, func(t *testing.T, u *user) {
		for _, p := range providers {
			t.Run(p.agent, func(t *testing.T) {
				t.Parallel() // they mostly wait
				testProvider(t, u, p)
			})
		}
	})
}

func testProvider(t *testing.T, u *user, p provider) {
	origin := serveTLS(t, p.api, p.hosts...)
	u = u.apart(t, origin)
	ws, name := u.workspace(t), u.fresh(t)
	r := u.run(t, ws, []string{p.variable + "=" + p.key}, append([]string{"run", "-q", "--name", name, p.agent, ws, "--"}, p.args...)...)
	if r.code != 0 || !strings.Contains(r.out, p.says) {
		t.Errorf("status %d, and the answer is not in:\n%s\n%s", r.code, r.out, r.err)
	}
	p.onlyPlaceholder(t, u, ws, name)
	var lines []string
	called, queries := false, []string{}
	for _, q := range origin.Requests() {
		lines = append(lines, q.Proto+" "+q.Line)
		called = called || strings.HasPrefix(q.Line, p.call) && slices.Contains(q.Keys, p.key)
		queries = append(queries, q.Query...)
	}
	if !called {
		t.Errorf("no %s with the key came, but\n%s", p.call, strings.Join(lines, "\n"))
	}
	events, text := u.events(t, name)
	if !strings.Contains(text, "preset balanced") {
		t.Error("the record does not say that the preset was balanced")
	}
	recorded := slices.ContainsFunc(events, func(e audit.Event) bool {
		return e.Kind == audit.HTTP && strings.HasPrefix(e.Method+" "+e.Name+e.Path, p.call) &&
			e.Status == http.StatusOK && e.Verdict == "allow" && e.Origin == "preset balanced" && e.Received > 0
	})
	if !recorded {
		t.Errorf("no %s in the record:\n%s", p.call, summary(events))
	}
	for _, secret := range append(queries, p.key) {
		if strings.Contains(text, secret) {
			t.Errorf("the record has %q:\n%s", secret, summary(events))
		}
	}
}

// onlyPlaceholder: what the agent had, and what it left, has the placeholder of
// the key in it and not the key.
func (p provider) onlyPlaceholder(t *testing.T, u *user, ws, name string) {
	t.Helper()
	placeholder := u.must(t, ws, "exec", name, "sh", "-c", `printf %s "$`+p.variable+`"`)
	left := u.run(t, ws, nil, "exec", "-u", "root", name, "sh", "-c",
		"env; cat /proc/[0-9]*/environ; tar c --ignore-failed-read /etc /home /root /run /tmp /dev/shm "+ws+" 2>/dev/null")
	switch {
	case placeholder == "" || strings.Contains(placeholder, p.key):
		t.Errorf("inside, %s is %q", p.variable, placeholder)
	case !strings.Contains(left.out, placeholder):
		t.Errorf("the placeholder is not found, so the key would not be: %d bytes, %s", len(left.out), left.err)
	case strings.Contains(left.out, p.key):
		t.Error("the key is inside")
	}
}

// events is the record of a sandbox, read and as it is printed.
func (u *user) events(t *testing.T, name string, args ...string) ([]audit.Event, string) {
	t.Helper()
	text := u.must(t, "", append(append([]string{"log", "--json"}, args...), name)...)
	var events []audit.Event
	for line := range strings.Lines(text) {
		var e audit.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("the record has %q: %v", line, err)
		}
		events = append(events, e)
	}
	return events, text
}

// summary is what events say, for a test that fails.
func summary(events []audit.Event) string {
	var b strings.Builder
	for _, e := range events {
		fmt.Fprintf(&b, "%s %s %s:%d %s %s %s %d %s %s %s\n",
			e.Kind, e.Verdict, e.Name, e.Port, e.Protocol, e.Method, e.Path, e.Status, e.Reason, e.Error, e.Detail)
	}
	return b.String()
}

// origin is a server of the test's for hosts that the guest knows by name.
type origin struct {
	*standin.Server
	ca    []byte
	hosts []string
}

// serveTLS serves hosts until the test ends.
func serveTLS(t *testing.T, h http.Handler, hosts ...string) origin {
	t.Helper()
	ca, err := standin.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	s, err := standin.Serve(ca, h, hosts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return origin{s, ca.PEM(), hosts}
}

// apart is the user with a BERTH_HOME that only this test has, whose settings
// say that the origins are where their hosts are served. The templates are the
// shared ones, as is what engines fetch.
func (u *user) apart(t *testing.T, origins ...origin) *user {
	t.Helper()
	home, err := os.MkdirTemp(u.home, "bh-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(home) })
	var settings strings.Builder
	if suiteEngine != "" {
		fmt.Fprintf(&settings, "engine = %q\n", suiteEngine)
	}
	for i, o := range origins {
		ca := filepath.Join(home, fmt.Sprintf("ca-%d.pem", i))
		if err := os.WriteFile(ca, o.ca, 0o644); err != nil {
			t.Fatal(err)
		}
		for _, host := range o.hosts {
			fmt.Fprintf(&settings, "[[upstream]]\nhost = %q\nport = 443\naddress = %q\nca = %q\n\n", host, o.Address, ca)
		}
	}
	if err := u.newHome(home, settings.String()); err != nil {
		t.Fatal(err)
	}
	own := *u
	own.berthHome = home
	return &own
}

package e2e

import (
	"html"
	"io"
	"regexp"
	"strings"
	"testing"
	"time"

	"berth.dev/test/standin"
)

// byCode is a way to sign in without a browser on this machine: the agent shows
// something that its user takes elsewhere.
type byCode struct {
	agent   string
	command []string
	asks    []string       // what it asks before, and is answered with Enter
	goesOn  bool           // it does not end when it has signed in
	shows   *regexp.Regexp // what is taken
	paste   bool           // a page with a code that is brought back; else a code for a page
	login   string
	call    string
	say     []string
}

var deviceCode = regexp.MustCompile(`\b[0-9A-Z]{4}-[0-9A-Z]{4}\b`)

var byCodes = []byCode{
	{
		agent: "claude", command: []string{"claude", "auth", "login"}, shows: regexp.MustCompile(`https://claude\.ai/oauth/authorize\?[\w&=-]+`), paste: true,
		login: "login/claude", call: "POST api.anthropic.com/v1/messages", say: []string{"-p", "say it"},
	},
	{
		agent: "claude", command: []string{"claude", "auth", "login", "--console"}, shows: regexp.MustCompile(`https://platform\.claude\.com/oauth/authorize\?[\w&=-]+`), paste: true,
		login: "login/anthropic-key", call: "POST api.anthropic.com/v1/messages", say: []string{"-p", "say it"},
	},
	{
		agent: "codex", command: []string{"codex", "login", "--device-auth"}, shows: deviceCode,
		login: "login/chatgpt", call: "POST chatgpt.com/backend-api/codex/responses", say: []string{"exec", "--skip-git-repo-check", "say it"},
	},
	{
		// A terminal as wide as the address, which it breaks by itself elsewhere.
		agent: "gemini", command: []string{"sh", "-c", "stty cols 900; NO_BROWSER=true gemini"}, paste: true, goesOn: true,
		asks: []string{"How would you like to authenticate"}, shows: regexp.MustCompile(`https://accounts\.google\.com/o/oauth2/v2/auth\?[^\s\x1b]+`),
		login: "login/google", call: "POST cloudcode-pa.googleapis.com/v1internal:streamGenerateContent", say: []string{"-p", "say it"},
	},
	{
		agent: "copilot", command: []string{"copilot", "login", "--device-code"}, shows: deviceCode,
		login: "login/copilot", call: "POST api.githubcopilot.com/", say: []string{"-p", "say it"},
	},
	{
		agent: "opencode", command: []string{"opencode", "auth", "login", "-p", "openai", "-m", "ChatGPT Pro/Plus (headless)"}, shows: deviceCode,
		login: "login/chatgpt", call: "POST chatgpt.com/backend-api/codex/responses", say: []string{"run", "-m", "openai/gpt-5.5", "say it"},
	},
	{
		agent: "opencode", command: []string{"opencode", "auth", "login", "-p", "github-copilot"}, shows: deviceCode, asks: []string{"GitHub deployment type"},
		login: "login/copilot", call: "POST api.githubcopilot.com/", say: []string{"run", "-m", "github-copilot/gpt-5-mini", "say it"},
	},
}

// signInBy signs the agent of a sandbox in as its user does who has the browser
// on another machine.
func (s *signingIn) signInBy(t *testing.T, name string, way byCode) {
	t.Helper()
	scr := s.u.open(t, "", append([]string{"exec", "-it", name}, way.command...)...)
	scr.agree(way.asks...)
	found := scr.find(way.shows)
	if !way.paste {
		if err := s.api.Approve(found); err != nil {
			t.Fatalf("%v; it shows\n%s", err, scr.text())
		}
	} else {
		scr.keys(s.codeOf(t, found))
		scr.keys("\r")
	}
	if way.goesOn { // it is not there to sign in alone, and would ask for more meanwhile
		s.signedIn(t, name, way.agent)
		s.u.must(t, "", "exec", name, "pkill", "node")
		_ = scr.wait()
		return
	}
	if err := scr.wait(); err != nil {
		t.Fatalf("%v: %s", err, scr.text())
	}
}

// agree presses Enter at each question that appears.
func (s *screen) agree(questions ...string) {
	s.t.Helper()
	for _, q := range questions {
		s.see(q)
		time.Sleep(500 * time.Millisecond) // what draws it does not read keys yet
		s.keys("\r")
	}
}

// signedIn waits until a sandbox's agent has what it signs in with.
func (s *signingIn) signedIn(t *testing.T, name, agent string) {
	t.Helper()
	file := "/home/agent/" + hostFiles[agent]
	eventually(t, "it has signed in", func() bool { return s.u.run(t, "", nil, "exec", name, "test", "-s", file).code == 0 })
}

// codeOf is the code on the page that a link leads to.
func (s *signingIn) codeOf(t *testing.T, link string) string {
	t.Helper()
	res, err := s.o.Browser().Get(link)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	page, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "<code>")
	code, _, ok := strings.Cut(rest, "</code>")
	if !ok {
		t.Fatalf("%s leads to %s", link, page)
	}
	return html.UnescapeString(code)
}

// briefLife is how long tokens hold where they are to run out in a test: there
// are several calls of an agent's in it, each of which takes seconds.
const briefLife = 8 * time.Second

// TestSignInByCode: what a sandbox signed in to by a code, which could be
// anybody's, is its own until its user says otherwise.
func TestSignInByCode(t *testing.T) {
	for _, way := range byCodes {
		least(t, func(t *testing.T, u *user) {
			t.Run(way.agent+" "+way.login, func(t *testing.T) {
				api := standin.NewSignIn("Paris, says the model.")
				api.Life = briefLife
				s := newSigningIn(t, u, api)
				ws, first, next := s.u.workspace(t), s.u.fresh(t), s.u.fresh(t)
				s.u.must(t, ws, "create", "--name", first, way.agent, ws)
				s.signInBy(t, first, way)
				say := func(name string) result {
					return s.u.run(t, ws, nil, append([]string{"run", "--name", name, way.agent, ws, "--"}, way.say...)...)
				}
				works := func(name string) {
					t.Helper()
					if r := say(name); r.code != 0 || !strings.Contains(r.out, "Paris, says the model.") {
						t.Errorf("status %d\n%s\n%s\n%v", r.code, r.out, r.err, s.api.Uses())
					}
					s.hidden(t, name)
				}
				works(first)
				s.taken(t, way.call)
				before := len(s.api.Uses())
				share := "secret share --sandbox " + first + " " + way.login
				if r := say(next); strings.Contains(r.out, "Paris, says the model.") || !strings.Contains(r.err, "berth "+share) {
					t.Errorf("before it is shared: %+v", r)
				}
				for _, use := range s.api.Uses()[before:] {
					if use.State != standin.None {
						t.Errorf("the other sandbox came with something: %+v", use)
					}
				}
				if way.agent == "codex" { // by the answer to a question
					scr := s.u.open(t, ws, append([]string{"run", "--name", next, way.agent, ws, "--"}, way.say...)...)
					scr.see("signed in to ChatGPT as octo@example.com, by a code. Was that you")
					scr.keys("y\r")
					scr.see("Paris, says the model.")
				} else {
					s.u.must(t, ws, strings.Fields(share)...)
				}
				works(next)
				works(first)
				if way.login == "login/copilot" || way.login == "login/anthropic-key" {
					return // which have no end
				}
				eventually(t, "something is renewed", func() bool {
					works(next)
					return s.api.Refreshes() > 0
				})
			})
		})
	}
}

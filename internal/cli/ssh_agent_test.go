package cli

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"berth.dev/internal/audit"
	"berth.dev/internal/bundle"
	"berth.dev/internal/control"
	"berth.dev/internal/sshagent"
)

func TestSSHAgentFlag(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		args string
		want []string
		ok   bool
	}{
		{"--ssh-agent claude", nil, true},
		{"--ssh-agent=GitHub.com,git.example:2222 claude", []string{"github.com", "[git.example]:2222"}, true},
		{"--ssh-agent=commits --ssh-agent=SHA256:a/b+c claude", []string{"commits", "SHA256:a/b+c"}, true},
		{"--ssh-agent=*.example", nil, false},
		{"--ssh-agent=git@github.com", nil, false},
		{"--ssh-agent=github.com,", nil, false},
		{"--ssh-agent=ssh://github.com", nil, false},
	} {
		var f sshAgentFlag
		set := pflag.NewFlagSet("x", pflag.ContinueOnError)
		set.SetOutput(io.Discard)
		f.register(set)
		err := set.Parse(strings.Fields(tt.args))
		if (err == nil) != tt.ok || tt.ok && (!f.on || !slices.Equal(f.approved, tt.want) || set.Arg(0) != "claude") {
			t.Errorf("%s: %+v, %v", tt.args, f, err)
		}
	}
}

// TestDescribe: what the guest chose cannot speak for Berth.
func TestDescribe(t *testing.T) {
	t.Parallel()
	for want, u := range map[string]control.AgentUse{
		`sign in to git.example as "git" with your SSH key laptop`:                             {Purpose: sshagent.SignIn, Host: "git.example", User: "git", Comment: "laptop", Key: "SHA256:k"},
		`sign in to an unknown host with the key SHA256:h as "git" with your SSH key SHA256:k`: {Purpose: sshagent.SignIn, Host: "SHA256:h", User: "git", Key: "SHA256:k"},
		`sign in to a host of your known_hosts whose name is hashed, with the key SHA256:h as "" with your SSH key SHA256:k`: {
			Purpose: sshagent.SignIn, Host: "SHA256:h", Known: true, Key: "SHA256:k"},
		`sign commits with your SSH key laptop`: {Purpose: sshagent.SignCommit, Comment: "laptop"},
		`sign in to h as "a\"\n\x1b[2J with a key that does not matterx…" with your SSH key laptop`: {
			Purpose: sshagent.SignIn, Host: "h", User: "a\"\n\x1b[2J with a key that does not matter" + strings.Repeat("x", 60000), Comment: "laptop"},
	} {
		if got := describe(u); got != want {
			t.Errorf("%s\nnot %s", got, want)
		}
	}
}

func TestLogOfAgent(t *testing.T) {
	t.Parallel()
	for want, e := range map[string]audit.Event{
		"SSH key k SHA256:x for git@git.example": {Method: sshagent.SignIn, Secret: "k SHA256:x", Name: "git.example", Detail: "git"},
		"SSH key k SHA256:x for a commit":        {Method: sshagent.SignCommit, Secret: "k SHA256:x", Name: "commits"},
		"SSH key SHA256:x":                       {Method: sshagent.OtherPurpose, Secret: "SHA256:x"},
		"SSH agent":                              {Method: control.AgentForward},
	} {
		e.Kind, e.Protocol = audit.Secret, audit.SSHAgent
		if got := logWhatOf(e); got != want {
			t.Errorf("%q, not %q", got, want)
		}
	}
}

// TestTyped: a line is the answer to the question that stands, and to none that
// comes later.
func TestTyped(t *testing.T) {
	t.Parallel()
	r, w := io.Pipe()
	var typed typed
	ctx, cancel := context.WithCancel(t.Context())
	withdrawn := make(chan error)
	go func() { _, err := typed.line(ctx, r); withdrawn <- err }()
	cancel()
	if err := <-withdrawn; err == nil {
		t.Error("a question that was withdrawn has an answer")
	}
	if _, err := io.WriteString(w, "session\n"); err != nil { // nobody asks
		t.Fatal(err)
	}
	got := make(chan string)
	go func() {
		line, _ := typed.line(t.Context(), r)
		got <- line
	}()
	for done := false; !done; { // the reader drops lines until the question stands
		go func() { _, _ = io.WriteString(w, "never\n") }()
		select {
		case line := <-got:
			if line != "never\n" {
				t.Errorf("%q is the answer", line)
			}
			done = true
		case <-time.After(time.Millisecond):
		}
	}
	w.Close()
	for range 2 {
		if _, err := typed.line(t.Context(), r); err == nil {
			continue // a line that was on its way
		}
	}
}

// TestAskWindow: what the program that asks says, and how it ends.
func TestAskWindow(t *testing.T) {
	t.Parallel()
	for script, want := range map[string]sshagent.Answer{
		`test "$SSH_ASKPASS_PROMPT" = confirm`:       sshagent.Session,
		`case "$1" in *git.example*) echo Yes; esac`: sshagent.Session,
		`echo no`:                sshagent.Never,
		`exit 1`:                 sshagent.Never,
		`head -c 9999 /dev/zero`: sshagent.Never,
		`kill -9 $$`:             sshagent.Never,
	} {
		path := filepath.Join(t.TempDir(), "askpass")
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		f := &forwarding{b: &bundle.Bundle{}, a: newApp(Stdio{}, Env{Vars: []string{"DISPLAY=:0", "SSH_ASKPASS=" + path, "PATH=" + os.Getenv("PATH")}})}
		if got := f.askWindow(t.Context(), control.AgentUse{Purpose: sshagent.SignIn, Host: "git.example"}); got != want {
			t.Errorf("%s: %q", script, got)
		}
	}
	for _, vars := range [][]string{nil, {"DISPLAY=:0", "SSH_ASKPASS=/nowhere"}, {"DISPLAY=:0", "SSH_ASKPASS=/bin/true", "SSH_ASKPASS_REQUIRE=never"}, {"SSH_ASKPASS=/bin/true"}} {
		f := &forwarding{a: newApp(Stdio{}, Env{Vars: vars})}
		if got := f.askpass(); got != "" {
			t.Errorf("%v: %s", vars, got)
		}
	}
	// Answered elsewhere: it goes away.
	ctx, cancel := context.WithCancel(t.Context())
	path := filepath.Join(t.TempDir(), "askpass")
	if err := os.WriteFile(path, []byte("#!/bin/sh\nexec sleep 100\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	f := &forwarding{b: &bundle.Bundle{}, a: newApp(Stdio{}, Env{Vars: []string{"SSH_ASKPASS_REQUIRE=force", "SSH_ASKPASS=" + path, "PATH=" + os.Getenv("PATH")}})}
	time.AfterFunc(50*time.Millisecond, cancel)
	if got := f.askWindow(ctx, control.AgentUse{}); got != sshagent.Unanswered {
		t.Errorf("answered %q", got)
	}
}

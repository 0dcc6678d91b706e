package supervisor

import (
	"context"
	"strings"
	"testing"
	"time"

	"berth.dev/internal/audit"
	"berth.dev/internal/control"
	"berth.dev/internal/sandbox"
	"berth.dev/internal/sshagent"
)

// agentAsked waits until n questions stand.
func agentAsked(t *testing.T, a *agentQuestions, n int) []control.Question {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if qs := a.questions(); len(qs) == n {
			return qs
		}
	}
	t.Fatalf("%d questions, want %d", len(a.questions()), n)
	return nil
}

func TestAgentQuestions(t *testing.T) {
	told := make(chan string, 9)
	a := newAgentQuestions(time.Minute, func(what string) { told <- what })
	use := control.AgentUse{Purpose: sshagent.SignIn, Key: "SHA256:k", Comment: "key", Host: "git.example", User: "git"}
	got := make(chan sshagent.Answer)
	ask := func(ctx context.Context) {
		answer, err := a.ask(ctx, use)
		if err != nil {
			t.Error(err)
		}
		got <- answer
	}
	for _, answer := range sshagent.Answers() {
		go ask(t.Context())
		q := agentAsked(t, a, 1)[0]
		if *q.Agent != use || q.Host != "git.example" || q.Port != 0 || !q.Expires.Equal(q.Asked.Add(time.Minute)) {
			t.Errorf("%+v", q)
		}
		if text := <-told; !strings.Contains(text, "git.example") {
			t.Errorf("told %q", text)
		}
		if _, found, err := a.answer("other", "once"); found || err != nil {
			t.Errorf("another question: %v, %v", found, err)
		}
		if _, found, err := a.answer(q.ID, "always"); !found || sandbox.ClassOf(err) != sandbox.ErrInvalid {
			t.Errorf("another answer: %v, %v", found, err)
		}
		if about, found, err := a.answer(q.ID, string(answer)); !found || err != nil || about != use || <-got != answer {
			t.Errorf("%s: %+v, %v, %v", answer, about, found, err)
		}
		agentAsked(t, a, 0)
	}
	// Who asked has left.
	ctx, cancel := context.WithCancel(t.Context())
	go ask(ctx)
	agentAsked(t, a, 1)
	cancel()
	if answer := <-got; answer != sshagent.Unanswered {
		t.Errorf("answered %q", answer)
	}
	agentAsked(t, a, 0)
	// Too many.
	ctx, cancel = context.WithCancel(t.Context())
	for range maxQuestions {
		go ask(ctx)
	}
	agentAsked(t, a, maxQuestions)
	if _, err := a.ask(ctx, use); sandbox.ClassOf(err) != sandbox.ErrPrecondition {
		t.Errorf("one more: %v", err)
	}
	cancel()
	for range maxQuestions {
		<-got
	}
}

func TestAgentEvent(t *testing.T) {
	ev := agentEvent(control.AgentUse{
		Purpose: sshagent.SignIn, Key: "SHA256:k", Comment: strings.Repeat("c", 500), Host: "git.example", User: "git", Allowed: true, Reason: "r", Error: "e",
	})
	if ev.Kind != audit.Secret || ev.Protocol != audit.SSHAgent || ev.Method != "sign-in" || ev.Name != "git.example" || ev.Detail != "git" ||
		ev.Verdict != audit.Allow || ev.Reason != "r" || ev.Error != "e" || !strings.HasSuffix(ev.Secret, "c SHA256:k") || len(ev.Secret) > 128 {
		t.Errorf("%+v", ev)
	}
	if ev := agentEvent(control.AgentUse{Purpose: sshagent.OtherPurpose, Reason: "r"}); ev.Verdict != audit.Deny || ev.Secret != "" {
		t.Errorf("%+v", ev)
	}
}

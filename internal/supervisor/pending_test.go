package supervisor

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"berth.dev/internal/sandbox"
)

// asked waits until there are n questions.
func asked(t *testing.T, p *pending, n int) string {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		if qs := p.questions(); len(qs) == n {
			return qs[n-1].ID
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("%d questions, want %d", len(p.questions()), n)
	return ""
}

func TestAnswerOnce(t *testing.T) {
	told := make(chan string, 9)
	p := newPending(time.Minute, func(what string) { told <- what })
	got := make(chan bool)
	go func() { got <- p.Ask(t.Context(), "example.com", 443) }()
	id := asked(t, p, 1)
	if s := <-told; s != "wants to connect to example.com, port 443." {
		t.Errorf("told %q", s)
	}
	if err := p.answer(id, true); err != nil || !<-got {
		t.Errorf("answered once: %v", err)
	}
	go func() { got <- p.Ask(t.Context(), "example.com", 443) }()
	if err := p.answer(asked(t, p, 1), false); err != nil || <-got {
		t.Errorf("the next connection is asked about anew; answered otherwise: %v", err)
	}
	if err := p.answer(id, true); !errors.Is(err, sandbox.ErrNotFound) {
		t.Errorf("an old question: %v", err)
	}
}

// TestNobodyAnswers: the first waits, the others do not; a late answer counts
// for the next one.
func TestNobodyAnswers(t *testing.T) {
	p := newPending(20*time.Millisecond, nil)
	if p.Ask(t.Context(), "example.com", 443) {
		t.Error("allowed by nobody")
	}
	p.wait = time.Hour
	if p.Ask(t.Context(), "example.com", 443) {
		t.Error("allowed by nobody")
	}
	if err := p.answer(asked(t, p, 1), true); err != nil {
		t.Fatal(err)
	}
	if !p.Ask(t.Context(), "example.com", 443) {
		t.Error("a late answer does not count")
	}
	if len(p.questions()) != 0 {
		t.Error("it still stands")
	}
}

func TestQuestionsAreBounded(t *testing.T) {
	p := newPending(time.Millisecond, nil)
	for i := range 2 * maxQuestions {
		p.Ask(t.Context(), fmt.Sprint("n", i), 1)
	}
	if n := len(p.questions()); n != maxQuestions {
		t.Errorf("%d questions", n)
	}
	p.now = func() time.Time { return time.Now().Add(2 * questionLife) }
	if n := len(p.questions()); n != 0 {
		t.Errorf("%d are left after their time", n)
	}
}

func TestGuestGoesAway(t *testing.T) {
	p := newPending(time.Hour, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if p.Ask(ctx, "example.com", 443) {
		t.Error("allowed")
	}
}

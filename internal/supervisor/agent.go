package supervisor

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"berth.dev/internal/audit"
	"berth.dev/internal/control"
	"berth.dev/internal/sandbox"
	"berth.dev/internal/sshagent"
)

// serveAgent records a use of the user's SSH agent, or asks the user about one.
// The agent is guarded by the client that forwards it; this process never talks
// to it.
func (s *Supervisor) serveAgent(ctx context.Context, c *control.Conn) error {
	use := c.Request.Agent
	if use == nil {
		return c.Reply(nil, sandbox.Errorf(sandbox.ErrInvalid, "no use of the SSH agent was named"))
	}
	if c.Request.Op == control.OpAgentUse {
		s.net.audit.Record(agentEvent(*use))
		return c.Reply(nil, nil)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, c) // the client says no more, and leaves
		cancel()
	}()
	answer, err := s.agent.ask(ctx, *use)
	return c.Reply(control.AgentAnswer{Answer: string(answer)}, err)
}

// agentEvent is what the record says of a use.
func agentEvent(u control.AgentUse) audit.Event {
	ev := audit.Event{
		Kind: audit.Secret, Protocol: audit.SSHAgent, Method: u.Purpose, Secret: keyName(u), Name: u.Host, Detail: u.User,
		Verdict: audit.Deny, Reason: u.Reason, Error: u.Error,
	}
	if u.Allowed {
		ev.Verdict = audit.Allow
	}
	return ev
}

// keyName is a key's comment, as far as there is room, and its fingerprint.
func keyName(u control.AgentUse) string {
	if u.Comment == "" || u.Key == "" {
		return cmp.Or(u.Key, u.Comment)
	}
	comment := u.Comment
	if len(comment) > 64 {
		comment = comment[:64]
	}
	return comment + " " + u.Key
}

// agentQuestions are those about the SSH agent that stand. Each has a client
// that waits; how long, and what an answer means later, is that one's business.
type agentQuestions struct {
	wait   time.Duration
	notify func(what string) // nil: nobody is told

	mu   sync.Mutex
	list []*agentQuestion
}

type agentQuestion struct {
	control.Question
	answered chan sshagent.Answer // room for the answer
}

func newAgentQuestions(wait time.Duration, notify func(string)) *agentQuestions {
	return &agentQuestions{wait: wait, notify: notify}
}

// ask blocks until there is an answer or ctx ends.
func (a *agentQuestions) ask(ctx context.Context, use control.AgentUse) (sshagent.Answer, error) {
	now := time.Now().UTC()
	q := &agentQuestion{control.Question{
		ID: newQuestionID(), Host: use.Host, Agent: &use, Asked: now, Expires: now.Add(a.wait), Waiting: 1,
	}, make(chan sshagent.Answer, 1)}
	if !a.add(q) {
		return sshagent.Unanswered, sandbox.Errorf(sandbox.ErrPrecondition, "%d questions stand already", maxQuestions)
	}
	defer a.remove(q)
	if a.notify != nil {
		go a.notify(fmt.Sprintf("wants to use your SSH agent for %s.", use.Host))
	}
	select {
	case answer := <-q.answered:
		return answer, nil
	case <-ctx.Done():
		return sshagent.Unanswered, nil
	}
}

func (a *agentQuestions) add(q *agentQuestion) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.list) >= maxQuestions {
		return false
	}
	a.list = append(a.list, q)
	return true
}

func (a *agentQuestions) remove(q *agentQuestion) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.list = slices.DeleteFunc(a.list, func(o *agentQuestion) bool { return o == q })
}

// questions are those that stand, the oldest first.
func (a *agentQuestions) questions() []control.Question {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := []control.Question{}
	for _, q := range a.list {
		all = append(all, q.Question)
	}
	return all
}

// answer ends a question, and returns what it was about; found is false when
// there is none of that ID.
func (a *agentQuestions) answer(id, how string) (about control.AgentUse, found bool, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	i := slices.IndexFunc(a.list, func(q *agentQuestion) bool { return q.ID == id })
	if i < 0 {
		return about, false, nil
	}
	answer := sshagent.Answer(how)
	if !slices.Contains(sshagent.Answers(), answer) {
		return about, true, sandbox.Errorf(sandbox.ErrInvalid, "%q is none of the answers to a question about the SSH agent", how)
	}
	q := a.list[i]
	a.list = slices.Delete(a.list, i, i+1)
	q.answered <- answer
	return *q.Agent, true, nil
}

// questions are all that stand.
func (s *Supervisor) questions() []control.Question {
	all := s.agent.questions()
	if s.net.pending != nil {
		all = append(all, s.net.pending.questions()...)
	}
	return all
}

// answer ends a question, whatever it is about.
func (s *Supervisor) answer(r control.Request) error {
	about, found, err := s.agent.answer(r.Question, r.How)
	if !found {
		return s.net.answer(r.Question, r.Once, r.How)
	}
	if err == nil {
		s.net.audit.Record(audit.Event{Kind: audit.Decision, Detail: r.How + ": " + keyName(about) + " for " + about.Host})
	}
	return err
}

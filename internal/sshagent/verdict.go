package sshagent

import (
	"context"
	"slices"
	"time"
)

// maxQuestions bounds what the user is asked in one session: the guest chooses
// the destinations.
const maxQuestions = 32

// Reasons of what was allowed.
const (
	reasonApproved = "approved by --ssh-agent"
	reasonSession  = "you allowed it, for this session"
	reasonOnce     = "you allowed it, this once"
)

// verdict is what the user said about a destination, or will.
type verdict struct {
	answered chan struct{} // closed with the answer
	expires  time.Time     // when those that wait give up
	answer   Answer
	waiting  int
	once     int // signatures that may still be made by the answer
}

// decide says why a signature is allowed, or returns why it is not. The first
// for a destination waits for the user; those that come after nobody answered in
// time do not wait again.
func (g *Guard) decide(ctx context.Context, use Use) (string, error) {
	d := use.Destination
	if slices.ContainsFunc(append([]string{d.Name}, d.names...), func(n string) bool { return slices.Contains(g.cfg.Approved, n) }) {
		return reasonApproved, nil
	}
	v := g.join(ctx, use)
	if v == nil {
		return "", refuse("there are too many questions")
	}
	defer g.leave(v)
	timer := time.NewTimer(time.Until(v.expires))
	defer timer.Stop()
	select {
	case <-v.answered:
	case <-timer.C:
	case <-ctx.Done():
	}
	return g.take(d.Name, v)
}

// join finds what was said about a destination, or has the user asked.
func (g *Guard) join(ctx context.Context, use Use) *verdict {
	g.mu.Lock()
	defer g.mu.Unlock()
	name := use.Destination.Name
	v := g.verdicts[name]
	if v == nil {
		if len(g.verdicts) >= maxQuestions {
			return nil
		}
		v = &verdict{answered: make(chan struct{}), expires: time.Now().Add(g.cfg.Wait)}
		g.verdicts[name] = v
		go g.ask(ctx, use, v)
	}
	v.waiting++
	return v
}

func (g *Guard) ask(ctx context.Context, use Use, v *verdict) {
	answer := g.cfg.Ask(ctx, use)
	g.mu.Lock()
	defer g.mu.Unlock()
	v.answer = answer
	switch answer {
	case Once:
		v.once = max(1, v.waiting)
	case Unanswered:
		delete(g.verdicts, use.Destination.Name) // who comes next may be luckier
	}
	close(v.answered)
}

func (g *Guard) leave(v *verdict) {
	g.mu.Lock()
	defer g.mu.Unlock()
	v.waiting--
}

// take uses up one of the signatures that an answer gave.
func (g *Guard) take(name string, v *verdict) (string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case v.answer == Session:
		return reasonSession, nil
	case v.answer == Never:
		return "", refuse("you did not allow it, for this session")
	case v.answer == Once && v.once > 0:
		if v.once--; v.once == 0 && g.verdicts[name] == v {
			delete(g.verdicts, name)
		}
		return reasonOnce, nil
	}
	return "", refuse("nobody answered the question about it in time")
}

package supervisor

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"sync"
	"time"

	"berth.dev/internal/control"
	"berth.dev/internal/sandbox"
)

// Bounds of what the user is asked: the guest chooses what and how often.
const (
	maxQuestions = 64
	// questionLife is how long a question stands that nobody answered in time;
	// a late answer still counts for the next connection.
	questionLife = time.Hour
)

// pending are the questions about places that no rule decides. The first
// connection to a place waits for the answer; those that come after nobody
// answered do not wait again, so that a program that tries over and over fails
// as fast as without questions.
type pending struct {
	wait   time.Duration
	notify func(what string) // nil: nobody is told
	now    func() time.Time

	mu   sync.Mutex
	list []*question
}

// question is about one place.
type question struct {
	id      string
	host    string
	port    uint16
	asked   time.Time
	expires time.Time     // when those that wait give up
	done    chan struct{} // closed with the answer
	waiting int
	once    int // connections that may still be made by the answer
}

func newPending(wait time.Duration, notify func(string)) *pending {
	return &pending{wait: wait, notify: notify, now: time.Now}
}

// Ask implements egress.Asker.
func (p *pending) Ask(ctx context.Context, host string, port uint16) bool {
	q, wait := p.join(host, port)
	if q == nil {
		return false
	}
	defer p.leave(q)
	if wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-q.done:
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	return p.take(q)
}

// join finds the question about a place, or asks it. wait is what is left of
// its time.
func (p *pending) join(host string, port uint16) (q *question, wait time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forget()
	now := p.now()
	for _, q := range p.list {
		if q.host == host && q.port == port {
			q.waiting++
			return q, q.expires.Sub(now)
		}
	}
	if len(p.list) >= maxQuestions {
		return nil, 0
	}
	q = &question{
		id: newQuestionID(), host: host, port: port, asked: now, expires: now.Add(p.wait),
		done: make(chan struct{}), waiting: 1,
	}
	p.list = append(p.list, q)
	if p.notify != nil {
		go p.notify(fmt.Sprintf("wants to connect to %s, port %d.", host, port))
	}
	return q, p.wait
}

// newQuestionID is short, because people type it.
func newQuestionID() string {
	id := make([]byte, 3)
	_, _ = rand.Read(id) // never fails: crypto/rand.Read since Go 1.24
	return hex.EncodeToString(id)
}

func (p *pending) leave(q *question) {
	p.mu.Lock()
	defer p.mu.Unlock()
	q.waiting--
}

// take uses up one of the connections that an answer gave.
func (p *pending) take(q *question) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if q.once == 0 {
		return false
	}
	q.once--
	if q.once == 0 {
		p.remove(q)
	}
	return true
}

// forget drops what is too old. The caller holds mu.
func (p *pending) forget() {
	now := p.now()
	p.list = slices.DeleteFunc(p.list, func(q *question) bool { return q.waiting == 0 && now.Sub(q.asked) > questionLife })
}

func (p *pending) remove(q *question) {
	p.list = slices.DeleteFunc(p.list, func(o *question) bool { return o == q })
}

// questions are those that stand, the oldest first.
func (p *pending) questions() []control.Question {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forget()
	all := []control.Question{}
	for _, q := range p.list {
		all = append(all, control.Question{ID: q.id, Host: q.host, Port: q.port, Asked: q.asked.UTC(), Expires: q.expires.UTC(), Waiting: q.waiting})
	}
	slices.SortFunc(all, func(a, b control.Question) int { return cmp.Or(a.Asked.Compare(b.Asked), cmp.Compare(a.ID, b.ID)) })
	return all
}

// answer ends a question. With once the connections that wait may be made, or
// the next one when none does; a lasting answer has become a rule before.
func (p *pending) answer(id string, once bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, q := range p.list {
		if q.id != id {
			continue
		}
		if once {
			q.once = max(1, q.waiting)
		}
		select {
		case <-q.done:
		default:
			close(q.done)
		}
		if !once {
			p.remove(q)
		} else {
			q.expires = p.now() // whoever comes does not wait, and takes what is left
		}
		return nil
	}
	return noQuestion(id)
}

func noQuestion(id string) error {
	return sandbox.Errorf(sandbox.ErrNotFound, "there is no question %s", id).
		WithHint("berth policy pending lists those that stand")
}

package supervisor

import (
	"sync"
	"time"

	"berth.dev/internal/guestapi"
)

// sessions knows what runs in the guest, from its events, and who is connected
// to it. It is safe for concurrent use.
type sessions struct {
	idleAfter time.Duration // 0: never idle
	remove    bool          // the sandbox goes when its agent has ended
	now       func() time.Time

	mu      sync.Mutex
	running map[string]guestapi.Kind
	tunnels int
	active  time.Time // when somebody last was connected, or a session ran
	ended   bool      // an agent session has ended
	gone    bool
	removed chan struct{} // closed when remove applies
}

func newSessions(idleAfter time.Duration, remove bool) *sessions {
	return &sessions{
		idleAfter: idleAfter, remove: remove, now: time.Now, active: time.Now(),
		running: map[string]guestapi.Kind{}, removed: make(chan struct{}),
	}
}

// started notes a session.
func (s *sessions) started(id string, kind guestapi.Kind) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running[id] = kind
}

// finished notes the end of a session.
func (s *sessions) finished(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running[id] == guestapi.Agent {
		s.ended = true
	}
	delete(s.running, id)
	s.active = s.now()
	s.checkRemoved()
}

// hold notes a client's connection; the result notes its end.
func (s *sessions) hold() (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tunnels++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.tunnels--
		s.active = s.now()
		s.checkRemoved()
	}
}

// checkRemoved closes removed once the agent of a sandbox that is to go has
// ended, no other one runs, and nobody is connected who might still read.
// Commands that were left running beside it end with it.
func (s *sessions) checkRemoved() {
	for _, kind := range s.running {
		if kind == guestapi.Agent {
			return
		}
	}
	if s.remove && s.ended && s.tunnels == 0 && !s.gone {
		s.gone = true
		close(s.removed)
	}
}

// live is the number of running sessions.
func (s *sessions) live() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.running)
}

// ids returns the running sessions.
func (s *sessions) ids() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ids []string
	for id := range s.running {
		ids = append(ids, id)
	}
	return ids
}

// postpone starts the idle time anew.
func (s *sessions) postpone() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active = s.now()
}

// idle reports whether nobody has been connected and nothing has run for as
// long as the sandbox waits.
func (s *sessions) idle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.idleAfter <= 0 || s.tunnels > 0 || len(s.running) > 0 {
		return false
	}
	return s.now().Sub(s.active) >= s.idleAfter
}

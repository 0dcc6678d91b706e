// Package session owns the processes that somebody works with in the guest: a
// session is a process in a terminal or on pipes with a bounded memory of its
// output, and it lives on when every client has left. It knows nothing of
// SSH; package sshd carries bytes between clients and sessions.
package session

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"berth.dev/internal/guest/account"
	"berth.dev/internal/guest/reap"
	"berth.dev/internal/guestapi"
)

// Bounds of a Store.
const (
	MaxRunning = 256
	// KeepEnded sessions and KeepOutput bytes of their output stay known; the
	// oldest go first.
	KeepEnded  = 64
	KeepOutput = 8 << 20
)

// Config is what a Store works with.
type Config struct {
	Reaper   *reap.Reaper
	Accounts *account.Base
	User     guestapi.User     // whom a session runs as unless it says otherwise
	Env      map[string]string // default environment
	Dir      string            // default working directory
	Ring     int               // bytes kept per stream
	Grace    time.Duration     // what a session that was hung up is left before it is killed
}

// Store is all sessions of a guest. Make it with NewStore; its methods are
// safe for concurrent use.
type Store struct {
	cfg Config
	// active is called at input and output; atomic because it is called often.
	active atomic.Pointer[func()]

	mu       sync.Mutex
	sessions map[string]*Session // running and kept
	ended    []*Session          // kept, in the order they ended
	closed   bool
	watchers map[*func(*Session)]struct{}
}

// NewStore makes an empty store.
func NewStore(cfg Config) *Store {
	return &Store{cfg: cfg, sessions: map[string]*Session{}, watchers: map[*func(*Session)]struct{}{}}
}

// OnActivity sets what is called, from any goroutine, at every input and
// output. It must be quick.
func (st *Store) OnActivity(fn func()) { st.active.Store(&fn) }

func (st *Store) touch() {
	if fn := st.active.Load(); fn != nil {
		(*fn)()
	}
}

// Options are what a start may want beyond the specification.
type Options struct {
	// Attach asks for a client that misses nothing: it is attached before the
	// process runs.
	Attach bool
	// Modes changes the modes of a terminal before the process sees it.
	Modes func(*unix.Termios)
}

// Start starts a session; the client is nil unless opt.Attach. Errors are
// *guestapi.Error.
func (st *Store) Start(spec guestapi.SessionSpec, opt Options) (*Session, *Client, error) {
	if spec.Kind == "" {
		spec.Kind = guestapi.Exec
	}
	if spec.TTY && (spec.Size.Cols == 0 || spec.Size.Rows == 0) {
		spec.Size = guestapi.Size{Cols: 80, Rows: 24}
	}
	id, err := st.reserve(spec.ID)
	if err != nil {
		return nil, nil, err
	}
	spec.ID = id
	s, client, err := st.launch(spec, opt)
	st.settle(id, s)
	if err != nil {
		return nil, nil, err
	}
	return s, client, nil
}

// reserve makes sure that one more session may run and that its id is free;
// the id is taken from then on.
func (st *Store) reserve(id string) (string, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.closed {
		return "", guestapi.Errorf(guestapi.Limit, "the sandbox is stopping")
	}
	if running := len(st.sessions) - len(st.ended); running >= MaxRunning {
		return "", guestapi.Errorf(guestapi.Limit, "%d sessions run already", running)
	}
	if id == "" {
		id = newID()
	}
	if _, taken := st.sessions[id]; taken {
		return "", guestapi.Errorf(guestapi.SessionExists, "a session %s exists already", id)
	}
	st.sessions[id] = nil // taken, not yet there
	return id, nil
}

// settle puts a started session in its reserved place and shows it to the
// watchers, or gives the place back when s is nil.
func (st *Store) settle(id string, s *Session) {
	st.mu.Lock()
	if s == nil {
		delete(st.sessions, id)
		st.mu.Unlock()
		return
	}
	st.sessions[id] = s
	closed := st.closed
	var watchers []*func(*Session)
	for w := range st.watchers {
		watchers = append(watchers, w)
	}
	// Told under the lock, so that Watch neither misses a session nor shows
	// one twice; watchers only start a goroutine.
	for _, w := range watchers {
		(*w)(s)
	}
	st.mu.Unlock()
	go s.wait()
	if closed { // Shutdown came in between and did not see it
		_ = s.Signal(unix.SIGKILL)
	}
}

// launch makes the session of a specification whose id is reserved.
func (st *Store) launch(spec guestapi.SessionSpec, opt Options) (*Session, *Client, error) {
	cmd, err := st.resolve(&spec)
	if err != nil {
		return nil, nil, err
	}
	s := newSession(st, spec, cmd)
	var client *Client
	if opt.Attach {
		client = s.attach(guestapi.AttachRequest{Size: spec.Size})
	}
	if err := s.start(cmd, opt.Modes); err != nil {
		return nil, nil, err
	}
	return s, client, nil
}

// Get finds a session by its id.
func (st *Store) Get(id string) (*Session, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if s := st.sessions[id]; s != nil {
		return s, nil
	}
	return nil, guestapi.Errorf(guestapi.NoSession, "no session %s", guestapi.Printable(id, 64))
}

// List returns all known sessions by the time of their start.
func (st *Store) List() []*Session {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.list()
}

func (st *Store) list() []*Session {
	var all []*Session
	for _, s := range st.sessions {
		if s != nil {
			all = append(all, s)
		}
	}
	slices.SortFunc(all, func(a, b *Session) int { return a.started.Compare(b.started) })
	return all
}

// Watch returns the known sessions and calls fn for each one that starts
// later, until stop is called. fn must not block and not call the store.
func (st *Store) Watch(fn func(*Session)) (known []*Session, stop func()) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.watchers[&fn] = struct{}{}
	return st.list(), func() {
		st.mu.Lock()
		defer st.mu.Unlock()
		delete(st.watchers, &fn)
	}
}

// retire moves a session to the ended ones and forgets the oldest of those.
func (st *Store) retire(s *Session) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if s.spec.Kind == guestapi.SFTP { // nothing of it is worth a place
		delete(st.sessions, s.spec.ID)
		return
	}
	st.ended = append(st.ended, s)
	for len(st.ended) > KeepEnded {
		delete(st.sessions, st.ended[0].spec.ID)
		st.ended = slices.Delete(st.ended, 0, 1)
	}
	kept := 0
	for _, old := range slices.Backward(st.ended) {
		if kept += old.kept(); kept > KeepOutput {
			kept -= old.drop()
		}
	}
}

// Shutdown ends all sessions: TERM, and HUP for terminals, then KILL when
// grace is over or ctx is done. It returns when none runs; none can start from
// then on.
func (st *Store) Shutdown(ctx context.Context, grace time.Duration) {
	st.mu.Lock()
	st.closed = true
	all := st.list()
	st.mu.Unlock()
	for _, s := range all {
		s.terminate()
	}
	ctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	for _, s := range all {
		select {
		case <-s.exited():
			continue
		case <-ctx.Done():
		}
		s.kill()
		<-s.exited()
	}
}

func newID() string {
	var b [6]byte
	_, _ = rand.Read(b[:]) // never fails, see crypto/rand
	return hex.EncodeToString(b[:])
}

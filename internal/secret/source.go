package secret

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"path/filepath"
	"sync"
	"time"

	"berth.dev/internal/sandbox"
)

// Times of refreshing what a command made.
const (
	defaultTTL = 5 * time.Minute // without a word from it or the user
	maxMargin  = time.Minute     // before the end, in which another is fetched
	firstPause = 2 * time.Second // after a failure; each further one doubles it
	maxPause   = time.Minute
	// refreshRetry is how often a process looks whether another is done.
	refreshRetry = 20 * time.Millisecond
)

// tries bounds how often a value that was just replaced is looked for anew.
const tries = 8

// errChanged: the secret was set anew meanwhile.
var errChanged = errors.New("it was changed meanwhile")

// stored is the source of one entry of a store.
type stored struct {
	s                      *Store
	name, sandbox, service string

	mu      sync.Mutex
	running *refresh // the refresh of this process that is under way
	unsaved *unsaved // what could not be kept
	failed  error    // the last failure in this process, in full
	ofID    string   // of failed
}

// refresh is one run of a command that any number of callers wait for.
type refresh struct {
	id   string // of the record
	done chan struct{}
	tok  Token
	err  error
}

type unsaved struct {
	id      string
	tok     Token
	fetched time.Time
	stated  bool
}

// Token implements Source.
func (s *stored) Token(ctx context.Context) (Token, error) {
	label := s.label()
	for range tries {
		r, err := s.record()
		if err != nil {
			return Token{}, err
		}
		if r.Value == nil {
			t, err := s.fromCommand(ctx, r)
			if !errors.Is(err, errChanged) {
				return t, err
			}
			continue
		}
		v, err := s.s.read(ctx, *r.Value, label)
		if !errors.Is(err, errGone) {
			return Token{Value: v}, err
		}
	}
	return Token{}, gone(label)
}

func gone(label string) error {
	return sandbox.Errorf(sandbox.ErrPrecondition, "the value of secret %s is gone: another program deleted it", label).
		WithHint("set it again with: berth secret set")
}

func (s *stored) label() string { return Entry{Name: s.name, Sandbox: s.sandbox}.Label() }

// record is the entry as it is now.
func (s *stored) record() (*record, error) {
	ix, err := s.s.current()
	if err != nil {
		return nil, err
	}
	r := ix.find(s.name, s.sandbox)
	if r == nil {
		return nil, notFound(s.name, s.sandbox)
	}
	if r.Service != s.service {
		return nil, sandbox.Errorf(sandbox.ErrPrecondition, "secret %s was set anew for other hosts", s.label())
	}
	return r, nil
}

// fromCommand returns what the command made last, as long as it holds, else
// what it makes now.
func (s *stored) fromCommand(ctx context.Context, r *record) (Token, error) {
	if t, ok := s.held(ctx, r, false); ok {
		return t, nil
	}
	s.mu.Lock()
	run := s.running
	if run == nil {
		run = &refresh{id: r.ID, done: make(chan struct{})}
		s.running = run
		go s.refresh(context.WithoutCancel(ctx), run)
	}
	s.mu.Unlock()
	select {
	case <-run.done:
	case <-ctx.Done():
		// The run goes on: others wait for it, or will.
		return Token{}, sandbox.Errorf(sandbox.ErrUnavailable, "wait for the command of secret %s: %w", s.label(), ctx.Err())
	}
	if run.id != r.ID {
		return Token{}, errChanged
	}
	return run.tok, run.err
}

// held returns what was made before when that holds: for long enough, or with
// late just now.
func (s *stored) held(ctx context.Context, r *record, late bool) (Token, bool) {
	now := s.s.opt.now()
	if c := r.Cached; c != nil && holds(now, c.Fetched, c.Expires, c.Stated, late) {
		if v, err := s.s.read(ctx, c.Value, s.label()); err == nil {
			return Token{Value: v, Expires: c.Expires}, true
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if u := s.unsaved; u != nil && u.id == r.ID && holds(now, u.fetched, u.tok.Expires, u.stated, late) {
		return u.tok, true
	}
	return Token{}, false
}

// holds reports whether a token is good. One that said itself when it expires
// is replaced somewhat earlier, so that none expires on its way; it may be used
// to its end when it cannot be replaced.
func holds(now, fetched, expires time.Time, stated, late bool) bool {
	if now.Before(fetched.Add(-time.Minute)) {
		return false // the clock was wrong, then or now
	}
	if stated && !late {
		expires = expires.Add(-min(maxMargin, expires.Sub(fetched)/5))
	}
	return now.Before(expires) && (stated || !late)
}

// refresh gets a new token; run is told of the outcome.
func (s *stored) refresh(ctx context.Context, run *refresh) {
	run.tok, run.err = s.fetch(ctx, run.id)
	s.mu.Lock()
	s.running = nil
	s.mu.Unlock()
	close(run.done)
}

// fetch has the command run, unless another process just did that, or it failed
// a short while ago.
func (s *stored) fetch(ctx context.Context, id string) (Token, error) {
	// Another process may be at it, for as long as a command may take.
	wait, cancel := context.WithTimeout(ctx, s.s.opt.runTime+lockWait)
	defer cancel()
	unlock, err := s.s.lockRefresh(wait, s.name, s.sandbox)
	if err != nil {
		return Token{}, err
	}
	defer unlock()
	r, err := s.record()
	if err != nil {
		return Token{}, err
	}
	if r.ID != id {
		return Token{}, errChanged
	}
	if t, ok := s.held(ctx, r, false); ok {
		return t, nil
	}
	now := s.s.opt.now()
	if f := r.Failed; f != nil && now.Before(f.Until) && !now.Before(f.At.Add(-time.Second)) {
		return s.orLate(ctx, r, s.failure(r, now))
	}
	out, err := s.s.run(ctx, r.entry())
	if err != nil {
		s.fail(ctx, r, err)
		return s.orLate(ctx, r, err)
	}
	return out.token(), s.save(ctx, r, out)
}

// orLate returns a token that is near its end, rather than the error.
func (s *stored) orLate(ctx context.Context, r *record, err error) (Token, error) {
	if t, ok := s.held(ctx, r, true); ok {
		return t, nil
	}
	return Token{}, err
}

// failure is the error for a command that is left alone.
func (s *stored) failure(r *record, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed != nil && s.ofID == r.ID {
		return s.failed
	}
	return sandbox.Errorf(sandbox.ErrUnavailable, "the command of secret %s did not work %s ago and is tried again in %s: %s", s.label(),
		now.Sub(r.Failed.At).Round(time.Second), r.Failed.Until.Sub(now).Round(time.Second), r.Failed.Why)
}

// fail remembers a failure, for all processes.
func (s *stored) fail(ctx context.Context, r *record, err error) {
	s.mu.Lock()
	s.failed, s.ofID = err, r.ID
	s.mu.Unlock()
	f := failure{Count: 1, At: s.s.opt.now().UTC(), Why: why(err)}
	if r.Failed != nil {
		f.Count = r.Failed.Count + 1
	}
	f.Until = f.At.Add(pause(f.Count))
	err = s.s.change(ctx, nil, func(c *change) error {
		c.quiet = true
		now := c.ix.find(s.name, s.sandbox)
		if now == nil || now.ID != r.ID {
			return errChanged
		}
		now.Failed = &f
		return nil
	})
	if err != nil && !errors.Is(err, errChanged) {
		s.s.note("remember that the command of secret %s failed: %v", s.label(), err)
	}
}

func pause(failures int) time.Duration {
	d := firstPause
	for range failures - 1 {
		if d *= 2; d >= maxPause {
			return maxPause
		}
	}
	return d
}

// save keeps what a command made, for all processes. When that is impossible it
// is kept in this process.
func (s *stored) save(ctx context.Context, r *record, out output) error {
	s.mu.Lock()
	s.failed, s.unsaved = nil, nil
	s.mu.Unlock()
	fetched := s.s.opt.now().UTC()
	err := s.s.change(ctx, always, func(c *change) error {
		c.quiet = true
		if now := c.ix.find(s.name, s.sandbox); now == nil || now.ID != r.ID {
			return errChanged
		}
		at, err := c.keep("token of "+s.label(), out.value)
		if err != nil {
			return err
		}
		now := c.ix.find(s.name, s.sandbox)
		if now.Cached != nil {
			c.ix.discard(&now.Cached.Value)
		}
		now.Cached = &cached{Value: at, Fetched: fetched, Expires: out.expires.UTC(), Stated: out.stated}
		now.Failed = nil
		return nil
	})
	if err == nil || errors.Is(err, errChanged) {
		return err
	}
	s.s.note("what the command of secret %s made is kept in this process alone: %v", s.label(), err)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unsaved = &unsaved{id: r.ID, tok: out.token(), fetched: fetched, stated: out.stated}
	return nil
}

// Lock makes the caller the one, over all processes, that works on what is kept
// outside the store by this name.
func (s *Store) Lock(ctx context.Context, name string) (unlock func(), err error) {
	return s.lockRefresh(ctx, "outside "+name, "")
}

// lockRefresh makes the caller the one, over all processes, that gets a new
// token for this name.
func (s *Store) lockRefresh(ctx context.Context, name, sandboxName string) (unlock func(), err error) {
	sum := sha256.Sum256([]byte(name + "\x00" + sandboxName))
	return takeLock(ctx, filepath.Join(s.refreshDir(), hex.EncodeToString(sum[:8])+".lock"), refreshRetry)
}

package secret

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gofrs/flock"

	"berth.dev/internal/failpoint"
	"berth.dev/internal/sandbox"
)

// Locks of the store are held for the moment of one change.
const (
	lockWait  = 10 * time.Second
	lockRetry = 2 * time.Millisecond
)

// Store is the user's secrets on this host. Any number of them, in any number
// of processes, may be open on one folder; each is safe for concurrent use.
type Store struct {
	dir     string
	opt     options
	file    *ageFiles
	keyring *keyring // nil: not to be used

	mu     sync.Mutex
	index  *index // as it was at stamp
	stamp  string
	values map[ref]Value // read before; a ref's bytes never change
}

// Option is a choice about a Store.
type Option func(*options)

type options struct {
	getenv   func(string) string
	note     func(string)
	keyring  bool
	prompt   bool
	now      func() time.Time
	callTime time.Duration // of the keyring's
	runTime  time.Duration // of a command
}

// WithEnv says where variables are looked up: how the desktop is reached, and
// what the commands of secrets are given. Without it, os.Getenv.
func WithEnv(getenv func(string) string) Option { return func(o *options) { o.getenv = getenv } }

// WithNote has told, a sentence each, what the user should know and what is no
// error: that the keyring cannot be used, that others could read a file.
func WithNote(note func(string)) Option { return func(o *options) { o.note = note } }

// WithoutKeyring keeps all that is set from now on in encrypted files. What is in
// the keyring is neither read nor deleted.
func WithoutKeyring() Option { return func(o *options) { o.keyring = false } }

// WithPrompt lets the desktop ask for its keyring's password, where there is a
// display; for commands that a user waits for.
func WithPrompt() Option { return func(o *options) { o.prompt = true } }

// Open opens the store in a folder, which is made when it is not there. A
// folder or a file in it that is another user's, or that others may write to,
// is refused with sandbox.ErrForbidden; what they may only read is closed.
func Open(dir string, opts ...Option) (*Store, error) {
	o := options{getenv: os.Getenv, note: func(string) {}, keyring: true, now: time.Now, callTime: callTime, runTime: commandTime}
	for _, opt := range opts {
		opt(&o)
	}
	s := &Store{dir: dir, opt: o, values: map[ref]Value{}}
	s.file = newAgeFiles(dir, s.note)
	if o.keyring {
		s.keyring = &keyring{getenv: o.getenv, callTime: o.callTime}
	}
	for _, d := range []string{dir, s.file.values, s.refreshDir()} {
		if err := secureDir(d); err != nil {
			return nil, err
		}
	}
	// A damaged key is said when it is needed.
	if _, err := s.file.key(); errors.Is(err, sandbox.ErrForbidden) {
		return nil, err
	}
	if _, err := s.current(); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Store) note(format string, args ...any) { s.opt.note(fmt.Sprintf(format, args...)) }

// Set keeps a secret, in place of what was set by the same name for the same
// sandbox. The value is zero for one that a command makes.
func (s *Store) Set(ctx context.Context, e Entry, v Value) error {
	if err := e.check(v); err != nil {
		return err
	}
	r := record{ID: newID(), Name: e.Name, Sandbox: e.Sandbox, Command: e.Command, TTL: duration(e.TTL), Service: e.Service, Set: e.Set}
	if r.Set.IsZero() {
		r.Set = s.opt.now()
	}
	r.Set = r.Set.UTC().Truncate(time.Second)
	return s.change(ctx, func(ix *index) bool {
		return e.Command == "" || ix.inKeyring(ix.find(e.Name, e.Sandbox))
	}, func(c *change) error {
		if e.Command == "" {
			at, err := c.keep(e.Label(), v)
			if err != nil {
				return err
			}
			r.Value = &at
		}
		c.replace(e.Name, e.Sandbox, &r)
		return nil
	})
}

// List returns what there is, by name and then by sandbox.
func (s *Store) List(context.Context) ([]Entry, error) {
	ix, err := s.current()
	if err != nil {
		return nil, err
	}
	all := make([]Entry, 0, len(ix.Secrets))
	for _, r := range ix.Secrets {
		all = append(all, r.entry())
	}
	slices.SortFunc(all, func(a, b Entry) int {
		if c := strings.Compare(a.Name, b.Name); c != 0 {
			return c
		}
		return strings.Compare(a.Sandbox, b.Sandbox)
	})
	return all, nil
}

// Remove forgets a secret: that of a sandbox, or with "" the one for all.
// Without one it is sandbox.ErrNotFound.
func (s *Store) Remove(ctx context.Context, name, sandboxName string) error {
	return s.change(ctx, func(ix *index) bool { return ix.inKeyring(ix.find(name, sandboxName)) }, func(c *change) error {
		if c.ix.find(name, sandboxName) == nil {
			return notFound(name, sandboxName)
		}
		c.replace(name, sandboxName, nil)
		return nil
	})
}

// RemoveSandbox forgets all secrets of a sandbox, so that another one of its
// name does not get them. There may be none.
func (s *Store) RemoveSandbox(ctx context.Context, sandboxName string) error {
	logins := func(ix *index) []string {
		var names []string
		for _, l := range ix.Logins {
			if _, of := SplitLogin(l.Name); sandboxName != "" && of == sandboxName {
				names = append(names, l.Name)
			}
		}
		return names
	}
	has := func(ix *index) []string {
		var names []string
		for _, r := range ix.Secrets {
			if sandboxName != "" && r.Sandbox == sandboxName {
				names = append(names, r.Name)
			}
		}
		return names
	}
	if ix, err := s.current(); err != nil || len(has(ix))+len(logins(ix)) == 0 {
		return err
	}
	return s.change(ctx, always, func(c *change) error {
		for _, name := range has(c.ix) {
			c.replace(name, sandboxName, nil)
		}
		for _, name := range logins(c.ix) {
			c.forget(name)
		}
		return nil
	})
}

// Source returns the source of a secret for a sandbox, its own before the one
// for all, and what is known of it. What is set later by the same name acts at
// once, as long as it is for the same sandbox and the same service; else the
// source refuses, as its user would send the secret to the hosts of before.
func (s *Store) Source(name, sandboxName string) (Source, Entry, error) {
	ix, err := s.current()
	if err != nil {
		return nil, Entry{}, err
	}
	r := ix.find(name, sandboxName)
	if r == nil {
		r = ix.find(name, "")
	}
	if r == nil {
		return nil, Entry{}, notFound(name, "")
	}
	return &stored{s: s, name: r.Name, sandbox: r.Sandbox, service: r.Service}, r.entry(), nil
}

func notFound(name, sandboxName string) error {
	return sandbox.Errorf(sandbox.ErrNotFound, "there is no secret %s", Entry{Name: name, Sandbox: sandboxName}.Label()).
		WithHint("see them with: berth secret ls")
}

// read returns the bytes of a value, or says errGone.
func (s *Store) read(ctx context.Context, at ref, label string) (Value, error) {
	s.mu.Lock()
	v, ok := s.values[at]
	s.mu.Unlock()
	if ok {
		return v, nil
	}
	var err error
	switch at.Backend {
	case BackendKeyring:
		v, err = s.readKeyring(ctx, at.ID)
	default:
		v, err = s.file.get(ctx, at.ID)
	}
	switch {
	case errors.Is(err, errGone) || err != nil && sandbox.ClassOf(err) != sandbox.ErrInternal:
		return Value{}, err
	case err != nil && at.Backend == BackendKeyring:
		return Value{}, sandbox.Errorf(sandbox.ErrUnavailable, "secret %s is in the desktop's keyring, which cannot be used: %w", label, err).
			WithHint("unlock the keyring, by signing in to the desktop; or set the secret again")
	case err != nil:
		return Value{}, fmt.Errorf("read secret %s: %w", label, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.values[at] = v
	return v, nil
}

func (s *Store) readKeyring(ctx context.Context, id string) (Value, error) {
	ix, err := s.current()
	if err != nil {
		return Value{}, err
	}
	k, err := s.openKeyring(ctx, ix.Store, s.opt.prompt)
	if err != nil {
		return Value{}, err
	}
	defer k.close()
	return k.get(ctx, id)
}

func (s *Store) openKeyring(ctx context.Context, store string, prompt bool) (*keyringSession, error) {
	if s.keyring == nil {
		return nil, errNoKeyring
	}
	display := s.opt.getenv("DISPLAY") != "" || s.opt.getenv("WAYLAND_DISPLAY") != ""
	return s.keyring.open(ctx, store, prompt && display, s.note)
}

// change is one change of the store, made under its lock.
type change struct {
	s       *Store
	ctx     context.Context
	ix      *index
	keyring *keyringSession // nil: cannot be used
	why     error           // and why not
	quiet   bool            // nobody set this value, so nobody is told where it goes
}

// change changes the store by means of do. Other processes wait meanwhile, so
// none of their changes is lost. When it fails, or the process is killed at any
// moment, the store is as before or as after. needs says whether values will be
// kept or deleted in the keyring; nil means that none will.
func (s *Store) change(ctx context.Context, needs func(*index) bool, do func(*change) error) error {
	ix, err := s.started()
	if err != nil {
		return err
	}
	c := &change{s: s, ctx: ctx}
	if needs != nil && needs(ix) {
		// Before the lock: nobody else should wait for a user or a service.
		if c.keyring, c.why = s.openKeyring(ctx, ix.Store, s.opt.prompt); c.keyring != nil {
			defer c.keyring.close()
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	id := ix.Store
	if c.ix, err = s.readIndex(); err != nil {
		return err
	}
	if c.ix.Store != id {
		return sandbox.Errorf(sandbox.ErrPrecondition, "the list of secrets was replaced at this moment").WithHint("try again")
	}
	if err := do(c); err != nil {
		return err
	}
	if err := s.writeIndex(c.ix); err != nil {
		return err
	}
	c.clean()
	return nil
}

// inKeyring reports whether the keyring has something of a record, which may be
// nil, or something to be deleted.
func (ix *index) inKeyring(r *record) bool {
	return len(ix.Stray) > 0 || r != nil && (r.Value != nil && r.Value.Backend == BackendKeyring ||
		r.Cached != nil && r.Cached.Value.Backend == BackendKeyring)
}

// always is for changes that keep or delete values.
func always(*index) bool { return true }

// started returns the index as it is, and makes it when there is none: each
// store has an ID before it has anything else.
func (s *Store) started() (*index, error) {
	ix, err := s.current()
	if err != nil || ix.Store != "" {
		return ix, err
	}
	unlock, err := s.lock(context.Background())
	if err != nil {
		return nil, err
	}
	defer unlock()
	if ix, err = s.readIndex(); err != nil || ix.Store != "" {
		return ix, err
	}
	ix.Store = newID()
	return ix, s.writeIndex(ix)
}

// keep puts a value where the index does not say it is yet.
func (c *change) keep(label string, v Value) (ref, error) {
	id := newID()
	if c.keyring != nil {
		// First it is recorded, so that it is deleted should we die now.
		c.ix.Stray = append(c.ix.Stray, id)
		if err := c.s.writeIndex(c.ix); err != nil {
			return ref{}, err
		}
		err := c.keyring.put(c.ctx, id, label, v)
		if err == nil {
			c.ix.Stray = c.ix.Stray[:len(c.ix.Stray)-1]
			return ref{BackendKeyring, id}, nil
		}
		if c.ctx.Err() != nil {
			return ref{}, c.ctx.Err()
		}
		c.why = err
	}
	if c.why != nil && !c.quiet && !errors.Is(c.why, errNoKeyring) {
		c.s.note("the desktop's keyring is not used: %v; %s goes into an encrypted file in %s", c.why, label, c.s.dir)
	}
	return ref{BackendFile, id}, c.s.file.put(c.ctx, id, label, v)
}

// replace puts a record in the place of the one of that name; nil removes it.
func (c *change) replace(name, sandboxName string, r *record) {
	old := c.ix.find(name, sandboxName)
	if old != nil {
		c.ix.discard(old.Value)
		if old.Cached != nil {
			c.ix.discard(&old.Cached.Value)
		}
	}
	switch {
	case r == nil:
		c.ix.Secrets = slices.DeleteFunc(c.ix.Secrets, func(r record) bool { return r.Name == name && r.Sandbox == sandboxName })
	case old == nil:
		c.ix.Secrets = append(c.ix.Secrets, *r)
	default:
		*old = *r
	}
}

// clean deletes the values that have no use any more. What cannot be deleted
// now is with the next change.
func (c *change) clean() {
	if err := c.s.file.sweep(c.ix.refs()); err != nil {
		c.s.note("an old secret could not be deleted: %v", err)
	}
	if len(c.ix.Stray) == 0 {
		return
	}
	if c.keyring == nil {
		if c.why != nil && !c.quiet {
			c.s.note("an old secret stays in the desktop's keyring until a later change of secrets can delete it: %v", c.why)
		}
		return
	}
	var left []string
	for _, id := range c.ix.Stray {
		if err := c.keyring.drop(c.ctx, id); err != nil {
			c.s.note("an old secret could not be deleted from the desktop's keyring: %v", err)
			left = append(left, id)
		}
	}
	if err := failpoint.Hit("secret.dropped"); err != nil {
		return
	}
	c.ix.Stray = left
	if err := c.s.writeIndex(c.ix); err != nil {
		c.s.note("%v", err) // only that nothing is left to delete
	}
}

// lock waits for the store's lock.
func (s *Store) lock(ctx context.Context) (unlock func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	return takeLock(ctx, filepath.Join(s.dir, "lock"), lockRetry)
}

func takeLock(ctx context.Context, path string, retry time.Duration) (unlock func(), err error) {
	fl := flock.New(path, flock.SetPermissions(0o600))
	if _, err := fl.TryLockContext(ctx, retry); err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			return nil, sandbox.Errorf(sandbox.ErrUnavailable, "%s stays locked", path).
				WithHint("another berth process hangs; end it and try again")
		}
		return nil, fmt.Errorf("lock secrets: %w", err)
	}
	return func() { _ = fl.Close() }, nil
}

func (s *Store) refreshDir() string { return filepath.Join(s.dir, "refresh") }

// newID makes an ID that nothing else has.
func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

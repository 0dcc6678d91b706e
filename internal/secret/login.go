package secret

import (
	"context"
	"slices"
	"strings"
	"time"

	"berth.dev/internal/sandbox"
)

// LoginPrefix begins the names of secrets that no user set but a sign-in left:
// "login/PROVIDER". They are no entries of List.
const LoginPrefix = "login/"

// Login is what is known of the secret that a sign-in left.
type Login struct {
	Name    string // LoginPrefix and the provider
	Set     time.Time
	Backend string
}

// LoginOf is the name of the login that one sandbox has for itself, with a
// provider whose name has no dot.
func LoginOf(provider, sandboxName string) string { return LoginPrefix + provider + "." + sandboxName }

// SplitLogin takes the name of a login apart; the sandbox is "" for one that is
// everybody's.
func SplitLogin(name string) (provider, sandboxName string) {
	provider, sandboxName, _ = strings.Cut(strings.TrimPrefix(name, LoginPrefix), ".")
	return provider, sandboxName
}

func checkLogin(name string) error {
	provider, ok := strings.CutPrefix(name, LoginPrefix)
	if !ok || CheckName(provider) != nil {
		return sandbox.Errorf(sandbox.ErrInvalid, "that cannot be the name of a login")
	}
	return nil
}

// Put keeps the secret of a login, in place of the one before.
func (s *Store) Put(ctx context.Context, name string, v Value) error {
	if err := checkLogin(name); err != nil {
		return err
	}
	if err := (Entry{Name: strings.TrimPrefix(name, LoginPrefix)}).check(v); err != nil {
		return err
	}
	return s.change(ctx, always, func(c *change) error {
		c.quiet = true
		at, err := c.keep(name, v)
		if err != nil {
			return err
		}
		l := login{Name: name, Set: s.opt.now().UTC().Truncate(time.Second), Value: at}
		if old := c.ix.login(name); old != nil {
			c.ix.discard(&old.Value)
			*old = l
			return nil
		}
		c.ix.Logins = append(c.ix.Logins, l)
		return nil
	})
}

// Get returns the secret of a login; without one it is sandbox.ErrNotFound.
func (s *Store) Get(ctx context.Context, name string) (Value, error) {
	for range tries {
		ix, err := s.current()
		if err != nil {
			return Value{}, err
		}
		l := ix.login(name)
		if l == nil {
			return Value{}, noLogin(name)
		}
		if v, err := s.read(ctx, l.Value, name); err != errGone {
			return v, err
		}
	}
	return Value{}, gone(name)
}

// Update changes the secret of a login: with gets the one that is kept, zero
// for none, and what it returns is kept instead, unless it is an error or the
// same. Only one Update of a login runs at a time, over all processes, so with
// may take its time: tokens that can be used once to get the next are renewed in
// it.
func (s *Store) Update(ctx context.Context, name string, with func(context.Context, Value) (Value, error)) (Value, error) {
	if err := checkLogin(name); err != nil {
		return Value{}, err
	}
	unlock, err := s.lockRefresh(ctx, name, "")
	if err != nil {
		return Value{}, err
	}
	defer unlock()
	old, err := s.Get(ctx, name)
	if err != nil && sandbox.ClassOf(err) != sandbox.ErrNotFound {
		return Value{}, err
	}
	v, err := with(ctx, old)
	if err != nil || v.Equal(old) {
		return v, err
	}
	// What is renewed must not be lost because nobody waits for it any more.
	return v, s.Put(context.WithoutCancel(ctx), name, v)
}

// Delete forgets the secret of a login; without one it is sandbox.ErrNotFound.
func (s *Store) Delete(ctx context.Context, name string) error {
	return s.change(ctx, always, func(c *change) error {
		if c.ix.login(name) == nil {
			return noLogin(name)
		}
		c.forget(name)
		return nil
	})
}

// forget takes a login out.
func (c *change) forget(name string) {
	c.ix.discard(&c.ix.login(name).Value)
	c.ix.Logins = slices.DeleteFunc(c.ix.Logins, func(l login) bool { return l.Name == name })
}

// Logins returns what logins there are, by name.
func (s *Store) Logins(context.Context) ([]Login, error) {
	ix, err := s.current()
	if err != nil {
		return nil, err
	}
	all := make([]Login, 0, len(ix.Logins))
	for _, l := range ix.Logins {
		all = append(all, Login{Name: l.Name, Set: l.Set, Backend: l.Value.Backend})
	}
	slices.SortFunc(all, func(a, b Login) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

func noLogin(name string) error {
	provider, of := SplitLogin(name)
	what := LoginPrefix + provider
	if of != "" {
		what += " of sandbox " + of
	}
	return sandbox.Errorf(sandbox.ErrNotFound, "there is no %s", what).WithHint("see them with: berth secret ls")
}

package supervisor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"berth.dev/internal/audit"
	"berth.dev/internal/config"
	"berth.dev/internal/control"
	"berth.dev/internal/credential"
	"berth.dev/internal/sandbox"
	"berth.dev/internal/secret"
	"berth.dev/internal/service"
	"berth.dev/internal/signin"
)

// credentials joins the user's secrets with the broker that stands between them
// and the guest: which are bound, to what, and where their values come from.
type credentials struct {
	broker   *credential.Broker // nil: the sandbox uses none
	keeper   *signin.Keeper     // nil as that
	sandbox  string             // its name
	dir      string             // of the store
	services string             // the user's file
	keyring  bool               // the desktop's may be used
	recheck  func()             // has connections looked at that now need it

	opening sync.Mutex
	store   *secret.Store // nil as long as there is none; guarded by opening

	mu      sync.Mutex
	shell   map[string]secret.Value
	bases   map[string]string
	bound   []control.Bound
	warned  []string // why secrets cannot be used
	noted   string   // what the store last had to say
	changed string   // of the files, when they were read
	settled []byte   // control.SumOf the files that the guest was given last
}

// startCredentials makes the broker, with what is stored bound already: a
// sandbox that was restarted by exec has no shell that says run.
func (s *Supervisor) startCredentials(spec sandbox.Spec) error {
	if spec.Credentials == sandbox.CredentialsNone {
		return nil
	}
	c := &s.creds
	c.sandbox, c.dir, c.services = spec.Name, s.cfg.SecretsDir, s.cfg.ServicesFile
	c.keyring = s.cfg.Settings.Secrets.UsesKeyring()
	c.shell, c.bases = map[string]secret.Value{}, map[string]string{}
	var err error
	c.broker, err = credential.New(credential.Config{
		Sandbox: s.cfg.Bundle.ID(), Key: s.keys.Client.Seed(), Record: s.recordUse,
	})
	if err != nil {
		return err
	}
	c.keeper = signin.New(signin.Config{
		Sandbox: spec.Name, Agent: spec.Agent, FromHost: spec.Credentials == sandbox.CredentialsHost, Home: s.cfg.Home,
		Store: c.open, Broker: c.broker, Bind: c.reload, Client: func() *http.Client { return s.net.egress.Client() }, Record: s.recordUse,
	})
	c.recheck = func() {}
	if err := c.reload(); err != nil {
		// The sandbox works without them, and its status says what is missing.
		s.log.Error("secrets", "error", err)
	}
	return nil
}

// recordUse writes down a use of a secret.
func (s *Supervisor) recordUse(u credential.Use) {
	ev := audit.Event{
		Time: u.Time, Kind: audit.Secret, Secret: u.Secret, Name: u.Host, Port: u.Port, Method: u.Method, Path: u.Path,
		Verdict: audit.Allow, Reason: u.Reason,
	}
	if u.Refused {
		ev.Verdict = audit.Deny
	}
	s.net.audit.Record(ev)
}

// bind adds what a shell has, and returns what the guest gets.
func (c *credentials) bind(secrets map[string]secret.Wire, bases map[string]string) (control.Credentials, error) {
	if c.broker == nil {
		return control.Credentials{}, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, v := range secrets {
		if err := secret.CheckName(name); err != nil {
			return control.Credentials{}, err
		}
		c.shell[name] = v.Value
	}
	for name, v := range bases {
		c.bases[name] = v
	}
	if err := c.apply(); err != nil {
		return control.Credentials{}, err
	}
	out := control.Credentials{Env: c.broker.Environment(), Bound: slices.Clone(c.bound), Warnings: c.all()}
	for _, f := range c.broker.Files() {
		out.Files = append(out.Files, control.GuestFile{Path: f.Path, Content: f.Content})
	}
	ctx, cancel := context.WithTimeout(context.Background(), storeTime)
	defer cancel()
	for _, f := range c.keeper.Files(ctx) {
		out.Files = append(out.Files, control.GuestFile{Path: f.Path, Content: f.Content, Merge: true, Mark: f.Mark})
	}
	out.Settled = bytes.Equal(c.settled, control.SumOf(out.Files))
	return out, nil
}

// settle notes which files the guest has.
func (c *credentials) settle(sum []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settled = sum
}

// vouch takes the user's word that a code came from their browser.
func (c *credentials) vouch(v *control.Vouch) error {
	if c.keeper == nil || v == nil || len(v.StandIn) != 32 {
		return sandbox.Errorf(sandbox.ErrInvalid, "that is no code of a sign-in that this sandbox keeps")
	}
	return c.keeper.Vouch(v.Provider, [32]byte(v.StandIn), v.Code.Value)
}

// storeTime bounds what waits for the store.
const storeTime = 10 * time.Second

// open opens the store, with create also when there is none yet; nil for none.
func (c *credentials) open(create bool) (*secret.Store, error) {
	c.opening.Lock()
	defer c.opening.Unlock()
	if c.store != nil {
		return c.store, nil
	}
	if _, err := os.Stat(c.dir); errors.Is(err, fs.ErrNotExist) && !create {
		return nil, nil
	}
	opts := []secret.Option{secret.WithNote(c.note)}
	if !c.keyring {
		opts = append(opts, secret.WithoutKeyring())
	}
	var err error
	c.store, err = secret.Open(c.dir, opts...)
	return c.store, err
}

// reload makes what is stored count as it is now.
func (c *credentials) reload() error {
	if c.broker == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.apply()
}

// follow reloads when the files were changed by somebody who did not say so.
func (c *credentials) follow() {
	if c.broker == nil {
		return
	}
	c.mu.Lock()
	changed := c.stamp() != c.changed
	c.mu.Unlock()
	if changed {
		_ = c.reload() // its warnings are in the status
	}
}

// stamp tells versions of the user's file of services, and of what is stored,
// apart. c.mu is held.
func (c *credentials) stamp() string {
	stamp := ""
	if info, err := os.Stat(c.services); err == nil {
		stamp = fmt.Sprint(info.ModTime().UnixNano(), " ", info.Size())
	}
	if s, err := c.open(false); s != nil && err == nil {
		stamp += " " + s.Stamp()
	}
	return stamp
}

func (c *credentials) warnings() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.all()
}

func (c *credentials) all() []string {
	list := slices.Clone(c.warned)
	if c.noted != "" {
		list = append(list, c.noted)
	}
	return list
}

// apply binds what there is. What makes no sense is left out, with a warning:
// one bad entry must not take away all others. c.mu is held.
func (c *credentials) apply() error {
	c.warned = nil
	defer func() { c.changed = c.stamp() }()
	own, err := config.Services(c.services)
	if err != nil {
		c.warned = append(c.warned, err.Error())
	}
	all := service.All(own)
	var list []credential.Binding
	var bound []control.Bound
	add := func(name string, d service.Definition, src secret.Source, shell bool) {
		if slices.ContainsFunc(list, func(b credential.Binding) bool { return b.Secret == name }) {
			return // what came first counts
		}
		if base := c.bases[d.BaseVar]; d.BaseVar != "" && base != "" {
			if at, err := d.At(base); err != nil {
				c.warned = append(c.warned, fmt.Sprintf("%s does not go where %s says: %s", name, d.BaseVar, err))
			} else {
				d = at
			}
		}
		list = append(list, credential.Binding{Secret: name, Service: d, Source: src})
		bound = append(bound, control.Bound{Secret: name, Service: d.Name, Hosts: places(d), Shell: shell})
	}
	ctx, cancel := context.WithTimeout(context.Background(), storeTime)
	defer cancel()
	logins, err := c.keeper.Bindings(ctx)
	if err != nil {
		c.warned = append(c.warned, err.Error())
	}
	for _, b := range logins {
		list = append(list, b)
		bound = append(bound, control.Bound{
			Secret: b.Secret, Service: b.Service.Name, Hosts: places(b.Service), Login: true, Title: b.Service.Title,
			Account: c.keeper.Account(ctx, b.Secret),
		})
	}
	store, stored, err := c.stored(ctx)
	if err != nil {
		c.warned = append(c.warned, "the secrets that are kept cannot be used: "+err.Error())
	}
	// The sandbox's own, then the shell's, then those for all.
	for _, round := range []string{c.sandbox, ""} {
		for _, e := range stored {
			if e.Sandbox != round {
				continue
			}
			d, err := definitionOf(e, all)
			if err != nil {
				c.warned = append(c.warned, err.Error())
				continue
			}
			src, _, err := store.Source(e.Name, c.sandbox)
			if err != nil {
				c.warned = append(c.warned, err.Error())
				continue
			}
			add(e.Name, d, src, false)
		}
		if round != "" {
			for _, name := range slices.Sorted(maps.Keys(c.shell)) {
				if d, ok := service.Of(name, all); ok {
					add(name, d, secret.Fixed(c.shell[name]), true)
				}
			}
		}
	}
	if err := c.broker.Bind(list...); err != nil {
		return err
	}
	c.bound = bound
	c.recheck()
	return nil
}

// places are a service's, as text.
func places(d service.Definition) []string {
	var list []string
	for _, p := range d.Hosts {
		list = append(list, p.String())
	}
	return list
}

// stored lists what the store has for this sandbox.
func (c *credentials) stored(ctx context.Context) (*secret.Store, []secret.Entry, error) {
	s, err := c.open(false)
	if s == nil || err != nil {
		return nil, nil, err
	}
	all, err := s.List(ctx)
	return s, slices.DeleteFunc(all, func(e secret.Entry) bool { return e.Sandbox != "" && e.Sandbox != c.sandbox }), err
}

// note keeps what the store has to say for the status. It is called from within
// the store, by whoever uses it.
func (c *credentials) note(text string) {
	go func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.noted = text
	}()
}

// definitionOf says what service an entry's secret is for.
func definitionOf(e secret.Entry, all []service.Definition) (service.Definition, error) {
	if e.Service != "" {
		d, err := service.Parse([]byte(e.Service))
		if err != nil {
			return d, fmt.Errorf("the secret %s: %w", e.Label(), err)
		}
		return d, nil
	}
	if d, ok := service.Of(e.Name, all); ok {
		return d, nil
	}
	return service.Definition{}, fmt.Errorf("nobody says where the secret %s belongs: set it anew with --host, or name it in %s", e.Label(), config.ServicesName)
}

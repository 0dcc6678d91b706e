package signin

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"berth.dev/internal/credential"
	"berth.dev/internal/egress/intercept"
	"berth.dev/internal/sandbox"
	"berth.dev/internal/secret"
)

// Times of renewing.
const (
	// margin is how long before its end a token is renewed, so that none runs out
	// on its way; a fifth of its life when that is shorter.
	margin = 5 * time.Minute
	// between is the least time between two renewals that a server's refusals ask
	// for: a token that nobody takes must not be renewed for ever.
	between = 30 * time.Second
	// renewTime bounds one renewal.
	renewTime = 30 * time.Second
)

// Bindings are the logins that there are for this sandbox, for the broker.
func (k *Keeper) Bindings(ctx context.Context) ([]credential.Binding, error) {
	var list []credential.Binding
	var errs []error
	for _, p := range k.providers {
		_, _, err := k.load(ctx, p)
		switch {
		case sandbox.ClassOf(err) == sandbox.ErrNotFound && err != nil:
		case err != nil:
			errs = append(errs, fmt.Errorf("the login %s cannot be used: %w", p.Secret(), err))
		default:
			b := credential.Binding{Secret: p.Secret(), Service: p.service(), Source: source{k, p}}
			b.Parts = []credential.Part{{Name: "refresh", Shape: cmp.Or(p.renews, p.shape)}, {Name: "id"}}
			list = append(list, b)
		}
	}
	if k.cfg.FromHost && len(list)+len(errs) == 0 && len(k.providers) > 0 {
		errs = append(errs, k.noHostLogin())
	}
	return list, errors.Join(errs...)
}

// noHostLogin says where none of this machine's logins was found.
func (k *Keeper) noHostLogin() error {
	var places []string
	for _, p := range k.providers {
		if h, ok := p.host[k.cfg.Agent]; ok {
			places = append(places, p.Title+" (~/"+h.path+")")
		}
	}
	if len(places) == 0 {
		return sandbox.Errorf(sandbox.ErrNotFound, "of %q there is no login of this machine's that could be used", k.cfg.Agent)
	}
	return sandbox.Errorf(sandbox.ErrNotFound, "on this machine nobody is signed in to %s", strings.Join(places, " or "))
}

// source gives the access token of a login.
type source struct {
	k *Keeper
	p *Provider
}

// Token implements secret.Source.
func (s source) Token(ctx context.Context) (secret.Token, error) {
	l, err := s.k.current(ctx, s.p)
	if err != nil {
		return secret.Token{}, err
	}
	return secret.Token{Value: l.Access, Expires: l.Expires}, nil
}

// load returns a login as it is kept, the sandbox's own before that of all, and
// the name that it is kept by. Without one it is sandbox.ErrNotFound.
func (k *Keeper) load(ctx context.Context, p *Provider) (*Login, string, error) {
	if k.cfg.FromHost {
		l, err := p.readHost(k.cfg.Home, k.cfg.Agent)
		return l, "", err
	}
	s, err := k.cfg.Store(false)
	if err != nil {
		return nil, "", err
	}
	if s == nil {
		return nil, "", nobody(p)
	}
	for _, name := range []string{secret.LoginOf(p.Name, k.cfg.Sandbox), p.Secret()} {
		v, err := s.Get(ctx, name)
		if err == nil {
			l, err := parseLogin(v)
			return l, name, err
		}
		if sandbox.ClassOf(err) != sandbox.ErrNotFound {
			return nil, "", err
		}
	}
	return nil, "", nobody(p)
}

func nobody(p *Provider) error {
	return sandbox.Errorf(sandbox.ErrNotFound, "nobody has signed in to %s", p.Title)
}

// current returns a login whose access token is good, after renewing it where
// that is due. An error that is an *intercept.Answer means that it has ended.
func (k *Keeper) current(ctx context.Context, p *Provider) (*Login, error) {
	l, name, err := k.load(ctx, p)
	if err != nil || !k.due(p, l) {
		return l, err
	}
	if k.cfg.FromHost {
		return k.renewHost(ctx, p)
	}
	s, err := k.cfg.Store(true)
	if err != nil {
		return nil, err
	}
	// Others wait for it in other sandboxes; nobody's patience may end it halfway,
	// for then the token that renews would be spent.
	wait, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*renewTime)
	defer cancel()
	used := l
	_, err = s.Update(wait, name, func(ctx context.Context, v secret.Value) (secret.Value, error) {
		if v.IsZero() {
			return v, sandbox.Errorf(sandbox.ErrNotFound, "somebody signed out of %s", p.Title)
		}
		if used, err = parseLogin(v); err != nil {
			return secret.Value{}, err
		}
		if !k.due(p, used) { // another sandbox was first
			return v, nil
		}
		next := k.unkept(used)
		if next == nil {
			if next, err = k.renew(ctx, p, used); err != nil {
				return secret.Value{}, err
			}
			k.hold(used, next)
		}
		used = next
		return next.value()
	})
	if next := k.unkept(l); next != nil && err != nil {
		return next, nil // to be written with the next use
	}
	if err != nil {
		return k.orOld(p, l, err)
	}
	k.hold(l, nil)
	return used, nil
}

// hold keeps what a login was renewed to until the store has it: what it was
// renewed with may be spent. nil: it has.
func (k *Keeper) hold(l, next *Login) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if next == nil {
		delete(k.held, sumOf(l.Refresh))
		return
	}
	k.held[sumOf(l.Refresh)] = next
}

func (k *Keeper) unkept(l *Login) *Login {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.held[sumOf(l.Refresh)]
}

func sumOf(v secret.Value) [32]byte { return sha256.Sum256([]byte(v.Reveal())) }

// orOld is a token near its end rather than an error that may pass.
func (k *Keeper) orOld(p *Provider, l *Login, err error) (*Login, error) {
	var ended *intercept.Answer
	if !errors.As(err, &ended) && !k.wasRefused(l) && k.cfg.Now().Before(l.Expires) {
		return l, nil
	}
	return nil, fmt.Errorf("renew the login to %s: %w", p.Title, err)
}

// due reports whether a token has to be renewed before it is used.
func (k *Keeper) due(p *Provider, l *Login) bool {
	if l.Refresh.IsZero() {
		return false
	}
	k.mu.Lock()
	last := k.renewals[p.Name]
	k.mu.Unlock()
	now := k.cfg.Now()
	if k.wasRefused(l) && now.Sub(last) > between {
		return true
	}
	return !l.Expires.IsZero() && now.After(l.Expires.Add(-min(margin, l.life()/5)))
}

// life is how long an access token is good in all, as far as that is known.
func (l *Login) life() time.Duration {
	return cmp.Or(fields(l.Answer).seconds(lifeName), 5*margin)
}

// lifeName is the member of an answer that says how long its token is good.
const lifeName = "expires_in"

// refreshLifeName is that of the token which renews it, where one says that.
const refreshLifeName = "refresh_token_expires_in"

// notTaken notes that a server refused a token, so that it is renewed before it
// is used again.
func (k *Keeper) notTaken(r *http.Request) {
	token := tokenOf(r)
	if token == "" {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.refused) >= maxVouched {
		clear(k.refused)
	}
	k.refused[sha256.Sum256([]byte(token))] = true
}

func (k *Keeper) wasRefused(l *Login) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.refused[sumOf(l.Access)]
}

// renew gets the next tokens (RFC 6749 §6).
func (k *Keeper) renew(ctx context.Context, p *Provider, l *Login) (*Login, error) {
	if k.hasEnded(l) {
		return nil, fmt.Errorf("%s did not renew it a moment ago; sign in again: %w", l.Endpoint, loginEnded())
	}
	k.mu.Lock()
	k.renewals[p.Name] = k.cfg.Now()
	k.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, renewTime)
	defer cancel()
	req, err := p.refresh(ctx, l)
	if err != nil {
		return nil, err
	}
	res, err := k.cfg.Client().Do(req)
	if err != nil {
		return nil, sandbox.Errorf(sandbox.ErrUnavailable, "ask %s for the next token: %w", req.URL.Host, err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if err != nil || len(body) > maxAnswer {
		return nil, sandbox.Errorf(sandbox.ErrUnavailable, "the answer of %s broke off, or is too long", req.URL.Host)
	}
	f, ferr := parseFields(res.Header.Get("Content-Type"), body)
	if res.StatusCode == http.StatusBadRequest || res.StatusCode == http.StatusUnauthorized {
		k.notRenewed(l)
		return nil, fmt.Errorf("%s does not renew it any more (%s); sign in again: %w", req.URL.Host, shorten(reasonOf(f)), loginEnded())
	}
	if res.StatusCode != http.StatusOK || ferr != nil {
		return nil, sandbox.Errorf(sandbox.ErrUnavailable, "%s answered with %s", req.URL.Host, res.Status)
	}
	next, err := p.renewedLogin(f, l, k.cfg.Now())
	if err != nil {
		return nil, sandbox.Errorf(sandbox.ErrUnavailable, "what %s answered is no token: %w", req.URL.Host, err)
	}
	k.remember(p, next)
	return next, nil
}

func loginEnded() *intercept.Answer {
	return refusal(http.StatusUnauthorized, "invalid_token", "the login has ended; sign in again")
}

// notRenewed notes that a login has ended, so that the provider is not asked for
// it again with each request of the guest's.
func (k *Keeper) notRenewed(l *Login) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.ended) >= maxVouched {
		clear(k.ended)
	}
	k.ended[sumOf(l.Refresh)] = k.cfg.Now()
}

func (k *Keeper) hasEnded(l *Login) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	at, ok := k.ended[sumOf(l.Refresh)]
	return ok && k.cfg.Now().Sub(at) <= between
}

// reasonOf is what a token endpoint says of its refusal, in one word.
func reasonOf(f fields) string {
	if s := f.text("error"); s != "" {
		return s
	}
	var e struct{ Type, Code string }
	_ = json.Unmarshal(f["error"], &e)
	return strings.TrimSpace(e.Type + " " + e.Code)
}

// renewedLogin is a login after its renewal: what the answer does not say stays.
func (p *Provider) renewedLogin(f fields, l *Login, now time.Time) (*Login, error) {
	for name, v := range map[string]secret.Value{"refresh_token": l.Refresh, "id_token": l.ID} {
		if f.text(name) == "" && !v.IsZero() {
			f[name], _ = json.Marshal(v.Reveal())
		}
	}
	next, err := p.newLogin(f, now)
	if err != nil {
		return nil, err
	}
	if next.Access.IsZero() {
		return nil, errors.New("it has no access_token")
	}
	next.Client, next.ClientSecret, next.Endpoint, next.By = l.Client, l.ClientSecret, l.Endpoint, l.By
	for name, v := range l.Answer {
		if _, ok := next.Answer[name]; !ok {
			next.Answer[name] = v
		}
	}
	if next.Account == "" {
		next.Account, next.Person = l.Account, l.Person
	}
	return next, nil
}

// refresh is the request for the next tokens.
func (p *Provider) refresh(ctx context.Context, l *Login) (*http.Request, error) {
	said := map[string]string{"grant_type": "refresh_token", "refresh_token": l.Refresh.Reveal()}
	if l.Client != "" {
		said["client_id"] = l.Client
	}
	if !l.ClientSecret.IsZero() {
		said["client_secret"] = l.ClientSecret.Reveal()
	}
	var body []byte
	kind := jsonType
	if p.form {
		values := url.Values{}
		for name, v := range said {
			values.Set(name, v)
		}
		kind, body = formType, []byte(values.Encode())
	} else {
		var err error
		if body, err = json.Marshal(said); err != nil {
			return nil, fmt.Errorf("encode a request: %w", err)
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+l.Endpoint, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("make a request to %s: %w", l.Endpoint, err)
	}
	req.Header.Set("Content-Type", kind)
	req.Header.Set("Accept", "application/json")
	return req, nil
}

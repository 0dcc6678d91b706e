// Package signin keeps what sign-ins leave: an agent in a sandbox signs in as it
// always does, and the tokens that come back from its provider stay on this
// machine. The guest gets placeholders for them, and so does every other sandbox
// of the user's; a token that runs out is renewed here, once for all.
//
// It owns the table of providers and the meaning of the logins that package
// secret stores. What stands in a request for a token, and is replaced on its way
// out, is package credential's. It is one of the few packages that see the bytes
// of a secret.
package signin

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"berth.dev/internal/credential"
	"berth.dev/internal/egress/intercept"
	"berth.dev/internal/sandbox"
	"berth.dev/internal/secret"
)

// Config is what a Keeper is made of.
type Config struct {
	Sandbox string // its name
	Agent   string
	// FromHost: the logins are those that the agents have on this machine.
	FromHost bool
	// Home is the folder that those are below.
	Home string
	// Store opens the store of secrets, with create also when there is none yet;
	// nil for none.
	Store func(create bool) (*secret.Store, error)
	// Broker makes the placeholders.
	Broker *credential.Broker
	// Bind has the logins bound as they are now, before the guest learns of them.
	Bind func() error
	// Client asks token endpoints.
	Client func() *http.Client
	// Record is told of what was done.
	Record func(credential.Use)
	Now    func() time.Time // nil for time.Now
}

// Keeper keeps the sign-ins of one sandbox. It implements
// intercept.RequestStage and intercept.ResponseStage, and comes before the
// broker in both. It is safe for concurrent use.
type Keeper struct {
	cfg       Config
	providers []*Provider

	kept atomic.Int64 // bytes of requests, see maxKept

	mu       sync.Mutex
	vouched  map[[32]byte]vouched   // codes that came by way of the user's browser, by what stands for them
	refused  map[[32]byte]bool      // access tokens that a server did not take
	ended    map[[32]byte]time.Time // refresh tokens that renewed nothing any more
	held     map[[32]byte]*Login    // by the refresh token before, what the store has not taken yet
	renewals map[string]time.Time   // the last one of each login
}

// New returns a Keeper.
func New(cfg Config) *Keeper {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Keeper{
		cfg: cfg, providers: Of(cfg.Agent),
		vouched: map[[32]byte]vouched{}, refused: map[[32]byte]bool{}, ended: map[[32]byte]time.Time{}, held: map[[32]byte]*Login{}, renewals: map[string]time.Time{},
	}
}

// Inspect reports whether connections to a place have to be looked at, because
// tokens come from there.
func (k *Keeper) Inspect(host string, port uint16) bool {
	for _, p := range k.providers {
		if port == httpsPort && p.at(host) {
			return true
		}
	}
	return false
}

const httpsPort = 443

// vouchTime is how long a code may be on its way through the guest.
const vouchTime = 10 * time.Minute

// maxVouched bounds the codes that are remembered.
const maxVouched = 64

// vouched is a code that the guest does not have.
type vouched struct {
	p     *Provider
	code  secret.Value
	until time.Time
}

// Vouch says that a code of a provider's came from the user's own browser: a login
// that it is exchanged for is the user's, and for all sandboxes. The guest has
// something else in its place, of which this is the SHA-256, and so can have the
// code exchanged here alone. An error means that it is not kept here what the
// provider gives; then the guest needs the code itself.
func (k *Keeper) Vouch(provider string, standIn [32]byte, code secret.Value) error {
	i := slices.IndexFunc(k.providers, func(p *Provider) bool { return p.Name == provider })
	if i < 0 || code.IsZero() {
		return sandbox.Errorf(sandbox.ErrInvalid, "this sandbox does not keep such a sign-in")
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.cfg.Now()
	for s, v := range k.vouched {
		if now.After(v.until) {
			delete(k.vouched, s)
		}
	}
	if len(k.vouched) >= maxVouched {
		return sandbox.Errorf(sandbox.ErrUnavailable, "too many sign-ins at once")
	}
	k.vouched[standIn] = vouched{k.providers[i], code, now.Add(vouchTime)}
	return nil
}

// vouchedFor is the code that a guest has something in place of; zero for none.
// It is given once: of a code that comes twice, providers may take back what they
// gave for it (RFC 6749 §4.1.2).
func (k *Keeper) vouchedFor(p *Provider, standIn string) secret.Value {
	k.mu.Lock()
	defer k.mu.Unlock()
	sum := sha256.Sum256([]byte(standIn))
	v, ok := k.vouched[sum]
	if !ok || v.p != p {
		return secret.Value{}
	}
	delete(k.vouched, sum)
	if !k.cfg.Now().Before(v.until) {
		return secret.Value{}
	}
	return v.code
}

// attempt is a request to a token endpoint that was let through.
type attempt struct {
	p            *Provider
	endpoint     string
	client       string
	clientSecret secret.Value
	code         secret.Value // of the user's browser, zero for one of the guest's own
}

type attemptKey struct{}

// maxRequest bounds the body of a request to a token endpoint, in bytes.
const maxRequest = 64 << 10

// Request implements intercept.RequestStage: it answers what is about
// placeholders, and marks requests whose answers may have tokens.
func (k *Keeper) Request(ctx context.Context, t intercept.Target, r *http.Request) error {
	if !t.TLS || t.Port != httpsPort {
		return nil
	}
	url := urlOf(t.Host, r)
	plain := plainURL(url)
	for _, p := range k.providers {
		switch {
		case p.revokes(url) || p.revokes(plain):
			return k.revoke(t, p, r)
		case p.issues(url):
			return k.issue(ctx, t, p, url, r)
		case p.issues(plain):
			k.record(t, p, r, true, "the guest wrote the address of a token endpoint in another way")
			return errors.New("tokens are asked for at " + plain)
		}
	}
	return k.repeatable(ctx, r)
}

// read reads a body to its end and puts it back.
func read(r *http.Request, most int64) ([]byte, error) {
	if r.Body == nil || r.Body == http.NoBody {
		return nil, nil
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, most+1))
	switch {
	case err != nil:
		return nil, &intercept.Failed{Reason: "the body of the request is not whole"}
	case int64(len(body)) > most:
		return nil, errors.New("a sign-in says less than that")
	}
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	r.Header.Del("Expect")
	return body, nil
}

// issue handles a request for tokens.
func (k *Keeper) issue(ctx context.Context, t intercept.Target, p *Provider, url string, r *http.Request) error {
	body, err := read(r, maxRequest)
	if err != nil {
		return err
	}
	if r.Header.Get("Content-Encoding") != "" {
		return errors.New("that is no way to ask for tokens")
	}
	f, err := parseFields(r.Header.Get("Content-Type"), body)
	if err != nil {
		f = fields{} // for the server to refuse; its answer is read all the same
	}
	switch held := k.holds(p, body, r); {
	case held && f.text("grant_type") == "refresh_token" && f.text("refresh_token") == k.placeholders(p).refresh:
		return k.renewed(ctx, t, p, r)
	case held:
		// Such as an id_token that is to become a key which is paid for by use.
		k.record(t, p, r, true, "the guest asked for more with its placeholder: "+shorten(f.text("grant_type")))
		return refusal(http.StatusBadRequest, "invalid_grant", "this login stays on the host, which gives nothing else for it")
	}
	if k.cfg.FromHost {
		k.record(t, p, r, true, "a sign-in inside, where the logins of this machine are used")
		return refusal(http.StatusBadRequest, "access_denied", "this sandbox uses the logins that agents have on this machine; sign in there")
	}
	r.Header.Set("Accept-Encoding", "identity")
	code := k.vouchedFor(p, f.text("code"))
	if !code.IsZero() && !f.settle(r, code) {
		k.record(t, p, r, true, "the browser's code was said in a way that could be read as another")
		return errors.New("a code is exchanged in a plainer way")
	}
	*r = *r.WithContext(context.WithValue(r.Context(), attemptKey{}, &attempt{
		p: p, endpoint: url, client: f.text("client_id"), clientSecret: secret.NewValue(f.text("client_secret")), code: code,
	}))
	return nil
}

// settle writes a request for tokens anew with the code of the user's browser, so
// that the provider can read nothing else in it than was read here: else a guest
// could have its own code pass for that one. What could be read in two ways all
// the same is false.
func (f fields) settle(r *http.Request, code secret.Value) bool {
	kind := ""
	if said := r.Header["Content-Type"]; len(said) == 1 {
		kind = typeOf(said[0])
	}
	if r.Method != http.MethodPost || r.URL.RawQuery != "" || kind != formType && kind != jsonType {
		return false
	}
	for name := range f {
		if strings.Trim(name, "abcdefghijklmnopqrstuvwxyz_") != "" {
			return false
		}
	}
	f["code"], _ = json.Marshal(code.Reveal())
	body, err := json.Marshal(f)
	if err != nil {
		return false
	}
	if kind == formType {
		body = form(body)
	}
	r.Header.Set("Content-Type", kind)
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	return true
}

func shorten(s string) string { return s[:min(len(s), 100)] }

// revoke keeps a guest from ending a login that others use, and lets it believe
// that it has: with that it forgets its placeholders.
func (k *Keeper) revoke(t intercept.Target, p *Provider, r *http.Request) error {
	body, err := read(r, maxRequest)
	if err != nil || !k.holds(p, body, r) {
		return err
	}
	k.record(t, p, r, false, "signed out inside; the login stays on the host")
	return &intercept.Answer{Status: http.StatusOK, Kind: jsonType, Body: []byte("{}")}
}

// renewed answers a refresh: the guest's placeholders go on to be good as long
// as what they stand for is.
func (k *Keeper) renewed(ctx context.Context, t intercept.Target, p *Provider, r *http.Request) error {
	l, err := k.current(ctx, p)
	if err != nil {
		k.record(t, p, r, true, "it could not be had: "+err.Error())
		var answer *intercept.Answer
		if errors.As(err, &answer) {
			return refusal(http.StatusBadRequest, "invalid_grant", "the login has ended; sign in again")
		}
		return &intercept.Failed{Reason: "the login " + p.Secret() + " could not be renewed on the host; berth log --secrets says why"}
	}
	body, err := p.answer(l, k.placeholders(p))
	if err != nil {
		return &intercept.Failed{Reason: "a defect of Berth"}
	}
	k.record(t, p, r, false, "renewed on the host")
	kind := jsonType
	if strings.Contains(r.Header.Get("Accept"), formType) {
		kind, body = formType, form(body)
	}
	return &intercept.Answer{Status: http.StatusOK, Kind: kind, Body: body}
}

// refusal is an error as token endpoints say it (RFC 6749 §5.2).
func refusal(status int, code, text string) *intercept.Answer {
	return &intercept.Answer{
		Status: status, Kind: jsonType,
		Body: []byte(`{"error":"` + code + `","error_description":"berth: ` + text + `"}`),
	}
}

// placeholders are this sandbox's for a login; none when it is not bound.
func (k *Keeper) placeholders(p *Provider) placeholders {
	b := k.cfg.Broker
	return placeholders{b.Placeholder(p.Secret()), b.Part(p.Secret(), "refresh"), b.Part(p.Secret(), "id")}
}

// holds reports whether a request has one of a login's placeholders in it. Only
// where it is in a header would it become a token on its way.
func (k *Keeper) holds(p *Provider, body []byte, r *http.Request) bool {
	text := []string{string(body), r.URL.RawQuery}
	for _, v := range r.Header {
		text = append(text, v...)
	}
	ph := k.placeholders(p)
	for _, s := range []string{ph.access, ph.refresh, ph.id} {
		if s != "" && strings.Contains(strings.Join(text, "\n"), s) {
			return true
		}
	}
	return false
}

// Response implements intercept.ResponseStage: it keeps the tokens of an answer
// and puts placeholders in their place.
func (k *Keeper) Response(ctx context.Context, t intercept.Target, res *http.Response) error {
	if res.StatusCode < 200 || res.Request == nil {
		return nil
	}
	a, ok := res.Request.Context().Value(attemptKey{}).(*attempt)
	if !ok {
		if res.StatusCode == http.StatusUnauthorized {
			k.notTaken(res.Request)
			k.again(ctx, t, res)
		}
		return nil
	}
	if res.StatusCode >= 300 {
		return a.refused(res)
	}
	if err := k.take(ctx, a, res); err != nil {
		var failed *intercept.Failed
		if errors.As(err, &failed) {
			return err
		}
		k.record(t, a.p, res.Request, true, "a sign-in was not kept: "+err.Error())
		return &intercept.Failed{Reason: "what the server answered to a sign-in cannot be kept on the host (" + err.Error() + "), and so the guest does not get it"}
	}
	return nil
}

// refused passes an error, which has no tokens. One that repeats the code of the
// user's browser, which may still be good, does not get to the guest.
func (a *attempt) refused(res *http.Response) error {
	if a.code.IsZero() {
		return nil
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	_ = res.Body.Close()
	all := strings.Builder{}
	_ = res.Header.Write(&all)
	var text any
	_ = json.Unmarshal(body, &text)
	code := Login{Access: a.code}
	if err != nil || len(body) > maxAnswer || res.Header.Get("Content-Encoding") != "" ||
		code.shows([]byte(all.String()+string(body))) || code.within(text) {
		return &intercept.Failed{Reason: "the server did not take the code of the browser (" + res.Status + "); sign in again"}
	}
	res.Trailer = nil
	res.Body, res.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	return nil
}

// take takes the tokens out of an answer.
func (k *Keeper) take(ctx context.Context, a *attempt, res *http.Response) error {
	if res.Header.Get("Content-Encoding") != "" {
		return errors.New("it is encoded, which was not asked for")
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if err != nil {
		return &intercept.Failed{Reason: "the server's answer broke off"}
	}
	if len(body) > maxAnswer {
		return errors.New("it is too long")
	}
	_ = res.Body.Close()
	kind := res.Header.Get("Content-Type")
	f, err := parseFields(kind, body)
	if err != nil {
		return err
	}
	tokens := a.p.tokensIn(f)
	for name, values := range res.Header {
		if tokens.shows([]byte(strings.Join(values, "\n"))) {
			delete(res.Header, name)
		}
	}
	if tokens.Access.IsZero() {
		if f.text("error") == "" && len(f) > 0 {
			return errors.New("it has neither a token nor an error")
		}
		put(res, f.pending(), kind)
		return a.refused(res)
	}
	l, err := a.p.newLogin(f, k.cfg.Now())
	if err != nil {
		return err
	}
	l.Client, l.ClientSecret, l.Endpoint, l.By = a.client, a.clientSecret, a.endpoint, k.cfg.Sandbox
	everybody, err := k.keep(ctx, a, l)
	if err != nil {
		return err
	}
	ph := k.placeholders(a.p)
	if ph.access == "" {
		return errors.New("it is not bound")
	}
	out, err := a.p.answer(l, ph)
	if err != nil || l.shows(out) {
		return errors.New("its tokens are also where they do not belong")
	}
	put(res, out, kind)
	what := "signed in"
	if l.Person != "" {
		what += " as " + l.Person
	}
	if everybody {
		what += ", for all sandboxes"
	} else {
		what += ", for this sandbox"
	}
	u := res.Request.URL
	k.cfg.Record(credential.Use{
		Time: k.cfg.Now(), Secret: a.p.Secret(), Host: u.Hostname(), Port: httpsPort, Method: res.Request.Method, Path: u.EscapedPath(), Reason: what,
	})
	return nil
}

// put makes an answer of a JSON object, in the form that the server's had.
func put(res *http.Response, body []byte, kind string) {
	if typeOf(kind) == formType {
		body = form(body)
	}
	res.Trailer = nil
	res.Body, res.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
}

// keep stores a login, for whom it is, and has it bound.
func (k *Keeper) keep(ctx context.Context, a *attempt, l *Login) (everybody bool, err error) {
	s, err := k.cfg.Store(true)
	if err != nil {
		return false, err
	}
	v, err := l.value()
	if err != nil {
		return false, err
	}
	name, own := a.p.Secret(), secret.LoginOf(a.p.Name, k.cfg.Sandbox)
	// A guest can sign in by itself, to whatever account somebody told it to. So
	// what it signs in with is for the others only when the user was there, or
	// when it is theirs already.
	everybody = !a.code.IsZero() || k.sameAccount(ctx, s, name, l)
	// What is given to nobody but the guest cannot be lost: it is stored first.
	if everybody {
		if err = s.Put(ctx, name, v); err == nil {
			if derr := s.Delete(ctx, own); derr != nil && sandbox.ClassOf(derr) != sandbox.ErrNotFound {
				err = derr
			}
		}
	} else {
		err = s.Put(ctx, own, v)
	}
	if err != nil {
		return everybody, err
	}
	if err := k.cfg.Bind(); err != nil {
		return everybody, err
	}
	k.remember(a.p, l)
	return everybody, nil
}

// remember has a login's tokens taken out of whatever a server answers.
func (k *Keeper) remember(p *Provider, l *Login) {
	for part, v := range map[string]secret.Value{"": l.Access, "refresh": l.Refresh, "id": l.ID} {
		k.cfg.Broker.Remember(p.Secret(), part, v)
	}
}

func (k *Keeper) sameAccount(ctx context.Context, s *secret.Store, name string, l *Login) bool {
	v, err := s.Get(ctx, name)
	if err != nil || l.Account == "" {
		return false
	}
	old, err := parseLogin(v)
	return err == nil && old.Account == l.Account
}

func (k *Keeper) record(t intercept.Target, p *Provider, r *http.Request, refused bool, reason string) {
	k.cfg.Record(credential.Use{
		Time: k.cfg.Now(), Secret: p.Secret(), Host: t.Host, Port: t.Port, Method: r.Method, Path: r.URL.EscapedPath(), Refused: refused, Reason: reason,
	})
}

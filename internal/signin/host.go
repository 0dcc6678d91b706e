package signin

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"berth.dev/internal/atomicfile"
	"berth.dev/internal/credential"
	"berth.dev/internal/sandbox"
	"berth.dev/internal/secret"
)

// hostLogin is where an agent keeps its login on this machine.
type hostLogin struct {
	path string // below the home
	read func([]byte) (*Login, error)
	// write returns the file with a login's tokens in place of those in it; nil for
	// one that Berth cannot renew.
	write func(old []byte, l *Login) ([]byte, error)
	// lock is the folder, below the home, that the agent makes while it renews the
	// login, so that two of it do not; "" for none.
	lock string
}

// staleLock is after how long a lock that nobody has touched is nobody's. Claude
// Code takes the same time.
const staleLock = time.Minute

// hold takes an agent's own lock until release is called.
func (h hostLogin) hold(ctx context.Context, home string) (release func(), err error) {
	if h.lock == "" {
		return func() {}, nil
	}
	name := filepath.Join(home, h.lock)
	for {
		err := os.Mkdir(name, 0o700)
		if err == nil {
			return func() { _ = os.Remove(name) }, nil
		}
		if !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("renew a login where its agent keeps it: %w", err)
		}
		if info, err := os.Stat(name); err == nil && time.Since(info.ModTime()) > staleLock {
			_ = os.Remove(name)
			continue
		}
		select {
		case <-ctx.Done():
			return nil, sandbox.Errorf(sandbox.ErrUnavailable, "the agent on this machine is renewing its login, and does not end (%s)", name)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// maxHostFile bounds an agent's file, in bytes.
const maxHostFile = 4 << 20

// readHost reads an agent's own login. It is read at each use: the agent of this
// machine renews it too.
func (p *Provider) readHost(home, agent string) (*Login, error) {
	h, ok := p.host[agent]
	if !ok {
		return nil, sandbox.Errorf(sandbox.ErrNotFound, "there is no login of this machine's for %s", p.Title)
	}
	b, err := readFile(filepath.Join(home, h.path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, sandbox.Errorf(sandbox.ErrNotFound, "nobody is signed in to %s on this machine", p.Title)
	}
	if err != nil {
		return nil, err
	}
	l, err := h.read(b)
	if err != nil || l == nil || l.Access.IsZero() {
		// err might quote what it has read.
		return nil, sandbox.Errorf(sandbox.ErrNotFound, "there is no login to %s in %s", p.Title, filepath.Join("~", h.path))
	}
	l.Client, l.ClientSecret, l.Endpoint = p.client, secret.NewValue(p.clientSecret), p.tokens[0]
	if h.write == nil {
		l.Refresh = secret.Value{}
	}
	return l, nil
}

func readFile(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, fmt.Errorf("read a login: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxHostFile {
		return nil, fmt.Errorf("read a login: %s is no file, or too large", name)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read a login: %w", err)
	}
	return b, nil
}

// renewHost renews an agent's own login where it is, as the agent would: what it
// was renewed with is spent, so the file has to say the new one.
func (k *Keeper) renewHost(ctx context.Context, p *Provider) (*Login, error) {
	s, err := k.cfg.Store(true)
	if err != nil {
		return nil, err
	}
	wait, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*renewTime)
	defer cancel()
	unlock, err := s.Lock(wait, "host "+p.Secret())
	if err != nil {
		return nil, err
	}
	defer unlock()
	h := p.host[k.cfg.Agent]
	release, err := h.hold(wait, k.cfg.Home)
	if err != nil {
		return nil, err
	}
	defer release()
	l, err := p.readHost(k.cfg.Home, k.cfg.Agent)
	if err != nil || !k.due(p, l) {
		return l, err // the agent was first
	}
	next := k.unkept(l)
	if next == nil {
		if next, err = k.renew(wait, p, l); err != nil {
			return k.orOld(p, l, err)
		}
		k.hold(l, next)
	}
	if err := h.rewrite(k.cfg.Home, next); err != nil {
		// It is used meanwhile, and written with the next use.
		k.cfg.Record(credential.Use{Time: k.cfg.Now(), Secret: p.Secret(), Refused: true, Reason: err.Error()})
		return next, nil
	}
	k.hold(l, nil)
	return next, nil
}

// rewrite puts a login's tokens into the agent's file.
func (h hostLogin) rewrite(home string, l *Login) error {
	// Where it is a link, what it leads to is written.
	name, err := filepath.EvalSymlinks(filepath.Join(home, h.path))
	if err != nil {
		return fmt.Errorf("write the renewed login: %w", err)
	}
	old, err := readFile(name)
	if err != nil {
		return err
	}
	b, err := h.write(old, l)
	if err != nil {
		return fmt.Errorf("write the renewed login to %s: %w", name, err)
	}
	if err := atomicfile.Write(name, b, 0o600); err != nil {
		return fmt.Errorf("write the renewed login: %w", err)
	}
	return nil
}

// change sets members of an object in a JSON file, at the end of a path.
func change(old []byte, members object, path ...string) ([]byte, error) {
	f := fields{}
	if err := decode(old, &f); err != nil {
		return nil, err
	}
	if len(path) > 0 {
		in, err := change(f[path[0]], members, path[1:]...)
		if err != nil {
			return nil, err
		}
		f[path[0]] = in
	} else {
		for name, v := range members {
			b, err := json.Marshal(v)
			if err != nil {
				return nil, fmt.Errorf("encode %s: %w", name, err)
			}
			f[name] = b
		}
	}
	return json.MarshalIndent(f, "", "  ")
}

// decode reads a JSON object. What is wrong with one is not repeated: it may be a
// token.
func decode(b []byte, v any) error {
	if json.Unmarshal(b, v) != nil {
		return errors.New("it is no JSON object")
	}
	return nil
}

func readClaude(b []byte) (*Login, error) {
	var f struct {
		OAuth struct {
			Access  string   `json:"accessToken"`
			Refresh string   `json:"refreshToken"`
			Expires int64    `json:"expiresAt"`
			Scopes  []string `json:"scopes"`
			Type    string   `json:"subscriptionType"`
		} `json:"claudeAiOauth"`
	}
	if err := decode(b, &f); err != nil {
		return nil, err
	}
	o := f.OAuth
	scope, _ := json.Marshal(strings.Join(o.Scopes, " "))
	kind, _ := json.Marshal(o.Type)
	return &Login{
		Access: secret.NewValue(o.Access), Refresh: secret.NewValue(o.Refresh), Expires: time.UnixMilli(o.Expires),
		Answer: map[string]json.RawMessage{"scope": scope, "subscription_type": kind},
	}, nil
}

// claudeRefreshLife is how long Claude Code takes a token that renews to be good
// when nobody says.
const claudeRefreshLife = 30 * 24 * time.Hour

func writeClaude(old []byte, l *Login) ([]byte, error) {
	life := cmp.Or(fields(l.Answer).seconds(refreshLifeName), claudeRefreshLife)
	return change(old, object{
		"accessToken": l.Access.Reveal(), "refreshToken": l.Refresh.Reveal(), "expiresAt": l.Expires.UnixMilli(),
		"refreshTokenExpiresAt": time.Now().Add(life).UnixMilli(),
	}, "claudeAiOauth")
}

// readConsole reads the key that Claude Code had made for it.
func readConsole(b []byte) (*Login, error) {
	f := fields{}
	if err := decode(b, &f); err != nil {
		return nil, err
	}
	return &Login{Access: secret.NewValue(f.text("primaryApiKey")), Answer: map[string]json.RawMessage{}}, nil
}

func readCodex(b []byte) (*Login, error) {
	var f struct {
		Tokens struct {
			ID      string `json:"id_token"`
			Access  string `json:"access_token"`
			Refresh string `json:"refresh_token"`
		} `json:"tokens"`
	}
	if err := decode(b, &f); err != nil {
		return nil, err
	}
	l := &Login{
		Access: secret.NewValue(f.Tokens.Access), Refresh: secret.NewValue(f.Tokens.Refresh), ID: secret.NewValue(f.Tokens.ID),
		Expires: expiryOf(f.Tokens.Access), Answer: map[string]json.RawMessage{},
	}
	l.identify()
	return l, nil
}

func writeCodex(old []byte, l *Login) ([]byte, error) {
	b, err := change(old, object{
		"id_token": l.ID.Reveal(), "access_token": l.Access.Reveal(), "refresh_token": l.Refresh.Reveal(),
	}, "tokens")
	if err != nil {
		return nil, err
	}
	return change(b, object{"last_refresh": time.Now().UTC().Format(time.RFC3339Nano)})
}

// expiryOf is the end of a JWT's life (RFC 7519 §4.1.4); zero when it has none.
func expiryOf(token string) time.Time {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return time.Time{}
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	var claims struct {
		Exp int64 `json:"exp"`
	}
	if err != nil || json.Unmarshal(b, &claims) != nil || claims.Exp <= 0 {
		return time.Time{}
	}
	return time.Unix(claims.Exp, 0)
}

func readGemini(b []byte) (*Login, error) {
	f := fields{}
	if err := decode(b, &f); err != nil {
		return nil, err
	}
	var expiry int64
	_ = json.Unmarshal(f["expiry_date"], &expiry)
	l := &Login{
		Access: secret.NewValue(f.text("access_token")), Refresh: secret.NewValue(f.text("refresh_token")), ID: secret.NewValue(f.text("id_token")),
		Expires: time.UnixMilli(expiry),
		Answer:  map[string]json.RawMessage{"scope": f["scope"]},
	}
	l.identify()
	return l, nil
}

func writeGemini(old []byte, l *Login) ([]byte, error) {
	members := object{"access_token": l.Access.Reveal(), "refresh_token": l.Refresh.Reveal(), "expiry_date": l.Expires.UnixMilli()}
	if !l.ID.IsZero() {
		members["id_token"] = l.ID.Reveal()
	}
	return change(old, members)
}

// readCopilot reads the tokens that Copilot CLI keeps where there is no keyring.
func readCopilot(b []byte) (*Login, error) {
	var plain bytes.Buffer
	for line := range bytes.Lines(b) {
		if !bytes.HasPrefix(bytes.TrimSpace(line), []byte("//")) {
			plain.Write(line)
		}
	}
	var f struct {
		// By the host's URL, a colon, the user's name, and for some another colon and
		// what it is for.
		Tokens map[string]struct {
			Token string `json:"token"`
		} `json:"authTokens"`
		Last struct {
			Host  string `json:"host"`
			Login string `json:"login"`
		} `json:"lastLoggedInUser"`
	}
	if err := decode(plain.Bytes(), &f); err != nil {
		return nil, err
	}
	return &Login{
		Person: f.Last.Login, Answer: map[string]json.RawMessage{},
		Access: secret.NewValue(f.Tokens[f.Last.Host+":"+f.Last.Login].Token),
	}, nil
}

func readOpenCode(provider string) func([]byte) (*Login, error) {
	return func(b []byte) (*Login, error) {
		var f map[string]struct {
			Type    string `json:"type"`
			Access  string `json:"access"`
			Refresh string `json:"refresh"`
			Expires int64  `json:"expires"`
		}
		if err := decode(b, &f); err != nil {
			return nil, err
		}
		e := f[provider]
		if e.Type != "oauth" {
			return nil, nil
		}
		l := &Login{Access: secret.NewValue(e.Access), Refresh: secret.NewValue(e.Refresh), Answer: map[string]json.RawMessage{}}
		if e.Expires > 0 {
			l.Expires = time.UnixMilli(e.Expires)
		}
		return l, nil
	}
}

func writeOpenCode(provider string) func([]byte, *Login) ([]byte, error) {
	return func(old []byte, l *Login) ([]byte, error) {
		return change(old, object{
			"access": l.Access.Reveal(), "refresh": l.Refresh.Reveal(), "expires": l.Expires.UnixMilli(),
		}, provider)
	}
}

// Package credential is what stands between a sandbox's placeholders and the
// user's secrets. It makes the placeholders; puts the secret in their place in
// requests to the hosts that it is bound to, over TLS that was verified, where
// the service takes it and nowhere else; refuses placeholders that are on their
// way elsewhere; and puts placeholders where an answer would carry a secret back.
//
// It owns no secret: a Source gives one when it is used. It reads and writes no
// files and speaks with nobody: package intercept hands it requests and answers.
// It may be imported by what joins parts, and it is one of the few packages that
// see the bytes of a secret.
//
// # What is looked for
//
// In requests: placeholders, of this sandbox and of any other, in the path, the
// query, the fields (names and values), the body and its trailer. In answers:
// every secret that was put into a request, in the fields, the body and the
// trailer. Either as it is, percent-encoded, escaped as in JSON or HTML, in part
// or as a whole; in hexadecimal; in base64 with any number of bytes before it,
// in both alphabets, and, in requests, broken into lines; and all of that in a
// body that is encoded with gzip, deflate, br or zstd, up to three of them. Two
// encodings one in the other are not looked for, nor are other encodings, pieces
// of a placeholder in several places, or archives. Bytes after an upgrade to
// WebSocket are not seen.
package credential

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"berth.dev/internal/sandbox"
	"berth.dev/internal/secret"
	"berth.dev/internal/service"
)

// Binding binds a secret to a service.
type Binding struct {
	// Secret is its name; no two bindings of a Broker have the same.
	Secret  string
	Service service.Definition
	// Source gives the secret. It is asked at each use.
	Source secret.Source
	// Parts are what else belongs to the secret and stays on the host, such as the
	// token that renews it. The guest gets a placeholder for each, which is put
	// into nothing, and is known for what it is wherever it goes.
	Parts []Part
}

// Part is a part of a secret.
type Part struct {
	Name  string // unique among those of the secret
	Shape service.Shape
}

// Use is one use of a secret, or a try that was refused.
type Use struct {
	Time   time.Time
	Secret string // its name; "" when a placeholder was another sandbox's
	Host   string
	Port   uint16
	Method string
	Path   string // without the query, as the guest sent it
	// Refused: the request did not go to the server, or not as a whole.
	Refused bool
	// Reason is one clause for people: where the secret was put, or why not.
	Reason string
}

// File is a file for the guest.
type File struct {
	Path    string // relative to the home of the guest's user
	Content []byte
}

// Config is what a Broker is made of.
type Config struct {
	// Sandbox is the sandbox's id. Placeholders depend on it.
	Sandbox string
	// Key is a secret of the sandbox's, or of all: at least 16 bytes at random,
	// the same in each run. Placeholders follow from it.
	Key []byte
	// Record is told of each use, from many goroutines; it must not block. nil
	// records nothing.
	Record func(Use)
	// Now is the time; nil for time.Now.
	Now func() time.Time
}

// Broker is a sandbox's. It implements intercept.RequestStage and
// intercept.ResponseStage, and is safe for concurrent use.
type Broker struct {
	cfg   Config
	key   []byte
	state atomic.Pointer[state]
	known atomic.Pointer[known] // nil as long as no secret was used
	large chan struct{}         // a slot for each large body that is held to be signed

	mu     sync.Mutex
	former map[string]string     // of placeholders that were bound once: core to secret
	values map[string][]revealed // by secret, the newest last
}

// New returns a Broker with no bindings.
func New(cfg Config) (*Broker, error) {
	if cfg.Sandbox == "" || len(cfg.Key) < 16 {
		return nil, errors.New("a broker needs a sandbox, and a key of at least 16 bytes")
	}
	if cfg.Record == nil {
		cfg.Record = func(Use) {}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	h := hmac.New(sha256.New, cfg.Key)
	h.Write([]byte("berth sandbox\x00" + cfg.Sandbox))
	b := &Broker{
		cfg: cfg, key: h.Sum(nil), large: make(chan struct{}, maxLarge),
		former: map[string]string{}, values: map[string][]revealed{},
	}
	b.state.Store(&state{})
	return b, nil
}

// bound is a binding with its placeholders.
type bound struct {
	Binding
	main placeholder
	// Of keys that requests are signed with: main stands for the key.
	id, session placeholder
	parts       map[string]placeholder
}

// state is all bindings at one time. It is immutable.
type state struct {
	list  []*bound
	cores map[string]*bound
	exact map[string][]spot // by host
	wild  []spot
}

// spot is one place that a secret may go to.
type spot struct {
	service.Place
	b *bound
}

// idShape is the form of an access key's identifier. Real ones have 16 characters
// behind the prefix; AWS documents up to 128, and clients do not count them.
var idShape = service.Shape{Prefix: "AKIA", Length: 4 + service.Core, Alphabet: service.Base32}

// Bind replaces all bindings, for requests that come from now on. Placeholders
// are the same for the same secret. An error is sandbox.ErrInvalid and changes
// nothing.
func (b *Broker) Bind(list ...Binding) error {
	st := &state{cores: map[string]*bound{}, exact: map[string][]spot{}}
	for i, one := range list {
		twice := slices.ContainsFunc(list[:i], func(o Binding) bool { return o.Secret == one.Secret })
		if one.Secret == "" || one.Source == nil || twice {
			return sandbox.Errorf(sandbox.ErrInvalid, "bind secret %s: it has no name or no source, or is bound twice", one.Secret)
		}
		if err := one.Service.Check(); err != nil {
			return sandbox.Errorf(sandbox.ErrInvalid, "bind secret %s: %w", one.Secret, err)
		}
		st.add(b.newBound(one))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for core, bd := range st.cores {
		b.former[core] = bd.Secret
	}
	b.state.Store(st)
	return nil
}

func (b *Broker) newBound(one Binding) *bound {
	bd := &bound{Binding: one, main: newPlaceholder(b.key, one.Secret, "", one.Service.Shape)}
	if one.Service.Signs() {
		bd.id = newPlaceholder(b.key, one.Secret, "id", idShape)
		bd.session = newPlaceholder(b.key, one.Secret, "session", service.Shape{})
	}
	bd.parts = map[string]placeholder{}
	for _, p := range one.Parts {
		bd.parts[p.Name] = newPlaceholder(b.key, one.Secret, "part "+p.Name, p.Shape)
	}
	return bd
}

func (st *state) add(bd *bound) {
	st.list = append(st.list, bd)
	for _, p := range slices.AppendSeq([]placeholder{bd.main, bd.id, bd.session}, maps.Values(bd.parts)) {
		if p.core != "" {
			st.cores[p.core] = bd
		}
	}
	for _, p := range bd.Service.Hosts {
		if p.Host.Exact() {
			st.exact[p.Host.String()] = append(st.exact[p.Host.String()], spot{p, bd})
		} else {
			st.wild = append(st.wild, spot{p, bd})
		}
	}
}

// at returns the bindings that a place is one of, each once.
func (st *state) at(host string, port uint16) []*bound {
	var list []*bound
	for _, s := range slices.Concat(st.exact[host], st.wild) {
		if s.Match(host, port) && !slices.Contains(list, s.b) {
			list = append(list, s.b)
		}
	}
	return list
}

// knows reports whether a host is one of a binding's, on whichever port.
func (st *state) knows(host string) bool {
	return len(st.exact[host]) > 0 || slices.ContainsFunc(st.wild, func(s spot) bool { return s.Host.Match(host) })
}

// Inspect reports whether connections to a place have to be intercepted, as
// package egress asks: a secret is bound to it.
func (b *Broker) Inspect(host string, port uint16) bool {
	return len(b.state.Load().at(host, port)) > 0
}

// Hosts returns the places that secrets are bound to, each once, in the order of
// their names.
func (b *Broker) Hosts() []service.Place {
	var list []service.Place
	for _, bd := range b.state.Load().list {
		list = append(list, bd.Service.Hosts...)
	}
	slices.SortFunc(list, func(p, q service.Place) int { return cmp.Compare(p.String(), q.String()) })
	return slices.Compact(list)
}

// Placeholder returns what stands for a secret, "" for one that is not bound.
func (b *Broker) Placeholder(name string) string {
	for _, bd := range b.state.Load().list {
		if bd.Secret == name {
			return bd.main.text
		}
	}
	return ""
}

// Part returns what stands for a part of a secret, "" for one that is not bound.
func (b *Broker) Part(name, part string) string {
	for _, bd := range b.state.Load().list {
		if bd.Secret == name {
			return bd.parts[part].text
		}
	}
	return ""
}

// Environment returns the variables that the guest gets, with placeholders for
// their values. A variable that several bindings have is that of the secret with
// its name, else of the first.
func (b *Broker) Environment() map[string]string {
	env := map[string]string{}
	list := b.state.Load().list
	for _, own := range []bool{true, false} {
		for _, bd := range list {
			for _, v := range bd.Service.Guest(bd.Secret) {
				if _, taken := env[v.Name]; !taken && (v.Name == bd.Secret) == own {
					env[v.Name] = service.Expand(v.Value, bd.main.text, bd.id.text)
				}
			}
		}
	}
	return env
}

// Files returns the files that the guest gets, with placeholders in them. Of two
// with one path the first binding's counts, or both when they can be joined.
func (b *Broker) Files() []File {
	var list []File
	for _, bd := range b.state.Load().list {
		for _, f := range bd.Service.Files {
			if service.Joins(f.Path) || !slices.ContainsFunc(list, func(o File) bool { return o.Path == f.Path }) {
				list = append(list, File{f.Path, []byte(service.Expand(f.Content, bd.main.text, bd.id.text))})
			}
		}
	}
	return list
}

// Bounds of the secrets that are remembered to be taken out of answers: a
// rotated one may still be on its way.
const (
	keptValues = 4
	maxValues  = 256
)

// values of a secret at one use of it.
type values struct {
	text string
	aws  awsKeys
}

// reveal asks a source and remembers what it gave.
func (b *Broker) reveal(ctx context.Context, bd *bound) (values, error) {
	t, err := bd.Source.Token(ctx)
	if err != nil {
		return values{}, err
	}
	v := values{text: strings.TrimRight(t.Value.Reveal(), "\r\n")}
	if v.text == "" {
		return values{}, errors.New("it is empty")
	}
	all := []revealed{{v.text, bd.main.text}}
	if bd.Service.Signs() {
		k, err := secret.ParseAWSKeys(t.Value)
		if err != nil {
			return values{}, err
		}
		v.aws = awsKeys{k.ID, k.Secret.Reveal(), k.Session.Reveal()}
		all = []revealed{{v.aws.secret, bd.main.text}, {v.aws.id, bd.id.text}, {v.aws.session, bd.session.text}}
	}
	b.remember(bd.Secret, all)
	return v, nil
}

// latest leaves of the values for a placeholder the last n. Each placeholder has
// its own: a secret whose parts change at once must not push out its others.
func latest(list []revealed, placeholder string, n int) []revealed {
	var left []revealed
	for _, r := range slices.Backward(list) {
		if r.placeholder == placeholder {
			if n--; n < 0 {
				continue
			}
		}
		left = append(left, r)
	}
	slices.Reverse(left)
	return left
}

// Remember has the value of a part of a secret, "" for the secret itself, taken
// out of answers.
func (b *Broker) Remember(name, part string, v secret.Value) {
	ph := b.Placeholder(name)
	if part != "" {
		ph = b.Part(name, part)
	}
	if text := v.Reveal(); text != "" && ph != "" {
		b.remember(name, []revealed{{text, ph}})
	}
}

// remember adds secrets to those that are taken out of answers.
func (b *Broker) remember(name string, all []revealed) {
	b.mu.Lock()
	defer b.mu.Unlock()
	changed := false
	for _, r := range all {
		list := b.values[name]
		if len(r.secret) < minSecret || slices.Contains(list, r) {
			continue
		}
		b.values[name] = append(latest(list, r.placeholder, keptValues-1), r)
		changed = true
	}
	if !changed {
		return
	}
	var total []revealed
	for _, n := range slices.Sorted(maps.Keys(b.values)) {
		total = append(total, b.values[n]...)
	}
	b.known.Store(newKnown(total[max(0, len(total)-maxValues):]))
}

package secret

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"berth.dev/internal/atomicfile"
	"berth.dev/internal/failpoint"
	"berth.dev/internal/sandbox"
)

// indexVersion is the version of index.json that this Berth writes, and the
// only one that it reads.
const indexVersion = 1

// maxIndex bounds the index, in bytes.
const maxIndex = 16 << 20

// index is what index.json holds: what there is and where its bytes are.
type index struct {
	Version int `json:"version"`
	// Store marks this store's items in a keyring that it may share.
	Store   string   `json:"store"`
	Secrets []record `json:"secrets"`
	Logins  []login  `json:"logins"`
	// Stray are items of the keyring that have no use: those about to be made,
	// and those that could not be deleted yet.
	Stray []string `json:"stray,omitempty"`
}

// record is a secret that the user set.
type record struct {
	// ID is of this very setting: setting it again makes another.
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	Sandbox string    `json:"sandbox,omitempty"`
	Command string    `json:"command,omitempty"`
	TTL     duration  `json:"ttl,omitzero"`
	Service string    `json:"service,omitempty"`
	Set     time.Time `json:"set"`
	Value   *ref      `json:"value,omitempty"` // nil for a command
	Cached  *cached   `json:"cached,omitempty"`
	Failed  *failure  `json:"failed,omitempty"`
}

// login is a secret that Berth itself was given.
type login struct {
	Name  string    `json:"name"`
	Set   time.Time `json:"set"`
	Value ref       `json:"value"`
}

// ref says where the bytes of one value are. They never change: another value
// has another ref.
type ref struct {
	Backend string `json:"backend"`
	ID      string `json:"id"`
}

// cached is what a command printed last.
type cached struct {
	Value   ref       `json:"value"`
	Fetched time.Time `json:"fetched"`
	Expires time.Time `json:"expires"`
	Stated  bool      `json:"stated"` // it said itself when it expires
}

// failure is how often a command failed, and until when it is left alone.
type failure struct {
	Count int       `json:"count"`
	At    time.Time `json:"at"`
	Until time.Time `json:"until"`
	Why   string    `json:"why"` // never holds what the command printed
}

// duration is a time.Duration as text.
type duration time.Duration

// MarshalText implements encoding.TextMarshaler.
func (d duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	*d = duration(v)
	return err
}

func (r record) entry() Entry {
	e := Entry{Name: r.Name, Sandbox: r.Sandbox, Command: r.Command, TTL: time.Duration(r.TTL), Service: r.Service, Set: r.Set}
	if r.Value != nil {
		e.Backend = r.Value.Backend
	}
	return e
}

// find returns the record of a secret, or nil.
func (ix *index) find(name, sandboxName string) *record {
	for i := range ix.Secrets {
		if r := &ix.Secrets[i]; r.Name == name && r.Sandbox == sandboxName {
			return r
		}
	}
	return nil
}

func (ix *index) login(name string) *login {
	for i := range ix.Logins {
		if ix.Logins[i].Name == name {
			return &ix.Logins[i]
		}
	}
	return nil
}

// refs are all values that are in use.
func (ix *index) refs() map[ref]bool {
	all := map[ref]bool{}
	for _, r := range ix.Secrets {
		if r.Value != nil {
			all[*r.Value] = true
		}
		if r.Cached != nil {
			all[r.Cached.Value] = true
		}
	}
	for _, l := range ix.Logins {
		all[l.Value] = true
	}
	return all
}

// discard remembers that a value has no use any more. Files need no memory:
// what no ref names is deleted.
func (ix *index) discard(r *ref) {
	if r != nil && r.Backend == BackendKeyring {
		ix.Stray = append(ix.Stray, r.ID)
	}
}

func (ix *index) check() error {
	if !isID(ix.Store) {
		return errors.New("it has no ID")
	}
	seen := map[[2]string]bool{}
	for _, r := range ix.Secrets {
		key := [2]string{r.Name, r.Sandbox}
		switch {
		case CheckName(r.Name) != nil || r.Sandbox != "" && sandbox.CheckName(r.Sandbox) != nil:
			return errors.New("a secret has an impossible name")
		case seen[key]:
			return fmt.Errorf("it has %s twice", r.Name)
		case !isID(r.ID) || (r.Value == nil) == (r.Command == "") || r.TTL < 0:
			return fmt.Errorf("what it has of %s makes no sense", r.Name)
		case len(r.Command) > maxCommand || len(r.Service) > maxService:
			return fmt.Errorf("what it has of %s is too long", r.Name)
		}
		seen[key] = true
	}
	for i, l := range ix.Logins {
		if checkLogin(l.Name) != nil || slices.ContainsFunc(ix.Logins[:i], func(o login) bool { return o.Name == l.Name }) {
			return errors.New("a login has an impossible name")
		}
	}
	for r := range ix.refs() {
		if !r.valid() {
			return errors.New("a value is nowhere")
		}
	}
	if slices.ContainsFunc(ix.Stray, func(id string) bool { return !isID(id) }) {
		return errors.New("a value is nowhere")
	}
	return nil
}

// valid: an ID becomes a file's name.
func (r ref) valid() bool {
	return isID(r.ID) && (r.Backend == BackendFile || r.Backend == BackendKeyring)
}

// isID: 16 bytes in hexadecimal.
func isID(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == 16 && s == strings.ToLower(s)
}

// parseIndex reads the text of an index.
func parseIndex(path string, data []byte) (*index, error) {
	damaged := func(err error) error {
		return sandbox.Errorf(sandbox.ErrInvalid, "the list of secrets, %s, is damaged: %w", path, err).
			WithHint("put it back from a backup; or remove %s and set the secrets again", filepath.Dir(path))
	}
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return nil, damaged(err)
	}
	switch {
	case head.Version > indexVersion:
		return nil, sandbox.Errorf(sandbox.ErrPrecondition, "the list of secrets, %s, was written by a newer Berth", path).
			WithHint("use the newer berth")
	case head.Version < 1:
		return nil, damaged(errors.New("it has no version"))
	}
	ix := &index{}
	// Strictly, because what is not understood would be lost by the next change.
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(ix); err != nil {
		return nil, damaged(err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, damaged(errors.New("something follows its end"))
	}
	if err := ix.check(); err != nil {
		return nil, damaged(err)
	}
	return ix, nil
}

// readIndex reads the index; one that is not there is empty and has no ID.
func (s *Store) readIndex() (*index, error) {
	data, mended, err := readPrivate(s.indexPath(), maxIndex)
	if errors.Is(err, fs.ErrNotExist) {
		// Each store has an index before it has anything else.
		if names, _ := s.file.list(); len(names) > 0 {
			return nil, sandbox.Errorf(sandbox.ErrInvalid, "the list of secrets, %s, is missing, but values are there", s.indexPath()).
				WithHint("put it back from a backup; or remove %s and set the secrets again", s.dir)
		}
		return &index{Version: indexVersion}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the list of secrets: %w", err)
	}
	if mended {
		s.note("others could read %s; it is closed now", s.indexPath())
	}
	return parseIndex(s.indexPath(), data)
}

// writeIndex replaces the index. The lock has to be held.
func (s *Store) writeIndex(ix *index) error {
	if err := failpoint.Hit("secret.index"); err != nil {
		return err
	}
	data, err := json.MarshalIndent(ix, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the list of secrets: %w", err)
	}
	if len(data) > maxIndex {
		return sandbox.Errorf(sandbox.ErrInvalid, "there are too many secrets")
	}
	if err := atomicfile.Write(s.indexPath(), append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("write the list of secrets: %w", err)
	}
	return nil
}

// current is the index as it is on disk: read when it changed, and not to be
// changed by the caller.
func (s *Store) current() (*index, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// Before it is read: what is written meanwhile is then seen the next time.
	stamp := s.Stamp()
	if s.index != nil && s.stamp == stamp {
		return s.index, nil
	}
	ix, err := s.readIndex()
	if err != nil {
		return nil, err
	}
	used := ix.refs()
	for r := range s.values {
		if !used[r] {
			delete(s.values, r)
		}
	}
	s.index, s.stamp = ix, stamp
	return ix, nil
}

// Stamp is a cheap fingerprint of the store: it changes when something was
// set, removed or refreshed. What it is made of means nothing.
func (s *Store) Stamp() string {
	info, err := os.Lstat(s.indexPath())
	if err != nil {
		return "-"
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return fmt.Sprintf("%d.%d.%d.%d.%d", st.Dev, st.Ino, st.Ctim.Sec, st.Ctim.Nsec, st.Size)
	}
	return fmt.Sprintf("%d.%d", info.ModTime().UnixNano(), info.Size())
}

func (s *Store) indexPath() string { return filepath.Join(s.dir, "index.json") }

package policyfile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/gofrs/flock"

	"berth.dev/internal/atomicfile"
	"berth.dev/internal/failpoint"
	"berth.dev/internal/policy"
	"berth.dev/internal/sandbox"
)

// lockSuffix names the lock of a file. The file itself cannot be it: it is
// replaced by every change.
const lockSuffix = ".lock"

// Locks are held for the moment of one change.
const (
	lockWait  = 10 * time.Second
	lockRetry = 2 * time.Millisecond
)

// emptyFile is what a file that Berth makes begins with.
const emptyFile = "# Network policy of Berth; see: berth policy --help\nversion = 1\n"

// Edit changes a file, which need not exist, by means of change. It holds the
// file's lock meanwhile, so that no change of another process is lost. The
// file is replaced whole, 0600, or, when change or anything else fails, not at
// all. Comments, order and spelling of what is not changed stay.
func Edit(path string, change func(*Draft) error) error {
	// Whoever keeps the file elsewhere and links to it keeps the link.
	target := path
	if real, err := filepath.EvalSymlinks(path); err == nil {
		target = real
	}
	unlock, err := lock(path + lockSuffix)
	if err != nil {
		return err
	}
	defer unlock()
	text, err := readFile(target)
	if errors.Is(err, fs.ErrNotExist) {
		text, err = []byte(emptyFile), nil
	}
	if err != nil {
		return err
	}
	d, err := NewDraft(path, text)
	if err != nil {
		return err
	}
	if err := change(d); err != nil {
		return err
	}
	if !d.Changed() {
		return nil
	}
	if err := failpoint.Hit("policyfile.write"); err != nil {
		return err
	}
	if err := atomicfile.Write(target, d.text, 0o600); err != nil {
		return fmt.Errorf("write policy: %w", err)
	}
	return nil
}

func lock(path string) (unlock func(), err error) {
	ctx, cancel := context.WithTimeout(context.Background(), lockWait)
	defer cancel()
	fl := flock.New(path, flock.SetPermissions(0o600))
	if _, err := fl.TryLockContext(ctx, lockRetry); err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			return nil, sandbox.Errorf(sandbox.ErrUnavailable, "%s has been locked for %s", path, lockWait).
				WithHint("another berth process hangs; end it and try again")
		}
		return nil, fmt.Errorf("lock policy: %w", err)
	}
	return func() { _ = fl.Close() }, nil
}

// Draft is the text of a file while it is changed. Each change either holds
// what was asked for or leaves the text as it was.
type Draft struct {
	path   string
	before []byte
	text   []byte
	file   File
}

// NewDraft starts from the text of a file. It must make sense.
func NewDraft(path string, text []byte) (*Draft, error) {
	f, err := Parse(path, text, policy.ScopeUser)
	if err != nil {
		return nil, err
	}
	return &Draft{path: path, before: text, text: text, file: f}, nil
}

// Rules are the draft's, in the order of the file.
func (d *Draft) Rules() []policy.Rule { return slices.Clone(d.file.Rules) }

// Preset is the draft's, "" for none.
func (d *Draft) Preset() string { return d.file.Preset }

// Text is what the file will hold.
func (d *Draft) Text() []byte { return slices.Clone(d.text) }

// Changed reports whether anything was changed.
func (d *Draft) Changed() bool { return !bytes.Equal(d.before, d.text) }

// Add adds a rule at the end; added is false when the file has it already.
func (d *Draft) Add(r policy.Rule) (added bool, err error) {
	if r, err = r.Clean(); err != nil {
		return false, sandbox.Errorf(sandbox.ErrInvalid, "%w", err)
	}
	if slices.ContainsFunc(d.file.Rules, r.Same) {
		return false, nil
	}
	if strings.ContainsFunc(r.Note, unicode.IsControl) || !utf8.ValidString(r.Note) {
		return false, sandbox.Errorf(sandbox.ErrInvalid, "a note is one line of text")
	}
	text := slices.Clone(d.text)
	if n := len(text); n > 0 {
		if text[n-1] != '\n' {
			text = append(text, '\n')
		}
		text = append(text, '\n')
	}
	return true, d.set(append(text, block(r)...), append(d.Rules(), r), d.file.Preset)
}

// Remove removes the rule of that index in Rules. Comments that stand outside
// of it stay.
func (d *Draft) Remove(i int) error {
	if i < 0 || i >= len(d.file.Rules) {
		return sandbox.Errorf(sandbox.ErrNotFound, "there is no rule %d", i+1)
	}
	lay, err := layoutOf(d.text)
	if err != nil {
		return invalid(d.path, err)
	}
	t := lay.tables[i]
	end := nextLine(d.text, t.last)
	// Of the blank lines around it, those before it stay.
	for end < len(d.text) {
		next := nextLine(d.text, end)
		if len(bytes.TrimSpace(d.text[end:next])) > 0 {
			break
		}
		end = next
	}
	text := slices.Concat(d.text[:t.start], d.text[end:])
	if end == len(d.text) {
		text = append(bytes.TrimRight(text, " \t\r\n"), '\n')
	}
	return d.set(text, slices.Delete(d.Rules(), i, i+1), d.file.Preset)
}

// SetPreset chooses the preset.
func (d *Draft) SetPreset(name string) error {
	if _, err := policy.Preset(name); err != nil {
		return sandbox.Errorf(sandbox.ErrInvalid, "%w", err)
	}
	if name == d.file.Preset {
		return nil
	}
	lay, err := layoutOf(d.text)
	if err != nil {
		return invalid(d.path, err)
	}
	at, with := lay.preset, quote(name)
	if !at.set() {
		with = "preset = " + with + "\n"
		line := 0 // after the version, else in front of everything
		if lay.version.set() {
			if line = nextLine(d.text, lay.version.end); d.text[line-1] != '\n' {
				with = "\n" + with
			}
		}
		at = span{line, line}
	}
	return d.set(slices.Concat(d.text[:at.start], []byte(with), d.text[at.end:]), d.Rules(), name)
}

// set takes a new text when it says exactly what it is meant to say.
func (d *Draft) set(text []byte, rules []policy.Rule, preset string) error {
	if len(text) > maxFile {
		return sandbox.Errorf(sandbox.ErrInvalid, "policy %s would be longer than %d bytes", d.path, maxFile)
	}
	f, err := Parse(d.path, text, policy.ScopeUser)
	if err == nil && (f.Preset != preset || !slices.EqualFunc(f.Rules, rules, policy.Rule.Same)) {
		err = errors.New("it would say something else")
	}
	if err != nil {
		return sandbox.Errorf(sandbox.ErrPrecondition, "%s cannot be changed without harm to what is written there: %w", d.path, err).
			WithHint("change it in an editor")
	}
	d.text, d.file = text, f
	return nil
}

// nextLine is the offset behind the line that offset is in.
func nextLine(text []byte, offset int) int {
	if i := bytes.IndexByte(text[offset:], '\n'); i >= 0 {
		return offset + i + 1
	}
	return len(text)
}

// block is a rule as TOML.
func block(r policy.Rule) string {
	var b strings.Builder
	fmt.Fprintf(&b, "[[%s]]\nhost = %s\n", r.Verdict, quote(r.Place()))
	list := func(key string, items []string) {
		if len(items) > 0 {
			fmt.Fprintf(&b, "%s = [%s]\n", key, strings.Join(items, ", "))
		}
	}
	var ports []string
	for _, p := range r.Ports {
		s := p.String()
		if p.First != p.Last {
			s = quote(s)
		}
		ports = append(ports, s)
	}
	list("ports", ports)
	list("methods", quoteAll(r.Methods))
	list("paths", quoteAll(r.Paths))
	if r.Inspect {
		b.WriteString("inspect = true\n")
	}
	if r.Note != "" {
		fmt.Fprintf(&b, "note = %s\n", quote(r.Note))
	}
	return b.String()
}

func quoteAll(items []string) []string {
	out := make([]string, len(items))
	for i, s := range items {
		out[i] = quote(s)
	}
	return out
}

// quote is a TOML basic string.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < ' ' || r == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

package policyfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"berth.dev/internal/policy"
	"berth.dev/internal/sandbox"
)

// File is what one file says.
type File struct {
	Preset string // "" when it chooses none
	Rules  []policy.Rule
}

// document is the file as TOML has it.
type document struct {
	Version *int64 `toml:"version"`
	Preset  string `toml:"preset"`
	Allow   []rule `toml:"allow"`
	Deny    []rule `toml:"deny"`
}

type rule struct {
	Host    string   `toml:"host"`
	Ports   []any    `toml:"ports"` // numbers and strings
	Methods []string `toml:"methods"`
	Paths   []string `toml:"paths"`
	Inspect bool     `toml:"inspect"`
	Note    string   `toml:"note"`
}

// Read reads a file. The error is fs.ErrNotExist when there is none, and
// sandbox.ErrInvalid, naming file and line, when it makes no sense.
func Read(path string, scope policy.Scope) (File, error) {
	data, err := readFile(path)
	if err != nil {
		return File{}, err
	}
	return Parse(path, data, scope)
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		return nil, sandbox.Errorf(sandbox.ErrInvalid, "read policy: %w", err)
	}
	defer f.Close()
	data, err := readBounded(f, maxFile)
	if err != nil {
		return nil, sandbox.Errorf(sandbox.ErrInvalid, "read policy %s: %w", path, err)
	}
	return data, nil
}

// readBounded reads a regular file that is no longer than limit.
func readBounded(f *os.File, limit int64) ([]byte, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("it is no regular file")
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("it is longer than %d bytes", limit)
	}
	return data, err
}

// Parse reads the content of a file; path is its name, for errors and for
// Rule.File.
func Parse(path string, data []byte, scope policy.Scope) (File, error) {
	doc, lay, err := decode(data)
	if err != nil {
		return File{}, invalid(path, err)
	}
	f := File{Preset: doc.Preset}
	next := map[string][]rule{"allow": doc.Allow, "deny": doc.Deny}
	for _, t := range lay.tables {
		in := next[t.verdict][0]
		next[t.verdict] = next[t.verdict][1:]
		r, err := in.read(t.verdict == "allow")
		if err != nil {
			return File{}, invalid(path, &lineError{lineOf(data, t.start), err})
		}
		r.Scope, r.File = scope, path
		f.Rules = append(f.Rules, r)
	}
	return f, nil
}

// lineError is a mistake in some line, the first being 1.
type lineError struct {
	line int
	err  error
}

func (e *lineError) Error() string { return fmt.Sprintf("line %d: %v", e.line, e.err) }
func (e *lineError) Unwrap() error { return e.err }

func invalid(path string, err error) error {
	return sandbox.Errorf(sandbox.ErrInvalid, "policy %s: %w", path, err).WithHint("mend the file; `berth policy --help` shows what it may hold")
}

func lineOf(data []byte, offset int) int { return 1 + bytes.Count(data[:offset], []byte("\n")) }

// decode checks the shape of a file: which keys there are, of which types.
func decode(data []byte) (document, layout, error) {
	var doc document
	if i := invalidUTF8(data); i >= 0 {
		return doc, layout{}, &lineError{lineOf(data, i), errors.New("it is not UTF-8")}
	}
	lay, err := layoutOf(data)
	if err != nil {
		return doc, layout{}, err
	}
	if err := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields().Decode(&doc); err != nil {
		return doc, layout{}, explain(err)
	}
	if doc.Version != nil && *doc.Version != Version {
		if *doc.Version > Version {
			return doc, layout{}, fmt.Errorf("it is of version %d, and this Berth knows %d: use a newer one", *doc.Version, Version)
		}
		return doc, layout{}, fmt.Errorf("there is no version %d: write version = %d", *doc.Version, Version)
	}
	if doc.Preset != "" || lay.preset.set() {
		if _, err := policy.Preset(doc.Preset); err != nil {
			return doc, layout{}, &lineError{lineOf(data, lay.preset.start), err}
		}
	}
	if len(doc.Allow)+len(doc.Deny) != len(lay.tables) {
		return doc, layout{}, errors.New("its rules cannot be told apart") // no TOML is known that comes here
	}
	return doc, lay, nil
}

// invalidUTF8 is the offset of the first byte that is none, or -1.
func invalidUTF8(data []byte) int {
	for i := 0; i < len(data); {
		r, n := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return -1
}

// explain puts the library's errors into the words of this file.
func explain(err error) error {
	var strict *toml.StrictMissingError
	if errors.As(err, &strict) && len(strict.Errors) > 0 {
		d := strict.Errors[0]
		line, _ := d.Position()
		return &lineError{line, fmt.Errorf("there is no key %q", strings.Join(d.Key(), "."))}
	}
	var d *toml.DecodeError
	if errors.As(err, &d) {
		line, _ := d.Position()
		text := strings.TrimPrefix(d.Error(), "toml: ")
		if key := strings.Join(d.Key(), "."); key != "" {
			text = key + ": " + text
		}
		return &lineError{line, errors.New(text)}
	}
	return err
}

func (in rule) read(allow bool) (policy.Rule, error) {
	if in.Host == "" {
		return policy.Rule{}, errors.New("the rule has no host")
	}
	v := policy.Deny
	if allow {
		v = policy.Allow
	}
	target := in.Host
	if len(in.Ports) > 0 {
		if strings.ContainsAny(in.Host, "[]") {
			return policy.Rule{}, errors.New("host: write the address without brackets")
		}
		ports, err := portsText(in.Ports)
		if err != nil {
			return policy.Rule{}, err
		}
		if strings.Contains(target, ":") {
			target = "[" + target + "]"
		}
		target += ":" + ports
	} else if n := strings.Count(in.Host, ":"); n == 1 || strings.HasPrefix(in.Host, "[") {
		return policy.Rule{}, errors.New("host: ports stand apart, as in ports = [443]")
	}
	r, err := policy.ParseRule(v, target)
	if err != nil {
		return policy.Rule{}, err
	}
	r.Methods, r.Paths, r.Inspect, r.Note = in.Methods, in.Paths, in.Inspect, in.Note
	if len(in.Note) > maxNote {
		return policy.Rule{}, fmt.Errorf("note: it is longer than %d bytes", maxNote)
	}
	return r.Clean()
}

func portsText(ports []any) (string, error) {
	var parts []string
	for _, p := range ports {
		switch p := p.(type) {
		case int64:
			parts = append(parts, fmt.Sprint(p))
		case string:
			if strings.Contains(p, ",") {
				return "", fmt.Errorf("ports: %q: write several as [443, \"8000-8100\"]", p)
			}
			parts = append(parts, p)
		default:
			return "", errors.New("ports: write numbers, and ranges as strings: [443, \"8000-8100\"]")
		}
	}
	return strings.Join(parts, ","), nil
}

// layout is where the parts of a file stand, for edits that leave the rest as
// it is. Offsets are bytes from the beginning.
type layout struct {
	tables  []table
	version span
	preset  span // of its value
	// header is where the first table begins, or the end.
	header int
}

// span is a part of the text; the zero span is none.
type span struct{ start, end int }

func (s span) set() bool { return s.end > 0 }

// table is one rule.
type table struct {
	verdict string // "allow" or "deny"
	start   int    // of the line of its header
	last    int    // after its last key and value, or its header
}

// layoutOf finds the parts, and refuses TOML that says the same in another way
// than this file does, such as allow = [{...}].
func layoutOf(data []byte) (layout, error) {
	lay := layout{header: len(data)}
	var p unstable.Parser
	p.Reset(data)
	for p.NextExpression() {
		e := p.Expression()
		key, at := keyOf(e)
		switch e.Kind {
		case unstable.ArrayTable:
			if key != "allow" && key != "deny" {
				return lay, &lineError{lineOf(data, at), fmt.Errorf("there is no table %q: write [[allow]] or [[deny]]", key)}
			}
			t := table{verdict: key, start: 1 + bytes.LastIndexByte(data[:at], '\n'), last: at}
			if len(lay.tables) == 0 {
				lay.header = t.start
			}
			lay.tables = append(lay.tables, t)
		case unstable.Table:
			return lay, &lineError{lineOf(data, at), fmt.Errorf("there is no table [%s]: write [[allow]] or [[deny]]", key)}
		case unstable.KeyValue:
			whole := span{int(e.Raw.Offset), int(e.Raw.Offset + e.Raw.Length)}
			known := rootKeys
			if n := len(lay.tables); n > 0 {
				lay.tables[n-1].last = whole.end
				known = ruleKeys
			}
			// The decoder alone would take "Ports" for ports.
			if !slices.Contains(known, key) && key != "allow" && key != "deny" {
				return lay, &lineError{lineOf(data, at), fmt.Errorf("there is no key %q: the keys are %s", key, strings.Join(known, ", "))}
			}
			switch key {
			case "version":
				lay.version = whole
			case "preset":
				value := e.Value()
				if value.Kind == unstable.String {
					raw := value.Raw
					lay.preset = span{int(raw.Offset), int(raw.Offset + raw.Length)}
				}
			case "allow", "deny":
				return lay, &lineError{lineOf(data, at), fmt.Errorf("write each rule as a table of its own, headed [[%s]]", key)}
			}
		}
	}
	if err := p.Error(); err != nil {
		var perr *unstable.ParserError
		if errors.As(err, &perr) && len(perr.Highlight) > 0 {
			return lay, &lineError{lineOf(data, int(p.Range(perr.Highlight).Offset)), errors.New(perr.Message)}
		}
		return lay, err
	}
	return lay, nil
}

var (
	rootKeys = []string{"version", "preset"}
	ruleKeys = []string{"host", "ports", "methods", "paths", "inspect", "note"}
)

// keyOf is the name of an expression, dots between its parts, and where it
// stands.
func keyOf(e *unstable.Node) (string, int) {
	var parts []string
	at := -1
	for it := e.Key(); it.Next(); {
		n := it.Node()
		if at < 0 {
			at = int(n.Raw.Offset)
		}
		parts = append(parts, string(n.Data))
	}
	return strings.Join(parts, "."), max(at, 0)
}

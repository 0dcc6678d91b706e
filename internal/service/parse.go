package service

import (
	"bytes"
	"errors"
	"fmt"
	"net/textproto"

	"github.com/pelletier/go-toml/v2"

	"berth.dev/internal/sandbox"
)

// document is a definition as TOML has it.
type document struct {
	Name        string       `toml:"name"`
	Title       string       `toml:"title,omitempty"`
	Hosts       []string     `toml:"hosts"`
	Vars        []string     `toml:"vars,omitempty"`
	BaseVar     string       `toml:"base_var,omitempty"`
	Auto        bool         `toml:"auto,omitempty"`
	Quotes      bool         `toml:"quotes,omitempty"`
	Schemes     []schemeText `toml:"scheme"`
	Env         []varText    `toml:"env,omitempty"`
	Files       []fileText   `toml:"file,omitempty"`
	Placeholder *shapeText   `toml:"placeholder,omitempty"`
}

type schemeText struct {
	Kind   string `toml:"kind"`
	Name   string `toml:"name,omitempty"`
	Format string `toml:"format,omitempty"`
}

type varText struct {
	Name  string `toml:"name"`
	Value string `toml:"value,omitempty"`
}

type fileText struct {
	Path    string `toml:"path"`
	Content string `toml:"content"`
}

type shapeText struct {
	Prefix   string `toml:"prefix,omitempty"`
	Suffix   string `toml:"suffix,omitempty"`
	Length   int    `toml:"length,omitempty"`
	Alphabet string `toml:"alphabet,omitempty"`
}

// Parse reads one definition, of at most 256 KiB:
//
//	name = "tracker"
//	hosts = ["tracker.example.com", "*.tracker.example.com:8443"]
//	vars = ["TRACKER_TOKEN"]          # of the host; the guest sees the same
//
//	[[scheme]]
//	kind = "header"                   # or bearer, basic, query, sigv4
//	name = "X-Key"
//	format = "{}"
//
// and, where they are needed, [[env]] with name and value, [[file]] with path
// and content, and [placeholder] with prefix, suffix, length and alphabet. What
// it does not know is an error: a slip of the pen must not leave a secret bound
// to less, or to more, than was meant. Errors are sandbox.ErrInvalid.
func Parse(data []byte) (Definition, error) {
	var doc document
	if err := decode(data, &doc); err != nil {
		return Definition{}, invalid(err)
	}
	d, err := doc.definition()
	if err != nil {
		return Definition{}, invalid(err)
	}
	return d, nil
}

// ParseAll reads a file of the user's with any number of tables [[service]], of
// the form that Parse has. Two of one name are an error.
func ParseAll(data []byte) ([]Definition, error) {
	var doc struct {
		Services []document `toml:"service"`
	}
	if err := decode(data, &doc); err != nil {
		return nil, invalid(err)
	}
	var list []Definition
	seen := map[string]bool{}
	for _, one := range doc.Services {
		d, err := one.definition()
		if err == nil && seen[d.Name] {
			err = fmt.Errorf("service %s is there twice", d.Name)
		}
		if err != nil {
			return nil, invalid(err)
		}
		seen[d.Name] = true
		list = append(list, d)
	}
	return list, nil
}

func invalid(err error) error {
	return sandbox.Errorf(sandbox.ErrInvalid, "the definition of a service: %w", err)
}

func decode(data []byte, doc any) error {
	if len(data) > maxSize {
		return fmt.Errorf("more than %d bytes", maxSize)
	}
	err := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields().Decode(doc)
	var strict *toml.StrictMissingError
	if errors.As(err, &strict) && len(strict.Errors) > 0 {
		row, _ := strict.Errors[0].Position()
		return fmt.Errorf("line %d: %v is no setting of a service", row, strict.Errors[0].Key())
	}
	var de *toml.DecodeError
	if errors.As(err, &de) {
		row, _ := de.Position()
		return fmt.Errorf("line %d: %w", row, err)
	}
	return err
}

func (doc document) definition() (Definition, error) {
	d := Definition{Name: doc.Name, Title: doc.Title, Vars: doc.Vars, BaseVar: doc.BaseVar, Auto: doc.Auto, Quotes: doc.Quotes}
	for _, text := range doc.Hosts {
		p, err := ParsePlace(text)
		if err != nil {
			return Definition{}, fmt.Errorf("service %s: %w", quote(doc.Name), err)
		}
		d.Hosts = append(d.Hosts, p)
	}
	for _, s := range doc.Schemes {
		sc := Scheme{Kind: Kind(s.Kind), Name: s.Name, Format: s.Format}
		if sc.Kind == Header {
			sc.Name = textproto.CanonicalMIMEHeaderKey(sc.Name)
		}
		if sc.Kind == Basic && sc.Format == "" {
			sc.Format = "*:{}"
		}
		d.Schemes = append(d.Schemes, sc)
	}
	for _, v := range doc.Env {
		d.Env = append(d.Env, Var(v))
	}
	for _, f := range doc.Files {
		d.Files = append(d.Files, File(f))
	}
	if p := doc.Placeholder; p != nil {
		d.Shape = Shape{Prefix: p.Prefix, Suffix: p.Suffix, Length: p.Length, Alphabet: Alphabet(p.Alphabet)}
	}
	return d, d.Check()
}

// Format returns the text that Parse reads. A definition that Parse would refuse
// is sandbox.ErrInvalid.
func Format(d Definition) ([]byte, error) {
	if err := d.Check(); err != nil {
		return nil, invalid(err)
	}
	doc := document{Name: d.Name, Title: d.Title, Vars: d.Vars, BaseVar: d.BaseVar, Auto: d.Auto, Quotes: d.Quotes}
	for _, p := range d.Hosts {
		doc.Hosts = append(doc.Hosts, p.String())
	}
	for _, s := range d.Schemes {
		doc.Schemes = append(doc.Schemes, schemeText{string(s.Kind), s.Name, s.Format})
	}
	for _, v := range d.Env {
		doc.Env = append(doc.Env, varText(v))
	}
	for _, f := range d.Files {
		doc.Files = append(doc.Files, fileText(f))
	}
	if d.Shape != (Shape{}) {
		doc.Placeholder = &shapeText{d.Shape.Prefix, d.Shape.Suffix, d.Shape.Length, string(d.Shape.Alphabet)}
	}
	data, err := toml.Marshal(doc)
	if err != nil {
		return nil, fmt.Errorf("write the service %s: %w", d.Name, err)
	}
	return data, nil
}

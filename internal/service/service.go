// Package service is the table of services that take a credential: the hosts of
// each, the place in a request where it looks for the credential, the variables
// that a user keeps it in and the form that it has. It is data, the rules to
// read it, and the format of the user's own definitions; it holds no secret,
// opens nothing and keeps no state. Whatever deals with credentials may import
// it. All functions are safe for concurrent use.
//
// To add a service, add a row to the table in builtin.go. A host of it must be
// one whose owner alone sees what is sent there: a wildcard hands the secret to
// whoever can have a name below it.
package service

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/textproto"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
	"golang.org/x/net/publicsuffix"

	"berth.dev/internal/policy"
	"berth.dev/internal/sandbox"
)

// DefaultPort is the port of a Place that does not say one.
const DefaultPort = 443

// Bounds of a definition.
const (
	maxName    = 64        // bytes, of a name and a title
	maxHosts   = 512       // a service of a cloud has one for each region
	maxSchemes = 16        //
	maxVars    = 32        // also of Env and Files
	maxText    = 16 << 10  // bytes, of a template
	maxShape   = 1024      // characters of a placeholder
	maxPath    = 255       // bytes
	maxFormat  = 256       // bytes
	maxSize    = 256 << 10 // bytes of TOML
)

// Definition is one service. Its slices are shared by those who ask for it: read,
// do not change.
type Definition struct {
	// Name is unique among the built-in ones: lower-case letters, digits, "-".
	Name string
	// Title is its name for people; may be empty.
	Title string
	// Hosts are where the credential may go, and nowhere else.
	Hosts []Place
	// Schemes are the places in a request in which the service takes it. Each of
	// them is tried.
	Schemes []Scheme
	// Vars are the variables in which users keep the credential: the first that
	// is set has it. Of a service whose requests are signed (Signs) they are the
	// parts of one: the key's identifier, the key, and the session's token.
	Vars []string
	// Env are the variables that the guest sees; see Guest for none.
	Env []Var
	// Files are files that the guest sees.
	Files []File
	// Shape is the form of the placeholder.
	Shape Shape
	// BaseVar is a variable in which a user may name another address of the
	// service; "" when there is none. Where it is set, the credential is for that
	// address and not for Hosts: see At.
	BaseVar string
	// Auto: a credential of it that is in the user's shell is for the sandbox
	// without being asked for.
	Auto bool
	// Quotes: what a request says may quote anything that the guest has seen, as
	// the conversation with a language model does. A placeholder in the body of
	// one says nothing about an intent then.
	Quotes bool
}

// Joins reports whether a path is that of a file in which several services, and
// the guest's own programs, have their parts: an object of JSON, whose members are
// added to those that are there.
func Joins(path string) bool { return strings.HasSuffix(path, ".json") }

// DockerLogin is the file that has Docker signed in at registries, with the
// credential for a password. The user has nothing that JSON escapes.
func DockerLogin(user string, registries ...Place) File {
	type login struct {
		Auth string `json:"auth"`
	}
	auths := map[string]login{}
	for _, p := range registries {
		if p.Host.Exact() {
			auths[p.String()] = login{"{basic:" + user + "}"}
		}
	}
	content, _ := json.Marshal(map[string]any{"auths": auths}) // strings always can be
	return File{Path: ".docker/config.json", Content: string(content)}
}

// Place is a pattern of host names, and a port.
type Place struct {
	Host policy.Host
	Port uint16
}

// Var is a variable that the guest sees.
type Var struct {
	Name string
	// Value is a template as Expand takes it; "" stands for "{}".
	Value string
}

// File is a file that the guest sees. It takes the place of one that is there,
// but for those that Joins is true of.
type File struct {
	// Path is relative to the home of the guest's user. Folders in it are made
	// 0700, the file 0600.
	Path string
	// Content is a template as Expand takes it.
	Content string
}

// Kind says where in a request a credential is.
type Kind string

// The kinds of schemes.
const (
	Header Kind = "header" // the value of a field
	Bearer Kind = "bearer" // Authorization: Bearer
	Basic  Kind = "basic"  // Authorization: Basic (RFC 7617)
	Query  Kind = "query"  // the value of a parameter of the URL
	SigV4  Kind = "sigv4"  // a signature: AWS Signature Version 4
)

// Scheme is one place in a request.
type Scheme struct {
	Kind Kind
	// Name is the field of Header, in its canonical form, and the parameter of
	// Query; "" for the others.
	Name string
	// Format of Header is all of the field's value, with "{}" for the credential
	// or "{base64}" for its base64; a word before it is compared without case.
	// That of Basic is user and password, such as "*:{}" for any user name; "*"
	// stands for anything. "" for the other kinds.
	Format string
}

// field is the field that a scheme looks into and the format of its value; ok is
// false for schemes that do not look at one field alone.
func (s Scheme) field() (name, format string, ok bool) {
	switch s.Kind {
	case Header:
		return s.Name, s.Format, true
	case Bearer:
		return "Authorization", "Bearer {}", true
	}
	return "", "", false
}

// Field returns the field in which Header and Bearer look, in its canonical
// form, and the text around the credential there. encoded means that base64 of
// it is what is there. ok is false for other kinds.
func (s Scheme) Field() (name, before, after string, encoded, ok bool) {
	name, format, ok := s.field()
	if !ok {
		return "", "", "", false, false
	}
	if before, after, ok = strings.Cut(format, "{}"); ok {
		return name, before, after, false, true
	}
	before, after, _ = strings.Cut(format, "{base64}")
	return name, before, after, true, true
}

// String says it for people.
func (s Scheme) String() string {
	switch s.Kind {
	case Header, Bearer:
		name, format, _ := s.field()
		return "header " + name + ": " + format
	case Basic:
		return "basic " + s.Format
	case Query:
		return "query parameter " + s.Name
	case SigV4:
		return "AWS signature"
	}
	return string(s.Kind)
}

// ParsePlace reads a host pattern as package policy has it, with an optional
// port: "api.example.com", "*.example.com:8443". A wildcard stands in front of a
// domain of somebody's own, not of one like "com" or "github.io", below which
// anyone can have a name.
func ParsePlace(s string) (Place, error) {
	name, port := s, uint16(DefaultPort)
	if host, text, ok := strings.Cut(s, ":"); ok {
		n, err := strconv.ParseUint(text, 10, 16)
		if err != nil || n == 0 || text[0] == '0' || text[0] == '+' {
			return Place{}, fmt.Errorf("%s has no port from 1 to 65535 behind its colon", quote(s))
		}
		name, port = host, uint16(n)
	}
	h, err := policy.ParseHost(name)
	if err != nil {
		return Place{}, err
	}
	p := Place{h, port}
	if h.Exact() {
		return p, nil
	}
	domain := strings.TrimLeft(h.String(), "*.")
	if suffix, _ := publicsuffix.PublicSuffix(domain); domain == "" || suffix == domain {
		return Place{}, fmt.Errorf("%s takes in hosts of anyone: name the service's own", quote(s))
	}
	return p, nil
}

// String returns what ParsePlace reads.
func (p Place) String() string {
	if p.Port == DefaultPort {
		return p.Host.String()
	}
	return p.Host.String() + ":" + strconv.Itoa(int(p.Port))
}

// Match reports whether it takes in a normalised name and a port.
func (p Place) Match(name string, port uint16) bool { return p.Port == port && p.Host.Match(name) }

// Signs reports whether requests are signed with the credential rather than sent
// with it.
func (d Definition) Signs() bool {
	return slices.ContainsFunc(d.Schemes, func(s Scheme) bool { return s.Kind == SigV4 })
}

// Guest returns the variables that the guest sees when the secret of that name
// is bound to the service: Env; without one the variable that has the secret's
// name when that is one of Vars, else the first of those.
func (d Definition) Guest(secret string) []Var {
	switch {
	case len(d.Env) > 0:
		return d.Env
	case slices.Contains(d.Vars, secret):
		return []Var{{Name: secret}}
	case len(d.Vars) > 0:
		return []Var{{Name: d.Vars[0]}}
	}
	return nil
}

// At returns the same service at another address, as variables like
// OPENAI_BASE_URL name it. An address without TLS, or that is a number, is
// sandbox.ErrInvalid: no credential goes there.
func (d Definition) At(base string) (Definition, error) {
	bad := func(why string) (Definition, error) {
		return Definition{}, sandbox.Errorf(sandbox.ErrInvalid, "%s is no address for a credential: %s", quote(base), why)
	}
	rest, ok := strings.CutPrefix(base, "https://")
	if !ok {
		return bad("it does not start with https://")
	}
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		rest = rest[:i]
	}
	if strings.ContainsAny(rest, "@*") {
		return bad("it is more than a host and a port")
	}
	p, err := ParsePlace(rest)
	if err != nil {
		return bad(err.Error())
	}
	d.Hosts = []Place{p}
	return d, nil
}

// Expand fills a template: "{}" is the placeholder, "{base64}" its base64,
// "{basic:USER}" the base64 of USER, a colon and the placeholder, as files of
// container tools have it, and "{id}" the identifier of a key whose requests are
// signed. Other braces stay.
func Expand(template, placeholder, id string) string {
	if template == "" {
		return placeholder
	}
	return fields.ReplaceAllStringFunc(template, func(m string) string {
		switch {
		case m == "{}":
			return placeholder
		case m == "{id}":
			return id
		case m == "{base64}":
			return encode(placeholder)
		}
		return encode(m[len("{basic:"):len(m)-1] + ":" + placeholder)
	})
}

var fields = regexp.MustCompile(`\{(|id|base64|basic:[^{}:]*)\}`)

// ParseHeader reads a field with its format, "X-Key: {}", as a scheme.
func ParseHeader(s string) (Scheme, error) {
	name, format, ok := strings.Cut(s, ":")
	if !ok {
		return Scheme{}, errors.New("write a header as NAME: FORMAT, with {} where the secret goes")
	}
	sc := Scheme{Kind: Header, Name: textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(name)), Format: strings.TrimSpace(format)}
	return sc, sc.check()
}

// Check holds a definition against the rules that Parse has.
func (d Definition) Check() error {
	switch {
	case !nameForm.MatchString(d.Name) || len(d.Name) > maxName:
		return errors.New("a service needs a name of lower-case letters, digits and \"-\"")
	case len(d.Title) > maxName || !printable(d.Title):
		return fmt.Errorf("service %s: a title of more than %d bytes, or not one line", d.Name, maxName)
	case len(d.Hosts) == 0:
		return fmt.Errorf("service %s: a service needs a host", d.Name)
	case len(d.Schemes) == 0:
		return fmt.Errorf("service %s: a service needs a scheme", d.Name)
	case len(d.Hosts) > maxHosts || len(d.Schemes) > maxSchemes || len(d.Vars) > maxVars || len(d.Env) > maxVars || len(d.Files) > maxVars:
		return fmt.Errorf("service %s: too many hosts, schemes, variables or files", d.Name)
	}
	if err := d.check(); err != nil {
		return fmt.Errorf("service %s: %w", d.Name, err)
	}
	return nil
}

var (
	nameForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)
	varForm  = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,127}$`)
)

func (d Definition) check() error {
	for _, p := range d.Hosts {
		if again, err := ParsePlace(p.String()); err != nil || again != p {
			return fmt.Errorf("%s is no host for a credential", quote(p.String()))
		}
	}
	for _, s := range d.Schemes {
		if err := s.check(); err != nil {
			return err
		}
	}
	if d.Signs() && len(d.Schemes) > 1 {
		return errors.New("a service whose requests are signed has no other scheme") // the secret is of another kind
	}
	names := slices.Clone(d.Vars)
	for _, v := range d.Env {
		names = append(names, v.Name)
	}
	if d.BaseVar != "" {
		names = append(names, d.BaseVar)
	}
	for _, n := range names {
		if !varForm.MatchString(n) {
			return fmt.Errorf("%s is no name of a variable", quote(n))
		}
	}
	if err := d.checkGuest(); err != nil {
		return err
	}
	return d.Shape.check()
}

func (d Definition) checkGuest() error {
	for i, v := range d.Env {
		if len(v.Value) > maxText || !printable(v.Value) {
			return fmt.Errorf("the value of %s is not one line of at most %d bytes", v.Name, maxText)
		}
		if slices.ContainsFunc(d.Env[:i], func(w Var) bool { return w.Name == v.Name }) {
			return fmt.Errorf("the variable %s is there twice", v.Name)
		}
	}
	for i, f := range d.Files {
		if !relative(f.Path) {
			return fmt.Errorf("%s is no path of a file below the home", quote(f.Path))
		}
		if len(f.Content) > maxText || strings.ContainsRune(f.Content, 0) {
			return fmt.Errorf("the content of %s has more than %d bytes, or a zero byte", quote(f.Path), maxText)
		}
		if slices.ContainsFunc(d.Files[:i], func(g File) bool { return g.Path == f.Path }) {
			return fmt.Errorf("the file %s is there twice", quote(f.Path))
		}
	}
	return nil
}

// relative reports whether a path is one below a folder, in its shortest form.
func relative(p string) bool {
	if p == "" || len(p) > maxPath || !printable(p) || strings.Contains(p, `\`) {
		return false
	}
	for part := range strings.SplitSeq(p, "/") {
		if part == "" || part == "." || part == ".." {
			return false
		}
	}
	return true
}

// framing are fields that say how a request is read, or where it goes: no
// service has a credential there.
var framing = []string{"Host", "Content-Length", "Content-Encoding", "Content-Type", "Transfer-Encoding", "Connection", "Keep-Alive",
	"Proxy-Connection", "Proxy-Authorization", "Upgrade", "Te", "Trailer", "Expect", "Accept-Encoding", "Range"}

func (s Scheme) check() error {
	if len(s.Format) > maxFormat || !printable(s.Format) || len(s.Name) > maxPath {
		return errors.New("a name or format of a scheme is too long, or not one line")
	}
	switch s.Kind {
	case Header:
		return s.checkHeader()
	case Bearer, SigV4:
		if s.Name != "" || s.Format != "" {
			return fmt.Errorf("the scheme %s takes neither a name nor a format", s.Kind)
		}
		return nil
	case Basic:
		user, password, ok := strings.Cut(s.Format, ":")
		if s.Name != "" || !ok || strings.Contains(user+password, "{base64}") ||
			(user == "{}") == (password == "{}") || strings.Count(s.Format, "{}") != 1 {
			return errors.New("the format of basic is USER:{} or {}:PASSWORD, with * for anything")
		}
		return nil
	case Query:
		if s.Name == "" || s.Format != "" || !printable(s.Name) {
			return errors.New("a scheme of a query has the name of a parameter, and no format")
		}
		return nil
	}
	return fmt.Errorf("%s is no kind of scheme: they are header, bearer, basic, query, sigv4", quote(string(s.Kind)))
}

func (s Scheme) checkHeader() error {
	switch {
	case !httpguts.ValidHeaderFieldName(s.Name) || textproto.CanonicalMIMEHeaderKey(s.Name) != s.Name:
		return fmt.Errorf("%s is no name of a header", quote(s.Name))
	case slices.Contains(framing, s.Name) || strings.HasPrefix(s.Name, "Sec-"):
		return fmt.Errorf("the header %s cannot hold a credential", s.Name)
	case strings.Count(s.Format, "{}")+strings.Count(s.Format, "{base64}") != 1:
		return errors.New("the format of a header has {} exactly once, where the credential goes")
	case strings.TrimSpace(s.Format) != s.Format:
		return errors.New("the format of a header starts and ends without a space")
	}
	return nil
}

// printable reports whether s is one line of printable ASCII.
func printable(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// quote shows text of the user's in an error, bounded.
func quote(s string) string {
	const limit = 80
	if len(s) > limit {
		s = s[:limit] + "..."
	}
	return strconv.QuoteToASCII(s)
}

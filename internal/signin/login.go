package signin

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"mime"
	"net/url"
	"slices"
	"strings"
	"time"

	"berth.dev/internal/secret"
)

// Bounds of what is read of a token's answer.
const (
	maxAnswer = 256 << 10 // bytes
	maxToken  = 16 << 10  // bytes, of one token
	maxFields = 64
)

// Login is what a sign-in left. Its tokens are secret.Values.
type Login struct {
	Access  secret.Value
	Refresh secret.Value // zero: it cannot be renewed
	ID      secret.Value // an id_token (OpenID Connect Core §2), zero for none
	Expires time.Time    // of Access; zero: not known
	// Client and ClientSecret are what the application said of itself, and
	// Endpoint is where: a refresh says the same there.
	Client       string
	ClientSecret secret.Value
	Endpoint     string // without its scheme
	// Answer has the members of the answer that are no tokens and that the guest
	// sees.
	Answer map[string]json.RawMessage
	// Account names whom it is for, by the provider's own word; "" when that is
	// not known. Person is the same for people.
	Account, Person string
	By              string // the sandbox that signed in, "" for none
	// Ended is why it cannot be renewed any more.
	Ended string
}

// stored is a Login as the store keeps it.
type stored struct {
	Access       string                     `json:"access"`
	Refresh      string                     `json:"refresh,omitempty"`
	ID           string                     `json:"id,omitempty"`
	Expires      time.Time                  `json:"expires,omitzero"`
	Client       string                     `json:"client,omitempty"`
	ClientSecret string                     `json:"client_secret,omitempty"`
	Endpoint     string                     `json:"endpoint,omitempty"`
	Answer       map[string]json.RawMessage `json:"answer,omitempty"`
	Account      string                     `json:"account,omitempty"`
	Person       string                     `json:"person,omitempty"`
	By           string                     `json:"by,omitempty"`
	Ended        string                     `json:"ended,omitempty"`
}

// value is a login as one secret.
func (l *Login) value() (secret.Value, error) {
	b, err := json.Marshal(stored{
		l.Access.Reveal(), l.Refresh.Reveal(), l.ID.Reveal(), l.Expires, l.Client, l.ClientSecret.Reveal(), l.Endpoint, l.Answer, l.Account, l.Person,
		l.By, l.Ended,
	})
	if err != nil {
		return secret.Value{}, fmt.Errorf("encode a login: %w", err)
	}
	return secret.NewValue(string(b)), nil
}

// parseLogin reads what value made.
func parseLogin(v secret.Value) (*Login, error) {
	var s stored
	if err := json.Unmarshal([]byte(v.Reveal()), &s); err != nil || s.Access == "" {
		return nil, errors.New("what is kept of the login is damaged") // err would quote it
	}
	return &Login{
		secret.NewValue(s.Access), secret.NewValue(s.Refresh), secret.NewValue(s.ID), s.Expires, s.Client, secret.NewValue(s.ClientSecret), s.Endpoint,
		s.Answer, s.Account, s.Person, s.By, s.Ended,
	}, nil
}

// fields are the members of an answer, or of a request.
type fields map[string]json.RawMessage

// text is a member that is a string, "" for any other.
func (f fields) text(name string) string {
	var s string
	_ = json.Unmarshal(f[name], &s)
	return s
}

// seconds is a member that is a number of seconds, 0 for any other and for what
// is no time that somebody would mean.
func (f fields) seconds(name string) time.Duration {
	var n float64
	if json.Unmarshal(f[name], &n) != nil || n <= 0 || n >= 1e9 {
		return 0
	}
	return time.Duration(n) * time.Second
}

// Media types of what is asked and answered.
const (
	formType = "application/x-www-form-urlencoded"
	jsonType = "application/json"
)

// typeOf is the media type that a Content-Type says, without its parameters.
func typeOf(kind string) string {
	media, _, err := mime.ParseMediaType(kind)
	if err != nil {
		return ""
	}
	return media
}

var errTwice = errors.New("it says something twice")

// parseFields reads a form, when it is said to be one, or a JSON object. What is
// there twice is neither: who reads it next may take the other.
func parseFields(kind string, body []byte) (fields, error) {
	f, err := fields{}, error(nil)
	if typeOf(kind) == formType {
		err = f.form(string(body))
	} else {
		err = f.object(body)
	}
	switch {
	case err != nil:
		return nil, err
	case len(f) > maxFields:
		return nil, errors.New("it says too much")
	}
	return f, nil
}

func (f fields) form(body string) error {
	values, err := url.ParseQuery(body)
	if err != nil {
		return errors.New("it is no form")
	}
	for name, v := range values {
		if len(v) != 1 {
			return errTwice
		}
		f[name], _ = json.Marshal(v[0])
	}
	return nil
}

func (f fields) object(body []byte) error {
	errNone := errors.New("it is no JSON object") // that of the decoder would quote it
	if !json.Valid(body) {
		return errNone
	}
	d := json.NewDecoder(bytes.NewReader(body))
	if open, err := d.Token(); err != nil || open != json.Delim('{') {
		return errNone
	}
	for d.More() {
		name, err := d.Token()
		var v json.RawMessage
		if err != nil || d.Decode(&v) != nil {
			return errNone
		}
		if _, twice := f[name.(string)]; twice {
			return errTwice
		}
		f[name.(string)] = v
	}
	return nil
}

// member is the name that a member of a token's answer has with the provider.
func (p *Provider) member(name string) string {
	if name == accessToken && p.access != "" {
		return p.access
	}
	return name
}

const accessToken = "access_token"

// tokenNames are the members that have one, in the order of a Login's fields.
var tokenNames = []string{accessToken, "refresh_token", "id_token"}

// standard are the members of RFC 6749 §5.1 that the guest gets as they are.
var standard = []string{"token_type", "scope"}

// tokensIn takes the tokens out of what a token endpoint answered, whatever they
// are.
func (p *Provider) tokensIn(f fields) *Login {
	l := &Login{Answer: map[string]json.RawMessage{}}
	for i, v := range []*secret.Value{&l.Access, &l.Refresh, &l.ID} {
		*v = secret.NewValue(f.text(p.member(tokenNames[i])))
	}
	return l
}

// newLogin makes a login of what a token endpoint answered.
func (p *Provider) newLogin(f fields, now time.Time) (*Login, error) {
	l := p.tokensIn(f)
	for i, v := range []secret.Value{l.Access, l.Refresh, l.ID} {
		text := v.Reveal()
		if len(text) > maxToken || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return nil, fmt.Errorf("its %s is none", tokenNames[i])
		}
	}
	for _, name := range p.needs {
		if f.text(name) == "" {
			return nil, fmt.Errorf("it has no %s", name)
		}
	}
	if life := f.seconds(lifeName); life > 0 {
		l.Expires = now.Add(life)
	}
	for _, name := range slices.Concat(standard, p.keep, []string{lifeName}) {
		if v, ok := f[name]; ok && !l.says(v) {
			l.Answer[name] = v
		}
	}
	l.identify()
	return l, nil
}

// shows reports whether one of the tokens is in a text.
func (l *Login) shows(text []byte) bool {
	return slices.ContainsFunc([]secret.Value{l.Access, l.Refresh, l.ID}, func(v secret.Value) bool {
		return !v.IsZero() && strings.Contains(string(text), v.Reveal())
	})
}

// says is shows for a JSON value, where a token may be written with escapes, or
// be another one that is named so.
func (l *Login) says(v json.RawMessage) bool {
	var decoded any
	return l.shows(v) || json.Unmarshal(v, &decoded) != nil || l.within(decoded)
}

func (l *Login) within(v any) bool {
	switch v := v.(type) {
	case string:
		return l.shows([]byte(v))
	case []any:
		return slices.ContainsFunc(v, l.within)
	case map[string]any:
		for name, in := range v {
			if slices.Contains(tokenNames, strings.ToLower(name)) || l.shows([]byte(name)) || l.within(in) {
				return true
			}
		}
	}
	return false
}

// maxPerson bounds a name for people, in characters.
const maxPerson = 100

// identify says whose login it is, as far as the provider told.
func (l *Login) identify() {
	l.whose()
	// It is printed, and whoever has an account chose it.
	person := []rune(printable(l.Person))
	l.Person = string(person[:min(len(person), maxPerson)])
}

func (l *Login) whose() {
	var account struct {
		UUID  string `json:"uuid"`
		Email string `json:"email_address"`
	}
	if json.Unmarshal(l.Answer["account"], &account) == nil && account.UUID != "" {
		l.Account, l.Person = account.UUID, account.Email
	}
	var org struct {
		UUID string `json:"uuid"`
	}
	if json.Unmarshal(l.Answer["organization"], &org) == nil && org.UUID != "" && l.Account != "" { // of many people
		l.Account += " " + org.UUID
	}
	claims, ok := l.claims()
	if !ok || l.Account != "" {
		return
	}
	var auth struct {
		Account string `json:"chatgpt_account_id"`
	}
	_ = json.Unmarshal(claims["https://api.openai.com/auth"], &auth)
	l.Account, l.Person = strings.TrimSpace(claims.text("sub")+" "+auth.Account), claims.text("email")
}

// claims are those of the id_token. It came from the provider over TLS, so its
// signature is not looked at (OpenID Connect Core §3.1.3.7, item 6).
func (l *Login) claims() (fields, bool) {
	parts := strings.Split(l.ID.Reveal(), ".")
	if len(parts) != 3 {
		return nil, false
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	f := fields{}
	if err != nil || json.Unmarshal(b, &f) != nil {
		return nil, false
	}
	return f, true
}

// placeholders are what the guest gets in place of tokens.
type placeholders struct{ access, refresh, id string }

// idToken is an id_token with a placeholder for its signature: what the real one
// says, and worth nothing.
func (l *Login) idToken(placeholder string) string {
	head, rest, ok := strings.Cut(l.ID.Reveal(), ".")
	claims, _, ok2 := strings.Cut(rest, ".")
	if !ok || !ok2 {
		return placeholder
	}
	return head + "." + claims + "." + placeholder
}

// guestLife is how long the guest takes its tokens to be good, in seconds: they
// are renewed on the host. Clients that wait for the end with a timer count its
// milliseconds in 31 bits.
const guestLife = 14 * 24 * 3600

// answer is what a token endpoint says to the guest.
func (p *Provider) answer(l *Login, ph placeholders) ([]byte, error) {
	out := map[string]any{"token_type": "Bearer"}
	for name, v := range l.Answer {
		out[name] = v
	}
	out[p.member(accessToken)] = ph.access
	if !l.Refresh.IsZero() {
		out["refresh_token"] = ph.refresh
	}
	if !l.ID.IsZero() {
		out["id_token"] = l.idToken(ph.id)
	}
	if _, ok := out[lifeName]; ok || !l.Expires.IsZero() {
		out[lifeName] = guestLife
	}
	return json.Marshal(out)
}

// pending is an answer that is an error, though its status is none (RFC 8628
// §3.5): what errors say, and nothing else that may be in it.
func (f fields) pending() []byte {
	out := object{}
	for _, name := range []string{"error", "error_description", "error_uri"} {
		if text := f.text(name); text != "" {
			out[name] = text
		}
	}
	var interval float64
	if json.Unmarshal(f["interval"], &interval) == nil && interval > 0 {
		out["interval"] = interval
	}
	b, _ := json.Marshal(out) // of strings and a number
	return b
}

// form writes what answer made as a form, for clients that get one.
func form(answer []byte) []byte {
	f := fields{}
	_ = json.Unmarshal(answer, &f)
	values := url.Values{}
	for _, name := range slices.Sorted(maps.Keys(f)) {
		if text := f.text(name); text != "" {
			values.Set(name, text)
		} else {
			values.Set(name, strings.Trim(string(f[name]), `"`))
		}
	}
	return []byte(values.Encode())
}

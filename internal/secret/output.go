package secret

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math"
	"strconv"
	"strings"
	"time"
)

// output is what a command made.
type output struct {
	value   Value
	expires time.Time // always set
	stated  bool      // the output said so itself
}

func (o output) token() Token { return Token{Value: o.value, Expires: o.expires} }

// understand reads the standard output of a command. Its errors, those of the
// parsers within among them, never quote it.
//
// JSON of these shapes is understood; anything else is the secret itself,
// without the white space around it:
//
//   - AWS credential_process, kept whole, as AWSKeys reads it
//   - Kubernetes ExecCredential: its token
//   - an object with token, access_token, accessToken or id_token, beside or in
//     "credential", and with expires_in, expires_at, expires_on, expiry,
//     token_expiry, expiration or expiresOn for its end
//
// A JWT says itself when it expires.
func understand(stdout []byte, now time.Time, ttl time.Duration) (output, error) {
	text := string(bytes.TrimSpace(stdout))
	if text == "" {
		return output{}, errors.New("printed nothing")
	}
	if strings.ContainsRune(text, 0) {
		return output{}, errors.New("printed a zero byte")
	}
	var o output
	value, err := text, error(nil)
	if text[0] == '{' {
		value, o.expires, err = fromJSON([]byte(text), now)
	}
	if err != nil {
		return output{}, err
	}
	if exp, ok := jwtExpiry(value); ok && (o.expires.IsZero() || exp.Before(o.expires)) {
		o.expires = exp
	}
	o.value, o.stated = NewValue(value), !o.expires.IsZero()
	if !o.stated {
		if ttl == 0 {
			ttl = defaultTTL
		}
		o.expires = now.Add(ttl)
	}
	if !now.Before(o.expires) {
		return output{}, errors.New("printed a token that has expired")
	}
	return o, nil
}

// fromJSON takes the secret and its end out of an object; of one whose shape is
// not known it returns the text.
func fromJSON(text []byte, now time.Time) (string, time.Time, error) {
	var fields map[string]json.RawMessage
	if json.Unmarshal(text, &fields) != nil {
		return string(text), time.Time{}, nil
	}
	switch {
	case fields["AccessKeyId"] != nil:
		return awsKeys(fields, now)
	case str(fields["kind"]) == "ExecCredential":
		return execCredential(fields, now)
	}
	if inner := fields["credential"]; inner != nil && fields["token"] == nil && fields["access_token"] == nil {
		// gcloud config config-helper
		if json.Unmarshal(inner, &fields) != nil {
			return string(text), time.Time{}, nil
		}
	}
	for _, name := range []string{"token", "access_token", "accessToken", "id_token"} {
		if token := str(fields[name]); token != "" {
			exp, err := expiry(fields, now)
			return token, exp, err
		}
	}
	return string(text), time.Time{}, nil
}

// awsKeys is the output of a credential_process (AWS SDKs and Tools Reference
// Guide, "Process credential provider"), as one secret.
func awsKeys(fields map[string]json.RawMessage, now time.Time) (string, time.Time, error) {
	if v := fields["Version"]; v != nil && string(v) != "1" {
		return "", time.Time{}, errors.New("printed AWS keys of a version that is not known")
	}
	id, key, session := str(fields["AccessKeyId"]), str(fields["SecretAccessKey"]), str(fields["SessionToken"])
	if id == "" || key == "" {
		return "", time.Time{}, errors.New("printed AWS keys of which one is missing")
	}
	var exp time.Time
	if raw := fields["Expiration"]; raw != nil && string(raw) != "null" {
		var err error
		if exp, err = moment(raw, now); err != nil {
			return "", time.Time{}, err
		}
	}
	return NewAWSKeys(id, key, session).Reveal(), exp, nil
}

// execCredential is the output of a Kubernetes credential plugin
// (client.authentication.k8s.io).
func execCredential(fields map[string]json.RawMessage, now time.Time) (string, time.Time, error) {
	var status struct {
		Token               string          `json:"token"`
		ExpirationTimestamp json.RawMessage `json:"expirationTimestamp"`
	}
	if json.Unmarshal(fields["status"], &status) != nil || status.Token == "" {
		return "", time.Time{}, errors.New("printed an ExecCredential without a token")
	}
	if status.ExpirationTimestamp == nil || string(status.ExpirationTimestamp) == "null" {
		return status.Token, time.Time{}, nil
	}
	exp, err := moment(status.ExpirationTimestamp, now)
	return status.Token, exp, err
}

// expiry is the end that an object states; zero when it states none.
func expiry(fields map[string]json.RawMessage, now time.Time) (time.Time, error) {
	if raw := fields["expires_in"]; raw != nil && string(raw) != "null" {
		n, ok := number(raw)
		if !ok || n < 0 || n > maxTTL.Seconds() {
			return time.Time{}, errors.New("printed an expires_in that is no number of seconds")
		}
		return now.Add(time.Duration(n * float64(time.Second))), nil
	}
	// expiresOn is last: Azure's has no time zone, and expires_on is beside it.
	for _, name := range []string{"expires_at", "expires_on", "expiry", "token_expiry", "expiration", "expiresOn"} {
		if raw := fields[name]; raw != nil && string(raw) != "null" && string(raw) != `""` {
			return moment(raw, now)
		}
	}
	return time.Time{}, nil
}

// moment reads a time: RFC 3339, Azure's local time, or seconds or milliseconds
// since 1970, as a number or as text.
func moment(raw json.RawMessage, now time.Time) (time.Time, error) {
	if n, ok := number(raw); ok {
		if n > 1e11 { // the year 5138, so it was milliseconds
			n /= 1000
		}
		if n > 0 && n < 1e11 {
			return time.Unix(int64(n), 0), nil
		}
	}
	s := str(raw)
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02 15:04:05.999999Z07:00", "2006-01-02T15:04:05Z0700"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	if t, err := time.ParseInLocation("2006-01-02 15:04:05.999999", s, now.Location()); err == nil {
		return t, nil
	}
	return time.Time{}, errors.New("printed a time of expiry that is none")
}

func number(raw json.RawMessage) (float64, bool) {
	text := strings.Trim(string(raw), `"`)
	n, err := strconv.ParseFloat(text, 64)
	return n, err == nil && !math.IsNaN(n) && !math.IsInf(n, 0)
}

func str(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}

// jwtExpiry reads the claim "exp" of a JSON Web Token (RFC 7519). Nothing is
// verified: whoever made the token could as well have said nothing.
func jwtExpiry(token string) (time.Time, bool) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 || !strings.HasPrefix(token, "ey") {
		return time.Time{}, false
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(parts[1], "="))
	if err != nil {
		return time.Time{}, false
	}
	var claims struct {
		Exp json.RawMessage `json:"exp"`
	}
	if json.Unmarshal(payload, &claims) != nil || claims.Exp == nil {
		return time.Time{}, false
	}
	n, ok := number(claims.Exp)
	if !ok || n <= 0 || n > 1e11 {
		return time.Time{}, false
	}
	return time.Unix(int64(n), 0), true
}

// AWSKeys are the parts of a secret for requests that are signed. As one secret
// they are the JSON of a credential_process, which commands may print.
type AWSKeys struct {
	ID      string // of the access key; not secret
	Secret  Value
	Session Value // zero for keys that stay
}

// awsText is AWSKeys as text.
type awsText struct {
	Version         int
	AccessKeyID     string `json:"AccessKeyId"`
	SecretAccessKey string
	SessionToken    string `json:",omitempty"`
}

// NewAWSKeys makes one secret of the parts; session is "" for keys that stay.
func NewAWSKeys(id, key, session string) Value {
	text, _ := json.Marshal(awsText{1, id, key, session}) // strings always can be
	return NewValue(string(text))
}

// ParseAWSKeys takes such a secret apart.
func ParseAWSKeys(v Value) (AWSKeys, error) {
	var keys awsText
	if json.Unmarshal([]byte(v.Reveal()), &keys) != nil || keys.AccessKeyID == "" || keys.SecretAccessKey == "" {
		return AWSKeys{}, errors.New("a secret that should hold AWS keys does not")
	}
	return AWSKeys{ID: keys.AccessKeyID, Secret: NewValue(keys.SecretAccessKey), Session: NewValue(keys.SessionToken)}, nil
}

package credential

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// AWS Signature Version 4. A guest signs with keys that are placeholders; its
// request is signed anew with the real ones. What the guest's signature says is
// used for one thing: services differ in how they spell a request before it is
// signed, and the spelling with which the guest's own signature comes out is the
// one that its client knows to be right.

const (
	sigAlgorithm = "AWS4-HMAC-SHA256"
	sigTerm      = "aws4_request"
	sigTime      = "20060102T150405Z"
	// emptyHash is the SHA-256 of nothing.
	emptyHash = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	unsigned  = "UNSIGNED-PAYLOAD"
	maxSigned = 100 // header fields
)

// signature is what a request says about its signature.
type signature struct {
	id      string // of the key
	date    string // YYYYMMDD
	region  string
	service string
	headers []string // signed fields, lower case
	value   string   // hexadecimal
	time    string   // as sigTime has it
	query   bool     // it is in the URL, not in a field

	payload string // what is signed for the body
	spelled int    // which of the spellings
}

var errSignature = errors.New("an AWS signature that cannot be read")

// parseAuthorization reads the value of an Authorization of SigV4.
func parseAuthorization(v string) (*signature, error) {
	rest, ok := strings.CutPrefix(v, sigAlgorithm)
	if !ok || rest == "" || rest[0] != ' ' {
		return nil, errSignature
	}
	fields := map[string]string{}
	for part := range strings.SplitSeq(rest, ",") {
		name, value, ok := strings.Cut(strings.TrimSpace(part), "=")
		if _, twice := fields[name]; !ok || twice {
			return nil, errSignature
		}
		fields[name] = value
	}
	if len(fields) != 3 {
		return nil, errSignature
	}
	s := &signature{value: fields["Signature"]}
	return s, s.parse(fields["Credential"], fields["SignedHeaders"])
}

// parse reads what a field and a URL have in common.
func (s *signature) parse(credential, headers string) error {
	parts := strings.Split(credential, "/")
	if len(parts) != 5 || parts[4] != sigTerm || len(parts[1]) != 8 || len(s.value) != 64 {
		return errSignature
	}
	for _, p := range parts {
		for i := range len(p) {
			if !alnum(p[i]) && p[i] != '-' && p[i] != '_' && p[i] != '.' && p[i] != '*' {
				return errSignature
			}
		}
	}
	if _, err := hex.DecodeString(s.value); err != nil || parts[0] == "" || parts[2] == "" || parts[3] == "" {
		return errSignature
	}
	s.id, s.date, s.region, s.service = parts[0], parts[1], parts[2], parts[3]
	s.headers = strings.Split(headers, ";")
	if len(s.headers) > maxSigned || !slices.Contains(s.headers, "host") {
		return errSignature
	}
	for i, h := range s.headers {
		if h == "" || strings.ContainsAny(h, ":, \t\r\n") || strings.ToLower(h) != h || slices.Contains(s.headers[:i], h) {
			return errSignature
		}
	}
	return nil
}

// parsePresigned reads the signature of a URL. It is nil when there is none.
func parsePresigned(rawQuery string) (*signature, error) {
	fields := map[string]string{}
	for seg := range strings.SplitSeq(rawQuery, "&") {
		k, v, _ := strings.Cut(seg, "=")
		name, err := url.QueryUnescape(k)
		if err != nil || !strings.HasPrefix(name, "X-Amz-") {
			continue
		}
		value, err := url.QueryUnescape(v)
		if _, twice := fields[name]; err != nil || twice {
			return nil, errSignature
		}
		fields[name] = value
	}
	if fields["X-Amz-Algorithm"] == "" {
		return nil, nil
	}
	if fields["X-Amz-Algorithm"] != sigAlgorithm {
		return nil, errSignature
	}
	s := &signature{value: fields["X-Amz-Signature"], query: true, time: fields["X-Amz-Date"]}
	if _, err := time.Parse(sigTime, s.time); err != nil {
		return nil, errSignature
	}
	return s, s.parse(fields["X-Amz-Credential"], fields["X-Amz-SignedHeaders"])
}

// when finds the time of a request that is signed by a field.
func (s *signature) when(h http.Header) error {
	text := h.Get("X-Amz-Date")
	if text == "" {
		text = h.Get("Date")
	}
	for _, layout := range []string{sigTime, http.TimeFormat, time.RFC1123Z} {
		if t, err := time.Parse(layout, text); err == nil {
			s.time = t.UTC().Format(sigTime)
			return nil
		}
	}
	return errSignature
}

// chunked reports whether the body's pieces are signed one after the other, from
// the signature of the header on.
func chunked(h http.Header) bool {
	v := h.Get("X-Amz-Content-Sha256")
	return strings.HasPrefix(v, "STREAMING-") && !strings.HasPrefix(v, "STREAMING-UNSIGNED-")
}

// isS3 reports whether a service is one of S3's, which spell the path their own
// way and do not need the body to be known.
func (s *signature) isS3() bool {
	return s.service == "s3" || strings.HasPrefix(s.service, "s3-") || s.service == "s3express"
}

// declared is what is signed for the body, "" when it is the body's own hash.
func (s *signature) declared(h http.Header) string {
	if v := h.Get("X-Amz-Content-Sha256"); v != "" {
		return v
	}
	if s.query && s.isS3() {
		return unsigned
	}
	return ""
}

// spelling is one way to write down a request's path and query.
type spelling struct{ path, query string }

// spellings are the ways that services have, the likeliest first.
func (s *signature) spellings(u *url.URL) []spelling {
	raw := u.EscapedPath()
	if raw == "" {
		raw = "/"
	}
	once := awsEscape(u.Path, true)
	twice := awsEscape(raw, true)
	clean := awsEscape(cleanSegments(raw), true)
	paths := []string{clean, twice, once, raw}
	if s.isS3() {
		paths = []string{once, raw, clean, twice}
	}
	var all []spelling
	for _, plus := range []string{"%20", "%2B"} { // what "+" in a query is taken for
		for _, p := range paths {
			all = append(all, spelling{p, canonicalQuery(u.RawQuery, plus)})
		}
	}
	return all
}

// canonicalQuery spells and sorts the parameters, without that of the signature.
func canonicalQuery(raw, plus string) string {
	var list []string
	for seg := range strings.SplitSeq(raw, "&") {
		k, v, _ := strings.Cut(seg, "=")
		if seg == "" || k == "X-Amz-Signature" {
			continue
		}
		list = append(list, respell(k, plus)+"="+respell(v, plus))
	}
	slices.SortFunc(list, func(a, b string) int {
		ka, va, _ := strings.Cut(a, "=")
		kb, vb, _ := strings.Cut(b, "=")
		if c := strings.Compare(ka, kb); c != 0 {
			return c
		}
		return strings.Compare(va, vb)
	})
	return strings.Join(list, "&")
}

// respell encodes a part of a query anew.
func respell(s, plus string) string {
	parts := strings.Split(s, "+")
	for i, p := range parts {
		if text, err := url.PathUnescape(p); err == nil {
			p = text
		}
		parts[i] = awsEscape(p, false)
	}
	return strings.Join(parts, plus)
}

// awsEscape encodes all but what RFC 3986 §2.3 has as unreserved.
func awsEscape(s string, slash bool) string {
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if alnum(c) || c == '-' || c == '_' || c == '.' || c == '~' || slash && c == '/' {
			b.WriteByte(c)
			continue
		}
		fmt.Fprintf(&b, "%%%02X", c)
	}
	return b.String()
}

// cleanSegments takes empty and dot segments out of a path.
func cleanSegments(p string) string {
	var out []string
	for seg := range strings.SplitSeq(p, "/") {
		switch seg {
		case "", ".":
		case "..":
			out = out[:max(len(out)-1, 0)]
		default:
			out = append(out, seg)
		}
	}
	clean := "/" + strings.Join(out, "/")
	if strings.HasSuffix(p, "/") && len(out) > 0 {
		clean += "/"
	}
	return clean
}

// canonicalHeaders spells the signed fields of a request. Those that it does not
// have (any more, on its way through here) are left out of the list.
func (s *signature) canonicalHeaders(r *http.Request) (text string, names []string) {
	var b strings.Builder
	for _, name := range slices.Sorted(slices.Values(s.headers)) {
		var values []string
		switch name {
		case "host":
			values = []string{r.Host}
		case "content-length":
			if r.ContentLength >= 0 {
				values = []string{strconv.FormatInt(r.ContentLength, 10)}
			}
		default:
			values = r.Header[http.CanonicalHeaderKey(name)]
		}
		if len(values) == 0 || name == "user-agent" && values[0] == "" {
			continue
		}
		names = append(names, name)
		trimmed := make([]string, len(values))
		for i, v := range values {
			trimmed[i] = strings.Join(strings.FieldsFunc(v, func(c rune) bool { return c == ' ' }), " ")
		}
		b.WriteString(name + ":" + strings.Join(trimmed, ",") + "\n")
	}
	return b.String(), names
}

// sign computes the signature of a request.
func (s *signature) sign(r *http.Request, as spelling, secret string) (value string, names []string) {
	headers, names := s.canonicalHeaders(r)
	canonical := strings.Join([]string{r.Method, as.path, as.query, headers, strings.Join(names, ";"), s.payload}, "\n")
	sum := sha256.Sum256([]byte(canonical))
	scope := strings.Join([]string{s.date, s.region, s.service, sigTerm}, "/")
	text := strings.Join([]string{sigAlgorithm, s.time, scope, hex.EncodeToString(sum[:])}, "\n")
	key := []byte("AWS4" + secret)
	for _, part := range []string{s.date, s.region, s.service, sigTerm} {
		key = mac(key, part)
	}
	return hex.EncodeToString(mac(key, text)), names
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

// learn finds out how the guest's client, which has signed with the placeholder
// of a key, spells its requests. One whose signature comes out in no way is taken
// to do as most do.
func (s *signature) learn(r *http.Request, key string) {
	for i, as := range s.spellings(r.URL) {
		if value, _ := s.sign(r, as, key); value == s.value {
			s.spelled = i
			return
		}
	}
}

// resign signs a request anew, in the place where its signature was.
func (s *signature) resign(r *http.Request, keys awsKeys) {
	if s.query {
		s.resignQuery(r, keys)
		return
	}
	const token = "x-amz-security-token"
	if keys.session == "" {
		r.Header.Del(token)
		s.headers = slices.DeleteFunc(s.headers, func(h string) bool { return h == token })
	} else {
		r.Header.Set(token, keys.session)
		if !slices.Contains(s.headers, token) {
			s.headers = append(s.headers, token)
		}
	}
	value, names := s.sign(r, s.spellings(r.URL)[s.spelled], keys.secret)
	r.Header["Authorization"] = []string{fmt.Sprintf("%s Credential=%s/%s/%s/%s/%s, SignedHeaders=%s, Signature=%s", sigAlgorithm,
		keys.id, s.date, s.region, s.service, sigTerm, strings.Join(names, ";"), value)}
}

func (s *signature) resignQuery(r *http.Request, keys awsKeys) {
	var list []string
	for seg := range strings.SplitSeq(r.URL.RawQuery, "&") {
		k, _, _ := strings.Cut(seg, "=")
		switch name, _ := url.QueryUnescape(k); name {
		case "X-Amz-Credential":
			scope := strings.Join([]string{keys.id, s.date, s.region, s.service, sigTerm}, "/")
			list = append(list, k+"="+awsEscape(scope, false))
		case "X-Amz-Security-Token", "X-Amz-Signature", "X-Amz-SignedHeaders":
		default:
			list = append(list, seg)
		}
	}
	if keys.session != "" {
		list = append(list, "X-Amz-Security-Token="+awsEscape(keys.session, false))
	}
	_, names := s.canonicalHeaders(r)
	list = append(list, "X-Amz-SignedHeaders="+awsEscape(strings.Join(names, ";"), false))
	r.URL.RawQuery = strings.Join(list, "&")
	value, _ := s.sign(r, s.spellings(r.URL)[s.spelled], keys.secret)
	r.URL.RawQuery += "&X-Amz-Signature=" + value
}

// awsKeys are keys as they are used.
type awsKeys struct{ id, secret, session string }

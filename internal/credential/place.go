package credential

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"berth.dev/internal/egress/intercept"
	"berth.dev/internal/service"
)

const authorization = "Authorization"

// inField returns the plan for the i-th value of a field, when that is just what
// a scheme of the binding has there, with the placeholder in it.
func (q *request) inField(b *bound, name string, i int, value string) (plan, bool) {
	p := plan{b: b, core: b.main.core, where: "the header " + name}
	set := func(text string) error {
		if strings.IndexFunc(text, func(c rune) bool { return c < ' ' || c == 0x7f }) >= 0 {
			return errors.New("it has a line end or a control character, which no header can hold")
		}
		q.r.Header[name][i] = text
		return nil
	}
	for _, s := range b.Service.Schemes {
		switch field, before, after, encoded, ok := s.Field(); {
		case ok && field == name && encoded:
			if enc, ok := around(value, before, after); ok && decodes(enc, b.main.text) {
				p.put = func(v string) error { return set(before + encodeLike(enc, v) + after) }
				return p, true
			}
		case ok && field == name:
			if text, ok := around(value, before, after); ok && text == b.main.text {
				p.put = func(v string) error { return set(before + v + after) }
				return p, true
			}
		case s.Kind == service.Basic && name == authorization:
			if user, password, ok := basicAuth(value); ok {
				if with := inBasic(s.Format, user, password, b.main.text); with != nil {
					p.put = func(v string) error {
						return set("Basic " + base64.StdEncoding.EncodeToString([]byte(with(v))))
					}
					return p, true
				}
			}
		case s.Kind == service.SigV4 && name == authorization && strings.HasPrefix(value, "AWS4-"):
			sig, err := parseAuthorization(value)
			if err == nil && sig.id == b.id.text && sig.when(q.r.Header) == nil {
				return plan{b: b, core: b.id.core, where: "the AWS signature", sig: sig}, true
			}
		}
	}
	return plan{}, false
}

// around returns what is between two texts; case does not matter in the first,
// as it does not for the word in front of credentials (RFC 9110 §11.1).
func around(value, before, after string) (string, bool) {
	value = strings.TrimSpace(value)
	if len(value) < len(before)+len(after) || !strings.EqualFold(value[:len(before)], before) || !strings.HasSuffix(value, after) {
		return "", false
	}
	return value[len(before) : len(value)-len(after)], true
}

// decodes reports whether a text is base64 of another.
func decodes(encoded, text string) bool {
	for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		if b, err := enc.DecodeString(strings.TrimRight(encoded, "=")); err == nil && string(b) == text {
			return true
		}
	}
	return false
}

// encodeLike is base64 with padding if there was some, or would have been none.
func encodeLike(old, text string) string {
	if len(old)%4 != 0 {
		return base64.RawStdEncoding.EncodeToString([]byte(text))
	}
	return base64.StdEncoding.EncodeToString([]byte(text))
}

func basicAuth(value string) (user, password string, ok bool) {
	text, ok := around(value, "Basic ", "")
	if !ok {
		return "", "", false
	}
	b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	if err != nil {
		return "", "", false
	}
	return strings.Cut(string(b), ":")
}

// inBasic holds user and password against a format, and returns what makes both
// with a secret in place of the placeholder; nil when they do not fit.
func inBasic(format, user, password, text string) func(string) string {
	u, p, _ := strings.Cut(format, ":")
	fits := func(format, value string) bool {
		return format == "*" || format == "{}" && value == text || format == value
	}
	switch {
	case !fits(u, user) || !fits(p, password):
		return nil
	case u == "{}":
		return func(v string) string { return v + ":" + password }
	}
	return func(v string) string { return user + ":" + v }
}

// inQuery returns the plan for the i-th parameter of the query.
func (q *request) inQuery(b *bound, i int, seg string) (plan, bool) {
	name, value, _ := strings.Cut(seg, "=")
	key := unescapeQuery(name)
	for _, s := range b.Service.Schemes {
		switch {
		case s.Kind == service.Query && key == s.Name && unescapeQuery(value) == b.main.text:
			return plan{b: b, core: b.main.core, where: "the query parameter " + s.Name, put: func(v string) error {
				segs := strings.Split(q.r.URL.RawQuery, "&")
				segs[i] = name + "=" + url.QueryEscape(v)
				q.r.URL.RawQuery = strings.Join(segs, "&")
				return nil
			}}, true
		case s.Kind == service.SigV4 && key == "X-Amz-Credential":
			sig, err := parsePresigned(q.r.URL.RawQuery)
			if err == nil && sig != nil && sig.id == b.id.text {
				return plan{b: b, core: b.id.core, where: "the AWS signature of the URL", sig: sig}, true
			}
		}
	}
	return plan{}, false
}

// chunked refuses bodies whose pieces are signed one after the other, which
// would all have to be signed anew.
func (q *request) chunked() error {
	for _, p := range q.plans {
		if p.sig != nil && chunked(q.r.Header) {
			const why = "the pieces of the body are signed (STREAMING-AWS4-HMAC-SHA256-PAYLOAD), which Berth cannot do anew: " +
				"let the client send it unsigned, as AWS's own do over TLS"
			q.record(p.b.Secret, true, why)
			return errors.New(why)
		}
	}
	return nil
}

// prepare finds out what a signature is about. When that is the hash of the body
// it holds the body: unlike the guest's own word for it that hash has to be of
// what is sent.
func (q *request) prepare(ctx context.Context, p plan) error {
	p.sig.payload = p.sig.declared(q.r.Header)
	if p.sig.payload == "" {
		sum, err := q.hold(ctx)
		var denied *intercept.Denied
		switch {
		case errors.As(err, &denied):
			return errors.New(denied.Ruling.Reason)
		case err != nil:
			q.record(p.b.Secret, true, err.Error())
			return err
		}
		p.sig.payload = sum
	}
	p.sig.learn(q.r, p.b.main.text)
	return nil
}

// hold reads all of a body into memory and returns its hash.
func (q *request) hold(ctx context.Context) (string, error) {
	r := q.r
	if r.Body == nil || r.Body == http.NoBody {
		return emptyHash, nil
	}
	release := func() {}
	if r.ContentLength < 0 || r.ContentLength > smallBody {
		select {
		case q.b.large <- struct{}{}:
			release = sync.OnceFunc(func() { <-q.b.large })
			context.AfterFunc(ctx, release) // whatever becomes of the request
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	b, err := io.ReadAll(io.LimitReader(r.Body, maxSignedBody+1))
	if err == nil && len(b) > maxSignedBody {
		err = fmt.Errorf("it is longer than %d MiB", maxSignedBody>>20)
	}
	if err != nil {
		release()
		return "", fmt.Errorf("read the body that is signed: %w", err)
	}
	_ = r.Body.Close()
	r.Body, r.ContentLength = &heldBody{bytes.NewReader(b), release}, int64(len(b))
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]), nil
}

// Bounds of bodies that are held because their hash is signed, in bytes. All
// small ones may be held at once, of large ones only a few.
const (
	maxSignedBody = 32 << 20
	smallBody     = 256 << 10
	maxLarge      = 4
)

// heldBody is a body that is in memory.
type heldBody struct {
	*bytes.Reader
	release func()
}

// Close implements io.Closer.
func (b *heldBody) Close() error {
	b.release()
	return nil
}

package signin

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"berth.dev/internal/credential"
	"berth.dev/internal/egress/intercept"
	"berth.dev/internal/secret"
)

// FuzzAnswer: whatever a token endpoint answers, none of its tokens is in what
// the guest gets, in whichever way it is written.
func FuzzAnswer(f *testing.F) {
	for _, body := range []string{
		`{"access_token":"abcdefgh","refresh_token":"ijklmnop","expires_in":3600,"scope":"a b"}`,
		`{"access_token":"abcdefgh","scope":"abcdefgh"}`, `{"access_token":"abcdefgh","scope":"\u0061bcdefgh"}`,
		`{"access_token":"abcdefgh","account":{"uuid":"u","x":[{"abcdefgh":1}]},"organization":{"uuid":"abcdefgh"}}`,
		`{"access_token":"abcdefgh","id_token":"eyJ.eyJzdWIiOiJ4In0.abcdefgh"}`, `{"access_token":"abcdefgh","access_token":"ijklmnop"}`,
		`{"data":{"access_token":"abcdefgh"}}`, `{"error":"x","access_token":"","refresh_token":"abcdefgh"}`, `{"error":"x","interval":5}`, `{}`, `null`, `[]`,
		`{"raw_key":"abcdefgh"}`, `{"access_token":"e"}`, `{"Access_Token":"abcdefgh","error":"x"}`,
	} {
		f.Add("application/json", body)
	}
	f.Add("application/x-www-form-urlencoded", "access_token=abcdefgh&scope=abcdefgh")
	f.Add("application/x-www-form-urlencoded; charset=utf-8", "access_token=abc%65fgh&scope=x&scope=y")
	f.Add("text/html", "access_token=abcdefgh")
	dir := f.TempDir()
	store, err := secret.Open(dir, secret.WithoutKeyring())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, kind, body string) {
		for _, p := range []string{"claude", "anthropic-key", "google"} {
			broker, err := credential.New(credential.Config{Sandbox: "box", Key: []byte("a key of sixteen bytes, or more")})
			if err != nil {
				t.Fatal(err)
			}
			row, _ := Find(p)
			k := New(Config{
				Sandbox: "box", Agent: row.Agents[0], Store: func(bool) (*secret.Store, error) { return store, nil }, Broker: broker, Record: func(credential.Use) {},
			})
			k.cfg.Bind = func() error {
				list, err := k.Bindings(t.Context())
				if err != nil {
					return err
				}
				return broker.Bind(list...)
			}
			ctx := context.WithValue(t.Context(), attemptKey{}, &attempt{p: row, endpoint: row.tokens[0]})
			req, _ := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+row.tokens[0], nil)
			res := &http.Response{
				StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {kind}, "X": {body}}, Body: io.NopCloser(strings.NewReader(body)), Request: req,
				Trailer: http.Header{"X": {body}},
			}
			if k.Response(ctx, intercept.Target{Host: "h", Port: 443, TLS: true}, res) != nil {
				continue // the guest gets an error of Berth's
			}
			out, err := io.ReadAll(res.Body)
			if err != nil || int64(len(out)) != res.ContentLength || len(res.Trailer) != 0 {
				t.Fatalf("%q is %d bytes, not %d, %v", out, len(out), res.ContentLength, err)
			}
			said := texts(kind, out)
			for _, token := range tokensOf(row, kind, body) {
				if slices.ContainsFunc(append(said, res.Header["X"]...), func(s string) bool { return strings.Contains(s, token) }) {
					t.Fatalf("of %q the guest gets %q, which has %q", body, out, token)
				}
			}
		}
	})
}

// texts are all texts in an answer, decoded.
func texts(kind string, body []byte) []string {
	list := []string{string(body)}
	if v, err := url.ParseQuery(string(body)); err == nil && typeOf(kind) == formType {
		for name, values := range v {
			list = append(append(list, name), values...)
		}
		return list
	}
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case string:
			list = append(list, v)
		case []any:
			for _, in := range v {
				walk(in)
			}
		case map[string]any:
			for name, in := range v {
				list = append(list, name)
				walk(in)
			}
		}
	}
	var v any
	if json.Unmarshal(body, &v) == nil {
		walk(v)
	}
	return list
}

// tokensOf are the tokens of an answer, by a reader that takes the last of two.
func tokensOf(p *Provider, kind, body string) []string {
	var list []string
	add := func(name, text string) {
		// What is shorter is in every other answer by chance.
		if len(text) >= 8 && (slices.Contains(tokenNames[1:], name) || name == p.member(accessToken)) {
			list = append(list, text)
		}
	}
	if v, err := url.ParseQuery(body); err == nil && typeOf(kind) == formType {
		for name, values := range v {
			add(name, values[len(values)-1])
		}
		return list
	}
	var v map[string]any
	_ = json.Unmarshal([]byte(body), &v)
	for name, in := range v {
		if text, ok := in.(string); ok {
			add(name, text)
		}
	}
	return list
}

// FuzzSettle: a request that was vouched for says nothing but what was read.
func FuzzSettle(f *testing.F) {
	f.Add("application/json", `{"code":"a","grant_type":"authorization_code","n":1}`)
	f.Add("application/json; charset=x", `{"code":"\ud800","a":{"b":"c"}}`)
	f.Add("application/x-www-form-urlencoded;charset=UTF-8", "code=a+b%20c&grant_type=x&e=")
	f.Fuzz(func(t *testing.T, kind, body string) {
		r, _ := http.NewRequest(http.MethodPost, "https://platform.claude.com/v1/oauth/token", strings.NewReader(body))
		r.Header["Content-Type"] = []string{kind}
		read, err := parseFields(kind, []byte(body))
		if err != nil || !read.settle(r, secret.NewValue("the real code")) {
			return
		}
		out, _ := io.ReadAll(r.Body)
		again, err := parseFields(r.Header.Get("Content-Type"), out)
		if err != nil || len(again) != len(read) || again.text("code") != "the real code" {
			t.Fatalf("%q became %q, %v", body, out, err)
		}
		// Both of the readers that there are take the same code out of it, if any.
		form, ferr := url.ParseQuery(string(out))
		var object map[string]any
		jerr := json.Unmarshal(out, &object)
		if jerr == nil && ferr == nil && form.Get("code") != "" && object["code"] != nil {
			t.Fatalf("%q is read in two ways", out)
		}
		for name := range read {
			if read.text(name) != again.text(name) {
				t.Fatalf("%s of %q became %q", name, body, again.text(name))
			}
		}
	})
}

// FuzzPlainURL: an endpoint that is written with escapes is still known.
func FuzzPlainURL(f *testing.F) {
	f.Add("platform.claude.com/v1/oauth/token", uint(20), uint(1))
	f.Fuzz(func(t *testing.T, raw string, at, how uint) {
		_ = plainURL(raw)
		const endpoint = "platform.claude.com/v1/oauth/token"
		i := len("platform.claude.com/") + int(at%uint(len(endpoint)-len("platform.claude.com/")))
		written := endpoint[:i] + []string{"%" + hexOf(endpoint[i]), "%25" + hexOf(endpoint[i]), strings.ToUpper(endpoint[i : i+1])}[how%3] + endpoint[i+1:]
		if got := plainURL(written); got != endpoint {
			t.Fatalf("%s is %s", written, got)
		}
		if got := plainURL(endpoint); got != endpoint {
			t.Fatal(got)
		}
	})
}

func hexOf(c byte) string {
	return strings.ToUpper(string([]byte{"0123456789abcdef"[c>>4], "0123456789abcdef"[c&15]}))
}

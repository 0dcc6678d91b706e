package credential

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"berth.dev/internal/secret"
	"berth.dev/internal/service"
)

const (
	awsHost   = "bedrock-runtime.example.com"
	realID    = "AKIAREALREALREALREAL"
	realAWS   = "realSecretAccessKey/realSecretAccessKey+"
	realToken = "realSessionToken/realSessionToken=="
)

func awsBinding(t *testing.T, session string) Binding {
	t.Helper()
	d, ok := service.ByName("aws")
	if !ok {
		t.Fatal("no aws")
	}
	p, err := service.ParsePlace("*.example.com")
	if err != nil {
		t.Fatal(err)
	}
	d.Hosts = []service.Place{p}
	return Binding{Secret: "aws", Service: d, Source: secret.Fixed(secret.NewAWSKeys(realID, realAWS, session))}
}

// signedBy reports whether a request that a server got is signed with keys, as
// AWS's own client would have signed it.
func signedBy(t *testing.T, r *http.Request, body string, keys awsKeys) bool {
	t.Helper()
	got := r.Header.Get("Authorization")
	s, err := parseAuthorization(got)
	if err != nil {
		t.Errorf("%q: %v", got, err)
		return false
	}
	at, err := time.Parse(sigTime, r.Header.Get("X-Amz-Date"))
	if err != nil {
		t.Error(err)
	}
	// A clean copy, of what was signed.
	again := newTestRequest(t, r.Method, "https://"+r.Host+r.URL.RequestURI(), strings.NewReader(body))
	for _, h := range s.headers {
		if v := r.Header.Get(h); v != "" && h != "x-amz-date" && h != "x-amz-security-token" {
			again.Header.Set(h, v)
		}
	}
	hash := r.Header.Get("X-Amz-Content-Sha256")
	if hash == "" {
		sum := sha256.Sum256([]byte(body))
		hash = hex.EncodeToString(sum[:])
	}
	creds := aws.Credentials{AccessKeyID: keys.id, SecretAccessKey: keys.secret, SessionToken: keys.session}
	opt := func(o *v4.SignerOptions) { o.DisableURIPathEscaping = s.service == "s3" }
	if err := v4.NewSigner().SignHTTP(context.Background(), creds, again, hash, s.service, s.region, at, opt); err != nil {
		t.Error(err)
	}
	if want := again.Header.Get("Authorization"); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
		return false
	}
	return r.Header.Get("X-Amz-Security-Token") == keys.session
}

// TestAWS: the guest signs with placeholders, the server gets what the real keys
// sign.
func TestAWS(t *testing.T) {
	protocols(t, func(t *testing.T, guest, server bool) {
		for _, session := range []string{"", realToken} {
			ok := false
			w := newWorld(t, setup{h2: server, bindings: []Binding{awsBinding(t, session)}, handler: func(rw http.ResponseWriter, r *http.Request) {
				b, _ := io.ReadAll(r.Body)
				ok = signedBy(t, r, string(b), awsKeys{realID, realAWS, session})
				// As AWS does when a signature is wrong.
				_, _ = io.WriteString(rw, "<AWSAccessKeyId>"+realID+"</AWSAccessKeyId> "+r.Header.Get("X-Amz-Security-Token"))
			}})
			env := w.b.Environment()
			creds := aws.Credentials{AccessKeyID: env["AWS_ACCESS_KEY_ID"], SecretAccessKey: env["AWS_SECRET_ACCESS_KEY"]}
			if len(env) != 2 || !strings.HasPrefix(creds.AccessKeyID, "AKIA") || len(creds.SecretAccessKey) != 40 {
				t.Fatalf("%q", env)
			}
			c := w.client(guest)
			for name, e := range map[string]struct{ service, body, hash string }{
				"bedrock":  {"bedrock", strings.Repeat(`{"messages": []}`, 1000), ""},
				"large":    {"bedrock", strings.Repeat("x", 3<<20), ""},
				"sts":      {"sts", "Action=GetCallerIdentity", ""},
				"nothing":  {"sts", "", ""},
				"s3":       {"s3", "an object", unsigned},
				"s3, sent": {"s3", "an object", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"},
			} {
				ok = false
				r := newTestRequest(t, "PUT", "https://"+awsHost+"/model/anthropic.claude-v2%3A1/invoke?x=1&a=b%20c", strings.NewReader(e.body))
				r.Header.Set("Content-Type", "application/json")
				r.Header.Set("Accept-Encoding", "gzip")
				hash := e.hash
				if hash == "" {
					sum := sha256.Sum256([]byte(e.body))
					hash = hex.EncodeToString(sum[:])
				} else {
					r.Header.Set("X-Amz-Content-Sha256", hash)
				}
				opt := func(o *v4.SignerOptions) { o.DisableURIPathEscaping = e.service == "s3" }
				if err := v4.NewSigner().SignHTTP(t.Context(), creds, r, hash, e.service, "us-east-1", time.Now(), opt); err != nil {
					t.Fatal(err)
				}
				res, body := do(t, c, r)
				if res.StatusCode != 200 || !ok {
					t.Fatalf("%s: %d %s", name, res.StatusCode, body)
				}
				if strings.Contains(body, realID) || strings.Contains(body, realToken) || !strings.Contains(body, creds.AccessKeyID) {
					t.Errorf("%s: %s", name, body)
				}
				if u := w.used(); len(u) != 1 || u[0].Refused || u[0].Secret != "aws" || u[0].Reason != "put into the AWS signature" {
					t.Errorf("%s: recorded %+v", name, u)
				}
			}
		}
	})
}

func TestAWSPresigned(t *testing.T) {
	var got url.Values
	w := newWorld(t, setup{bindings: []Binding{awsBinding(t, realToken)}, handler: func(_ http.ResponseWriter, r *http.Request) { got = r.URL.Query() }})
	env := w.b.Environment()
	sign := func(keys awsKeys, at time.Time) string {
		r := newTestRequest(t, "GET", "https://bucket.example.com/a%20b?X-Amz-Expires=60", nil)
		creds := aws.Credentials{AccessKeyID: keys.id, SecretAccessKey: keys.secret, SessionToken: keys.session}
		u, _, err := v4.NewSigner().PresignHTTP(t.Context(), creds, r, unsigned, "s3", "us-east-1", at, func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true })
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	at := time.Now()
	guests := sign(awsKeys{env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"], ""}, at)
	want, err := url.Parse(sign(awsKeys{realID, realAWS, realToken}, at))
	if err != nil {
		t.Fatal(err)
	}
	if res, body := do(t, w.client(true), newTestRequest(t, "GET", guests, nil)); res.StatusCode != 200 {
		t.Fatalf("%d %s", res.StatusCode, body)
	}
	if got.Encode() != want.Query().Encode() {
		t.Errorf("got  %s\nwant %s", got.Encode(), want.Query().Encode())
	}
}

// TestAWSRefused: what cannot be signed anew, or is no signature's.
func TestAWSRefused(t *testing.T) {
	s := &seen{}
	w := newWorld(t, setup{bindings: []Binding{awsBinding(t, "")}, handler: s.watch})
	env := w.b.Environment()
	id := env["AWS_ACCESS_KEY_ID"]
	auth := "AWS4-HMAC-SHA256 Credential=" + id + "/20240101/us-east-1/s3/aws4_request, SignedHeaders=host;x-amz-date, Signature=" + emptyHash
	for name, e := range map[string]struct {
		header map[string]string
		query  string
		body   io.Reader
		want   string
	}{
		"signed pieces":      {map[string]string{"Authorization": auth, "X-Amz-Content-Sha256": "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"}, "", nil, "the pieces of the body are signed"},
		"another algorithm":  {map[string]string{"Authorization": strings.Replace(auth, "AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256", 1)}, "", nil, "does not take it"},
		"as a bearer":        {map[string]string{"Authorization": "Bearer " + env["AWS_SECRET_ACCESS_KEY"]}, "", nil, "does not take it"},
		"the key in a field": {map[string]string{"Authorization": auth, "X-Amz-Meta": env["AWS_SECRET_ACCESS_KEY"]}, "", nil, "does not take it"},
		"the id in a query":  {nil, "id=" + id, nil, "does not take it"},
		"half a signed URL":  {nil, "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=" + id, nil, "does not take it"},
		"too long":           {map[string]string{"Authorization": auth}, "", io.LimitReader(zeros{}, maxSignedBody+2), "longer than 32 MiB"},
		"not in the body":    {map[string]string{"Authorization": auth}, "", strings.NewReader(newPlaceholder(testKey, "x", "", service.Shape{}).text), "of another sandbox"},
	} {
		r := newTestRequest(t, "POST", "https://"+awsHost+"/?"+e.query, e.body)
		for k, v := range e.header {
			r.Header.Set(k, v)
		}
		r.Header.Set("X-Amz-Date", "20240101T000000Z")
		res, body := do(t, w.client(false), r)
		if res.StatusCode != 403 || !strings.Contains(body, e.want) {
			t.Errorf("%s: %d %s", name, res.StatusCode, body)
		}
		if _, n := s.take(""); n != 0 {
			t.Errorf("%s: it was sent", name)
		}
		if u := w.used(); len(u) != 1 || !u[0].Refused {
			t.Errorf("%s: recorded %+v", name, u)
		}
	}
	if n := len(w.b.large); n != 0 {
		t.Errorf("%d slots are taken", n)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

package credential

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

const (
	exampleID  = "AKIAIOSFODNN7EXAMPLE"
	exampleKey = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
	signedAt   = "20130524T000000Z"
)

// TestExamples are those of AWS's documentation: of Amazon S3, "Signature
// Calculations for the Authorization Header" and "Authenticating Requests: Using
// Query Parameters", and of IAM.
func TestExamples(t *testing.T) {
	for name, e := range map[string]struct {
		method, url, headers, scope, signed, payload, key, want string
	}{
		"GET object": {"GET", "https://examplebucket.s3.amazonaws.com/test.txt", "Range: bytes=0-9\nX-Amz-Date: " + signedAt + "\nX-Amz-Content-Sha256: " + emptyHash,
			exampleID + "/20130524/us-east-1/s3/aws4_request", "host;range;x-amz-content-sha256;x-amz-date", "", exampleKey,
			"f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"},
		"PUT object": {"PUT", "https://examplebucket.s3.amazonaws.com/test$file.text", "Date: Fri, 24 May 2013 00:00:00 GMT\nX-Amz-Date: " + signedAt +
			"\nX-Amz-Storage-Class: REDUCED_REDUNDANCY\nX-Amz-Content-Sha256: 44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072",
			exampleID + "/20130524/us-east-1/s3/aws4_request", "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class", "", exampleKey,
			"98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"},
		"GET lifecycle": {"GET", "https://examplebucket.s3.amazonaws.com/?lifecycle", "X-Amz-Date: " + signedAt + "\nX-Amz-Content-Sha256: " + emptyHash,
			exampleID + "/20130524/us-east-1/s3/aws4_request", "host;x-amz-content-sha256;x-amz-date", "", exampleKey,
			"fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"},
		"List objects": {"GET", "https://examplebucket.s3.amazonaws.com/?max-keys=2&prefix=J", "X-Amz-Date: " + signedAt + "\nX-Amz-Content-Sha256: " + emptyHash,
			exampleID + "/20130524/us-east-1/s3/aws4_request", "host;x-amz-content-sha256;x-amz-date", "", exampleKey,
			"34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"},
		"IAM ListUsers": {"GET", "https://iam.amazonaws.com/?Action=ListUsers&Version=2010-05-08",
			"Content-Type: application/x-www-form-urlencoded; charset=utf-8\nX-Amz-Date: 20150830T123600Z",
			"AKIDEXAMPLE/20150830/us-east-1/iam/aws4_request", "content-type;host;x-amz-date", emptyHash, "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
			"5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"},
	} {
		r := newTestRequest(t, e.method, e.url, nil)
		for line := range strings.SplitSeq(e.headers, "\n") {
			k, v, _ := strings.Cut(line, ": ")
			r.Header.Set(k, v)
		}
		s, err := parseAuthorization(fmt.Sprintf("AWS4-HMAC-SHA256 Credential=%s,SignedHeaders=%s,Signature=%s", e.scope, e.signed, e.want))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := s.when(r.Header); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if s.payload = s.declared(r.Header); s.payload == "" {
			s.payload = e.payload
		}
		s.learn(r, e.key)
		if got, _ := s.sign(r, s.spellings(r.URL)[s.spelled], e.key); got != e.want {
			t.Errorf("%s: %s, want %s", name, got, e.want)
		}
	}
}

func TestPresignedExample(t *testing.T) {
	const want = "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
	r := newTestRequest(t, "GET", "https://examplebucket.s3.amazonaws.com/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential="+exampleID+
		"%2F20130524%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date="+signedAt+"&X-Amz-Expires=86400&X-Amz-SignedHeaders=host&X-Amz-Signature="+want, nil)
	s, err := parsePresigned(r.URL.RawQuery)
	if err != nil || s == nil {
		t.Fatal(s, err)
	}
	s.payload = s.declared(r.Header)
	if got, _ := s.sign(r, s.spellings(r.URL)[0], exampleKey); got != want {
		t.Errorf("%s", got)
	}
	s.resign(r, awsKeys{exampleID, exampleKey, ""})
	if !strings.HasSuffix(r.URL.RawQuery, "&X-Amz-Signature="+want) {
		t.Error(r.URL.RawQuery)
	}
}

func newTestRequest(tb testing.TB, method, url string, body io.Reader) *http.Request {
	tb.Helper()
	r, err := http.NewRequestWithContext(context.Background(), method, url, body)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// sdkRequest is a request of the kind that AWS's own client makes.
type sdkRequest struct {
	service, path, query, body string
	header                     map[string]string
	declared, presign          bool
}

func (q sdkRequest) make(tb testing.TB) *http.Request {
	var body io.Reader
	if q.body != "" {
		body = strings.NewReader(q.body)
	}
	u := "https://" + q.service + ".us-east-1.amazonaws.com" + q.path
	if q.query != "" {
		u += "?" + q.query
	}
	r := newTestRequest(tb, "POST", u, body)
	for k, v := range q.header {
		r.Header.Set(k, v)
	}
	return r
}

// sign signs with AWS's own signer.
func (q sdkRequest) sign(tb testing.TB, keys awsKeys, at time.Time) *http.Request {
	r := q.make(tb)
	sum := sha256.Sum256([]byte(q.body))
	hash := hex.EncodeToString(sum[:])
	if q.declared {
		r.Header.Set("X-Amz-Content-Sha256", hash)
	}
	creds := aws.Credentials{AccessKeyID: keys.id, SecretAccessKey: keys.secret, SessionToken: keys.session}
	opt := func(o *v4.SignerOptions) { o.DisableURIPathEscaping = q.service == "s3" }
	if !q.presign {
		if err := v4.NewSigner().SignHTTP(context.Background(), creds, r, hash, q.service, "us-east-1", at, opt); err != nil {
			tb.Fatal(err)
		}
		return r
	}
	if q.service == "s3" {
		hash = unsigned
	}
	signed, header, err := v4.NewSigner().PresignHTTP(context.Background(), creds, r, hash, q.service, "us-east-1", at, opt)
	if err != nil {
		tb.Fatal(err)
	}
	u, err := url.Parse(signed)
	if err != nil {
		tb.Fatal(err)
	}
	r.URL = u
	for k, v := range header {
		r.Header[k] = v
	}
	return r
}

// TestAgainstSDK: signed anew, a request is as if AWS's own client had signed it
// with the real keys.
func TestAgainstSDK(t *testing.T) {
	fake := awsKeys{id: newPlaceholder(testKey, "aws", "id", idShape).text, secret: testPlaceholder("aws").text}
	rng := rand.New(rand.NewPCG(3, 4))
	pick := func(list ...string) string { return list[rng.IntN(len(list))] }
	for range 3000 {
		q := sdkRequest{
			service: pick("s3", "bedrock", "sts", "dynamodb", "execute-api"),
			path:    "/" + pick("", "a", "model/anthropic.claude-v2%3A1/invoke", "a%20b/c(d)", "x//y/", "%E2%82%AC", "a+b=c@d", "~._-!*'", "a/./b/../c"),
			query:   pick("", "list-type=2&prefix=a%2Fb", "b=2&a=1&a=0", "k", "x=%20y+z", "tagging=&acl", "u=%C3%BC&U=1"),
			body:    pick("", "{}", strings.Repeat("x", 5000)),
			header:  map[string]string{"Content-Type": "application/json", "X-Amz-Target": "  a   b "}, declared: rng.IntN(2) == 0, presign: rng.IntN(3) == 0,
		}
		if q.presign {
			q.body, q.header, q.declared = "", nil, false
		}
		at := time.Date(2024, 2, 29, 23, 59, rng.IntN(60), 0, time.UTC)
		fakes, real := fake, awsKeys{"AKIAREALREALREALREAL", "real/secret+key", pick("", "a/session=token")}
		if rng.IntN(2) == 0 {
			fakes.session = "whatever the guest has"
		}
		guest, want := q.sign(t, fakes, at), q.sign(t, real, at)
		var s *signature
		var err error
		if q.presign {
			s, err = parsePresigned(guest.URL.RawQuery)
		} else if s, err = parseAuthorization(guest.Header.Get("Authorization")); err == nil {
			err = s.when(guest.Header)
		}
		if err != nil || s == nil {
			t.Fatalf("%+v: %v", q, err)
		}
		if s.payload = s.declared(guest.Header); s.payload == "" {
			sum := sha256.Sum256([]byte(q.body))
			s.payload = hex.EncodeToString(sum[:])
		}
		s.learn(guest, fakes.secret)
		if got, _ := s.sign(guest, s.spellings(guest.URL)[s.spelled], fakes.secret); got != s.value {
			t.Fatalf("%+v: the guest's own signature is not understood", q)
		}
		s.resign(guest, real)
		if q.presign {
			if g, w := guest.URL.Query(), want.URL.Query(); g.Encode() != w.Encode() {
				t.Fatalf("%+v:\n%s\n%s", q, g.Encode(), w.Encode())
			}
			continue
		}
		for _, h := range []string{"Authorization", "X-Amz-Security-Token", "X-Amz-Date", "X-Amz-Content-Sha256"} {
			if g, w := guest.Header.Get(h), want.Header.Get(h); g != w {
				t.Fatalf("%+v: %s:\n%s\n%s", q, h, g, w)
			}
		}
	}
}

func TestChunkedIsTold(t *testing.T) {
	for v, want := range map[string]bool{
		"STREAMING-AWS4-HMAC-SHA256-PAYLOAD": true, "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER": true, "STREAMING-AWS4-HMAC-SHA256-EVENTS": true,
		"STREAMING-UNSIGNED-PAYLOAD-TRAILER": false, unsigned: false, emptyHash: false, "": false,
	} {
		if got := chunked(http.Header{"X-Amz-Content-Sha256": {v}}); got != want {
			t.Errorf("%q: %v", v, got)
		}
	}
}

func FuzzParseAuthorization(f *testing.F) {
	f.Add("AWS4-HMAC-SHA256 Credential=" + exampleID + "/20130524/us-east-1/s3/aws4_request,SignedHeaders=host;range,Signature=" + emptyHash)
	f.Add("AWS4-HMAC-SHA256 Credential=a/b/c/d/aws4_request, SignedHeaders=, Signature=")
	f.Add("AWS4-HMAC-SHA256 Signature=" + emptyHash + ", SignedHeaders=host, Credential=A/20130524/r/s/aws4_request")
	f.Add("AWS4-ECDSA-P256-SHA256 Credential=A/20130524/s/aws4_request, SignedHeaders=host, Signature=00")
	f.Fuzz(func(t *testing.T, v string) {
		s, err := parseAuthorization(v)
		if err != nil {
			return
		}
		r := newTestRequest(t, "GET", "https://example.com/a?b=c", nil)
		r.Header.Set("X-Amz-Date", signedAt)
		if s.when(r.Header) != nil {
			t.Fatal("no time")
		}
		s.payload = emptyHash
		s.resign(r, awsKeys{"AKIAREAL", "secret", "session"})
		again, err := parseAuthorization(r.Header.Get("Authorization"))
		if err != nil || again.id != "AKIAREAL" || again.date != s.date || again.region != s.region || again.service != s.service {
			t.Fatalf("%q became %q: %v", v, r.Header.Get("Authorization"), err)
		}
	})
}

func FuzzParsePresigned(f *testing.F) {
	f.Add("X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=A%2F20130524%2Fr%2Fs3%2Faws4_request&X-Amz-Date=" + signedAt +
		"&X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature=" + emptyHash + "&x=y")
	f.Add("X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Algorithm=x")
	f.Fuzz(func(t *testing.T, query string) {
		s, err := parsePresigned(query)
		if err != nil || s == nil {
			return
		}
		r := newTestRequest(t, "GET", "https://example.com/a", nil)
		r.URL.RawQuery = query
		s.payload = unsigned
		s.resign(r, awsKeys{"AKIAREAL", "secret", "ses/sion"})
		again, err := parsePresigned(r.URL.RawQuery)
		if err != nil || again == nil || again.id != "AKIAREAL" || again.time != s.time {
			t.Fatalf("%q became %q: %v", query, r.URL.RawQuery, err)
		}
	})
}

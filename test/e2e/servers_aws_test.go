package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// awsClient is AWS's own client for Node, as the guest runs it.
const awsClient = `{"private": true, "type": "module", "dependencies": {"@aws-sdk/client-s3": "3", "@aws-sdk/client-sts": "3", "@aws-sdk/s3-request-presigner": "3"}}`

// awsScript asks who it is, by a form whose hash is signed; puts an object whose
// length is known, and one of which it is not; and gets one by a URL that is
// signed. The names have what each service spells its own way.
const awsScript = `
import { STSClient, GetCallerIdentityCommand } from "@aws-sdk/client-sts";
import { S3Client, PutObjectCommand, GetObjectCommand } from "@aws-sdk/client-s3";
import { getSignedUrl } from "@aws-sdk/s3-request-presigner";
import { Readable } from "node:stream";
const region = "us-east-1";
console.log((await new STSClient({ region }).send(new GetCallerIdentityCommand({}))).Account);
const s3 = new S3Client({ region }), Bucket = "acme";
await s3.send(new PutObjectCommand({ Bucket, Key: "a b/ü+1", Body: "known" }));
await s3.send(new PutObjectCommand({ Bucket, Key: "stream", Body: Readable.from([Buffer.from("un"), Buffer.from("known")]), ContentLength: 7 }));
const got = await s3.send(new GetObjectCommand({ Bucket, Key: "a b/ü+1" }));
console.log(await got.Body.transformToString());
const res = await fetch(await getSignedUrl(s3, new GetObjectCommand({ Bucket, Key: "a b/ü+1" }), { expiresIn: 60 }));
console.log(res.status, await res.text());
`

// signatures stands for two of AWS's services, and takes no request that is not
// signed with the real keys. AWS's own signer says which are.
type signatures struct {
	origin origin
	host   string // pattern of a policy
	keys   aws.Credentials

	mu      sync.Mutex
	asked   []string
	wrong   []string
	objects map[string][]byte
}

func newSignatures(t *testing.T, real map[string]string) *signatures {
	t.Helper()
	s := &signatures{host: "**.amazonaws.com", objects: map[string][]byte{}, keys: aws.Credentials{
		AccessKeyID: real["AWS_ACCESS_KEY_ID"], SecretAccessKey: real["AWS_SECRET_ACCESS_KEY"], SessionToken: real["AWS_SESSION_TOKEN"],
	}}
	s.origin = serveTLS(t, s, "sts.us-east-1.amazonaws.com", "acme.s3.us-east-1.amazonaws.com")
	return s
}

// ServeHTTP implements http.Handler.
func (s *signatures) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err == nil {
		err = s.verify(r, body)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	what := r.Method + " " + r.Host + r.URL.Path
	s.asked = append(s.asked, what)
	if err != nil {
		s.wrong = append(s.wrong, what+": "+err.Error())
		http.Error(w, "<Error><Code>SignatureDoesNotMatch</Code></Error>", http.StatusForbidden)
		return
	}
	switch {
	case strings.HasPrefix(r.Host, "sts."):
		w.Header().Set("Content-Type", "text/xml")
		_, _ = io.WriteString(w, `<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult>`+
			`<Arn>arn:aws:iam::123456789012:user/ada</Arn><UserId>ADA</UserId><Account>123456789012</Account></GetCallerIdentityResult></GetCallerIdentityResponse>`)
	case r.Method == http.MethodPut:
		s.objects[r.URL.Path] = body
		w.Header().Set("ETag", `"1"`)
	default:
		_, _ = w.Write(s.objects[r.URL.Path])
	}
}

// verify has AWS's signer sign what came once more, and compares.
func (s *signatures) verify(r *http.Request, body []byte) error {
	values := r.URL.Query()
	presigned := values.Get("X-Amz-Signature") != ""
	claim := map[string]string{}
	date := r.Header.Get("X-Amz-Date")
	if presigned {
		claim["Credential"], claim["SignedHeaders"], claim["Signature"] = values.Get("X-Amz-Credential"), values.Get("X-Amz-SignedHeaders"), values.Get("X-Amz-Signature")
		date = values.Get("X-Amz-Date")
	} else {
		rest, _ := strings.CutPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 ")
		for part := range strings.SplitSeq(rest, ",") {
			name, v, _ := strings.Cut(strings.TrimSpace(part), "=")
			claim[name] = v
		}
	}
	scope := strings.Split(claim["Credential"], "/")
	at, err := time.Parse("20060102T150405Z", date)
	if err != nil || len(scope) != 5 {
		return fmt.Errorf("it is not signed: %q, %v", claim, err)
	}
	// A copy that has what was signed, and nothing else.
	u := *r.URL
	u.Scheme, u.Host = "https", r.Host
	if presigned {
		for _, name := range []string{"X-Amz-Signature", "X-Amz-Credential", "X-Amz-Date", "X-Amz-SignedHeaders", "X-Amz-Algorithm", "X-Amz-Security-Token"} {
			values.Del(name)
		}
		u.RawQuery = values.Encode()
	}
	again, err := http.NewRequest(r.Method, u.String(), nil)
	if err != nil {
		return err
	}
	for name := range strings.SplitSeq(claim["SignedHeaders"], ";") {
		switch {
		case name == "content-length":
			again.ContentLength = r.ContentLength
		case r.Header.Get(name) != "" && name != "x-amz-date" && name != "x-amz-security-token":
			again.Header[http.CanonicalHeaderKey(name)] = r.Header.Values(name)
		}
	}
	sum := sha256.Sum256(body)
	hash, stated := hex.EncodeToString(sum[:]), r.Header.Get("X-Amz-Content-Sha256")
	switch {
	case presigned && stated == "":
		hash = "UNSIGNED-PAYLOAD"
	case len(stated) == len(hash) && stated != hash:
		return errors.New("the body is not what was signed")
	case stated != "":
		hash = stated
	}
	opt := func(o *v4.SignerOptions) { o.DisableURIPathEscaping = scope[3] == "s3" }
	signer, want := v4.NewSigner(), ""
	if presigned {
		signed, _, err := signer.PresignHTTP(context.Background(), s.keys, again, hash, scope[3], scope[2], at, opt)
		if err != nil {
			return err
		}
		_, want, _ = strings.Cut(signed, "X-Amz-Signature=")
		want, _, _ = strings.Cut(want, "&")
	} else {
		if err := signer.SignHTTP(context.Background(), s.keys, again, hash, scope[3], scope[2], at, opt); err != nil {
			return err
		}
		_, want, _ = strings.Cut(again.Header.Get("Authorization"), "Signature=")
	}
	if claim["Signature"] != want || scope[0] != s.keys.AccessKeyID {
		return fmt.Errorf("the signature is %s of %s, and not %s", claim["Signature"], scope[0], want)
	}
	return nil
}

// test has the client of AWS's do all of it, and shows that its own signature,
// with the placeholders, would not be taken.
func (s *signatures) test(t *testing.T, sv servers) {
	from := modules(t, awsClient)
	if out, err := exec.Command("cp", "-r", from, filepath.Join(sv.ws, "aws")).CombinedOutput(); err != nil {
		t.Fatalf("copy the client: %v\n%s", err, out)
	}
	write(t, sv.u, filepath.Join(sv.ws, "aws", "client.js"), awsScript)
	r := sv.sh(t, "node aws/client.js")
	s.mu.Lock()
	defer s.mu.Unlock()
	if want := "123456789012\nknown\n200 known\n"; r.code != 0 || r.out != want {
		t.Errorf("%+v", r)
	}
	if len(s.wrong) > 0 || len(s.asked) != 5 {
		t.Errorf("of %q these were signed in another way: %q", s.asked, s.wrong)
	}
	if !bytes.Contains(s.objects["/stream"], []byte("known\r\n0\r\nx-amz-checksum-")) { // pieces, with a sum behind them
		t.Errorf("the stream came as %q", s.objects["/stream"])
	}
	guests := &signatures{keys: aws.Credentials{AccessKeyID: s.keys.AccessKeyID, SecretAccessKey: "another"}}
	req, err := http.NewRequest(http.MethodGet, "https://sts.us-east-1.amazonaws.com/", nil)
	if err != nil {
		t.Fatal(err)
	}
	empty := sha256.Sum256(nil)
	if err := v4.NewSigner().SignHTTP(t.Context(), guests.keys, req, hex.EncodeToString(empty[:]), "sts", "us-east-1", time.Now()); err != nil {
		t.Fatal(err)
	}
	if s.verify(req, nil) == nil || guests.verify(req, nil) != nil {
		t.Error("the server takes the signature of other keys, or not that of its own")
	}
}

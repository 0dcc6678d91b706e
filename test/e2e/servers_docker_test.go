package e2e

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"berth.dev/test/standin"
)

// Hosts of container registries: one of the user's own, which takes a password,
// and GitHub's, which takes tokens that its token server gives for a password.
const (
	ownRegistry   = "registry.acme.example"
	tokenRegistry = "ghcr.io"
)

// registryConfig is of Docker's own registry: a folder, an address, and how
// users prove who they are.
const registryConfig = `
version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: %s}}
http: {addr: "%s", relativeurls: true}
auth: %s
`

// images are two container registries.
type images struct {
	origins []origin
	tokens  *doorman // of the token server
}

func newImages(t *testing.T, real map[string]string) images {
	t.Helper()
	dir := t.TempDir()
	file := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	hash, err := bcrypt.GenerateFromPassword([]byte(real["REGISTRY"]), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	users := file("htpasswd", fmt.Appendf(nil, "robot:%s\n", hash))
	issuer := newIssuer(t)
	roots := file("issuer.pem", issuer.roots)
	tokens := &doorman{scheme: "Basic", password: real["GH_TOKEN"], behind: issuer}
	github := http.NewServeMux()
	github.Handle("/token", tokens)
	github.Handle("/", behind(registry(t, dir, fmt.Sprintf(`{token: {realm: "https://%[1]s/token", service: "%[1]s", issuer: "%[2]s", rootcertbundle: "%[3]s"}}`, tokenRegistry, issuerName, roots))))
	return images{
		origins: []origin{
			serveTLS(t, behind(registry(t, dir, fmt.Sprintf(`{htpasswd: {realm: the test, path: "%s"}}`, users))), ownRegistry),
			serveTLS(t, github, tokenRegistry),
		},
		tokens: tokens,
	}
}

// registry runs one, with the given way to sign in, and returns its address.
func registry(t *testing.T, dir, auth string) string {
	t.Helper()
	root, err := os.MkdirTemp(dir, "registry-")
	if err != nil {
		t.Fatal(err)
	}
	return background(t, "/", func(address string) []string {
		config := filepath.Join(root, "config.yml")
		if err := os.WriteFile(config, fmt.Appendf(nil, registryConfig, root, address, auth), 0o644); err != nil {
			t.Fatal(err)
		}
		return []string{"docker-registry", "serve", config}
	})
}

// test pushes an image and pulls it: where the sandbox is signed in by what is
// kept, and where somebody inside says docker login with the placeholder.
func (i images) test(t *testing.T, s servers) {
	if r := s.sh(t, `mkdir /tmp/image; cd /tmp/image; echo from the registry > file; printf 'FROM scratch\nADD file /\nCMD ["x"]\n' > Dockerfile
		docker build -q -t thing . >&2`); r.code != 0 {
		t.Fatalf("build: %+v", r)
	}
	const roundTrip = `
		docker tag thing $at; docker push -q $at >&2; docker rmi thing $at >&2; docker pull -q $at >&2
		docker tag $at thing; docker create --name made $at >&2; docker cp made:/file -; docker rm made >&2`
	// Nobody signs in at the first: the sandbox has a Docker configuration.
	r := s.sh(t, "at="+ownRegistry+"/acme/thing:1"+roundTrip)
	if r.code != 0 || !strings.Contains(r.out, "from the registry") {
		t.Errorf("a registry with a password: %+v", r)
	}
	if r := s.sh(t, "docker --config /var/empty pull -q "+ownRegistry+"/acme/thing:1"); r.code == 0 {
		t.Error("who is not signed in can pull")
	}
	at := "at=" + tokenRegistry + "/octocat/thing:1"
	if r := s.sh(t, at+"; docker tag thing $at; docker push -q $at"); r.code == 0 {
		t.Error("who is not signed in can push")
	}
	r = s.sh(t, at+"; docker login -u octocat --password-stdin "+tokenRegistry+` <<< "$GH_TOKEN" >&2`+roundTrip)
	if r.code != 0 || !strings.Contains(r.out, "from the registry") {
		t.Errorf("a registry with tokens: %+v", r)
	}
	if r := s.sh(t, at+`; docker rmi $at >&2; cd /tmp/image; printf "FROM $at\nADD file /again\n" > Dockerfile; docker buildx build . 2>&1`); r.code != 0 {
		t.Errorf("a build on what has to be pulled: %+v", r)
	}
	i.tokens.only(t, "the token server")
	// The login by hand has joined what was there.
	if r := s.sh(t, "cat ~/.docker/config.json"); !strings.Contains(r.out, ownRegistry) || !strings.Contains(r.out, tokenRegistry) {
		t.Errorf("Docker's configuration: %s", r.out)
	}
	for _, q := range i.origins[0].Requests() {
		for _, key := range q.Keys {
			if key != basic("robot", realSecrets["REGISTRY"]) {
				t.Errorf("%s came with %q", q.Line, key)
			}
		}
	}
}

// issuerName is who the token server is.
const issuerName = "the test's issuer"

// issuer gives tokens for what is asked, as the Distribution specification has
// them (docs.docker.com, "Token authentication specification").
type issuer struct {
	roots []byte
	cert  *tls.Certificate
}

func newIssuer(t *testing.T) issuer {
	t.Helper()
	ca, err := standin.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Certificate("issuer.example")
	if err != nil {
		t.Fatal(err)
	}
	return issuer{ca.PEM(), cert}
}

// ServeHTTP implements http.Handler.
func (i issuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	type access struct {
		Type    string   `json:"type"`
		Name    string   `json:"name"`
		Actions []string `json:"actions"`
	}
	granted := []access{}
	for _, scope := range r.URL.Query()["scope"] {
		if p := strings.Split(scope, ":"); len(p) == 3 {
			granted = append(granted, access{p[0], p[1], strings.Split(p[2], ",")})
		}
	}
	now := time.Now()
	token, err := i.sign(map[string]any{
		"iss": issuerName, "sub": "octocat", "aud": r.URL.Query().Get("service"), "jti": rand.Text(),
		"iat": now.Unix(), "nbf": now.Add(-time.Minute).Unix(), "exp": now.Add(5 * time.Minute).Unix(), "access": granted,
	})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"token": token, "expires_in": 300})
}

// sign makes a JWT (RFC 7519) with the certificate in its header.
func (i issuer) sign(claims map[string]any) (string, error) {
	header, err := json.Marshal(map[string]any{
		"typ": "JWT", "alg": "ES256", "x5c": []string{base64.StdEncoding.EncodeToString(i.cert.Certificate[0])},
	})
	if err != nil {
		return "", err
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	enc := base64.RawURLEncoding
	text := enc.EncodeToString(header) + "." + enc.EncodeToString(payload)
	sum := sha256.Sum256([]byte(text))
	a, b, err := ecdsa.Sign(rand.Reader, i.cert.PrivateKey.(*ecdsa.PrivateKey), sum[:])
	if err != nil {
		return "", err
	}
	var sig [64]byte
	a.FillBytes(sig[:32])
	b.FillBytes(sig[32:])
	return text + "." + enc.EncodeToString(sig[:]), nil
}

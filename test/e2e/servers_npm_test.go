package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"berth.dev/internal/service"
)

// verdaccio is a registry of packages that is used in earnest. The override is for
// mirrors that have not all of npm's tags.
const verdaccio = `{"private": true, "dependencies": {"verdaccio": "6"}, "overrides": {"node-fetch": "^2.7.0"}}`

// verdaccioConfig wants a token for all that is below @acme; %s is a folder.
const verdaccioConfig = `
storage: %[1]s/storage
auth: {htpasswd: {file: %[1]s/htpasswd, max_users: 1}}
packages: {"@acme/*": {access: $authenticated, publish: $authenticated}}
log: {type: stdout, format: json, level: warn}
`

// packages is a registry of npm packages at the host that the built-in service is
// for.
type packages struct {
	origin origin
	host   string
	token  string
}

func newPackages(t *testing.T, real map[string]string) packages {
	t.Helper()
	d, ok := service.ByName("npm")
	if !ok {
		t.Fatal("there is no service npm")
	}
	p := packages{host: "registry" + strings.TrimPrefix(d.Hosts[0].Host.String(), "*")}
	dir := t.TempDir()
	config := filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(config, fmt.Appendf(nil, verdaccioConfig, dir), 0o644); err != nil {
		t.Fatal(err)
	}
	address := background(t, "/-/ping", func(address string) []string {
		return []string{"node", filepath.Join(modules(t, verdaccio), "node_modules/verdaccio/bin/verdaccio"), "--config", config, "--listen", address}
	})
	p.token = signUp(t, "http://"+address)
	real["NPM_TOKEN"] = p.token
	p.origin = serveTLS(t, behind(address), p.host)
	return p
}

// signUp makes the registry's user ada and returns the token that she has.
func signUp(t *testing.T, registry string) string {
	t.Helper()
	req, err := http.NewRequest(http.MethodPut, registry+"/-/user/org.couchdb.user:ada", strings.NewReader(`{"name":"ada","password":"lovelace1815"}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := soon.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var answer struct{ Token string }
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil || len(answer.Token) < 16 {
		t.Fatalf("sign up: %s, %v", res.Status, err)
	}
	return answer.Token
}

// npmrc is what a project says that has a registry of its own.
const npmrc = "@acme:registry=https://%[1]s/\n//%[1]s/:_authToken=${NPM_TOKEN}\n"

// test publishes a package and installs it elsewhere.
func (p packages) test(t *testing.T, s servers) {
	write(t, s.u, filepath.Join(s.ws, "npmrc"), fmt.Sprintf(npmrc, p.host))
	const thing = `{"name":"@acme/thing","version":"1.0.0","main":"index.js"}`
	if r := s.sh(t, `for d in lib app bare; do mkdir /tmp/$d; cp npmrc /tmp/$d/.npmrc; done
		cd /tmp/lib; echo '`+thing+`' > package.json; echo 'module.exports = "from the registry"' > index.js
		npm whoami --registry https://`+p.host+`/; npm publish --dry-run 2>&1; npm publish >&2`); r.code != 0 || !strings.HasPrefix(r.out, "ada\n") || !strings.Contains(r.out, "@acme/thing@1.0.0") || strings.Contains(r.out, "logged in") {
		t.Fatalf("publish: %+v", r)
	}
	if r := s.sh(t, "cd /tmp/bare; unset NPM_TOKEN; npm install --no-audit --no-fund @acme/thing"); r.code == 0 {
		t.Error("who is not signed in can install")
	}
	r := s.sh(t, `cd /tmp/app; npm install --no-audit --no-fund @acme/thing >&2; node -p 'require("@acme/thing")'`)
	if r.code != 0 || r.out != "from the registry\n" {
		t.Errorf("install: %+v", r)
	}
	arrived := 0
	for _, q := range p.origin.Requests() {
		for _, key := range q.Keys {
			switch key {
			case p.token:
				arrived++
			case "${NPM_TOKEN}": // what npm makes of a variable that is not set
			default:
				t.Errorf("%s came with %q", q.Line, key)
			}
		}
	}
	if arrived < 4 {
		t.Errorf("the token came %d times", arrived)
	}
}

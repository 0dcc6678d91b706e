package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"berth.dev/internal/audit"
)

// Secrets of the user's shell, and one that is kept. None of them is in the
// sandbox, and each of the servers takes no other.
var realSecrets = map[string]string{
	"GH_TOKEN":              "gho_theRealOneOfTheTest0000000000000000",
	"TWINE_PASSWORD":        "pypi-theRealOneOfTheTest00000000",
	"GITLAB_TOKEN":          "glpat-theRealOneOfTheTest0000",
	"AWS_ACCESS_KEY_ID":     "AKIAREALONEOFTHETEST",
	"AWS_SECRET_ACCESS_KEY": "theRealOne/ofTheTest+0000000000000000000",
	"AWS_SESSION_TOKEN":     "theRealSession/ofTheTest+00000000==",
	"REGISTRY":              "the-real-password-of-the-registry",
}

// servers is a sandbox whose tools work at servers that want a credential.
type servers struct {
	u        *user
	ws, name string
}

// sh runs a script as the agent would.
func (s servers) sh(t *testing.T, script string) result {
	t.Helper()
	return s.u.run(t, s.ws, nil, "exec", "-w", s.ws, s.name, "bash", "-ec", script)
}

// TestSecretsServers: with nothing but placeholders inside, Git, npm, twine, Docker
// and AWS's client work at real servers, which check what they are given: GitHub's
// and GitLab's Git, a registry of packages, two of containers, and signatures.
func TestSecretsServers(t *testing.T) {
	least(t, func(t *testing.T, u *user) {
		real := map[string]string{}
		for name, v := range realSecrets {
			real[name] = v
		}
		forges, npm, pypi := newForges(t, real), newPackages(t, real), newUploads(t, real)
		images, aws := newImages(t, real), newSignatures(t, real)
		u = u.apart(t, append(append(forges.origins, npm.origin, pypi.origin, aws.origin), images.origins...)...)
		s := servers{u, u.workspace(t), u.fresh(t)}
		s.start(t, real, aws.host)
		for name, placeholder := range s.seen(t, real) {
			if placeholder == "" || placeholder == real[name] {
				t.Fatalf("inside, %s is %q", name, placeholder)
			}
		}
		t.Run("servers", func(t *testing.T) {
			for what, test := range map[string]func(*testing.T, servers){
				"git": forges.test, "npm": npm.test, "pypi": pypi.test, "docker": images.test, "aws": aws.test,
			} {
				t.Run(what, func(t *testing.T) {
					t.Parallel() // they mostly wait
					test(t, s)
				})
			}
		})
		s.recorded(t, real)
	})
}

// start makes the sandbox, in whose shell the secrets are but for the one that is
// kept.
func (s servers) start(t *testing.T, real map[string]string, allow ...string) {
	t.Helper()
	for _, host := range append(allow, ownRegistry) {
		s.u.must(t, s.ws, "policy", "allow", host)
	}
	var env []string
	for name, v := range real {
		if name != "REGISTRY" {
			env = append(env, name+"="+v)
		}
	}
	r := s.u.run(t, s.ws, env, "create", "--name", s.name, "-e", "TWINE_PASSWORD", "shell", s.ws) // which few need
	if r.code != 0 || !strings.Contains(r.err, "it can use GH_TOKEN, GITLAB_TOKEN, NPM_TOKEN, TWINE_PASSWORD, aws of this shell, and sees") {
		t.Fatalf("create: %+v", r)
	}
	// This one comes later, and acts at once.
	set := s.u.command(t.Context(), s.ws, "secret", "set", "REGISTRY", "--host", ownRegistry, "--basic", "robot", "--docker")
	set.Stdin = strings.NewReader(real["REGISTRY"])
	if r := finish(t, set); r.code != 0 {
		t.Fatalf("%+v", r)
	}
}

// install installs packages of Debian's. Several may be asked for at once.
func (s servers) install(t *testing.T, packages string) {
	t.Helper()
	s.u.patient(t, s.ws, "exec", "-u", "root", s.name, "flock", "/run/apt", "sh", "-ec",
		"apt-get update -qq; DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "+packages+" >&2")
}

// seen are the variables as they are inside. AWS's session is not there.
func (s servers) seen(t *testing.T, real map[string]string) map[string]string {
	t.Helper()
	seen := map[string]string{}
	for name := range real {
		if name != "AWS_SESSION_TOKEN" {
			seen[name] = s.sh(t, `printf %s "$`+name+`"`).out
		}
	}
	return seen
}

// recorded: each use is a line, and none has the secret.
func (s servers) recorded(t *testing.T, real map[string]string) {
	t.Helper()
	events, text := s.u.events(t, s.name, "--secrets")
	used := map[string]int{}
	for _, e := range events {
		if e.Verdict == audit.Allow {
			used[e.Secret]++
		} else {
			t.Errorf("refused: %s %s%s: %s", e.Method, e.Name, e.Path, e.Reason)
		}
	}
	for _, name := range []string{"GH_TOKEN", "GITLAB_TOKEN", "NPM_TOKEN", "TWINE_PASSWORD", "aws", "REGISTRY"} {
		if used[name] == 0 {
			t.Errorf("the record has no use of %s", name)
		}
	}
	for name, v := range real {
		if strings.Contains(text, v) {
			t.Errorf("the record has %s", name)
		}
	}
}

// doorman asks for a password, and remembers what it was given.
type doorman struct {
	scheme   string // "Basic", or the word in front of a token
	password string
	behind   http.Handler

	mu    sync.Mutex
	given map[string]int
}

// ServeHTTP implements http.Handler.
func (d *doorman) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	word, given, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if strings.EqualFold(word, "Basic") {
		_, given, _ = r.BasicAuth()
	}
	if given != "" {
		d.mu.Lock()
		if d.given == nil {
			d.given = map[string]int{}
		}
		d.given[given]++
		d.mu.Unlock()
	}
	if !strings.EqualFold(word, d.scheme) || given != d.password {
		w.Header().Set("WWW-Authenticate", d.scheme+` realm="the test"`)
		http.Error(w, "sign in", http.StatusUnauthorized)
		return
	}
	d.behind.ServeHTTP(w, r)
}

// only says whether it was given its password, and nothing else.
func (d *doorman) only(t *testing.T, who string) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	for given, n := range d.given {
		if given != d.password {
			t.Errorf("%s was given %q, %d times", who, given, n)
		}
	}
	if d.given[d.password] == 0 {
		t.Errorf("%s was never given its password", who)
	}
}

// behind passes what comes for a host on to a server of plain HTTP, as what ends
// TLS in front of one does.
func behind(address string) http.Handler {
	return &httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) {
		p.SetURL(&url.URL{Scheme: "http", Host: address})
		p.SetXForwarded()
		p.Out.Host = p.In.Host
	}}
}

// background runs a server until the test ends, and waits until it answers at
// http://ADDRESS/PATH. args are made of the address that it is to listen on.
func background(t *testing.T, path string, args func(address string) []string) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address = l.Addr().String()
	l.Close()
	argv := args(address)
	cmd := exec.Command(argv[0], argv[1:]...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-ended })
	eventually(t, argv[0]+" answers", func() bool {
		select {
		case <-ended:
			t.Fatalf("%s ended: %s", argv[0], &said)
		default:
		}
		res, err := http.Get("http://" + address + path)
		if err == nil {
			res.Body.Close()
		}
		return err == nil
	})
	return address
}

// modules installs packages of npm's on the host, once, and returns the folder
// that has them; manifest is its package.json.
func modules(t *testing.T, manifest string) string {
	t.Helper()
	sum := sha256.Sum256([]byte(manifest))
	dir := filepath.Join(suite.users[0].berthHome, "npm", hex.EncodeToString(sum[:8]))
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), "new-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(tmp)
	if err := os.WriteFile(filepath.Join(tmp, "package.json"), []byte(manifest), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "npm", "install", "--no-audit", "--no-fund", "--omit=dev", "--ignore-scripts")
	cmd.Dir = tmp
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("npm install: %v\n%s", err, out)
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, dir); err != nil && !os.IsExist(err) {
		t.Fatal(err)
	}
	return dir
}

// forges are GitHub and GitLab: Git's own server behind a password, and one
// answer of GitHub's API.
type forges struct {
	origins []origin
	doors   map[string]*doorman
}

func newForges(t *testing.T, real map[string]string) forges {
	t.Helper()
	repos := map[string]bool{"octocat/closed.git": true}
	user := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"login":"octocat"}`)
	})
	f := forges{doors: map[string]*doorman{
		"github.com":     {scheme: "Basic", password: real["GH_TOKEN"], behind: gitBackend(t, repos)},
		"gitlab.com":     {scheme: "Basic", password: real["GITLAB_TOKEN"], behind: gitBackend(t, repos)},
		"api.github.com": {scheme: "token", password: real["GH_TOKEN"], behind: user},
	}}
	for host, door := range f.doors {
		f.origins = append(f.origins, serveTLS(t, door, host))
	}
	return f
}

// test clones and pushes with nothing set up inside.
func (f forges) test(t *testing.T, s servers) {
	git := func(script string) result {
		return s.sh(t, "export GIT_TERMINAL_PROMPT=0; git config --global user.email a@example.com; git config --global user.name a; cd /tmp\n"+script)
	}
	for host, token := range map[string]string{"github.com": "GH_TOKEN", "gitlab.com": "GITLAB_TOKEN"} {
		clone := "git clone -q https://" + host + "/octocat/closed.git " + host
		if r := git("unset " + token + "; " + clone); r.code == 0 {
			t.Errorf("%s: who is not signed in can clone", host)
		}
		r := git(clone + "; cat " + host + "/README; cd " + host + "; date +%s%N > README; git commit -qam second; git push -q; git ls-remote -q origin HEAD; git rev-parse HEAD")
		words := strings.Fields(r.out)
		if r.code != 0 || len(words) != 4 || words[0] != "first" || words[1] != words[3] {
			t.Errorf("%s: %+v", host, r)
		}
		f.doors[host].only(t, host)
	}
	if r := s.sh(t, `curl -sSf -H "Authorization: token $GH_TOKEN" https://api.github.com/user`); r.out != `{"login":"octocat"}` {
		t.Errorf("GitHub's API: %+v", r)
	}
	s.install(t, "gh")
	if r := s.sh(t, "gh api user --jq .login"); r.out != "octocat\n" {
		t.Errorf("gh: %+v", r)
	}
	f.doors["api.github.com"].only(t, "GitHub's API")
}

// basic is a user and a password as they are sent.
func basic(user, password string) string {
	return base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "%s:%s", user, password))
}

// soon bounds a request of the test's own.
var soon = &http.Client{Timeout: 30 * time.Second}

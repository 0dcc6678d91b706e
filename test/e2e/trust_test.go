package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// trustHost is a host that only Berth's interception serves: whoever gets an
// answer from it trusts the sandbox's authority.
const trustHost = "intercepted.test"

// answers is what that host says to each kind of client.
func answers(w http.ResponseWriter, r *http.Request) {
	switch path := r.URL.Path; {
	case strings.HasSuffix(path, "/info/refs"): // git, of a server that knows nothing of git
		_, _ = io.WriteString(w, strings.Repeat("5", 40)+"\trefs/heads/through\n")
	case strings.HasSuffix(path, "/HEAD"):
		_, _ = io.WriteString(w, "ref: refs/heads/through\n")
	case strings.HasSuffix(path, "/@v/list"): // go
		_, _ = io.WriteString(w, "v1.0.0-through\n")
	case strings.HasSuffix(path, ".info"):
		_, _ = io.WriteString(w, `{"Version":"v1.0.0-through","Time":"2025-01-01T00:00:00Z"}`)
	case strings.HasSuffix(path, ".mod"):
		_, _ = io.WriteString(w, "module example.com/thing\n")
	case strings.HasPrefix(path, "/simple/"): // pip
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, `<a href="thing-1.0-py3-none-any.whl">thing-1.0-py3-none-any.whl</a>`)
	case strings.HasPrefix(path, "/npm/"):
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"name":"through","dist-tags":{"latest":"1.0.0"},"versions":{"1.0.0":{"name":"through","version":"1.0.0"}}}`)
	default:
		_, _ = io.WriteString(w, "through\n")
	}
}

// trustClients are programs that bring their own ways to verify a server. Each
// prints "through" when it gets an answer.
var trustClients = []struct{ name, script string }{
	{"curl", "curl -sS https://" + trustHost + "/"},
	{"curl over sudo", "sudo curl -sS https://" + trustHost + "/"},
	{"openssl", "printf 'GET / HTTP/1.0\\r\\nHost: " + trustHost + "\\r\\n\\r\\n' | openssl s_client -quiet -verify_return_error -connect " + trustHost + ":443 -servername " + trustHost},
	{"openssl by its folder", "printf 'GET / HTTP/1.0\\r\\nHost: " + trustHost + "\\r\\n\\r\\n' | env -u SSL_CERT_FILE openssl s_client -quiet -verify_return_error -no-CAfile -CApath /etc/ssl/certs -connect " + trustHost + ":443"},
	{"git", "git ls-remote https://" + trustHost + "/repo.git"},
	{"git with no variable", "env -i PATH=$PATH git ls-remote https://" + trustHost + "/repo.git"},
	{"node", `node -e 'fetch("https://` + trustHost + `/").then(r => r.text()).then(console.log)'`},
	{"node over sudo", `sudo node -e 'fetch("https://` + trustHost + `/").then(r => r.text()).then(console.log)'`},
	{"npm", "npm view --registry https://" + trustHost + "/npm/ through name"},
	{"python", `python3 -c 'import urllib.request as u; print(u.urlopen("https://` + trustHost + `/").read().decode())'`},
	{"pip", `pip index versions --index-url https://` + trustHost + `/simple/ thing 2>&1 | sed 's/.*1[.]0.*/through/'`},
	{"go", `GOPROXY=https://` + trustHost + ` GONOSUMDB=\* GOFLAGS=-mod=mod go list -m -versions example.com/thing`},
}

// TestTrust: what runs in a sandbox trusts the sandbox's authority, after a
// restart too, by which it has another; and sudo's rules are such as sudo takes.
func TestTrust(t *testing.T) {
	least(t, func(t *testing.T, u *user) {
		u, ws, name := u.trusting(t)
		exec := func(script string) result {
			t.Helper()
			return u.run(t, ws, nil, "exec", "-w", ws, name, "sh", "-c", script)
		}
		// Without it there is no way through.
		const public = "sed '/berth: the authority/,/berth: end/d' /etc/ssl/certs/ca-certificates.crt > /tmp/public.pem; "
		if r := exec(public + "curl -sS --capath /var/empty --cacert /tmp/public.pem https://" + trustHost + "/"); r.code != 60 {
			t.Errorf("with the public authorities alone, curl ends with %d: %s%s", r.code, r.out, r.err)
		}
		for _, when := range []string{"first", "after a restart", "with a bundle made anew"} {
			switch when {
			case "after a restart":
				u.must(t, ws, "stop", name)
			case "with a bundle made anew":
				u.patient(t, ws, "exec", name, "sudo", "update-ca-certificates")
			}
			t.Run(when, func(t *testing.T) {
				for _, c := range trustClients {
					if r := exec(c.script); !strings.Contains(r.out, "through") {
						t.Errorf("%s: status %d\n%s%s", c.name, r.code, r.out, r.err)
					}
				}
			})
		}
		u.must(t, ws, "stop", name)
		if r := exec("grep -c 'BEGIN CERTIFICATE' /tmp/public.pem /etc/ssl/certs/ca-certificates.crt | cut -d: -f2 | sort -n | tr '\\n' ' '"); !oneMore(r.out) {
			t.Errorf("the numbers of public and of all authorities are %q", r.out)
		}
		if r := exec("sudo visudo -c"); r.code != 0 {
			t.Errorf("sudo's rules: %s%s", r.out, r.err)
		}
	})
}

// patient is must for what starts hundreds of programs, or installs some.
func (u *user) patient(t *testing.T, dir string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	if r := finish(t, u.command(ctx, dir, args...)); r.code != 0 {
		t.Fatalf("berth %s: status %d\n%s%s", strings.Join(args, " "), r.code, r.out, r.err)
	}
}

// oneMore says whether the second of two numbers is that of the first and one.
func oneMore(numbers string) bool {
	var a, b int
	n, err := fmt.Sscan(numbers, &a, &b)
	return n == 2 && err == nil && b == a+1
}

// trusting is the user with a sandbox in which trustHost is intercepted.
func (u *user) trusting(t *testing.T) (own *user, ws, name string) {
	t.Helper()
	own = u.apart(t, serveTLS(t, http.HandlerFunc(answers), trustHost))
	ws, name = own.workspace(t), own.fresh(t)
	own.must(t, ws, "policy", "allow", trustHost)
	own.must(t, ws, "create", "-q", "--name", name, "shell", ws)
	return own, ws, name
}

// trustDocker is run in a sandbox: it makes an image of the sandbox's own
// programs, with what it trusts of the public authorities alone.
const trustDocker = `
clients="sh cat env curl git python3 sleep"
mkdir -p /tmp/root/bin /tmp/root/usr/lib/git-core /tmp/root/etc/ssl/certs /tmp/root/dev /tmp/root/proc /tmp/root/sys /tmp/root/tmp
for f in $clients; do p=$(readlink -f "$(command -v $f)"); mkdir -p /tmp/root$(dirname $p); cp $p /tmp/root$p; ln -sf $p /tmp/root/bin/$f; done
cp -L /usr/lib/git-core/git-remote-http /tmp/root/usr/lib/git-core/git-remote-https
for p in $(for f in $clients; do ldd $(readlink -f $(command -v $f)); done | cat - /dev/fd/3 3<<EOF | grep -o '/[^ )]*' | sort -u
$(ldd /usr/lib/git-core/git-remote-http)
EOF
); do mkdir -p /tmp/root$(dirname $p); cp -L $p /tmp/root$p; done
cp -r /usr/lib/python3* /tmp/root/usr/lib/
sed '/berth: the authority/,/berth: end/d' /etc/ssl/certs/ca-certificates.crt > /tmp/root/etc/ssl/certs/ca-certificates.crt
tar -C /tmp/root -cf root.tar .
`

const trustDockerfile = `FROM scratch
ADD root.tar /
ENV PIP_CERT=/mine
RUN curl -sS https://` + trustHost + `/ > /curl && git ls-remote https://` + trustHost + `/repo.git > /git
RUN python3 -c 'import urllib.request as u; print(u.urlopen("https://` + trustHost + `/").read().decode())' > /python
CMD ["sh", "-c", "cat /curl /git /python; curl -sS https://` + trustHost + `/"]
`

// TestTrustInContainers: a build's steps, what is run of its image, and what is
// run in that, trust the authority too, and no image or container shows it.
func TestTrustInContainers(t *testing.T) {
	least(t, func(t *testing.T, u *user) {
		u, ws, name := u.trusting(t)
		exec := func(script string) string {
			t.Helper()
			r := u.runDocker(t, ws, "exec", "-w", ws, name, "sh", "-ec", script)
			if r.code != 0 {
				t.Fatalf("%s\nstatus %d\n%s%s", script, r.code, r.out, r.err)
			}
			return r.out
		}
		exec(trustDocker)
		write(t, u, filepath.Join(ws, "Dockerfile"), trustDockerfile)
		exec("docker build -q -t made .")
		if out := exec("docker run --rm made"); strings.Count(out, "through") != 4 {
			t.Errorf("the steps of a build and the container print %q", out)
		}
		if out := exec("docker run --rm --privileged --read-only -u 1000 made curl -sS https://" + trustHost + "/"); out != "through\n" {
			t.Errorf("an odd container prints %q", out)
		}
		exec("docker rm -f kept || true; docker run -d --name kept made sleep 1000")
		if out := exec("docker exec kept curl -sS https://" + trustHost + "/"); out != "through\n" {
			t.Errorf("what is run in a container prints %q", out)
		}
		if out := exec("docker exec kept env"); !strings.Contains(out, "PIP_CERT=/mine\n") || !strings.Contains(out, "SSL_CERT_FILE=/dev/.berth/") {
			t.Errorf("its environment is %q", out)
		}
		// The sandbox's own /dev, which is shared, gets nothing.
		if out := exec("docker run --rm -v /dev:/dev made env; ls -A /dev"); strings.Contains(out, "berth") {
			t.Errorf("with the sandbox's /dev: %q", out)
		}
		if out := exec("docker diff kept"); out != "" {
			t.Errorf("the container differs from its image by %q", out)
		}
		exec("docker commit kept saved")
		if out := exec("docker inspect kept made saved"); strings.Contains(out, "berth") || strings.Contains(out, "SSL_CERT") {
			t.Errorf("what Docker knows shows the authority: %s", out)
		}
		files := exec(`mkdir /tmp/saved; docker save saved | tar -xC /tmp/saved
			for f in $(find /tmp/saved -type f); do tar -tf $f 2>/dev/null || true; done`)
		if !strings.Contains(files, "python") || strings.Contains(files, ".berth") {
			t.Errorf("the image has %s", files)
		}
	})
}

// fetchJava gets an address with Java's own client.
const fetchJava = `import java.net.URI;
import java.net.http.*;
public class Fetch {
	public static void main(String[] args) throws Exception {
		var request = HttpRequest.newBuilder(URI.create(args[0])).build();
		System.out.print(HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString()).body());
	}
}
`

// TestTrustLater: Java, Ruby and GNU Wget, which the base system has not, when
// they are installed after the start, and Java at the next start. That takes
// minutes and has nothing to do with who the user is.
func TestTrustLater(t *testing.T) {
	u, ws, name := suite.users[0].trusting(t)
	write(t, u, filepath.Join(ws, "Fetch.java"), fetchJava)
	install := "sudo apt-get update -qq; sudo DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends default-jdk-headless ruby wget >&2"
	u.patient(t, ws, "exec", name, "sh", "-ec", install)
	for _, when := range []string{"installed", "after a restart"} {
		if when != "installed" {
			u.must(t, ws, "stop", name)
			u.must(t, ws, "exec", name, "true") // which says that it starts
		}
		for what, script := range map[string]string{
			"java": "java Fetch.java https://" + trustHost + "/",
			"ruby": `ruby -e 'require "net/http"; puts Net::HTTP.get(URI("https://` + trustHost + `/"))'`,
			"wget": "wget -qO- https://" + trustHost + "/",
		} {
			r := u.run(t, ws, nil, "exec", "-w", ws, name, "sh", "-c", script)
			if r.code != 0 || !strings.Contains(r.out, "through") || r.err != "" {
				t.Errorf("%s, %s: status %d\n%s%s", when, what, r.code, r.out, r.err)
			}
		}
	}
}

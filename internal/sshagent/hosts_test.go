package sshagent

import (
	"crypto/rand"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

func TestHosts(t *testing.T) {
	t.Parallel()
	a, b, ca, gone := newServer(t), newServer(t), newServer(t), newServer(t)
	file := filepath.Join(t.TempDir(), "known_hosts")
	text := "# a comment\n\nnonsense\nhost ssh-unknown AAAA\n" +
		a.known("10.0.0.1,Forge.example,[forge.example]:2222") + a.known("also.example") +
		b.known("*.wild.example,!not.wild.example") +
		"@cert-authority " + ca.known("*.signed.example") + "@revoked " + gone.known("*") + gone.known("gone.example")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	h, err := LoadHosts(file, file+"2")
	if err != nil {
		t.Fatal(err)
	}
	find := func(key ssh.PublicKey, candidates ...string) Destination {
		t.Helper()
		d, err := h.find(key, candidates)
		if err != nil {
			t.Errorf("%v", err)
		}
		return d
	}
	if d := find(a.PublicKey()); d.Name != "Forge.example" || !d.Known || !slices.Contains(d.names, "also.example") || d.names[len(d.names)-1] != "10.0.0.1" {
		t.Errorf("%+v", d)
	}
	if d := find(a.PublicKey(), "x.example", "[forge.example]:2222"); d.Name != "[forge.example]:2222" {
		t.Errorf("%+v", d)
	}
	if d := find(b.PublicKey()); d.Name != "*.wild.example" || !d.Known {
		t.Errorf("%+v", d)
	}
	if d := find(b.PublicKey(), "not.wild.example", "git.wild.example"); d.Name != "git.wild.example" || slices.Contains(d.names, "not.wild.example") {
		t.Errorf("%+v", d)
	}
	if d, err := h.find(gone.PublicKey(), nil); err == nil || !strings.Contains(err.Error(), "revoked") {
		t.Errorf("%+v, %v", d, err)
	}
	if d := find(newServer(t).PublicKey(), "forge.example"); d.Known || !strings.HasPrefix(d.Name, "SHA256:") {
		t.Errorf("%+v", d)
	}
	// Certificates: what the authority vouches for, within its pattern, and now.
	certify := func(by server, change ...func(*ssh.Certificate)) *ssh.Certificate {
		c := &ssh.Certificate{
			Key: newServer(t).PublicKey(), CertType: ssh.HostCert, ValidPrincipals: []string{"git.signed.example", "elsewhere.example"},
			ValidBefore: ssh.CertTimeInfinity,
		}
		for _, f := range change {
			f(c)
		}
		if err := c.SignCert(rand.Reader, by); err != nil {
			t.Fatal(err)
		}
		return c
	}
	if d := find(certify(ca)); d.Name != "git.signed.example" || !d.Known || len(d.names) != 1 {
		t.Errorf("%+v", d)
	}
	for what, cert := range map[string]*ssh.Certificate{
		"another authority's": certify(a),
		"an old one":          certify(ca, func(c *ssh.Certificate) { c.ValidBefore = uint64(time.Now().Add(-time.Hour).Unix()) }),
		"a user's":            certify(ca, func(c *ssh.Certificate) { c.CertType = ssh.UserCert }),
		"for all names":       certify(ca, func(c *ssh.Certificate) { c.ValidPrincipals = nil }),
	} {
		if d := find(cert, "git.signed.example"); d.Known {
			t.Errorf("%s: %+v", what, d)
		}
	}
	forged := certify(ca)
	forged.ValidPrincipals = []string{"forged.signed.example"}
	if d := find(forged, "forged.signed.example"); d.Known {
		t.Errorf("forged: %+v", d)
	}
	if d, err := h.find(certify(gone), nil); err == nil {
		t.Errorf("%+v", d)
	}

	if got := h.Lines("also.example"); len(got) != 2 || got[0] != "also.example "+strings.TrimSpace(string(ssh.MarshalAuthorizedKey(a.PublicKey()))) {
		t.Errorf("%q", got)
	}
	if got := h.Lines("git.signed.example"); len(got) != 2 || !strings.HasPrefix(got[1], "@revoked ") || !strings.HasPrefix(got[0], "@cert-authority git.signed.example ") {
		t.Errorf("%q", got)
	}
}

// TestHashedHosts: entries as ssh-keygen hashes them.
func TestHashedHosts(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	file := filepath.Join(t.TempDir(), "known_hosts")
	if err := os.WriteFile(file, []byte(s.known("forge.example")+s.known("[forge.example]:2222")), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("ssh-keygen", "-H", "-f", file).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	h, err := LoadHosts(file)
	if err != nil {
		t.Fatal(err)
	}
	if d, err := h.find(s.PublicKey(), []string{"other.example", "forge.example"}); err != nil || d.Name != "forge.example" || !d.Known {
		t.Errorf("%+v, %v", d, err)
	}
	if d, err := h.find(s.PublicKey(), []string{"[forge.example]:2222"}); err != nil || d.Name != "[forge.example]:2222" {
		t.Errorf("%+v, %v", d, err)
	}
	if d, err := h.find(s.PublicKey(), nil); err != nil || !d.Known || !strings.HasPrefix(d.Name, "SHA256:") {
		t.Errorf("%+v, %v", d, err)
	}
	if len(h.Lines("forge.example")) != 1 {
		t.Error("the lines of a hashed host are not found")
	}
}

func TestHostName(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"GitHub.com": "github.com", "github.com:22": "github.com", "host:2222": "[host]:2222", "[host]:2222": "[host]:2222",
		"[::1]:22": "::1", "SHA256:aBc/+d": "SHA256:aBc/+d",
	} {
		if got := HostName(in); got != want {
			t.Errorf("%q is %q, not %q", in, got, want)
		}
	}
}

func TestWildcard(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 2000)
	for _, tt := range []struct {
		pattern, name string
		want          bool
	}{
		{"*", "", true}, {"a*c", "abbc", true}, {"a*c", "abb", false}, {"?.example", "a.example", true}, {"?.example", ".example", false},
		{"*.example", "example", false}, {"a", "ab", false}, {strings.Repeat("*a", 500) + "b", long, false},
	} {
		if got := wildcard(tt.pattern, tt.name); got != tt.want {
			t.Errorf("%.20s on %.20s: %v", tt.pattern, tt.name, got)
		}
	}
}

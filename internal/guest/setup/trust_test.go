package setup

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"os"
	"strings"
	"testing"
	"time"

	"berth.dev/internal/guest/trust"
	"berth.dev/internal/guestapi"
)

// authority makes a certificate of one with the given subject.
func authority(t testing.TB, subject pkix.Name) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: subject, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

var berthCA = pkix.Name{CommonName: "Berth sandbox CA", Organization: []string{"Berth"}}

// TestTrust: the authority is added where systems look, that of an earlier
// start goes, and everything else stays.
func TestTrust(t *testing.T) {
	s, _ := sandboxed(t)
	others := string(authority(t, pkix.Name{CommonName: "Somebody"}))
	for path, content := range map[string]string{
		guestapi.TrustBundle: others, "/etc/pki/tls/certs/ca-bundle.crt": strings.TrimSuffix(others, "\n"),
	} {
		if err := s.write(trustFile(path, []byte(content))); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(s.path(guestapi.TrustBundle), s.path("/etc/ssl/cert.pem")); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(s.path(sudoers), 0o755); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{
		"NODE_EXTRA_CA_CERTS": guestapi.TrustFile, "SSL_CERT_FILE": guestapi.TrustBundle, "EDITOR": "vi",
		"A\" ALL\nagent": guestapi.TrustFile,
	}
	var first []byte
	for range 3 {
		ca := authority(t, berthCA)
		for range 2 {
			if err := s.Apply(&guestapi.Config{TrustCA: ca, Env: env}); err != nil {
				t.Fatal(err)
			}
		}
		for _, path := range []string{guestapi.TrustBundle, "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"} {
			got := read(t, s, path)
			if !strings.HasPrefix(got, others) || strings.Count(got, string(ca)) != 1 || strings.Count(got, "BEGIN CERTIFICATE") != 2 {
				t.Errorf("%s:\n%s", path, got)
			}
		}
		if got := read(t, s, guestapi.TrustFile); got != string(ca) || bytes.Equal(first, ca) {
			t.Errorf("the file of its own:\n%s", got)
		}
		first = ca
	}
	if info, err := os.Lstat(s.path("/etc/ssl/cert.pem")); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("a link was replaced: %v", err)
	}
	if _, err := os.Stat(s.path("/etc/ssl/ca-bundle.pem")); err == nil {
		t.Error("a bundle was made that the system does not have")
	}
	if got := read(t, s, sudoers+"/berth-trust"); got != "Defaults env_keep += \"NODE_EXTRA_CA_CERTS SSL_CERT_FILE\"\n" {
		t.Errorf("sudo: %q", got)
	}
	if info, err := os.Stat(s.path(sudoers + "/berth-trust")); err != nil || info.Mode().Perm() != 0o440 {
		t.Errorf("sudo's file: %v", err)
	}
}

// TestTrustAfterSystemTools: the system's own tools make their bundles anew,
// from the file of its own and without the lines around; the authority of that
// start goes all the same at the next.
func TestTrustAfterSystemTools(t *testing.T) {
	s, _ := sandboxed(t)
	others := authority(t, pkix.Name{CommonName: "Somebody"})
	first, second := authority(t, berthCA), authority(t, berthCA)
	apply(t, s, first)
	made := append(append([]byte{}, first...), others...)
	if err := s.write(trustFile(guestapi.TrustBundle, made)); err != nil {
		t.Fatal(err)
	}
	apply(t, s, second)
	got := read(t, s, guestapi.TrustBundle)
	if strings.Contains(got, string(first)) || !strings.HasPrefix(got, string(others)) || strings.Count(got, string(second)) != 1 {
		t.Error(got)
	}
}

func apply(t *testing.T, s System, ca []byte) {
	t.Helper()
	if err := s.Apply(&guestapi.Config{TrustCA: ca}); err != nil {
		t.Fatal(err)
	}
}

// TestTrustElsewhere: on a system that has its bundle elsewhere, the one that
// variables lead to has what the system trusts.
func TestTrustElsewhere(t *testing.T) {
	s, _ := sandboxed(t)
	others, ca := string(authority(t, pkix.Name{CommonName: "Somebody"})), authority(t, berthCA)
	const fedora = "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem"
	if err := s.write(trustFile(fedora, []byte(others))); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(s.path(anchors[0]), 0o755); err != nil {
		t.Fatal(err)
	}
	apply(t, s, ca)
	for _, name := range []string{fedora, guestapi.TrustBundle} {
		if got := read(t, s, name); !strings.HasPrefix(got, others) || strings.Count(got, string(ca)) != 1 {
			t.Errorf("%s:\n%s", name, got)
		}
	}
	if got := read(t, s, anchors[0]+"/berth-sandbox.crt"); got != string(ca) {
		t.Errorf("anchor: %q", got)
	}
	// A system that trusts nobody trusts nobody but the sandbox.
	s, _ = sandboxed(t)
	apply(t, s, ca)
	if got := read(t, s, guestapi.TrustBundle); strings.Count(got, "BEGIN CERTIFICATE") != 1 {
		t.Errorf("where there is no bundle:\n%s", got)
	}
}

// TestTrustForms: Java, OpenSSL's folder and browsers, each start anew.
func TestTrustForms(t *testing.T) {
	s, _ := sandboxed(t)
	others := trust.Certificates(authority(t, pkix.Name{CommonName: "Somebody"}))
	if err := s.write(trustFile(keyStores[0], trust.KeyStore(others))); err != nil {
		t.Fatal(err)
	}
	if err := s.write(trustFile(keyStores[1], []byte("of another form"))); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		ca := authority(t, berthCA)
		cert := trust.Certificates(ca)[0]
		// The one that cannot be changed is told of and keeps nothing back.
		if err := s.Apply(&guestapi.Config{TrustCA: ca}); err == nil || !strings.Contains(err.Error(), keyStores[1]) {
			t.Fatalf("a key store of another form: %v", err)
		}
		if got := read(t, s, keyStores[0]); !strings.Contains(got, string(others[0])) || strings.Count(got, string(cert)) != 1 || len(got) > len(others[0])+len(cert)+200 {
			t.Errorf("the key store has %d bytes", len(got))
		}
		if got := read(t, s, keyStores[1]); got != "of another form" {
			t.Errorf("a key store that is none: %q", got)
		}
		target, err := os.Readlink(s.path(hashes + "/54af64e8.0"))
		if err != nil || target != "berth-sandbox.pem" {
			t.Errorf("the link by hash: %q, %v", target, err)
		}
		target, err = os.Readlink(s.path(hashes + "/berth-sandbox.pem"))
		if err != nil || target != guestapi.TrustFile {
			t.Errorf("the link by name: %q, %v", target, err)
		}
		var policy struct {
			EncryptedClientHelloEnabled *bool
			CACertificates              [][]byte
		}
		file := chromiumPolicies[0] + "/policies/managed/berth.json"
		err = json.Unmarshal([]byte(read(t, s, file)), &policy)
		if err != nil || policy.EncryptedClientHelloEnabled == nil || *policy.EncryptedClientHelloEnabled || !bytes.Equal(policy.CACertificates[0], cert) {
			t.Errorf("%s: %v, %+v", file, err, policy)
		}
		for _, dir := range chromiumPolicies[1:] {
			if target, err := os.Readlink(s.path(dir + "/policies/managed/berth.json")); err != nil || target != file {
				t.Errorf("%s: %q, %v", dir, target, err)
			}
		}
	}
	if got := read(t, s, firefoxPolicy); got != `{"policies":{"Certificates":{"Install":["`+guestapi.TrustFile+`"]}}}` {
		t.Errorf("Firefox: %s", got)
	}
	if err := s.write(trustFile(firefoxPolicy, []byte("theirs"))); err != nil {
		t.Fatal(err)
	}
	_ = s.Apply(&guestapi.Config{TrustCA: authority(t, berthCA)})
	if got := read(t, s, firefoxPolicy); got != "theirs" {
		t.Errorf("Firefox's own policies: %s", got)
	}
}

// BenchmarkTrust is what trust adds to a start, with a bundle of the usual size.
func BenchmarkTrust(b *testing.B) {
	s := System{Root: b.TempDir()}
	filler := authority(b, pkix.Name{CommonName: "Somebody"})
	if err := s.write(trustFile(guestapi.TrustBundle, bytes.Repeat(filler, 220_000/len(filler)))); err != nil {
		b.Fatal(err)
	}
	cas := [][]byte{authority(b, berthCA), authority(b, berthCA)}
	i := 0
	for b.Loop() {
		i++
		if err := s.trust(cas[i%2], nil); err != nil {
			b.Fatal(err)
		}
	}
}

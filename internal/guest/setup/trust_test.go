package setup

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"berth.dev/internal/guestapi"
)

// authority makes a certificate of one with the given subject.
func authority(t *testing.T, subject pkix.Name) []byte {
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
	env := map[string]string{"NODE_EXTRA_CA_CERTS": guestapi.TrustFile, "SSL_CERT_FILE": guestapi.TrustBundle, "EDITOR": "vi"}
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

// TestSubjectHash: OpenSSL finds the authority in its folder of hashes.
func TestSubjectHash(t *testing.T) {
	for _, subject := range []pkix.Name{berthCA, {CommonName: "  Odd   SPACES ", Country: []string{"DE"}}, {CommonName: "Grüße"}} {
		ca := authority(t, subject)
		file := filepath.Join(t.TempDir(), "ca.pem")
		if err := os.WriteFile(file, ca, 0o600); err != nil {
			t.Fatal(err)
		}
		want, err := exec.Command("openssl", "x509", "-noout", "-subject_hash", "-in", file).Output()
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(ca)
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := subjectHash(cert); err != nil || got != strings.TrimSpace(string(want)) {
			t.Errorf("%v: %s, %v, want %s", subject, got, err, want)
		}
	}
}

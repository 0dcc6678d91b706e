package trust

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

func TestAdd(t *testing.T) {
	const (
		cert = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
		old  = "-----BEGIN CERTIFICATE-----\nBBBB\n-----END CERTIFICATE-----\n"
		rest = "# one\n-----BEGIN CERTIFICATE-----\nCCCC\n-----END CERTIFICATE-----\n"
	)
	want := rest + begin + cert + end
	for name, bundle := range map[string]string{
		"as it was":               rest,
		"with no last line break": strings.TrimSuffix(rest, "\n"),
		"added already":           want,
		"another added":           rest + begin + old + end,
		"in the middle":           begin + old + end + rest,
		"cut short":               rest + begin + old,
		"by the system's tools":   old + rest,
		"by both":                 old + rest + begin + old + end,
	} {
		if got := string(Add([]byte(bundle), []byte(cert), []byte(old))); got != want {
			t.Errorf("%s:\n%s", name, got)
		}
	}
	// The end alone is enough where nothing of an earlier start is elsewhere.
	for bundle, earlier := range map[string]bool{rest: false, strings.TrimSuffix(rest, "\n"): false, want: true, rest + begin + old + end: true} {
		keep, with, ok := Tail([]byte(bundle), []byte(cert), earlier)
		if got := bundle[:keep] + string(with); !ok || got != want {
			t.Errorf("by the end:\n%s", got)
		}
	}
	for _, bundle := range []string{rest + begin + old, begin + old + end + rest, old + rest} {
		if keep, with, ok := Tail([]byte(bundle), []byte(cert), true); ok {
			t.Errorf("by the end of %q: %d, %q", bundle, keep, with)
		}
	}
	if got := string(Add(nil, []byte(cert), nil)); got != begin+cert+end {
		t.Errorf("of nothing: %q", got)
	}
	if got := Add([]byte(rest), []byte(strings.TrimSuffix(cert, "\n")), nil); string(got) != want {
		t.Errorf("an authority with no last line break:\n%s", got)
	}
}

// TestSubjectHash: OpenSSL finds the authority in its folder of hashes.
func TestSubjectHash(t *testing.T) {
	for _, subject := range []pkix.Name{
		{CommonName: "Berth sandbox CA", Organization: []string{"Berth"}},
		{CommonName: "  Odd  \t SPACES ", Country: []string{"DE"}}, {CommonName: "Grüße ÄÖ"},
	} {
		ca := authority(t, subject)
		file := filepath.Join(t.TempDir(), "ca.pem")
		if err := os.WriteFile(file, ca, 0o600); err != nil {
			t.Fatal(err)
		}
		want, err := exec.Command("openssl", "x509", "-noout", "-subject_hash", "-in", file).Output()
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(Certificates(ca)[0])
		if err != nil {
			t.Fatal(err)
		}
		if got, err := SubjectHash(cert); err != nil || got != strings.TrimSpace(string(want)) {
			t.Errorf("%v: %s, %v, want %s", subject, got, err, want)
		}
	}
}

func TestKeyStore(t *testing.T) {
	one, two, three := []byte("first certificate"), []byte("second"), []byte("third")
	store := KeyStore([][]byte{one})
	for range 2 {
		var err error
		for _, cert := range [][]byte{two, three} {
			if store, err = AddToKeyStore(store, cert); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(store[8:12], []byte{0, 0, 0, 2}) || !bytes.Contains(store, one) || bytes.Contains(store, two) || !bytes.Contains(store, three) {
			t.Errorf("%q", store)
		}
	}
	for name, bad := range map[string][]byte{
		"nothing": nil, "another form": []byte("0\x82\x01\x02 of another form"), "cut": store[:len(store)-1],
		"changed": append(bytes.Clone(store[:20]), append([]byte{store[20] ^ 1}, store[21:]...)...),
		"more":    sealed(append(bytes.Clone(store[:len(store)-20]), 0)),
		"fewer":   sealed(append(bytes.Clone(store[:11]), append([]byte{9}, store[12:len(store)-20]...)...)),
	} {
		if _, err := AddToKeyStore(bad, one); err != ErrKeyStore {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func sealed(content []byte) []byte { return append(content, jksSum(content)...) }

// FuzzKeyStore: the store is the guest's.
func FuzzKeyStore(f *testing.F) {
	store := KeyStore([][]byte{[]byte("certificate")})
	f.Add(store[:len(store)-20])
	f.Add([]byte("\xfe\xed\xfe\xed\x00\x00\x00\x02\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00" + strings.Repeat("\x00", 12) + "\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, content []byte) {
		out, err := AddToKeyStore(sealed(bytes.Clone(content)), []byte("another"))
		if err != nil {
			return
		}
		if again, err := AddToKeyStore(out, []byte("another")); err != nil || !bytes.Equal(again, out) {
			t.Errorf("what was added to cannot be added to: %v", err)
		}
	})
}

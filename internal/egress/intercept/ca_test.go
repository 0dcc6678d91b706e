package intercept

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"sync"
	"testing"
	"time"
)

func TestCA(t *testing.T) {
	a, b := newTestCA(t), newTestCA(t)
	if !bytes.Equal(a.cert.RawSubject, b.cert.RawSubject) {
		t.Error("two CAs have two subjects: OpenSSL's file name differs")
	}
	if a.cert.Subject.String() != "CN=Berth sandbox CA,O=Berth" || !a.cert.IsCA || a.cert.MaxPathLen != 0 || !a.cert.MaxPathLenZero {
		t.Errorf("%v, CA %v, path length %d", a.cert.Subject, a.cert.IsCA, a.cert.MaxPathLen)
	}
	long := "a-label-of-fifty-characters-is-longer-than-any-common.name-that-a-certificate-may-hold.example"
	for _, host := range []string{testHost, long, "192.0.2.1", "2001:db8::1", "under_score.example"} {
		cert, err := a.certificate(host)
		if err != nil {
			t.Fatal(err)
		}
		opts := x509.VerifyOptions{Roots: pool(a), DNSName: host, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
		if _, err := cert.Leaf.Verify(opts); err != nil {
			t.Errorf("%s: %v", host, err)
		}
		opts.Roots = pool(b)
		if _, err := cert.Leaf.Verify(opts); err == nil {
			t.Errorf("%s: another sandbox trusts it", host)
		}
		opts.Roots, opts.DNSName = pool(a), "other.example"
		if _, err := cert.Leaf.Verify(opts); err == nil {
			t.Errorf("%s: it is good for another name", host)
		}
		if d := cert.Leaf.NotAfter.Sub(cert.Leaf.NotBefore); d >= 398*24*time.Hour || cert.Leaf.IsCA || len(cert.Leaf.AuthorityKeyId) == 0 {
			t.Errorf("%s: valid for %v, CA %v", host, d, cert.Leaf.IsCA)
		}
		if time.Since(cert.Leaf.NotBefore) < 30*time.Minute || time.Since(a.cert.NotBefore) < 30*time.Minute {
			t.Error("a guest whose clock is slow does not take it")
		}
	}
}

func TestCertificatesAreKept(t *testing.T) {
	now := time.Now()
	ca, err := NewCA(func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	serials := map[string]bool{}
	for range 16 {
		wg.Go(func() {
			cert, err := ca.certificate(testHost)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			serials[cert.Leaf.SerialNumber.String()] = true
			mu.Unlock()
		})
	}
	wg.Wait()
	if len(serials) != 1 {
		t.Errorf("one name has %d certificates", len(serials))
	}
	old, _ := ca.certificate(testHost)
	now = now.Add(leafValid - leafRenew)
	if cert, _ := ca.certificate(testHost); cert == old {
		t.Error("a certificate that ends soon is still shown")
	}
	for i := range maxLeaves + 10 {
		if _, err := ca.certificate(fmt.Sprintf("h%d.example", i)); err != nil {
			t.Fatal(err)
		}
	}
	if len(ca.leaves) > maxLeaves {
		t.Errorf("%d certificates are kept", len(ca.leaves))
	}
}

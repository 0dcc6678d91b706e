package intercept

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/netip"
	"sync"
	"time"
)

// Times of certificates. A guest's clock may be slow.
const (
	caValid   = 10 * 365 * 24 * time.Hour
	leafValid = 90 * 24 * time.Hour // browsers take at most 398 days
	leafRenew = 24 * time.Hour      // before it ends
	skew      = time.Hour
	maxLeaves = 1024
)

// CA signs the certificates that one sandbox is shown. Its key is in memory
// only, and so is the one that all its leaves share. It is safe for concurrent
// use.
type CA struct {
	now  func() time.Time
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	leaf *ecdsa.PrivateKey

	// mu is held while a certificate is made, 0.1 ms: so each is made once.
	mu     sync.Mutex
	leaves map[string]*tls.Certificate
}

// NewCA makes a CA. All have the same subject, so that the file name that
// OpenSSL derives from it is known beforehand; which of them signed a leaf is
// told by the key identifier.
func NewCA(now func() time.Time) (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the key of a CA: %w", err)
	}
	leaf, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the key of a server: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "Berth sandbox CA", Organization: []string{"Berth"}},
		NotBefore:             now().Add(-skew),
		NotAfter:              now().Add(caValid),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign a CA: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read a CA back: %w", err)
	}
	return &CA{now: now, cert: cert, key: key, leaf: leaf, leaves: map[string]*tls.Certificate{}}, nil
}

// PEM returns the CA's certificate, for trust stores.
func (c *CA) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.cert.Raw})
}

// certificate returns the one for a normalised name or an address.
func (c *CA) certificate(host string) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if cert, ok := c.leaves[host]; ok && c.now().Before(cert.Leaf.NotAfter.Add(-leafRenew)) {
		return cert, nil
	}
	cert, err := c.sign(host)
	if err != nil {
		return nil, err
	}
	for old := range c.leaves {
		if len(c.leaves) < maxLeaves {
			break
		}
		delete(c.leaves, old) // any: an order of use costs more than making it again
	}
	c.leaves[host] = cert
	return cert, nil
}

func (c *CA) sign(host string) (*tls.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber:          serial,
		NotBefore:             c.now().Add(-skew),
		NotAfter:              c.now().Add(leafValid),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	if len(host) <= 64 { // ub-common-name of RFC 5280; only for people, clients read the SAN
		tmpl.Subject.CommonName = host
	}
	if a, err := netip.ParseAddr(host); err == nil {
		tmpl.IPAddresses = append(tmpl.IPAddresses, a.AsSlice())
	} else {
		tmpl.DNSNames = []string{host}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, c.cert, c.leaf.Public(), c.key)
	if err != nil {
		return nil, fmt.Errorf("sign a certificate for %q: %w", host, err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read a certificate for %q back: %w", host, err)
	}
	return &tls.Certificate{Certificate: [][]byte{der, c.cert.Raw}, PrivateKey: c.leaf, Leaf: leaf}, nil
}

func newSerial() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("make a serial number: %w", err)
	}
	return n.Add(n, big.NewInt(1)), nil // positive: RFC 5280 §4.1.2.2
}

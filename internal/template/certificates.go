package template

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"

	"github.com/pkg/sftp"

	"berth.dev/internal/guestapi/client"
)

// hostBundles are where distributions keep all trusted certificates in one
// file, as crypto/x509 looks for them.
var hostBundles = []string{
	"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem",
	"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "/etc/ssl/cert.pem",
}

// addCertificates makes the guest trust what the host trusts: certificates of
// the host's that the distribution does not bring, such as a company's own. A
// file of each goes where the guest's own tool looks when it makes the bundle
// anew; running that tool here would take longer than all of this.
func addCertificates(ctx context.Context, g *client.Client, getenv func(string) string) error {
	files, err := g.SFTP(ctx, "0")
	if err != nil {
		return err
	}
	defer files.Close()
	var known []byte
	if f, err := files.Open(caBundle); err == nil {
		var b bytes.Buffer
		_, err = f.WriteTo(&b)
		f.Close()
		if err != nil {
			return err
		}
		known = b.Bytes()
	}
	extra := missing(known, hostCertificates(getenv))
	if len(extra) == 0 {
		return nil
	}
	const dir = "/usr/local/share/ca-certificates"
	for _, d := range []string{dir, filepath.Dir(caBundle)} {
		if err := files.MkdirAll(d); err != nil {
			return err
		}
	}
	bundle := bytes.NewBuffer(known)
	for _, block := range extra {
		text := pem.EncodeToMemory(block)
		bundle.Write(text)
		sum := sha256.Sum256(block.Bytes)
		if err := writeGuest(files.Create, filepath.Join(dir, "host-"+hex.EncodeToString(sum[:6])+".crt"), text); err != nil {
			return err
		}
	}
	return writeGuest(files.Create, caBundle, bundle.Bytes())
}

// hostCertificates reads the host's bundle, the one that the environment names
// first.
func hostCertificates(getenv func(string) string) []byte {
	for _, path := range append([]string{getenv("SSL_CERT_FILE")}, hostBundles...) {
		if path == "" {
			continue
		}
		if data, err := os.ReadFile(path); err == nil && len(data) < 16<<20 {
			return data
		}
	}
	return nil
}

// missing returns the certificates of want that are not in have.
func missing(have, want []byte) []*pem.Block {
	known := map[string]bool{}
	for _, b := range blocks(have) {
		known[string(b.Bytes)] = true
	}
	var extra []*pem.Block
	for _, b := range blocks(want) {
		if !known[string(b.Bytes)] {
			known[string(b.Bytes)] = true
			extra = append(extra, &pem.Block{Type: b.Type, Bytes: b.Bytes})
		}
	}
	return extra
}

func blocks(data []byte) []*pem.Block {
	var all []*pem.Block
	for {
		var b *pem.Block
		if b, data = pem.Decode(data); b == nil {
			return all
		}
		if b.Type == "CERTIFICATE" {
			all = append(all, b)
		}
	}
}

// creator makes a file in the guest.
type creator func(path string) (*sftp.File, error)

func writeGuest(create creator, path string, data []byte) error {
	f, err := create(path)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Chmod(0o644), f.Close())
}

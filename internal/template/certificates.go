package template

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"os"
	"path/filepath"
)

const (
	// caBundle is where the guest's trusted certificates are.
	caBundle = "/etc/ssl/certs/ca-certificates.crt"
	// localCAs is where its own tool (update-ca-certificates) looks for more.
	localCAs = "/usr/local/share/ca-certificates"
)

// hostBundles are where distributions keep all trusted certificates in one
// file, as crypto/x509 looks for them.
var hostBundles = []string{
	"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem",
	"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "/etc/ssl/cert.pem",
}

// certificateStep makes the guest trust what the host trusts: certificates of
// the host's that the distribution does not bring, such as a company's own. A
// file of each goes where the guest's own tool looks when it makes the bundle
// anew, and they are added to the bundle; running that tool takes longer than
// all of this, because it starts a thousand processes.
func (b *Builder) certificateStep() step {
	trusted := hostCertificates(b.root, b.getenv)
	return step{
		name: "certificates",
		salt: digestOf(string(trusted)),
		files: func(ctx context.Context, sb Sandbox) ([]File, error) {
			known, err := sb.ReadFile(ctx, caBundle)
			if err != nil {
				return nil, err
			}
			return certificateFiles(known, trusted), nil
		},
	}
}

// certificateFiles are the files for the certificates of trusted that are not
// in the bundle known.
func certificateFiles(known, trusted []byte) []File {
	extra := missing(known, trusted)
	if len(extra) == 0 {
		return nil
	}
	bundle := bytes.NewBuffer(bytes.Clone(known))
	if n := len(known); n > 0 && known[n-1] != '\n' {
		bundle.WriteByte('\n')
	}
	var files []File
	for _, block := range extra {
		text := pem.EncodeToMemory(block)
		bundle.Write(text)
		sum := sha256.Sum256(block.Bytes)
		files = append(files, File{filepath.Join(localCAs, "host-"+hex.EncodeToString(sum[:6])+".crt"), text})
	}
	// Last: a try that broke off before it finds all of them missing again.
	return append(files, File{caBundle, bundle.Bytes()})
}

// hostCertificates reads the host's bundle, the one that the environment names
// first. root is "/" but in tests.
func hostCertificates(root string, getenv func(string) string) []byte {
	for _, path := range append([]string{getenv("SSL_CERT_FILE")}, hostBundles...) {
		if path == "" {
			continue
		}
		if data, err := os.ReadFile(filepath.Join(root, path)); err == nil && len(data) < maxRead {
			return data
		}
	}
	return nil
}

// missing returns the certificates of want that are not in have, each once.
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

// blocks returns the certificates in a PEM file.
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

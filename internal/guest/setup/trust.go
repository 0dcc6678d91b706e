package setup

import (
	"bytes"
	"crypto/sha1" // OpenSSL's name for files, which protects nothing
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"berth.dev/internal/guestapi"
)

// bundles are the files in which systems keep all authorities that they trust.
// Those that exist get the sandbox's too; the first is made where there is none.
var bundles = []string{
	guestapi.TrustBundle,                 // Debian, Ubuntu, Alpine, Arch
	"/etc/pki/tls/certs/ca-bundle.crt",   // Fedora and its kin
	"/etc/ssl/ca-bundle.pem",             // openSUSE
	"/etc/ssl/cert.pem",                  // Alpine's libtls
	"/etc/pki/tls/cacert.pem",            // OpenELEC
	"/usr/local/share/certs/ca-root.pem", // built by hand
}

// maxBundle bounds such a file, which is the guest's, in bytes.
const maxBundle = 8 << 20

// The lines around what is added to a bundle: the next start, whose authority
// is another, replaces what is between them.
const (
	trustBegin = "# berth: the authority of this sandbox\n"
	trustEnd   = "# berth: end\n"
)

// trust makes the guest's programs trust an authority: by the files that all
// were joined in, by OpenSSL's folder of hashes, and by the browsers' policies.
// What update-ca-certificates makes anew later has it too, because it stands
// where that looks.
func (s System) trust(ca []byte, env map[string]string) error {
	block, _ := pem.Decode(ca)
	if block == nil {
		return errors.New("trust the sandbox's authority: no certificate")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return fmt.Errorf("trust the sandbox's authority: %w", err)
	}
	errs := []error{s.write(trustFile(guestapi.TrustFile, ca))}
	seen := map[string]bool{}
	for i, name := range bundles {
		errs = append(errs, s.addTo(name, ca, i == 0, seen))
	}
	hash, err := subjectHash(cert)
	if err == nil {
		err = s.link(guestapi.TrustFile, "/etc/ssl/certs/"+hash+".0")
	}
	errs = append(errs, err)
	policy, err := json.Marshal(map[string]any{
		// A hidden server name cannot be held against a rule; see egress.
		"EncryptedClientHelloEnabled": false,
		"CACertificates":              [][]byte{cert.Raw},
	})
	errs = append(errs, err)
	for _, dir := range []string{"/etc/chromium", "/etc/opt/chrome"} {
		errs = append(errs, s.write(trustFile(dir+"/policies/managed/berth.json", policy)))
	}
	return errors.Join(append(errs, s.keepOverSudo(env))...)
}

// sudoers is where sudo reads more of its configuration.
const sudoers = "/etc/sudoers.d"

// keepOverSudo has sudo pass on the variables that say where the authority is:
// `sudo npm install -g` reads them like npm does.
func (s System) keepOverSudo(env map[string]string) error {
	if info, err := os.Stat(s.path(sudoers)); err != nil || !info.IsDir() {
		return nil
	}
	var names []string
	for name, value := range env {
		if value == guestapi.TrustFile || value == guestapi.TrustBundle {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return s.write(guestapi.File{
		Path: sudoers + "/berth-trust", Mode: 0o440,
		Content: fmt.Appendf(nil, "Defaults env_keep += %q\n", strings.Join(names, " ")),
	})
}

func trustFile(path string, content []byte) guestapi.File {
	return guestapi.File{Path: path, Mode: 0o644, Content: content}
}

// addTo adds the authority to a bundle, which is made only when create is set.
// seen has the files that were done under another name.
func (s System) addTo(name string, ca []byte, create bool, seen map[string]bool) error {
	path, err := filepath.EvalSymlinks(s.path(name))
	if err != nil && !create {
		return nil
	}
	var old []byte
	if err == nil {
		if seen[path] {
			return nil
		}
		seen[path] = true
		if old, err = readBundle(path); err != nil {
			return fmt.Errorf("trust the sandbox's authority in %s: %w", name, err)
		}
		name = strings.TrimPrefix(path, strings.TrimSuffix(s.Root, "/"))
	}
	with := append(without(old), trustBegin...)
	with = append(append(with, ca...), trustEnd...)
	if bytes.Equal(old, with) {
		return nil
	}
	return s.write(trustFile(name, with))
}

func readBundle(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxBundle+1))
	if err == nil && len(data) > maxBundle {
		err = fmt.Errorf("it is larger than %d bytes", maxBundle)
	}
	return data, err
}

// without is a bundle without what was added to it.
func without(bundle []byte) []byte {
	before, rest, ok := bytes.Cut(bundle, []byte(trustBegin))
	if ok {
		_, after, _ := bytes.Cut(rest, []byte(trustEnd))
		bundle = append(bytes.Clone(before), after...)
	}
	if n := len(bundle); n > 0 && bundle[n-1] != '\n' {
		bundle = append(bundle, '\n')
	}
	return bundle
}

// link makes a symbolic link, replacing what is there.
func (s System) link(target, name string) error {
	p := s.path(name)
	if old, err := os.Readlink(p); err == nil && old == target {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		return err
	}
	tmp := p + ".berth-new"
	_ = os.Remove(tmp) // of a start that was cut short
	if err := os.Symlink(target, tmp); err != nil {
		return err
	}
	return os.Rename(tmp, p)
}

// subjectHash is the name under which OpenSSL looks for an authority in its
// folder: the first four bytes, as a little-endian number, of the SHA-1 of the
// subject in its canonical form (X509_NAME_hash(3)): each value as a UTF8String
// in lower case, white space trimmed and joined.
func subjectHash(cert *x509.Certificate) (string, error) {
	var name pkix.RDNSequence
	if _, err := asn1.Unmarshal(cert.RawSubject, &name); err != nil {
		return "", err
	}
	var all []byte
	for _, set := range name {
		var items []byte
		for _, attr := range set {
			value, _ := attr.Value.(string)
			item, err := asn1.Marshal(struct {
				Type  asn1.ObjectIdentifier
				Value asn1.RawValue
			}{attr.Type, asn1.RawValue{Tag: asn1.TagUTF8String, Bytes: []byte(strings.ToLower(strings.Join(strings.Fields(value), " ")))}})
			if err != nil {
				return "", err
			}
			items = append(items, item...)
		}
		rdn, err := asn1.Marshal(asn1.RawValue{Tag: asn1.TagSet, IsCompound: true, Bytes: items})
		if err != nil {
			return "", err
		}
		all = append(all, rdn...)
	}
	h := sha1.Sum(all)
	return fmt.Sprintf("%02x%02x%02x%02x", h[3], h[2], h[1], h[0]), nil
}

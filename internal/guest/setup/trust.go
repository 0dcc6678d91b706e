package setup

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"berth.dev/internal/guest/trust"
	"berth.dev/internal/guestapi"
)

// The places of systems that have them; they are made for nobody.
var (
	// anchors are folders of what update-ca-trust, p11-kit and the like add
	// when they make their bundles anew.
	anchors = []string{"/etc/pki/ca-trust/source/anchors", "/etc/ca-certificates/trust-source/anchors", "/etc/pki/trust/anchors"}
	// keyStores are Java's: Debian's, to which its hook adds what comes by
	// update-ca-certificates, and Fedora's.
	keyStores = []string{"/etc/ssl/certs/java/cacerts", "/etc/pki/ca-trust/extracted/java/cacerts"}
)

// chromiumPolicies are where Chromium, Chrome and the Chrome that test tools
// bring along read what an administrator has decided.
var chromiumPolicies = []string{"/etc/chromium", "/etc/opt/chrome", "/etc/opt/chrome_for_testing"}

const (
	sudoers       = "/etc/sudoers.d"
	hashes        = "/etc/ssl/certs" // OpenSSL's folder; on Fedora a link to its own
	firefoxPolicy = "/etc/firefox/policies/policies.json"
)

// trusted is what is being trusted, and what was at the former start.
type trusted struct {
	cert   *x509.Certificate
	pem    []byte
	former []byte
}

// trust makes the guest's programs trust an authority: by the files that all
// were joined in, by OpenSSL's folder of hashes, Java's key store, and the
// browsers' policies. What the system's own tools make anew later has it too,
// because it stands where they look. Those files keep their owner's content;
// only the authority of a former start, of which nobody has the key, goes.
func (s System) trust(ca []byte, env map[string]string) error {
	a := trusted{pem: ca}
	block, _ := pem.Decode(ca)
	if block == nil {
		return errors.New("trust the sandbox's authority: no certificate")
	}
	var err error
	if a.cert, err = x509.ParseCertificate(block.Bytes); err != nil {
		return fmt.Errorf("trust the sandbox's authority: %w", err)
	}
	if a.former, err = s.content(guestapi.TrustFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("trust the sandbox's authority: %w", err)
	}
	err = errors.Join(s.bundles(a), s.anchors(a), s.keyStores(a), s.hashed(a), s.browsers(a), s.keepOverSudo(env))
	// Last, because by it the next start finds what this one added.
	return errors.Join(err, s.write(trustFile(guestapi.TrustFile, ca)))
}

func trustFile(path string, content []byte) guestapi.File {
	return guestapi.File{Path: path, Mode: 0o644, Content: content}
}

// content reads a file of the guest's, bounded.
func (s System) content(name string) ([]byte, error) {
	// Not waiting: what is a pipe has no content.
	f, err := os.OpenFile(s.path(name), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil || !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("read %s: no regular file", name)
	}
	var data bytes.Buffer
	data.Grow(int(min(fi.Size(), trust.MaxFile)) + bytes.MinRead) // in one read, of which each costs here
	n, err := data.ReadFrom(io.LimitReader(f, trust.MaxFile+1))
	if err == nil && n > trust.MaxFile {
		err = fmt.Errorf("read %s: more than %d bytes", name, trust.MaxFile)
	}
	return data.Bytes(), err
}

// edit changes a file that is there, where its links lead, unless its content
// stays. One that is not is left.
func (s System) edit(name string, change func([]byte) ([]byte, error)) error {
	old, err := s.content(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var with []byte
	if err == nil {
		with, err = change(old)
	}
	if err != nil {
		return fmt.Errorf("trust the sandbox's authority in %s: %w", name, err)
	}
	if bytes.Equal(old, with) {
		return nil
	}
	path, err := filepath.EvalSymlinks(s.path(name))
	if err != nil {
		return fmt.Errorf("trust the sandbox's authority in %s: %w", name, err)
	}
	return s.write(trustFile("/"+strings.TrimPrefix(strings.TrimPrefix(path, s.Root), "/"), with))
}

// append adds the authority at the end of a bundle, in place: one that is
// written anew takes a tenth of a sandbox's start. Nobody reads it yet, and a
// start that is cut short here is found by the next.
func (s System) append(name string, a trusted) (done bool, err error) {
	// O_NONBLOCK: what is a pipe has no end.
	f, err := os.OpenFile(s.path(name), os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return false, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil || !fi.Mode().IsRegular() {
		return false, err
	}
	from := max(0, fi.Size()-trust.TailSize)
	tail := make([]byte, fi.Size()-from)
	if _, err := io.ReadFull(io.NewSectionReader(f, from, int64(len(tail))), tail); err != nil {
		return false, err
	}
	keep, with, ok := trust.Tail(tail, a.pem, len(a.former) > 0)
	if !ok {
		return false, nil
	}
	at := from + int64(keep)
	if bytes.Equal(tail[keep:], with) {
		return true, nil
	}
	if _, err := f.WriteAt(with, at); err != nil {
		return false, err
	}
	return true, f.Truncate(at + int64(len(with)))
}

// bundles adds the authority to each bundle. TrustBundle, to which variables
// lead, is made where the system has another: of that, because it has to have
// what the system trusts. A second name of a bundle finds it done.
func (s System) bundles(a trusted) error {
	var errs []error
	for _, name := range trust.Bundles() {
		// Where it does not work, writing all of it says why.
		if done, err := s.append(name, a); err == nil && done {
			continue
		}
		errs = append(errs, s.edit(name, func(old []byte) ([]byte, error) {
			return trust.Add(old, a.pem, a.former), nil
		}))
	}
	if _, err := os.Stat(s.path(guestapi.TrustBundle)); errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, s.makeBundle(a))
	}
	return errors.Join(errs...)
}

// makeBundle makes TrustBundle of the first bundle that there is.
func (s System) makeBundle(a trusted) error {
	var other []byte
	for _, name := range trust.Bundles() {
		var err error
		if other, err = s.content(name); err == nil {
			break
		}
	}
	return s.write(trustFile(guestapi.TrustBundle, trust.Add(other, a.pem, a.former)))
}

func (s System) anchors(a trusted) error {
	var errs []error
	for _, dir := range anchors {
		if fi, err := os.Stat(s.path(dir)); err == nil && fi.IsDir() {
			errs = append(errs, s.write(trustFile(dir+"/"+filepath.Base(guestapi.TrustFile), a.pem)))
		}
	}
	return errors.Join(errs...)
}

// keyStores adds the authority to Java's stores by hand: keytool takes a second
// for it. A store of another form is its owner's doing and stays as it is.
func (s System) keyStores(a trusted) error {
	var errs []error
	for _, name := range keyStores {
		err := s.edit(name, func(old []byte) ([]byte, error) { return trust.AddToKeyStore(old, a.cert.Raw) })
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// hashed makes the links by which OpenSSL, and what reads the whole folder,
// find the authority: the same as update-ca-certificates makes, so that Java's
// package, when it is installed later, takes it up from there.
func (s System) hashed(a trusted) error {
	hash, err := trust.SubjectHash(a.cert)
	if err != nil {
		return err
	}
	link := strings.TrimSuffix(filepath.Base(guestapi.TrustFile), ".crt") + ".pem"
	return errors.Join(s.link(guestapi.TrustFile, hashes+"/"+link), s.link(link, hashes+"/"+hash+".0"))
}

// browsers tells browsers, which ask nobody else. Firefox has one file for all
// that is decided, so one that is there stays.
func (s System) browsers(a trusted) error {
	chromium, err := json.Marshal(map[string]any{
		// A hidden server name cannot be held against a rule; see egress.
		"EncryptedClientHelloEnabled": false,
		"CACertificates":              [][]byte{a.cert.Raw},
	})
	// One file, since each that is written counts in the time of a start.
	const name = "/policies/managed/berth.json"
	errs := []error{err, s.write(trustFile(chromiumPolicies[0]+name, chromium))}
	for _, dir := range chromiumPolicies[1:] {
		errs = append(errs, s.link(chromiumPolicies[0]+name, dir+name))
	}
	firefox, err := json.Marshal(map[string]any{"policies": map[string]any{
		"Certificates": map[string]any{"Install": []string{guestapi.TrustFile}},
	}})
	errs = append(errs, err)
	if _, err := os.Lstat(s.path(firefoxPolicy)); errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, s.write(trustFile(firefoxPolicy, firefox)))
	}
	return errors.Join(errs...)
}

// keepOverSudo has sudo pass on the variables that say where the authority is:
// `sudo npm install -g` reads them like npm does.
func (s System) keepOverSudo(env map[string]string) error {
	if info, err := os.Stat(s.path(sudoers)); err != nil || !info.IsDir() {
		return nil
	}
	var names []string
	for name, value := range env {
		if guestapi.IsTrustVariable(name, value) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	slices.Sort(names)
	return s.write(guestapi.File{
		Path: sudoers + "/berth-trust", Mode: 0o440,
		Content: fmt.Appendf(nil, "Defaults env_keep += \"%s\"\n", strings.Join(names, " ")),
	})
}

// link makes a symbolic link, replacing what is there.
func (s System) link(target, name string) error {
	p := s.path(name)
	if old, err := os.Readlink(p); err == nil && old == target {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		return fmt.Errorf("link %s: %w", name, err)
	}
	tmp := p + ".berth-new"
	_ = os.Remove(tmp) // of a start that was cut short
	if err := os.Symlink(target, tmp); err != nil {
		return fmt.Errorf("link %s: %w", name, err)
	}
	if err := os.Rename(tmp, p); err != nil {
		return fmt.Errorf("link %s: %w", name, err)
	}
	return nil
}

package sshagent

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha1" // what hashed entries of known_hosts are made with
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
)

// maxHosts bounds a file of known hosts, in bytes.
const maxHosts = 16 << 20

// Hosts are the servers that the user knows.
type Hosts struct{ entries []hostEntry }

// hostEntry is a line of known_hosts (sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT").
type hostEntry struct {
	marker   string // "", "cert-authority" or "revoked"
	patterns []string
	key      ssh.PublicKey
	blob     []byte
}

// LoadHosts reads files of known hosts. Those that do not exist, and lines that
// make no sense, are passed over, as ssh does.
func LoadHosts(files ...string) (Hosts, error) {
	var h Hosts
	for _, name := range files {
		f, err := os.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return h, fmt.Errorf("read the known hosts: %w", err)
		}
		data, err := io.ReadAll(io.LimitReader(f, maxHosts))
		f.Close()
		if err != nil {
			return h, fmt.Errorf("read the known hosts: %w", err)
		}
		h.add(data)
	}
	return h, nil
}

func (h *Hosts) add(data []byte) {
	for line := range bytes.Lines(data) {
		marker, patterns, key, _, _, err := ssh.ParseKnownHosts(line)
		if err == nil {
			h.entries = append(h.entries, hostEntry{marker, patterns, key, key.Marshal()})
		}
	}
}

// Destination is whom a signature lets in.
type Destination struct {
	// Name is the server's in known_hosts, or the fingerprint of its key when
	// there is none; Commits for signatures of commits.
	Name string
	// Known says that the key is in known_hosts, under whatever name.
	Known bool
	names []string // all that it has there
}

// find names the server that has a key. Entries that are hashed tell no name;
// candidates are tried on them.
func (h Hosts) find(key ssh.PublicKey, candidates []string) (Destination, error) {
	d := Destination{Name: ssh.FingerprintSHA256(key)}
	cert, _ := key.(*ssh.Certificate)
	if cert != nil {
		d.Name = ssh.FingerprintSHA256(cert.Key)
	}
	if h.revoked(key, cert) {
		return d, refuse("the key of the server is revoked in known_hosts")
	}
	for _, e := range h.entries {
		switch {
		case cert == nil && e.marker == "" && bytes.Equal(e.blob, key.Marshal()):
			d.Known = true
			d.names = append(d.names, e.names(candidates)...)
		case cert != nil && e.marker == "cert-authority" && bytes.Equal(e.blob, cert.SignatureKey.Marshal()):
			names := e.vouchedFor(cert)
			d.Known = d.Known || len(names) > 0
			d.names = append(d.names, names...)
		}
	}
	if len(d.names) > 0 {
		slices.SortStableFunc(d.names, func(a, b string) int { return rank(a, candidates) - rank(b, candidates) })
		d.Name = d.names[0]
	}
	return d, nil
}

// rank puts names that are asked about first, and those that tell least last.
func rank(name string, candidates []string) int {
	if i := slices.Index(candidates, name); i >= 0 {
		return i - len(candidates)
	}
	_, err := netip.ParseAddr(strings.Trim(name, "[]"))
	switch {
	case err == nil:
		return 1
	case strings.ContainsAny(name, "*?"):
		return 2
	}
	return 0
}

// revoked reports whether a key, or the authority behind it, was.
func (h Hosts) revoked(key ssh.PublicKey, cert *ssh.Certificate) bool {
	blobs := [][]byte{key.Marshal()}
	if cert != nil {
		blobs = append(blobs, cert.Key.Marshal(), cert.SignatureKey.Marshal())
	}
	return slices.ContainsFunc(h.entries, func(e hostEntry) bool {
		return e.marker == "revoked" && slices.ContainsFunc(blobs, func(b []byte) bool { return bytes.Equal(b, e.blob) })
	})
}

// names are those that an entry has as text, and those of candidates that it
// matches.
func (e hostEntry) names(candidates []string) []string {
	var names []string
	for _, c := range candidates {
		if e.matches(c) {
			names = append(names, c)
		}
	}
	for _, p := range e.patterns {
		if !strings.HasPrefix(p, "|") && !strings.HasPrefix(p, "!") && p != "*" && !slices.Contains(names, p) {
			names = append(names, p)
		}
	}
	return names
}

// vouchedFor are the names that an authority may give, and gave to a
// certificate, which is verified.
func (e hostEntry) vouchedFor(cert *ssh.Certificate) []string {
	var names []string
	for _, name := range cert.ValidPrincipals {
		if cert.CertType == ssh.HostCert && e.matches(name) && (&ssh.CertChecker{}).CheckCert(name, cert) == nil {
			names = append(names, name)
		}
	}
	return names
}

// matches reports whether an entry is about a name, as known_hosts writes it:
// with a port only when that is not 22.
func (e hostEntry) matches(name string) bool {
	found := false
	for _, p := range e.patterns {
		if rest, not := strings.CutPrefix(p, "!"); not {
			if wildcard(strings.ToLower(rest), name) {
				return false
			}
			continue
		}
		if strings.HasPrefix(p, "|") {
			found = found || hashed(p, name)
		} else {
			found = found || wildcard(strings.ToLower(p), name)
		}
	}
	return found
}

// hashed reports whether a name is behind "|1|SALT|HASH".
func hashed(pattern, name string) bool {
	parts := strings.Split(pattern, "|")
	if len(parts) != 4 || parts[1] != "1" {
		return false
	}
	salt, err := base64.StdEncoding.DecodeString(parts[2])
	hash, err2 := base64.StdEncoding.DecodeString(parts[3])
	if err != nil || err2 != nil {
		return false
	}
	mac := hmac.New(sha1.New, salt)
	mac.Write([]byte(name))
	return hmac.Equal(mac.Sum(nil), hash)
}

// wildcard matches * and ? as ssh_config(5) has them, in time that does not
// explode.
func wildcard(pattern, name string) bool {
	star, mark := -1, 0 // the last *, and where what it swallows ends
	p, n := 0, 0
	for n < len(name) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, n
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == name[n]):
			p++
			n++
		case star >= 0:
			mark++
			p, n = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// HostName is a name in the form of known_hosts: NAME, [NAME]:PORT when the port
// is not SSH's. A fingerprint stays as it is.
func HostName(s string) string {
	if strings.HasPrefix(s, "SHA256:") {
		return s
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return strings.ToLower(strings.Trim(s, "[]"))
	}
	host = strings.ToLower(host)
	if port == "22" {
		return host
	}
	return "[" + host + "]:" + port
}

// Lines are lines for a known_hosts that say of a host what is known here:
// nothing, when that is nothing.
func (h Hosts) Lines(name string) []string {
	var lines []string
	for _, e := range h.entries {
		if !e.matches(name) {
			continue
		}
		line := name + " " + strings.TrimSpace(string(ssh.MarshalAuthorizedKey(e.key)))
		if e.marker != "" {
			line = "@" + e.marker + " " + line
		}
		if !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	return lines
}

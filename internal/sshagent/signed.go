package sshagent

import (
	"bytes"
	"strings"
)

const (
	sshsigMagic  = "SSHSIG"
	gitNamespace = "git"

	methodPlain = "publickey"
	methodBound = "publickey-hostbound-v00@openssh.com"

	userauthRequest = 50 // SSH_MSG_USERAUTH_REQUEST

	flagSHA256 = 2 // SSH_AGENT_RSA_SHA2_256
	flagSHA512 = 4

	certSuffix = "-cert-v01@openssh.com"
)

// signed is what a signature would be for.
type signed struct {
	commit bool // a Git commit or tag; else it signs in
	// Of a sign-in: the session, whom it is to be in, and the host key that the
	// signature is bound to, nil when it is to none.
	session []byte
	user    string
	hostKey []byte
}

// parseSigned finds out what a signature would be for. All but the two things
// that a Guard is for is a refusal.
func parseSigned(req signRequest) (signed, error) {
	if bytes.HasPrefix(req.data, []byte(sshsigMagic)) {
		return parseSSHSIG(req)
	}
	return parseUserauth(req)
}

// parseSSHSIG reads OpenSSH's PROTOCOL.sshsig, section 3.
func parseSSHSIG(req signRequest) (signed, error) {
	r := reader{b: req.data[len(sshsigMagic):]}
	namespace, reserved, hash, digest := r.string(), r.bytes(), r.string(), r.bytes()
	size, known := map[string]int{"sha256": 32, "sha512": 64}[hash]
	switch {
	case !r.ended() || len(reserved) > 0:
		return signed{}, refuse("a malformed signature of a file")
	case namespace != gitNamespace:
		return signed{}, refuse("a signature of the namespace %q, and only %q can be had", short(namespace), gitNamespace)
	case !known || len(digest) != size:
		return signed{}, refuse("a signature with the hash %q", short(hash))
	}
	want := req.flags == 0
	if format := keyFormat(req.key); format == "ssh-rsa" || format == "ssh-rsa"+certSuffix {
		want = req.flags == flagSHA256 || req.flags == flagSHA512
	}
	if !want {
		return signed{}, refuse("a signature with the flags %#x", req.flags)
	}
	return signed{commit: true}, nil
}

// parseUserauth reads what RFC 4252, section 7, has signed, and OpenSSH's
// PROTOCOL, section 3, with the host key.
func parseUserauth(req signRequest) (signed, error) {
	r := reader{b: req.data}
	s := signed{session: r.bytes()}
	kind := r.byte()
	s.user = r.string()
	service, method, really, algorithm, key := r.string(), r.string(), r.byte(), r.string(), r.bytes()
	if method == methodBound {
		s.hostKey = r.bytes()
	}
	switch {
	case !r.ended() || kind != userauthRequest || really != 1 || service != "ssh-connection":
		return signed{}, refuse("a signature of what is neither a sign-in nor a commit")
	case method != methodPlain && method != methodBound:
		return signed{}, refuse("a sign-in by the method %q", short(method))
	case method == methodBound && len(s.hostKey) == 0:
		return signed{}, refuse("a sign-in that is bound to no host")
	case !bytes.Equal(key, req.key):
		return signed{}, refuse("a sign-in that names another key than the one that is to sign")
	case !fits(keyFormat(key), algorithm, req.flags):
		return signed{}, refuse("a sign-in by the algorithm %q", short(algorithm))
	}
	return s, nil
}

// keyFormat is the first field of a public key, or "".
func keyFormat(key []byte) string {
	r := reader{b: key}
	return r.string()
}

// fits reports whether an algorithm is one of a key's, and the flags are its.
// RSA with SHA-1 is none.
func fits(format, algorithm string, flags uint32) bool {
	base, cert := strings.CutSuffix(format, certSuffix)
	if base != "ssh-rsa" {
		return format != "" && algorithm == format && flags == 0
	}
	if cert {
		algorithm, cert = strings.CutSuffix(algorithm, certSuffix)
		if !cert {
			return false
		}
	}
	return algorithm == "rsa-sha2-256" && flags == flagSHA256 || algorithm == "rsa-sha2-512" && flags == flagSHA512
}

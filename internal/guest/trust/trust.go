// Package trust knows the forms in which programs keep the authorities that
// they trust, and puts one more into each: bundles of PEM, OpenSSL's folder of
// hashes, Java's key store. Bytes go in and come out; which files of which root
// file system those are is for its callers.
package trust

import (
	"bytes"
	"encoding/pem"

	"berth.dev/internal/guestapi"
)

// MaxFile bounds a file of authorities, in bytes: it is the guest's, and common
// ones have a quarter of a megabyte.
const MaxFile = 8 << 20

// Bundles are the files in which systems keep all authorities that they trust,
// the usual one first.
func Bundles() []string {
	return []string{
		guestapi.TrustBundle, // Debian, Ubuntu, Alpine, Arch
		"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // Fedora and its kin
		"/etc/pki/tls/certs/ca-bundle.crt",                  // the same by its usual name
		"/etc/ssl/ca-bundle.pem",                            // openSUSE
		"/etc/ssl/cert.pem",                                 // Alpine's libtls
	}
}

// The lines around what is added to a bundle.
const (
	begin = "# berth: the authority of this sandbox\n"
	end   = "# berth: end\n"
)

// Add returns a bundle with an authority, PEM, at its end. What was added to it
// before is gone, and so is former, the authority of an earlier start, where
// the system's own tools put it in without our lines around.
func Add(bundle, ca, former []byte) []byte {
	out := make([]byte, 0, len(bundle)+len(begin)+len(ca)+len(end)+2)
	out = line(append(out, without(bundle, former)...))
	out = append(out, begin...)
	return append(line(append(out, ca...)), end...)
}

func without(bundle, former []byte) []byte {
	if before, rest, ok := bytes.Cut(bundle, []byte(begin)); ok {
		_, after, _ := bytes.Cut(rest, []byte(end))
		bundle = append(line(bytes.Clone(before)), after...)
	}
	for _, cert := range blocks(former) {
		bundle = bytes.ReplaceAll(bundle, line(bytes.TrimSpace(cert)), nil)
	}
	return bundle
}

// TailSize is how much of a bundle's end Tail wants to see, in bytes.
const TailSize = 8 << 10

// Tail is Add for a bundle of which only the end was read, all of it or its last
// TailSize bytes: keep is how much of that stays, and then comes with. It is not
// ok where what an earlier start added is not, whole, the very end.
func Tail(tail, ca []byte, earlier bool) (keep int, with []byte, ok bool) {
	keep = len(tail)
	if at := bytes.LastIndex(tail, []byte(begin)); at >= 0 {
		if !bytes.HasSuffix(tail, []byte(end)) || bytes.Count(tail, []byte(begin)) > 1 {
			return 0, nil, false
		}
		keep = at
	} else if earlier {
		return 0, nil, false
	}
	with = Add(nil, ca, nil)
	if keep > 0 && tail[keep-1] != '\n' {
		with = append([]byte{'\n'}, with...)
	}
	return keep, with, true
}

// line ends a text's last line.
func line(b []byte) []byte {
	if n := len(b); n > 0 && b[n-1] != '\n' {
		return append(b[:n:n], '\n')
	}
	return b
}

// blocks are the certificates of a bundle as they stand in it.
func blocks(bundle []byte) [][]byte {
	const head, tail = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
	var all [][]byte
	for {
		start := bytes.Index(bundle, []byte(head))
		if start < 0 {
			return all
		}
		length := bytes.Index(bundle[start:], []byte(tail))
		if length < 0 {
			return all
		}
		all = append(all, bundle[start:start+length+len(tail)])
		bundle = bundle[start+length+len(tail):]
	}
}

// Certificates are those of a bundle, in DER; what is none is left out.
func Certificates(bundle []byte) [][]byte {
	var all [][]byte
	for {
		var block *pem.Block
		if block, bundle = pem.Decode(bundle); block == nil {
			return all
		}
		if block.Type == "CERTIFICATE" {
			all = append(all, block.Bytes)
		}
	}
}

package trust

import (
	"crypto/sha1" // OpenSSL's name for files, which protects nothing
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"strings"
)

// SubjectHash is the name under which OpenSSL looks for an authority in its
// folder: the first four bytes, as a little-endian number, of the SHA-1 of the
// subject in its canonical form (X509_NAME_hash(3)): each value as a UTF8String
// in lower case, white space trimmed and joined.
func SubjectHash(cert *x509.Certificate) (string, error) {
	var name pkix.RDNSequence
	if _, err := asn1.Unmarshal(cert.RawSubject, &name); err != nil {
		return "", fmt.Errorf("read the subject of an authority: %w", err)
	}
	var all []byte
	for _, set := range name {
		var items []byte
		for _, attr := range set {
			value, _ := attr.Value.(string)
			item, err := asn1.Marshal(struct {
				Type  asn1.ObjectIdentifier
				Value asn1.RawValue
			}{attr.Type, asn1.RawValue{Tag: asn1.TagUTF8String, Bytes: []byte(canonical(value))}})
			if err != nil {
				return "", fmt.Errorf("hash the subject of an authority: %w", err)
			}
			items = append(items, item...)
		}
		rdn, err := asn1.Marshal(asn1.RawValue{Tag: asn1.TagSet, IsCompound: true, Bytes: items})
		if err != nil {
			return "", fmt.Errorf("hash the subject of an authority: %w", err)
		}
		all = append(all, rdn...)
	}
	h := sha1.Sum(all)
	return fmt.Sprintf("%02x%02x%02x%02x", h[3], h[2], h[1], h[0]), nil
}

// canonical is a value as OpenSSL compares it; only ASCII letters have a case.
func canonical(value string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			r += 'a' - 'A'
		}
		return r
	}, strings.Join(strings.FieldsFunc(value, func(r rune) bool { return r == ' ' || r >= '\t' && r <= '\r' }), " "))
}

package trust

import (
	"bytes"
	"crypto/sha1" // the form's own check, by a password that all the world knows
	"encoding/binary"
	"errors"
	"fmt"
)

// Java's first form of a key store, JKS, which every Java still reads: a magic
// number, a version, the number of entries, the entries, and the SHA-1 of the
// password, a phrase and all of that. Numbers are big-endian; a text is its
// length in two bytes and modified UTF-8.
const (
	jksMagic    = 0xfeedfeed
	jksVersion  = 2
	jksKey      = 1 // a private key and its chain
	jksTrusted  = 2 // a certificate
	jksPhrase   = "Mighty Aphrodite"
	jksPassword = "changeit" // which stores of authorities have everywhere
	jksType     = "X.509"
)

// keyStoreAlias is what Debian's own hook would call the authority, so that it
// replaces the entry and does not add another.
const keyStoreAlias = "debian:berth-sandbox.pem"

// ErrKeyStore is a key store that is of another form, broken, or under another
// password: it cannot be added to.
var ErrKeyStore = errors.New("no key store of the form JKS with the usual password")

// KeyStore is a key store of authorities, each in DER.
func KeyStore(certs [][]byte) []byte {
	entries := make([][]byte, len(certs))
	for i, cert := range certs {
		entries[i] = jksEntry(fmt.Sprintf("berth:%d", i), cert)
	}
	return jksStore(entries)
}

// AddToKeyStore returns a key store with an authority, DER, under Berth's name.
func AddToKeyStore(store, cert []byte) ([]byte, error) {
	n := len(store) - sha1.Size
	if n < 12 || !bytes.Equal(store[n:], jksSum(store[:n])) {
		return nil, ErrKeyStore
	}
	r := jksReader{rest: store[:n]}
	magic, version, count := r.uint32(), r.uint32(), r.uint32()
	if magic != jksMagic || version != jksVersion {
		return nil, ErrKeyStore
	}
	var entries [][]byte
	for range count {
		alias, entry := r.entry()
		if r.bad {
			return nil, ErrKeyStore
		}
		if alias != keyStoreAlias {
			entries = append(entries, entry)
		}
	}
	if len(r.rest) != 0 {
		return nil, ErrKeyStore
	}
	return jksStore(append(entries, jksEntry(keyStoreAlias, cert))), nil
}

func jksStore(entries [][]byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, jksMagic)
	b = binary.BigEndian.AppendUint32(b, jksVersion)
	b = binary.BigEndian.AppendUint32(b, uint32(len(entries)))
	for _, e := range entries {
		b = append(b, e...)
	}
	return append(b, jksSum(b)...)
}

func jksEntry(alias string, cert []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, jksTrusted)
	b = jksText(b, alias)
	b = binary.BigEndian.AppendUint64(b, 0) // when it was made
	b = jksText(b, jksType)
	b = binary.BigEndian.AppendUint32(b, uint32(len(cert)))
	return append(b, cert...)
}

func jksText(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

// jksSum is the check at the end of a store: of the password as UTF-16, the
// phrase, and all before it.
func jksSum(content []byte) []byte {
	h := sha1.New()
	for _, c := range []byte(jksPassword) {
		h.Write([]byte{0, c})
	}
	h.Write([]byte(jksPhrase))
	h.Write(content)
	return h.Sum(nil)
}

// jksReader takes a store apart; bad is set, and stays, when it ends too soon
// or has what the form does not.
type jksReader struct {
	rest []byte
	bad  bool
}

func (r *jksReader) take(n uint32) []byte {
	if r.bad || uint64(n) > uint64(len(r.rest)) {
		r.bad = true
		return nil
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *jksReader) uint32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *jksReader) text() string {
	if b := r.take(2); b != nil {
		return string(r.take(uint32(binary.BigEndian.Uint16(b))))
	}
	return ""
}

// entry reads one entry and returns its name and all of it.
func (r *jksReader) entry() (alias string, entry []byte) {
	from := r.rest
	kind := r.uint32()
	alias = r.text()
	r.take(8)
	switch kind {
	case jksTrusted:
		r.certificate()
	case jksKey:
		r.take(r.uint32())
		for n := r.uint32(); n > 0 && !r.bad; n-- {
			r.certificate()
		}
	default:
		r.bad = true
	}
	return alias, from[:len(from)-len(r.rest)]
}

func (r *jksReader) certificate() {
	r.text() // its type
	r.take(r.uint32())
}

package credential

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"strings"

	"berth.dev/internal/service"
)

// A placeholder is the shape's prefix, filling, a core, and the shape's suffix.
// The core is
//
//	tag    8 characters, of every placeholder of every sandbox
//	mark  20 characters, which say of what it is one
//	check  4 characters, which follow from the mark
//
// so that one search for the tag, in a few encodings, finds them all, and those
// of other sandboxes are known for what they are. Filling and mark are a keyed
// hash of the secret's name: the same in each run of a sandbox, different in any
// other, and nobody who lacks the key can tell one from the name.
const (
	// tag is of digits that every alphabet of package service has, and whose hex
	// has no letters. No end of it is a beginning of it, so that two never overlap.
	tag       = "25743667"
	markSize  = 20
	checkSize = 4
	restSize  = markSize + checkSize // what follows the tag
)

// Another length of the core than package service counts with does not compile.
var _ = [1]struct{}{}[service.Core-len(tag)-restSize]

// placeholder is what the guest gets in place of a secret.
type placeholder struct{ text, core string }

// newPlaceholder makes the placeholder of a part of a secret.
func newPlaceholder(key []byte, secret, part string, shape service.Shape) placeholder {
	n, chars := shape.Free()
	filling := n - service.Core
	stream := derive(key, secret+"\x00"+part)
	random := make([]byte, filling+markSize)
	for i := range random {
		random[i] = chars[stream.below(len(chars))]
	}
	mark := string(random[filling:])
	core := tag + mark + check(mark)
	return placeholder{shape.Prefix + string(random[:filling]) + core + shape.Suffix, core}
}

// check is what follows a mark. It holds no secret: it only keeps numbers that
// contain the tag from being taken for a placeholder.
func check(mark string) string {
	sum := sha256.Sum256([]byte(tag + mark))
	out := make([]byte, checkSize)
	for i := range out {
		out[i] = '2' + sum[i]%6
	}
	return string(out)
}

// isCore reports whether text is the core of some placeholder.
func isCore(text string) bool {
	mark, ok := strings.CutPrefix(text, tag)
	if !ok || len(text) != service.Core {
		return false
	}
	for i := range len(mark) {
		if !alnum(mark[i]) {
			return false
		}
	}
	return mark[markSize:] == check(mark[:markSize])
}

func alnum(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// keyed is an endless stream of bytes that follow from a key and a text.
type keyed struct {
	key     []byte
	text    string
	counter uint32
	block   []byte
}

func derive(key []byte, text string) *keyed { return &keyed{key: key, text: text} }

func (k *keyed) next() byte {
	if len(k.block) == 0 {
		h := hmac.New(sha256.New, k.key)
		h.Write([]byte("berth placeholder\x00"))
		h.Write(binary.BigEndian.AppendUint32(nil, k.counter))
		h.Write([]byte(k.text))
		k.block = h.Sum(nil)
		k.counter++
	}
	b := k.block[0]
	k.block = k.block[1:]
	return b
}

// below returns a number from 0 to n-1, each as likely as the others.
func (k *keyed) below(n int) int {
	for limit := 256 - 256%n; ; {
		if b := int(k.next()); b < limit {
			return b % n
		}
	}
}

package image

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"strings"
)

const digestPrefix = "sha256:"

// hexOf checks that d is "sha256:" and 64 lower-case hex digits, the only kind
// of digest that the store knows, and returns the digits: they are the name of
// a file, so nothing else may get through.
func hexOf(d string) (string, error) {
	h, ok := strings.CutPrefix(d, digestPrefix)
	if !ok || len(h) != sha256.Size*2 || strings.Trim(h, "0123456789abcdef") != "" {
		return "", fmt.Errorf("%q is not a sha256 digest", d)
	}
	return h, nil
}

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return digestPrefix + hex.EncodeToString(sum[:])
}

func sumOf(h hash.Hash) string { return digestPrefix + hex.EncodeToString(h.Sum(nil)) }

// short is a digest as people write it.
func short(d string) string {
	if h, err := hexOf(d); err == nil {
		return digestPrefix + h[:12]
	}
	return d
}

// chainID names a stack of layers by their DiffIDs, lowest first, as the OCI
// image spec defines it ("Layer ChainID"). That of no layers is the digest of
// nothing, which the spec leaves open.
func chainID(diffIDs []string) string {
	if len(diffIDs) == 0 {
		return digestOf(nil)
	}
	id := diffIDs[0]
	for _, d := range diffIDs[1:] {
		id = digestOf([]byte(id + " " + d))
	}
	return id
}

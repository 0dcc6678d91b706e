package service

import (
	"encoding/base64"
	"fmt"
	"strings"
)

// Core is how many characters of a placeholder are not up to its Shape: what
// makes it known as one, and which.
const Core = 32

// minHex is what Core is not enough for: with 16 characters to choose from the
// part of Core that is by chance has 80 bits.
const minHex = Core + 4

// Alphabet is what a placeholder's characters are taken from.
type Alphabet string

// The alphabets. All are of letters and digits alone, so that a placeholder
// stays as it is in URLs, JSON, shells and configuration files.
const (
	Alnum  Alphabet = "alnum"  // A-Z a-z 0-9
	Lower  Alphabet = "lower"  // a-z 0-9
	Hex    Alphabet = "hex"    // 0-9 a-f
	Base32 Alphabet = "base32" // A-Z 2-7
)

// Characters returns those of the alphabet, "" for one that does not exist.
func (a Alphabet) Characters() string {
	const digits, lower, upper = "0123456789", "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	switch a {
	case Alnum:
		return digits + upper + lower
	case Lower:
		return digits + lower
	case Hex:
		return digits + "abcdef"
	case Base32:
		return upper + "234567"
	}
	return ""
}

// Shape is the form of a placeholder: clients that look at a key before they
// send it must take it for one. The zero Shape is 40 letters and digits.
type Shape struct {
	Prefix, Suffix string   // letters, digits, "-" and "_"
	Length         int      // characters, with prefix and suffix; 0 for 40 between these
	Alphabet       Alphabet // of what is between them; "" for Alnum
}

// Free is the number of characters between prefix and suffix, and what they are
// taken from.
func (s Shape) Free() (n int, characters string) {
	a := s.Alphabet
	if a == "" {
		a = Alnum
	}
	if s.Length == 0 {
		return 40, a.Characters()
	}
	return s.Length - len(s.Prefix) - len(s.Suffix), a.Characters()
}

func (s Shape) check() error {
	n, chars := s.Free()
	least := Core
	if s.Alphabet == Hex {
		least = minHex
	}
	switch {
	case chars == "":
		return fmt.Errorf("%s is no alphabet of a placeholder: they are alnum, lower, hex, base32", quote(string(s.Alphabet)))
	case s.Length < 0 || s.Length > maxShape || len(s.Prefix)+len(s.Suffix)+n > maxShape:
		return fmt.Errorf("a placeholder has at most %d characters", maxShape)
	case n < least:
		return fmt.Errorf("a placeholder needs %d characters beside its prefix and suffix, to be known again", least)
	}
	for _, c := range []byte(s.Prefix + s.Suffix) {
		if !strings.ContainsRune(Alnum.Characters()+"-_", rune(c)) {
			return fmt.Errorf("%s cannot be around a placeholder: use letters, digits, \"-\" and \"_\"", quote(s.Prefix+s.Suffix))
		}
	}
	return nil
}

func encode(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

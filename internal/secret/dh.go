package secret

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/big"
)

// The encryption of secrets on their way through the bus, "Transfer of Secrets"
// in the Secret Service API. A group of 1024 bits is what all services know; it
// is to keep secrets from programs that record the bus, not from an adversary
// who has the user's rights anyway.

// dhAlgorithm is the name of what newDH makes.
const dhAlgorithm = "dh-ietf1024-sha256-aes128-cbc-pkcs7"

// dhSize is the length of the group's numbers, in bytes.
const dhSize = 128

// dhPrime is the prime of the Second Oakley Group (RFC 2409, 6.2); the
// generator is 2.
var dhPrime, _ = new(big.Int).SetString(""+
	"FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74"+
	"020BBEA63B139B22514A08798E3404DDEF9519B3CD3A431B302B0A6DF25F1437"+
	"4FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED"+
	"EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE65381FFFFFFFFFFFFFFFF", 16)

// cipherOf encrypts what travels in one session.
type cipherOf interface {
	seal(text []byte) (parameters, sealed []byte, err error)
	open(parameters, sealed []byte) ([]byte, error)
}

// plain is the session without encryption.
type plain struct{}

func (plain) seal(text []byte) ([]byte, []byte, error) { return []byte{}, text, nil }
func (plain) open(_, text []byte) ([]byte, error)      { return text, nil }

// dh is one side of the key agreement.
type dh struct{ private *big.Int }

func newDH() (dh, error) {
	x, err := rand.Int(rand.Reader, dhPrime)
	if err != nil {
		return dh{}, fmt.Errorf("make a key: %w", err)
	}
	return dh{x}, nil
}

func (d dh) public() []byte {
	return new(big.Int).Exp(big.NewInt(2), d.private, dhPrime).FillBytes(make([]byte, dhSize))
}

// agree makes the session's cipher of the other side's public key.
func (d dh) agree(peer []byte) (cipherOf, error) {
	y := new(big.Int).SetBytes(peer)
	// 0, 1 and p-1 would make the key known to everybody.
	if y.Cmp(big.NewInt(1)) <= 0 || y.Cmp(new(big.Int).Sub(dhPrime, big.NewInt(1))) >= 0 {
		return nil, errors.New("it offers a key that is none")
	}
	shared := new(big.Int).Exp(y, d.private, dhPrime).FillBytes(make([]byte, dhSize))
	key, err := hkdf.Key(sha256.New, shared, nil, "", aes.BlockSize)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cbc{block}, nil
}

// cbc is AES-128 in CBC mode with the padding of PKCS #7; the parameter is the
// IV.
type cbc struct{ block cipher.Block }

func (c cbc) seal(text []byte) ([]byte, []byte, error) {
	iv := make([]byte, aes.BlockSize)
	if _, err := rand.Read(iv); err != nil {
		return nil, nil, err
	}
	pad := aes.BlockSize - len(text)%aes.BlockSize
	sealed := make([]byte, len(text), len(text)+pad)
	copy(sealed, text)
	for range pad {
		sealed = append(sealed, byte(pad))
	}
	cipher.NewCBCEncrypter(c.block, iv).CryptBlocks(sealed, sealed)
	return iv, sealed, nil
}

func (c cbc) open(iv, sealed []byte) ([]byte, error) {
	bad := errors.New("it sent something that cannot be decrypted")
	if len(iv) != aes.BlockSize || len(sealed) == 0 || len(sealed)%aes.BlockSize != 0 {
		return nil, bad
	}
	text := make([]byte, len(sealed))
	cipher.NewCBCDecrypter(c.block, iv).CryptBlocks(text, sealed)
	pad := int(text[len(text)-1])
	if pad < 1 || pad > aes.BlockSize {
		return nil, bad
	}
	for _, b := range text[len(text)-pad:] {
		if int(b) != pad {
			return nil, bad
		}
	}
	return text[:len(text)-pad], nil
}

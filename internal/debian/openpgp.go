package debian

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"berth.dev/internal/sandbox"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
)

// Bounds of OpenPGP data.
const (
	maxSignatures = 32 // on one Release file; Debian's have three
	minRSABits    = 2048
)

// dearmor returns a keyring in its binary form: it may be armored, even several
// blocks one after the other, or binary already.
func dearmor(data []byte) ([]byte, error) {
	if !bytes.Contains(data, []byte("-----BEGIN PGP")) {
		return data, nil
	}
	var all []byte
	for _, block := range bytes.SplitAfter(data, []byte("-----END PGP PUBLIC KEY BLOCK-----")) {
		if !bytes.Contains(block, []byte("-----BEGIN PGP")) {
			continue
		}
		b, err := armor.Decode(bytes.NewReader(block))
		if err != nil {
			return nil, fmt.Errorf("decode armor: %w", err)
		}
		key, err := io.ReadAll(io.LimitReader(b.Body, maxHostFile))
		if err != nil {
			return nil, fmt.Errorf("decode armor: %w", err)
		}
		all = append(all, key...)
	}
	return all, nil
}

// parseKeyring reads certificates one after the other. Ones that cannot be
// read (an algorithm that is not known) are passed over, as gpgv does.
func parseKeyring(data []byte) (openpgp.EntityList, error) {
	keys, err := openpgp.ReadKeyRing(bytes.NewReader(data))
	if err != nil && len(keys) == 0 {
		return nil, fmt.Errorf("read keyring: %w", err)
	}
	return keys, nil
}

// filterKeys keeps the certificates with one of the fingerprints, of the
// primary key or of a subkey, in upper case hex.
func filterKeys(data []byte, prints []string) ([]byte, error) {
	keys, err := parseKeyring(data)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	for _, e := range keys {
		mine := []string{fmt.Sprintf("%X", e.PrimaryKey.Fingerprint)}
		for _, s := range e.Subkeys {
			mine = append(mine, fmt.Sprintf("%X", s.PublicKey.Fingerprint))
		}
		if slices.ContainsFunc(prints, func(p string) bool { return slices.Contains(mine, p) }) {
			if err := e.Serialize(&out); err != nil {
				return nil, err
			}
		}
	}
	return out.Bytes(), nil
}

// openClearsigned verifies an InRelease file and returns what was signed, with
// plain newlines. Only signed bytes are returned: text before or after the
// signed part makes the file invalid, because somebody put it there.
func openClearsigned(data, keyring []byte, now time.Time) ([]byte, error) {
	if !bytes.HasPrefix(data, []byte("-----BEGIN PGP SIGNED MESSAGE-----")) {
		return nil, sandbox.Errorf(sandbox.ErrForbidden, "it is not a clearsigned file")
	}
	block, rest := clearsign.Decode(data)
	if block == nil {
		return nil, sandbox.Errorf(sandbox.ErrForbidden, "its clearsigned form is damaged")
	}
	if len(bytes.TrimSpace(rest)) > 0 {
		return nil, sandbox.Errorf(sandbox.ErrForbidden, "unsigned text follows the signature")
	}
	sig, err := io.ReadAll(io.LimitReader(block.ArmoredSignature.Body, 1<<20))
	if err != nil {
		return nil, sandbox.Errorf(sandbox.ErrForbidden, "its signature is damaged: %w", err)
	}
	if err := verifyDetached(block.Bytes, sig, keyring, now); err != nil {
		return nil, err
	}
	return bytes.ReplaceAll(block.Bytes, []byte("\r\n"), []byte("\n")), nil
}

// verifyDetached checks signatures, armored or binary, as apt does with gpgv:
// one good signature of a key in the keyring suffices, those of other keys are
// passed over, and one that is simply wrong spoils the file. Keys that have
// expired or were revoked by now sign nothing.
func verifyDetached(signed, sig, keyring []byte, now time.Time) error {
	keys, err := parseKeyring(keyring)
	if err != nil {
		return sandbox.Errorf(sandbox.ErrForbidden, "%w", err)
	}
	if bytes.Contains(sig, []byte("-----BEGIN PGP")) {
		b, err := armor.Decode(bytes.NewReader(sig))
		if err != nil {
			return sandbox.Errorf(sandbox.ErrForbidden, "its signature is damaged: %w", err)
		}
		if sig, err = io.ReadAll(io.LimitReader(b.Body, 1<<20)); err != nil {
			return sandbox.Errorf(sandbox.ErrForbidden, "its signature is damaged: %w", err)
		}
	}
	good, reasons := 0, []string(nil)
	packets := packet.NewReader(bytes.NewReader(sig))
	for n := 0; ; n++ {
		p, err := packets.Next()
		if err == io.EOF {
			break
		}
		s, ok := p.(*packet.Signature)
		if err != nil || !ok || n >= maxSignatures {
			return sandbox.Errorf(sandbox.ErrForbidden, "its signature is damaged")
		}
		switch err := verifyOne(signed, s, keys, now); {
		case err == nil:
			good++
		case errors.Is(err, errBadSignature):
			return sandbox.Errorf(sandbox.ErrForbidden, "%w", err)
		default:
			reasons = append(reasons, err.Error())
		}
	}
	switch {
	case good > 0:
		return nil
	case len(reasons) == 0:
		return sandbox.Errorf(sandbox.ErrForbidden, "it has no signature")
	}
	return sandbox.Errorf(sandbox.ErrForbidden, "no good signature: %s", strings.Join(reasons, "; "))
}

// errBadSignature: a known key, but not its signature of these bytes.
var errBadSignature = errors.New("bad signature")

// signingHashes are the digests that a signature may use; apt refuses others.
var signingHashes = []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512}

func verifyOne(signed []byte, s *packet.Signature, keys openpgp.EntityList, now time.Time) error {
	if s.IssuerKeyId == nil {
		return errors.New("a signature does not say whose it is")
	}
	id := *s.IssuerKeyId
	owners := keys.EntitiesById(id)
	switch {
	case len(owners) == 0:
		return fmt.Errorf("key %016X is not in the keyring", id)
	case !slices.Contains(signingHashes, s.Hash):
		return fmt.Errorf("key %016X signed with the weak digest %s", id, s.Hash)
	case s.SigType != packet.SigTypeBinary && s.SigType != packet.SigTypeText:
		return fmt.Errorf("key %016X made a signature of another kind (%#x)", id, s.SigType)
	case s.CreationTime.After(now.Add(24 * time.Hour)):
		return fmt.Errorf("key %016X signed in the future (%s)", id, s.CreationTime.UTC().Format(time.RFC3339))
	}
	var raw bytes.Buffer
	if err := s.Serialize(&raw); err != nil {
		return err
	}
	// A clock that is a little slow must not make a signature invalid: Release's
	// own Date says so in better words.
	at := now
	if s.CreationTime.After(at) {
		at = s.CreationTime
	}
	config := &packet.Config{Time: func() time.Time { return at }, MinRSABits: minRSABits}
	// A keyring may hold two versions of one certificate: the library looks at
	// the first it finds, so each gets its turn.
	var err error
	for _, e := range owners {
		if err = verifyWith(signed, raw.Bytes(), e, id, config, now); err == nil {
			return nil
		}
	}
	return err
}

// verifyWith checks one signature against one certificate. The library judges
// a key as of when it signed; gpgv judges it as of now too, and so does this.
func verifyWith(signed, sig []byte, e *openpgp.Entity, id uint64, config *packet.Config, now time.Time) error {
	if _, ok := e.SigningKeyById(now, id, config); !ok {
		return fmt.Errorf("key %016X has expired, is revoked or may not sign", id)
	}
	_, _, err := openpgp.VerifyDetachedSignature(openpgp.EntityList{e}, bytes.NewReader(signed), bytes.NewReader(sig), config)
	var wrong pgperrors.SignatureError
	if errors.As(err, &wrong) {
		return fmt.Errorf("%w by key %016X (%w)", errBadSignature, id, err)
	}
	if err != nil { // an algorithm that is not known, a signature past its date
		return fmt.Errorf("signature of key %016X: %w", id, err)
	}
	return nil
}

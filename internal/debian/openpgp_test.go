package debian

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"berth.dev/internal/debian/debiantest"
	"berth.dev/internal/sandbox"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

func hexOf(b []byte) string { return fmt.Sprintf("%X", b) }

func TestOpenClearsigned(t *testing.T) {
	key, second, stranger := debiantest.NewKey(t, 0), debiantest.NewKey(t, 0), debiantest.NewKey(t, 0)
	text := []byte("Suite: x\n- dashes\nSHA256:\n a 1 b\n")
	for name, signed := range map[string][]byte{
		"one key":           debiantest.Clearsign(t, text, debiantest.Time, key),
		"a known key among": debiantest.Clearsign(t, text, debiantest.Time, stranger, key),
		"two known keys":    debiantest.Clearsign(t, text, debiantest.Time, key, second),
		"lines with CR":     bytes.ReplaceAll(debiantest.Clearsign(t, text, debiantest.Time, key), []byte("\n"), []byte("\r\n")),
	} {
		got, err := openClearsigned(signed, debiantest.Keyring(t, second, key), debiantest.Now)
		if err != nil || strings.TrimSpace(string(got)) != strings.TrimSpace(string(text)) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func TestOpenClearsignedRefuses(t *testing.T) {
	key, stranger, brief := debiantest.NewKey(t, 0), debiantest.NewKey(t, 0), debiantest.NewKey(t, 8*24*time.Hour)
	revoked := debiantest.NewKey(t, 0)
	text := []byte("Suite: x\n")
	byRevoked := debiantest.Clearsign(t, text, debiantest.Time, revoked)
	if err := revoked.Revoke(packet.KeyRetired, "", &packet.Config{Time: func() time.Time { return debiantest.Time }}); err != nil {
		t.Fatal(err)
	}
	keyring := debiantest.Keyring(t, key, brief, revoked)
	good := debiantest.Clearsign(t, text, debiantest.Time, key)
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"nothing":           {nil, "not a clearsigned file"},
		"plain text":        {text, "not a clearsigned file"},
		"text before":       {append([]byte("Suite: y\n"), good...), "not a clearsigned file"},
		"text behind":       {append(bytes.Clone(good), "Suite: y\n"...), "unsigned text follows"},
		"another text":      {bytes.Replace(good, []byte("Suite: x"), []byte("Suite: y"), 1), "bad signature"},
		"a line more":       {bytes.Replace(good, []byte("Suite: x"), []byte("Suite: x\nAdded: y"), 1), "bad signature"},
		"cut off":           {good[:len(good)/2], "damaged"},
		"signature damaged": {bytes.Replace(good, []byte("\n\nw"), []byte("\n\nx"), 1), ""},
		"unknown key":       {debiantest.Clearsign(t, text, debiantest.Time, stranger), "is not in the keyring"},
		"expired key":       {debiantest.Clearsign(t, text, debiantest.Time, brief), "has expired"},
		"revoked key":       {byRevoked, "is revoked"},
		"from the future":   {debiantest.Clearsign(t, text, debiantest.Now.Add(1000*time.Hour), key), "in the future"},
	} {
		now := debiantest.Now
		_, err := openClearsigned(c.data, keyring, now)
		if !errors.Is(err, sandbox.ErrForbidden) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", name, err, c.want)
		}
	}
	if _, err := openClearsigned(good, nil, debiantest.Now); err == nil {
		t.Error("an empty keyring suffices")
	}
	// The key that expires a day after signing is good while it lasts.
	if _, err := openClearsigned(debiantest.Clearsign(t, text, debiantest.Time, brief), keyring, debiantest.Time.Add(time.Hour)); err != nil {
		t.Errorf("before it expires: %v", err)
	}
}

func FuzzClearsigned(f *testing.F) {
	key := debiantest.NewKey(f, 0)
	keyring := debiantest.Keyring(f, key)
	good := debiantest.Clearsign(f, []byte("Suite: x\n"), debiantest.Time, key)
	f.Add(good)
	f.Add(bytes.Replace(good, []byte("Suite"), []byte("Siute"), 1))
	f.Fuzz(func(t *testing.T, data []byte) {
		text, err := openClearsigned(data, keyring, debiantest.Now)
		if err == nil && strings.TrimSpace(string(text)) != "Suite: x" {
			t.Fatalf("verified %q", text)
		}
		_ = verifyDetached([]byte("x"), data, keyring, debiantest.Now)
		if plain, err := dearmor(data); err == nil {
			_, _ = parseKeyring(plain)
		}
	})
}

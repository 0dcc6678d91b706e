// Package secret holds the user's secrets: a type that cannot be printed, the
// store that keeps them on the host, and commands that make them at use time.
// It owns the folder of the store and this store's items in the desktop's
// keyring. Where a secret may be sent, and what a sandbox sees in its place, is
// for others to say.
//
// Nothing here returns, logs or writes the bytes of a secret outside of a Value;
// errors never quote what a command printed on standard output, nor what a
// damaged file holds.
package secret

import (
	"crypto/subtle"
	"fmt"
	"log/slog"
)

// redacted is what every way of printing a Value gives.
const redacted = "[secret]"

// Value is the bytes of a secret. However it is printed, logged or encoded, it
// gives "[secret]"; Reveal is the one way to the bytes, and a test names the
// packages that may call it. The zero Value is no secret. It is immutable.
type Value struct {
	// Behind a pointer, so that fmt's %#v and reflection of the structure that a
	// Value is in show an address. What it points to is a function, because
	// printers that follow pointers to fields that are not exported read strings
	// there, and cannot call.
	held *held
}

type held struct{ reveal func() string }

// NewValue returns text as a secret.
func NewValue(text string) Value {
	if text == "" {
		return Value{}
	}
	return Value{&held{func() string { return text }}}
}

// Reveal returns the bytes.
func (v Value) Reveal() string {
	if v.held == nil {
		return ""
	}
	return v.held.reveal()
}

// IsZero reports whether there is no secret.
func (v Value) IsZero() bool { return v.held == nil }

// Equal compares in a time that depends on the lengths alone.
func (v Value) Equal(w Value) bool {
	return subtle.ConstantTimeCompare([]byte(v.Reveal()), []byte(w.Reveal())) == 1
}

// String implements fmt.Stringer.
func (v Value) String() string { return redacted }

// GoString implements fmt.GoStringer.
func (v Value) GoString() string { return redacted }

// Format implements fmt.Formatter: no verb shows more.
func (v Value) Format(s fmt.State, _ rune) { _, _ = s.Write([]byte(redacted)) }

// MarshalText implements encoding.TextMarshaler, for JSON, TOML and map keys.
func (v Value) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue implements slog.LogValuer.
func (v Value) LogValue() slog.Value { return slog.StringValue(redacted) }

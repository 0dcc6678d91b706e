// Package clienthello reads the first message of a TLS client, as far as is
// needed to hold it against a name: who the client says it wants (server_name,
// RFC 6066 §3), and whether it hides whom it really wants (encrypted_client_hello,
// RFC 9849 §5). It is pure; the bytes are a guest's.
package clienthello

import (
	"encoding/binary"
	"errors"
)

// MaxSize bounds what is read of a connection in search of a whole hello, in
// bytes. A handshake message may have 16 MiB; real ones, post-quantum key shares
// included, stay below 4 KiB.
const MaxSize = 32 << 10

// The errors of Parse.
var (
	// ErrIncomplete: so far it is a hello; more bytes are needed.
	ErrIncomplete = errors.New("the client's first message is not complete")
	// ErrNotTLS: whatever it is, it does not begin as TLS does.
	ErrNotTLS = errors.New("not TLS")
	// ErrMalformed: it begins as TLS does and then breaks its rules.
	ErrMalformed = errors.New("malformed TLS client hello")
)

// Hello is what matters of a ClientHello.
type Hello struct {
	// ServerName is the host_name of server_name as it was sent, "" when there
	// is none.
	ServerName string
	// ECH: it has an encrypted_client_hello extension. Whether that is real or
	// made up to look so (GREASE) cannot be told, which is its purpose.
	ECH bool
}

// Numbers of RFC 8446 and IANA's registry of TLS extensions.
const (
	recordHandshake  = 22
	recordHeader     = 5
	maxRecord        = 1<<14 + 256 // RFC 8446 §5.2, what old versions may add included
	clientHello      = 1
	extServerName    = 0
	extECH           = 0xfe0d
	nameTypeHostName = 0
)

// Parse reads a hello from the first bytes that a client sent. It may be spread
// over several records (RFC 8446 §5.1). Bytes that follow it are ignored.
func Parse(b []byte) (Hello, error) {
	if !begins(b) {
		return Hello{}, ErrNotTLS
	}
	msg, err := message(b)
	if err != nil {
		return Hello{}, err
	}
	return parseBody(msg)
}

// begins reports whether b can be the beginning of a TLS handshake record.
func begins(b []byte) bool {
	return (len(b) < 1 || b[0] == recordHandshake) && (len(b) < 2 || b[1] == 3)
}

// message joins records until the first handshake message is whole, and
// returns its body.
func message(b []byte) ([]byte, error) {
	total := len(b)
	var msg []byte
	for {
		if len(b) < recordHeader {
			return nil, incomplete(total)
		}
		if b[0] != recordHandshake || b[1] != 3 {
			return nil, ErrMalformed
		}
		size := int(binary.BigEndian.Uint16(b[3:]))
		if size == 0 || size > maxRecord {
			return nil, ErrMalformed // an empty fragment is forbidden: RFC 8446 §5.1
		}
		part := b[recordHeader:min(len(b), recordHeader+size)]
		msg = append(msg, part...)
		if len(msg) >= 1 && msg[0] != clientHello {
			return nil, ErrMalformed
		}
		if len(msg) >= 4 {
			if n := int(msg[1])<<16 | int(msg[2])<<8 | int(msg[3]); n > MaxSize {
				return nil, ErrMalformed
			} else if len(msg) >= 4+n {
				return msg[4 : 4+n], nil
			}
		}
		if len(part) < size {
			return nil, incomplete(total)
		}
		b = b[recordHeader+size:]
	}
}

func incomplete(have int) error {
	if have >= 2*MaxSize {
		return ErrMalformed
	}
	return ErrIncomplete
}

// reader takes fields off the front of a message; ok turns false at the first
// that is not there, and stays so.
type reader struct {
	b  []byte
	ok bool
}

func (r *reader) take(n int) []byte {
	if !r.ok || n > len(r.b) {
		r.ok = false
		return nil
	}
	p := r.b[:n]
	r.b = r.b[n:]
	return p
}

func (r *reader) number(size int) int {
	n := 0
	for _, c := range r.take(size) {
		n = n<<8 | int(c)
	}
	return n
}

// vector takes a field whose length is in the size bytes before it.
func (r *reader) vector(size int) *reader {
	b := r.take(r.number(size))
	return &reader{b, r.ok}
}

func parseBody(b []byte) (Hello, error) {
	r := &reader{b, true}
	r.take(2 + 32) // legacy_version, random
	r.vector(1)    // legacy_session_id
	r.vector(2)    // cipher_suites
	r.vector(1)    // legacy_compression_methods
	if !r.ok {
		return Hello{}, ErrMalformed
	}
	if len(r.b) == 0 {
		return Hello{}, nil // no extensions: a client of before 2003
	}
	exts := r.vector(2)
	if !r.ok || len(r.b) != 0 {
		return Hello{}, ErrMalformed
	}
	return parseExtensions(exts)
}

func parseExtensions(exts *reader) (Hello, error) {
	var h Hello
	seen := map[int]bool{}
	for exts.ok && len(exts.b) > 0 {
		kind := exts.number(2)
		body := exts.vector(2)
		// Of two with one type (forbidden: RFC 8446 §4.2) a server might believe the other.
		if !exts.ok || seen[kind] {
			return Hello{}, ErrMalformed
		}
		seen[kind] = true
		switch kind {
		case extECH:
			h.ECH = true
		case extServerName:
			name, ok := serverName(body)
			if !ok {
				return Hello{}, ErrMalformed
			}
			h.ServerName = name
		}
	}
	if !exts.ok {
		return Hello{}, ErrMalformed
	}
	return h, nil
}

// serverName reads a ServerNameList, which may hold one name of each type, and
// of types there is one.
func serverName(body *reader) (string, bool) {
	list := body.vector(2)
	if !body.ok || len(body.b) != 0 || list.number(1) != nameTypeHostName {
		return "", false
	}
	name := list.vector(2)
	if !list.ok || len(list.b) != 0 || len(name.b) == 0 {
		return "", false
	}
	return string(name.b), true
}

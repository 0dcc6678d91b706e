package sshagent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Bounds of messages, in bytes.
const (
	// maxRequest is for what the guest sends. A certificate with a long list of
	// principals is the longest that is honest.
	maxRequest = 64 << 10
	// maxReply is for what the user's agent answers, and OpenSSH's own bound.
	maxReply = 256 << 10
	// maxKeys of the user's agent are looked at.
	maxKeys = 512
)

// Types of messages (draft-ietf-sshm-ssh-agent, section 6.1).
const (
	msgFailure   = 5
	msgSuccess   = 6
	msgList      = 11
	msgKeys      = 12
	msgSign      = 13
	msgSignature = 14
	msgExtension = 27
)

var errTooLong = errors.New("the message is too long")

// readMessage reads one message of at most limit bytes, without its length. Not
// more than the message's own bytes are kept for it, whatever length it claims.
func readMessage(r io.Reader, limit uint32) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n == 0 || n > limit {
		return nil, fmt.Errorf("%w: %d bytes", errTooLong, n)
	}
	b := make([]byte, n)
	_, err := io.ReadFull(r, b)
	return b, err
}

// writeMessage writes one message in one Write.
func writeMessage(w io.Writer, body []byte) error {
	_, err := w.Write(appendString(nil, body))
	return err
}

func appendString[T string | []byte](b []byte, s T) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
	return append(b, s...)
}

// reader takes a message apart (RFC 4251, section 5). After the first value that
// is not there all are empty, and ended is false.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if r.bad || n > len(r.b) {
		r.b, r.bad = nil, true
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) byte() byte {
	if v := r.take(1); v != nil {
		return v[0]
	}
	return 0
}

func (r *reader) uint32() uint32 {
	if v := r.take(4); v != nil {
		return binary.BigEndian.Uint32(v)
	}
	return 0
}

func (r *reader) bytes() []byte {
	n := r.uint32()
	if n > maxReply {
		r.bad = true
	}
	return r.take(int(min(n, maxReply)))
}

func (r *reader) string() string { return string(r.bytes()) }

// ended reports whether all was there and nothing is left.
func (r *reader) ended() bool { return !r.bad && len(r.b) == 0 }

package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// maxLine bounds a line with its newline, in bytes.
const maxLine = 64 << 10

const (
	prevKey = `,"prev":"`
	hashKey = `,"hash":"`
	lineEnd = `"}`
	hexLen  = 2 * sha256.Size
	// hashTail is the length of what is not hashed.
	hashTail = len(hashKey) + hexLen + len(lineEnd)
)

// genesis is the prev of the first line of the log in a folder of that name.
func genesis(name string) string {
	return hashOf([]byte("berth audit log 1\n" + name))
}

func hashOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// encoder makes lines. The zero value is not usable.
type encoder struct {
	buf  bytes.Buffer
	json *json.Encoder
}

func newEncoder() *encoder {
	e := &encoder{}
	e.json = json.NewEncoder(&e.buf)
	e.json.SetEscapeHTML(false)
	return e
}

// line makes the line of an event whose Seq and Prev are set, with its newline.
// It is valid until the next call. An event that was cleaned always has one.
func (enc *encoder) line(e *Event) (line []byte, hash string, err error) {
	enc.buf.Reset()
	e.Hash = ""
	if err := enc.json.Encode(e); err != nil {
		return nil, "", fmt.Errorf("encode event: %w", err)
	}
	body := bytes.TrimSuffix(enc.buf.Bytes(), []byte(hashKey+lineEnd+"\n"))
	hash = hashOf(body)
	enc.buf.Truncate(len(body))
	enc.buf.WriteString(hashKey)
	enc.buf.WriteString(hash)
	enc.buf.WriteString(lineEnd + "\n")
	if enc.buf.Len() > maxLine {
		return nil, "", errors.New("encode event: it is too long")
	}
	return enc.buf.Bytes(), hash, nil
}

// errChanged says that the line could be read and is not what was written.
var errChanged = errors.New("it was changed: its hash does not fit")

// ParseLine reads a line, without its newline, and holds it against its hash.
// When only the hash does not fit, the event is returned with the error.
func ParseLine(line []byte) (Event, error) {
	var e Event
	if len(line) >= maxLine {
		return e, fmt.Errorf("it is longer than %d bytes", maxLine)
	}
	body, prev, hash, ok := split(line)
	if !ok {
		return e, errors.New("it is no line of an audit log")
	}
	if err := json.Unmarshal(line, &e); err != nil {
		return Event{}, fmt.Errorf("it is no line of an audit log: %w", err)
	}
	// The chain is about these bytes, whatever JSON may make of the whole.
	e.Prev, e.Hash, e.line = prev, hash, string(line)
	if hash != hashOf(body) {
		return e, errChanged
	}
	return e, nil
}

// split takes a line apart: what is hashed, prev and hash.
func split(line []byte) (body []byte, prev, hash string, ok bool) {
	at := len(line) - hashTail
	if at < 0 || line[0] != '{' {
		return nil, "", "", false
	}
	body = line[:at]
	hash, ok = member(line[at:], hashKey, lineEnd)
	from := len(body) - len(prevKey) - hexLen - 1
	if !ok || from < 0 {
		return nil, "", "", false
	}
	prev, ok = member(body[from:], prevKey, `"`)
	return body, prev, hash, ok
}

// member is the hash between two given texts.
func member(b []byte, before, after string) (string, bool) {
	s, ok := strings.CutPrefix(string(b), before)
	if ok {
		s, ok = strings.CutSuffix(s, after)
	}
	return s, ok && isHash(s)
}

func isHash(s string) bool {
	return len(s) == hexLen && strings.Trim(s, "0123456789abcdef") == ""
}

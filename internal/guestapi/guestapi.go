// Package guestapi is the vocabulary that the guest (internal/guest, PID 1 in
// a sandbox) and the host (internal/guestapi/client) share: the configuration
// that the guest is started with, the names and JSON payloads of Berth's own
// SSH channels and requests, and the frames of the event stream. Every form
// has a parser with bounds, because each side reads what the other wrote and
// the guest is never trusted. It does nothing itself and imports only the
// standard library.
//
// # The protocol
//
// The carrier is SSH (RFC 4253, 4254). Beside the standard channel types
// "session", "direct-tcpip" and "direct-streamlocal@openssh.com" there are
// Berth's own. Their payload is JSON in the extra data of the open message, so
// that each takes one round trip; a refusal is an [Error] as JSON in the
// message of the open failure.
//
//	start@berth.dev   StartRequest   start a session; with Attach its bytes flow here
//	attach@berth.dev  AttachRequest  join a session
//	events@berth.dev  EventsRequest  stream of frames, see [ReadFrame]
//	call@berth.dev    Call           the answer as JSON, then the end of the channel
//	sftp@berth.dev    SFTPRequest    SFTP as a given user
//	browse@berth.dev  BrowseRequest  lines of JSON: Page from the guest, Shown from the client
//
// On start and attach channels the guest first sends the request
// info@berth.dev (SessionInfo), then data (stdout) and extended data 1
// (stderr), then result@berth.dev (Result), EOF and close. The client sends
// data (stdin), window-change and signal as RFC 4254 has them, and
// eof@berth.dev, which wants a reply, when stdin came to its end. A channel
// that is merely closed detaches.
//
// The guest opens one kind of channel: "auth-agent@openssh.com" (OpenSSH's
// PROTOCOL.agent), on the connection whose StartRequest said SSHAgent, for each
// program of that session that connects to the agent's socket. To a standard
// session it is given by the request auth-agent-req@openssh.com.
package guestapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode"
)

// Version is the version of the configuration and of the protocol. The guest
// refuses a configuration of any other: both come out of the same build.
const Version = 1

// Channel types and channel requests of Berth's own.
const (
	ChanStart  = "start@berth.dev"
	ChanAttach = "attach@berth.dev"
	ChanEvents = "events@berth.dev"
	ChanCall   = "call@berth.dev"
	ChanSFTP   = "sftp@berth.dev"
	ChanBrowse = "browse@berth.dev"

	// ChanAgent is OpenSSH's name: a connection to the client's SSH agent.
	ChanAgent = "auth-agent@openssh.com"

	ReqInfo   = "info@berth.dev"
	ReqResult = "result@berth.dev"
	ReqEOF    = "eof@berth.dev"
)

// ReadyLine is what the guest writes to its standard output, with a newline,
// once it listens and has finished its own start.
const ReadyLine = "berth-guest: ready"

// Bounds of what one side accepts of the other.
const (
	// MaxConfig bounds the configuration, in bytes.
	MaxConfig = 1 << 20
	// MaxRequest bounds the JSON of a request, in bytes; it has to fit into
	// one SSH packet (256 KiB) with its envelope.
	MaxRequest = 224 << 10
	// MaxReply bounds the answer to a Call, in bytes.
	MaxReply = 4 << 20
	// MaxError bounds the JSON of an Error, in bytes.
	MaxError = 4 << 10
	// MaxInfo bounds the JSON of a SessionInfo, in bytes.
	MaxInfo = 64 << 10
	// MaxAgents connections to the client's SSH agent may be open at once on one
	// connection; each side holds the other to it.
	MaxAgents = 16
	// MaxPage bounds a line with a Page, in bytes.
	MaxPage = 20 << 10
	// MaxRing bounds a session's scrollback, in bytes.
	MaxRing = 16 << 20
)

// Marshal is json.Marshal without the escaping of <, > and &, which would
// make prompts six times as long.
func Marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// checker is a payload that knows its own rules.
type checker[T any] interface {
	*T
	Check() error
}

// Parse reads one strict JSON value of at most limit bytes: unknown fields and
// trailing data are errors, and so is what the value's own Check refuses.
// Errors are *Error with code Invalid.
func Parse[T any, P checker[T]](b []byte, limit int) (T, error) {
	var v T
	if len(b) > limit {
		return v, Errorf(Invalid, "request of %d bytes is longer than %d", len(b), limit)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		return v, Errorf(Invalid, "parse request: %v", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return v, Errorf(Invalid, "parse request: data after its end")
	}
	if err := P(&v).Check(); err != nil {
		return v, err
	}
	return v, nil
}

// Printable makes guest text fit for a terminal and a log: what is not a
// printable character becomes '?', and what is longer than limit bytes is cut.
func Printable(s string, limit int) string {
	if len(s) > limit {
		s = s[:limit]
	}
	return strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || (!unicode.IsPrint(r) && r != ' ') {
			return '?'
		}
		return r
	}, s)
}

// Code is the kind of an Error.
type Code string

// The codes of errors that the guest reports.
const (
	Invalid         Code = "invalid"           // the request makes no sense
	NoSession       Code = "no-session"        // no session of that id
	SessionExists   Code = "session-exists"    // the id is taken
	NoUser          Code = "no-user"           // no user or group of that name
	NoDir           Code = "no-dir"            // the working directory is missing or no folder
	CommandNotFound Code = "command-not-found" // as a shell's 127
	NotExecutable   Code = "not-executable"    // as a shell's 126
	Limit           Code = "limit"             // too many sessions, connections or bytes
	Denied          Code = "denied"            // the guest's kernel refused
	Internal        Code = "internal"          // a defect of the guest
)

// Error is an error as it crosses from the guest to the host.
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
}

// Errorf makes an *Error.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

// ExitCode is the status that `berth exec` ends with for this error: 127 and
// 126 as a shell means them, else 125.
func (e *Error) ExitCode() int {
	switch e.Code {
	case CommandNotFound:
		return 127
	case NotExecutable:
		return 126
	}
	return 125
}

// ParseError reads the JSON form of an Error that the guest wrote. It never
// fails: what is no Error becomes one of code Internal with the text in it,
// made printable.
func ParseError(s string) *Error {
	var e Error
	if len(s) > MaxError || json.Unmarshal([]byte(s), &e) != nil || e.Code == "" {
		return &Error{Code: Internal, Message: "the guest refused: " + Printable(s, 256)}
	}
	e.Code = Code(Printable(string(e.Code), 64))
	e.Message = Printable(e.Message, 2048)
	return &e
}

// Encode is the JSON form that ParseError reads.
func (e *Error) Encode() string {
	c := *e
	if len(c.Message) > MaxError/4 { // escaping may grow it
		c.Message = strings.ToValidUTF8(c.Message[:MaxError/4], "") + "..."
	}
	b, err := Marshal(c)
	if err != nil || len(b) > MaxError {
		return `{"code":"internal","message":"error too long"}`
	}
	return string(b)
}

// Package control is how the CLI and a supervisor talk: the messages, the
// client, the server's side of one connection, and the handshake with which a
// supervisor starts. The socket lies in a folder of mode 0700 and has mode
// 0600: whoever can connect is the user.
//
// A connection carries one request: a line of JSON with the version and the
// operation, answered by a line of JSON. After the answer to OpGuest the
// connection is a byte stream to the guest's SSH server; after the answer to
// OpLayer it carries the layer in chunks.
package control

import (
	"bufio"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"berth.dev/internal/engine"
	"berth.dev/internal/sandbox"
	"berth.dev/internal/secret"
)

// Version is the version of the protocol. A supervisor keeps running while its
// binary is replaced, and that of a sandbox which an older Berth saved is that
// Berth; so both sides say theirs, and they must be equal. A new operation is no
// new version: who does not know it says so, see IsUnknownOp.
const Version = 1

// MaxLine bounds a line of the protocol, in bytes.
const MaxLine = 1 << 20

// Op is what a connection is for.
type Op string

// The operations.
const (
	OpStatus Op = "status" // answered with a Status
	OpStop   Op = "stop"   // answered when the sandbox has been saved and has ended
	OpSave   Op = "save"   // answered when the state is safe
	OpGuest  Op = "guest"  // answered with a GuestKeys, then a tunnel to the guest's SSH server
	OpLayer  Op = "layer"  // then the root's changes as a tar; see ReadChunks
	// OpReload is answered when the policy, as its files have it now, holds.
	OpReload  Op = "reload"
	OpPending Op = "pending" // answered with a list of Question
	OpAnswer  Op = "answer"  // answers a question; a lasting answer is written before
	OpBind    Op = "bind"    // binds secrets to the sandbox; answered with a Credentials
	// OpAgentUse records a use of the user's SSH agent, or one that was refused.
	OpAgentUse Op = "agent-use"
	// OpAgentAsk puts a question about one; answered with an AgentAnswer once the
	// user has, and withdrawn when the client leaves.
	OpAgentAsk Op = "agent-ask"
	// OpVouch says that a sign-in's code came by way of the user's own browser.
	OpVouch Op = "vouch"
	// OpSettled says that the guest has the files of a Credentials.
	OpSettled Op = "settled"
)

// Request opens a connection.
type Request struct {
	Version int  `json:"version"`
	Op      Op   `json:"op"`
	Discard bool `json:"discard,omitempty"` // OpStop: end without saving
	// OpAnswer: which question, and whether the connections that wait may be made
	// although no rule allows them.
	Question string `json:"question,omitempty"`
	Once     bool   `json:"once,omitempty"`
	// How is the answer in the user's word, for the record.
	How string `json:"how,omitempty"`
	// OpBind: secrets of the shell that asks, by name, kept in memory and in place
	// of those of that name from before; and variables that name another address of
	// a service (service.Definition.BaseVar).
	Secrets map[string]secret.Wire `json:"secrets,omitempty"`
	Bases   map[string]string      `json:"bases,omitempty"`
	// OpVouch.
	Vouch *Vouch `json:"vouch,omitempty"`
	// OpSettled: SumOf those files.
	Settled []byte `json:"settled,omitempty"`
	// OpAgentUse, OpAgentAsk.
	Agent *AgentUse `json:"agent,omitempty"`
}

// Vouch is the user's word for a code that their browser came back with from a
// provider's page, which stays on this machine.
type Vouch struct {
	Provider string      `json:"provider"`
	StandIn  []byte      `json:"stand_in"` // the SHA-256 of what the guest gets in its place
	Code     secret.Wire `json:"code"`
}

// AgentUse is a use of the user's SSH agent by a session whose client guards it.
// What the guest chose is in Host, User and Reason.
type AgentUse struct {
	Purpose string `json:"purpose"`           // AgentForward, or one of sshagent.Use's
	Key     string `json:"key,omitempty"`     // fingerprint
	Comment string `json:"comment,omitempty"` // of the key
	Host    string `json:"host,omitempty"`    // destination, see sshagent.Destination
	Known   bool   `json:"known,omitempty"`   // its key is in the user's known_hosts
	User    string `json:"user,omitempty"`    // who is signed in there
	Allowed bool   `json:"allowed,omitempty"`
	Reason  string `json:"reason,omitempty"`
	Error   string `json:"error,omitempty"`
}

// AgentForward is the purpose of the use that begins a session's.
const AgentForward = "forward"

// AgentAnswer is the user's word, one of sshagent.Answer's.
type AgentAnswer struct {
	Answer string `json:"answer"`
}

// Credentials is what a guest gets in place of secrets.
type Credentials struct {
	Env   map[string]string `json:"env,omitempty"`
	Files []GuestFile       `json:"files,omitempty"`
	// Settled: the guest was given these files before, since it was last started.
	Settled bool    `json:"settled,omitempty"`
	Bound   []Bound `json:"bound,omitempty"`
	// Warnings are secrets that cannot be used, and why.
	Warnings []string `json:"warnings,omitempty"`
}

// GuestFile is a file for the home of the guest's user, with placeholders in it.
type GuestFile struct {
	Path    string `json:"path"` // relative to the home
	Content []byte `json:"content"`
	// Merge: Content is a JSON object, whose members the file's has to have. Nothing
	// is to be done when Mark is in the file.
	Merge bool   `json:"merge,omitempty"`
	Mark  string `json:"mark,omitempty"`
}

// SumOf tells files of a guest's apart, of those that are merged by what the
// guest has when nothing is to be done; nil for none.
func SumOf(files []GuestFile) []byte {
	if len(files) == 0 {
		return nil
	}
	h := sha256.New()
	for _, f := range files {
		content := f.Content
		if f.Merge && f.Mark != "" {
			content = []byte(f.Mark)
		}
		fmt.Fprintf(h, "%d %s %d %s", len(f.Path), f.Path, len(content), content)
	}
	return h.Sum(nil)
}

// Bound is a secret that the sandbox can use.
type Bound struct {
	Secret  string   `json:"secret"` // its name
	Service string   `json:"service"`
	Hosts   []string `json:"hosts"`
	Shell   bool     `json:"shell,omitempty"` // from a shell, and in memory only
	// Login: it is a login's, to what is called Title, and Account's where that is
	// known.
	Login   bool   `json:"login,omitempty"`
	Title   string `json:"title,omitempty"`
	Account string `json:"account,omitempty"`
}

// Reply answers a request.
type Reply struct {
	Version int             `json:"version"`
	Error   *Error          `json:"error,omitempty"`
	Body    json.RawMessage `json:"body,omitempty"`
}

// Error is an error on its way to another process.
type Error struct {
	Class   string `json:"class"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

// WrapError makes an error fit to cross; nil stays nil.
func WrapError(err error) *Error {
	if err == nil {
		return nil
	}
	return &Error{Class: string(sandbox.ClassOf(err)), Message: err.Error(), Hint: sandbox.HintOf(err)}
}

// Unwrap is the error on the other side; nil stays nil.
func (e *Error) Unwrap() error {
	if e == nil {
		return nil
	}
	return &sandbox.Error{Class: sandbox.ParseClass(e.Class), Message: e.Message, Hint: e.Hint}
}

// unknown ends the message of an operation that a supervisor does not know. It
// is a part of the protocol: the class alone says less.
const unknown = "is none that this Berth knows"

// UnknownOp is the answer to such an operation.
func UnknownOp(op Op) error {
	return sandbox.Errorf(sandbox.ErrInvalid, "operation %q "+unknown, op)
}

// IsUnknownOp reports whether an error is that answer.
func IsUnknownOp(err error) bool {
	return err != nil && sandbox.ClassOf(err) == sandbox.ErrInvalid && strings.HasSuffix(err.Error(), unknown)
}

// Status is what a supervisor says of its sandbox.
type Status struct {
	PID       int            `json:"pid"`
	Berth     string         `json:"berth"`
	Engine    string         `json:"engine"`
	Started   time.Time      `json:"started"`
	Processes []int          `json:"processes"` // of the engine
	Memory    uint64         `json:"memory"`    // of the guest, bytes
	Limits    []engine.Limit `json:"limits"`
	LastSave  time.Time      `json:"last_save,omitzero"`
	SaveError string         `json:"save_error,omitempty"` // why the last save did not work
	Sessions  int            `json:"sessions"`             // running now
	// Preset is the policy's, and Warnings what is wrong with its files.
	Preset   string   `json:"preset,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
}

// Question is about a place that no rule decides, and to which the guest wants
// to connect; or, with Agent, about a use of the user's SSH agent.
type Question struct {
	ID      string    `json:"id"`
	Host    string    `json:"host"` // name or address; the guest chose it
	Port    uint16    `json:"port"`
	Agent   *AgentUse `json:"agent,omitempty"`
	Asked   time.Time `json:"asked"`
	Expires time.Time `json:"expires"` // when what waits is denied
	Waiting int       `json:"waiting"` // connections that wait
}

// GuestKeys is what a client needs to speak SSH with the guest.
type GuestKeys struct {
	Client []byte `json:"client"` // ed25519 private key, raw
	Host   []byte `json:"host"`   // ed25519 public key, raw
}

// Start is what a starting supervisor reads from its pipe, and Started what it
// answers when the sandbox runs, or when it does not.
type Start struct {
	Version int    `json:"version"`
	Bundle  string `json:"bundle"` // name
}

// Started is the other half of the handshake.
type Started struct {
	Version int    `json:"version"`
	Error   *Error `json:"error,omitempty"`
	Socket  string `json:"socket,omitempty"`
}

// WriteLine writes v as one line of JSON, in one Write.
func WriteLine(w io.Writer, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode message: %w", err)
	}
	_, err = w.Write(append(data, '\n'))
	return err
}

// ReadLine reads one line of JSON into v and nothing beyond it, so that what
// follows on the stream can be read by somebody else through the same r.
func ReadLine(r *bufio.Reader, v any) error {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > MaxLine {
			return sandbox.Errorf(sandbox.ErrInvalid, "a message is longer than %d bytes", MaxLine)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil {
			if len(line) > 0 && errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		break
	}
	if err := json.Unmarshal(line, v); err != nil {
		return fmt.Errorf("decode message: %w", err)
	}
	return nil
}

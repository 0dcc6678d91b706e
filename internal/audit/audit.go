// Package audit is the one record of what sandboxes did in the network, of what
// was decided about it, and of their lives. It owns the form of an event and
// the log on disk: writing, rotation, reading, and the check that nothing in it
// was changed. It decides nothing and knows neither rules nor connections.
//
// A log is a folder, 0700, that one process at a time writes to:
//
//	audit.log                       the newest lines
//	audit-00000000000000004711.log  what came before; the number is the first line's
//	head                            where the log begins and ends (see below)
//	lock                            flock: held by whoever writes
//	meta.json                       whose log it is (Meta); may be missing
//
// # Lines and their chain
//
// A line is an Event as JSON, at most 64 KiB, and ends in a newline. Lines are
// numbered from 1 without gaps (seq). The last two members of a line are prev
// and hash:
//
//	{"time":...,"seq":7,...,"prev":"<64 hex digits>","hash":"<64 hex digits>"}
//
// hash is the SHA-256 of the line's bytes up to, and without, the comma before
// "hash". As prev is among them, and is the hash of the line before, a line
// vouches for all that came before it. The prev of line 1 is the genesis: the
// SHA-256 of "berth audit log 1\n" and the name of the log's folder, so that a
// whole log cannot stand for another sandbox's. Raw bytes are hashed, not what
// they mean: no change is too small, and the chain goes on over rotated files.
//
// # The head
//
// The chain alone cannot tell what is missing at its two ends. The file head
// does: the number and prev of the first line that is kept, for old files are
// deleted when there are too many, and the number and hash of the last line. It
// is replaced while the log is written, at most once a second, and after the
// lines that it speaks of have reached the disk. So lines after the head's last
// are those of a writer that was killed, or runs; but not when the head says
// that the log was closed.
//
// # What this proves
//
// The guest cannot reach the log. There is no key in the chain: a process of the
// same user that computes all of it anew cannot be told from Berth, unless
// somebody kept the last hash elsewhere.
package audit

import "time"

// Version is the version of the format that this Berth writes, and the newest
// that it adds to.
const Version = 1

// Kind is what an event is about.
type Kind string

// The kinds.
const (
	Connection Kind = "connection" // one TCP connection, or the attempt
	DNS        Kind = "dns"        // a question
	HTTP       Kind = "http"       // a request on a connection that is looked at
	Secret     Kind = "secret"     // a use of a credential, or a try that was refused
	Decision   Kind = "decision"   // an answer of the user who was asked
	Policy     Kind = "policy"     // a change of rules
	Lifecycle  Kind = "lifecycle"  // of the sandbox
	Gap        Kind = "gap"        // events are, or may be, missing before this one
)

// Kinds returns all of them.
func Kinds() []Kind { return []Kind{Connection, DNS, HTTP, Secret, Decision, Policy, Lifecycle, Gap} }

// SSHAgent is the Protocol of a Secret event about the user's SSH agent: Secret
// is the key, Method what it was to do, Name and Detail are host and user.
const SSHAgent = "ssh-agent"

// Verdicts of an event.
const (
	Allow = "allow"
	Deny  = "deny"
)

// Event is one line. What of it the guest chose is bounded and cleaned when it
// is recorded, see Recorder.
type Event struct {
	Time     time.Time     `json:"time"`
	Seq      uint64        `json:"seq"`     // set by the log
	Sandbox  string        `json:"sandbox"` // name
	ID       string        `json:"id"`      // of the sandbox
	Kind     Kind          `json:"kind"`
	Name     string        `json:"name,omitempty"`     // host name
	Address  string        `json:"address,omitempty"`  // IP address that was dialed or that the guest asked for, without port
	Port     uint16        `json:"port,omitempty"`     // 0: none is known, as of a question
	Protocol string        `json:"protocol,omitempty"` // "tcp", "tls", "http/1.1", "h2", "dns", "websocket" and so on
	Question string        `json:"question,omitempty"` // DNS type, "A"
	Answer   string        `json:"answer,omitempty"`   // DNS code, "NOERROR"
	Method   string        `json:"method,omitempty"`
	Path     string        `json:"path,omitempty"` // query values removed
	Status   int           `json:"status,omitempty"`
	Verdict  string        `json:"verdict,omitempty"` // Allow or Deny
	Rule     string        `json:"rule,omitempty"`    // the deciding rule
	Origin   string        `json:"origin,omitempty"`  // where it is written
	Reason   string        `json:"reason,omitempty"`
	Secret   string        `json:"secret,omitempty"`   // its name
	Error    string        `json:"error,omitempty"`    // what was allowed failed for this
	Sent     int64         `json:"sent,omitempty"`     // bytes from the guest
	Received int64         `json:"received,omitempty"` // bytes to the guest
	Duration time.Duration `json:"duration_ns,omitempty"`
	Detail   string        `json:"detail,omitempty"` // lifecycle: "started"; policy: what changed; gap: why
	Lost     uint64        `json:"lost,omitempty"`   // gap: how many events are missing before it; 0 is unknown
	Prev     string        `json:"prev"`             // set by the log
	Hash     string        `json:"hash"`             // set by the log

	line string // as it was read
}

// Line is the raw line that the event was read from, without its newline; ""
// when it was not read from a log.
func (e Event) Line() string { return e.line }

// Recorder takes events from many goroutines and never blocks. It cuts texts
// that are too long and replaces what cannot be printed, invalid UTF-8
// included, by question marks.
type Recorder interface{ Record(Event) }

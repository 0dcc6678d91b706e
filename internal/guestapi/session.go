package guestapi

import (
	"encoding/json"
	"strings"
	"time"
)

// Kind says what a session is for.
type Kind string

// The kinds of sessions. The output of agent sessions is in the event stream,
// because it is the sandbox's log.
const (
	Agent Kind = "agent"
	Exec  Kind = "exec"
	// SFTP is the guest's own kind, for a client's file transfer; such a
	// session is forgotten when it ends.
	SFTP Kind = "sftp"
)

// Size is a terminal's size in characters; zero means unknown.
type Size struct {
	Cols uint16 `json:"cols"`
	Rows uint16 `json:"rows"`
}

// SessionSpec is a session to start: a process in a new terminal or on pipes
// that lives on when every connection to it is gone.
type SessionSpec struct {
	// ID names the session, 1 to 64 letters, digits, '-' and '_'; "" lets the
	// guest choose.
	ID   string `json:"id,omitempty"`
	Kind Kind   `json:"kind"` // "" means Exec
	// Args is the command and its arguments. A command without a slash is
	// looked up in the PATH of the session's environment, one with a slash is
	// relative to Dir.
	Args []string `json:"args"`
	// Env is added to the guest's default environment and wins over it.
	Env map[string]string `json:"env,omitempty"`
	Dir string            `json:"dir,omitempty"` // absolute; "" means the configured default
	// User is NAME or UID, optionally with :GROUP or :GID; "" means the
	// configured user.
	User string `json:"user,omitempty"`
	TTY  bool   `json:"tty,omitempty"`
	Size Size   `json:"size"` // of the terminal before the first byte; zero means 80x24
	// Stdin gives a session without a terminal a pipe as its standard input;
	// otherwise it reads the end of file.
	Stdin bool `json:"stdin,omitempty"`
	// Hangup ends the session when its last client has left, as sshd does.
	Hangup bool `json:"hangup,omitempty"`
}

// StartRequest opens a ChanStart channel.
type StartRequest struct {
	Spec SessionSpec `json:"spec"`
	// Attach makes the channel carry the session's bytes; without it the
	// channel ends after ReqInfo.
	Attach bool `json:"attach,omitempty"`
	// SSHAgent gives the session a socket of its own, named by SSH_AUTH_SOCK, each
	// connection to which is a ChanAgent channel of this SSH connection. It is
	// gone when the session is; when only the SSH connection is, nobody answers.
	SSHAgent bool `json:"ssh_agent,omitempty"`
}

// Offsets are positions in a session's two output streams, in bytes since its
// start. A terminal has only stdout. -1 means the oldest byte that is kept.
type Offsets struct {
	Stdout int64 `json:"stdout"`
	Stderr int64 `json:"stderr"`
}

// AttachRequest opens a ChanAttach channel.
type AttachRequest struct {
	ID string `json:"id"`
	// Screen redraws a terminal session: what is needed to show its present
	// state comes first, not byte by byte what the session wrote, and its
	// program is told to repaint. From is not looked at then.
	Screen bool `json:"screen,omitempty"`
	// From is where the output begins; a position that is no longer kept
	// becomes the oldest that is. Ahead of the end means the end.
	From Offsets `json:"from"`
	Size Size    `json:"size"` // of the client's terminal; zero does not resize
	// ReadOnly refuses input and leaves the size alone.
	ReadOnly bool `json:"read_only,omitempty"`
}

// SessionInfo describes a session. When it comes from a guest, Args, User and
// Dir are whatever the guest says.
type SessionInfo struct {
	ID      string    `json:"id"`
	Kind    Kind      `json:"kind"`
	Args    []string  `json:"args"` // cut after 4 KiB in all
	User    string    `json:"user"`
	Dir     string    `json:"dir"`
	TTY     bool      `json:"tty"`
	Size    Size      `json:"size"`
	PID     int       `json:"pid"`
	Started time.Time `json:"started"`
	// LastActive is the time of the last input or output.
	LastActive time.Time `json:"last_active"`
	Clients    int       `json:"clients"` // attached now
	Kept       Offsets   `json:"kept"`    // oldest byte kept
	End        Offsets   `json:"end"`     // bytes written so far
	// At is where the bytes of this channel begin (ReqInfo only).
	At     Offsets   `json:"at"`
	Ended  time.Time `json:"ended"`            // zero while it runs
	Result *Result   `json:"result,omitempty"` // nil while it runs
}

// Result is how a session ended.
type Result struct {
	// ExitCode is the process's, or 128 plus the number of the signal that
	// ended it.
	ExitCode int `json:"exit_code"`
	// Signal is the name without SIG of the signal that ended it, or "".
	Signal string `json:"signal,omitempty"`
	// Detached is set by the client: the session goes on and ExitCode says
	// nothing.
	Detached bool `json:"detached,omitempty"`
	// Lost are the bytes of output that this client did not get, because it
	// did not keep up with a terminal or joined too late.
	Lost int64 `json:"lost,omitempty"`
}

// EventsRequest opens a ChanEvents channel.
type EventsRequest struct {
	// Output asks for the output of agent sessions.
	Output bool `json:"output,omitempty"`
	// From says per session how much of its output is known already; a
	// session that is not in it begins at its oldest byte.
	From map[string]Offsets `json:"from,omitempty"`
}

// SFTPRequest opens a ChanSFTP channel.
type SFTPRequest struct {
	User string `json:"user,omitempty"` // as in SessionSpec
	Dir  string `json:"dir,omitempty"`  // of relative paths; "" means the user's home
}

// Method names a Call.
type Method string

// The methods of ChanCall, with what they take and answer.
const (
	CallPing     Method = "ping"     // nothing: {}
	CallSessions Method = "sessions" // nothing: []SessionInfo, by time of start
	CallSession  Method = "session"  // ID: SessionInfo
	CallSignal   Method = "signal"   // ID, Signal: {}
	CallClose    Method = "close"    // ID: {}; hangs the session up, and kills it when that does not end it
	CallPorts    Method = "ports"    // nothing: []Port
	CallSync     Method = "sync"     // nothing: {}, after sync(2)
	CallReclaim  Method = "reclaim"  // nothing: Reclaimed; ends the largest process
)

// Call opens a ChanCall channel.
type Call struct {
	Method Method `json:"method"`
	ID     string `json:"id,omitempty"`
	Signal string `json:"signal,omitempty"` // without SIG, such as INT
}

// Port is a listening TCP port in the guest.
type Port struct {
	Addr string `json:"addr"` // IP address it is bound to
	Port uint16 `json:"port"`
	UID  uint32 `json:"uid"` // who owns the socket
}

// Reclaimed is the process that CallReclaim ended.
type Reclaimed struct {
	PID   int    `json:"pid"`
	Name  string `json:"name"`
	Bytes int64  `json:"bytes"` // that were resident
}

// Check reports what is wrong with a specification's form.
func (s *SessionSpec) Check() error {
	switch {
	case !plainName(s.ID):
		return Errorf(Invalid, "session id %q", Printable(s.ID, 80))
	case s.Kind != "" && s.Kind != Agent && s.Kind != Exec:
		return Errorf(Invalid, "session kind %q", Printable(string(s.Kind), 80))
	case len(s.Args) == 0 || s.Args[0] == "":
		return Errorf(Invalid, "no command was given")
	case s.Dir != "" && !clean(s.Dir):
		return Errorf(Invalid, "working directory %q is not a clean absolute path", Printable(s.Dir, 256))
	case len(s.User) > 256:
		return Errorf(Invalid, "user name of %d bytes", len(s.User))
	case s.TTY && s.Stdin:
		return Errorf(Invalid, "a session has a terminal or a pipe for its input, not both")
	}
	for _, a := range s.Args {
		if strings.ContainsRune(a, 0) {
			return Errorf(Invalid, "an argument holds a zero byte")
		}
	}
	return checkEnv(s.Env)
}

// Check reports what is wrong with a request's form.
func (r *StartRequest) Check() error { return r.Spec.Check() }

// Check reports what is wrong with a request's form.
func (r *AttachRequest) Check() error { return checkID(r.ID) }

// Check reports what is wrong with a request's form.
func (r *SFTPRequest) Check() error {
	if r.Dir != "" && !clean(r.Dir) || len(r.User) > 256 {
		return Errorf(Invalid, "SFTP as user %q in %q", Printable(r.User, 80), Printable(r.Dir, 256))
	}
	return nil
}

// Check reports what is wrong with a request's form.
func (r *EventsRequest) Check() error {
	for id := range r.From {
		if err := checkID(id); err != nil {
			return err
		}
	}
	return nil
}

// Check reports what is wrong with a call's form.
func (c *Call) Check() error {
	switch c.Method {
	case CallPing, CallSessions, CallPorts, CallSync, CallReclaim:
		return nil
	case CallSession, CallClose:
		return checkID(c.ID)
	case CallSignal:
		if len(c.Signal) > 16 {
			return Errorf(Invalid, "signal %q", Printable(c.Signal, 32))
		}
		return checkID(c.ID)
	}
	return Errorf(Invalid, "call of %q", Printable(string(c.Method), 64))
}

func checkID(id string) error {
	if id == "" || !plainName(id) {
		return Errorf(Invalid, "session id %q", Printable(id, 80))
	}
	return nil
}

// checkEnv holds an environment against what execve(2) and a shell can carry.
func checkEnv(env map[string]string) error {
	for k, v := range env {
		if k == "" || strings.ContainsAny(k, "=\x00") || strings.ContainsRune(v, 0) {
			return Errorf(Invalid, "environment variable %q", Printable(k, 80))
		}
	}
	return nil
}

// ParseInfo reads a SessionInfo that a guest wrote. Unknown fields are let
// through: a newer guest may say more.
func ParseInfo(b []byte) (SessionInfo, error) {
	var i SessionInfo
	if len(b) > MaxInfo {
		return i, Errorf(Invalid, "session description of %d bytes", len(b))
	}
	if err := json.Unmarshal(b, &i); err != nil {
		return i, Errorf(Invalid, "parse session description: %s", Printable(err.Error(), 256))
	}
	return i, i.Check()
}

// Check refuses what a guest cannot truthfully say.
func (i *SessionInfo) Check() error {
	if err := checkID(i.ID); err != nil {
		return err
	}
	for _, o := range []Offsets{i.Kept, i.End, i.At} {
		if o.Stdout < 0 || o.Stderr < 0 {
			return Errorf(Invalid, "session %s has a negative offset", i.ID)
		}
	}
	if i.Result != nil {
		return i.Result.Check()
	}
	return nil
}

// ParseResult reads a Result that a guest wrote.
func ParseResult(b []byte) (Result, error) {
	var r Result
	if len(b) > MaxError {
		return r, Errorf(Invalid, "session result of %d bytes", len(b))
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, Errorf(Invalid, "parse session result: %s", Printable(err.Error(), 256))
	}
	r.Detached = false // the client's to say
	return r, r.Check()
}

// Check refuses what no process can end with, so that a caller may pass the
// code to os.Exit as it is.
func (r *Result) Check() error {
	if r.ExitCode < 0 || r.ExitCode > 255 || r.Lost < 0 {
		return Errorf(Invalid, "session result with exit code %d", r.ExitCode)
	}
	r.Signal = Printable(r.Signal, 16)
	return nil
}

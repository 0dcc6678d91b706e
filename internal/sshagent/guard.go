package sshagent

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/time/rate"
)

// Commits is the destination of signatures of commits and tags.
const Commits = "commits"

// Bounds of what a guest may ask, in messages. More than that waits.
const (
	perSecond = 10
	burst     = 50
)

// Purposes of a Use.
const (
	SignIn       = "sign-in"
	SignCommit   = "commit"
	OtherPurpose = "other"
)

// Use is one signature, or what was refused. The texts of the guest's are not
// made printable.
type Use struct {
	Purpose     string
	Fingerprint string // of the key; "" when none was asked for
	Comment     string // the key's in the user's agent
	Destination Destination
	User        string // who is to be signed in
	Allowed     bool
	Reason      string
	Error       string // what was allowed failed for this
}

// Answer is the user's word about a destination.
type Answer string

// The answers. Unanswered is that of somebody who cannot be asked.
const (
	Unanswered Answer = ""
	Once       Answer = "once"    // what waits, or the next signature
	Session    Answer = "session" // from now on, in this session
	Never      Answer = "never"   // not in this session
)

// Answers are those that a user can give.
func Answers() []Answer { return []Answer{Once, Session, Never} }

// Config is what a Guard works with.
type Config struct {
	Dial     Dialer // the user's agent
	Hosts    Hosts
	Approved []string // destinations that need no question, see HostName
	// Looked returns names that the guest may mean by a server whose names in
	// known_hosts are hashed. They are tried, not believed. nil: none.
	Looked func() []string
	// Ask asks the user and blocks until there is an answer or ctx, which is the
	// session's, ends. The use is the one that the question came up for.
	Ask func(ctx context.Context, use Use) Answer
	// Wait is how long a signature waits for the answer; a later one holds for
	// the next.
	Wait time.Duration
	// Record writes a use down. What cannot be recorded is not signed.
	Record func(Use) error
}

// Guard guards the user's agent for one session. Make it with New; its methods
// are safe for concurrent use.
type Guard struct {
	cfg   Config
	limit *rate.Limiter

	mu       sync.Mutex
	verdicts map[string]*verdict
}

// New makes a guard.
func New(cfg Config) *Guard {
	return &Guard{cfg: cfg, limit: rate.NewLimiter(perSecond, burst), verdicts: map[string]*verdict{}}
}

// Serve answers one connection of the guest's until it ends or ctx does, and
// closes it.
func (g *Guard) Serve(ctx context.Context, guest io.ReadWriteCloser) {
	defer guest.Close()
	defer context.AfterFunc(ctx, func() { guest.Close() })()
	c := &connection{g: g, ctx: ctx}
	defer c.close()
	for {
		body, err := readMessage(guest, maxRequest)
		if errors.Is(err, errTooLong) {
			_ = c.refused(Use{}, refusal(err.Error()))
		}
		if err != nil || g.limit.Wait(ctx) != nil {
			return
		}
		if err := writeMessage(guest, c.answer(body)); err != nil {
			return
		}
	}
}

// connection is one of the guest's. It asks one thing after the other.
type connection struct {
	g     *Guard
	ctx   context.Context
	up    *upstream // nil: not yet
	bound *binding  // nil: to no session yet
	// spoiled is why a binding was refused. A client that forwards the agent
	// goes on after that, and hands it to the other host.
	spoiled error
}

// binding is the session that a connection is for, verified.
type binding struct {
	session []byte
	hostKey []byte
	key     ssh.PublicKey
}

func (c *connection) close() {
	if c.up != nil {
		c.up.conn.Close()
	}
}

// answer carries out what one message asks for, and returns the answer.
func (c *connection) answer(body []byte) []byte {
	failure := []byte{msgFailure}
	req, err := parseRequest(body)
	if err != nil {
		_ = c.refused(Use{}, err)
		return failure
	}
	err = c.spoiled
	if err == nil {
		err = c.connect()
	}
	if err != nil {
		_ = c.refused(Use{}, err)
		return failure
	}
	switch req := req.(type) {
	case listRequest:
		keys, err := c.up.keys()
		if err != nil {
			return failure
		}
		return encodeKeys(keys)
	case bindRequest:
		if c.spoiled = c.bind(req); c.spoiled != nil {
			_ = c.refused(Use{}, c.spoiled)
			return failure
		}
		return []byte{msgSuccess}
	case signRequest:
		if signature := c.sign(req); signature != nil {
			return appendString([]byte{msgSignature}, signature)
		}
	}
	return failure
}

// connect connects to the user's agent, when the guest first asks something.
func (c *connection) connect() error {
	if c.up != nil {
		return nil
	}
	conn, err := c.g.cfg.Dial(c.ctx)
	if err != nil {
		return refuse("your SSH agent does not answer: %v", err)
	}
	c.up = &upstream{conn: conn}
	return nil
}

func encodeKeys(keys []Key) []byte {
	b := []byte{msgKeys, byte(len(keys) >> 24), byte(len(keys) >> 16), byte(len(keys) >> 8), byte(len(keys))}
	for _, k := range keys {
		b = appendString(appendString(b, k.Blob), k.Comment)
	}
	return b
}

// bind verifies that the holder of a host key signed an SSH session, which this
// connection is for from then on.
func (c *connection) bind(b bindRequest) error {
	switch {
	case b.forwarding:
		// Who is behind it is not known here, and neither is whether they forward
		// it further.
		return refuse("the agent was forwarded on to another host")
	case c.bound != nil:
		return refuse("a connection that was for one session already")
	case len(b.session) < 16 || len(b.session) > 64: // hashes of key exchanges
		return refuse("a session that is none")
	}
	key, err := ssh.ParsePublicKey(b.hostKey)
	if err != nil {
		return refuse("a host key that is none")
	}
	r := reader{b: b.signature}
	sig := &ssh.Signature{Format: r.string(), Blob: r.bytes(), Rest: r.b}
	if r.bad || sig.Format == ssh.KeyAlgoRSA || key.Verify(b.session, sig) != nil {
		return refuse("a session that the host key did not sign")
	}
	c.bound = &binding{session: bytes.Clone(b.session), hostKey: bytes.Clone(b.hostKey), key: key}
	if err := c.up.bind(b); err != nil {
		return refuse("your SSH agent: %v", err)
	}
	return nil
}

// sign decides about a signature, has it made, and records what became of it;
// nil when there is none for the guest.
func (c *connection) sign(req signRequest) []byte {
	use, err := c.allow(req)
	if err != nil {
		_ = c.refused(use, err)
		return nil
	}
	signature, err := c.up.sign(req)
	use.Allowed = true
	if err != nil {
		use.Error = err.Error()
	}
	if rerr := c.g.cfg.Record(use); rerr != nil || err != nil {
		return nil
	}
	return signature
}

// allow finds out what a signature is for and whether it may be. The error says
// why not.
func (c *connection) allow(req signRequest) (Use, error) {
	use := Use{Purpose: OtherPurpose, Fingerprint: fingerprint(req.key)}
	s, err := parseSigned(req)
	if err != nil {
		return use, err
	}
	keys, err := c.up.keys()
	if err != nil {
		return use, refuse("your SSH agent: %v", err)
	}
	i := slices.IndexFunc(keys, func(k Key) bool { return bytes.Equal(k.Blob, req.key) })
	if i < 0 {
		return use, refuse("a key that your agent does not have")
	}
	use.Comment, use.User = keys[i].Comment, s.user
	if s.commit {
		use.Purpose, use.Destination = SignCommit, Destination{Name: Commits}
	} else {
		use.Purpose = SignIn
		if use.Destination, err = c.destination(s); err != nil {
			return use, err
		}
	}
	use.Reason, err = c.g.decide(c.ctx, use)
	return use, err
}

// destination is the server that a sign-in is good for, if it is for one alone.
func (c *connection) destination(s signed) (Destination, error) {
	b := c.bound
	switch {
	case b == nil:
		return Destination{}, refuse("the program did not say which server it signs in to (session-bind, OpenSSH 8.9 or later)")
	case !bytes.Equal(s.session, b.session):
		return Destination{}, refuse("a sign-in of another session than the connection is for")
	case s.hostKey != nil && !bytes.Equal(s.hostKey, b.hostKey):
		return Destination{}, refuse("a sign-in that is bound to another host than the connection is for")
	}
	candidates := slices.Clone(c.g.cfg.Approved)
	if c.g.cfg.Looked != nil {
		candidates = append(candidates, c.g.cfg.Looked()...)
	}
	d, err := c.g.cfg.Hosts.find(b.key, candidates)
	if err == nil && !d.Known && s.hostKey == nil {
		err = refuse("the server is not in your known_hosts, and does not bind sign-ins to its key: sign in to it once from this machine")
	}
	return d, err
}

// refused records a refusal.
func (c *connection) refused(use Use, err error) error {
	if use.Purpose == "" {
		use.Purpose = OtherPurpose
	}
	use.Allowed, use.Reason = false, err.Error()
	return c.g.cfg.Record(use)
}

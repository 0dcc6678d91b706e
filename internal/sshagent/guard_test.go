package sshagent

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

func TestSignIn(t *testing.T) {
	t.Parallel()
	forge, unknown := newServer(t), newServer(t)
	w := newWorld(t, knows(forge.known("forge.example")))
	w.answer = func(Use) Answer { return Session }

	keys := w.connect().say([]byte{msgList})
	r := reader{b: keys}
	if r.byte() != msgKeys || r.uint32() != 1 || !sameKey(r.bytes(), w.user.key.Marshal()) || r.string() != "the user's key" || !r.ended() {
		t.Fatalf("the list is %q", keys)
	}
	for _, tt := range []struct {
		name  string
		to    server
		bound bool
		want  string
	}{
		{"known", forge, false, "forge.example"},
		{"known, bound", forge, true, "forge.example"},
		{"unknown, bound", unknown, true, ssh.FingerprintSHA256(unknown.PublicKey())},
	} {
		g, session := w.connect(), newSession()
		if !g.ok(tt.to.bind(t, session).encode()) {
			t.Fatalf("%s: not bound: %+v", tt.name, w.last())
		}
		var host []byte
		if tt.bound {
			host = tt.to.blob()
		}
		if !g.signs(signIn(w.user.key, session, host)) {
			t.Errorf("%s: not signed", tt.name)
		}
		u := w.last()
		if !u.Allowed || u.Purpose != SignIn || u.Destination.Name != tt.want || u.User != "git" || u.Comment != "the user's key" ||
			u.Fingerprint != ssh.FingerprintSHA256(w.user.key) || u.Reason != reasonSession {
			t.Errorf("%s: recorded as %+v", tt.name, u)
		}
	}
	if len(w.asked) != 2 {
		t.Errorf("asked %d times about two destinations", len(w.asked))
	}
}

func TestCommit(t *testing.T) {
	t.Parallel()
	w := newWorld(t, approves(Commits))
	if !w.connect().signs(commit(w.user.key, "git")) {
		t.Error("not signed")
	}
	if u := w.last(); !u.Allowed || u.Purpose != SignCommit || u.Destination.Name != Commits || u.Reason != reasonApproved {
		t.Errorf("recorded as %+v", u)
	}
}

// TestAdversary: each of these is something that the user's agent does for who
// may talk to it, and that a guard refuses, with its reason in the record. All
// destinations are approved, so it is no question that holds it up.
func TestAdversary(t *testing.T) {
	t.Parallel()
	forge, other, evil := newServer(t), newServer(t), newServer(t)
	session, foreign := newSession(), newSession()
	type try struct {
		name string
		bind *bindRequest // first, nil: none
		do   func(w *world) []byte
		why  string
	}
	bound := func(s server, session []byte, change ...func(*bindRequest)) *bindRequest {
		b := s.bind(t, session)
		for _, c := range change {
			c(&b)
		}
		return &b
	}
	sign := func(f func(key ssh.PublicKey) signRequest) func(*world) []byte {
		return func(w *world) []byte { return f(w.user.key).encode() }
	}
	message := func(b []byte) func(*world) []byte { return func(*world) []byte { return b } }
	addKey := func() []byte {
		b := appendString([]byte{17}, "ssh-ed25519")
		_, priv, err := newPair()
		if err != nil {
			t.Fatal(err)
		}
		return appendString(appendString(appendString(b, []byte(priv[32:])), []byte(priv)), "the guest's")
	}
	tries := []try{
		{"unbound", nil, sign(func(k ssh.PublicKey) signRequest { return signIn(k, session, forge.blob()) }), "did not say which server"},
		{"another session", bound(forge, session), sign(func(k ssh.PublicKey) signRequest { return signIn(k, foreign, nil) }), "another session"},
		{"another host's binding", bound(forge, session), sign(func(k ssh.PublicKey) signRequest { return signIn(k, session, other.blob()) }), "bound to another host"},
		// The guest has a session with another server, and a key of its own, which
		// vouches for that session.
		{"a key of the guest's own", bound(evil, session), sign(func(k ssh.PublicKey) signRequest { return signIn(k, session, nil) }), "not in your known_hosts"},
		{"raw data", bound(forge, session), sign(func(k ssh.PublicKey) signRequest { return signRequest{key: k.Marshal(), data: []byte("anything")} }), "neither a sign-in nor a commit"},
		{"nothing", nil, sign(func(k ssh.PublicKey) signRequest { return signRequest{key: k.Marshal()} }), "neither a sign-in nor a commit"},
		{"more than a sign-in", bound(forge, session), sign(func(k ssh.PublicKey) signRequest {
			s := signIn(k, session, nil)
			s.data = append(s.data, 0)
			return s
		}), "neither a sign-in nor a commit"},
		{"another service", bound(forge, session), sign(func(k ssh.PublicKey) signRequest {
			s := signIn(k, session, nil)
			s.data = []byte(strings.Replace(string(s.data), "\x0essh-connection", "\x0dssh-connectio", 1))
			return s
		}), "neither a sign-in nor a commit"},
		{"hostbased", bound(forge, session), sign(func(k ssh.PublicKey) signRequest {
			s := signIn(k, session, nil)
			s.data = []byte(strings.Replace(string(s.data), "\x09publickey", "\x09hostbased", 1))
			return s
		}), `method "hostbased"`},
		{"a file", nil, sign(func(k ssh.PublicKey) signRequest { return commit(k, "file") }), `namespace "file"`},
		{"a commit and more", nil, sign(func(k ssh.PublicKey) signRequest {
			s := commit(k, "git")
			s.data = append(s.data, 'x')
			return s
		}), "malformed signature"},
		{"a commit by a weak hash", nil, sign(func(k ssh.PublicKey) signRequest {
			data := appendString(appendString(appendString([]byte(sshsigMagic), "git"), ""), "sha1")
			return signRequest{key: k.Marshal(), data: appendString(data, make([]byte, 20))}
		}), `hash "sha1"`},
		{"add a key", nil, message(addKey()), "to add a key"},
		{"remove a key", nil, func(w *world) []byte { return appendString([]byte{18}, w.user.key.Marshal()) }, "to remove a key"},
		{"remove all keys", nil, message([]byte{19}), "to remove all keys"},
		{"lock", nil, message(appendString([]byte{22}, "word")), "to lock"},
	}
	for _, tt := range tries {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, knows(forge.known("forge.example"), other.known("other.example")),
				approves("forge.example", "other.example", ssh.FingerprintSHA256(evil.PublicKey()), Commits))
			// Guarded first: some of these change the user's agent.
			g := w.connect()
			if tt.bind != nil && !g.ok(tt.bind.encode()) {
				t.Fatalf("not bound: %+v", w.last())
			}
			if reply := g.say(tt.do(w)); len(reply) != 1 || reply[0] != msgFailure {
				t.Errorf("the guard answers %q", reply)
			}
			if u := w.last(); u.Allowed || !strings.Contains(u.Reason, tt.why) {
				t.Errorf("recorded as %+v", u)
			}
			if !w.connect().signs(commit(w.user.key, "git")) {
				t.Error("afterwards the agent does not work")
			}
			p := w.plain()
			if tt.bind != nil {
				p.ok(tt.bind.encode())
			}
			if !p.ok(tt.do(w)) {
				t.Error("a plain agent refuses that, so the test shows nothing")
			}
		})
	}
}

// TestAdversaryBind: what a connection can be bound to. The user's agent takes
// some of these, and signs whatever it is bound to, or is not.
func TestAdversaryBind(t *testing.T) {
	t.Parallel()
	forge, evil := newServer(t), newServer(t)
	w := newWorld(t, knows(forge.known("forge.example")), approves("forge.example"))
	session := newSession()
	good := forge.bind(t, session)
	change := func(f func(*bindRequest)) []byte {
		b := good
		f(&b)
		return b.encode()
	}
	for name, tt := range map[string]struct {
		body []byte
		why  string
	}{
		"signed by another":      {change(func(b *bindRequest) { b.signature = evil.bind(t, session).signature }), "did not sign"},
		"another session signed": {change(func(b *bindRequest) { b.session = newSession() }), "did not sign"},
		"no signature":           {change(func(b *bindRequest) { b.signature = nil }), "did not sign"},
		"a broken one":           {change(func(b *bindRequest) { b.signature = b.signature[:len(b.signature)-1] }), "did not sign"},
		"SHA-1": {change(func(b *bindRequest) {
			b.signature = ssh.Marshal(&ssh.Signature{Format: "ssh-rsa", Blob: make([]byte, 256)})
		}), "did not sign"},
		"no host key":   {change(func(b *bindRequest) { b.hostKey = []byte("x") }), "host key that is none"},
		"short session": {forge.bind(t, []byte("short")).encode(), "session that is none"},
		"long session":  {forge.bind(t, make([]byte, 100)).encode(), "session that is none"},
		"forwarded":     {change(func(b *bindRequest) { b.forwarding = true }), "forwarded on to another host"},
		"more":          {append(good.encode(), 0), "malformed"},
		"other extension": {appendString([]byte{msgExtension}, "restrict-destination-v00@openssh.com"),
			"extension"},
	} {
		g := w.connect()
		if g.ok(tt.body) {
			t.Errorf("%s: taken", name)
		}
		if u := w.last(); u.Allowed || !strings.Contains(u.Reason, tt.why) {
			t.Errorf("%s: recorded as %+v", name, u)
		}
		if g.signs(signIn(w.user.key, session, nil)) || g.signs(signIn(w.user.key, session, forge.blob())) {
			t.Errorf("%s: signed all the same", name)
		}
		if !w.plain().signs(signIn(w.user.key, session, nil)) {
			t.Errorf("%s: the user's agent does not sign, so the test shows nothing", name)
		}
	}
	if !w.plain().ok(change(func(b *bindRequest) { b.forwarding = true })) {
		t.Error("a plain agent refuses to be forwarded on, so the test shows nothing")
	}
	// A second session on the same connection.
	g := w.connect()
	if !g.ok(good.encode()) || g.ok(forge.bind(t, newSession()).encode()) {
		t.Error("a connection is for two sessions")
	}
	if g.signs(signIn(w.user.key, session, nil)) || g.ok([]byte{msgList}) {
		t.Error("a connection goes on after that")
	}
}

// TestAdversaryLong: lengths that are too long end the connection, and cost
// nothing.
func TestAdversaryLong(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, head := range []string{"\xff\xff\xff\xff", "\x00\x01\x00\x01", "\x00\x00\x00\x00"} {
		g := w.connect()
		_ = g.conn.SetDeadline(time.Now().Add(patience))
		if _, err := g.conn.Write([]byte(head)); err != nil {
			t.Fatal(err)
		}
		var b [1]byte
		if n, err := g.conn.Read(b[:]); n > 0 || err == nil {
			t.Errorf("%q is answered with %q", head, b)
		}
		if u := w.last(); !strings.Contains(u.Reason, "too long") {
			t.Errorf("%q: recorded as %+v", head, u)
		}
	}
}

// TestForeignKey: a key that the user's agent has not is refused by it, not by
// chance.
func TestForeignKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t, approves(Commits))
	if w.connect().signs(commit(newServer(t).PublicKey(), "git")) {
		t.Error("signed")
	}
	if u := w.last(); !strings.Contains(u.Reason, "does not have") {
		t.Errorf("recorded as %+v", u)
	}
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	forge, other := newServer(t), newServer(t)
	hosts := knows(forge.known("forge.example"), other.known("other.example"))
	attempt := func(w *world, s server) bool {
		g, session := w.connect(), newSession()
		return g.ok(s.bind(t, session).encode()) && g.signs(signIn(w.user.key, session, nil))
	}
	long := func(c *Config) { c.Wait = patience }

	t.Run("never", func(t *testing.T) {
		w := newWorld(t, hosts, long)
		w.answer = func(Use) Answer { return Never }
		for range 3 {
			if attempt(w, forge) {
				t.Error("signed")
			}
		}
		if len(w.asked) != 1 || !strings.Contains(w.last().Reason, "did not allow") {
			t.Errorf("asked %d times, %+v", len(w.asked), w.last())
		}
		w.answer = func(Use) Answer { return Session }
		if !attempt(w, other) {
			t.Error("one destination's no is another's")
		}
	})
	t.Run("once", func(t *testing.T) {
		w := newWorld(t, hosts, long)
		w.answer = func(Use) Answer { return Once }
		for range 3 {
			if !attempt(w, forge) {
				t.Error("not signed")
			}
		}
		if len(w.asked) != 3 {
			t.Errorf("asked %d times", len(w.asked))
		}
	})
	t.Run("late", func(t *testing.T) {
		w := newWorld(t, hosts)
		say := make(chan Answer)
		w.answer = func(Use) Answer { return <-say }
		if attempt(w, forge) || !strings.Contains(w.last().Reason, "in time") {
			t.Errorf("%+v", w.last())
		}
		begun := time.Now()
		if attempt(w, forge) || len(w.asked) != 1 {
			t.Errorf("asked %d times, waited %s", len(w.asked), time.Since(begun))
		}
		say <- Session
		for end := time.Now().Add(patience); !attempt(w, forge); {
			if time.Now().After(end) {
				t.Fatal("a late answer does not count")
			}
		}
	})
	t.Run("together", func(t *testing.T) {
		w := newWorld(t, hosts, long)
		say := make(chan Answer)
		w.answer = func(Use) Answer { return <-say }
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() {
				if !attempt(w, forge) {
					t.Error("not signed")
				}
			})
		}
		for {
			w.guard.mu.Lock()
			v := w.guard.verdicts["forge.example"]
			n := 0
			if v != nil {
				n = v.waiting
			}
			w.guard.mu.Unlock()
			if n == 5 {
				break
			}
		}
		say <- Once
		wg.Wait()
		if len(w.asked) != 1 {
			t.Errorf("asked %d times", len(w.asked))
		}
	})
	t.Run("nobody to ask", func(t *testing.T) {
		w := newWorld(t, hosts, long)
		w.answer = func(Use) Answer { return Unanswered }
		for range 2 {
			if attempt(w, forge) {
				t.Error("signed")
			}
		}
		if len(w.asked) != 2 {
			t.Errorf("asked %d times, %+v", len(w.asked), w.last())
		}
	})
	t.Run("too many", func(t *testing.T) {
		w := newWorld(t, func(c *Config) { c.Wait = 0 })
		w.guard.limit.SetLimit(1e9)
		for range maxQuestions + 3 {
			s, session := newServer(t), newSession()
			g := w.connect()
			g.ok(s.bind(t, session).encode())
			g.signs(signIn(w.user.key, session, s.blob()))
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if len(w.asked) > maxQuestions || !strings.Contains(w.uses[len(w.uses)-1].Reason, "too many") {
			t.Errorf("asked %d times", len(w.asked))
		}
	})
}

// TestUnrecorded: what cannot be written down is not handed out.
func TestUnrecorded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, approves(Commits), func(c *Config) { c.Record = func(Use) error { return errors.New("the disk is full") } })
	if w.connect().signs(commit(w.user.key, "git")) {
		t.Error("signed without a record")
	}
}

// TestAgentGone: the user's agent ends, or was never there.
func TestAgentGone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, approves(Commits), func(c *Config) {
		c.Dial = func(context.Context) (net.Conn, error) { return nil, errors.New("connection refused") }
	})
	g := w.connect()
	for range 2 {
		if g.ok([]byte{msgList}) || !strings.Contains(w.last().Reason, "does not answer") {
			t.Errorf("%+v", w.last())
		}
	}
}

// TestRate: a guest that asks without end is slowed down, and the others are
// not stopped.
func TestRate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.connect()
	begun := time.Now()
	for range burst + 3 {
		g.say([]byte{99})
	}
	if took := time.Since(begun); took < 200*time.Millisecond {
		t.Errorf("%d messages took %s", burst+3, took)
	}
}

package sshagent

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

const patience = 20 * time.Second

// userAgent is a real ssh-agent with one ed25519 key.
type userAgent struct {
	path string
	key  ssh.PublicKey
}

func startAgent(t testing.TB) userAgent {
	t.Helper()
	dir, err := os.MkdirTemp("", "agent-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	a := userAgent{path: filepath.Join(dir, "agent")}
	cmd := exec.Command("ssh-agent", "-D", "-a", a.path)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if a.key, err = ssh.NewPublicKey(pub); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		conn, err := net.Dial("unix", a.path)
		if err == nil {
			defer conn.Close()
			if err := agent.NewClient(conn).Add(agent.AddedKey{PrivateKey: priv, Comment: "the user's key"}); err != nil {
				t.Fatal(err)
			}
			return a
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

func (a userAgent) dial(ctx context.Context) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "unix", a.path)
}

// server has a host key.
type server struct{ ssh.Signer }

func newServer(t testing.TB) server {
	t.Helper()
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	return server{s}
}

func (s server) blob() []byte { return s.PublicKey().Marshal() }

// known is a line of known_hosts.
func (s server) known(name string) string {
	return name + " " + string(ssh.MarshalAuthorizedKey(s.PublicKey()))
}

// bind says that a session is with the server, in whose name it is signed.
func (s server) bind(t testing.TB, session []byte) bindRequest {
	t.Helper()
	sig, err := s.Sign(rand.Reader, session)
	if err != nil {
		t.Fatal(err)
	}
	return bindRequest{hostKey: s.blob(), session: session, signature: ssh.Marshal(sig)}
}

func (b bindRequest) encode() []byte {
	body := appendString([]byte{msgExtension}, bindExtension)
	body = appendString(appendString(appendString(body, b.hostKey), b.session), b.signature)
	if b.forwarding {
		return append(body, 1)
	}
	return append(body, 0)
}

func (s signRequest) encode() []byte {
	return binary.BigEndian.AppendUint32(appendString(appendString([]byte{msgSign}, s.key), s.data), s.flags)
}

// newSession is the id of a session, as a key exchange makes one.
func newSession() []byte {
	b := make([]byte, 32)
	_, _ = rand.Read(b)
	return b
}

// signIn is what a program has signed to sign in; host is nil for servers that
// do not bind.
func signIn(key ssh.PublicKey, session, host []byte) signRequest {
	method := methodPlain
	if host != nil {
		method = methodBound
	}
	data := append(appendString(nil, session), userauthRequest)
	for _, s := range []string{"git", "ssh-connection", method} {
		data = appendString(data, s)
	}
	data = appendString(appendString(append(data, 1), key.Type()), key.Marshal())
	if host != nil {
		data = appendString(data, host)
	}
	return signRequest{key: key.Marshal(), data: data}
}

// commit is what git has signed.
func commit(key ssh.PublicKey, namespace string) signRequest {
	data := appendString([]byte(sshsigMagic), namespace)
	data = appendString(appendString(appendString(data, ""), "sha512"), make([]byte, 64))
	return signRequest{key: key.Marshal(), data: data}
}

// world is a guard before a user's agent, and what it was told and asked.
type world struct {
	t     testing.TB
	user  userAgent
	guard *Guard
	ctx   context.Context

	mu     sync.Mutex
	uses   []Use
	asked  []Use
	answer func(Use) Answer // nil: nobody answers
}

func newWorld(t testing.TB, change ...func(*Config)) *world {
	t.Helper()
	w := &world{t: t, user: startAgent(t)}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	w.ctx = ctx
	cfg := Config{Dial: w.user.dial, Wait: 50 * time.Millisecond, Record: w.record, Ask: w.ask}
	for _, c := range change {
		c(&cfg)
	}
	w.guard = New(cfg)
	return w
}

func (w *world) record(u Use) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.uses = append(w.uses, u)
	return nil
}

func (w *world) ask(ctx context.Context, u Use) Answer {
	w.mu.Lock()
	w.asked = append(w.asked, u)
	answer := w.answer
	w.mu.Unlock()
	if answer == nil {
		<-ctx.Done()
		return Unanswered
	}
	return answer(u)
}

// last is the newest record.
func (w *world) last() Use {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.uses) == 0 {
		return Use{}
	}
	return w.uses[len(w.uses)-1]
}

// knows has hosts in the user's known_hosts.
func knows(lines ...string) func(*Config) {
	return func(c *Config) {
		for _, l := range lines {
			c.Hosts.add([]byte(l))
		}
	}
}

func approves(names ...string) func(*Config) { return func(c *Config) { c.Approved = names } }

// guest is a connection of the guest's.
type guest struct {
	t    testing.TB
	conn net.Conn
}

// connect is one to the guard, plain one to the user's agent itself.
func (w *world) connect() guest {
	w.t.Helper()
	ours, theirs := net.Pipe()
	go w.guard.Serve(w.ctx, theirs)
	w.t.Cleanup(func() { ours.Close() })
	return guest{w.t, ours}
}

func (w *world) plain() guest {
	w.t.Helper()
	conn, err := w.user.dial(w.ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close() })
	return guest{w.t, conn}
}

// say sends a message and returns the answer, nil when there is none.
func (g guest) say(body []byte) []byte {
	g.t.Helper()
	_ = g.conn.SetDeadline(time.Now().Add(patience))
	if err := writeMessage(g.conn, body); err != nil {
		return nil
	}
	reply, err := readMessage(g.conn, maxReply)
	if err != nil {
		return nil
	}
	return reply
}

func (g guest) ok(body []byte) bool {
	g.t.Helper()
	reply := g.say(body)
	return len(reply) > 0 && reply[0] != msgFailure && reply[0] != 28
}

// signs reports whether the answer is a signature of the data by the key.
func (g guest) signs(req signRequest) bool {
	g.t.Helper()
	r := reader{b: g.say(req.encode())}
	if r.byte() != msgSignature {
		return false
	}
	s := reader{b: r.bytes()}
	sig := &ssh.Signature{Format: s.string(), Blob: s.bytes()}
	pub, err := ssh.ParsePublicKey(req.key)
	return err == nil && r.ended() && s.ended() && pub.Verify(req.data, sig) == nil
}

func sameKey(a, b []byte) bool { return bytes.Equal(a, b) }

func newPair() (ed25519.PublicKey, ed25519.PrivateKey, error) {
	return ed25519.GenerateKey(rand.Reader)
}

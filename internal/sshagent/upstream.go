package sshagent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/crypto/ssh"
)

// Times that the user's agent may take. A signature may need a touch, or a
// question of the agent's own.
const (
	agentTime = 10 * time.Second
	signTime  = 2 * time.Minute
)

var errAgentRefused = errors.New("your agent refused")

// Dialer connects to the user's agent.
type Dialer func(context.Context) (net.Conn, error)

// Key is one that the user's agent has.
type Key struct {
	Blob    []byte // the public key, or a certificate
	Comment string
}

// Fingerprint is as ssh-add -l has it.
func (k Key) Fingerprint() string { return fingerprint(k.Blob) }

func fingerprint(blob []byte) string {
	if pub, err := ssh.ParsePublicKey(blob); err == nil {
		return ssh.FingerprintSHA256(pub)
	}
	return "a key of an unknown type"
}

// Keys asks the user's agent which keys it has.
func Keys(ctx context.Context, dial Dialer) ([]Key, error) {
	conn, err := dial(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	return (&upstream{conn: conn}).keys()
}

// upstream is a connection to the user's agent. Requests are put together from
// what was understood; no byte of the guest's is passed on as it came.
type upstream struct{ conn net.Conn }

func (u *upstream) call(body []byte, patience time.Duration) ([]byte, error) {
	if err := u.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	if err := writeMessage(u.conn, body); err != nil {
		return nil, fmt.Errorf("ask the SSH agent: %w", err)
	}
	reply, err := readMessage(u.conn, maxReply)
	if err != nil {
		return nil, fmt.Errorf("hear the SSH agent: %w", err)
	}
	return reply, nil
}

func (u *upstream) keys() ([]Key, error) {
	reply, err := u.call([]byte{msgList}, agentTime)
	if err != nil {
		return nil, err
	}
	r := reader{b: reply}
	if r.byte() != msgKeys {
		return nil, errAgentRefused
	}
	n := r.uint32()
	var keys []Key
	for range min(n, maxKeys) {
		keys = append(keys, Key{Blob: r.bytes(), Comment: r.string()})
	}
	if r.bad {
		return nil, errors.New("the SSH agent's answer makes no sense")
	}
	return keys, nil
}

// bind passes a verified binding on: keys that the user restricted to some hosts
// (ssh-add -h) are only used by the agent for a session that is bound.
func (u *upstream) bind(b bindRequest) error {
	body := appendString([]byte{msgExtension}, bindExtension)
	body = appendString(appendString(appendString(body, b.hostKey), b.session), b.signature)
	_, err := u.call(append(body, 0), agentTime)
	return err // agents that do not know it say so, which matters to nobody
}

func (u *upstream) sign(req signRequest) ([]byte, error) {
	body := appendString(appendString([]byte{msgSign}, req.key), req.data)
	body = append(body, 0, 0, 0, byte(req.flags))
	reply, err := u.call(body, signTime)
	if err != nil {
		return nil, err
	}
	r := reader{b: reply}
	if r.byte() != msgSignature {
		return nil, errAgentRefused
	}
	signature := r.bytes()
	if !r.ended() {
		return nil, errors.New("the SSH agent's answer makes no sense")
	}
	return signature, nil
}

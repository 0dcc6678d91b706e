// Package client is the host's side of the guest's protocol (package
// guestapi): it starts and joins sessions, follows events, transfers files and
// opens ports. The guest at the other end is never trusted: what it says is
// bounded and checked, it can only delay or fail what was asked of it, and it
// can ask for nothing itself but for what ServeAgent offers. The package is for the supervisor; it knows
// nothing of sandboxes beyond one connection.
package client

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"sync/atomic"

	"golang.org/x/crypto/ssh"

	"berth.dev/internal/guestapi"
	"berth.dev/internal/sandbox"
)

// Client is a connection to a guest. Its methods are safe for concurrent use.
// When the connection is lost every call ends with an error of class
// sandbox.ErrUnavailable; sessions in the guest go on.
type Client struct {
	conn ssh.Conn
	done chan struct{}

	agent  atomic.Pointer[func(io.ReadWriteCloser)] // nil: there is none
	agents atomic.Int32                             // connections to it
}

// Dial logs in over conn, which the client owns from then on (it is closed
// when Dial fails). hostKey is the one key that the guest must show. ctx
// bounds the handshake only.
func Dial(ctx context.Context, conn net.Conn, clientKey ssh.Signer, hostKey ssh.PublicKey) (*Client, error) {
	config := &ssh.ClientConfig{
		User:              "berth",
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(clientKey)},
		HostKeyCallback:   ssh.FixedHostKey(hostKey),
		HostKeyAlgorithms: []string{hostKey.Type()},
		ClientVersion:     "SSH-2.0-Berth",
	}
	config.KeyExchanges = []string{ssh.KeyExchangeCurve25519}
	config.Ciphers = []string{ssh.CipherAES128GCM, ssh.CipherChaCha20Poly1305}
	// The handshake reads and writes conn without a context of its own.
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	sc, chans, reqs, err := ssh.NewClientConn(conn, "guest", config)
	if !stop() && err == nil {
		sc.Close()
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, unavailable("log in to the guest", err)
	}
	c := &Client{conn: sc, done: make(chan struct{})}
	go ssh.DiscardRequests(reqs)
	go func() {
		for ch := range chans {
			c.asked(ch)
		}
		_ = sc.Wait()
		close(c.done)
	}()
	return c, nil
}

// ServeAgent lets those sessions that are started with Attach.SSHAgent from now
// on connect to what stands for the user's SSH agent: serve is called for each
// connection, in a goroutine of its own, and the connection closed when it
// returns. At most guestapi.MaxAgents are open at once.
func (c *Client) ServeAgent(serve func(io.ReadWriteCloser)) { c.agent.Store(&serve) }

// asked decides about a channel that the guest opens: none but a connection to
// an agent that is offered.
func (c *Client) asked(nc ssh.NewChannel) {
	serve := c.agent.Load()
	switch {
	case nc.ChannelType() != guestapi.ChanAgent || serve == nil:
		_ = nc.Reject(ssh.Prohibited, "")
		return
	case c.agents.Add(1) > guestapi.MaxAgents:
		c.agents.Add(-1)
		_ = nc.Reject(ssh.ResourceShortage, "")
		return
	}
	go func() {
		defer c.agents.Add(-1)
		ch, reqs, err := nc.Accept()
		if err != nil {
			return // the connection is gone
		}
		defer ch.Close()
		go ssh.DiscardRequests(reqs)
		go io.Copy(io.Discard, ch.Stderr()) // nothing is due there; it must not fill
		(*serve)(ch)
	}()
}

// Close ends the connection. Sessions in the guest go on.
func (c *Client) Close() error { return c.conn.Close() }

// Done is closed when the connection is gone.
func (c *Client) Done() <-chan struct{} { return c.done }

// unavailable is a failure of the connection itself.
func unavailable(doing string, err error) error {
	return sandbox.Errorf(sandbox.ErrUnavailable, "%s: %w", doing, err)
}

// classes maps the guest's codes to the classes of errors that users see.
var classes = map[guestapi.Code]sandbox.Class{
	guestapi.Invalid:         sandbox.ErrInvalid,
	guestapi.NoSession:       sandbox.ErrNotFound,
	guestapi.SessionExists:   sandbox.ErrExists,
	guestapi.NoUser:          sandbox.ErrNotFound,
	guestapi.NoDir:           sandbox.ErrNotFound,
	guestapi.CommandNotFound: sandbox.ErrNotFound,
	guestapi.NotExecutable:   sandbox.ErrPrecondition,
	guestapi.Limit:           sandbox.ErrPrecondition,
	guestapi.Denied:          sandbox.ErrUnavailable,
}

// reported is an error that the guest reported: a *sandbox.Error whose cause
// is the *guestapi.Error.
func reported(e *guestapi.Error) error {
	class, known := classes[e.Code]
	if !known {
		class = sandbox.ErrInternal
	}
	return &sandbox.Error{Class: class, Message: e.Message, Cause: e}
}

// ExitCode is the status that `berth exec` and `berth run` end with for an
// error of this package: 127 for a command that was not found, 126 for one
// that cannot be executed, else 125.
func ExitCode(err error) int {
	var e *guestapi.Error
	if errors.As(err, &e) {
		return e.ExitCode()
	}
	return 125
}

// open opens a channel with a JSON payload. When ctx ends first, the channel
// is closed as soon as the guest gives it.
func (c *Client) open(ctx context.Context, name string, payload any) (ssh.Channel, <-chan *ssh.Request, error) {
	b, err := guestapi.Marshal(payload)
	if err != nil {
		return nil, nil, sandbox.Errorf(sandbox.ErrInternal, "encode request: %w", err)
	}
	if len(b) > guestapi.MaxRequest {
		return nil, nil, sandbox.Errorf(sandbox.ErrInvalid, "the arguments and the environment are too long: %d bytes", len(b)).
			WithHint("at most %d KiB can be passed; put long text into a file or on standard input", guestapi.MaxRequest>>10)
	}
	return c.openRaw(ctx, name, b)
}

type opened struct {
	ch   ssh.Channel
	reqs <-chan *ssh.Request
	err  error
}

func (c *Client) openRaw(ctx context.Context, name string, extra []byte) (ssh.Channel, <-chan *ssh.Request, error) {
	got := make(chan opened, 1)
	go func() {
		ch, reqs, err := c.conn.OpenChannel(name, extra)
		got <- opened{ch, reqs, err}
	}()
	select {
	case o := <-got:
		return o.ch, o.reqs, openError(o.err)
	case <-ctx.Done():
		go func() {
			if o := <-got; o.err == nil {
				go ssh.DiscardRequests(o.reqs)
				o.ch.Close()
			}
		}()
		return nil, nil, ctx.Err()
	}
}

// openError tells a refusal by the guest from a lost connection.
func openError(err error) error {
	var refused *ssh.OpenChannelError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &refused):
		return reported(guestapi.ParseError(refused.Message))
	}
	return unavailable("talk to the guest", err)
}

// stream opens a channel of which only the data matters, until ctx ends or end is
// called.
func (c *Client) stream(ctx context.Context, name string, payload any) (ch ssh.Channel, end func(), err error) {
	ch, reqs, err := c.open(ctx, name, payload)
	if err != nil {
		return nil, nil, err
	}
	go ssh.DiscardRequests(reqs)
	go io.Copy(io.Discard, ch.Stderr()) // nothing is due there; it must not fill
	stop := context.AfterFunc(ctx, func() { ch.Close() })
	return ch, func() { stop(); ch.Close() }, nil
}

// call makes a call and reads its answer.
func (c *Client) call(ctx context.Context, call guestapi.Call, answer any) error {
	ch, end, err := c.stream(ctx, guestapi.ChanCall, call)
	if err != nil {
		return err
	}
	defer end()
	b, err := io.ReadAll(io.LimitReader(ch, guestapi.MaxReply+1))
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return unavailable("talk to the guest", err)
	case len(b) > guestapi.MaxReply:
		return sandbox.Errorf(sandbox.ErrInvalid, "the guest's answer to %s is longer than %d bytes", call.Method, guestapi.MaxReply)
	case len(b) == 0:
		return unavailable("talk to the guest", io.ErrUnexpectedEOF)
	}
	if err := json.Unmarshal(b, answer); err != nil {
		return sandbox.Errorf(sandbox.ErrInvalid, "the guest's answer to %s: %s", call.Method, guestapi.Printable(err.Error(), 256))
	}
	return nil
}

// Ping makes a round trip.
func (c *Client) Ping(ctx context.Context) error {
	return c.call(ctx, guestapi.Call{Method: guestapi.CallPing}, &struct{}{})
}

// Sync writes the guest's file systems out (sync(2)).
func (c *Client) Sync(ctx context.Context) error {
	return c.call(ctx, guestapi.Call{Method: guestapi.CallSync}, &struct{}{})
}

// Sessions lists the sessions that run and the last ones that ended, by the
// time of their start.
func (c *Client) Sessions(ctx context.Context) ([]guestapi.SessionInfo, error) {
	var all []guestapi.SessionInfo
	if err := c.call(ctx, guestapi.Call{Method: guestapi.CallSessions}, &all); err != nil {
		return nil, err
	}
	for i := range all {
		if err := all[i].Check(); err != nil {
			return nil, sandbox.Errorf(sandbox.ErrInvalid, "the guest's list of sessions: %w", err)
		}
	}
	return all, nil
}

// Session describes one session.
func (c *Client) Session(ctx context.Context, id string) (guestapi.SessionInfo, error) {
	var info guestapi.SessionInfo
	if err := c.call(ctx, guestapi.Call{Method: guestapi.CallSession, ID: id}, &info); err != nil {
		return info, err
	}
	return info, info.Check()
}

// Signal sends a signal, by its name without SIG, to the foreground process
// group of a session.
func (c *Client) Signal(ctx context.Context, id, signal string) error {
	return c.call(ctx, guestapi.Call{Method: guestapi.CallSignal, ID: id, Signal: signal}, &struct{}{})
}

// CloseSession hangs a session up, and the guest kills it when that does not
// end it within a few seconds. It does not wait for the end.
func (c *Client) CloseSession(ctx context.Context, id string) error {
	return c.call(ctx, guestapi.Call{Method: guestapi.CallClose, ID: id}, &struct{}{})
}

// Reclaim ends the guest's largest process and says which it was.
func (c *Client) Reclaim(ctx context.Context) (guestapi.Reclaimed, error) {
	var r guestapi.Reclaimed
	err := c.call(ctx, guestapi.Call{Method: guestapi.CallReclaim}, &r)
	r.Name = guestapi.Printable(r.Name, 64)
	return r, err
}

// Ports lists the TCP ports that something in the guest listens on.
func (c *Client) Ports(ctx context.Context) ([]guestapi.Port, error) {
	var ports []guestapi.Port
	err := c.call(ctx, guestapi.Call{Method: guestapi.CallPorts}, &ports)
	for i := range ports {
		ports[i].Addr = guestapi.Printable(ports[i].Addr, 64)
	}
	return ports, err
}

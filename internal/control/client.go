package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"

	"berth.dev/internal/sandbox"
	"berth.dev/internal/secret"
)

// Client talks to the supervisor that listens on a socket. It holds no
// connection and is safe for concurrent use.
type Client struct{ socket string }

// NewClient returns a client of the supervisor at socket.
func NewClient(socket string) *Client { return &Client{socket: socket} }

// Status asks what the sandbox is doing.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var s Status
	return s, c.call(ctx, Request{Op: OpStatus}, &s)
}

// Stop saves the sandbox, unless discard is set, ends it, and returns when it
// has ended.
func (c *Client) Stop(ctx context.Context, discard bool) error {
	return c.call(ctx, Request{Op: OpStop, Discard: discard}, nil)
}

// Save makes the sandbox's state safe now.
func (c *Client) Save(ctx context.Context) error { return c.call(ctx, Request{Op: OpSave}, nil) }

// Reload makes the policy's files count as they are now.
func (c *Client) Reload(ctx context.Context) error { return c.call(ctx, Request{Op: OpReload}, nil) }

// Bind binds secrets of this shell to the sandbox, and returns what its guest
// gets in place of all that it can use. Without any it only asks.
func (c *Client) Bind(ctx context.Context, secrets map[string]secret.Wire, bases map[string]string) (Credentials, error) {
	var got Credentials
	return got, c.call(ctx, Request{Op: OpBind, Secrets: secrets, Bases: bases}, &got)
}

// AgentUse records a use of the user's SSH agent.
func (c *Client) AgentUse(ctx context.Context, use AgentUse) error {
	return c.call(ctx, Request{Op: OpAgentUse, Agent: &use}, nil)
}

// AgentAsk puts a question about one and waits for the user's answer. When ctx
// ends the question is withdrawn.
func (c *Client) AgentAsk(ctx context.Context, use AgentUse) (string, error) {
	var got AgentAnswer
	err := c.call(ctx, Request{Op: OpAgentAsk, Agent: &use}, &got)
	return got.Answer, err
}

// Vouch says that a code came from the user's own browser.
func (c *Client) Vouch(ctx context.Context, v Vouch) error {
	return c.call(ctx, Request{Op: OpVouch, Vouch: &v}, nil)
}

// Settled says that the guest has the files of a Credentials.
func (c *Client) Settled(ctx context.Context, files []GuestFile) error {
	return c.call(ctx, Request{Op: OpSettled, Settled: SumOf(files)}, nil)
}

// Pending asks which questions stand.
func (c *Client) Pending(ctx context.Context) ([]Question, error) {
	var q []Question
	return q, c.call(ctx, Request{Op: OpPending}, &q)
}

// Answer ends a question; how is the user's word for it.
func (c *Client) Answer(ctx context.Context, id string, once bool, how string) error {
	return c.call(ctx, Request{Op: OpAnswer, Question: id, Once: once, How: how}, nil)
}

// Guest opens a stream to the guest's SSH server. The caller closes it.
func (c *Client) Guest(ctx context.Context) (net.Conn, GuestKeys, error) {
	var keys GuestKeys
	conn, r, err := c.open(ctx, Request{Op: OpGuest}, &keys)
	if err != nil {
		return nil, keys, err
	}
	return &bufferedConn{Conn: conn, r: r}, keys, nil
}

// Layer copies to w what the sandbox's root has beyond its image, as a tar.
func (c *Client) Layer(ctx context.Context, w io.Writer) error {
	conn, r, err := c.open(ctx, Request{Op: OpLayer}, nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	return ReadChunks(w, r)
}

func (c *Client) call(ctx context.Context, req Request, body any) error {
	conn, _, err := c.open(ctx, req, body)
	if err != nil {
		return err
	}
	return conn.Close()
}

// open connects, sends the request and reads the answer into body.
func (c *Client) open(ctx context.Context, req Request, body any) (net.Conn, *bufio.Reader, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", c.socket)
	if err != nil {
		if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOENT) {
			return nil, nil, sandbox.Errorf(sandbox.ErrPrecondition, "the sandbox is not running: %w", err)
		}
		return nil, nil, fmt.Errorf("connect to the supervisor: %w", err)
	}
	// Ending ctx ends the wait for the answer, not a stream that follows it.
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	r := bufio.NewReader(conn)
	err = ask(conn, r, req, body)
	if !stop() {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	return conn, r, nil
}

func ask(conn net.Conn, r *bufio.Reader, req Request, body any) error {
	req.Version = Version
	if err := WriteLine(conn, req); err != nil {
		return fmt.Errorf("ask the supervisor: %w", err)
	}
	var reply Reply
	if err := ReadLine(r, &reply); err != nil {
		return sandbox.Errorf(sandbox.ErrUnavailable, "the supervisor ended before it answered: %w", err)
	}
	if reply.Error != nil {
		return reply.Error.Unwrap()
	}
	if body == nil {
		return nil
	}
	return json.Unmarshal(reply.Body, body)
}

// bufferedConn gives back what was read ahead.
type bufferedConn struct {
	net.Conn
	r *bufio.Reader
}

// Read implements net.Conn.
func (c *bufferedConn) Read(p []byte) (int, error) { return c.r.Read(p) }

// CloseWrite ends the sending direction.
func (c *bufferedConn) CloseWrite() error { return c.Conn.(*net.UnixConn).CloseWrite() }

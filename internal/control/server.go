package control

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"time"

	"berth.dev/internal/sandbox"
)

// requestTime bounds the wait for a request on a fresh connection.
const requestTime = 10 * time.Second

// Conn is the server's side of one connection whose request has been read.
type Conn struct {
	net.Conn
	Request Request
	r       *bufio.Reader
}

// Accept reads the request of a connection. A client that speaks another
// version is told so, and the error is returned for the log.
func Accept(conn net.Conn) (*Conn, error) {
	c := &Conn{Conn: conn, r: bufio.NewReader(conn)}
	if err := conn.SetReadDeadline(time.Now().Add(requestTime)); err != nil {
		return nil, err
	}
	if err := ReadLine(c.r, &c.Request); err != nil {
		return nil, fmt.Errorf("read a request: %w", err)
	}
	if c.Request.Version != Version {
		err := sandbox.Errorf(sandbox.ErrPrecondition, "the sandbox was started by another version of Berth").
			WithHint("stop it with the berth that started it, or end the process of its supervisor, and start it again")
		_ = c.Reply(nil, err)
		return nil, err
	}
	return c, conn.SetReadDeadline(time.Time{})
}

// Read implements net.Conn, what was read ahead included.
func (c *Conn) Read(p []byte) (int, error) { return c.r.Read(p) }

// CloseWrite ends the sending direction.
func (c *Conn) CloseWrite() error { return c.Conn.(*net.UnixConn).CloseWrite() }

// Reply answers the request with an error, or with a body (which may be nil).
func (c *Conn) Reply(body any, err error) error {
	reply := Reply{Version: Version, Error: WrapError(err)}
	if err == nil && body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return err
		}
		reply.Body = data
	}
	return WriteLine(c.Conn, reply)
}

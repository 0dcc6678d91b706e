package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"berth.dev/internal/guestapi"
	"berth.dev/internal/sandbox"
)

// SFTP opens the guest's files as a user; "" is the sandbox's own. Relative
// paths begin in that user's home. The caller closes it. File names, sizes and
// modes are the guest's to claim: whoever writes to the host has to check
// every path.
func (c *Client) SFTP(ctx context.Context, user string) (*sftp.Client, error) {
	ch, reqs, err := c.open(ctx, guestapi.ChanSFTP, guestapi.SFTPRequest{User: user})
	if err != nil {
		return nil, err
	}
	go ssh.DiscardRequests(reqs)
	go io.Copy(io.Discard, ch.Stderr())
	stop := context.AfterFunc(ctx, func() { ch.Close() })
	fc, err := sftp.NewClientPipe(ch, ch)
	if !stop() && err == nil {
		fc.Close()
		err = ctx.Err()
	}
	if err != nil {
		ch.Close()
		return nil, unavailable("open the guest's files", err)
	}
	return fc, nil
}

// DialContext connects to a TCP port ("tcp", an address and port as the guest
// sees them) or to a socket ("unix", a path) in the guest. The connection has
// CloseWrite; its deadlines are not supported. ctx bounds the making only.
func (c *Client) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	name, extra, err := forward(network, addr)
	if err != nil {
		return nil, err
	}
	ch, reqs, err := c.openRaw(ctx, name, extra)
	if err != nil {
		return nil, fmt.Errorf("connect to %s in the guest: %w", addr, err)
	}
	go ssh.DiscardRequests(reqs)
	go io.Copy(io.Discard, ch.Stderr())
	return &tunnel{Channel: ch, remote: guestAddr{network, addr}}, nil
}

// forward makes the payload of a forwarding channel.
func forward(network, addr string) (name string, extra []byte, err error) {
	switch network {
	case "unix":
		return "direct-streamlocal@openssh.com", ssh.Marshal(&struct {
			Path, Reserved string
			Port           uint32
		}{Path: addr}), nil
	case "tcp", "tcp4", "tcp6":
		host, port, err := net.SplitHostPort(addr)
		if err != nil {
			return "", nil, sandbox.Errorf(sandbox.ErrInvalid, "address %q: %w", addr, err)
		}
		n, err := net.LookupPort("tcp", port)
		if err != nil {
			return "", nil, sandbox.Errorf(sandbox.ErrInvalid, "address %q: %w", addr, err)
		}
		return "direct-tcpip", ssh.Marshal(&struct {
			Host       string
			Port       uint32
			Origin     string
			OriginPort uint32
		}{host, uint32(n), "127.0.0.1", 0}), nil
	}
	return "", nil, sandbox.Errorf(sandbox.ErrInvalid, "network %q", network)
}

// tunnel is a channel as a net.Conn.
type tunnel struct {
	ssh.Channel
	remote guestAddr
	once   sync.Once
}

type guestAddr struct{ network, addr string }

func (a guestAddr) Network() string { return a.network }
func (a guestAddr) String() string  { return a.addr }

func (t *tunnel) LocalAddr() net.Addr  { return guestAddr{"ssh", "host"} }
func (t *tunnel) RemoteAddr() net.Addr { return t.remote }

// Close may be called more than once, as a net.Conn's.
func (t *tunnel) Close() (err error) {
	t.once.Do(func() { err = t.Channel.Close() })
	if errors.Is(err, io.EOF) { // the guest was first
		err = nil
	}
	return err
}

var errNoDeadline = errors.New("a connection into the guest has no deadlines")

func (t *tunnel) SetDeadline(time.Time) error      { return errNoDeadline }
func (t *tunnel) SetReadDeadline(time.Time) error  { return errNoDeadline }
func (t *tunnel) SetWriteDeadline(time.Time) error { return errNoDeadline }

package sshd

import (
	"context"
	"io"
	"net"
	"strconv"
	"sync"

	"golang.org/x/crypto/ssh"

	"berth.dev/internal/guestapi"
)

// forwardTCP connects a direct-tcpip channel (RFC 4254 section 7.2) to a port
// that the guest can reach.
func (c *conn) forwardTCP(nc ssh.NewChannel) error {
	var req struct {
		Host       string
		Port       uint32
		Origin     string
		OriginPort uint32
	}
	if err := ssh.Unmarshal(nc.ExtraData(), &req); err != nil || req.Port > 65535 {
		return guestapi.Errorf(guestapi.Invalid, "direct-tcpip: malformed request")
	}
	return c.forward(nc, "tcp", net.JoinHostPort(req.Host, strconv.Itoa(int(req.Port))))
}

// forwardUnix connects to a socket in the guest's file system (OpenSSH's
// PROTOCOL, section 2.4).
func (c *conn) forwardUnix(nc ssh.NewChannel) error {
	var req struct {
		Path     string
		Reserved string
		Port     uint32
	}
	if err := ssh.Unmarshal(nc.ExtraData(), &req); err != nil {
		return guestapi.Errorf(guestapi.Invalid, "direct-streamlocal: malformed request")
	}
	return c.forward(nc, "unix", req.Path)
}

// forward dials and copies both ways; each side's end of data is passed on.
func (c *conn) forward(nc ssh.NewChannel, network, addr string) error {
	ctx, cancel := context.WithTimeout(c.ctx, dialTime)
	defer cancel()
	var d net.Dialer
	to, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return guestapi.Errorf(guestapi.Denied, "%v", err)
	}
	defer to.Close()
	ch, reqs, err := nc.Accept()
	if err != nil {
		return nil // the connection is gone
	}
	defer ch.Close()
	c.hub.activity()
	go func() {
		ssh.DiscardRequests(reqs)
		to.Close() // the channel was closed: nobody reads any more
	}()
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = io.Copy(to, readerOnly{ch})
		if half, ok := to.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
	})
	_, _ = io.Copy(writerOnly{ch}, to)
	_ = ch.CloseWrite()
	wg.Wait()
	return nil
}

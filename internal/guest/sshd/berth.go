package sshd

import (
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
	"os"

	"berth.dev/internal/guest/netports"
	"berth.dev/internal/guest/reclaim"
	"berth.dev/internal/guest/session"
	"berth.dev/internal/guestapi"
)

// startChannel starts a session and, when asked, carries its bytes.
func (c *conn) startChannel(nc ssh.NewChannel) error {
	req, err := extra[guestapi.StartRequest](nc)
	if err != nil {
		return err
	}
	if req.Spec.Kind == guestapi.SFTP {
		return guestapi.Errorf(guestapi.Invalid, "session kind %q is the guest's own", req.Spec.Kind)
	}
	s, client, err := c.start(req.Spec, session.Options{Attach: req.Attach}, req.SSHAgent)
	if err != nil {
		return err
	}
	c.attached(nc, s, client)
	return nil
}

// attachChannel joins a session.
func (c *conn) attachChannel(nc ssh.NewChannel) error {
	req, err := extra[guestapi.AttachRequest](nc)
	if err != nil {
		return err
	}
	s, err := c.cfg.Sessions.Get(req.ID)
	if err != nil {
		return err
	}
	c.attached(nc, s, s.Attach(req))
	return nil
}

// attached accepts a channel for a session and serves it; client is nil when
// only the session's description is wanted.
func (c *conn) attached(nc ssh.NewChannel, s *session.Session, client *session.Client) {
	ch, reqs, err := nc.Accept()
	if err != nil { // the connection is gone; the session stays
		if client != nil {
			client.Close()
		}
		return
	}
	info := s.Info()
	if client == nil {
		go ssh.DiscardRequests(reqs)
		sendJSON(ch, guestapi.ReqInfo, info)
		ch.Close()
		return
	}
	info.At.Stdout = client.Out.Offset()
	if client.Err != nil {
		info.At.Stderr = client.Err.Offset()
	}
	sendJSON(ch, guestapi.ReqInfo, info)
	b := &bridge{ch: ch, s: s, client: client}
	b.run(c.ctx, reqs)
}

// callChannel answers one call.
func (c *conn) callChannel(nc ssh.NewChannel) error {
	call, err := extra[guestapi.Call](nc)
	if err != nil {
		return err
	}
	answer, err := c.call(call)
	if err != nil {
		return err
	}
	b, err := guestapi.Marshal(answer)
	if err != nil || len(b) > guestapi.MaxReply {
		return guestapi.Errorf(guestapi.Internal, "answer to %s of %d bytes: %v", call.Method, len(b), err)
	}
	ch, reqs, err := nc.Accept()
	if err != nil {
		return nil // the connection is gone
	}
	go ssh.DiscardRequests(reqs)
	defer ch.Close()
	if _, err := ch.Write(b); err == nil {
		_ = ch.CloseWrite()
	}
	return nil
}

// call carries a call out.
func (c *conn) call(call guestapi.Call) (any, error) {
	none := struct{}{}
	switch call.Method {
	case guestapi.CallPing:
		return none, nil
	case guestapi.CallSync:
		unix.Sync()
		return none, nil
	case guestapi.CallPorts:
		return netports.List(c.cfg.Proc)
	case guestapi.CallReclaim:
		return reclaim.Largest(c.cfg.Proc, os.Getpid(), reclaim.Kill)
	case guestapi.CallSessions:
		infos := []guestapi.SessionInfo{}
		for _, s := range c.cfg.Sessions.List() {
			infos = append(infos, s.Info())
		}
		return infos, nil
	}
	s, err := c.cfg.Sessions.Get(call.ID)
	if err != nil {
		return nil, err
	}
	switch call.Method {
	case guestapi.CallSession:
		return s.Info(), nil
	case guestapi.CallSignal:
		return none, s.SignalName(call.Signal)
	case guestapi.CallClose:
		s.Hangup()
		return none, nil
	}
	return nil, guestapi.Errorf(guestapi.Invalid, "call of %q", call.Method)
}

// sftpChannel serves SFTP as a given user.
func (c *conn) sftpChannel(nc ssh.NewChannel) error {
	req, err := extra[guestapi.SFTPRequest](nc)
	if err != nil {
		return err
	}
	s, client, err := c.startSFTP(req)
	if err != nil {
		return err
	}
	ch, reqs, err := nc.Accept()
	if err != nil {
		client.Close()
		return nil
	}
	b := &bridge{ch: ch, s: s, client: client, plain: true}
	b.run(c.ctx, reqs)
	return nil
}

// startSFTP starts a server process as the user, so that the kernel decides
// what it may touch and who owns what it makes.
func (c *conn) startSFTP(req guestapi.SFTPRequest) (*session.Session, *session.Client, error) {
	dir := req.Dir
	if dir == "" {
		var err error
		if dir, err = c.home(req.User); err != nil {
			return nil, nil, err
		}
	}
	args := append(append([]string{}, c.cfg.SFTP...), dir)
	spec := guestapi.SessionSpec{Kind: guestapi.SFTP, Args: args, User: req.User, Dir: dir, Stdin: true, Hangup: true}
	return c.cfg.Sessions.Start(spec, session.Options{Attach: true})
}

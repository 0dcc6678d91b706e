package sshd

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"berth.dev/internal/guest/account"
	"berth.dev/internal/guest/session"
	"berth.dev/internal/guestapi"
)

// agentVar tells programs where the agent is.
const agentVar = "SSH_AUTH_SOCK"

// agentSocket is one session's way to the SSH agent of the client that started
// it. It knows nothing of what is said: the client guards its own agent.
type agentSocket struct {
	c   *conn
	l   *net.UnixListener
	dir string
}

// start starts a session, with a way to the client's SSH agent when that is
// forwarded.
func (c *conn) start(spec guestapi.SessionSpec, opt session.Options, agent bool) (*session.Session, *session.Client, error) {
	if !agent {
		return c.cfg.Sessions.Start(spec, opt)
	}
	who, err := c.cfg.Sessions.Account(spec.User)
	if err != nil {
		return nil, nil, err
	}
	sock, err := c.newAgentSocket(who)
	if err != nil {
		return nil, nil, guestapi.Errorf(guestapi.Internal, "make a socket for the SSH agent: %v", err)
	}
	env := map[string]string{agentVar: sock.path()}
	for k, v := range spec.Env {
		if k != agentVar {
			env[k] = v
		}
	}
	spec.Env = env
	s, client, err := c.cfg.Sessions.Start(spec, opt)
	if err != nil {
		sock.close()
		return nil, nil, err
	}
	go sock.serve()
	go func() { // longer than the connection: the path is the session's
		<-s.Done()
		sock.close()
	}()
	return s, client, nil
}

// newAgentSocket makes a socket that only who, and the guest's root, can
// connect to. It is theirs only once all of it is as it should be.
func (c *conn) newAgentSocket(who account.Account) (sock *agentSocket, err error) {
	if err := os.MkdirAll(c.cfg.Agents, 0o711); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(c.cfg.Agents, "") // 0700
	if err != nil {
		return nil, err
	}
	sock = &agentSocket{c: c, dir: dir}
	defer func() {
		if err != nil {
			sock.close()
		}
	}()
	if sock.l, err = net.ListenUnix("unix", &net.UnixAddr{Name: sock.path(), Net: "unix"}); err != nil {
		return nil, err
	}
	sock.l.SetUnlinkOnClose(false) // the folder goes, and who owns it may have put another there
	if err := os.Chmod(sock.path(), 0o600); err != nil {
		return nil, err
	}
	if os.Geteuid() != 0 {
		return sock, nil // a guest that is not root has one user only
	}
	for _, p := range []string{sock.path(), dir} {
		if err := unix.Lchown(p, int(who.UID), int(who.GID)); err != nil {
			return nil, err
		}
	}
	return sock, nil
}

func (a *agentSocket) path() string { return filepath.Join(a.dir, "agent") }

// close ends the socket and removes it.
func (a *agentSocket) close() {
	if a.l != nil {
		a.l.Close()
	}
	if err := os.RemoveAll(a.dir); err != nil {
		a.c.cfg.Logf("remove the SSH agent's socket: %v", err)
	}
}

// serve hands connections to the client until the socket is closed.
func (a *agentSocket) serve() {
	for {
		nc, err := a.l.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// Out of descriptors or memory, which may pass.
			select {
			case <-time.After(100 * time.Millisecond):
				continue
			case <-a.c.ctx.Done():
				return
			}
		}
		if a.c.agents.Add(1) > guestapi.MaxAgents {
			a.c.agents.Add(-1)
			nc.Close()
			continue
		}
		go func() {
			defer a.c.agents.Add(-1)
			defer nc.Close()
			// A channel that is opened while its connection ends may never hear of it.
			defer context.AfterFunc(a.c.ctx, func() { nc.Close() })()
			a.join(nc)
		}()
	}
}

// join carries the bytes of one connection.
func (a *agentSocket) join(nc *net.UnixConn) {
	ch, reqs, err := a.c.ssh.OpenChannel(guestapi.ChanAgent, nil)
	if err != nil {
		return // refused, or the client is gone
	}
	defer ch.Close()
	a.c.hub.activity()
	go func() {
		ssh.DiscardRequests(reqs)
		nc.Close() // the channel was closed: nobody answers any more
	}()
	go io.Copy(io.Discard, ch.Stderr()) // nothing is due there; it must not fill
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = io.Copy(writerOnly{ch}, nc)
		_ = ch.CloseWrite()
	})
	_, _ = io.Copy(nc, readerOnly{ch})
	_ = nc.CloseWrite()
	wg.Wait()
}

// Package sshd is the guest's SSH server: it lets in one key from one address
// and carries bytes between channels and sessions, files, ports and events.
// Sessions themselves belong to package session and outlive every connection.
// The protocol is described in package guestapi.
package sshd

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"berth.dev/internal/guest/browse"
	"berth.dev/internal/guest/session"
	"berth.dev/internal/guestapi"
)

// Bounds of a server.
const (
	// MaxConns connections may be open at once, those included that have not
	// shown their key yet.
	MaxConns = 64
	// MaxChannels channels may be open at once on one connection.
	MaxChannels = 1024
	// HandshakeTime is how long a connection may take to show its key.
	HandshakeTime = 10 * time.Second
	// dialTime is how long a forwarded connection may take to be made.
	dialTime = 10 * time.Second
)

// Config is what a Server works with.
type Config struct {
	HostKey    ssh.Signer
	Authorized ssh.PublicKey // the one key that may log in
	Peer       netip.Addr    // the one address that may connect
	Sessions   *session.Store
	// Ready is closed when the guest has finished its start; requests wait for
	// it, connections do not.
	Ready <-chan struct{}
	// SFTP is the command that serves SFTP on its standard input and output;
	// the directory of relative paths is appended to it.
	SFTP []string
	// Agents is the folder for the sockets of clients' SSH agents. It is made
	// when it is needed.
	Agents string
	// Browse gets the clients that show web pages; nil: there are none.
	Browse *browse.Desk
	// Proc is where the proc file system is.
	Proc string
	Logf func(format string, args ...any)
}

// Server serves SSH. Make it with New.
type Server struct {
	cfg    Config
	config *ssh.ServerConfig
	slots  chan struct{} // one token per open connection
	hub    *hub
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// New makes a server.
func New(cfg Config) *Server {
	s := &Server{cfg: cfg, slots: make(chan struct{}, MaxConns), hub: newHub()}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	cfg.Sessions.OnActivity(s.hub.activity)
	s.config = &ssh.ServerConfig{
		// One key is known, so one attempt is enough for whoever has it.
		MaxAuthTries:  1,
		ServerVersion: "SSH-2.0-Berth",
		PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			if !bytes.Equal(key.Marshal(), cfg.Authorized.Marshal()) {
				return nil, errors.New("unknown key")
			}
			return &ssh.Permissions{}, nil
		},
	}
	// The wire never leaves the machine; what counts is the time of the
	// handshake and of the cipher. OpenSSH speaks all of these.
	s.config.KeyExchanges = []string{ssh.KeyExchangeCurve25519, ssh.KeyExchangeMLKEM768X25519}
	s.config.Ciphers = []string{ssh.CipherAES128GCM, ssh.CipherAES256GCM, ssh.CipherChaCha20Poly1305}
	s.config.AddHostKey(cfg.HostKey)
	return s
}

// Serve accepts connections until l is closed.
func (s *Server) Serve(l net.Listener) error {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			// Out of descriptors or memory, which may pass; a pause keeps the
			// guest from spinning meanwhile.
			s.cfg.Logf("accept: %v", err)
			select {
			case <-time.After(100 * time.Millisecond):
				continue
			case <-s.ctx.Done():
				return nil
			}
		}
		if !s.welcome(c) {
			c.Close()
			continue
		}
		s.wg.Go(func() {
			defer func() { <-s.slots }()
			s.serve(c)
		})
	}
}

// welcome decides before the first byte. The address alone proves nothing (the
// guest's root can take any), the key does; but nobody inside the sandbox gets
// as far as to try.
func (s *Server) welcome(c net.Conn) bool {
	from, err := netip.ParseAddrPort(c.RemoteAddr().String())
	if err != nil || from.Addr().Unmap() != s.cfg.Peer {
		s.cfg.Logf("refused a connection from %s", c.RemoteAddr())
		return false
	}
	select {
	case s.slots <- struct{}{}:
		return true
	default:
		s.cfg.Logf("refused a connection: %d are open", MaxConns)
		return false
	}
}

// Close ends all connections and waits for them. Sessions stay.
func (s *Server) Close() {
	s.cancel()
	s.wg.Wait()
}

// conn is one connection whose key was shown.
type conn struct {
	*Server
	ssh      ssh.Conn
	user     string // as the client named it
	ctx      context.Context
	channels atomic.Int32
	agents   atomic.Int32 // connections to the client's SSH agent
}

func (s *Server) serve(nc net.Conn) {
	defer nc.Close()
	stop := context.AfterFunc(s.ctx, func() { nc.Close() })
	defer stop()
	_ = nc.SetDeadline(time.Now().Add(HandshakeTime))
	sc, chans, reqs, err := ssh.NewServerConn(nc, s.config)
	if err != nil {
		s.cfg.Logf("handshake: %s", guestapi.Printable(err.Error(), 256))
		return
	}
	_ = nc.SetDeadline(time.Time{})
	go ssh.DiscardRequests(reqs)
	ctx, cancel := context.WithCancel(s.ctx)
	c := &conn{Server: s, ssh: sc, user: sc.User(), ctx: ctx}
	var wg sync.WaitGroup
	for ch := range chans { // ends with the connection
		if c.channels.Add(1) > MaxChannels {
			c.channels.Add(-1)
			_ = ch.Reject(ssh.ResourceShortage, guestapi.Errorf(guestapi.Limit, "%d channels are open", MaxChannels).Encode())
			continue
		}
		wg.Go(func() {
			defer c.channels.Add(-1)
			c.serveChannel(ch)
		})
	}
	cancel()
	wg.Wait()
}

// serveChannel serves one channel to its end.
func (c *conn) serveChannel(ch ssh.NewChannel) {
	serve, known := map[string]func(ssh.NewChannel) error{
		"session":                        c.shellChannel,
		"direct-tcpip":                   c.forwardTCP,
		"direct-streamlocal@openssh.com": c.forwardUnix,
		guestapi.ChanStart:               c.startChannel,
		guestapi.ChanAttach:              c.attachChannel,
		guestapi.ChanEvents:              c.eventsChannel,
		guestapi.ChanCall:                c.callChannel,
		guestapi.ChanSFTP:                c.sftpChannel,
		guestapi.ChanBrowse:              c.browseChannel,
	}[ch.ChannelType()]
	if !known {
		_ = ch.Reject(ssh.UnknownChannelType, "unknown channel type")
		return
	}
	select {
	case <-c.cfg.Ready:
	case <-c.ctx.Done():
		return
	}
	if err := serve(ch); err != nil {
		_ = ch.Reject(ssh.ConnectionFailed, encode(err))
	}
}

// encode is the wire form of any error.
func encode(err error) string {
	var e *guestapi.Error
	if !errors.As(err, &e) {
		e = guestapi.Errorf(guestapi.Internal, "%v", err)
	}
	return e.Encode()
}

// extra parses the payload that a channel was opened with.
func extra[T any, P interface {
	*T
	Check() error
}](ch ssh.NewChannel) (T, error) {
	return guestapi.Parse[T, P](ch.ExtraData(), guestapi.MaxRequest)
}

// sendJSON sends a channel request of Berth's own that wants no reply.
func sendJSON(ch ssh.Channel, name string, v any) {
	b, err := guestapi.Marshal(v)
	if err == nil {
		_, _ = ch.SendRequest(name, false, b) // a lost client is noticed elsewhere
	}
}

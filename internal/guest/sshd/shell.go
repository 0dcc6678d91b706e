package sshd

import (
	"os"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"berth.dev/internal/guest/session"
	"berth.dev/internal/guestapi"
)

// Bounds of the environment that a standard session asks for.
const (
	maxEnv      = 256
	maxEnvBytes = 64 << 10
)

// shell is a standard session channel (RFC 4254 section 6) before its program
// starts.
type shell struct {
	c        *conn
	spec     guestapi.SessionSpec
	modes    func(*unix.Termios)
	envBytes int
	agent    bool // the client's SSH agent is forwarded
}

// shellChannel serves a standard session: requests set things up until one of
// them starts a program, which then gets the channel.
func (c *conn) shellChannel(nc ssh.NewChannel) error {
	ch, reqs, err := nc.Accept()
	if err != nil {
		return nil // the connection is gone
	}
	defer ch.Close()
	sh := &shell{c: c, spec: guestapi.SessionSpec{
		User: c.sshUser(), Env: map[string]string{}, Hangup: true,
	}}
	for r := range reqs {
		s, client, ok := sh.request(r)
		if r.WantReply {
			_ = r.Reply(ok, nil)
		}
		if s != nil {
			b := &bridge{ch: ch, s: s, client: client, plain: true}
			b.run(c.ctx, reqs)
			return nil
		}
	}
	return nil
}

// sshUser is whom standard sessions run as: the user that the client named.
// "berth" is what Berth's own client calls itself and means the default.
func (c *conn) sshUser() string {
	if c.user == "berth" {
		return ""
	}
	return c.user
}

// home is where standard sessions begin, as with login(1).
func (c *conn) home(user string) (string, error) {
	a, err := c.cfg.Sessions.Account(user)
	if err != nil {
		return "", err
	}
	if fi, err := os.Stat(a.Home); err != nil || !fi.IsDir() {
		return "/", nil
	}
	return a.Home, nil
}

// request serves one request; a session is returned by the one that starts it.
func (sh *shell) request(r *ssh.Request) (s *session.Session, client *session.Client, ok bool) {
	switch r.Type {
	case "env":
		return nil, nil, sh.env(r.Payload)
	case "pty-req":
		return nil, nil, sh.pty(r.Payload)
	case "auth-agent-req@openssh.com":
		sh.agent = true
		return nil, nil, true
	case "window-change":
		size, err := parseWindow(r.Payload)
		if err == nil {
			sh.spec.Size = size
		}
		return nil, nil, err == nil
	case "shell", "exec", "subsystem":
		s, client, err := sh.start(r)
		if err != nil {
			sh.c.cfg.Logf("%s: %s", r.Type, guestapi.Printable(err.Error(), 256))
		}
		return s, client, err == nil
	}
	return nil, nil, false
}

func (sh *shell) env(payload []byte) bool {
	var kv struct{ Name, Value string }
	if ssh.Unmarshal(payload, &kv) != nil || !envName(kv.Name) || strings.ContainsRune(kv.Value, 0) {
		return false
	}
	sh.envBytes += len(kv.Name) + len(kv.Value)
	if len(sh.spec.Env) >= maxEnv || sh.envBytes > maxEnvBytes {
		return false
	}
	sh.spec.Env[kv.Name] = kv.Value
	return true
}

func envName(s string) bool {
	for i, r := range s {
		if r != '_' && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return s != ""
}

func (sh *shell) pty(payload []byte) bool {
	p, err := parsePTY(payload)
	if err != nil || sh.spec.TTY {
		return false
	}
	sh.spec.TTY, sh.spec.Size, sh.modes = true, p.size, p.modes
	if p.term != "" {
		sh.spec.Env["TERM"] = p.term
	}
	return true
}

// start starts what the request names.
func (sh *shell) start(r *ssh.Request) (*session.Session, *session.Client, error) {
	a, err := sh.c.cfg.Sessions.Account(sh.spec.User)
	if err != nil {
		return nil, nil, err
	}
	if sh.spec.Dir, err = sh.c.home(sh.spec.User); err != nil {
		return nil, nil, err
	}
	var text struct{ S string }
	if r.Type != "shell" {
		if err := ssh.Unmarshal(r.Payload, &text); err != nil {
			return nil, nil, err
		}
	}
	switch r.Type {
	case "subsystem":
		if text.S != "sftp" {
			return nil, nil, guestapi.Errorf(guestapi.Invalid, "no subsystem %q", text.S)
		}
		return sh.c.startSFTP(guestapi.SFTPRequest{User: sh.spec.User})
	case "exec":
		sh.spec.Args = []string{a.Shell, "-c", text.S}
	default:
		sh.spec.Args = []string{a.Shell, "-l"}
	}
	sh.spec.Stdin = !sh.spec.TTY
	if err := sh.spec.Check(); err != nil {
		return nil, nil, err
	}
	return sh.c.start(sh.spec, session.Options{Attach: true, Modes: sh.modes}, sh.agent)
}

// Package guest is what runs inside a sandbox: PID 1. It joins the parts below
// it: setup of the root file system, the reaper, sessions, the SSH server and
// the activation of Docker. It trusts its configuration, which the supervisor
// writes to its standard input, and nobody who lives in the sandbox with it.
package guest

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"berth.dev/internal/guest/account"
	"berth.dev/internal/guest/browse"
	"berth.dev/internal/guest/docker"
	"berth.dev/internal/guest/reap"
	"berth.dev/internal/guest/runc"
	"berth.dev/internal/guest/session"
	"berth.dev/internal/guest/setup"
	"berth.dev/internal/guest/sshd"
	"berth.dev/internal/guestapi"
)

const usage = `usage: berth-guest                        be PID 1; the configuration is read from standard input
       berth-guest sftp DIR               serve SFTP on standard input and output
       berth-guest exec-listen CMD ARG... become CMD with an activated socket
       berth-guest open URL               have a web page opened on the host
       runc ARG...                        become runc; see package runc
`

// Main is the program; argv begins with the name that it was started by. It
// returns the exit status.
func Main(argv []string, stdin io.Reader, stdout, stderr io.Writer) int {
	name, args := "", argv
	if len(argv) > 0 {
		name, args = filepath.Base(argv[0]), argv[1:]
	}
	var err error
	switch {
	case name == runc.Name:
		err = runc.Exec(args)
	case len(args) == 0:
		err = run(stdin, stdout, newLogger(stderr))
	case args[0] == "sftp" && len(args) == 2:
		err = serveSFTP(args[1])
	case args[0] == "open" && len(args) == 2:
		if err = browse.Open(args[1]); err != nil {
			err = fmt.Errorf("open %s: %w", args[1], err)
		}
	case args[0] == "exec-listen" && len(args) >= 2:
		err = execListen(args[1:])
	default:
		fmt.Fprint(stderr, usage)
		return 2
	}
	if err != nil {
		fmt.Fprintln(stderr, "berth-guest:", err)
		return 1
	}
	return 0
}

// guest is a running PID 1.
type guest struct {
	cfg      *guestapi.Config
	log      *logger
	reaper   *reap.Reaper
	accounts *account.Base
	sessions *session.Store
	desk     browse.Desk // web pages for the host's user
	self     string
}

// run is PID 1 from its configuration to SIGTERM.
func run(stdin io.Reader, stdout io.Writer, log *logger) error {
	becomeRoot()
	unix.Umask(0o022)
	terminate := make(chan os.Signal, 1)
	signal.Notify(terminate, unix.SIGTERM, unix.SIGINT)
	// A supervisor that is gone must not end the guest by a log line; caught
	// rather than ignored, because children inherit what is ignored.
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE, unix.SIGHUP)

	cfg, err := guestapi.ParseConfig(stdin)
	if err != nil {
		return err
	}
	// Listening comes first: the supervisor dials until it gets through, and
	// its handshake goes on beside the rest of the start.
	listener, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", cfg.Listen, err)
	}
	defer listener.Close()
	g, err := newGuest(cfg, log)
	if err != nil {
		return err
	}
	ready := make(chan struct{})
	server, err := g.server(ready)
	if err != nil {
		return err
	}
	go func() { log.errorf(server.Serve(listener)) }()
	if desk, err := net.Listen("unix", browse.Socket); err != nil {
		log.errorf(fmt.Errorf("listen for web pages to open: %w", err))
	} else {
		defer desk.Close()
		go g.desk.Serve(desk)
	}

	// What could not be set up is in the log; the rest still serves, and the
	// user can look at what is wrong from inside.
	log.errorf(setup.Running().Apply(cfg))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	g.docker(ctx)
	close(ready)
	fmt.Fprintln(stdout, guestapi.ReadyLine)

	<-terminate
	listener.Close()
	g.shutdown(cancel)
	server.Close()
	return nil
}

// becomeRoot makes an engine's first process, which may have to be the user
// that the host's one mapped uid stands for, root inside. Without the
// capability the guest goes on as whom it is.
func becomeRoot() {
	if os.Geteuid() == 0 {
		return
	}
	if unix.Setresuid(0, 0, 0) == nil {
		_ = unix.Setresgid(0, 0, 0)
		_ = unix.Setgroups([]int{0})
	}
}

func newGuest(cfg *guestapi.Config, log *logger) (*guest, error) {
	g := &guest{cfg: cfg, log: log, accounts: account.Open("/")}
	var err error
	if g.self, err = os.Executable(); err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	if g.reaper, err = reap.New(); err != nil {
		return nil, fmt.Errorf("become the reaper: %w", err)
	}
	g.sessions = session.NewStore(session.Config{
		Reaper: g.reaper, Accounts: g.accounts, User: cfg.User, Env: cfg.Env, Dir: cfg.Dir, Ring: cfg.Ring,
		Grace: time.Duration(cfg.GraceMS) * time.Millisecond,
	})
	return g, nil
}

func (g *guest) server(ready <-chan struct{}) (*sshd.Server, error) {
	host, err := ssh.ParsePrivateKey([]byte(g.cfg.HostKey))
	if err != nil {
		return nil, fmt.Errorf("parse the host key: %w", err)
	}
	authorized, _, _, _, err := ssh.ParseAuthorizedKey([]byte(g.cfg.AuthorizedKey))
	if err != nil {
		return nil, fmt.Errorf("parse the authorized key: %w", err)
	}
	peer, err := netip.ParseAddr(g.cfg.Peer)
	if err != nil {
		return nil, fmt.Errorf("parse the peer's address: %w", err)
	}
	// Sockets of sessions before a restart have nobody behind them.
	agents := filepath.Join(g.cfg.StateDir, "agents")
	g.log.errorf(os.RemoveAll(agents))
	return sshd.New(sshd.Config{
		HostKey: host, Authorized: authorized, Peer: peer, Sessions: g.sessions, Ready: ready,
		SFTP: []string{g.self, "sftp"}, Agents: agents, Browse: &g.desk, Proc: "/proc", Logf: g.log.printf,
	}), nil
}

// docker listens for Docker's clients where there is a daemon to start.
func (g *guest) docker(ctx context.Context) {
	if !g.cfg.Docker.Enabled {
		return
	}
	gid := -1
	if id, err := g.accounts.Group("docker"); err == nil {
		gid = int(id)
	}
	a, err := docker.Listen(docker.Config{
		Docker: g.cfg.Docker, Reaper: g.reaper, Path: session.DefaultPath, Env: g.cfg.Env,
		Self: g.self, Trust: len(g.cfg.TrustCA) > 0, GID: gid, Root: "/", Logf: g.log.printf,
	})
	g.log.errorf(err)
	if a != nil {
		go a.Run(ctx)
	}
}

// shutdown ends everything in the sandbox. stop ends what this process does
// besides sessions.
func (g *guest) shutdown(stop func()) {
	grace := time.Duration(g.cfg.GraceMS) * time.Millisecond
	deadline := time.Now().Add(grace)
	init := os.Getpid() == 1
	if init {
		// All that is left of the sandbox is told at once: daemons need their
		// grace beside the sessions', not after.
		_ = unix.Kill(-1, unix.SIGTERM)
	}
	g.sessions.Shutdown(context.Background(), grace)
	stop()
	if init {
		g.reaper.WaitAll(time.Until(deadline))
		_ = unix.Kill(-1, unix.SIGKILL)
		g.reaper.WaitAll(time.Second)
	}
	unix.Sync()
}

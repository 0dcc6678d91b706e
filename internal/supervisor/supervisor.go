// Package supervisor is the one host process of a running sandbox: it owns the
// machine, the end of the guest's wire, the way out (egress), the control
// socket, the saves and the log, and undoes all of it when it ends. It is
// where the parts meet; it decides nothing that one of them could.
//
// It holds the bundle's lock for its whole life. What it makes outside of its
// own memory it records in the bundle first, so that whoever comes after a
// killed supervisor can finish the clean-up.
package supervisor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"berth.dev/internal/audit"
	"berth.dev/internal/bundle"
	"berth.dev/internal/config"
	"berth.dev/internal/control"
	"berth.dev/internal/engine"
	"berth.dev/internal/guestapi/client"
	"berth.dev/internal/image"
	"berth.dev/internal/policyfile"
	"berth.dev/internal/sandbox"
	"berth.dev/internal/unwind"
	"berth.dev/internal/version"
)

// Descriptors of the start handshake: the supervisor reads a control.Start
// from the first and writes a control.Started to the second.
const (
	StartFD   = 3
	StartedFD = 4
)

// Config is what a supervisor is told besides what the bundle says.
type Config struct {
	Bundle  *bundle.Bundle
	Images  *image.Store
	Engines *engine.Registry
	// GuestDir is where the guest's own binary is laid out (hostdir.Dirs.Guest).
	GuestDir string
	// RunDir is a folder on a short path for this sandbox's sockets; it is made.
	RunDir string
	// CacheDir is where engines keep what all their machines share.
	CacheDir string
	// KeepBuild keeps the program that can read what this one saves.
	KeepBuild func() error
	// Socket is the control socket's path.
	Socket string
	// Policy says where the rules of the network are, Settings are the user's,
	// and AuditDir is the folder of this sandbox's audit log.
	Policy   policyfile.Sources
	Settings config.Config
	AuditDir string
	// SecretsDir is the folder of the user's secrets, and ServicesFile what the
	// user says about services that Berth does not know. Neither has to exist.
	SecretsDir, ServicesFile string
	// Home is the user's, where agents of this machine keep their logins.
	Home   string
	Logger *slog.Logger
}

// Supervisor runs one sandbox.
type Supervisor struct {
	cfg    Config
	held   *bundle.Held
	log    *slog.Logger
	engine engine.Engine

	image   image.Image
	machine engine.Machine
	net     network
	creds   credentials
	agent   *agentQuestions
	keys    bundle.Keys
	ln      *net.UnixListener
	// guest is set, and its subscription stands, once connected is closed.
	guest     *client.Client
	connected chan struct{}
	undo      unwind.Stack
	started   time.Time

	saver    *saver
	sessions *sessions
	memory   memoryCap
	stop     chan ending
	ended    chan struct{} // closed when the machine has ended and all is undone
	final    error         // why it ended, once ended is closed; nil when asked to
}

// Main is the supervise command: it takes the start message from its pipe,
// brings the sandbox up, reports, and runs until it ends. open turns the
// message into a Config. The result is the process's exit status.
func Main(open func(control.Start) (Config, error)) int {
	in, out := os.NewFile(StartFD, "start"), os.NewFile(StartedFD, "started")
	var start control.Start
	err := control.ReadLine(bufio.NewReader(in), &start)
	in.Close()
	if err != nil {
		fmt.Fprintln(os.Stderr, "berth: supervise is started by berth itself:", err)
		return 125
	}
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)
	s, err := begin(ctx, start, open)
	report := control.Started{Version: control.Version, Error: control.WrapError(err)}
	if err == nil {
		report.Socket = s.cfg.Socket
	}
	if werr := control.WriteLine(out, report); werr != nil && err == nil {
		s.log.Warn("nobody waited for the start", "error", werr)
	}
	out.Close()
	if err != nil {
		slog.Error("start", "error", err)
		return 125
	}
	if err := s.Run(ctx); err != nil {
		s.log.Error("ended", "error", err)
		return 125
	}
	return 0
}

func begin(ctx context.Context, start control.Start, open func(control.Start) (Config, error)) (*Supervisor, error) {
	if start.Version != control.Version {
		return nil, sandbox.Errorf(sandbox.ErrPrecondition, "berth was replaced while it ran").WithHint("try again")
	}
	cfg, err := open(start)
	if err != nil {
		return nil, err
	}
	return Start(ctx, cfg)
}

// Start brings the sandbox up: when it returns, the guest is booting and the
// control socket is open; clients that want the guest wait for it there, which
// Run's own connection to it does at the same time. On an error everything is
// undone.
func Start(ctx context.Context, cfg Config) (*Supervisor, error) {
	held, err := cfg.Bundle.Lock()
	if err != nil {
		return nil, err
	}
	s := &Supervisor{
		cfg: cfg, held: held, log: cfg.Logger, started: time.Now(),
		stop: make(chan ending), ended: make(chan struct{}), connected: make(chan struct{}),
	}
	if err := s.bringUp(ctx); err != nil {
		if uerr := errors.Join(s.undo.Undo(), s.letGo(err)); uerr != nil {
			s.log.Error("clean up after a start that went wrong", "error", uerr)
		}
		return nil, fmt.Errorf("start sandbox %s: %w", cfg.Bundle.Name(), err)
	}
	return s, nil
}

// bringUp goes through the steps of a start and logs what each took.
func (s *Supervisor) bringUp(ctx context.Context) error {
	var took []any
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"claim", s.claim}, {"boot", s.boot}, {"listen", s.listen},
	} {
		begun := time.Now()
		if err := step.do(ctx); err != nil {
			return err
		}
		took = append(took, step.name, time.Since(begun).Round(100*time.Microsecond))
	}
	s.log.Info("started", took...)
	s.net.audit.Record(audit.Event{Kind: audit.Lifecycle, Detail: "started, preset " + s.net.effective.Preset})
	for _, w := range s.net.effective.Warnings {
		s.log.Warn("policy", "warning", w)
	}
	return s.held.Update(func(st *bundle.State) { st.Status = sandbox.Running })
}

// claim writes this process into the bundle, after undoing what a killed
// predecessor left.
func (s *Supervisor) claim(context.Context) error {
	if err := Reap(s.held); err != nil {
		return err
	}
	self, err := bundle.Self()
	if err != nil {
		return err
	}
	err = s.held.Update(func(st *bundle.State) {
		st.Status, st.Supervisor, st.Socket = sandbox.Creating, self, s.cfg.Socket
		st.Berth, st.Started, st.Stopped, st.Failure = version.Version, s.started.UTC(), time.Time{}, ""
	})
	if err != nil {
		return err
	}
	for _, r := range []bundle.Resource{{Kind: kindSocket, Name: s.cfg.Socket}, {Kind: kindRunDir, Name: s.cfg.RunDir}} {
		if err := s.own(r); err != nil {
			return err
		}
	}
	return os.MkdirAll(s.cfg.RunDir, 0o700)
}

// own records a resource that is about to be made, and its undoing.
func (s *Supervisor) own(r bundle.Resource) error {
	if err := s.held.Record(r); err != nil {
		return err
	}
	s.undo.Push(func() error {
		if err := release(r); err != nil {
			return err
		}
		return s.held.Forget(r.Kind, r.Name)
	})
	return nil
}

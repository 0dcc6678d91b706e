package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"berth.dev/internal/audit"
	"berth.dev/internal/bundle"
	"berth.dev/internal/config"
	"berth.dev/internal/control"
	"berth.dev/internal/guestapi/client"
	"berth.dev/internal/manager"
	"berth.dev/internal/sandbox"
	"berth.dev/internal/sshagent"
	"berth.dev/internal/terminal"
)

// Times and bounds of the forwarding.
const (
	agentDialTime   = 10 * time.Second
	agentRecordTime = 10 * time.Second
	// Names that the guest looked up so lately, and so many, are tried on hashed
	// entries of known_hosts.
	lookedFor  = time.Hour
	lookedLast = 256
)

// sshAgentFlag is --ssh-agent[=HOST,...]. It implements pflag.Value.
type sshAgentFlag struct {
	on       bool
	approved []string // as sshagent.HostName has them
}

// askEach is what --ssh-agent alone means.
const askEach = "ask"

func (f *sshAgentFlag) register(flags *pflag.FlagSet) {
	flags.VarPF(f, "ssh-agent", "", "let it use your SSH agent: after a question for each host, or without one for the `HOST,...` named; "+
		sshagent.Commits+" stands for signing commits").NoOptDefVal = askEach
}

// String implements pflag.Value.
func (f *sshAgentFlag) String() string { return strings.Join(f.approved, ",") }

// Type implements pflag.Value.
func (f *sshAgentFlag) Type() string { return "HOST,..." }

// Set implements pflag.Value.
func (f *sshAgentFlag) Set(value string) error {
	f.on = true
	if value == askEach {
		return nil
	}
	for host := range strings.SplitSeq(value, ",") {
		host = sshagent.HostName(strings.TrimSpace(host))
		if host == "" || strings.ContainsAny(host, "*?!@/ ") && !strings.HasPrefix(host, "SHA256:") {
			return fmt.Errorf("%q is no host: write github.com, HOST:PORT or the SHA256:... of its key", host)
		}
		f.approved = append(f.approved, host)
	}
	return nil
}

// forwarding is the user's SSH agent as one session has it. nil is none.
type forwarding struct {
	a        *app
	b        *bundle.Bundle
	control  *control.Client
	approved []string
	keys     []sshagent.Key
	hosts    sshagent.Hosts
	prompt   bool // questions may be asked on this terminal
	typed    typed
	audit    string // folder of the sandbox's log
}

// forwardAgent makes the agent of this shell usable by the session that starts
// next on g, behind a guard. prompt says that the session takes no input, so that
// this terminal is free for questions.
func (a *app) forwardAgent(ctx context.Context, m *manager.Manager, b *bundle.Bundle, g *client.Client, flag sshAgentFlag, prompt, quiet bool) (*forwarding, error) {
	if !flag.on {
		return nil, nil
	}
	f := &forwarding{a: a, b: b, approved: flag.approved, prompt: prompt && terminal.Is(a.In) && terminal.Is(a.Err)}
	dial, err := a.agentDialer()
	if err != nil {
		return nil, err
	}
	dialing, cancel := context.WithTimeout(ctx, agentDialTime)
	defer cancel()
	if f.keys, err = sshagent.Keys(dialing, dial); err != nil {
		return nil, sandbox.Errorf(sandbox.ErrPrecondition, "the SSH agent of this shell does not answer: %w", err).
			WithHint("`ssh-add -l` shows whether it works; leave --ssh-agent out to go on without it")
	}
	if f.hosts, err = a.knownHosts(); err != nil {
		return nil, err
	}
	if f.control, err = m.Start(ctx, b); err != nil {
		return nil, err
	}
	if err := f.begin(ctx); err != nil {
		return nil, err
	}
	dir, err := a.dirs.Config()
	if err != nil {
		return nil, err
	}
	settings, err := config.Load(dir)
	if err != nil {
		return nil, err
	}
	root, err := a.dirs.Audit()
	if err != nil {
		return nil, err
	}
	f.audit = filepath.Join(root, b.ID())
	guard := sshagent.New(sshagent.Config{
		Dial: dial, Hosts: f.hosts, Approved: f.approved, Looked: f.looked, Ask: f.ask, Wait: settings.Network.Wait(), Record: f.record,
	})
	g.ServeAgent(func(guest io.ReadWriteCloser) { guard.Serve(ctx, guest) })
	if !quiet {
		f.say()
	}
	return f, nil
}

// agentDialer connects to the agent of this shell.
func (a *app) agentDialer() (sshagent.Dialer, error) {
	path := a.getenv("SSH_AUTH_SOCK")
	if path == "" {
		return nil, sandbox.Errorf(sandbox.ErrPrecondition, "--ssh-agent: this shell has no SSH agent (SSH_AUTH_SOCK is not set)").
			WithHint("start one with: eval $(ssh-agent) && ssh-add")
	}
	return func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{Timeout: agentDialTime}).DialContext(ctx, "unix", path)
	}, nil
}

// knownHosts are the files that ssh looks at when nothing else is configured.
func (a *app) knownHosts() (sshagent.Hosts, error) {
	own := filepath.Join(a.home(), ".ssh")
	h, err := sshagent.LoadHosts(filepath.Join(own, "known_hosts"), filepath.Join(own, "known_hosts2"),
		"/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")
	if err != nil {
		return h, sandbox.Errorf(sandbox.ErrInvalid, "%w", err)
	}
	return h, nil
}

// begin records that the agent is forwarded, and so finds out whether the
// supervisor can.
func (f *forwarding) begin(ctx context.Context) error {
	reason := "each host is asked about"
	if len(f.approved) > 0 {
		reason = "approved: " + strings.Join(f.approved, ", ") + "; others are asked about"
	}
	err := f.control.AgentUse(ctx, control.AgentUse{Purpose: control.AgentForward, Allowed: true, Reason: reason})
	if control.IsUnknownOp(err) {
		return sandbox.Errorf(sandbox.ErrPrecondition, "%s runs on an older Berth, which cannot forward an SSH agent", f.b.Name()).
			WithHint("make it anew, or leave --ssh-agent out")
	}
	return err
}

// say tells the user what to know before the session has the terminal.
func (f *forwarding) say() {
	a := f.a
	if len(f.keys) == 0 {
		a.note("your SSH agent holds no keys; ssh-add adds some")
	}
	for _, name := range f.approved {
		if name != sshagent.Commits && !strings.HasPrefix(name, "SHA256:") && len(f.hosts.Lines(name)) == 0 {
			a.note("%s is not in your known_hosts, so it cannot be told from others and will be asked about; connecting to it once with ssh changes that", name)
		}
	}
	switch {
	case f.prompt, f.askpass() != "":
		a.note("it can use your SSH agent; you are asked before each new host")
	default:
		a.note("it can use your SSH agent; questions about new hosts are in: berth policy pending --watch %s", f.b.Name())
	}
}

// record hands a use to the supervisor, which writes it down.
func (f *forwarding) record(u sshagent.Use) error {
	ctx, cancel := context.WithTimeout(context.Background(), agentRecordTime)
	defer cancel()
	return f.control.AgentUse(ctx, wireUse(u))
}

func wireUse(u sshagent.Use) control.AgentUse {
	return control.AgentUse{
		Purpose: u.Purpose, Key: u.Fingerprint, Comment: u.Comment, Host: u.Destination.Name, Known: u.Destination.Known, User: u.User,
		Allowed: u.Allowed, Reason: u.Reason, Error: u.Error,
	}
}

// looked are the names that the guest asked for lately.
func (f *forwarding) looked() []string {
	var names []string
	filter := audit.Filter{Kinds: []audit.Kind{audit.DNS}, Since: time.Now().Add(-lookedFor), Last: lookedLast}
	_ = audit.Read(f.audit, filter, func(e audit.Event) error { // without a log there are no names
		if name := sshagent.HostName(e.Name); name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
		return nil
	})
	return names
}

// describe says what a use is for, on one line, safe to print. What the guest
// chose is quoted, and short, so that it cannot speak for Berth.
func describe(u control.AgentUse) string {
	key := "your SSH key " + cmp.Or(u.Comment, u.Key)
	host := u.Host
	switch {
	case u.Purpose == sshagent.SignCommit:
		return logText("sign commits with " + key)
	case strings.HasPrefix(host, "SHA256:") && u.Known:
		host = "a host of your known_hosts whose name is hashed, with the key " + host
	case strings.HasPrefix(host, "SHA256:"):
		host = "an unknown host with the key " + host
	}
	return logText(fmt.Sprintf("sign in to %s as %s with %s", host, quoted(u.User), key))
}

// maxQuoted is how much of a text of the guest's is shown in a question, in
// characters.
const maxQuoted = 40

func quoted(s string) string {
	if short := cutRunes(s, maxQuoted); short != s {
		s = short + "…"
	}
	return strconv.Quote(s)
}

// prepare adds what a session with the agent has besides, and writes the
// files in the guest that belong to it.
func (f *forwarding) prepare(ctx context.Context, g *client.Client, env map[string]string, quiet bool) error {
	if f == nil {
		return nil
	}
	files := []guestFile{{sshConfigFile, []byte(sshConfig)}, {knownHostsFile, f.guestHosts()}}
	if signing := f.signing(ctx, quiet); signing != nil {
		if _, said := env[gitSystemVar]; !said {
			files = append(files, guestFile{signingFile, signing})
			env[gitSystemVar] = signingFile
		}
	}
	if err := writeGuestFiles(ctx, g, files); err != nil {
		return fmt.Errorf("prepare SSH in the sandbox: %w", err)
	}
	return nil
}

// detached says that the forwarding ended, where the session did not.
func (f *forwarding) detached(quiet bool) {
	if f != nil && !quiet {
		f.a.note("it can no longer use your SSH agent")
	}
}

// noDetach refuses --ssh-agent with -d.
func (f *sshAgentFlag) noDetach(detach bool) error {
	if f.on && detach {
		return sandbox.Errorf(sandbox.ErrInvalid, "--ssh-agent ends with this command, and -d ends it at once").
			WithHint("leave one of them out")
	}
	return nil
}

// isExecutable reports whether a program is there.
func isExecutable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

package cli

import (
	"context"
	"fmt"
	"maps"
	"path"
	"strings"

	"github.com/spf13/cobra"

	"berth.dev/internal/agent"
	"berth.dev/internal/bundle"
	"berth.dev/internal/control"
	"berth.dev/internal/guestapi"
	"berth.dev/internal/guestapi/client"
	"berth.dev/internal/manager"
	"berth.dev/internal/sandbox"
	"berth.dev/internal/terminal"
)

type execOptions struct {
	Interactive bool
	TTY         bool
	Detach      bool
	Env         []string
	EnvFiles    []string
	User        string
	Dir         string
	Quiet       bool
	SSHAgent    sshAgentFlag
	Sandbox     string
	Args        []string
}

func newExecCommand(a *app) *cobra.Command {
	o := &execOptions{}
	cmd := &cobra.Command{
		Use:   "exec [flags] SANDBOX CMD [ARG...]",
		Short: "Run a command in a sandbox",
		Long: `Run a command in a sandbox, which is started when it does not run. Without -i the
command reads nothing; with -d it is left running and its session's ID is
printed, for berth attach --session.

With --ssh-agent the command signs in, and signs commits, with the keys of your
SSH agent; see berth run --help.

` + exitCodesText,
		Example: `  berth exec claude-app ls -l
  berth exec -it claude-app bash
  berth exec --ssh-agent claude-app git push
  berth exec -u root claude-app apt-get install -y vim
  tar c . | berth exec -i claude-app tar x -C /tmp`,
		Args:              wants(2, -1),
		ValidArgsFunction: a.completeSandbox(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Sandbox, o.Args = args[0], args[1:]
			if o.Args[0] == "--" && len(o.Args) > 1 {
				o.Args = o.Args[1:]
			}
			return a.runExec(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.Interactive, "interactive", "i", false, "pass standard input on")
	f.BoolVarP(&o.TTY, "tty", "t", false, "give the command a terminal")
	f.BoolVarP(&o.Detach, "detached", "d", false, "leave it running and print its session's ID")
	f.StringArrayVarP(&o.Env, "env", "e", nil, "set a variable: `K=V`, or K for this shell's value")
	f.StringArrayVar(&o.EnvFiles, "env-file", nil, "read variables from a `FILE`, one K=V a line")
	f.StringVarP(&o.User, "user", "u", "", "run as this `USER` (default agent)")
	f.StringVarP(&o.Dir, "workdir", "w", "", "run in this `FOLDER` of the sandbox (default the workspace)")
	o.SSHAgent.register(f)
	f.BoolVarP(&o.Quiet, "quiet", "q", false, "no notes")
	f.SetInterspersed(false)
	return cmd
}

func (a *app) runExec(ctx context.Context, o *execOptions) error {
	if o.TTY && !o.Detach && (!terminal.Is(a.Out) || o.Interactive && !terminal.Is(a.In)) {
		return sandbox.Errorf(sandbox.ErrPrecondition, "-t needs a terminal, and there is none here").
			WithHint("leave -t out: bytes then pass unchanged")
	}
	if err := o.SSHAgent.noDetach(o.Detach); err != nil {
		return err
	}
	m, err := a.manager()
	if err != nil {
		return err
	}
	b, err := m.Find(o.Sandbox)
	if err != nil {
		return err
	}
	spec, secrets, err := a.execSpec(o, b)
	if err != nil {
		return err
	}
	g, err := a.guest(ctx, m, b, o.Quiet)
	if err != nil {
		return err
	}
	defer g.Close()
	creds, err := a.bind(ctx, m, b, offer{named: secrets}, true)
	if err != nil {
		return err
	}
	addMissingEnv(spec.Env, creds.Env, b.Spec().Env)
	if err := a.settleOnce(ctx, m, b, g, creds); err != nil {
		return err
	}
	if o.Detach {
		info, err := g.StartDetached(ctx, spec)
		if err == nil {
			fmt.Fprintln(a.Out, info.ID)
		}
		return err
	}
	defer a.browse(ctx, m, b, g)()
	fwd, err := a.forwardAgent(ctx, m, b, g, o.SSHAgent, !o.Interactive, o.Quiet)
	if err != nil {
		return err
	}
	if err := fwd.prepare(ctx, g, spec.Env, o.Quiet); err != nil {
		return err
	}
	res, err := a.join(ctx, streams{tty: o.TTY, stdin: o.Interactive}, starter(g, spec, fwd != nil))
	err = a.finish(b.Name(), res, err, o.Quiet)
	if res.Detached {
		fwd.detached(o.Quiet)
	}
	return err
}

// settleOnce writes the files of secrets, where the guest has not been given the
// same before: that takes longer than the rest of an exec. What somebody inside
// has taken out of them since stays out until the next run.
func (a *app) settleOnce(ctx context.Context, m *manager.Manager, b *bundle.Bundle, g *client.Client, creds control.Credentials) error {
	if creds.Settled || len(creds.Files) == 0 {
		return nil
	}
	if err := settle(ctx, g, agent.Agent{}, agent.Facts{}, creds.Files); err != nil {
		return fmt.Errorf("prepare the files of secrets: %w", err)
	}
	if err := m.Settled(ctx, b, creds.Files); err != nil && !control.IsUnknownOp(err) {
		return err
	}
	return nil
}

// execSpec is the session for the options; it looks at nothing in the guest.
func (a *app) execSpec(o *execOptions, b *bundle.Bundle) (guestapi.SessionSpec, []string, error) {
	s := guestapi.SessionSpec{
		Kind: guestapi.Exec, Args: o.Args, User: o.User, TTY: o.TTY,
		Stdin: o.Interactive && !o.TTY && !o.Detach, Hangup: !o.Detach,
	}
	entries, err := a.envEntries(o.EnvFiles, o.Env)
	if err != nil {
		return s, nil, err
	}
	said, missing, err := parseEnv(entries, a.shell)
	if err != nil {
		return s, nil, err
	}
	if len(missing) > 0 && !o.Quiet {
		a.note("not set in this shell, so not passed on: %s", strings.Join(missing, ", "))
	}
	spec := b.Spec()
	env := sessionEnv(a.shell, o.TTY)
	var secrets []string
	if spec.Credentials != sandbox.CredentialsNone {
		if secrets, err = a.takeSecrets(entries, said); err != nil {
			return s, nil, err
		}
	}
	if !o.Quiet {
		a.warnOfKeys(said)
	}
	// So that the agent's own command, run by hand, finds its settings too.
	if ag, err := agent.Find(spec.Agent); err == nil {
		maps.Copy(env, ag.Env)
	}
	for name := range spec.Env {
		delete(env, name)
	}
	maps.Copy(env, said)
	s.Env, s.Dir = env, spec.Workspace
	if o.Dir != "" {
		s.Dir = o.Dir
		if !path.IsAbs(s.Dir) {
			s.Dir = path.Join(spec.Workspace, s.Dir)
		}
		s.Dir = path.Clean(s.Dir)
	}
	return s, secrets, nil
}

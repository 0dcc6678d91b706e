package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"berth.dev/internal/agent"
	"berth.dev/internal/bundle"
	"berth.dev/internal/control"
	"berth.dev/internal/guestapi"
	"berth.dev/internal/manager"
	"berth.dev/internal/sandbox"
)

type runOptions struct {
	createOptions
	Detach   bool
	SSHAgent sshAgentFlag
	runArgs
}

func newRunCommand(a *app) *cobra.Command {
	o := &runOptions{}
	cmd := &cobra.Command{
		Use:   "run [flags] AGENT|SANDBOX [PATH] [EXTRA[:ro]...] [-- AGENT_ARGS...]",
		Short: "Run an agent in a sandbox for this folder",
		Long: `Run an agent in a sandbox that sees PATH (the current folder), at its own path,
and the EXTRA folders. The first time makes the sandbox, and builds the agent's
template if there is none yet; after that the same agent and folder come back to
the same sandbox, and to the agent itself if it was left running.

Agents: ` + strings.Join(agent.Names(), ", ") + `.

Flags of Berth's come before AGENT. After it, a word that is a folder, or looks
like a path, is a workspace; the first that is neither begins the agent's own
arguments, and everything after -- is the agent's.

In a terminal, ctrl-p ctrl-q leaves the agent running; berth attach comes back.

With --ssh-agent git and ssh in the sandbox sign in with the keys of your SSH
agent, and sign commits, until this command ends. No key enters the sandbox, and
you are asked before each host: at a desktop by ssh-askpass, else by
berth policy pending in another terminal.

` + exitCodesText,
		Example: `  berth run claude
  berth run claude --continue
  berth run claude "Add error handling"
  berth run --ssh-agent=github.com,commits claude
  berth run -e NODE_ENV=test codex ~/app ~/docs:ro -- exec "run the tests"
  berth run --rm shell . -- -c 'make test'`,
		ValidArgsFunction: a.completeRun,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if cmd.ArgsLenAtDash() == 0 {
				args = nil // the -- came before any agent
			}
			if o.runArgs, err = parseRunArgs(args, a.isWorkspace); err != nil {
				return err
			}
			return a.runRun(cmd.Context(), o)
		},
	}
	o.register(cmd)
	cmd.Flags().BoolVarP(&o.Detach, "detached", "d", false, "leave the agent running and print the sandbox's name")
	o.SSHAgent.register(cmd.Flags())
	cmd.Flags().BoolVar(&o.Remove, "rm", false, "remove the sandbox when its agent has ended")
	return cmd
}

func (a *app) runRun(ctx context.Context, o *runOptions) error {
	if err := o.SSHAgent.noDetach(o.Detach); err != nil {
		return err
	}
	m, err := a.manager()
	if err != nil {
		return err
	}
	known, named, err := a.target(m, o.Target, o.Quiet)
	if err != nil {
		return err
	}
	if named != nil {
		if o.Name != "" && o.Name != named.Name() {
			return sandbox.Errorf(sandbox.ErrInvalid, "--name %s, but the sandbox %s was named already", o.Name, named.Name())
		}
		o.Name = named.Name()
	}
	w, err := a.wish(&o.createOptions, known, o.Folders)
	if err != nil {
		return err
	}
	b, err := a.obtain(ctx, m, w, &o.createOptions)
	if err != nil {
		return err
	}
	return a.runAgent(ctx, m, b, w, o)
}

// runAgent runs the agent of a sandbox that exists.
func (a *app) runAgent(ctx context.Context, m *manager.Manager, b *bundle.Bundle, w wish, o *runOptions) (err error) {
	ag, err := agent.Find(b.Spec().Agent)
	if err != nil {
		return err
	}
	goes, ended := b.Spec().Remove && !o.Detach, false
	defer func() {
		var refused *guestapi.Error
		switch {
		case goes && errors.As(err, &refused):
			rerr := m.Remove(context.WithoutCancel(ctx), b.Name(), true)
			if rerr != nil && !errors.Is(rerr, sandbox.ErrNotFound) {
				err = errors.Join(err, rerr)
			}
		case ended:
			// The agent's end makes the supervisor remove it. The name is free for
			// the next command, which must not come back to what is going.
			m.AwaitGone(ctx, b)
		}
	}()
	g, err := a.guest(ctx, m, b, o.Quiet)
	if err != nil {
		return err
	}
	defer g.Close()
	l := launch{
		b: b, agent: ag, args: o.Args, said: w.session, detach: o.Detach, quiet: o.Quiet,
		bind: func() (control.Credentials, error) {
			if c := b.Spec().Credentials; c == "" || c == sandbox.CredentialsSandbox {
				if err := a.offerLogins(ctx, ag.Name, b.Name(), o.Quiet); err != nil {
					return control.Credentials{}, err
				}
			}
			return a.bind(ctx, m, b, w.offer(ag), o.Quiet)
		},
		browse:   func() (stop func()) { return a.browse(ctx, m, b, g) },
		sshAgent: o.SSHAgent.on,
		forward:  func() (*forwarding, error) { return a.forwardAgent(ctx, m, b, g, o.SSHAgent, false, o.Quiet) },
	}
	end, err := a.launch(ctx, g, l)
	goes = goes && end == sessionEnded
	ended = goes
	if err == nil && o.Detach {
		fmt.Fprintln(a.Out, b.Name())
	}
	return err
}

// target finds out what the first word means: an agent, else a sandbox.
func (a *app) target(m *manager.Manager, word string, quiet bool) (*agent.Agent, *bundle.Bundle, error) {
	ag, aerr := agent.Find(word)
	b, err := m.Find(word)
	switch {
	case aerr == nil && err == nil && b.Name() == word && !quiet:
		a.note("%s is the agent here; the sandbox of that name is: berth run %s", word, b.ID())
		fallthrough
	case aerr == nil:
		return &ag, nil, nil
	case err == nil:
		return nil, b, nil
	case !errors.Is(err, sandbox.ErrNotFound):
		return nil, nil, err
	}
	hint := "the agents are " + strings.Join(agent.Names(), ", ")
	if near := sandbox.HintOf(err); strings.HasPrefix(near, "did you mean") {
		hint = near + " Otherwise " + hint
	}
	return nil, nil, sandbox.Errorf(sandbox.ErrNotFound, "there is no agent and no sandbox %q", word).WithHint("%s", hint)
}

// obtain finds the sandbox that is meant, or makes it.
func (a *app) obtain(ctx context.Context, m *manager.Manager, w wish, o *createOptions) (*bundle.Bundle, error) {
	b, made, err := m.Obtain(ctx, w.spec, func(spec sandbox.Spec) (sandbox.Spec, error) {
		return a.prepare(ctx, m, w, spec, o.Quiet)
	})
	switch {
	case err != nil:
		return nil, err
	case !made:
		return b, o.compareIdle(b)
	case !o.Quiet && !w.spec.Remove:
		a.note("made the sandbox %s", b.Name())
	}
	return b, nil
}

// prepare completes a wish that a sandbox is to be made of.
func (a *app) prepare(ctx context.Context, m *manager.Manager, w wish, spec sandbox.Spec, quiet bool) (sandbox.Spec, error) {
	if err := a.confirm(w.exposed); err != nil {
		return spec, err
	}
	eng, err := m.Engines().Lookup(spec.Engine)
	if err != nil {
		return spec, err
	}
	spec.Engine = eng.Name()
	return a.withImage(ctx, m, spec, quiet)
}

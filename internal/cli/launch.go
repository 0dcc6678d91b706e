package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"berth.dev/internal/agent"
	"berth.dev/internal/bundle"
	"berth.dev/internal/control"
	"berth.dev/internal/guestapi"
	"berth.dev/internal/guestapi/client"
	"berth.dev/internal/manager"
	"berth.dev/internal/sandbox"
)

// guest connects to a sandbox, which is started when it does not run.
func (a *app) guest(ctx context.Context, m *manager.Manager, b *bundle.Bundle, quiet bool) (*client.Client, error) {
	if !quiet {
		if info := b.Info(); !info.NeverRan && info.Status != sandbox.Running {
			a.note("starting %s", b.Name())
		}
	}
	return m.Guest(ctx, b)
}

// launch is one run of an agent in its sandbox.
type launch struct {
	b      *bundle.Bundle
	agent  agent.Agent
	args   []string
	said   map[string]string                   // variables for this session
	bind   func() (control.Credentials, error) // binds what the shell has
	browse func() (stop func())                // opens the pages of sign-ins
	detach bool                                // -d
	quiet  bool
	// sshAgent is --ssh-agent, and forward what it asks for.
	sshAgent bool
	forward  func() (*forwarding, error)
}

// sessionEnd says whether an agent still runs when its command is over.
type sessionEnd bool

const (
	sessionGoesOn sessionEnd = false
	sessionEnded  sessionEnd = true
)

// launch runs the agent, or, when it was left running and nothing new is asked
// of it, goes back to it.
func (a *app) launch(ctx context.Context, g *client.Client, l launch) (sessionEnd, error) {
	interactive := a.interactive()
	if interactive && !l.detach && len(l.args) == 0 {
		all, err := g.Sessions(ctx)
		if err != nil {
			return sessionGoesOn, err
		}
		if s, ok := left(all); ok {
			if l.sshAgent {
				return sessionGoesOn, sandbox.Errorf(sandbox.ErrPrecondition, "%s is still running here, and an SSH agent can only be given to what starts", l.agent.Title).
					WithHint("go back to it without --ssh-agent and end it, or run a command beside it: berth exec --ssh-agent %s git push", l.b.Name())
			}
			if !l.quiet {
				a.note("%s is still running here; going back to it", l.agent.Title)
			}
			defer l.browse()()
			res, err := a.join(ctx, streams{tty: true, stdin: true}, attacher(g, s.ID, true))
			return endOf(res, err), a.finish(l.b.Name(), res, err, l.quiet)
		}
	}
	spec := l.b.Spec()
	tty := interactive || l.detach // a detached one is for berth attach
	creds, err := l.bind()
	if err != nil {
		return sessionEnded, err
	}
	var fwd *forwarding
	if l.sshAgent {
		if fwd, err = l.forward(); err != nil {
			return sessionEnded, err
		}
	}
	env := a.agentEnv(l.agent, tty, creds.Env, spec.Env, l.said)
	if err := fwd.prepare(ctx, g, env, l.quiet); err != nil {
		return sessionEnded, err
	}
	facts := agent.Facts{Workspace: spec.Workspace, Env: merged(spec.Env, env), Login: hasLogin(creds)}
	if err := settle(ctx, g, l.agent, facts, creds.Files); err != nil {
		return sessionEnded, fmt.Errorf("prepare the settings of %s: %w", l.agent.Title, err)
	}
	s := guestapi.SessionSpec{
		Kind: guestapi.Agent, Args: l.agent.Argv(l.args), Env: env, Dir: spec.Workspace, TTY: tty, Stdin: !tty,
	}
	if l.detach {
		_, err := g.StartDetached(ctx, s)
		return sessionGoesOn, notInTemplate(err, l.agent, spec)
	}
	defer l.browse()()
	res, err := a.join(ctx, streams{tty: tty, stdin: true}, starter(g, s, fwd != nil))
	ferr := a.finish(l.b.Name(), res, notInTemplate(err, l.agent, spec), l.quiet)
	if res.Detached {
		fwd.detached(l.quiet)
	}
	return endOf(res, err), ferr
}

// endOf: an error of the guest's means that nothing was started; any other, the
// end of the command included, leaves open what became of the agent.
func endOf(res guestapi.Result, err error) sessionEnd {
	var refused *guestapi.Error
	return sessionEnd(err == nil && !res.Detached || errors.As(err, &refused))
}

// left is the agent's session that was detached from, the latest of several.
func left(all []guestapi.SessionInfo) (guestapi.SessionInfo, bool) {
	for _, s := range slices.Backward(all) {
		if s.Kind == guestapi.Agent && s.TTY && s.Result == nil && s.Clients == 0 {
			return s, true
		}
	}
	return guestapi.SessionInfo{}, false
}

func merged(maps ...map[string]string) map[string]string {
	out := map[string]string{}
	for _, m := range maps {
		for k, v := range m {
			out[k] = v
		}
	}
	return out
}

// notInTemplate says what a missing agent means.
func notInTemplate(err error, ag agent.Agent, spec sandbox.Spec) error {
	var g *guestapi.Error
	if !errors.As(err, &g) || g.Code != guestapi.CommandNotFound {
		return err
	}
	return sandbox.Errorf(sandbox.ErrNotFound, "%s is not in the image %s: %w", ag.Title, spec.Template, err).
		WithHint("use an image that has the command %s, or leave --template out", ag.Command[0])
}

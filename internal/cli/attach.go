package cli

import (
	"context"

	"github.com/spf13/cobra"

	"berth.dev/internal/agent"
	"berth.dev/internal/control"
	"berth.dev/internal/guestapi"
	"berth.dev/internal/sandbox"
)

type attachOptions struct {
	Session string
	Quiet   bool
}

func newAttachCommand(a *app) *cobra.Command {
	o := &attachOptions{}
	cmd := &cobra.Command{
		Use:   "attach [flags] SANDBOX",
		Short: "Go back to the agent that runs in a sandbox",
		Long: `Join the agent that runs in a sandbox: its screen is drawn again, and what you
type goes to it. ctrl-p ctrl-q leaves it running. When no agent runs, one is
started, and the sandbox before it if need be.

` + exitCodesText,
		Args:              wants(1, 1),
		ValidArgsFunction: a.completeSandbox(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runAttach(cmd.Context(), o, args[0])
		},
	}
	cmd.Flags().StringVar(&o.Session, "session", "", "join the session with this `ID`, as exec -d prints it")
	cmd.Flags().BoolVarP(&o.Quiet, "quiet", "q", false, "no notes")
	return cmd
}

func (a *app) runAttach(ctx context.Context, o *attachOptions, name string) error {
	m, err := a.manager()
	if err != nil {
		return err
	}
	b, err := m.Find(name)
	if err != nil {
		return err
	}
	g, err := a.guest(ctx, m, b, o.Quiet)
	if err != nil {
		return err
	}
	defer g.Close()
	all, err := g.Sessions(ctx)
	if err != nil {
		return err
	}
	s, found := pick(all, o.Session)
	switch {
	case found:
		tty := s.TTY && a.interactive()
		defer a.browse(ctx, m, b, g)()
		res, err := a.join(ctx, streams{tty: tty, stdin: s.TTY}, attacher(g, s.ID, tty))
		return a.finish(b.Name(), res, err, o.Quiet)
	case o.Session != "":
		return sandbox.Errorf(sandbox.ErrNotFound, "sandbox %s has no session %q", b.Name(), guestapi.Printable(o.Session, 80)).
			WithHint("leave --session out to join its agent")
	}
	ag, err := agent.Find(b.Spec().Agent)
	if err != nil {
		return err
	}
	if !o.Quiet {
		a.note("%s does not run in %s; starting it", ag.Title, b.Name())
	}
	l := launch{b: b, agent: ag, quiet: o.Quiet}
	l.bind = func() (control.Credentials, error) { return a.bind(ctx, m, b, wish{}.offer(ag), o.Quiet) }
	l.browse = func() (stop func()) { return a.browse(ctx, m, b, g) }
	_, err = a.launch(ctx, g, l)
	return err
}

// pick chooses what to join: the session of that ID, else the agent that was
// started last, one with a terminal before one without.
func pick(all []guestapi.SessionInfo, id string) (best guestapi.SessionInfo, found bool) {
	for _, s := range all {
		switch {
		case id != "":
			if s.ID == id {
				return s, true
			}
		case s.Kind == guestapi.Agent && s.Result == nil && (!found || s.TTY || !best.TTY):
			best, found = s, true
		}
	}
	return best, found
}

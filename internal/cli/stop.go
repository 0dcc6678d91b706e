package cli

import (
	"context"

	"github.com/spf13/cobra"

	"berth.dev/internal/bundle"
	"berth.dev/internal/manager"
	"berth.dev/internal/sandbox"
)

type stopOptions struct{ Discard bool }

func newStopCommand(a *app) *cobra.Command {
	o := &stopOptions{}
	cmd := &cobra.Command{
		Use:   "stop [flags] SANDBOX...",
		Short: "Save and stop sandboxes",
		Long: `End what runs in sandboxes, save their state and stop them. A sandbox whose state
cannot be saved goes on running, so that nothing is lost.`,
		Args:              wants(1, -1),
		ValidArgsFunction: a.completeSandbox(-1),
		RunE:              func(cmd *cobra.Command, args []string) error { return a.runStop(cmd.Context(), o, args) },
	}
	cmd.Flags().BoolVar(&o.Discard, "discard", false, "do not save: go back to what was saved last")
	return cmd
}

func (a *app) runStop(ctx context.Context, o *stopOptions, names []string) error {
	m, err := a.manager()
	if err != nil {
		return err
	}
	return a.each(names, func(name string) error {
		b, err := m.Find(name)
		if err != nil {
			return err
		}
		if err := canDiscard(m, b); o.Discard && err != nil {
			return err
		}
		return m.Stop(ctx, b, o.Discard)
	})
}

// canDiscard reports why a sandbox has nothing to go back to.
func canDiscard(m *manager.Manager, b *bundle.Bundle) error {
	eng, err := m.Engines().Lookup(b.Spec().Engine)
	if err != nil || !eng.Features().Persistent {
		return err
	}
	return sandbox.Errorf(sandbox.ErrPrecondition, "sandbox %s cannot discard what it has written: engine %s keeps that as it goes, and has no save to go back to", b.Name(), eng.Name()).
		WithHint("stop it with: berth stop %s", b.Name())
}

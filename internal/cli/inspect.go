package cli

import (
	"context"

	"github.com/spf13/cobra"

	"berth.dev/internal/manager"
)

func newInspectCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "inspect SANDBOX...",
		Short: "Print all that is known of sandboxes, as a JSON array",
		Long: `Print all that is known of sandboxes, as a JSON array: what was asked for, what
runs, which limits are enforced and by what, and the last save. The values of
variables are left out.`,
		Args:              wants(1, -1),
		ValidArgsFunction: a.completeSandbox(-1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runInspect(cmd.Context(), args)
		},
	}
}

func (a *app) runInspect(ctx context.Context, names []string) error {
	m, err := a.manager()
	if err != nil {
		return err
	}
	found := []manager.Inspection{}
	failed := false
	for _, name := range names {
		b, err := m.Find(name)
		if err == nil {
			var in manager.Inspection
			if in, err = m.Inspect(ctx, b); err == nil {
				found = append(found, in)
				continue
			}
		}
		a.printError(err)
		failed = true
	}
	if err := printJSON(a.Out, found); err != nil {
		return err
	}
	if failed {
		return exitStatus(exitBerth)
	}
	return nil
}

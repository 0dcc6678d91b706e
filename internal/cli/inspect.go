package cli

import (
	"context"

	"github.com/spf13/cobra"

	"berth.dev/internal/manager"
)

func newInspectCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "inspect SANDBOX...",
		Short: "Show all that is known of sandboxes, as a JSON array",
		Long: `Show all that is known of sandboxes as a JSON array, in the order of the names.
"limits" says of each cap whether it is enforced, and by what; it is there while
the sandbox runs.`,
		Args:              wants(1, -1),
		ValidArgsFunction: a.completeSandbox(-1),
		RunE:              func(cmd *cobra.Command, args []string) error { return a.runInspect(cmd.Context(), args) },
	}
}

func (a *app) runInspect(ctx context.Context, names []string) error {
	m, err := a.manager()
	if err != nil {
		return err
	}
	all := []manager.Inspection{}
	failed := false
	for _, name := range names {
		b, err := m.Find(name)
		var in manager.Inspection
		if err == nil {
			in, err = m.Inspect(ctx, b)
		}
		if err != nil {
			a.printError(err)
			failed = true
			continue
		}
		all = append(all, in)
	}
	if err := printJSON(a.Out, all); err != nil {
		return err
	}
	if failed {
		return exitStatus(exitBerth)
	}
	return nil
}

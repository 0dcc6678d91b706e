package cli

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"berth.dev/internal/sandbox"
)

func newRmCommand(a *app) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:     "rm [-f] SANDBOX...",
		Aliases: []string{"remove"},
		Short:   "Remove sandboxes and all that is in them",
		Long: `Remove sandboxes and all that was installed and saved in them. The folders of
the host that they saw stay as they are.`,
		Args:              wants(1, -1),
		ValidArgsFunction: a.completeSandbox(-1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runRm(cmd.Context(), args, force)
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "also those that run or are broken; one that is not there is no error")
	return cmd
}

func (a *app) runRm(ctx context.Context, names []string, force bool) error {
	m, err := a.manager()
	if err != nil {
		return err
	}
	return a.each(names, func(name string) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := m.Remove(ctx, name, force)
		if force && errors.Is(err, sandbox.ErrNotFound) {
			return nil
		}
		return err
	})
}

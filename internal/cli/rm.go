package cli

import (
	"context"

	"github.com/spf13/cobra"
)

type rmOptions struct{ Force bool }

func newRmCommand(a *app) *cobra.Command {
	o := &rmOptions{}
	cmd := &cobra.Command{
		Use:     "rm [flags] SANDBOX...",
		Aliases: []string{"remove"},
		Short:   "Remove sandboxes and all that is in them",
		Long: `Remove sandboxes and all that is in them. The workspaces are the host's and stay
as they are.`,
		Args:              wants(1, -1),
		ValidArgsFunction: a.completeSandbox(-1),
		RunE:              func(cmd *cobra.Command, args []string) error { return a.runRm(cmd.Context(), o, args) },
	}
	cmd.Flags().BoolVarP(&o.Force, "force", "f", false, "also running ones")
	return cmd
}

func (a *app) runRm(ctx context.Context, o *rmOptions, names []string) error {
	m, err := a.manager()
	if err != nil {
		return err
	}
	return a.each(names, func(name string) error { return m.Remove(ctx, name, o.Force) })
}

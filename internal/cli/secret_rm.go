package cli

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"berth.dev/internal/secret"
)

func newSecretRmCommand(a *app) *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:     "rm [flags] NAME...",
		Aliases: []string{"remove"},
		Short:   "Remove secrets",
		Long: `Remove secrets: those for all sandboxes, or with --sandbox those of one. To remove
a login, as ` + "`berth secret ls`" + ` shows it, is to sign out all sandboxes that have none
of their own.`,
		Args:              wants(1, -1),
		ValidArgsFunction: a.completeSecrets,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runSecretRm(cmd.Context(), name, args)
		},
	}
	a.sandboxFlag(cmd, &name)
	return cmd
}

func (a *app) runSecretRm(ctx context.Context, sandboxName string, names []string) error {
	sandboxName, s, err := a.secretsOf(sandboxName)
	if err != nil {
		return err
	}
	var gone []string
	failed := a.each(names, func(name string) error {
		var err error
		switch {
		case strings.HasPrefix(name, secret.LoginPrefix) && sandboxName == "":
			err = s.Delete(ctx, name)
		case strings.HasPrefix(name, secret.LoginPrefix):
			err = s.Delete(ctx, secret.LoginOf(strings.TrimPrefix(name, secret.LoginPrefix), sandboxName))
		default:
			if err = secret.CheckName(name); err == nil {
				err = s.Remove(ctx, name, sandboxName)
			}
		}
		if err == nil {
			gone = append(gone, name)
		}
		return err
	})
	if err := a.secretsChanged(ctx, sandboxName, "removed", gone...); err != nil {
		return err
	}
	return failed
}

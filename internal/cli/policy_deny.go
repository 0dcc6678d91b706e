package cli

import (
	"github.com/spf13/cobra"

	"berth.dev/internal/policy"
)

func newPolicyDenyCommand(a *app) *cobra.Command {
	o := &policyRuleOptions{}
	cmd := &cobra.Command{
		Use:   "deny [flags] TARGET...",
		Short: "Deny hosts or addresses",
		Long: `Deny hosts or addresses. Deny beats allow, whoever said either; connections that
are open are cut.`,
		Example: `  berth policy deny '**.ads.example.com'
  berth policy deny api.github.com --method POST,PUT,PATCH,DELETE`,
		Args: wants(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runPolicyRule(cmd.Context(), policy.Deny, args, o)
		},
	}
	o.register(a, cmd)
	return cmd
}

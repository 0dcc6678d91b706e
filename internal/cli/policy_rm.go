package cli

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"berth.dev/internal/policy"
	"berth.dev/internal/policyfile"
	"berth.dev/internal/sandbox"
)

func newPolicyRmCommand(a *app) *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:     "rm [flags] RULE|NUMBER|TARGET...",
		Aliases: []string{"remove"},
		Short:   "Remove rules",
		Long: `Remove rules, by the number or the text that ` + "`berth policy ls`" + ` shows, or all
that are about a target. Either all that are named are removed or none.`,
		Example: `  berth policy rm 2 3
  berth policy rm api.example.com:443
  berth policy rm allow api.example.com:443 GET '/v1/**'`,
		Args: wants(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runPolicyRm(cmd.Context(), name, args)
		},
	}
	a.sandboxFlag(cmd, &name)
	return cmd
}

func (a *app) runPolicyRm(ctx context.Context, name string, args []string) error {
	// A rule as ls shows it, without quotes around it.
	if args[0] == policy.Allow.String() || args[0] == policy.Deny.String() {
		args = []string{strings.Join(args, " ")}
	}
	t, m, err := a.policyTarget(name)
	if err != nil {
		return err
	}
	return a.editPolicy(ctx, t, m, "removed", func(d *policyfile.Draft) (done []string, err error) {
		rules := d.Rules()
		var gone []int
		for _, arg := range args {
			found, err := findRules(rules, arg)
			if err != nil {
				return nil, err
			}
			if len(found) == 0 {
				return nil, sandbox.Errorf(sandbox.ErrNotFound, "there is no rule %q", arg).
					WithHint("see them with: berth policy ls%s", t.flag())
			}
			gone = append(gone, found...)
		}
		slices.Sort(gone)
		gone = slices.Compact(gone)
		// From the end, so that the numbers of the others stay.
		for _, i := range slices.Backward(gone) {
			if err := d.Remove(i); err != nil {
				return nil, err
			}
		}
		for _, i := range gone {
			done = append(done, rules[i].String())
		}
		return done, nil
	})
}

// findRules returns the indexes of the rules that a word means.
func findRules(rules []policy.Rule, word string) ([]int, error) {
	if n, err := strconv.Atoi(word); err == nil {
		if n < 1 || n > len(rules) {
			return nil, nil
		}
		return []int{n - 1}, nil
	}
	var means func(policy.Rule) bool
	if strings.ContainsAny(word, " \t") {
		want, err := policy.ParseText(word)
		if err != nil {
			return nil, sandbox.Errorf(sandbox.ErrInvalid, "%w", err)
		}
		means = want.Same
	} else {
		want, err := policy.ParseRule(policy.Deny, word)
		if err != nil {
			return nil, sandbox.Errorf(sandbox.ErrInvalid, "%w", err)
		}
		means = func(r policy.Rule) bool { return r.Target() == want.Target() }
	}
	var found []int
	for i, r := range rules {
		if means(r) {
			found = append(found, i)
		}
	}
	return found, nil
}

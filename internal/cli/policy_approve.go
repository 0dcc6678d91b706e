package cli

import (
	"bufio"
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"berth.dev/internal/policy"
	"berth.dev/internal/policyfile"
	"berth.dev/internal/sandbox"
	"berth.dev/internal/terminal"
)

func newPolicyApproveCommand(a *app) *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "approve [--yes] [FOLDER]",
		Short: "Let what a project's own policy allows act",
		Long: `Show what the .berth/policy.toml of a folder, the current one without FOLDER,
would allow, and after a question let it act in the sandboxes of that folder.
Only this very content is approved: when the file changes, by an agent too,
what it allows no longer acts, and what was approved to be denied still is.

When the file is gone, what was approved of it is forgotten.`,
		Args:              wants(0, 1),
		ValidArgsFunction: completeFolders,
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := a.env.Dir
			if len(args) > 0 {
				dir = a.abs(args[0])
			}
			return a.runPolicyApprove(cmd.Context(), dir, yes)
		},
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return cmd
}

func (a *app) runPolicyApprove(ctx context.Context, dir string, yes bool) error {
	t, m, err := a.policyTarget("")
	if err != nil {
		return err
	}
	p, err := policyfile.Look(dir, t.src.Approvals)
	switch {
	case err != nil:
		return err
	case !p.Present && !p.Approved:
		return sandbox.Errorf(sandbox.ErrNotFound, "there is no %s", p.File)
	case p.Current:
		a.note("%s is approved as it is", p.File)
		return nil
	}
	if err := a.printPending(p); err != nil {
		return err
	}
	question, what := "Let this act?", "approved: "
	if !p.Present {
		question, what = "Forget what was approved?", "forgot: "
	}
	if !yes {
		if err := a.askYes(question); err != nil {
			return err
		}
	}
	if err := policyfile.Approve(p, t.src.Approvals); err != nil {
		return err
	}
	return a.policyWritten(ctx, t, m, []string{what + p.File})
}

// printPending shows a project's rules, and how they differ from what was
// approved before.
func (a *app) printPending(p policyfile.Pending) error {
	switch {
	case !p.Present:
		fmt.Fprintf(a.Out, "%s is gone. Of what was approved, these still hold:\n\n", plain(p.File))
	case p.Preset != "":
		fmt.Fprintf(a.Out, "%s, with the preset %s where that is narrower:\n\n", plain(p.File), p.Preset)
	default:
		fmt.Fprintf(a.Out, "%s:\n\n", plain(p.File))
	}
	isNew := func(r policy.Rule) bool {
		for _, added := range p.Added {
			if added.Same(r) {
				return true
			}
		}
		return false
	}
	var rows [][]string
	add := func(mark string, r policy.Rule) {
		row := []string{mark, r.Verdict.String(), strings.TrimPrefix(r.String(), r.Verdict.String()+" ")}
		if r.Note != "" {
			row = append(row, r.Note)
		}
		rows = append(rows, row)
	}
	for _, r := range p.Rules {
		mark := " "
		if isNew(r) {
			mark = "+"
		}
		add(mark, r)
	}
	for _, r := range p.Removed {
		if p.Present || r.Verdict == policy.Deny {
			add("-", r)
		}
	}
	if len(rows) == 0 {
		rows = [][]string{{" ", "no rules"}}
	}
	return table(a.Out, rows)
}

// askYes asks for the user's word; without a terminal it cannot be had.
func (a *app) askYes(question string) error {
	if !terminal.Is(a.In) || !terminal.Is(a.Err) {
		return sandbox.Errorf(sandbox.ErrPrecondition, "nothing was changed: there is no terminal to ask on").
			WithHint("look at it, and then say: berth policy approve --yes")
	}
	fmt.Fprintf(a.Err, "\n%s [y/N] ", question)
	answer, err := bufio.NewReader(a.In).ReadString('\n')
	if s := strings.ToLower(strings.TrimSpace(answer)); err != nil || s != "y" && s != "yes" {
		return sandbox.Errorf(sandbox.ErrForbidden, "nothing was changed")
	}
	return nil
}

package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/spf13/cobra"

	"berth.dev/internal/audit"
)

func newLogVerifyCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "verify [SANDBOX]",
		Short: "Check that nobody changed the record",
		Long: `Hold the audit record of a sandbox, or of all, against its chain of hashes: lines
that were changed, removed, inserted or exchanged are found, and files that are
missing. Who keeps the last hash somewhere else can later tell that the record
up to it is still the same. What Berth itself could not write is listed as gaps.

Exit status:
  0     the record is as Berth wrote it
  1     it is not
  125   an error of Berth's`,
		Args:              wants(0, 1),
		ValidArgsFunction: a.completeSandbox(1),
		RunE: func(_ *cobra.Command, args []string) error {
			name := ""
			if len(args) > 0 {
				name = args[0]
			}
			return a.runLogVerify(name)
		},
	}
}

// verified is the check of one log as --json prints it.
type verified struct {
	Sandbox string `json:"sandbox"` // name, "" for the user's log
	ID      string `json:"id"`
	OK      bool   `json:"ok"`
	audit.Report
}

func (a *app) runLogVerify(name string) error {
	places, err := a.auditLogs(name)
	if err != nil {
		return err
	}
	all := []verified{}
	ok := true
	for _, p := range places {
		r, err := audit.Verify(p.dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue // never written
		} else if err != nil {
			return fmt.Errorf("verify the log of %s: %w", p.label(), err)
		}
		ok = ok && r.OK()
		if a.json {
			all = append(all, verified{p.name, p.id, r.OK(), r})
		} else {
			a.printReport(p, r)
		}
	}
	if a.json {
		if err := printJSON(a.Out, all); err != nil {
			return err
		}
	}
	if !ok {
		return exitStatus(1)
	}
	return nil
}

func (a *app) printReport(p logPlace, r audit.Report) {
	label, state := p.label(), "as Berth wrote it"
	if p.name != "" {
		label += " (" + p.id + ")"
	}
	if !r.OK() {
		state = "NOT as Berth wrote it"
	}
	if a.styled(a.Out) {
		color := "\x1b[32m"
		if !r.OK() {
			color = "\x1b[1;31m"
		}
		state = color + state + "\x1b[m"
	}
	fmt.Fprintf(a.Out, "%s: %s\n", plain(label), state)
	line := func(what, format string, args ...any) {
		fmt.Fprintf(a.Out, "  %-10s%s\n", what, plain(fmt.Sprintf(format, args...)))
	}
	if r.Events > 0 {
		line("events", "%d, %s to %s", r.Events, r.From.Local().Format(time.DateTime), r.To.Local().Format(time.DateTime))
		line("last hash", "%s (event %d)", r.LastHash, r.Last)
	}
	if r.Dropped > 0 {
		line("dropped", "%d older ones, as the log had reached its size", r.Dropped)
	}
	if r.Open && r.Torn > 0 {
		line("note", "the last line is not whole: it is being written, or its writer was killed")
	}
	for _, g := range r.Gaps {
		lost := "events may be missing"
		if g.Lost > 0 {
			lost = fmt.Sprintf("%d missing", g.Lost)
		}
		line("gap", "before event %d: %s: %s", g.Seq, lost, g.Why)
	}
	for _, problem := range r.Problems {
		line("PROBLEM", "%s", problem)
	}
	if r.More > 0 {
		line("PROBLEM", "and %d more", r.More)
	}
}

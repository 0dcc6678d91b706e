package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"

	"github.com/spf13/cobra"

	"berth.dev/internal/policy"
	"berth.dev/internal/policyfile"
)

type policyLsOptions struct {
	Sandbox string
	All     bool
}

func newPolicyLsCommand(a *app) *cobra.Command {
	o := &policyLsOptions{}
	cmd := &cobra.Command{
		Use:     "ls [flags]",
		Aliases: []string{"list"},
		Short:   "List the rules that hold",
		Long: `List the preset and the rules that hold for every sandbox, or with --sandbox for
one. Numbers are given to the rules that ` + "`berth policy rm`" + `, with the same
--sandbox, can remove.`,
		Args: wants(0, 0),
		RunE: func(*cobra.Command, []string) error { return a.runPolicyLs(o) },
	}
	a.sandboxFlag(cmd, &o.Sandbox)
	cmd.Flags().BoolVarP(&o.All, "all", "a", false, "also the rules of the preset")
	return cmd
}

// listedPolicy is a policy as `berth policy ls --json` prints it, with all
// rules of the preset.
type listedPolicy struct {
	Preset      string       `json:"preset"`
	PresetScope string       `json:"preset_scope"` // whose choice it is; "preset" when nobody's
	Rules       []listedRule `json:"rules"`
	Project     struct {
		File    string   `json:"file,omitempty"`
		Status  string   `json:"status,omitempty"`
		Waiting []string `json:"waiting,omitempty"` // rules that wait for approval
	} `json:"project"`
}

type listedRule struct {
	Number  int      `json:"number,omitempty"` // for policy rm
	Rule    string   `json:"rule"`
	Verdict string   `json:"verdict"`
	Target  string   `json:"target"`
	Methods []string `json:"methods,omitempty"`
	Paths   []string `json:"paths,omitempty"`
	Inspect bool     `json:"inspect,omitempty"`
	Scope   string   `json:"scope"`
	From    string   `json:"from"` // scope, and the preset's or the agent's name
	File    string   `json:"file,omitempty"`
	Note    string   `json:"note,omitempty"`
}

func (a *app) runPolicyLs(o *policyLsOptions) error {
	t, _, err := a.policyTarget(o.Sandbox)
	if err != nil {
		return err
	}
	e, err := a.loadPolicy(t)
	if err != nil {
		return err
	}
	if t.sandbox == nil {
		a.notePolicyOfFolder(t.src.Approvals)
	}
	preset, err := policy.Preset(e.Preset)
	if err != nil {
		return err
	}
	own := numbered(e.Rules, t.file)
	builtIn := numbered(preset, t.file)
	if a.json {
		l := listedPolicy{Preset: e.Preset, PresetScope: e.PresetScope.String(), Rules: append(builtIn, own...)}
		l.Project.File, l.Project.Status = e.Project.File, string(e.Project.Status)
		for _, r := range e.Project.Waiting {
			l.Project.Waiting = append(l.Project.Waiting, r.String())
		}
		return printJSON(a.Out, l)
	}
	fmt.Fprintf(a.Out, "preset %s (%s)", e.Preset, presetOrigin(e))
	if o.All {
		own = append(builtIn, own...)
		fmt.Fprintln(a.Out)
	} else {
		fmt.Fprintf(a.Out, ", %d rules: see them with --all\n", len(builtIn))
	}
	if len(own) == 0 {
		return nil
	}
	fmt.Fprintln(a.Out)
	return table(a.Out, ruleRows(own))
}

// presetOrigin says whose choice a preset is.
func presetOrigin(e policyfile.Effective) string {
	if e.PresetScope == policy.ScopePreset {
		return "default"
	}
	return "chosen by " + e.PresetScope.String()
}

// numbered lists rules; those of one file are counted.
func numbered(rules []policy.Rule, file string) []listedRule {
	all := []listedRule{}
	n := 0
	for _, r := range rules {
		l := listedRule{
			Rule: r.String(), Verdict: r.Verdict.String(), Target: r.Target(), Methods: r.Methods, Paths: r.Paths,
			Inspect: r.Inspect, Scope: r.Scope.String(), File: r.File, Note: r.Note,
		}
		if r.File == file {
			n++
			l.Number = n
		}
		r.File = ""
		l.From = r.Origin()
		all = append(all, l)
	}
	return all
}

// ruleRows are the rows of a table; columns that no rule needs are left out.
func ruleRows(rules []listedRule) [][]string {
	numbers, notes := false, false
	for _, l := range rules {
		numbers = numbers || l.Number > 0
		notes = notes || l.Note != ""
	}
	row := func(number, verdict, target, from, note string) []string {
		var cells []string
		if numbers {
			cells = append(cells, number)
		}
		cells = append(cells, verdict, target, from)
		if notes {
			cells = append(cells, note)
		}
		return cells
	}
	rows := [][]string{row("NO", "VERDICT", "TARGET", "FROM", "NOTE")}
	for _, l := range rules {
		number := ""
		if l.Number > 0 {
			number = strconv.Itoa(l.Number)
		}
		rows = append(rows, row(number, l.Verdict, l.Rule[len(l.Verdict)+1:], l.From, l.Note))
	}
	return rows
}

// notePolicyOfFolder says what the current folder's own policy would do.
func (a *app) notePolicyOfFolder(approvals string) {
	file := policyfile.ProjectFile(a.env.Dir)
	if _, err := os.Lstat(file); errors.Is(err, fs.ErrNotExist) {
		return
	}
	p, err := policyfile.Look(a.env.Dir, approvals)
	switch {
	case err != nil:
		a.note("%v", err)
	case p.Current:
		a.note("sandboxes of this folder also go by %s, which is approved", file)
	default:
		a.note("sandboxes of this folder also go by what %s denies; what it allows waits for: berth policy approve", file)
	}
}

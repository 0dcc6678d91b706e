package cli

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"berth.dev/internal/bundle"
	"berth.dev/internal/sandbox"
	"berth.dev/internal/template"
)

type lsOptions struct {
	All   bool
	Quiet bool
}

func newLsCommand(a *app) *cobra.Command {
	o := &lsOptions{}
	cmd := &cobra.Command{
		Use:     "ls [flags]",
		Aliases: []string{"list", "ps"},
		Short:   "List the sandboxes, running and stopped",
		Args:    wants(0, 0),
		RunE:    func(*cobra.Command, []string) error { return a.runLs(o) },
	}
	cmd.Flags().BoolVarP(&o.All, "all", "a", false, "also those that templates are built in")
	cmd.Flags().BoolVarP(&o.Quiet, "quiet", "q", false, "only IDs")
	return cmd
}

// listed is one sandbox as ls prints it.
type listed struct {
	ID         string         `json:"id"`
	Name       string         `json:"name"`
	Agent      string         `json:"agent"`
	Status     sandbox.Status `json:"status"`
	Workspaces []string       `json:"workspaces"` // PATH or PATH:ro
	Created    time.Time      `json:"created,omitzero"`
	Error      string         `json:"error,omitempty"` // why it is broken
}

func (a *app) runLs(o *lsOptions) error {
	m, err := a.manager()
	if err != nil {
		return err
	}
	entries, err := m.List()
	if err != nil {
		return err
	}
	all := []listed{}
	for _, e := range entries {
		l := list(e)
		if l.Agent != template.BuilderAgent || o.All {
			all = append(all, l)
		}
	}
	switch {
	case o.Quiet:
		for _, l := range all {
			fmt.Fprintln(a.Out, cmp.Or(l.ID, l.Name)) // a broken one has no ID
		}
		return nil
	case a.json:
		return printJSON(a.Out, all)
	}
	rows := [][]string{{"ID", "NAME", "AGENT", "STATUS", "WORKSPACES", "CREATED"}}
	for _, l := range all {
		rows = append(rows, []string{l.ID, l.Name, l.Agent, string(l.Status), strings.Join(l.Workspaces, ", "), ago(l.Created, time.Now())})
	}
	return table(a.Out, rows)
}

func list(e bundle.Entry) listed {
	if e.Bundle == nil {
		return listed{Name: e.Name, Status: sandbox.Broken, Workspaces: []string{}, Error: e.Err.Error()}
	}
	spec := e.Bundle.Spec()
	l := listed{
		ID: e.Bundle.ID(), Name: e.Name, Agent: spec.Agent, Status: e.Bundle.Info().Status,
		Workspaces: []string{}, Created: e.Bundle.Created(),
	}
	for _, m := range spec.Mounts {
		if m.Host != m.Guest {
			continue // -v, which is no workspace
		}
		where := m.Host
		if m.ReadOnly {
			where += ":ro"
		}
		l.Workspaces = append(l.Workspaces, where)
	}
	return l
}

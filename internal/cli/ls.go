package cli

import (
	"fmt"
	"strings"
	"text/tabwriter"
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
		RunE:    func(cmd *cobra.Command, args []string) error { return a.runLs(o) },
	}
	cmd.Flags().BoolVarP(&o.All, "all", "a", false, "also those that templates are built in, and broken ones")
	cmd.Flags().BoolVarP(&o.Quiet, "quiet", "q", false, "only the IDs")
	return cmd
}

// lsEntry is how --json prints a sandbox.
type lsEntry struct {
	ID         string         `json:"id"`
	Name       string         `json:"name"`
	Agent      string         `json:"agent"`
	Status     sandbox.Status `json:"status"`
	Workspaces []string       `json:"workspaces"`
	Created    time.Time      `json:"created"`
	Error      string         `json:"error,omitempty"` // why it is broken
}

func (a *app) runLs(o *lsOptions) error {
	m, err := a.manager()
	if err != nil {
		return err
	}
	all, err := m.List()
	if err != nil {
		return err
	}
	entries := []lsEntry{}
	for _, e := range all {
		if entry, show := describe(e); show || o.All {
			entries = append(entries, entry)
		}
	}
	switch {
	case o.Quiet:
		for _, e := range entries {
			if e.ID == "" {
				e.ID = e.Name
			}
			fmt.Fprintln(a.Out, e.ID)
		}
		return nil
	case a.json:
		return printJSON(a.Out, entries)
	}
	w := tabwriter.NewWriter(a.Out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "ID\tNAME\tAGENT\tSTATUS\tWORKSPACES\tCREATED")
	for _, e := range entries {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", e.ID, e.Name, e.Agent, e.Status,
			plain(strings.Join(e.Workspaces, ", ")), ago(time.Since(e.Created)))
	}
	return w.Flush()
}

// describe is a sandbox as it is listed; show is unset for those that only -a
// shows.
func describe(e bundle.Entry) (entry lsEntry, show bool) {
	if e.Bundle == nil {
		return lsEntry{Name: e.Name, Status: sandbox.Broken, Workspaces: []string{}, Error: e.Err.Error()}, true
	}
	spec := e.Bundle.Spec()
	entry = lsEntry{
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
		entry.Workspaces = append(entry.Workspaces, where)
	}
	return entry, spec.Agent != template.BuilderAgent
}

// ago is a time for people.
func ago(d time.Duration) string {
	for _, u := range []struct {
		size time.Duration
		name string
	}{{24 * time.Hour, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}} {
		if n := int(d / u.size); n == 1 {
			return "1 " + u.name + " ago"
		} else if n > 1 {
			return fmt.Sprintf("%d %ss ago", n, u.name)
		}
	}
	return "just now"
}

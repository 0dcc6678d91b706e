package cli

import (
	"github.com/spf13/cobra"

	"berth.dev/internal/agent"
	"berth.dev/internal/template"
)

// completeSandbox offers the sandboxes for the first n arguments; n < 0 means
// for all.
func (a *app) completeSandbox(n int) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		if n >= 0 && len(args) >= n {
			return nil, cobra.ShellCompDirectiveDefault
		}
		return a.sandboxNames(), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeRun offers agents and sandboxes, then folders.
func (a *app) completeRun(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveFilterDirs
	}
	return append(agent.Names(), a.sandboxNames()...), cobra.ShellCompDirectiveNoFileComp
}

func completeFolders(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveFilterDirs
}

func (a *app) sandboxNames() []string {
	m, err := a.manager()
	if err != nil {
		return nil
	}
	all, err := m.List()
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range all {
		if e.Bundle == nil || e.Bundle.Spec().Agent != template.BuilderAgent {
			names = append(names, e.Name)
		}
	}
	return names
}

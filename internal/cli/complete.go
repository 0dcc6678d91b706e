package cli

import (
	"slices"

	"github.com/spf13/cobra"

	"berth.dev/internal/agent"
	"berth.dev/internal/template"
)

// completeSandbox completes names of sandboxes, for as many arguments as are
// sandboxes; negative for all.
func (a *app) completeSandbox(count int) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if count >= 0 && len(args) >= count {
			return nil, cobra.ShellCompDirectiveDefault
		}
		return a.names(args), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeRun completes an agent or a sandbox, then folders.
func (a *app) completeRun(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveFilterDirs
	}
	var names []string
	for _, ag := range agent.All() {
		names = append(names, cobra.CompletionWithDesc(ag.Name, ag.Title))
	}
	if cmd.Name() == "run" {
		names = append(names, a.names(nil)...)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func completeFolders(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveFilterDirs
}

func completeTemplates(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return template.Names(), cobra.ShellCompDirectiveNoFileComp
}

// completeImages completes the names of images.
func (a *app) completeImages(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	m, err := a.manager()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	images, err := m.Images().List()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var refs []string
	for _, img := range images {
		refs = append(refs, img.Refs...)
	}
	return refs, cobra.ShellCompDirectiveNoFileComp
}

// names are those of the sandboxes that are not among the arguments yet.
func (a *app) names(but []string) []string {
	m, err := a.manager()
	if err != nil {
		return nil
	}
	entries, err := m.List()
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries {
		if l := list(e); l.Agent != template.BuilderAgent && !slices.Contains(but, e.Name) {
			names = append(names, cobra.CompletionWithDesc(e.Name, string(l.Status)))
		}
	}
	return names
}

package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"berth.dev/internal/sandbox"
	"berth.dev/internal/template"
)

func newTemplateCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "template",
		Short: "Build and look at what sandboxes start from",
		Long: `Templates are the images that sandboxes start from. They are built on this
machine, from its own package sources, when an agent is first run: one base for
all, and a layer for each agent.`,
		Args: cobra.ArbitraryArgs,
		RunE: groupOnly,
	}
	cmd.AddCommand(newTemplateBuildCommand(a), newTemplateLsCommand(a), newTemplateRmCommand(a), newTemplateInspectCommand(a))
	return cmd
}

// groupOnly is the RunE of a command that has only subcommands.
func groupOnly(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return cmd.Help()
	}
	return sandbox.Errorf(sandbox.ErrInvalid, "there is no command %q", cmd.CommandPath()+" "+args[0]).
		WithHint("%s --help", cmd.CommandPath())
}

type templateBuildOptions struct {
	template.Options
	Quiet bool
}

func newTemplateBuildCommand(a *app) *cobra.Command {
	o := &templateBuildOptions{}
	cmd := &cobra.Command{
		Use:   "build [flags] NAME...",
		Short: "Build templates, and the base that they stand on",
		Long: `Build templates. One that is there already is left alone, unless --again is
given. A build that failed goes on from its last good step.`,
		Example: `  berth template build claude codex
  berth template build --again base`,
		Args:              wants(1, -1),
		ValidArgsFunction: completeTemplates,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runTemplateBuild(cmd.Context(), args, o)
		},
	}
	cmd.Flags().BoolVar(&o.Again, "again", false, "build anew, with the newest packages")
	cmd.Flags().StringVar(&o.From, "from", "", "build the base on this `IMAGE` instead of this machine's package sources")
	cmd.Flags().BoolVarP(&o.Quiet, "quiet", "q", false, "no progress")
	return cmd
}

func (a *app) runTemplateBuild(ctx context.Context, names []string, o *templateBuildOptions) error {
	m, err := a.manager()
	if err != nil {
		return err
	}
	for _, name := range names {
		d := a.progress(o.Quiet)
		img, err := a.templates(m).Build(ctx, name, o.Options, d.template())
		if err == nil {
			err = a.unpack(ctx, m, img, d)
		}
		d.end()
		if err != nil {
			return err
		}
		fmt.Fprintln(a.Out, template.Ref(name))
	}
	return nil
}

func newTemplateLsCommand(a *app) *cobra.Command {
	var quiet bool
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the templates that are built",
		Args:    wants(0, 0),
		RunE:    func(*cobra.Command, []string) error { return a.runTemplateLs(quiet) },
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "only names")
	return cmd
}

func (a *app) runTemplateLs(quiet bool) error {
	m, err := a.manager()
	if err != nil {
		return err
	}
	all, err := a.templates(m).List()
	if err != nil {
		return err
	}
	switch {
	case quiet:
		for _, t := range all {
			fmt.Fprintln(a.Out, t.Name)
		}
		return nil
	case a.json:
		return printJSON(a.Out, append([]template.Info{}, all...))
	}
	rows := [][]string{{"NAME", "IMAGE", "DIGEST", "OWN SIZE", "CREATED"}}
	for _, t := range all {
		rows = append(rows, []string{t.Name, t.Ref, shortDigest(t.Digest), size(t.Own), ago(t.Created, time.Now())})
	}
	return table(a.Out, rows)
}

func newTemplateRmCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:               "rm NAME...",
		Aliases:           []string{"remove"},
		Short:             "Remove templates; sandboxes keep what they need of them",
		Args:              wants(1, -1),
		ValidArgsFunction: completeTemplates,
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := a.manager()
			if err != nil {
				return err
			}
			return a.each(args, func(name string) error { return a.templates(m).Remove(cmd.Context(), name) })
		},
	}
}

func newTemplateInspectCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:               "inspect NAME...",
		Short:             "Print all that is known of templates, as a JSON array",
		Args:              wants(1, -1),
		ValidArgsFunction: completeTemplates,
		RunE:              func(_ *cobra.Command, args []string) error { return a.runTemplateInspect(args) },
	}
}

func (a *app) runTemplateInspect(names []string) error {
	m, err := a.manager()
	if err != nil {
		return err
	}
	found, failed := []template.Info{}, false
	for _, name := range names {
		info, err := a.templates(m).Inspect(name)
		if err != nil {
			a.printError(err)
			failed = true
			continue
		}
		found = append(found, info)
	}
	if err := printJSON(a.Out, found); err != nil {
		return err
	}
	if failed {
		return exitStatus(exitBerth)
	}
	return nil
}

// shortDigest is as many digits as tell images apart.
func shortDigest(d string) string {
	const prefix = "sha256:"
	if len(d) > len(prefix)+12 {
		return d[len(prefix) : len(prefix)+12]
	}
	return d
}

package cli

import (
	"context"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"berth.dev/internal/manager"
	"berth.dev/internal/sandbox"
	"berth.dev/internal/template"
)

func newTemplateCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "template",
		Short: "Build and list what sandboxes start from",
		Args:  wants(0, 0),
		RunE:  func(cmd *cobra.Command, args []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newTemplateBuildCommand(a), newTemplateLsCommand(a), newTemplateRmCommand(a), newTemplateInspectCommand(a))
	return cmd
}

func (a *app) templates() (*template.Builder, *manager.Manager, error) {
	m, err := a.manager()
	if err != nil {
		return nil, nil, err
	}
	return template.New(m, a.dirs, a.getenv), m, nil
}

func newTemplateBuildCommand(a *app) *cobra.Command {
	o := template.Options{}
	quiet := false
	cmd := &cobra.Command{
		Use:   "build [flags] NAME...",
		Short: "Build templates on this machine",
		Long: `Build templates from their recipes: the base system from the archive that this
machine's apt is configured with, an agent's own layer from npm. What is there
already is left as it is, unless --again asks for the newest. Sandboxes that
exist keep what they were made from.`,
		Args:              wants(1, -1),
		ValidArgsFunction: cobra.FixedCompletions(template.Names(), cobra.ShellCompDirectiveNoFileComp),
		RunE: func(cmd *cobra.Command, args []string) error {
			b, _, err := a.templates()
			if err != nil {
				return err
			}
			return a.each(args, func(name string) error {
				p, done := a.progress(quiet)
				defer done()
				_, err := b.Build(cmd.Context(), name, o, p)
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&o.Again, "again", false, "build also what is there, from the newest packages")
	cmd.Flags().StringVar(&o.From, "from", "", "build the base on this `IMAGE`, which must have apt")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "no progress")
	return cmd
}

func newTemplateLsCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "ls",
		Short: "List the templates that are built",
		Args:  wants(0, 0),
		RunE: func(cmd *cobra.Command, args []string) error {
			b, _, err := a.templates()
			if err != nil {
				return err
			}
			all, err := b.List()
			if err != nil {
				return err
			}
			if a.json {
				return printJSON(a.Out, append([]template.Info{}, all...))
			}
			w := tabwriter.NewWriter(a.Out, 0, 0, 3, ' ', 0)
			fmt.Fprintln(w, "NAME\tREF\tDIGEST\tOWN SIZE\tCREATED")
			for _, t := range all {
				fmt.Fprintf(w, "%s\t%s\t%.19s\t%s\t%s\n", t.Name, t.Ref, t.Digest, size(t.Own), ago(time.Since(t.Created)))
			}
			return w.Flush()
		},
	}
}

func newTemplateRmCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "rm NAME...",
		Short: "Remove templates; sandboxes keep what they need of them",
		Args:  wants(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			b, _, err := a.templates()
			if err != nil {
				return err
			}
			return a.each(args, func(name string) error { return b.Remove(cmd.Context(), name) })
		},
	}
}

func newTemplateInspectCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "inspect NAME...",
		Short: "Show templates as a JSON array",
		Args:  wants(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			b, _, err := a.templates()
			if err != nil {
				return err
			}
			all := []template.Info{}
			for _, name := range args {
				t, err := b.Inspect(name)
				if err != nil {
					return err
				}
				all = append(all, t)
			}
			return printJSON(a.Out, all)
		},
	}
}

// withImage completes a spec with the image that it is made from: the one that
// was named, or the agent's template, built when there is none.
func (a *app) withImage(ctx context.Context, m *manager.Manager, spec sandbox.Spec, quiet bool) (sandbox.Spec, error) {
	b := template.New(m, a.dirs, a.getenv)
	if spec.Template != "" {
		img, err := b.WithAgent(ctx, spec.Template, spec.Agent)
		spec.Image = img.Digest
		return spec, err
	}
	p, done := a.progress(quiet)
	defer done()
	img, err := b.Ensure(ctx, spec.Agent, p)
	spec.Template, spec.Image = template.Ref(spec.Agent), img.Digest
	return spec, err
}

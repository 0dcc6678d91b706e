package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"berth.dev/internal/agent"
	"berth.dev/internal/sandbox"
)

func newCreateCommand(a *app) *cobra.Command {
	o := &createOptions{}
	cmd := &cobra.Command{
		Use:   "create [flags] AGENT [PATH] [EXTRA[:ro]...]",
		Short: "Make and start a sandbox, without its agent",
		Long: `Make a sandbox for an agent and a folder, as run does, and start it, but do not
start the agent. Prints the sandbox's name. When there is one already, it is
started.`,
		Example: `  berth create claude
  berth create --name review --memory 4g codex ~/app`,
		ValidArgsFunction: a.completeRun,
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := parseRunArgs(args, a.isWorkspace)
			if err != nil {
				return err
			}
			if len(r.Args) > 0 {
				return sandbox.Errorf(sandbox.ErrInvalid, "%q is not a folder, and create starts no agent to give it to", r.Args[0]).
					WithHint("%s", cmd.UseLine())
			}
			return a.runCreate(cmd.Context(), o, r)
		},
	}
	o.register(cmd)
	return cmd
}

func (a *app) runCreate(ctx context.Context, o *createOptions, r runArgs) error {
	ag, err := agent.Find(r.Target)
	if err != nil {
		return err
	}
	m, err := a.manager()
	if err != nil {
		return err
	}
	w, err := a.wish(o, &ag, r.Folders)
	if err != nil {
		return err
	}
	b, err := a.obtain(ctx, m, w, o)
	if err != nil {
		return err
	}
	g, err := a.guest(ctx, m, b, o.Quiet)
	if err != nil {
		return err
	}
	defer g.Close()
	spec := b.Spec()
	creds, err := a.bind(ctx, m, b, w.offer(ag), o.Quiet)
	if err != nil {
		return err
	}
	env := a.agentEnv(ag, false, creds.Env, spec.Env, w.session)
	if err := settle(ctx, g, ag, agent.Facts{Workspace: spec.Workspace, Env: merged(spec.Env, env)}, creds.Files); err != nil {
		return fmt.Errorf("prepare the settings of %s: %w", ag.Title, err)
	}
	fmt.Fprintln(a.Out, b.Name())
	return nil
}

package cli

import (
	"context"
	"errors"
	"io"
	"syscall"

	"github.com/spf13/cobra"

	"berth.dev/internal/bundle"
	"berth.dev/internal/sandbox"
	"berth.dev/internal/terminal"
)

type logsOptions struct {
	Follow     bool
	Tail       int
	Supervisor bool
}

func newLogsCommand(a *app) *cobra.Command {
	o := &logsOptions{}
	cmd := &cobra.Command{
		Use:   "logs [flags] SANDBOX",
		Short: "Show what the agent of a sandbox wrote",
		Long: `Show what the agent of a sandbox wrote, running or not. Into a file or a pipe it
is written byte for byte; on a terminal it is played without the questions that
the terminal would answer.

` + "`berth log SANDBOX`" + ` is something else: what it did in the network.`,
		Args:              wants(1, 1),
		ValidArgsFunction: a.completeSandbox(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runLogs(cmd.Context(), o, args[0])
		},
	}
	cmd.Flags().BoolVarP(&o.Follow, "follow", "f", false, "go on as long as the sandbox runs")
	cmd.Flags().IntVarP(&o.Tail, "tail", "n", -1, "only the last `N` lines")
	cmd.Flags().BoolVar(&o.Supervisor, "supervisor", false, "show what Berth itself noted about the sandbox instead")
	return cmd
}

func (a *app) runLogs(ctx context.Context, o *logsOptions, name string) error {
	m, err := a.manager()
	if err != nil {
		return err
	}
	b, err := m.Find(name)
	if err != nil {
		return err
	}
	log := bundle.AgentLog
	if o.Supervisor {
		log = bundle.SupervisorLog
	}
	var w io.Writer = a.Out
	if terminal.Is(a.Out) {
		player := terminal.NewPlayback(a.Out)
		defer player.Close()
		w = player
	}
	if o.Follow {
		stopped := func() bool { return b.Info().Status == sandbox.Stopped }
		err = b.FollowLog(ctx, w, log, o.Tail, stopped)
	} else {
		err = b.ReadLog(w, log, o.Tail)
	}
	if errors.Is(err, syscall.EPIPE) {
		return nil // whoever read it has seen enough
	}
	if err == nil {
		err = ctx.Err()
	}
	return err
}

// Package cli is the command line: what users write, what they read, and the
// status that the process ends with. It decides nothing about sandboxes; it
// turns words into wishes for the manager and shows what came of them. Answers
// go to standard output, everything else to standard error.
//
// A command is a file: its options, newXCommand, and runX. Nothing below Main
// ends the process, and there are no variables of the package.
package cli

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"berth.dev/internal/engine"
	"berth.dev/internal/hostdir"
	"berth.dev/internal/manager"
	"berth.dev/internal/sandbox"
	"berth.dev/internal/service"
	"berth.dev/internal/terminal"
)

// Stdio are the streams of a command. A terminal is known by being an *os.File.
type Stdio struct {
	In       io.Reader
	Out, Err io.Writer
}

// Env is what a command may use of the process around it.
type Env struct {
	Vars       []string // NAME=VALUE, as os.Environ
	Dir        string   // the current folder, absolute
	Engines    *engine.Registry
	Executable string // runs as a supervisor: "/proc/self/exe"
}

// Main runs one command and returns the exit status of the process.
func Main(args []string, stdio Stdio, env Env) int {
	a := newApp(stdio, env)
	ctx, stop := a.signals.watch(context.Background())
	defer stop()
	root := newRootCommand(a)
	// A nil slice would mean the arguments of the process.
	root.SetArgs(append([]string{}, args...))
	root.SetIn(stdio.In)
	root.SetOut(stdio.Out)
	root.SetErr(stdio.Err)
	err := root.ExecuteContext(ctx)
	if cerr := a.close(); err == nil {
		err = cerr
	}
	if sig := a.signals.caught(); sig != 0 && err != nil && ctx.Err() != nil {
		return 128 + int(sig)
	}
	return a.report(err)
}

// app is what the commands of one call share.
type app struct {
	Stdio
	env     Env
	vars    map[string]string
	json    bool // --json
	signals interrupts

	open sync.Once
	mgr  *manager.Manager
	dirs hostdir.Dirs
	err  error

	readServices sync.Once
	known        []service.Definition
	badServices  error // why the user's own are not among them
}

func newApp(stdio Stdio, env Env) *app {
	a := &app{Stdio: stdio, env: env, vars: map[string]string{}}
	for _, kv := range env.Vars {
		if k, v, ok := strings.Cut(kv, "="); ok {
			a.vars[k] = v
		}
	}
	return a
}

// shell reads a variable of the shell that called berth.
func (a *app) shell(name string) (string, bool) {
	v, ok := a.vars[name]
	return v, ok
}

func (a *app) getenv(name string) string { return a.vars[name] }

// manager opens what is on disk, at the first need of it: a command that asks
// for help, or was mistyped, must leave no folders behind.
func (a *app) manager() (*manager.Manager, error) {
	a.open.Do(func() {
		if a.dirs, a.err = hostdir.From(a.getenv, hostdir.HostUID()); a.err != nil {
			return
		}
		m, err := manager.New(manager.Config{
			Dirs: a.dirs, Engines: a.env.Engines, Executable: a.env.Executable,
			Notify: func(what string) { a.note("%s", what) },
			Logger: slog.New(slog.NewTextHandler(a.Err, &slog.HandlerOptions{Level: slog.LevelWarn})),
		})
		if err != nil {
			a.err = err
			return
		}
		a.mgr = m
	})
	return a.mgr, a.err
}

// close lets go of what manager opened.
func (a *app) close() error {
	if a.mgr == nil {
		return nil
	}
	return a.mgr.Images().Close()
}

func newRootCommand(a *app) *cobra.Command {
	var version bool
	root := &cobra.Command{
		Use:   "berth",
		Short: "Run AI coding agents in sealed sandboxes",
		Long: `Berth runs AI coding agents with full autonomy in a sandbox on this machine:
its own kernel, the project folder and nothing else of the host.

  cd my-project
  berth run claude            start Claude Code here, or come back to it
  berth run shell             look around in a sandbox yourself
  berth ls                    the sandboxes that there are
  berth attach NAME           back to an agent that was left with ctrl-p ctrl-q
  berth rm NAME               remove one`,
		Args:          cobra.ArbitraryArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case version:
				return runVersion(a)
			case len(args) > 0:
				return unknownCommand(cmd, args[0])
			}
			return cmd.Help()
		},
	}
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print answers and errors as JSON")
	root.Flags().BoolVar(&version, "version", false, "print the version")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return sandbox.Errorf(sandbox.ErrInvalid, "%w", err).WithHint("%s --help", cmd.CommandPath())
	})
	root.AddGroup(
		&cobra.Group{ID: groupRun, Title: "Work in a sandbox:"},
		&cobra.Group{ID: groupManage, Title: "Look after sandboxes:"},
		&cobra.Group{ID: groupHost, Title: "Images and this machine:"},
	)
	add := func(group string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add(groupRun, newRunCommand(a), newCreateCommand(a), newExecCommand(a), newAttachCommand(a), newLogsCommand(a), newCpCommand(a))
	add(groupManage, newLsCommand(a), newInspectCommand(a), newStopCommand(a), newRmCommand(a), newPolicyCommand(a), newSecretCommand(a), newLogCommand(a))
	add(groupHost, newTemplateCommand(a), newImageCommand(a), newDoctorCommand(a), newVersionCommand(a))
	root.SetHelpCommandGroupID(groupHost)
	root.SetCompletionCommandGroupID(groupHost)
	root.AddCommand(newExitCodesTopic(), newEnvironmentTopic())
	return root
}

const (
	groupRun    = "run"
	groupManage = "manage"
	groupHost   = "host"
)

// styled reports whether a stream may be coloured.
func (a *app) styled(w io.Writer) bool {
	return a.getenv("NO_COLOR") == "" && a.getenv("TERM") != "dumb" && terminal.Is(w)
}

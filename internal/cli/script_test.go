package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"berth.dev/internal/bundle"
	"berth.dev/internal/control"
	"berth.dev/internal/engine"
	"berth.dev/internal/hostdir"
	"berth.dev/internal/sandbox"
	"berth.dev/internal/supervisor"
)

// TestMain makes this binary the commands for the scripts: berth itself, on an
// engine that cannot start anything, and tools that put sandboxes and audit logs
// on disk.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"berth":  func() { os.Exit(berth(os.Args[1:])) },
		"bundle": func() { os.Exit(makeBundle(os.Args[1:])) },
		"record": func() { os.Exit(makeRecord(os.Args[1:])) },
	})
}

func berth(args []string) int {
	if len(args) > 0 && args[0] == "supervise" {
		return superviseNothing()
	}
	dir, err := os.Getwd()
	if err != nil {
		panic(err)
	}
	return Main(args, Stdio{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}, Env{
		Vars: os.Environ(), Dir: dir, Engines: engine.NewRegistry(absent{}), Executable: "/proc/self/exe",
	})
}

// superviseNothing is a supervisor whose engine does not work.
func superviseNothing() int {
	started := os.NewFile(supervisor.StartedFD, "started")
	defer started.Close()
	err := control.WriteLine(started, control.Started{Version: control.Version, Error: control.WrapError(errors.New("EOF"))})
	if err != nil {
		return 1
	}
	return exitBerth
}

// absent is an engine on a host without user namespaces.
type absent struct{}

func (absent) Name() string              { return "absent" }
func (absent) Build() string             { return "absent-1" }
func (absent) Features() engine.Features { return engine.Features{} }
func (absent) Check(context.Context) error {
	return sandbox.Errorf(sandbox.ErrUnavailable, "this machine has no user namespaces for ordinary users").
		WithHint("run: sudo sysctl -w user.max_user_namespaces=15000")
}
func (a absent) Create(ctx context.Context, _ engine.Config) (engine.Machine, error) {
	return nil, a.Check(ctx)
}

// makeBundle puts a sandbox on disk: NAME AGENT FOLDER, or "log" NAME FILE, or
// "break" NAME.
func makeBundle(args []string) int {
	if err := tryBundle(args); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func tryBundle(args []string) error {
	dirs, err := hostdir.From(os.Getenv, os.Getuid())
	if err != nil {
		return err
	}
	dir, err := dirs.Bundles()
	if err != nil {
		return err
	}
	store, err := bundle.Open(dir)
	if err != nil {
		return err
	}
	switch args[0] {
	case "break":
		return os.WriteFile(filepath.Join(dir, args[1], "spec.json"), []byte("{"), 0o600)
	case "log":
		b, err := store.Find(args[1])
		if err != nil {
			return err
		}
		text, err := os.ReadFile(args[2])
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(b.LogDir(), bundle.AgentLog+".log"), text, 0o600)
	}
	folder, err := filepath.Abs(args[2])
	if err != nil {
		return err
	}
	b, err := store.Create(sandbox.Spec{
		Name: args[0], Agent: args[1], Engine: "absent", Template: "berth/" + args[1], Image: "sha256:0",
		Workspace: folder, Mounts: []sandbox.Mount{{Host: folder, Guest: folder}},
		Env: map[string]string{"SECRET": "hunter2"}, Resources: sandbox.Resources{CPUs: 2},
	})
	if err == nil {
		fmt.Println(b.ID())
	}
	return err
}

// TestScripts is the specification of all that needs no machine.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			home := filepath.Join(e.WorkDir, "home", "me")
			project := filepath.Join(home, "project")
			if err := os.MkdirAll(project, 0o755); err != nil {
				return err
			}
			e.Setenv("HOME", home)
			e.Setenv("BERTH_HOME", filepath.Join(e.WorkDir, "berth"))
			e.Setenv("TERM", "xterm")
			e.Cd = project
			return nil
		},
	})
}

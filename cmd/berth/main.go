// Command berth runs AI coding agents in sealed sandboxes. One binary is the
// command line, the supervisor of each running sandbox, and the processes of
// the engine; which of them this is, its arguments say.
package main

import (
	"os"

	"berth.dev/internal/cli"
	"berth.dev/internal/engine"
	"berth.dev/internal/engine/all"
	"berth.dev/internal/hostdir"
	"berth.dev/internal/manager"
	"berth.dev/internal/supervisor"
)

func main() {
	// The engines' own processes come first: they are started often, and must
	// not do anything else.
	engines := all.Engines()
	engines.Reexec()
	if len(os.Args) == 3 && os.Args[1] == "supervise" {
		os.Exit(supervise(engines))
	}
	dir, err := os.Getwd()
	if err != nil {
		dir = "/"
	}
	os.Exit(cli.Main(os.Args[1:], cli.Stdio{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}, cli.Env{
		Vars: os.Environ(), Dir: dir, Engines: engines, Executable: "/proc/self/exe",
	}))
}

func supervise(engines *engine.Registry) int {
	dirs, err := hostdir.From(os.Getenv, hostdir.HostUID())
	if err != nil {
		os.Stderr.WriteString("berth: " + err.Error() + "\n")
		return 125
	}
	return supervisor.Main(manager.OpenSupervised(dirs, engines))
}

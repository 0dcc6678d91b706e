// Command berth runs AI coding agents in sealed sandboxes. One binary is the
// command line, the supervisor of each running sandbox, and the processes of
// the engine; which of them this is, its arguments say.
package main

import (
	"os"

	"berth.dev/internal/cli"
	"berth.dev/internal/engine/all"
	"berth.dev/internal/engine/gvisor"
	"berth.dev/internal/hostdir"
	"berth.dev/internal/manager"
	"berth.dev/internal/supervisor"
)

func main() {
	// The engine's own processes come first: they are started often, and must
	// not do anything else.
	gvisor.Reexec()
	if len(os.Args) == 3 && os.Args[1] == "supervise" {
		os.Exit(supervise())
	}
	dir, err := os.Getwd()
	if err != nil {
		dir = "/"
	}
	os.Exit(cli.Main(os.Args[1:], cli.Stdio{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}, cli.Env{
		Vars: os.Environ(), Dir: dir, Engines: all.Engines(), Executable: "/proc/self/exe",
	}))
}

func supervise() int {
	dirs, err := hostdir.From(os.Getenv, hostdir.HostUID())
	if err != nil {
		os.Stderr.WriteString("berth: " + err.Error() + "\n")
		return 125
	}
	return supervisor.Main(manager.OpenSupervised(dirs, all.Engines()))
}

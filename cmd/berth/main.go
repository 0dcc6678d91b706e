// Command berth runs AI coding agents in sealed sandboxes. One binary is the
// command line, the supervisor of each running sandbox, and the processes of
// the engine; which of them this is, its arguments say.
package main

import (
	"os"

	"golang.org/x/sys/unix"

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
	noCore()
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

// noCore keeps this process, and those that it starts, from leaving core files:
// they would hold what the guest holds, and the user's secrets. A limit of one
// byte and not of none, as that is what also keeps the kernel from handing a core
// to the program that core_pattern(5) may name.
func noCore() { _ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: 1, Max: 1}) }

func supervise(engines *engine.Registry) int {
	dirs, err := hostdir.From(os.Getenv, hostdir.HostUID())
	if err != nil {
		os.Stderr.WriteString("berth: " + err.Error() + "\n")
		return 125
	}
	return supervisor.Main(manager.OpenSupervised(dirs, engines))
}

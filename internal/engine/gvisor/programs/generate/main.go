// Command generate compiles the sentry's seccomp programs into the file named
// by its argument.
package main

import (
	"fmt"
	"os"

	"berth.dev/internal/atomicfile"
	"berth.dev/internal/engine/gvisor/programs"
)

func main() {
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

func run(path string) error {
	all, err := programs.Compile()
	if err != nil {
		return err
	}
	data, err := programs.Encode(programs.GVisor, all)
	if err != nil {
		return err
	}
	return atomicfile.Write(path, data, 0o644)
}

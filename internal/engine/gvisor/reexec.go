package gvisor

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"gvisor.dev/gvisor/runsc/cli"
	"gvisor.dev/gvisor/runsc/cmd"
	"gvisor.dev/gvisor/runsc/cmd/sentry/sentrycmd"
	"gvisor.dev/gvisor/runsc/cmd/util"

	"berth.dev/internal/engine/squash"
	"berth.dev/internal/sandbox"
)

// What a re-executed process is called, and its command.
const (
	sentryName = "runsc-sandbox"
	goferName  = "runsc-gofer"
	probeArg   = "berth-namespace-probe"
	capsFile   = "caps.json"
)

// Reexec implements engine.Reexecer.
func (*Engine) Reexec() { Reexec() }

// Reexec takes over when this process is one of the engine's own (the sentry,
// the gofer, their helper, or the probe of Check) and then does not return. It
// is the first thing that main and TestMain call.
func Reexec() {
	if len(os.Args) < 2 {
		return
	}
	switch command := subcommand(os.Args); {
	case os.Args[1] == probeArg && len(os.Args) == 2:
		os.Exit(0)
	case command == "umount" && os.Args[0] == "/proc/self/exe" && len(os.Args) == 4:
	case command == "boot" && os.Args[0] == sentryName:
		prepare(command)
	case command == "gofer" && os.Args[0] == goferName:
		prepare(command)
	default:
		return
	}
	cli.Run(nil, map[util.SubCommand]string{
		new(sentrycmd.Boot):   "",
		new(cmd.Gofer):        "",
		new(sentrycmd.Umount): "",
	}, nil)
}

// prepare does to a sentry or gofer what gVisor has no switch for.
func prepare(command string) {
	if err := squash.Install(false); err != nil {
		fatal("install the ownership filter", err)
	}
	if command == "boot" {
		registerPrograms()
		if err := applyCaps(); err != nil {
			fatal("apply resource caps", err)
		}
	}
}

func fatal(what string, err error) {
	fmt.Fprintf(os.Stderr, "berth: %s: %v\n", what, err)
	os.Exit(125)
}

// subcommand returns the first argument that is no flag; gVisor writes all its
// flags as --name=value.
func subcommand(args []string) string {
	for _, a := range args[1:] {
		if !strings.HasPrefix(a, "-") {
			return a
		}
	}
	return ""
}

// applyCaps adds the processor count and memory size to the sentry's
// arguments. It happens at the first of its executions, before it has changed
// its root; the later ones inherit the arguments.
func applyCaps() error {
	dir, first := "", false
	for _, a := range os.Args {
		if v, ok := strings.CutPrefix(a, "--bundle="); ok {
			dir = v
		}
		first = first || a == "--setup-root"
	}
	if !first {
		return nil
	}
	data, err := os.ReadFile(filepath.Join(dir, capsFile))
	if err != nil {
		return err
	}
	var r sandbox.Resources
	if err := json.Unmarshal(data, &r); err != nil {
		return err
	}
	id := os.Args[len(os.Args)-1]
	args := os.Args[:len(os.Args)-1]
	if r.CPUs > 0 {
		args = append(args, "--cpu-num="+strconv.Itoa(r.CPUs))
	}
	if r.Memory > 0 {
		args = append(args, "--total-memory="+strconv.FormatInt(r.Memory, 10))
	}
	os.Args = append(args, id)
	return nil
}

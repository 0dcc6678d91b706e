package gvisor

import (
	_ "unsafe" // for go:linkname

	"gvisor.dev/gvisor/pkg/seccomp/precompiledseccomp"
	"gvisor.dev/gvisor/runsc/boot/filter"

	"berth.dev/internal/engine/gvisor/programs"
)

// precompiled is gVisor's table of compiled programs. It has no exported way
// in; ListPrecompiled must have run once, because it empties the table.
//
//go:linkname precompiled gvisor.dev/gvisor/runsc/boot/filter.precompiledPrograms
var precompiled map[string]precompiledseccomp.Program

// registerPrograms gives the sentry the programs of this build. Without them
// it compiles its own, so an unreadable file costs time and no safety.
func registerPrograms() {
	filter.ListPrecompiled()
	all, err := programs.Load()
	if err == nil && len(all) > 0 {
		precompiled = all
	}
}

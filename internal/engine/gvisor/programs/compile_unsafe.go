package programs

import (
	"fmt"
	"maps"
	"slices"
	_ "unsafe" // for go:linkname

	"gvisor.dev/gvisor/pkg/seccomp"
	"gvisor.dev/gvisor/pkg/seccomp/precompiledseccomp"
	"gvisor.dev/gvisor/pkg/sentry/platform"
	_ "gvisor.dev/gvisor/pkg/sentry/platform/systrap" // registers itself
	"gvisor.dev/gvisor/runsc/boot/filter/config"
)

// rules is what gVisor's own precompilation calls for each of its several
// dozen sets of options; Berth has one set.
//
//go:linkname rules gvisor.dev/gvisor/runsc/boot/filter/config.rules
func rules(opt config.Options, vars precompiledseccomp.Values) (allow, deny seccomp.SyscallRules)

// Compile compiles the programs for the options that Berth runs the sentry
// with: systrap, its own network stack, direct access to workspaces, and no
// devices of the host. It takes seconds.
func Compile() (map[string]Program, error) {
	systrap, err := platform.Lookup("systrap")
	if err != nil {
		return nil, err
	}
	all := map[string]Program{}
	for _, info := range systrap.PrecompiledSeccompInfo() {
		opt := config.Options{Platform: info, HostFilesystem: true}
		names := slices.Collect(maps.Keys(opt.Vars()))
		p, err := precompiledseccomp.Precompile(opt.ConfigKey(), names, func(vars precompiledseccomp.Values) *seccomp.Program {
			allow, deny := rules(opt, vars)
			return &seccomp.Program{
				RuleSets: []seccomp.RuleSet{{Rules: deny.Copy()}, {Rules: allow.Copy(), Action: seccomp.Allow}},
				Options:  config.SeccompOptions(opt),
			}
		})
		if err != nil {
			return nil, fmt.Errorf("compile the seccomp program %s: %w", opt.ConfigKey(), err)
		}
		all[opt.ConfigKey()] = p
	}
	return all, nil
}

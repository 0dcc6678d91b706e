package gvisor

import "berth.dev/internal/engine"

// Limits implements engine.Machine. Without cgroups of the host's, which an
// ordinary user does not have, each cap holds by what the sentry itself can do.
func (m *machine) Limits() []engine.Limit {
	r := m.cfg.Resources
	return []engine.Limit{
		{Resource: "cpus", Asked: int64(r.CPUs), Enforced: r.CPUs > 0, How: clause(r.CPUs > 0, "the guest's kernel has this many processors")},
		{Resource: "memory", Asked: r.Memory, Enforced: r.Memory > 0, How: clause(r.Memory > 0, "the guest sees this much; the supervisor ends its largest process above it")},
		{Resource: "disk", Asked: r.Disk, Enforced: r.Disk > 0, How: clause(r.Disk > 0, "size of the writable root file system")},
		{Resource: "pids", Asked: int64(r.PIDs), Enforced: false, How: clause(r.PIDs > 0, "not enforced by this engine")},
	}
}

func clause(asked bool, how string) string {
	if !asked {
		return "none asked"
	}
	return how
}

package microvm

import "berth.dev/internal/engine"

// Limits implements engine.Machine: most caps are what the machine is made of.
func (m *machine) Limits() []engine.Limit {
	r := m.cfg.Resources
	return []engine.Limit{
		{Resource: "cpus", Asked: int64(r.CPUs), Enforced: r.CPUs > 0, How: clause(r.CPUs > 0, "the machine has this many processors")},
		{Resource: "memory", Asked: r.Memory, Enforced: r.Memory > 0, How: clause(r.Memory > 0, "the machine has this much; its kernel keeps some for itself")},
		{Resource: "disk", Asked: r.Disk, Enforced: r.Disk > 0, How: clause(r.Disk > 0, "size of the machine's disk")},
		{Resource: "pids", Asked: int64(r.PIDs), Enforced: false, How: clause(r.PIDs > 0, "not enforced by this engine")},
	}
}

func clause(asked bool, how string) string {
	if !asked {
		return "none asked"
	}
	return how
}

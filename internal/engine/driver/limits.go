package driver

import (
	"berth.dev/internal/engine"
	"berth.dev/internal/sandbox"
)

// Means says by what an engine holds each cap, in plain clauses. No engine
// holds the number of processes.
type Means struct{ CPUs, Memory, Disk string }

// Limits is Limits of engine.Machine for what was asked for.
func Limits(r sandbox.Resources, by Means) []engine.Limit {
	limit := func(resource string, asked int64, how string) engine.Limit {
		return engine.Limit{Resource: resource, Asked: asked, Enforced: asked > 0, How: how}
	}
	all := []engine.Limit{
		limit("cpus", int64(r.CPUs), by.CPUs),
		limit("memory", r.Memory, by.Memory),
		limit("disk", r.Disk, by.Disk),
		{Resource: "pids", Asked: int64(r.PIDs), How: "not enforced by this engine"},
	}
	for i := range all {
		if all[i].Asked <= 0 {
			all[i].How = "none asked"
		}
	}
	return all
}

package gvisor

import (
	"berth.dev/internal/engine"
	"berth.dev/internal/engine/driver"
)

// Limits implements engine.Machine. Without cgroups of the host's, which an
// ordinary user does not have, each cap holds by what the sentry itself can do.
func (m *machine) Limits() []engine.Limit {
	return driver.Limits(m.cfg.Resources, driver.Means{
		CPUs:   "the guest's kernel has this many processors",
		Memory: "the guest sees this much; the supervisor ends its largest process above it",
		Disk:   "size of the writable root file system",
	})
}

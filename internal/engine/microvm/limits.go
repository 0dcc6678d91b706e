package microvm

import (
	"berth.dev/internal/engine"
	"berth.dev/internal/engine/driver"
)

// Limits implements engine.Machine: most caps are what the machine is made of.
func (m *machine) Limits() []engine.Limit {
	return driver.Limits(m.cfg.Resources, driver.Means{
		CPUs:   "the machine has this many processors",
		Memory: "the machine has this much; its kernel keeps some for itself",
		Disk:   "size of the machine's disk",
	})
}

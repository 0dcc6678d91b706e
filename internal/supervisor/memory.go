package supervisor

import (
	"log/slog"

	"berth.dev/internal/engine"
)

// memoryCap ends the guest's largest process while the guest uses more memory
// than it was given: what the host would do by a cgroup, where an ordinary
// user has none.
type memoryCap struct {
	cap     uint64 // bytes; 0: none
	machine engine.MemoryReporter
	// reclaim ends the guest's largest process and says which.
	reclaim func() (string, error)
	log     *slog.Logger
}

// enforce looks once. It is called every second.
func (m *memoryCap) enforce() {
	if m.cap == 0 {
		return
	}
	used, err := m.machine.Memory()
	if err != nil || used <= m.cap {
		return
	}
	what, err := m.reclaim()
	m.log.Warn("the guest used more memory than it was given", "used", used, "cap", m.cap, "ended", what, "error", err)
}

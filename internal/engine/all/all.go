// Package all joins the engines that this build has: one line each.
package all

import (
	"berth.dev/internal/engine"
	"berth.dev/internal/engine/gvisor"
	"berth.dev/internal/engine/microvm"
)

// Engines returns the registry; the first is the default.
func Engines() *engine.Registry {
	return engine.NewRegistry(
		gvisor.New(),
		microvm.New(),
	)
}

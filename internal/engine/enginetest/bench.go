package enginetest

import (
	"testing"

	"berth.dev/internal/engine"
)

// BenchmarkStart measures an engine's share of a sandbox's start: create,
// start, the first process's first line, and close.
func BenchmarkStart(b *testing.B, e engine.Engine) {
	h := &harness{engine: e, root: buildRoot(b)}
	for b.Loop() {
		g := h.boot(b, h.config(b))
		must(b, g.machine.Close())
	}
}

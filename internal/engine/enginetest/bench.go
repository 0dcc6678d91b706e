package enginetest

import (
	"testing"
	"time"

	"berth.dev/internal/engine"
)

// BenchmarkStart measures an engine's share of a sandbox's start, and its
// parts: create, start, until the first process's first line, and close.
func BenchmarkStart(b *testing.B, e engine.Engine) {
	h := &harness{engine: e, root: buildRoot(b)}
	var parts [4]time.Duration
	for b.Loop() {
		cfg := h.config(b)
		begun := time.Now()
		lap := func(i int) {
			now := time.Now()
			parts[i] += now.Sub(begun)
			begun = now
		}
		g := h.create(b, cfg)
		lap(0)
		must(b, g.machine.Start(b.Context()))
		lap(1)
		g.line()
		lap(2)
		must(b, g.machine.Close())
		lap(3)
	}
	for i, name := range []string{"create-ms", "start-ms", "first-line-ms", "close-ms"} {
		b.ReportMetric(float64(parts[i].Microseconds())/1000/float64(b.N), name)
	}
}

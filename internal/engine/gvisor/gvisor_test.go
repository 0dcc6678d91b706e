package gvisor

import (
	"os"
	"testing"

	"berth.dev/internal/engine/enginetest"
	"berth.dev/internal/unprivileged"
)

func TestMain(m *testing.M) {
	Reexec()
	unprivileged.ReexecTest()
	os.Exit(m.Run())
}

func TestConformance(t *testing.T) { enginetest.Suite(t, New()) }

// BenchmarkStart is a machine from nothing to its first word, and away again.
func BenchmarkStart(b *testing.B) { enginetest.BenchmarkStart(b, New()) }

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

package gvisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/sentry/checkpoint"
	"gvisor.dev/gvisor/pkg/sentry/fscheckpoint"
	"gvisor.dev/gvisor/runsc/config"
	"gvisor.dev/gvisor/runsc/container"
	"gvisor.dev/gvisor/runsc/sandbox"

	"berth.dev/internal/engine"
	"berth.dev/internal/engine/driver"
)

// machine is a sentry and its gofer.
type machine struct {
	cfg       engine.Config
	conf      *config.Config
	container *container.Container
	keeper    *driver.Keeper
	*driver.End

	mu      sync.Mutex
	wire    *os.File // nil once the sentry has it
	started bool     // then wait runs and sets the end
	closed  bool

	// saving keeps two saves from pausing the same kernel.
	saving sync.Mutex
}

var (
	_ engine.Machine        = (*machine)(nil)
	_ engine.LayerWriter    = (*machine)(nil)
	_ engine.MemoryReporter = (*machine)(nil)
)

// Start implements engine.Machine.
func (m *machine) Start(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.wire == nil {
		return errors.New("start gvisor machine: it has been started or closed")
	}
	wire := m.wire
	m.wire = nil
	err := m.start(wire)
	if err == nil {
		m.started = true
		go m.wait()
	} else if text := panicText(m.cfg.StateDir); text != "" {
		err = fmt.Errorf("%w\n%s", err, text)
	}
	return errors.Join(err, wire.Close())
}

// wait records how the machine ended.
func (m *machine) wait() {
	ws, err := m.container.Wait()
	switch {
	case err != nil:
		m.Set(-1, fmt.Errorf("wait for the sentry: %w", err))
	case ws.Signaled():
		m.Set(128+int(ws.Signal()), nil)
	default:
		m.Set(ws.ExitStatus(), nil)
	}
}

// Signal implements engine.Machine.
func (m *machine) Signal(sig os.Signal) error {
	s, err := driver.Signal(sig)
	if err != nil {
		return err
	}
	return m.container.Sandbox.SignalContainer(m.cfg.ID, unix.Signal(s), false)
}

// Save implements engine.Machine.
func (m *machine) Save(ctx context.Context, dir string) error {
	m.saving.Lock()
	defer m.saving.Unlock()
	err := m.container.FSSave(m.conf, dir, sandbox.FSSaveOpts{
		Paths: []checkpoint.ResourceID{{Path: "/"}, {Path: fscheckpoint.AllTmpfsPath}},
	})
	if err != nil {
		return fmt.Errorf("save the guest's file systems: %w", err)
	}
	return nil
}

// WriteLayer implements engine.LayerWriter.
func (m *machine) WriteLayer(ctx context.Context, w *os.File) error {
	m.saving.Lock()
	defer m.saving.Unlock()
	if err := m.container.Sandbox.TarRootfsUpperLayer(m.cfg.ID, w); err != nil {
		return fmt.Errorf("write the guest's layer: %w", err)
	}
	return nil
}

// Memory implements engine.MemoryReporter.
func (m *machine) Memory() (uint64, error) {
	u, err := m.container.Sandbox.Usage(false)
	if err != nil {
		return 0, err
	}
	return u.Total, nil
}

// Processes implements engine.Machine.
func (m *machine) Processes() []int {
	var pids []int
	if pid := m.container.SandboxPid(); pid > 0 {
		pids = append(pids, pid)
	}
	if pid := int(m.container.GoferPid.Load()); pid > 0 {
		pids = append(pids, pid)
	}
	return pids
}

// Close implements engine.Machine.
func (m *machine) Close() error {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return nil
	}
	m.closed = true
	wire, started := m.wire, m.started
	m.wire = nil
	m.mu.Unlock()
	var err error
	if wire != nil {
		err = wire.Close()
	}
	err = errors.Join(err, m.container.Destroy())
	if started {
		<-m.Done()
	} else {
		m.Set(-1, errors.New("the machine was closed before it started"))
	}
	m.keeper.Stop()
	return errors.Join(err, os.RemoveAll(bundleDir(m.cfg)))
}

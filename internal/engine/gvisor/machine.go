package gvisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/sentry/checkpoint"
	"gvisor.dev/gvisor/pkg/sentry/fscheckpoint"
	"gvisor.dev/gvisor/runsc/config"
	"gvisor.dev/gvisor/runsc/container"
	"gvisor.dev/gvisor/runsc/sandbox"

	"berth.dev/internal/engine"
)

// machine is a sentry and its gofer.
type machine struct {
	cfg       engine.Config
	conf      *config.Config
	container *container.Container
	keeper    *keeper

	mu      sync.Mutex
	wire    *os.File // nil once the sentry has it
	started bool     // then wait runs and closes done
	closed  bool

	// saving keeps two saves from pausing the same kernel.
	saving sync.Mutex

	done   chan struct{} // closed when the machine has ended; then status and err are final
	status int
	err    error
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
		m.status, m.err = -1, fmt.Errorf("wait for the sentry: %w", err)
	case ws.Signaled():
		m.status = 128 + int(ws.Signal())
	default:
		m.status = ws.ExitStatus()
	}
	close(m.done)
}

// Wait implements engine.Machine.
func (m *machine) Wait(ctx context.Context) (int, error) {
	select {
	case <-m.done:
		return m.status, m.err
	case <-ctx.Done():
		return -1, ctx.Err()
	}
}

// Signal implements engine.Machine.
func (m *machine) Signal(sig os.Signal) error {
	s, ok := sig.(syscall.Signal)
	if !ok {
		return fmt.Errorf("signal %v is none of the system's", sig)
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
		<-m.done
	} else {
		m.status, m.err = -1, errors.New("the machine was closed before it started")
		close(m.done)
	}
	m.keeper.stop()
	return errors.Join(err, os.RemoveAll(bundleDir(m.cfg)))
}

// keeper is one operating system thread that outlives the processes made on
// it: PR_SET_PDEATHSIG fires when the creating thread ends, not the process.
type keeper struct{ work chan func() }

func newKeeper() *keeper {
	k := &keeper{work: make(chan func())}
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		for f := range k.work {
			f()
		}
	}()
	return k
}

// do runs f on the thread and returns when it has.
func (k *keeper) do(f func()) {
	done := make(chan struct{})
	k.work <- func() { defer close(done); f() }
	<-done
}

// stop ends the thread, and with it what is still attached to it.
func (k *keeper) stop() { close(k.work) }

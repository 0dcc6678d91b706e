package microvm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"berth.dev/internal/engine"
	"berth.dev/internal/engine/driver"
	"berth.dev/internal/engine/microvm/bootapi"
	"berth.dev/internal/engine/microvm/kernel"
)

// machine is a QEMU and its file server.
type machine struct {
	cfg    engine.Config
	hw     hardware
	disk   state
	keeper *driver.Keeper
	*driver.End

	qemu, server  *exec.Cmd
	console       *tail
	control       *control
	stdin, output net.Conn
	layers        net.Conn
	in, out       *os.File // duplicates of the caller's

	mu      sync.Mutex
	started bool
	closed  bool
	killed  bool // by Close, so that its end is no surprise

	copying sync.Mutex // one Save, Flush or WriteLayer at a time

	carried chan struct{} // closed when all output was carried
	stopped chan struct{} // closed when Close begins
}

var (
	_ engine.Engine         = (*Engine)(nil)
	_ engine.Preparer       = (*Engine)(nil)
	_ engine.Prober         = (*Engine)(nil)
	_ engine.Reexecer       = (*Engine)(nil)
	_ engine.Machine        = (*machine)(nil)
	_ engine.Flusher        = (*machine)(nil)
	_ engine.LayerWriter    = (*machine)(nil)
	_ engine.MemoryReporter = (*machine)(nil)
)

func newMachine(cfg engine.Config, h hardware, disk state) *machine {
	return &machine{
		cfg: cfg, hw: h, disk: disk, keeper: driver.NewKeeper(), End: driver.NewEnd(), console: &tail{},
		carried: make(chan struct{}), stopped: make(chan struct{}),
	}
}

// launch starts the processes. What it has made when it fails is Close's.
func (m *machine) launch(t tools, k kernel.Kernel) error {
	var theirs []*os.File // QEMU's ends
	defer func() {
		for _, f := range theirs {
			f.Close()
		}
	}()
	wire, err := driver.Dup(m.cfg.Network.Wire)
	if err != nil {
		return fmt.Errorf("duplicate the wire: %w", err)
	}
	theirs = append(theirs, wire)
	if m.in, err = driver.Dup(m.cfg.Stdin); err != nil {
		return err
	}
	if m.out, err = driver.Dup(m.cfg.Log); err != nil {
		return err
	}
	var control net.Conn
	for _, end := range []*net.Conn{&control, &m.stdin, &m.output, &m.layers} {
		ours, other, err := connPair()
		if err != nil {
			return err
		}
		*end = ours
		theirs = append(theirs, other)
	}
	m.control = newControl(control)
	if len(m.cfg.Mounts) > 0 {
		conn, err := m.serve(t)
		if err != nil {
			return fmt.Errorf("start the file server: %w", err)
		}
		theirs = append(theirs, conn)
	}
	qemu, err := qemuCommand(m.cfg, m.hw, t, k, m.disk)
	if err != nil {
		return err
	}
	m.qemu = qemu
	m.qemu.Env = []string{}
	m.qemu.Dir = "/"
	m.qemu.ExtraFiles = theirs
	m.qemu.Stdout, m.qemu.Stderr = m.console, m.console
	if os.Getenv(debugEnv) != "" {
		m.qemu.Stdout = io.MultiWriter(m.console, os.Stderr)
	}
	if err := m.run(m.qemu); err != nil {
		m.qemu = nil
		return fmt.Errorf("start QEMU: %w", err)
	}
	go m.wait()
	return nil
}

// debugEnv, set to anything, has the guest's kernel say all it can on this
// process's standard error, for developers.
const debugEnv = "BERTH_MICROVM_DEBUG"

// serve starts the file server and returns QEMU's connection to it.
func (m *machine) serve(t tools) (*os.File, error) {
	listener, conn, err := dialShare(m.cfg.RunDir)
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	if m.server, err = shareCommand(m.cfg, t, listener); err == nil {
		m.server.Stdout, m.server.Stderr = m.console, m.console
		m.server.Env = []string{}
		err = m.run(m.server)
	}
	if err != nil {
		m.server = nil
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// run starts a process on the thread that lives as long as the machine.
func (m *machine) run(cmd *exec.Cmd) error {
	var err error
	m.keeper.Do(func() { err = cmd.Start() })
	return err
}

// Times of a start: a kernel boots in a fraction of a second with hardware, and
// in seconds without.
const (
	bootTime     = 30 * time.Second
	emulatedTime = 3 * time.Minute
)

// Start implements engine.Machine.
func (m *machine) Start(ctx context.Context) error {
	m.mu.Lock()
	if m.started || m.closed {
		m.mu.Unlock()
		return errors.New("start microVM: it has been started or closed")
	}
	m.started = true
	m.mu.Unlock()
	limit := bootTime
	if m.hw.accel == accelTCG {
		limit = emulatedTime
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := m.boot(ctx); err != nil {
		if text := m.said(); text != "" {
			err = fmt.Errorf("%w\n%s", err, text)
		}
		return fmt.Errorf("start microVM (%s, %s): %w", m.hw.machine, m.hw.accelerated(), err)
	}
	go m.keepTime()
	return nil
}

// said is what QEMU, the file server and the guest's kernel printed last.
func (m *machine) said() string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || r >= ' ' && r < 0x7f {
			return r
		}
		return -1
	}, strings.TrimSpace(m.console.String()))
}

// boot waits for init and has it start the first process.
func (m *machine) boot(ctx context.Context) error {
	hello, err := m.control.expect(ctx, bootapi.Hello)
	if err != nil {
		return fmt.Errorf("wait for the guest's kernel: %w", err)
	}
	if hello.Version != bootapi.Version {
		return fmt.Errorf("the guest's init speaks version %d, not %d", hello.Version, bootapi.Version)
	}
	m.control.mu.Lock()
	err = m.control.send(bootapi.Request{Op: bootapi.OpBoot, Boot: bootOf(m.cfg, m.disk)})
	m.control.mu.Unlock()
	if err != nil {
		return err
	}
	if _, err := m.control.expect(ctx, bootapi.Started); err != nil {
		return err
	}
	go m.feed()
	go func() {
		defer close(m.carried)
		_, _ = io.Copy(m.out, m.output)
	}()
	return nil
}

// bootOf is what init is told of a configuration.
func bootOf(cfg engine.Config, disk state) *bootapi.Boot {
	b := &bootapi.Boot{
		Hostname: cfg.Hostname, Args: cfg.Args, Env: cfg.Env, UnixNS: time.Now().UnixNano(), DiskSize: disk.size,
		Network: bootapi.Network{MTU: cfg.Network.MTU, Addrs: cfg.Network.Addrs, Gateways: cfg.Network.Gateways},
	}
	if mac := cfg.Network.GatewayMAC; mac != nil {
		b.Network.GatewayMAC = mac.String()
	}
	for i, l := range cfg.Layers {
		b.Layers = append(b.Layers, bootapi.Layer{Disk: bootapi.DiskLayer + strconv.Itoa(i), Target: l.Guest})
	}
	for _, t := range cfg.Tmpfs {
		b.Tmpfs = append(b.Tmpfs, bootapi.Tmpfs{Target: t.Guest, Keep: t.Keep})
	}
	for i, s := range cfg.Mounts {
		b.Mounts = append(b.Mounts, bootapi.Mount{Name: strconv.Itoa(i), Target: s.Guest, ReadOnly: s.ReadOnly})
	}
	return b
}

// feed carries the first process's input, and tells its end.
func (m *machine) feed() {
	n, err := io.Copy(m.stdin, m.in)
	if err != nil {
		return // the machine is gone
	}
	ctx, cancel := context.WithTimeout(context.Background(), sendTime)
	defer cancel()
	_ = m.control.call(ctx, bootapi.Request{Op: bootapi.OpStdinEnd, Count: n})
}

// Times of the clock's upkeep.
const (
	clockLook = time.Second      // how often the host's clock is looked at
	clockSet  = 30 * time.Second // how often the guest is told it anyway
	clockJump = 100 * time.Millisecond
)

// keepTime tells the guest what time it is, now and then, and at once when the
// host's clock has jumped: it was set, or the host slept.
func (m *machine) keepTime() {
	tick := time.NewTicker(clockLook)
	defer tick.Stop()
	told, before := time.Now(), time.Now()
	for {
		select {
		case <-m.Done():
			return
		case <-m.stopped:
			return
		case <-tick.C:
		}
		now := time.Now()
		// Sub goes by the clock that stands while the host sleeps, Round(0) drops it.
		jump := now.Round(0).Sub(before.Round(0)) - now.Sub(before)
		before = now
		if jump.Abs() < clockJump && now.Sub(told) < clockSet {
			continue
		}
		told = now
		m.setTime()
	}
}

func (m *machine) setTime() {
	ctx, cancel := context.WithTimeout(context.Background(), sendTime)
	defer cancel()
	_ = m.control.call(ctx, bootapi.Request{Op: bootapi.OpTime, UnixNS: time.Now().UnixNano()})
}

// wait records how the machine ended.
func (m *machine) wait() {
	err := m.qemu.Wait()
	<-m.control.closed
	m.mu.Lock()
	killed, started := m.killed, m.started
	m.mu.Unlock()
	status, known := m.control.exit()
	ws, _ := m.qemu.ProcessState.Sys().(syscall.WaitStatus)
	switch {
	case known:
		if started {
			m.drain()
		}
		m.Set(status, nil)
	case killed || ws.Signaled():
		m.Set(128+int(syscall.SIGKILL), nil)
	default:
		m.Set(-1, fmt.Errorf("the machine ended by itself: %w", errors.Join(err, errors.New(m.said()))))
	}
}

// drainTime is how long the last output of a guest may wait for its reader.
const drainTime = 2 * time.Second

func (m *machine) drain() {
	select {
	case <-m.carried:
	case <-m.stopped:
	case <-time.After(drainTime):
	}
}

// Signal implements engine.Machine.
func (m *machine) Signal(sig os.Signal) error {
	s, err := driver.Signal(sig)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), sendTime)
	defer cancel()
	return m.control.call(ctx, bootapi.Request{Op: bootapi.OpSignal, Signal: int(s)})
}

// Times that a guest has for what it is asked.
const (
	freezeTime = 30 * time.Second
	thawTime   = 10 * time.Second
)

// Save implements engine.Machine: a copy of the disk, while the guest's writes
// to it wait.
func (m *machine) Save(ctx context.Context, dir string) (err error) {
	m.copying.Lock()
	defer m.copying.Unlock()
	freezing, cancel := context.WithTimeout(ctx, freezeTime)
	defer cancel()
	err = m.control.call(freezing, bootapi.Request{Op: bootapi.OpFreeze})
	defer func() {
		// Also when freezing took too long: it may yet come about.
		thawing, cancel := context.WithTimeout(context.WithoutCancel(ctx), thawTime)
		defer cancel()
		if terr := m.control.call(thawing, bootapi.Request{Op: bootapi.OpThaw}); err == nil && terr != nil {
			err = fmt.Errorf("go on after the save: %w", terr)
		}
	}()
	if err != nil {
		return fmt.Errorf("freeze the guest's disk: %w", err)
	}
	if err := copyDisk(m.disk.path, filepath.Join(dir, stateFile)); err != nil {
		return fmt.Errorf("copy the guest's disk: %w", err)
	}
	return nil
}

// Flush implements engine.Flusher.
func (m *machine) Flush(ctx context.Context) error {
	m.copying.Lock()
	defer m.copying.Unlock()
	ctx, cancel := context.WithTimeout(ctx, freezeTime)
	defer cancel()
	if err := m.control.call(ctx, bootapi.Request{Op: bootapi.OpSync}); err != nil {
		return fmt.Errorf("flush the guest's disk: %w", err)
	}
	f, err := os.OpenFile(m.disk.path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// WriteLayer implements engine.LayerWriter. The guest makes the tar, so its
// reader has to be as careful with it as with any other of a stranger's.
func (m *machine) WriteLayer(ctx context.Context, w *os.File) error {
	m.copying.Lock()
	defer m.copying.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- m.control.call(ctx, bootapi.Request{Op: bootapi.OpLayer}) }()
	stop := context.AfterFunc(ctx, func() { _ = m.layers.SetReadDeadline(time.Now()) })
	_, err := io.Copy(w, bootapi.NewChunkReader(m.layers))
	stop()
	_ = m.layers.SetReadDeadline(time.Time{})
	if err != nil {
		cancel()
		return fmt.Errorf("write the guest's layer: %w", errors.Join(err, <-done))
	}
	if err := <-done; err != nil {
		return fmt.Errorf("write the guest's layer: %w", err)
	}
	return nil
}

// Memory implements engine.MemoryReporter: what the guest's memory takes of the
// host's, which the guest's own size bounds.
func (m *machine) Memory() (uint64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", m.qemu.Process.Pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(data))
	if len(fields) < 3 {
		return 0, errors.New("read QEMU's memory")
	}
	// The third field is what is shared with others: the guest's memory is a
	// file in memory.
	pages, err := strconv.ParseUint(fields[2], 10, 64)
	if err != nil {
		return 0, err
	}
	return min(pages*uint64(os.Getpagesize()), uint64(memory(m.cfg.Resources.Memory))), nil
}

// Processes implements engine.Machine.
func (m *machine) Processes() []int {
	var pids []int
	for _, cmd := range []*exec.Cmd{m.qemu, m.server} {
		if cmd != nil && cmd.Process != nil {
			pids = append(pids, cmd.Process.Pid)
		}
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
	m.closed, m.killed = true, true
	m.mu.Unlock()
	close(m.stopped)
	var errs []error
	if m.qemu != nil {
		_ = m.qemu.Process.Kill() // it may have ended
		<-m.Done()
	} else {
		m.Set(-1, errors.New("the machine was closed before it started"))
	}
	if m.server != nil {
		_ = m.server.Process.Kill()
		_ = m.server.Wait() // its status says that it was killed
	}
	m.keeper.Stop()
	for _, c := range []net.Conn{m.stdin, m.output, m.layers} {
		if c != nil {
			c.Close()
		}
	}
	if m.control != nil {
		m.control.conn.Close()
	}
	for _, f := range []*os.File{m.in, m.out} {
		if f != nil {
			f.Close()
		}
	}
	for _, name := range []string{shareDir, shareSocket, jailDir} {
		if err := os.Remove(filepath.Join(m.cfg.RunDir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// connPair makes two connected stream sockets: one for this process, one for
// QEMU.
func connPair() (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "port"), os.NewFile(uintptr(fds[1]), "port")
	defer ours.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	return conn, theirs, nil
}

package enginetest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/erofs/go-erofs"

	"berth.dev/internal/engine"
)

// Fake is an engine in memory, for tests of what stands above one. Its guest
// is the suite's probe, played by the fake itself; workspaces are the real
// folders. It passes the suite, so what is tested with it holds with the
// others. Its fields may be set before Create and make it go wrong.
type Fake struct {
	CreateErr, StartErr, SaveErr error

	mu       sync.Mutex
	machines []*FakeMachine
}

// NewFake returns a fake that works.
func NewFake() *Fake { return &Fake{} }

// Name implements engine.Engine.
func (*Fake) Name() string { return "fake" }

// Build implements engine.Engine.
func (*Fake) Build() string { return "fake-1" }

// Features implements engine.Engine.
func (*Fake) Features() engine.Features { return engine.Features{Save: true, Layer: true} }

// Check implements engine.Engine.
func (*Fake) Check(context.Context) error { return nil }

// Machines are all that were made, in order.
func (f *Fake) Machines() []*FakeMachine {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]*FakeMachine(nil), f.machines...)
}

// Create implements engine.Engine.
func (f *Fake) Create(_ context.Context, cfg engine.Config) (engine.Machine, error) {
	if f.CreateErr != nil {
		return nil, f.CreateErr
	}
	files := newTree(cfg)
	for guest, file := range images(cfg) {
		if err := files.load(guest, file); err != nil {
			return nil, fmt.Errorf("read %s: %w", file, err)
		}
	}
	if cfg.Restore != "" {
		if err := files.restore(cfg.Restore); err != nil {
			return nil, err
		}
	}
	m := &FakeMachine{fake: f, cfg: cfg, files: files, done: make(chan struct{}), uid: 1000}
	var err error
	for _, d := range []struct {
		to   **os.File
		from *os.File
	}{{&m.in, cfg.Stdin}, {&m.out, cfg.Log}, {&m.wire, cfg.Network.Wire}} {
		if *d.to, err = dup(d.from); err != nil {
			return nil, errors.Join(err, m.Close())
		}
	}
	f.mu.Lock()
	f.machines = append(f.machines, m)
	f.mu.Unlock()
	return m, nil
}

// images are the EROFS files of a machine by their place in it.
func images(cfg engine.Config) map[string]string {
	all := map[string]string{"/": cfg.Root}
	for _, l := range cfg.Layers {
		all[l.Guest] = l.File
	}
	return all
}

func dup(f *os.File) (*os.File, error) {
	fd, err := syscall.Dup(int(f.Fd()))
	if err != nil {
		return nil, err
	}
	syscall.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// load adds the files of an image below a folder of the guest.
func (t *tree) load(guest, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	img, err := erofs.Open(f)
	if err != nil {
		return err
	}
	return fs.WalkDir(img, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		n := &node{Mode: unixMode(info.Mode()), Size: info.Size(), lower: true}
		if info.Mode().IsRegular() && info.Size() < 1<<16 {
			data, err := fs.ReadFile(img, name)
			if err != nil {
				return err
			}
			n.Data = string(data)
		}
		t.Nodes[filepath.Join(guest, name)] = n
		return nil
	})
}

// FakeMachine is a machine of a Fake.
type FakeMachine struct {
	fake          *Fake
	cfg           engine.Config
	in, out, wire *os.File

	mu      sync.Mutex // the guest's kernel, so to say
	files   *tree
	uid     int
	started bool
	saves   int

	end    sync.Once
	done   chan struct{}
	status int
}

var (
	_ engine.Machine        = (*FakeMachine)(nil)
	_ engine.LayerWriter    = (*FakeMachine)(nil)
	_ engine.MemoryReporter = (*FakeMachine)(nil)
)

// Start implements engine.Machine.
func (m *FakeMachine) Start(context.Context) error {
	if m.fake.StartErr != nil {
		return m.fake.StartErr
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.started {
		return errors.New("it has been started")
	}
	m.started = true
	go m.play()
	return nil
}

// play is the probe's loop.
func (m *FakeMachine) play() {
	fmt.Fprintln(m.out, "ok ready")
	in := bufio.NewReader(m.in)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return // stay up, as the probe does
		}
		var words []string
		if err := json.Unmarshal(line, &words); err != nil || len(words) == 0 {
			fmt.Fprintf(m.out, "error %q\n", "bad command")
			continue
		}
		if words[0] == "exit" {
			var code int
			_, _ = fmt.Sscan(words[1], &code)
			m.Die(code)
			return
		}
		fmt.Fprintln(m.out, m.answer(words))
	}
}

// answer is the probe's line for a command.
func (m *FakeMachine) answer(words []string) string {
	text, err := m.run(words)
	if err != nil {
		return fmt.Sprintf("error %q", err.Error())
	}
	return fmt.Sprintf("ok %q", text)
}

// Die ends the machine with a status, as if its first process had ended.
func (m *FakeMachine) Die(status int) {
	m.end.Do(func() {
		m.status = status
		close(m.done)
	})
}

// Wait implements engine.Machine.
func (m *FakeMachine) Wait(ctx context.Context) (int, error) {
	select {
	case <-m.done:
		return m.status, nil
	case <-ctx.Done():
		return -1, ctx.Err()
	}
}

// Signal implements engine.Machine; the guest ends with 7 at SIGTERM.
func (m *FakeMachine) Signal(sig os.Signal) error {
	if sig == syscall.SIGTERM {
		m.Die(7)
	}
	return nil
}

// Save implements engine.Machine.
func (m *FakeMachine) Save(_ context.Context, dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fake.SaveErr != nil {
		return m.fake.SaveErr
	}
	m.saves++
	return m.files.save(dir)
}

// Saves is how often it was saved.
func (m *FakeMachine) Saves() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.saves
}

// WriteLayer implements engine.LayerWriter.
func (m *FakeMachine) WriteLayer(_ context.Context, w *os.File) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.files.writeLayer(w)
}

// Memory implements engine.MemoryReporter.
func (m *FakeMachine) Memory() (uint64, error) { return 1 << 20, nil }

// Limits implements engine.Machine.
func (m *FakeMachine) Limits() []engine.Limit {
	r := m.cfg.Resources
	return []engine.Limit{
		{Resource: "cpus", Asked: int64(r.CPUs), Enforced: r.CPUs > 0, How: "played"},
		{Resource: "memory", Asked: r.Memory, Enforced: r.Memory > 0, How: "played"},
		{Resource: "disk", Asked: r.Disk, Enforced: r.Disk > 0, How: "played"},
	}
}

// Processes implements engine.Machine: there are none.
func (*FakeMachine) Processes() []int { return nil }

// Close implements engine.Machine.
func (m *FakeMachine) Close() error {
	m.Die(137)
	// The fields stay as they are: the guest's goroutine reads them, and a file
	// that is closed, or was never there, answers every call with an error.
	for _, f := range []*os.File{m.in, m.out, m.wire} {
		_ = f.Close()
	}
	return nil
}

// FakeOnly makes a machine of a fake without an image, for tests that need no
// guest. It is closed when the test ends.
func FakeOnly(t interface{ Cleanup(func()) }, f *Fake) (engine.Machine, error) {
	m := &FakeMachine{fake: f, files: newTree(engine.Config{}), done: make(chan struct{})}
	t.Cleanup(func() { _ = m.Close() })
	return m, f.CreateErr
}

// Package microvm is the engine with a hardware boundary: QEMU of the host's
// distribution boots the kernel of the template's distribution, with KVM where
// a probe shows that it works, and by emulation otherwise. A machine is two
// processes: QEMU, and a file server (virtiofsd) when there is something of the
// host's to show.
//
// The package owns how a Config becomes a virtual machine and how its init
// (package main in init) is told what to do. It does not know what runs inside
// or where the wire goes. What is fetched for all machines, the kernel, lies
// below Config.CacheDir.
package microvm

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"berth.dev/internal/engine"
	"berth.dev/internal/engine/microvm/kernel"
	"berth.dev/internal/sandbox"
	"berth.dev/internal/unwind"
)

// Engine makes microVMs.
type Engine struct {
	// machine and accel force a machine type and an accelerator, for tests.
	machine, accel string
}

// New returns the engine. It touches nothing.
func New() *Engine { return &Engine{} }

// Name implements engine.Engine.
func (*Engine) Name() string { return "microvm" }

// build names the form of what is kept in a StateDir and in a Save: a disk,
// which any kernel reads. It does not name QEMU or the kernel.
const build = "microvm-disk-1"

// Build implements engine.Engine.
func (*Engine) Build() string { return build }

// Features implements engine.Engine.
func (*Engine) Features() engine.Features {
	return engine.Features{Save: true, Layer: true, Persistent: true, Checksums: true, Netfilter: true}
}

// Check implements engine.Engine.
func (*Engine) Check(ctx context.Context) error {
	if _, err := findTools(ctx); err != nil {
		return err
	}
	return checkNamespaces(ctx)
}

//go:embed all:bin
var files embed.FS

// kernels is the store of kernels below a cache folder.
func kernels(cacheDir string) (kernel.Store, error) {
	data, err := files.ReadFile("bin/init")
	if err != nil {
		return kernel.Store{}, sandbox.Errorf(sandbox.ErrInternal, "this berth was built without the init of microVMs").
			WithHint("build it with: make install")
	}
	if !filepath.IsAbs(cacheDir) {
		return kernel.Store{}, sandbox.Errorf(sandbox.ErrInternal, "the cache folder %q is not absolute", cacheDir)
	}
	return kernel.Store{Dir: filepath.Join(cacheDir, "microvm"), Packages: filepath.Join(cacheDir, "debian"), Init: data}, nil
}

// Prepare implements engine.Preparer.
func (e *Engine) Prepare(ctx context.Context, cacheDir string, progress func(what string, done, total int64)) error {
	s, err := kernels(cacheDir)
	if err != nil {
		return err
	}
	s.Progress = progress
	return s.Refresh(ctx)
}

// Probe implements engine.Prober.
func (e *Engine) Probe(ctx context.Context, cacheDir string) (string, error) {
	t, err := findTools(ctx)
	if err != nil {
		return "", err
	}
	if cacheDir != "" {
		cacheDir = filepath.Join(cacheDir, "microvm")
	}
	h, err := e.hardware(ctx, t, cacheDir)
	if err != nil {
		return "", err
	}
	how := fmt.Sprintf("QEMU %s, machine %s, %s", t.qemuVersion, h.machine, h.accelerated())
	if h.accel == accelKVM {
		return how, nil
	}
	return how, h.slow
}

// Create implements engine.Engine: it starts QEMU, whose kernel then boots up to
// its init, which waits for Start.
func (e *Engine) Create(ctx context.Context, cfg engine.Config) (engine.Machine, error) {
	var undo unwind.Stack
	m, err := e.create(ctx, cfg, &undo)
	if err != nil {
		return nil, fmt.Errorf("create microVM: %w", errors.Join(err, undo.Undo()))
	}
	return m, nil
}

func (e *Engine) create(ctx context.Context, cfg engine.Config, undo *unwind.Stack) (*machine, error) {
	t, err := findTools(ctx)
	if err != nil {
		return nil, err
	}
	if asked := cfg.Resources.Memory; asked > 0 && asked < smallestMemory {
		return nil, sandbox.Errorf(sandbox.ErrInvalid, "a microVM cannot run in %d MB: its kernel needs a part of that", asked>>20).
			WithHint("ask for %d MB or more", smallestMemory>>20)
	}
	s, err := kernels(cfg.CacheDir)
	if err != nil {
		return nil, err
	}
	k, err := s.Ensure(ctx)
	if err != nil {
		return nil, err
	}
	h, err := e.hardware(ctx, t, filepath.Join(cfg.CacheDir, "microvm"))
	if err != nil {
		return nil, err
	}
	for _, file := range images(cfg) {
		if err := checkImage(file); err != nil {
			return nil, err
		}
	}
	for _, dir := range []string{cfg.StateDir, cfg.RunDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	disk, err := openState(cfg)
	if err != nil {
		return nil, err
	}
	m := newMachine(cfg, h, disk)
	undo.Push(m.Close)
	return m, m.launch(t, k)
}

// images are the EROFS files of a machine.
func images(cfg engine.Config) []string {
	all := []string{cfg.Root}
	for _, l := range cfg.Layers {
		all = append(all, l.File)
	}
	return all
}

// checkImage looks whether a file is an EROFS image at all, which a boot would
// find out much later.
func checkImage(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	var magic [4]byte
	if _, err := f.ReadAt(magic[:], 1024); err != nil || magic != [4]byte{0xe2, 0xe1, 0xf5, 0xe0} {
		return sandbox.Errorf(sandbox.ErrInvalid, "%s is no EROFS image", file)
	}
	return nil
}

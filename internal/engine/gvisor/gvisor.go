// Package gvisor is the engine that needs nothing of the host: gVisor's
// user-space kernel (the sentry), embedded as a library. A machine is two more
// processes of this same binary, the sentry and the gofer, re-executed as
// `boot` and `gofer`; main hands those over with Reexec before anything else.
//
// The package owns how a Config becomes a sentry and how a sentry is fed,
// saved and ended. It does not know what runs inside or where the wire goes.
// Because gVisor donates the process's own standard streams to the guest and
// marks every descriptor close-on-exec while it forks, at most one Create runs
// at a time in a process; Berth's supervisor makes one machine and no more.
package gvisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/runsc/config"
	"gvisor.dev/gvisor/runsc/container"
	"gvisor.dev/gvisor/runsc/flag"

	"berth.dev/internal/engine"
	"berth.dev/internal/engine/driver"
	"berth.dev/internal/engine/gvisor/programs"
	"berth.dev/internal/sandbox"
	"berth.dev/internal/unwind"
)

// build names the embedded gVisor; a save can be read by the build that wrote
// it. It is a variable so that a test can link a second build.
var build = "gvisor-" + programs.GVisor

// Engine makes gVisor machines.
type Engine struct{}

// New returns the engine. It touches nothing.
func New() *Engine { return &Engine{} }

// Name implements engine.Engine.
func (*Engine) Name() string { return "gvisor" }

// Build implements engine.Engine.
func (*Engine) Build() string { return build + "-" + runtime.GOARCH }

// Features implements engine.Engine.
func (*Engine) Features() engine.Features { return engine.Features{Save: true, Layer: true} }

// Check implements engine.Engine: gVisor needs user namespaces, which are what
// isolates its own host processes.
func (*Engine) Check(ctx context.Context) error {
	if cgo {
		return sandbox.Errorf(sandbox.ErrInternal, "this program was built with cgo, and so cannot run without the host's libraries").
			WithHint("build and test with CGO_ENABLED=0, as make does")
	}
	cmd := exec.CommandContext(ctx, "/proc/self/exe", probeArg)
	cmd.Env = []string{}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: sandbox.UserUID, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: sandbox.UserGID, HostID: os.Getegid(), Size: 1}},
	}
	if err := cmd.Run(); err != nil {
		return sandbox.Errorf(sandbox.ErrUnavailable, "this host does not let an ordinary user make user namespaces: %w", err).
			WithHint("%s", userNamespaceHint("/"))
	}
	return nil
}

// createMu guards os.Stdin, os.Stdout and os.Stderr while they stand for the
// guest's.
var createMu sync.Mutex

// Create implements engine.Engine.
func (e *Engine) Create(ctx context.Context, cfg engine.Config) (engine.Machine, error) {
	createMu.Lock()
	defer createMu.Unlock()
	quiet()
	var undo unwind.Stack
	m, err := create(cfg, &undo)
	if err != nil {
		err = errors.Join(err, undo.Undo())
		if text := panicText(cfg.StateDir); text != "" {
			err = fmt.Errorf("%w\n%s", err, text)
		}
		return nil, fmt.Errorf("create gvisor machine: %w", err)
	}
	return m, nil
}

func create(cfg engine.Config, undo *unwind.Stack) (*machine, error) {
	filestore := filepath.Join(cfg.StateDir, "root")
	for _, dir := range []string{filestore, cfg.RunDir, bundleDir(cfg)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	spec, err := newSpec(cfg, filestore)
	if err != nil {
		return nil, err
	}
	if err := writeBundle(cfg, spec); err != nil {
		return nil, err
	}
	undo.Push(func() error { return os.RemoveAll(bundleDir(cfg)) })
	conf, err := newConfig(cfg, filestore)
	if err != nil {
		return nil, err
	}
	wire, err := driver.Dup(cfg.Network.Wire)
	if err != nil {
		return nil, fmt.Errorf("duplicate the wire: %w", err)
	}
	m := &machine{cfg: cfg, conf: conf, wire: wire, End: driver.NewEnd(), keeper: driver.NewKeeper()}
	undo.Push(wire.Close)
	undo.Push(func() error { m.keeper.Stop(); return nil })
	args := container.Args{
		ID: cfg.ID, Spec: spec, BundleDir: bundleDir(cfg), Attached: true,
		FSRestoreImagePath: cfg.Restore,
	}
	// The sentry and the gofer are told to die with the thread that made them,
	// so that thread has to live as long as they do.
	m.keeper.Do(func() {
		restore := asStdio(cfg.Stdin, cfg.Log)
		defer restore()
		m.container, err = container.New(conf, args)
	})
	if err != nil {
		return nil, err
	}
	return m, nil
}

// asStdio makes the guest's streams those that gVisor takes for its own.
func asStdio(stdin, out *os.File) (restore func()) {
	in, o, e := os.Stdin, os.Stdout, os.Stderr
	os.Stdin, os.Stdout, os.Stderr = stdin, out, out
	return func() { os.Stdin, os.Stdout, os.Stderr = in, o, e }
}

func bundleDir(cfg engine.Config) string { return filepath.Join(cfg.StateDir, "oci") }

// writeBundle writes what the re-executed processes read: the OCI spec, and
// the caps that gVisor has no configuration for.
func writeBundle(cfg engine.Config, spec *specs.Spec) error {
	files := map[string]any{"config.json": spec, capsFile: cfg.Resources}
	for name, v := range files {
		data, err := json.Marshal(v)
		if err != nil {
			return err
		}
		// Never durable: it is made anew at each start.
		if err := os.WriteFile(filepath.Join(bundleDir(cfg), name), data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// newConfig returns gVisor's configuration. Each flag says why it is there.
func newConfig(cfg engine.Config, filestore string) (*config.Config, error) {
	fs := flag.NewFlagSet("gvisor", flag.ContinueOnError)
	config.RegisterFlags(fs)
	err := fs.Parse([]string{
		"--root=" + cfg.RunDir,
		"--platform=systrap",               // needs no hardware virtualisation
		"--network=none",                   // the wire is ours; see setNetwork
		"--rootless",                       // no chown of donated streams
		"--ignore-cgroups",                 // an ordinary user has none to give
		"--overlay2=root:dir=" + filestore, // writes go to a file, not to memory
		"--allow-suid",                     // sudo
		"--net-raw",                        // ping and dockerd look for CAP_NET_RAW
		"--allow-packet-socket-write",      // dockerd announces addresses by ARP
		"--allow-rootfs-tar-annotation",    // the portable half of a save
		"--host-settings=ignore",           // advice to root, which we are not
		"--sidecar-usage-policy=LEGACY_DEPRECATED_SLOW_EMBEDDED_FALLBACK", // this binary is all there is
		"--panic-log=" + filepath.Join(cfg.StateDir, panicLog),            // else an early end says only EOF
		// Patching the guest's system calls into jumps costs each new process more
		// than it saves: without it a shell script runs a fifth faster.
		"--systrap-disable-syscall-patching",
		"--traceback=single",
	})
	if err != nil {
		return nil, fmt.Errorf("configure gvisor: %w", err)
	}
	if dir := os.Getenv(debugEnv); dir != "" {
		for name, value := range map[string]string{"debug": "true", "debug-log": dir + "/", "strace": "true"} {
			if err := fs.Set(name, value); err != nil {
				return nil, err
			}
		}
	}
	return config.NewFromFlags(fs)
}

// debugEnv names a folder for gVisor's own debug logs, for its developers.
const debugEnv = "BERTH_GVISOR_DEBUG"

// panicLog is where a sentry that dies writes why.
const panicLog = "panic.log"

func panicText(dir string) string {
	data, err := os.ReadFile(filepath.Join(dir, panicLog))
	if err != nil || len(data) == 0 {
		return ""
	}
	return string(data[:min(len(data), 4096)])
}

var quietOnce sync.Once

// quiet drops gVisor's own log in this process: what goes wrong comes back as
// an error, and its advice (sidecars, shared roots) is for another way of use.
func quiet() {
	quietOnce.Do(func() {
		if os.Getenv(debugEnv) == "" {
			log.SetTarget(log.GoogleEmitter{Writer: &log.Writer{Next: io.Discard}})
		}
	})
}

package manager

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"syscall"

	"berth.dev/internal/bundle"
	"berth.dev/internal/control"
	"berth.dev/internal/engine"
	"berth.dev/internal/hostdir"
	"berth.dev/internal/sandbox"
	"berth.dev/internal/secret"
	"berth.dev/internal/supervisor"
	"berth.dev/internal/unprivileged"
)

// Start makes sure that the sandbox runs and returns a client of its
// supervisor. Of several callers at once, in whatever processes, one starts it
// and the others wait for that.
func (m *Manager) Start(ctx context.Context, b *bundle.Bundle) (*control.Client, error) {
	if c := running(b); c != nil {
		return c, nil
	}
	unlock, err := b.StartLock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if c := running(b); c != nil {
		return c, nil
	}
	if err := m.prepareEngine(ctx, b); err != nil {
		return nil, err
	}
	socket, err := m.spawn(ctx, b)
	if err != nil {
		return nil, err
	}
	return control.NewClient(socket), nil
}

// prepareEngine has the engine fetch what its machines need, where a person sees
// it: a supervisor has no terminal.
func (m *Manager) prepareEngine(ctx context.Context, b *bundle.Bundle) error {
	eng, err := m.cfg.Engines.Lookup(b.Spec().Engine)
	if err != nil {
		return err
	}
	p, ok := eng.(engine.Preparer)
	if !ok {
		return nil
	}
	dir, err := m.cfg.Dirs.Cache()
	if err != nil {
		return err
	}
	if err := eng.Check(ctx); err != nil {
		return err
	}
	said := ""
	return p.Prepare(ctx, dir, func(what string, _, _ int64) {
		if m.cfg.Notify != nil && what != said {
			m.cfg.Notify(what)
		}
		said = what
	})
}

func running(b *bundle.Bundle) *control.Client {
	info := b.Info()
	if info.Status != sandbox.Running || info.State.Socket == "" {
		return nil
	}
	return control.NewClient(info.State.Socket)
}

// spawn runs a supervisor, detached from this process's session and streams,
// and waits until it says that the sandbox runs, or why not.
func (m *Manager) spawn(ctx context.Context, b *bundle.Bundle) (socket string, err error) {
	exe, err := m.executableFor(b)
	if err != nil {
		return "", err
	}
	log, err := openSupervisorLog(b)
	if err != nil {
		return "", err
	}
	defer log.Close()
	in, start, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer start.Close()
	started, out, err := os.Pipe()
	if err != nil {
		in.Close()
		return "", err
	}
	defer started.Close()
	cmd := exec.Command(exe, "supervise", b.Name())
	cmd.Args[0] = "berth"
	cmd.Env = supervisorEnv(os.Environ())
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{in, out}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	unprivileged.Apply(cmd)
	err = cmd.Start()
	in.Close()
	out.Close()
	if err != nil {
		return "", m.explain(ctx, b, fmt.Errorf("start a supervisor: %w", err))
	}
	go func() { _ = cmd.Wait() }() // while this process lives, it is the one to reap it
	// One that ends before it has read this says why, or its log does.
	werr := control.WriteLine(start, control.Start{Version: control.Version, Bundle: b.Name()})
	defer context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(syscall.SIGTERM); started.Close() })()
	var answer control.Started
	if err := control.ReadLine(bufio.NewReader(started), &answer); err != nil {
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		return "", m.explain(ctx, b, sandbox.Errorf(sandbox.ErrInternal, "the supervisor of sandbox %s ended before it answered: %w", b.Name(), errors.Join(err, werr)).
			WithHint("look at its log: %s", log.Name()))
	}
	if answer.Error != nil {
		return "", m.explain(ctx, b, answer.Error.Unwrap())
	}
	return answer.Socket, nil
}

// explain asks the engine, after a start that did not work, whether this host
// can run it at all: that answer helps more than what went wrong first.
func (m *Manager) explain(ctx context.Context, b *bundle.Bundle, err error) error {
	eng, lerr := m.cfg.Engines.Lookup(b.Spec().Engine)
	if lerr != nil {
		return err
	}
	if cerr := eng.Check(ctx); cerr != nil {
		return cerr
	}
	return err
}

// supervisorEnv is what a supervisor inherits: what it needs to find its
// folders, programs and the host's network set-up, and nothing else. A key in
// the user's environment must not live on in a process that lasts for days.
func supervisorEnv(environ []string) []string {
	keep := map[string]bool{
		"HOME": true, "PATH": true, "USER": true, "LOGNAME": true, "LANG": true, "TZ": true, "TMPDIR": true,
		"BERTH_HOME": true, "BERTH_GVISOR_DEBUG": true, "BERTH_MICROVM_DEBUG": true,
		"XDG_DATA_HOME": true, "XDG_CONFIG_HOME": true, "XDG_RUNTIME_DIR": true,
		"SSL_CERT_FILE": true, "SSL_CERT_DIR": true,
		// The way to the internet, and the desktop to tell of questions.
		"HTTP_PROXY": true, "HTTPS_PROXY": true, "NO_PROXY": true, "http_proxy": true, "https_proxy": true, "no_proxy": true,
		"DBUS_SESSION_BUS_ADDRESS": true,
		// What the commands of secrets are given is added below. Who commits.
		"GIT_AUTHOR_NAME": true, "GIT_AUTHOR_EMAIL": true, "EMAIL": true,
		"GIT_CONFIG_GLOBAL": true, "GIT_CONFIG_SYSTEM": true, "GIT_CONFIG_NOSYSTEM": true,
	}
	var env []string
	for _, kv := range environ {
		for i := range len(kv) {
			if kv[i] == '=' {
				if keep[kv[:i]] || secret.CommandVar(kv[:i]) {
					env = append(env, kv)
				}
				break
			}
		}
	}
	return env
}

// openSupervisorLog opens the log that a supervisor's own streams go to. What
// the last one wrote is kept once beside it.
func openSupervisorLog(b *bundle.Bundle) (*os.File, error) {
	path := b.LogDir() + "/" + bundle.SupervisorLog + ".log"
	if info, err := os.Stat(path); err == nil && info.Size() > 1<<20 {
		if err := os.Rename(path, path+".1"); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
}

// OpenSupervised is the function that supervisor.Main calls to find what it is
// to run; the supervise command passes it on.
func OpenSupervised(dirs hostdir.Dirs, engines *engine.Registry) func(control.Start) (supervisor.Config, error) {
	return func(start control.Start) (supervisor.Config, error) {
		bundles, images, err := openStores(dirs)
		if err != nil {
			return supervisor.Config{}, err
		}
		b, err := bundles.Find(start.Bundle)
		if err != nil {
			return supervisor.Config{}, err
		}
		cfg := supervisor.Config{
			Bundle: b, Images: images, Engines: engines,
			Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		}
		eng, err := engines.Lookup(b.Spec().Engine)
		if err != nil {
			return cfg, err
		}
		cfg.KeepBuild = func() error { return keep(dirs, eng.Build()) }
		var errs [4]error
		cfg.GuestDir, errs[0] = dirs.Guest()
		cfg.RunDir, errs[1] = runDir(dirs, b.ID())
		cfg.Socket, errs[2] = dirs.Socket(b.ID())
		cfg.CacheDir, errs[3] = dirs.Cache()
		if err := errors.Join(errs[:]...); err != nil {
			return cfg, err
		}
		return cfg, networkOf(&cfg, dirs, b)
	}
}

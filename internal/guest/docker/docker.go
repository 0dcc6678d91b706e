// Package docker starts the guest's own Docker daemon when somebody first
// connects to its socket, and again after it died: PID 1 keeps the listening
// socket and hands it to dockerd as systemd's socket activation does
// (sd_listen_fds(3)), so no byte passes through here. It knows how to start
// dockerd and nothing of what that does.
package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"berth.dev/internal/guest/reap"
	"berth.dev/internal/guestapi"
)

// young is the age below which the end of a daemon means that it could not
// start, rather than that somebody stopped it.
const young = 10 * time.Second

// maxLog bounds the log that one daemon finds; longer ones begin anew.
const maxLog = 8 << 20

// Config is what an Activator works with.
type Config struct {
	guestapi.Docker
	Reaper *reap.Reaper
	Path   string            // where dockerd is searched, as PATH
	Env    map[string]string // of the daemon
	Self   string            // this program, whose exec-listen starts the daemon
	Trust  bool              // containers are to trust the sandbox's authority
	GID    int               // group of the socket, -1 for none
	Root   string            // of all paths below; "/" but in tests
	Logf   func(format string, args ...any)
}

// The files that are touched, under Config.Root.
const (
	socketPath = "var/run/docker.sock"
	logPath    = "var/log/dockerd.log"
	configPath = "etc/docker/daemon.json"
)

// pidFiles are left behind by a daemon that was killed or restored from a
// save; dockerd takes whatever has that number now for itself.
var pidFiles = []string{"var/run/docker.pid", "var/run/docker/containerd/containerd.pid"}

// Activator is a listening socket and the daemon behind it.
type Activator struct {
	cfg     Config
	dockerd string
	socket  *os.File
}

// Listen makes the socket. It returns nil and no error when the template has
// no dockerd.
func Listen(cfg Config) (*Activator, error) {
	a := &Activator{cfg: cfg, dockerd: find(cfg.Path)}
	if a.dockerd == "" {
		return nil, nil
	}
	path := a.path(socketPath)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	_ = os.Remove(path) // a saved root file system has the previous one
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	a.socket = os.NewFile(uintptr(fd), path)
	// Until the mode is set only root may connect, by the umask.
	err = unix.Bind(fd, &unix.SockaddrUnix{Name: path})
	if err == nil && cfg.GID >= 0 && os.Geteuid() == 0 {
		err = os.Chown(path, 0, cfg.GID)
	}
	if err == nil {
		err = os.Chmod(path, 0o660)
	}
	if err == nil {
		err = unix.Listen(fd, 128)
	}
	if err != nil {
		a.socket.Close()
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return a, nil
}

func (a *Activator) path(p string) string { return filepath.Join(a.cfg.Root, p) }

func find(path string) string {
	for _, dir := range filepath.SplitList(path) {
		p := filepath.Join(dir, "dockerd")
		if fi, err := os.Stat(p); err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
			return p
		}
	}
	return ""
}

// Run serves the socket until ctx is done, and then ends the daemon's process
// without waiting for it.
func (a *Activator) Run(ctx context.Context) {
	defer a.socket.Close()
	stop := context.AfterFunc(ctx, func() { a.socket.Close() })
	defer stop()
	for a.waitConnection() == nil {
		began := time.Now()
		reason := a.daemon(ctx)
		if ctx.Err() != nil {
			return
		}
		a.cfg.Logf("dockerd: %s", guestapi.Printable(reason, 512))
		if time.Since(began) < young {
			a.refuse(reason)
		}
	}
}

// waitConnection waits until somebody connects, without accepting: that is
// for the daemon.
func (a *Activator) waitConnection() error {
	raw, err := a.socket.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Read(func(fd uintptr) bool {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(p, 0)
		return err == nil && n > 0
	})
}

// daemon runs one dockerd to its end and says how that came.
func (a *Activator) daemon(ctx context.Context) string {
	a.prepare()
	log, err := a.openLog()
	if err != nil {
		return err.Error()
	}
	defer log.Close()
	proc, err := a.start(log)
	if err != nil {
		return fmt.Sprintf("start %s: %v", a.dockerd, err)
	}
	select {
	case <-proc.Done():
	case <-ctx.Done():
		_ = proc.Signal(unix.SIGTERM, false)
		return ctx.Err().Error()
	}
	ws := proc.Status()
	if ws.Signaled() {
		return fmt.Sprintf("ended by signal %s", ws.Signal())
	}
	return fmt.Sprintf("ended with status %d: %s", ws.ExitStatus(), lastLine(a.path(logPath)))
}

func (a *Activator) start(log *os.File) (*reap.Proc, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	raw, err := a.socket.SyscallConn()
	if err != nil {
		return nil, err
	}
	argv := append([]string{a.cfg.Self, "exec-listen", a.dockerd}, a.flags()...)
	env := []string{"PATH=" + a.searchPath(), "HOME=/root", "LISTEN_FDS=1", "LISTEN_FDNAMES=docker.socket"}
	for k, v := range a.cfg.Env {
		if k != "PATH" && k != "HOME" {
			env = append(env, k+"="+v)
		}
	}
	var proc *reap.Proc
	// Control keeps the descriptor alive; the log's and null's are ours.
	cerr := raw.Control(func(fd uintptr) {
		files := []uintptr{null.Fd(), log.Fd(), log.Fd(), fd}
		attr := &syscall.ProcAttr{Dir: "/", Env: env, Files: files, Sys: &syscall.SysProcAttr{Setsid: true}}
		proc, err = a.cfg.Reaper.Start(a.cfg.Self, argv, attr)
	})
	return proc, errors.Join(cerr, err)
}

// prepare mends what stands in a daemon's way.
func (a *Activator) prepare() {
	for _, p := range pidFiles {
		if !holdsDaemon(a.path(p)) {
			_ = os.Remove(a.path(p))
		}
	}
	// dockerd wants to switch it on and refuses to start where it cannot.
	forward := a.path("proc/sys/net/ipv4/ip_forward")
	if err := os.WriteFile(forward, []byte("1\n"), 0o644); err != nil && !errors.Is(err, fs.ErrNotExist) {
		a.cfg.Logf("switch IP forwarding on: %v", err)
	}
}

// holdsDaemon reports whether a pid file names a process that is a daemon.
func holdsDaemon(pidFile string) bool {
	b, err := os.ReadFile(pidFile)
	if err != nil {
		return false
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid <= 1 {
		return false
	}
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	name := strings.TrimSpace(string(comm))
	return err == nil && (name == "dockerd" || name == "containerd")
}

func (a *Activator) openLog() (*os.File, error) {
	p := a.path(logPath)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		return nil, fmt.Errorf("open the daemon's log: %w", err)
	}
	mode := os.O_APPEND
	if fi, err := os.Stat(p); err == nil && fi.Size() > maxLog {
		mode = os.O_TRUNC | os.O_APPEND
	}
	f, err := os.OpenFile(p, os.O_CREATE|os.O_WRONLY|mode, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open the daemon's log: %w", err)
	}
	return f, nil
}

// flags is dockerd's command line. dockerd refuses to start when the same
// setting is a flag and in daemon.json, so what the user wrote there wins.
func (a *Activator) flags() []string {
	args := a.cfg.Args
	if len(args) == 0 {
		args = guestapi.DefaultDockerArgs
	}
	for _, dns := range a.cfg.DNS {
		if ip, err := netip.ParseAddr(dns); err == nil {
			args = append(args[:len(args):len(args)], "--dns="+ip.String())
		}
	}
	var file map[string]json.RawMessage
	if b, err := os.ReadFile(a.path(configPath)); err == nil {
		_ = json.Unmarshal(b, &file) // dockerd reports what is wrong with it
	}
	out := []string{"-H", "fd://"}
	for _, arg := range args {
		name, _, _ := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		if _, set := file[name]; !set {
			out = append(out, arg)
		}
	}
	return out
}

// lastLine is the end of the daemon's log, where it says why it gave up.
func lastLine(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	b := make([]byte, 4<<10)
	if fi, err := f.Stat(); err == nil && fi.Size() > int64(len(b)) {
		_, _ = f.Seek(-int64(len(b)), 2)
	}
	n, _ := f.Read(b)
	lines := strings.Split(strings.TrimSpace(string(b[:n])), "\n")
	return lines[len(lines)-1]
}

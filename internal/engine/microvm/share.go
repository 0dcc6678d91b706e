package microvm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"

	"berth.dev/internal/engine"
	"berth.dev/internal/engine/squash"
	"berth.dev/internal/sandbox"
)

// What the re-executed processes are called.
const (
	shareName = "berth-microvm-share"
	jailName  = "berth-microvm-qemu"
	probeName = "berth-microvm-namespaces"
)

// share is what the re-executed file server is told.
type share struct {
	// Dir is an empty folder that the tree of mounts is made on, in a mount
	// namespace of the process's own.
	Dir    string          `json:"dir"`
	Mounts []sandbox.Mount `json:"mounts"`
	Args   []string        `json:"args"`
}

// Names in a machine's run folder.
const (
	shareDir    = "share"
	shareSocket = "share.sock"
)

// shareFD is the listening socket in the file server.
const shareFD = 3

// shareCommand is the file server for a machine's mounts. One process serves
// all of them: they are mounted into one tree, each under its number, because a
// server's root is a folder, and a mount can be a file.
func shareCommand(cfg engine.Config, t tools, listener *os.File) (*exec.Cmd, error) {
	dir := filepath.Join(cfg.RunDir, shareDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	spec, err := json.Marshal(share{Dir: dir, Mounts: cfg.Mounts, Args: t.shareArgs(dir)})
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("/proc/self/exe", string(spec))
	cmd.Args[0] = shareName
	cmd.ExtraFiles = []*os.File{listener}
	cmd.SysProcAttr = ownNamespaces()
	return cmd, nil
}

// shareArgs are the server's own arguments.
func (t tools) shareArgs(dir string) []string {
	fd := strconv.Itoa(shareFD)
	if t.oldVirtiofsd {
		// timeout=0: the guest asks each time, and so sees the host's changes at once.
		return []string{t.virtiofsd, "--fd=" + fd, "--rlimit-nofile=0", "-o",
			"source=" + dir + ",sandbox=namespace,cache=auto,timeout=0,no_readdirplus,announce_submounts,log_level=warn"}
	}
	return []string{t.virtiofsd, "--fd", fd, "--rlimit-nofile", "0", "--shared-dir", dir, "--sandbox", "namespace",
		"--cache", "auto", "--announce-submounts", "--log-level", "warn"}
}

// checkNamespaces reports why this user cannot make user namespaces.
func checkNamespaces(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Args[0] = probeName
	cmd.Env = []string{}
	cmd.SysProcAttr = ownNamespaces()
	cmd.SysProcAttr.Pdeathsig = 0
	if err := cmd.Run(); err != nil {
		return sandbox.Errorf(sandbox.ErrUnavailable, "this host does not let an ordinary user make user namespaces, which hold the file server of microVMs: %w", err).
			WithHint("run: berth doctor")
	}
	return nil
}

// Reexec implements engine.Reexecer.
func (*Engine) Reexec() { Reexec() }

// Reexec takes over when this process is a machine's file server, what becomes
// its QEMU, or the probe of Check, and then does not return.
func Reexec() {
	// Capabilities and filters are a thread's, and an execve is of one.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	switch {
	case os.Args[0] == jailName && len(os.Args) == 2:
		err := enterJail(os.Args[1])
		fmt.Fprintln(os.Stderr, "berth: start QEMU:", err)
		os.Exit(125)
	case os.Args[0] == probeName:
		os.Exit(0)
	case os.Args[0] == shareName && len(os.Args) == 2:
		err := serveShare(os.Args[1])
		fmt.Fprintln(os.Stderr, "berth: start the file server:", err)
		os.Exit(125)
	}
}

// serveShare becomes the file server.
func serveShare(text string) error {
	var s share
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return err
	}
	if err := s.mount(); err != nil {
		return err
	}
	// One file for each that the guest knows of.
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return err
	}
	files.Cur = files.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return err
	}
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	// Everything the server makes for whomever in the guest is the host user's,
	// and a setuid bit does not come to be.
	if err := squash.Install(true); err != nil {
		return fmt.Errorf("install the ownership filter: %w", err)
	}
	// Its capabilities over this namespace are all it gets.
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	flags, err := unix.FcntlInt(shareFD, unix.F_GETFD, 0)
	if err != nil {
		return err
	}
	if _, err := unix.FcntlInt(shareFD, unix.F_SETFD, flags&^unix.FD_CLOEXEC); err != nil {
		return err
	}
	return unix.Exec(s.Args[0], s.Args, []string{})
}

// mount makes the tree that is served. What is to be read only is so in this
// namespace: nothing that the guest does, to itself or to the server's
// protocol, changes it.
func (s share) mount() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("tmpfs", s.Dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755,size=1m"); err != nil {
		return fmt.Errorf("make the tree: %w", err)
	}
	for i, m := range s.Mounts {
		if err := s.bind(filepath.Join(s.Dir, strconv.Itoa(i)), m); err != nil {
			return fmt.Errorf("show %s: %w", m.Host, err)
		}
	}
	return unix.Mount("", s.Dir, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, "")
}

func (s share) bind(at string, m sandbox.Mount) error {
	info, err := os.Stat(m.Host)
	if err != nil {
		return err
	}
	if info.IsDir() {
		err = os.Mkdir(at, 0o755)
	} else {
		err = touch(at)
	}
	if err != nil {
		return err
	}
	if err := unix.Mount(m.Host, at, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
	if m.ReadOnly {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	return unix.MountSetattr(unix.AT_FDCWD, at, unix.AT_RECURSIVE|unix.AT_SYMLINK_NOFOLLOW, &attr)
}

// dialShare returns the two ends that the file server and QEMU get: a listening
// socket, and one that is connected to it. The socket has a name for a moment
// only.
func dialShare(runDir string) (listener, conn *os.File, err error) {
	path := filepath.Join(runDir, shareSocket)
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, nil, err
	}
	defer ln.Close() // removes the name
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, nil, err
	}
	defer c.Close()
	listener, err = ln.File()
	if err != nil {
		return nil, nil, err
	}
	conn, err = c.File()
	if err != nil {
		return nil, nil, errors.Join(err, listener.Close())
	}
	// Go's end was non-blocking, and so is the file that both programs share.
	return listener, conn, errors.Join(unix.SetNonblock(int(listener.Fd()), false), unix.SetNonblock(int(conn.Fd()), false))
}

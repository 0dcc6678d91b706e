package microvm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"berth.dev/internal/engine"
	"berth.dev/internal/engine/microvm/kernel"
	"berth.dev/internal/sandbox"
)

// jail is what a re-executed process builds around QEMU, so that a guest which
// breaks out of it finds itself in a root with QEMU's own files and this one
// machine's, without network, other processes, or any capability.
type jail struct {
	// Dir is an empty folder that the new root is made on.
	Dir string `json:"dir"`
	// Read and Write are host paths that are shown under their own names. One that
	// does not exist is left out when it is Optional.
	Read     []string `json:"read"`
	Write    []string `json:"write"`
	Optional []string `json:"optional"`
	Args     []string `json:"args"`
}

// jailDir is the name of Dir in a machine's run folder.
const jailDir = "root"

// programDirs are where QEMU, its libraries and its firmware are, by
// distribution; links among them stay links.
var programDirs = []string{"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives", "/nix/store", "/gnu/store", "/opt"}

// qemuCommand is QEMU in its jail.
func qemuCommand(cfg engine.Config, h hardware, t tools, k kernel.Kernel, disk state) (*exec.Cmd, error) {
	dir := filepath.Join(cfg.RunDir, jailDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	j := jail{
		Dir: dir, Optional: programDirs, Write: []string{disk.path, "/dev/null", "/dev/urandom"},
		Read: append(images(cfg), k.Image, k.Initrd, k.Modules),
		Args: append([]string{t.qemu}, qemuArgs(cfg, h, k, disk)...),
	}
	if h.accel == accelKVM {
		j.Write = append(j.Write, kvmDevice)
	}
	spec, err := json.Marshal(j)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("/proc/self/exe", string(spec))
	cmd.Args[0] = jailName
	cmd.SysProcAttr = ownNamespaces()
	cmd.SysProcAttr.Setsid = true
	return cmd, nil
}

// ownNamespaces are for a process that shares with the host nothing but the
// files it is shown; its one id is the guest's user.
func ownNamespaces() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET |
			syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: sandbox.UserUID, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: sandbox.UserGID, HostID: os.Getegid(), Size: 1}},
		// Over its own namespace only; without these an execve by a user who is not
		// 0 would drop them.
		AmbientCaps: allCaps(),
		Pdeathsig:   syscall.SIGKILL,
	}
}

// allCaps are the numbers of all capabilities that the kernel has.
func allCaps() []uintptr {
	last := 40
	if data, err := os.ReadFile("/proc/sys/kernel/cap_last_cap"); err == nil {
		_, _ = fmt.Sscan(string(data), &last)
	}
	caps := make([]uintptr, last+1)
	for i := range caps {
		caps[i] = uintptr(i)
	}
	return caps
}

// enterJail builds the jail and becomes QEMU in it.
func enterJail(text string) error {
	var j jail
	if err := json.Unmarshal([]byte(text), &j); err != nil {
		return err
	}
	if err := j.build(); err != nil {
		return err
	}
	if err := dropCaps(); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	return fmt.Errorf("execute %s: %w", j.Args[0], unix.Exec(j.Args[0], j.Args, []string{}))
}

func (j jail) build() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("tmpfs", j.Dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755,size=1m"); err != nil {
		return fmt.Errorf("make a root: %w", err)
	}
	for _, path := range j.Optional {
		if err := j.show(path, true); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("show %s: %w", path, err)
		}
	}
	for i, path := range append(j.Read[:len(j.Read):len(j.Read)], j.Write...) {
		if err := j.show(path, i < len(j.Read)); err != nil {
			return fmt.Errorf("show %s: %w", path, err)
		}
	}
	if err := unix.Mount("", j.Dir, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, ""); err != nil {
		return fmt.Errorf("make the root read-only: %w", err)
	}
	// pivot_root(2): with both arguments the same, the old root lies on top of
	// the new one, and is taken off.
	if err := os.Chdir(j.Dir); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("enter the root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the old root: %w", err)
	}
	return os.Chdir("/")
}

// show makes a host path visible in the new root, under its own name.
func (j jail) show(path string, readOnly bool) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	at := filepath.Join(j.Dir, path)
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return err
	}
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		to, err := os.Readlink(path)
		if err != nil {
			return err
		}
		return os.Symlink(to, at)
	case info.IsDir():
		err = os.Mkdir(at, 0o755)
	default:
		err = touch(at)
	}
	if err != nil {
		if _, serr := os.Lstat(at); serr != nil {
			return err
		}
		if readOnly {
			return nil // it lies below something that is shown already
		}
	}
	if err := unix.Mount(path, at, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID}
	if readOnly {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NODEV
	}
	return unix.MountSetattr(unix.AT_FDCWD, at, unix.AT_RECURSIVE|unix.AT_SYMLINK_NOFOLLOW, &attr)
}

// touch makes an empty file; one that is there already is an error, and stays.
func touch(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

// dropCaps gives up every capability, and the way to any.
func dropCaps() error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	for _, c := range allCaps() {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil {
			return err
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return err
	}
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return unix.Capset(&head, &data[0])
}

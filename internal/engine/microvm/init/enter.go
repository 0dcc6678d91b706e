package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"berth.dev/internal/engine/microvm/bootapi"
)

// enterArg is init's own argument when it is to become the first process.
const enterArg = "berth-enter"

// failureFD is where enter says what went wrong.
const failureFD = 3

// enter runs as PID 1 of the new namespaces: it makes the guest's root its own
// and becomes the first process.
func enter() {
	failure := os.NewFile(failureFD, "failure")
	unix.CloseOnExec(failureFD)
	var b bootapi.Boot
	err := json.Unmarshal([]byte(os.Args[2]), &b)
	if err == nil {
		err = become(&b)
	}
	fmt.Fprint(failure, err)
	os.Exit(127)
}

func become(b *bootapi.Boot) error {
	if err := os.Chdir(newRoot); err != nil {
		return err
	}
	if err := unix.Mount(newRoot, "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("enter the root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if err := kernelMounts(); err != nil {
		return err
	}
	limit := unix.Rlimit{Cur: 1 << 16, Max: 1 << 20}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("raise the limit of open files: %w", err)
	}
	path, err := program(b)
	if err != nil {
		return err
	}
	return fmt.Errorf("execute %s: %w", path, unix.Exec(path, b.Args, b.Env))
}

// program finds the first process's file, on the guest's PATH if need be.
func program(b *bootapi.Boot) (string, error) {
	if len(b.Args) == 0 {
		return "", errors.New("there is nothing to execute")
	}
	if strings.Contains(b.Args[0], "/") {
		return b.Args[0], nil
	}
	for _, kv := range b.Env {
		if path, ok := strings.CutPrefix(kv, "PATH="); ok {
			if err := os.Setenv("PATH", path); err != nil {
				return "", err
			}
		}
	}
	return exec.LookPath(b.Args[0])
}

// kernelMounts are the file systems that every Linux has. Those of memory are
// made before the mounts of the host would be hidden by them: they are not,
// because no such mount may lie below them.
func kernelMounts() error {
	for _, m := range []struct {
		fstype, target string
		flags          uintptr
		data           string
	}{
		{"proc", "/proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"sysfs", "/sys", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"cgroup2", "/sys/fs/cgroup", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"devtmpfs", "/dev", unix.MS_NOSUID, ""},
		{"devpts", "/dev/pts", unix.MS_NOSUID | unix.MS_NOEXEC, "gid=5,mode=620,ptmxmode=666"},
		{"tmpfs", "/dev/shm", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
		{"mqueue", "/dev/mqueue", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	} {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.fstype, m.target, m.fstype, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	return devices()
}

// devices are what udev would make: links, and the nodes at whose opening the
// kernel loads a module.
func devices() error {
	for name, target := range map[string]string{
		"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
	} {
		if err := os.Symlink(target, "/dev/"+name); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	for _, n := range []struct {
		name         string
		mode         uint32
		major, minor uint32
	}{
		{"net/tun", 0o666, 10, 200}, {"fuse", 0o666, 10, 229}, {"loop-control", 0o600, 10, 237},
	} {
		path := filepath.Join("/dev", n.name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		err := unix.Mknod(path, unix.S_IFCHR|n.mode, int(unix.Mkdev(n.major, n.minor)))
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("make %s: %w", path, err)
		}
		if err := os.Chmod(path, fs.FileMode(n.mode)); err != nil {
			return err
		}
	}
	return nil
}

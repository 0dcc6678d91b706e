// Package unprivileged makes root an ordinary user. Engines have one code
// path, that of a user without privileges; a process that root starts to hold
// a machine is put into a user namespace in which root is uid 1000, the only
// id that is mapped.
package unprivileged

import (
	"os"
	"os/exec"
	"syscall"

	"berth.dev/internal/sandbox"
)

// Apply changes cmd, when this process runs as root, to start in such a
// namespace. For anybody else it does nothing.
func Apply(cmd *exec.Cmd) {
	if os.Geteuid() != 0 {
		return
	}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
	cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: sandbox.UserUID, HostID: os.Geteuid(), Size: 1}}
	cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: sandbox.UserGID, HostID: os.Getegid(), Size: 1}}
	cmd.SysProcAttr.GidMappingsEnableSetgroups = false
}

// ReexecTest runs a test binary again as an ordinary user when root started
// it, and exits with its status; otherwise it returns. TestMain calls it.
func ReexecTest() {
	if os.Geteuid() != 0 {
		return
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	Apply(cmd)
	err := cmd.Run()
	if cmd.ProcessState == nil {
		println("berth: re-execute tests as an ordinary user:", err.Error())
		os.Exit(125)
	}
	os.Exit(cmd.ProcessState.ExitCode())
}

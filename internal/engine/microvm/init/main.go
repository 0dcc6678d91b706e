// Command init is PID 1 of a microVM: it lives in the initramfs and stays
// there. It loads what the kernel needs to see its disks, puts the guest's root
// together, starts the guest's first process as PID 1 of a process-id namespace
// and of a mount namespace of its own, and then carries: its streams, signals
// to it, its exit status back. When it has ended, init leaves the state disk
// clean and turns the machine off.
//
// It is part of the guest, so nothing on the host depends on its honesty. What
// keeps it apart from the first process is order, not security: root of the
// guest is root of the guest's kernel.
package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

func main() {
	switch {
	case len(os.Args) > 1 && os.Args[1] == enterArg:
		enter()
	case os.Getpid() != 1: // the kernel asks for a module: init -q -- NAME
		os.Exit(modprobe(os.Args[1:]))
	}
	err := run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "berth-init:", err)
	}
	off()
}

// note writes a line to the kernel's log, where it has a time.
func note(format string, args ...any) {
	f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	if err != nil {
		return
	}
	defer f.Close()
	fmt.Fprintf(f, "<6>berth-init: "+format+"\n", args...)
}

// off turns the machine off: QEMU is told to end at a restart, which works on
// every machine type, where ACPI's way does not.
func off() {
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	select {}
}

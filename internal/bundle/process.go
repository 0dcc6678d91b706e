package bundle

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"berth.dev/internal/sandbox"
)

// Process names one process for ever: a pid alone means another process some
// time later.
type Process struct {
	PID int `json:"pid"`
	// Start is field 22 of /proc/PID/stat: clock ticks from boot (proc(5)).
	Start uint64 `json:"start"`
	// Boot is the kernel's boot ID; ticks of two boots cannot be compared.
	Boot string `json:"boot"`
	// Namespace is the pid namespace, as /proc/self/ns/pid shows it.
	Namespace string `json:"namespace"`
}

// Self names the calling process.
func Self() (Process, error) { return ProcessOf(os.Getpid()) }

// ProcessOf names the process that has the pid now, or says
// sandbox.ErrNotFound.
func ProcessOf(pid int) (Process, error) {
	start, _, err := statOf(pid)
	if err != nil {
		return Process{}, err
	}
	return Process{PID: pid, Start: start, Boot: bootID(), Namespace: pidNamespace()}, nil
}

// Alive reports whether the process still runs. One of another pid namespace,
// which cannot be seen from here, counts as alive; a zombie does not.
func (p Process) Alive() bool {
	if p.PID <= 0 || p.Boot != bootID() {
		return false
	}
	if p.Namespace != pidNamespace() {
		return true
	}
	start, state, err := statOf(p.PID)
	return err == nil && start == p.Start && state != 'Z' && state != 'X'
}

// Signal sends a signal to this very process and never to a later one of the
// same pid; sandbox.ErrNotFound says that it is gone.
func (p Process) Signal(sig unix.Signal) error {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if err != nil {
		return sandbox.Errorf(sandbox.ErrNotFound, "process %d is gone: %w", p.PID, err)
	}
	defer unix.Close(fd)
	// The descriptor holds on to whichever process has the pid now; only after
	// that can the question be answered whether it is the one that was meant.
	if p.Namespace != pidNamespace() || !p.Alive() {
		return sandbox.Errorf(sandbox.ErrNotFound, "process %d is gone", p.PID)
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil {
		if errors.Is(err, unix.ESRCH) {
			return sandbox.Errorf(sandbox.ErrNotFound, "process %d is gone", p.PID)
		}
		return fmt.Errorf("signal process %d: %w", p.PID, err)
	}
	return nil
}

// statOf reads the start time and the state letter of a process.
func statOf(pid int) (start uint64, state byte, err error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, 0, sandbox.Errorf(sandbox.ErrNotFound, "there is no process %d: %w", pid, err)
	}
	// The command, field 2, may hold spaces and parentheses: fields are counted
	// from the last closing one, which field 3 follows.
	end := bytes.LastIndexByte(data, ')')
	fields := strings.Fields(string(data[end+1:]))
	if end < 0 || len(fields) < 20 {
		return 0, 0, fmt.Errorf("read /proc/%d/stat: unknown form", pid)
	}
	start, err = strconv.ParseUint(fields[19], 10, 64)
	return start, fields[0][0], err
}

func bootID() string {
	data, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(data))
}

func pidNamespace() string {
	ns, _ := os.Readlink("/proc/self/ns/pid")
	return ns
}

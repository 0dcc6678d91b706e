// Package reclaim ends the guest's largest process, when the supervisor has
// seen that the guest uses more memory than it was given. It stands in for the
// host's memory cgroup, which an ordinary user has none of.
package reclaim

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"berth.dev/internal/guestapi"
)

// Largest ends the process with the most resident memory under a proc file
// system, and says which it was. The first process and self are spared.
func Largest(proc string, self int, kill func(pid int) error) (guestapi.Reclaimed, error) {
	var found guestapi.Reclaimed
	entries, err := os.ReadDir(proc)
	if err != nil {
		return found, err
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == 1 || pid == self {
			continue
		}
		if pages := resident(filepath.Join(proc, e.Name())); pages > 0 && pages*int64(os.Getpagesize()) > found.Bytes {
			found = guestapi.Reclaimed{PID: pid, Bytes: pages * int64(os.Getpagesize())}
		}
	}
	if found.PID == 0 {
		return found, guestapi.Errorf(guestapi.Internal, "there is no process to end")
	}
	comm, _ := os.ReadFile(filepath.Join(proc, strconv.Itoa(found.PID), "comm"))
	found.Name = guestapi.Printable(strings.TrimSpace(string(comm)), 64)
	if err := kill(found.PID); err != nil {
		return found, fmt.Errorf("end process %d: %w", found.PID, err)
	}
	return found, nil
}

// Kill ends a process at once.
func Kill(pid int) error { return syscall.Kill(pid, syscall.SIGKILL) }

// resident reads the second field of statm (proc_pid_statm(5)), in pages; 0
// for a process that is gone.
func resident(dir string) int64 {
	data, err := os.ReadFile(filepath.Join(dir, "statm"))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(data))
	if len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil {
		return 0
	}
	return pages
}

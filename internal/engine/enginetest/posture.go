package enginetest

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
)

// Posture looks at a process of a live machine from the host: it is filtered,
// without the power to gain any, and in namespaces of its own. lines are what its
// status in /proc has to say beside that.
func Posture(t testing.TB, pid int, lines ...string) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(t, err)
	for _, want := range append([]string{"Seccomp:\t2", "NoNewPrivs:\t1"}, lines...) {
		if !strings.Contains(string(status), want+"\n") {
			t.Errorf("process %d lacks %q:\n%s", pid, want, status)
		}
	}
	for _, ns := range []string{"user", "mnt", "pid", "net", "ipc", "uts"} {
		own, err := os.Readlink("/proc/self/ns/" + ns)
		must(t, err)
		theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, ns))
		if errors.Is(err, os.ErrPermission) {
			continue // it is so much its own that it cannot be looked at
		}
		if err != nil || theirs == own {
			t.Errorf("process %d shares the %s namespace %s (%v)", pid, ns, theirs, err)
		}
	}
}

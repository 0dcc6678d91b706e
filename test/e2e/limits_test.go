package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// TestMemoryCap: a process that takes more memory than the sandbox was given is
// ended, and the sandbox goes on. Without a cap the same program runs through.
func TestMemoryCap(t *testing.T) {
	each(t, func(t *testing.T, u *user) {
		const program = "import time\nx = [bytearray(b'x' * (1 << 20)) for i in range(700)]\ntime.sleep(6)\nprint('survived')"
		ws, free, capped := u.workspace(t), u.fresh(t), u.fresh(t)
		u.must(t, ws, "create", "-q", "--name", free, "shell", ws)
		if out := u.must(t, ws, "exec", free, "python3", "-c", program); !strings.Contains(out, "survived") {
			t.Fatalf("without a cap: %q", out)
		}
		u.must(t, ws, "create", "-q", "--name", capped, "-m", "400m", "--cpus", "1", "shell", ws)
		if r := u.run(t, ws, nil, "exec", capped, "python3", "-c", program); r.code != 137 {
			t.Errorf("with a cap: status %d, %q", r.code, r.out)
		}
		// A kernel of the guest's own keeps some for itself.
		var cpus, kB int
		out := u.must(t, ws, "exec", capped, "sh", "-c", "nproc; grep MemTotal /proc/meminfo")
		if _, err := fmt.Sscanf(out, "%d\nMemTotal: %d kB", &cpus, &kB); err != nil || cpus != 1 || kB > 400<<10 || kB < 300<<10 {
			t.Errorf("the guest sees %q: %v", out, err)
		}
	})
}

package e2e

import (
	"strings"
	"testing"
)

// TestMemoryCap: a process that takes more memory than the sandbox was given is
// ended, and the sandbox goes on. Without a cap the same program runs through.
func TestMemoryCap(t *testing.T) {
	each(t, func(t *testing.T, u *user) {
		const program = "x = bytearray(700 << 20)\nimport time\nfor i in range(0, len(x), 4096): x[i] = 1\ntime.sleep(6)\nprint('survived')"
		ws, free, capped := u.workspace(t), u.fresh(t), u.fresh(t)
		u.must(t, ws, "create", "-q", "--name", free, "shell", ws)
		if out := u.must(t, ws, "exec", free, "python3", "-c", program); !strings.Contains(out, "survived") {
			t.Fatalf("without a cap: %q", out)
		}
		u.must(t, ws, "create", "-q", "--name", capped, "-m", "400m", "--cpus", "1", "shell", ws)
		if r := u.run(t, ws, nil, "exec", capped, "python3", "-c", program); r.code != 137 {
			t.Errorf("with a cap: status %d, %q", r.code, r.out)
		}
		if out := u.must(t, ws, "exec", capped, "sh", "-c", "nproc; grep MemTotal /proc/meminfo"); !strings.HasPrefix(out, "1\n") || !strings.Contains(out, "409600 kB") {
			t.Errorf("the guest sees %q", out)
		}
	})
}

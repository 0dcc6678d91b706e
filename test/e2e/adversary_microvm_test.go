package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"berth.dev/internal/audit"
)

// TestAdversaryMicroVM is what of the adversary suite the engine has a part in,
// against a microVM: a kernel that sends what root of the guest likes, and files
// that come from another server. What is decided on the host's end of the wire
// is the same code for every engine, and is attacked with the other one.
func TestAdversaryMicroVM(t *testing.T) {
	microVMs(t, least, func(t *testing.T, u *user) {
		w := newWorld(t, u)
		dir := u.workspace(t)
		shown, beside := filepath.Join(dir, "shown"), filepath.Join(dir, "beside")
		if err := os.Mkdir(shown, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, file := range []string{filepath.Join(shown, "file"), beside} {
			if err := os.WriteFile(file, []byte(secret), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		c := w.capture(t, "open", "--engine", microVM, "-m", "1g", "-v", shown+":/shown:ro")
		c.w.must(t, c.ws, "policy", "deny", "--sandbox", c.name, "widened.example")
		c.survives(t,
			attack{
				name: "a host that is denied", cmd: []string{"curl", "-fsS", "--max-time", "30", "http://widened.example/"},
				hit: "host=widened.example.", line: denied("", "widened.example"),
			},
			attack{
				name: "metadata", cmd: []string{"attacker", "tcp", fmt.Sprintf("169.254.169.254:%d", loopbackPort), ask},
				hit: fmt.Sprintf("http 169.254.169.254:%d ", loopbackPort), line: denied(audit.Connection, "169.254.169.254"),
			},
			attack{
				name: "the host's own port", cmd: []string{"attacker", "tcp", fmt.Sprintf("10.213.77.2:%d", loopbackPort), ask},
				direct: []string{"attacker", "tcp", fmt.Sprintf("127.0.0.1:%d", loopbackPort), ask},
				hit:    fmt.Sprintf("http 127.0.0.1:%d ", loopbackPort), line: denied(audit.Connection, "host.berth.internal"),
			},
			attack{name: "a file beside what is shown", cmd: []string{"cat", beside}, root: true},
		)
		t.Run("frames", func(t *testing.T) { c.frames(t) })
		t.Run("what is shown", func(t *testing.T) { c.shown(t, shown, beside) })
	})
}

// shown attacks the file server: root of the guest remounts what is read-only,
// mounts the server's tree once more, by itself, and follows links and dots out
// of it.
func (c *captive) shown(t *testing.T, dir, beside string) {
	t.Helper()
	if err := os.Symlink(beside, filepath.Join(c.ws, "link")); err != nil {
		t.Fatal(err)
	}
	r := c.exec(t, true, "sh", "-c", `cat /shown/file
mkdir -p /mnt/again && mount -t virtiofs berth /mnt/again && echo && echo mounted
mount -o remount,rw /shown; mount -o remount,rw,bind /shown; mount -o remount,rw /mnt/again
for d in /shown /mnt/again/*; do
	[ -e $d/file ] || continue
	echo lost >$d/file; echo new >$d/new; rm -f $d/file; mv $d/file $d/moved; chmod 666 $d/file
done 2>/dev/null
echo made >/mnt/again/made
cat "$0/link" "$0/../beside" /mnt/again/../beside /mnt/again/*/../beside /mnt/again/*/../../beside /proc/1/root"$1"
chmod u+s "$0/attacker"; chown 0 "$0/attacker"; mknod "$0/disk" b 254 0
true`, c.ws, beside)
	if r.out != secret+"\nmounted\n" {
		t.Errorf("the guest reads %q\n%s", r.out, r.err)
	}
	entries, err := os.ReadDir(dir)
	if data := read(t, filepath.Join(dir, "file")); data != secret || err != nil || len(entries) != 1 {
		t.Errorf("what is read-only holds %v, and %q in it: %v", entries, data, err)
	}
	if info, err := os.Stat(filepath.Join(dir, "file")); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("its mode is %v: %v", info.Mode(), err)
	}
	if info, err := os.Stat(filepath.Join(c.ws, "attacker")); err != nil || info.Mode()&os.ModeSetuid != 0 {
		t.Errorf("a file in the workspace is %v: %v", info.Mode(), err)
	}
	if info, err := os.Lstat(filepath.Join(c.ws, "disk")); err == nil && info.Mode()&os.ModeDevice != 0 {
		t.Errorf("the guest made a device on the host")
	}
}

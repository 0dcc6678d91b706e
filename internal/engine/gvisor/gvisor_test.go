package gvisor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"berth.dev/internal/engine/enginetest"
	"berth.dev/internal/unprivileged"
)

func TestMain(m *testing.M) {
	Reexec()
	unprivileged.ReexecTest()
	os.Exit(m.Run())
}

func TestConformance(t *testing.T) { enginetest.Suite(t, New()) }

// BenchmarkStart is a machine from nothing to its first word, and away again.
func BenchmarkStart(b *testing.B) { enginetest.BenchmarkStart(b, New()) }

func TestUserNamespaceHint(t *testing.T) {
	for name, c := range map[string]struct{ file, value, want string }{
		"ubuntu":    {"kernel/apparmor_restrict_unprivileged_userns", "1\n", "apparmor_restrict_unprivileged_userns=0"},
		"debian":    {"kernel/unprivileged_userns_clone", "0\n", "unprivileged_userns_clone=1"},
		"limit":     {"user/max_user_namespaces", "0\n", "max_user_namespaces=15000"},
		"container": {"kernel/other", "1\n", "seccomp=unconfined"},
	} {
		root := t.TempDir()
		path := filepath.Join(root, "proc/sys", c.file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(c.value), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := userNamespaceHint(root); !strings.Contains(got, c.want) {
			t.Errorf("%s: %q lacks %q", name, got, c.want)
		}
	}
}

// TestSquashProgram runs the filter's program over system calls.
func TestSquashProgram(t *testing.T) {
	const eperm = retErrno | uint32(syscall.EPERM)
	for _, c := range []struct {
		name string
		arch uint32
		nr   int
		args [6]uint64
		want uint32
	}{
		{"chown is a no-op", auditArch, unix.SYS_FCHOWNAT, [6]uint64{}, retErrno},
		{"chmod", auditArch, unix.SYS_FCHMOD, [6]uint64{3, 0o755}, retAllow},
		{"chmod u+s", auditArch, unix.SYS_FCHMOD, [6]uint64{3, 0o4755}, eperm},
		{"chmod g+s", auditArch, unix.SYS_FCHMODAT, [6]uint64{3, 0, 0o2755}, eperm},
		{"fchmodat2 u+s", auditArch, sysFchmodat2, [6]uint64{3, 0, 0o4755, 0}, eperm},
		{"create setuid", auditArch, unix.SYS_OPENAT, [6]uint64{3, 0, unix.O_CREAT | unix.O_WRONLY, 0o4755}, eperm},
		{"create without a name", auditArch, unix.SYS_OPENAT, [6]uint64{3, 0, unix.O_TMPFILE | unix.O_WRONLY, 0o4755}, eperm},
		{"open, with garbage for a mode", auditArch, unix.SYS_OPENAT, [6]uint64{3, 0, unix.O_RDONLY | unix.O_DIRECTORY, 0o6755}, retAllow},
		{"create", auditArch, unix.SYS_OPENAT, [6]uint64{3, 0, unix.O_CREAT, 0o755}, retAllow},
		{"mknod setgid", auditArch, unix.SYS_MKNODAT, [6]uint64{3, 0, 0o2644}, eperm},
		{"write", auditArch, unix.SYS_WRITE, [6]uint64{1}, retAllow},
		{"another table", auditArch + 1, unix.SYS_FCHOWNAT, [6]uint64{}, retAllow},
	} {
		if got := interpret(t, squashProgram(), c.arch, uint32(c.nr), c.args); got != c.want {
			t.Errorf("%s: %#x, want %#x", c.name, got, c.want)
		}
	}
}

// interpret runs a filter as the kernel does (the few instructions it uses).
func interpret(t *testing.T, prog []unix.SockFilter, arch, nr uint32, args [6]uint64) uint32 {
	t.Helper()
	load := func(off uint32) uint32 {
		switch {
		case off == dataNr:
			return nr
		case off == dataArch:
			return arch
		}
		return uint32(args[(off-dataArgs)/8])
	}
	var a uint32
	for pc := 0; pc < len(prog); pc++ {
		in := prog[pc]
		jump := func(yes bool) {
			if yes {
				pc += int(in.Jt)
			} else {
				pc += int(in.Jf)
			}
		}
		switch in.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			a = load(in.K)
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			jump(a == in.K)
		case unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K:
			jump(a&in.K != 0)
		case unix.BPF_RET | unix.BPF_K:
			return in.K
		default:
			t.Fatalf("instruction %#x", in.Code)
		}
	}
	t.Fatal("the program runs off its end")
	return 0
}

// TestPosture looks at a live machine from the host: filtered, without the
// power to gain any, in namespaces of its own, with an empty environment.
func TestPosture(t *testing.T) {
	pids := enginetest.Boot(t, New()).Processes()
	if len(pids) != 2 {
		t.Fatalf("processes %v, want a sentry and a gofer", pids)
	}
	for i, pid := range pids {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"Seccomp:\t2\n", "NoNewPrivs:\t1\n"} {
			if !strings.Contains(string(status), want) {
				t.Errorf("process %d lacks %q:\n%s", i, want, status)
			}
		}
		for _, ns := range []string{"user", "mnt", "pid", "net", "ipc", "uts"} {
			own, err := os.Readlink("/proc/self/ns/" + ns)
			if err != nil {
				t.Fatal(err)
			}
			theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, ns))
			if errors.Is(err, os.ErrPermission) {
				continue // it is so much its own that it cannot be looked at
			}
			if err != nil || theirs == own {
				t.Errorf("process %d shares the %s namespace %s (%v)", i, ns, theirs, err)
			}
		}
	}
}

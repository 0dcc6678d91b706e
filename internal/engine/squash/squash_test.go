package squash

import (
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestProgram runs the filter's program over system calls.
func TestProgram(t *testing.T) {
	const eperm = retErrno | uint32(syscall.EPERM)
	for _, c := range []struct {
		name       string
		identities bool
		arch       uint32
		nr         int
		args       [6]uint64
		want       uint32
	}{
		{"chown is a no-op", false, auditArch, unix.SYS_FCHOWNAT, [6]uint64{}, retErrno},
		{"chmod", false, auditArch, unix.SYS_FCHMOD, [6]uint64{3, 0o755}, retAllow},
		{"chmod u+s", false, auditArch, unix.SYS_FCHMOD, [6]uint64{3, 0o4755}, eperm},
		{"chmod g+s", false, auditArch, unix.SYS_FCHMODAT, [6]uint64{3, 0, 0o2755}, eperm},
		{"fchmodat2 u+s", false, auditArch, sysFchmodat2, [6]uint64{3, 0, 0o4755, 0}, eperm},
		{"create setuid", false, auditArch, unix.SYS_OPENAT, [6]uint64{3, 0, unix.O_CREAT | unix.O_WRONLY, 0o4755}, eperm},
		{"create without a name", false, auditArch, unix.SYS_OPENAT, [6]uint64{3, 0, unix.O_TMPFILE | unix.O_WRONLY, 0o4755}, eperm},
		{"open, with garbage for a mode", false, auditArch, unix.SYS_OPENAT, [6]uint64{3, 0, unix.O_RDONLY | unix.O_DIRECTORY, 0o6755}, retAllow},
		{"create", false, auditArch, unix.SYS_OPENAT, [6]uint64{3, 0, unix.O_CREAT, 0o755}, retAllow},
		{"mknod setgid", false, auditArch, unix.SYS_MKNODAT, [6]uint64{3, 0, 0o2644}, eperm},
		{"become another", false, auditArch, unix.SYS_SETRESUID, [6]uint64{}, retAllow},
		{"become another, for a file server", true, auditArch, unix.SYS_SETRESUID, [6]uint64{}, retErrno},
		{"write", false, auditArch, unix.SYS_WRITE, [6]uint64{1}, retAllow},
		{"another table", false, auditArch + 1, unix.SYS_FCHOWNAT, [6]uint64{}, retAllow},
	} {
		if got := interpret(t, program(c.identities), c.arch, uint32(c.nr), c.args); got != c.want {
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

// Package squash is a system call filter for the host processes that open a
// workspace's files on behalf of a guest. Under it every file in a workspace
// belongs to the user who runs Berth, whoever in the guest wrote it, and none
// gets a setuid or setgid bit. Engines install it before the program that does
// the work puts its own filter on top.
package squash

import "golang.org/x/sys/unix"

// Offsets into struct seccomp_data (linux/seccomp.h). Both architectures that
// Berth is built for are little-endian, so the low half of an argument is first.
const (
	dataNr   = 0
	dataArch = 4
	dataArgs = 16
)

// Results of a filter (linux/seccomp.h).
const (
	retAllow = 0x7fff0000
	retErrno = 0x00050000
)

// sysFchmodat2 has the same number on every architecture (Linux 6.6).
const sysFchmodat2 = 452

// setIDBits are the mode bits that no file in a workspace may get.
const setIDBits = unix.S_ISUID | unix.S_ISGID

// identityCalls are those by which a file server becomes the user it writes a
// file for. The numbers' names are the same on all architectures.
var identityCalls = []int{
	unix.SYS_SETRESUID, unix.SYS_SETRESGID, unix.SYS_SETUID, unix.SYS_SETGID, unix.SYS_SETREUID, unix.SYS_SETREGID,
	unix.SYS_SETFSUID, unix.SYS_SETFSGID, unix.SYS_SETGROUPS,
}

// createFlags are those of open(2) with which its mode argument counts.
// O_TMPFILE itself contains O_DIRECTORY, so only its own bit is tested.
const createFlags = unix.O_CREAT | (unix.O_TMPFILE &^ unix.O_DIRECTORY)

// modeCall is a system call that sets a mode: which argument it is, and which
// one holds open flags that decide whether it counts (-1: it always does).
type modeCall struct{ nr, mode, flags int }

// program assembles the filter; identity calls are among what succeeds and does
// nothing when identities is set. A call of another architecture's table
// passes: gVisor's own filter, added after this one, ends those.
func program(identities bool) []unix.SockFilter {
	calls := ownerCalls
	if identities {
		calls = append(calls[:len(calls):len(calls)], identityCalls...)
	}
	p := []unix.SockFilter{
		load(dataArch),
		jumpEqual(auditArch, 1, 0),
		ret(retAllow),
		load(dataNr),
	}
	for _, nr := range calls {
		p = append(p, jumpEqual(uint32(nr), 0, 1), ret(retErrno))
	}
	for _, c := range modeCalls {
		body := []unix.SockFilter{}
		if c.flags >= 0 {
			body = append(body, loadArg(c.flags), jumpSet(createFlags, 1, 0), ret(retAllow))
		}
		body = append(body, loadArg(c.mode), jumpSet(setIDBits, 0, 1), ret(retErrno|uint32(unix.EPERM)), ret(retAllow))
		p = append(p, jumpEqual(uint32(c.nr), 0, uint8(len(body))))
		p = append(p, body...)
	}
	return append(p, ret(retAllow))
}

func load(offset uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
}

func loadArg(i int) unix.SockFilter { return load(uint32(dataArgs + 8*i)) }

func jumpEqual(k uint32, yes, no uint8) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: k, Jt: yes, Jf: no}
}

func jumpSet(k uint32, yes, no uint8) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: k, Jt: yes, Jf: no}
}

func ret(k uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: k}
}

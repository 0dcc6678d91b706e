package squash

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Install gives this process and its children a system call filter under which
// changing a file's owner succeeds and does nothing, and setting a setuid or
// setgid bit is refused.
//
// Owner: only one id of the guest is mapped to the host, so a chown to any
// other would fail with EINVAL; as a successful no-op, every file in a
// workspace belongs to the host user, whoever in the guest wrote it.
//
// Bits: a guest's `chmod u+s` on a workspace file would be real on the host,
// owned by the user who runs Berth: a way for another local user to become
// them, and for the guest to leave a program that does.
//
// identities adds to it that becoming another user or group succeeds and does
// nothing: for a file server that does so for each file, in a user namespace
// that has one id.
func Install(identities bool) error {
	if squashed() {
		return nil // an earlier execution of this process did it
	}
	prog := program(identities)
	fprog := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	// TSYNC: Go has started threads by now. NO_NEW_PRIVS is set only where the
	// kernel asks for it; the sentry's first execution holds CAP_SYS_ADMIN in
	// its own user namespace.
	for _, nnp := range []bool{false, true} {
		if nnp {
			if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
				return err
			}
		}
		_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&fprog)))
		runtime.KeepAlive(prog)
		if errno == 0 {
			return nil
		}
		if errno != unix.EACCES || nnp {
			return errno
		}
	}
	return nil
}

// squashed asks the filter itself: only under it does a chown of a descriptor
// that cannot exist succeed.
func squashed() bool { return unix.Fchownat(-1, "", -1, -1, unix.AT_EMPTY_PATH) == nil }

package squash

import "golang.org/x/sys/unix"

const auditArch = unix.AUDIT_ARCH_AARCH64

var ownerCalls = []int{unix.SYS_FCHOWNAT, unix.SYS_FCHOWN}

var modeCalls = []modeCall{
	{unix.SYS_FCHMOD, 1, -1}, {unix.SYS_FCHMODAT, 2, -1}, {sysFchmodat2, 2, -1},
	{unix.SYS_OPENAT, 3, 2}, {unix.SYS_MKDIRAT, 2, -1}, {unix.SYS_MKNODAT, 2, -1},
}

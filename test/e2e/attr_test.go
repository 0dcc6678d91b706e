package e2e

import "syscall"

// sessionAttr makes the process the leader of a session with the terminal, on
// top of what it is given already.
func sessionAttr(attr *syscall.SysProcAttr) *syscall.SysProcAttr {
	if attr == nil {
		attr = &syscall.SysProcAttr{}
	}
	attr.Setsid, attr.Setctty = true, true
	return attr
}

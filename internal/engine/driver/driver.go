// Package driver is what the engines' drivers have in common: small parts of a
// machine that do not depend on what isolates it. Only drivers import it.
package driver

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Dup duplicates a file without changing its mode.
func Dup(f *os.File) (*os.File, error) {
	var fd int
	conn, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	cerr := conn.Control(func(old uintptr) { fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) })
	if err = errors.Join(err, cerr); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// Signal is a signal's number.
func Signal(sig os.Signal) (syscall.Signal, error) {
	s, ok := sig.(syscall.Signal)
	if !ok {
		return 0, fmt.Errorf("signal %v is none of the system's", sig)
	}
	return s, nil
}

package session

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"berth.dev/internal/guestapi"
)

// terminal is a pseudo terminal pair. The master is for this process, in
// non-blocking mode and with deadlines; the slave is a plain descriptor for a
// child, because os.File would leave it non-blocking, which no program expects
// of its terminal.
type terminal struct {
	master *os.File
	slave  int
}

// openTerminal makes a terminal of the given size whose slave belongs to uid.
// modes, when it is not nil, changes the modes that the kernel gave it.
func openTerminal(size guestapi.Size, uid, gid uint32, modes func(*unix.Termios)) (*terminal, error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/ptmx: %w", err)
	}
	t := &terminal{master: os.NewFile(uintptr(fd), "/dev/ptmx"), slave: -1}
	if err := t.openSlave(fd, uid, gid); err != nil {
		t.close()
		return nil, err
	}
	if err := setModes(t.slave, modes); err != nil {
		t.close()
		return nil, err
	}
	if err := setSize(t.master, size); err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

func (t *terminal) openSlave(master int, uid, gid uint32) error {
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return fmt.Errorf("unlock terminal: %w", err)
	}
	n, err := unix.IoctlGetUint32(master, unix.TIOCGPTN)
	if err != nil {
		return fmt.Errorf("number of terminal: %w", err)
	}
	path := "/dev/pts/" + strconv.FormatUint(uint64(n), 10)
	t.slave, err = unix.Open(path, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	// As login(1) does: the user owns the terminal, others may write to it
	// through the tty group's programs only. A kernel that does not let us
	// leaves a terminal that works.
	_ = unix.Fchown(t.slave, int(uid), int(gid))
	_ = unix.Fchmod(t.slave, 0o620)
	return nil
}

func setModes(fd int, change func(*unix.Termios)) error {
	tio, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return fmt.Errorf("read terminal modes: %w", err)
	}
	tio.Iflag |= unix.IUTF8 // erase whole characters
	if change != nil {
		change(tio)
	}
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, tio); err != nil {
		return fmt.Errorf("set terminal modes: %w", err)
	}
	return nil
}

func (t *terminal) closeSlave() {
	if t.slave >= 0 {
		unix.Close(t.slave)
		t.slave = -1
	}
}

func (t *terminal) close() {
	t.closeSlave()
	t.master.Close()
}

// onFd calls fn with f's descriptor.
func onFd(f *os.File, fn func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = fn(int(fd)) }); err != nil {
		return err
	}
	return inner
}

// setSize changes a terminal's size; the kernel tells the foreground group
// (SIGWINCH) when it is another one.
func setSize(master *os.File, s guestapi.Size) error {
	return onFd(master, func(fd int) error {
		err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: s.Rows, Col: s.Cols})
		return os.NewSyscallError("set terminal size", err)
	})
}

// foreground returns the foreground process group of a terminal, 0 when the
// kernel does not say (gVisor tells only members of the terminal's session).
func foreground(master *os.File) int {
	pgrp := 0
	_ = onFd(master, func(fd int) error {
		n, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP)
		if err == nil && n > 1 {
			pgrp = n
		}
		return err
	})
	return pgrp
}

// key returns the character that makes the line discipline send sig to the
// foreground group, if it is in a mode that does that.
func key(master *os.File, sig unix.Signal) (byte, bool) {
	index, known := map[unix.Signal]int{unix.SIGINT: unix.VINTR, unix.SIGQUIT: unix.VQUIT, unix.SIGTSTP: unix.VSUSP}[sig]
	if !known {
		return 0, false
	}
	var c byte
	err := onFd(master, func(fd int) error {
		tio, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		if err == nil && tio.Lflag&unix.ISIG != 0 {
			c = tio.Cc[index]
		}
		return err
	})
	return c, err == nil && c != 0
}

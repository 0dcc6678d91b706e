package session

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"berth.dev/internal/guestapi"
)

// SignalName sends a signal by its name without SIG, such as INT; see Signal.
func (s *Session) SignalName(name string) error {
	sig := unix.SignalNum("SIG" + strings.ToUpper(name))
	if sig == 0 {
		return guestapi.Errorf(guestapi.Invalid, "no signal %q", guestapi.Printable(name, 32))
	}
	return s.Signal(sig)
}

// Signal sends a signal to what the user sees: the foreground process group of
// the terminal, else the group of the session's process. After the session's
// end it does nothing.
func (s *Session) Signal(sig unix.Signal) error {
	if s.isExited() {
		return nil
	}
	if s.master != nil {
		if pgrp := foreground(s.master); pgrp != 0 {
			return s.report(sig, unix.Kill(-pgrp, sig))
		}
		if c, ok := key(s.master, sig); ok {
			_, err := s.master.Write([]byte{c})
			return s.report(sig, err)
		}
	}
	return s.report(sig, s.proc.Signal(sig, true))
}

func (s *Session) report(sig unix.Signal, err error) error {
	if err == nil || err == unix.ESRCH {
		return nil
	}
	return guestapi.Errorf(guestapi.Internal, "send SIG%s: %v", signalName(sig), err)
}

func (s *Session) isExited() bool {
	select {
	case <-s.exited():
		return true
	default:
		return false
	}
}

// terminate asks all of the session to end: interactive shells ignore TERM and
// heed HUP, and a stopped process heeds neither before CONT.
func (s *Session) terminate() {
	sig := unix.SIGTERM
	if s.master != nil {
		if pgrp := foreground(s.master); pgrp != 0 && pgrp != s.proc.Pid() {
			_ = unix.Kill(-pgrp, unix.SIGHUP)
			_ = unix.Kill(-pgrp, unix.SIGCONT)
		}
		sig = unix.SIGHUP
	}
	_ = s.proc.Signal(sig, true)
	_ = s.proc.Signal(unix.SIGCONT, true)
}

// Hangup ends the session as closing a terminal's window does, and by force
// when it is still there after Config.Grace. It does not wait.
func (s *Session) Hangup() {
	if s.isExited() {
		return
	}
	s.terminate()
	go func() {
		grace := s.store.cfg.Grace
		if s.within(grace / 2) {
			return
		}
		if s.master != nil {
			// The terminal itself goes away: a shell that was about to read
			// when its signal came (bash has such a moment) notices now.
			s.master.Close()
		}
		if !s.within(grace - grace/2) {
			s.kill()
		}
	}()
}

// within waits for the process to end and reports whether it did in time.
func (s *Session) within(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-s.exited():
		return true
	case <-t.C:
		return false
	}
}

// kill ends every process of the session, whatever group its shell has put it
// in. Only while its leader lives is the session's number certainly its own.
func (s *Session) kill() {
	if s.isExited() {
		return
	}
	for _, pid := range members(s.proc.Pid()) {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	_ = s.proc.Signal(unix.SIGKILL, true)
}

// members lists the processes of a session but for its leader, from
// /proc/PID/stat (proc_pid_stat(5)).
func members(sid int) []int {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	var out []int
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		pid, session, ok := parseStat(string(b))
		if ok && session == sid && pid != sid && pid != os.Getpid() {
			out = append(out, pid)
		}
	}
	return out
}

// parseStat reads the process id and the session of a stat line. The name in
// it is the guest's to choose, spaces and parentheses included, so the last
// parenthesis counts.
func parseStat(line string) (pid, session int, ok bool) {
	open, end := strings.IndexByte(line, '('), strings.LastIndexByte(line, ')')
	if open < 1 || end < open {
		return 0, 0, false
	}
	f := strings.Fields(line[end+1:])
	if len(f) < 4 {
		return 0, 0, false
	}
	pid, err1 := strconv.Atoi(strings.TrimSpace(line[:open]))
	session, err2 := strconv.Atoi(f[3])
	return pid, session, err1 == nil && err2 == nil
}

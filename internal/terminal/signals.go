package terminal

import (
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// forwarded are the signals that ask a program to end, or to do what it does
// on them; by their names in RFC 4254, section 6.10.
var forwarded = map[os.Signal]string{
	syscall.SIGINT:  "INT",
	syscall.SIGTERM: "TERM",
	syscall.SIGHUP:  "HUP",
	syscall.SIGQUIT: "QUIT",
	syscall.SIGUSR1: "USR1",
	syscall.SIGUSR2: "USR2",
}

// SignalName is the protocol's name of a signal that Signals delivers.
func SignalName(s os.Signal) string { return forwarded[s] }

// Signals catches the signals that end this process, or that are meant for the
// program of a session, until stop is called. Those that the process was told
// to ignore, as nohup and a shell's background jobs are, stay ignored.
func Signals() (signals <-chan os.Signal, stop func()) {
	c := make(chan os.Signal, 8)
	for s := range forwarded {
		if !signal.Ignored(s) {
			signal.Notify(c, s)
		}
	}
	return c, sync.OnceFunc(func() { signal.Stop(c) })
}

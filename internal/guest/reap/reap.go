// Package reap owns the children of a process that is PID 1 (or a child
// subreaper): it starts processes, collects the exit status of exactly those
// for who started them, and buries every orphan that the kernel hands over. It
// is the only place in the guest that may fork or wait: os/exec's own Wait
// would race with it for statuses.
package reap

import (
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Reaper owns this process's children. Make it with New, once per process.
type Reaper struct {
	// mu: starters hold it shared from before the fork until the child is in
	// procs, the reaping holds it alone. So no status can be collected of a
	// child that is not registered yet, and no pid can be signalled that was
	// already given back to the kernel.
	mu      sync.RWMutex
	procsMu sync.Mutex // guards procs among starters
	procs   map[int]*Proc

	sigchld chan os.Signal
	stop    chan struct{}
	stopped chan struct{}
	// orphans counts what was buried without having been started here.
	orphans int
	looked  chan struct{} // closed and replaced after each look for ended children
	// none: at the last look there was no child at all, and none was started since.
	none atomic.Bool
}

// Proc is a child that was started here.
type Proc struct {
	r      *Reaper
	pid    int
	done   chan struct{}
	status unix.WaitStatus
}

// New makes this process the reaper of its descendants' orphans (unless it is
// PID 1, which is that anyway) and begins to reap.
func New() (*Reaper, error) {
	if os.Getpid() != 1 {
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			return nil, os.NewSyscallError("prctl", err)
		}
	}
	r := &Reaper{
		procs:   map[int]*Proc{},
		sigchld: make(chan os.Signal, 1),
		stop:    make(chan struct{}),
		stopped: make(chan struct{}),
		looked:  make(chan struct{}),
	}
	signal.Notify(r.sigchld, unix.SIGCHLD)
	go r.run()
	return r, nil
}

// Close ends the reaping. Children that are left stay unreaped.
func (r *Reaper) Close() {
	signal.Stop(r.sigchld)
	close(r.stop)
	<-r.stopped
}

func (r *Reaper) run() {
	defer close(r.stopped)
	for {
		r.reap()
		select {
		case <-r.sigchld:
		case <-r.stop:
			return
		}
	}
}

// reap collects every child that has ended. One SIGCHLD may stand for many.
func (r *Reaper) reap() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			r.none.Store(err == unix.ECHILD)
			close(r.looked)
			r.looked = make(chan struct{})
			return
		}
		p := r.procs[pid]
		if p == nil {
			r.orphans++
			continue
		}
		delete(r.procs, pid)
		p.status = ws
		close(p.done)
	}
}

// Start starts a process: execve(path, argv) as attr says. The error is the
// kernel's.
func (r *Reaper) Start(path string, argv []string, attr *syscall.ProcAttr) (*Proc, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	// When the exec fails, ForkExec itself waits for its child, which the
	// lock leaves to it.
	pid, err := syscall.ForkExec(path, argv, attr)
	if err != nil {
		return nil, err
	}
	r.none.Store(false)
	p := &Proc{r: r, pid: pid, done: make(chan struct{})}
	r.procsMu.Lock()
	r.procs[pid] = p
	r.procsMu.Unlock()
	return p, nil
}

// WaitAll waits until no child is left, at most for d.
func (r *Reaper) WaitAll(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	for {
		r.mu.RLock()
		looked := r.looked
		none := r.none.Load()
		r.mu.RUnlock()
		if none {
			return
		}
		select {
		case <-looked:
		case <-t.C:
			return
		}
	}
}

// Orphans is how many processes were buried that were not started here.
func (r *Reaper) Orphans() int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.orphans
}

// Pid is the process's id; it may be another's once Done is closed.
func (p *Proc) Pid() int { return p.pid }

// Done is closed when the process has ended and its status is known.
func (p *Proc) Done() <-chan struct{} { return p.done }

// Status is how it ended; valid once Done is closed.
func (p *Proc) Status() unix.WaitStatus { return p.status }

// Signal sends a signal to the process's group (when group is set, which
// supposes that it leads one) or to it alone. A process that has ended gives
// ESRCH.
func (p *Proc) Signal(sig unix.Signal, group bool) error {
	// The shared lock keeps the pid from being reaped, and so from being
	// somebody else's, between the look and the kill.
	p.r.mu.RLock()
	defer p.r.mu.RUnlock()
	select {
	case <-p.done:
		return unix.ESRCH
	default:
	}
	if group {
		return unix.Kill(-p.pid, sig)
	}
	return unix.Kill(p.pid, sig)
}

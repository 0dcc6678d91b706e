package cli

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"berth.dev/internal/terminal"
)

// interrupts gives each signal one meaning: while nobody has asked for them,
// the first ends the command's context, so that it cleans up, and the second
// ends the process; a session asks for them and decides itself.
type interrupts struct {
	mu     sync.Mutex
	taken  func(os.Signal) // nil: nobody has
	last   syscall.Signal  // that ended the context
	cancel context.CancelFunc
}

// watch returns a context that the first signal ends.
func (i *interrupts) watch(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(parent)
	i.cancel = cancel
	signals, stop := terminal.Signals()
	done := make(chan struct{})
	go func() {
		for {
			select {
			case s := <-signals:
				i.deliver(s)
			case <-done:
				return
			}
		}
	}()
	return ctx, func() {
		stop()
		close(done)
		cancel()
	}
}

func (i *interrupts) deliver(s os.Signal) {
	i.mu.Lock()
	defer i.mu.Unlock()
	n, _ := s.(syscall.Signal)
	switch {
	case i.taken != nil:
		i.taken(s)
	case i.last != 0:
		// The clean-up takes too long for the user: end as anybody would.
		signal.Reset(s)
		_ = syscall.Kill(os.Getpid(), n)
	default:
		i.last = n
		i.cancel()
	}
}

// take hands all signals to fn, which must not block, until release is called.
func (i *interrupts) take(fn func(os.Signal)) (release func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.taken = fn
	return func() {
		i.mu.Lock()
		defer i.mu.Unlock()
		i.taken = nil
	}
}

// end ends the command's context as a signal does, by a session's decision.
func (i *interrupts) end(s os.Signal) {
	n, _ := s.(syscall.Signal)
	i.last = n
	i.cancel()
}

// caught is the signal that ended the context, or 0.
func (i *interrupts) caught() syscall.Signal {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.last
}

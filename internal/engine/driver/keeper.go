package driver

import "runtime"

// Keeper is one operating system thread that outlives the processes made on
// it: PR_SET_PDEATHSIG fires when the creating thread ends, not the process.
type Keeper struct{ work chan func() }

// NewKeeper starts the thread; Stop ends it.
func NewKeeper() *Keeper {
	k := &Keeper{work: make(chan func())}
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		for f := range k.work {
			f()
		}
	}()
	return k
}

// Do runs f on the thread and returns when it has.
func (k *Keeper) Do(f func()) {
	done := make(chan struct{})
	k.work <- func() { defer close(done); f() }
	<-done
}

// Stop ends the thread, and with it what is still attached to it; when the
// runtime has given it the process's first thread, that is with the process.
func (k *Keeper) Stop() { close(k.work) }

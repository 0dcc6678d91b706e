package driver

import "context"

// End is how a machine ended, once it has.
type End struct {
	done   chan struct{} // closed by Set; then the others are final
	status int
	err    error
}

// NewEnd returns the end of a machine that has not come.
func NewEnd() *End { return &End{done: make(chan struct{})} }

// Set says how the machine ended; it is called once.
func (e *End) Set(status int, err error) {
	e.status, e.err = status, err
	close(e.done)
}

// Done is closed when the machine has ended.
func (e *End) Done() <-chan struct{} { return e.done }

// Wait is Wait of engine.Machine.
func (e *End) Wait(ctx context.Context) (int, error) {
	select {
	case <-e.done:
		return e.status, e.err
	case <-ctx.Done():
		return -1, ctx.Err()
	}
}

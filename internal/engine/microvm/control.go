package microvm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"berth.dev/internal/engine/microvm/bootapi"
)

// control speaks with a machine's init. What comes from there is bounded, and
// believed as far as a guest may decide it.
type control struct {
	conn net.Conn

	mu      sync.Mutex // guards writes to conn, and what follows
	next    int
	waiting map[int]chan error
	events  chan bootapi.Event // hello, started and failed
	exited  bool
	status  int
	closed  chan struct{} // closed when nothing more comes
}

func newControl(conn net.Conn) *control {
	c := &control{conn: conn, waiting: map[int]chan error{}, events: make(chan bootapi.Event, 4), closed: make(chan struct{})}
	go c.read()
	return c
}

var errGone = errors.New("the machine has ended")

// read takes events until the machine ends, or says what makes no sense.
func (c *control) read() {
	defer close(c.closed)
	r := bootapi.NewEventReader(c.conn)
	for {
		e, err := r.Next()
		if err != nil {
			break
		}
		c.take(e)
	}
	c.conn.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, w := range c.waiting {
		w <- errGone
		delete(c.waiting, id)
	}
}

func (c *control) take(e bootapi.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch e.Event {
	case bootapi.Done:
		w, ok := c.waiting[e.ID]
		if !ok {
			return
		}
		delete(c.waiting, e.ID)
		if e.Error != "" {
			w <- guestError(e.Error)
		} else {
			w <- nil
		}
	case bootapi.Exited:
		if !c.exited {
			c.exited, c.status = true, e.Status
		}
	default:
		select {
		case c.events <- e:
		default: // more than there is a use for
		}
	}
}

// guestError is an error in a guest's words: shortened, and printable.
func guestError(text string) error { return fmt.Errorf("the guest says: %.512q", text) }

// exit returns the first process's status, if the guest has reported it.
func (c *control) exit() (status int, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status, c.exited
}

// sendTime is how long a guest may leave what it is told unread.
const sendTime = 10 * time.Second

// call sends a request and waits for its answer.
func (c *control) call(ctx context.Context, r bootapi.Request) error {
	answer := make(chan error, 1)
	c.mu.Lock()
	c.next++
	r.ID = c.next
	err := c.send(r)
	if err == nil {
		c.waiting[r.ID] = answer
	}
	c.mu.Unlock()
	if err != nil {
		return err
	}
	select {
	case err := <-answer:
		return err
	case <-c.closed:
		select {
		case err := <-answer:
			return err
		default:
			return errGone
		}
	case <-ctx.Done():
		c.mu.Lock()
		delete(c.waiting, r.ID)
		c.mu.Unlock()
		return ctx.Err()
	}
}

// send writes a request. The caller holds mu.
func (c *control) send(r bootapi.Request) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if len(data) >= bootapi.MaxMessage {
		return errors.New("the request is too large")
	}
	_ = c.conn.SetWriteDeadline(time.Now().Add(sendTime))
	if _, err := c.conn.Write(append(data, '\n')); err != nil {
		if errors.Is(err, net.ErrClosed) {
			return errGone
		}
		return fmt.Errorf("tell the guest's init: %w", err)
	}
	return nil
}

// expect waits for an event of a kind.
func (c *control) expect(ctx context.Context, kind bootapi.Kind) (bootapi.Event, error) {
	for {
		select {
		case e := <-c.events:
			switch e.Event {
			case kind:
				return e, nil
			case bootapi.Failed:
				return e, guestError(e.Error)
			}
		case <-c.closed:
			select {
			case e := <-c.events:
				if e.Event == bootapi.Failed {
					return e, guestError(e.Error)
				}
				if e.Event == kind {
					return e, nil
				}
			default:
			}
			return bootapi.Event{}, errGone
		case <-ctx.Done():
			return bootapi.Event{}, ctx.Err()
		}
	}
}

// tail keeps the last bytes that were written to it.
type tail struct {
	mu   sync.Mutex
	data []byte
}

// tailSize is how much of a machine's console is kept for an error message.
const tailSize = 8 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.data = append(t.data, p...)
	if over := len(t.data) - tailSize; over > 0 {
		t.data = append(t.data[:0], t.data[over:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.data)
}

var _ io.Writer = (*tail)(nil)

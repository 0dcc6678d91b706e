package session

import (
	"bytes"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"berth.dev/internal/guest/ring"
	"berth.dev/internal/guestapi"
	"berth.dev/internal/guestapi/termmode"
)

// wiggle is how long a terminal has the wrong size when its program is made to
// repaint: long enough for the program to look at the size, because many do
// nothing when they find the size that they knew.
const wiggle = 60 * time.Millisecond

// Client is somebody attached to a session. Its Close must be called.
type Client struct {
	s *Session
	// Out and Err read the session's output from where the client begins; Err
	// is nil for a terminal.
	Out, Err *ring.Reader
	// Screen is to be shown before the output: it redraws a terminal.
	Screen   []byte
	readOnly bool
	size     guestapi.Size // guarded by s.mu
	once     sync.Once
}

// Attach adds a client to a session that runs or has ended.
func (s *Session) Attach(req guestapi.AttachRequest) *Client {
	return s.attach(req)
}

func (s *Session) attach(req guestapi.AttachRequest) *Client {
	c := &Client{s: s, readOnly: req.ReadOnly, size: req.Size}
	from := req.From
	if s.spec.TTY {
		if req.Screen {
			from.Stdout = c.drawScreen()
		}
		c.Out = s.streams[0].buf.NewReader(from.Stdout, terminalPatience)
	} else {
		// A pipe loses nothing: its reader holds the writer back, as in a
		// shell's pipeline, for as long as it is attached.
		c.Out = s.streams[0].buf.NewReader(from.Stdout, ring.Forever)
		c.Err = s.streams[1].buf.NewReader(from.Stderr, ring.Forever)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.readOnly {
		s.clients = slices.Insert(s.clients, 0, c)
		return c
	}
	s.clients = append(s.clients, c)
	if s.master != nil { // nil before the start, which sets the size itself
		before := s.size
		s.applySize(c.size)
		if req.Screen && s.size == before {
			s.repaint()
		}
	}
	return c
}

// drawScreen makes Screen and returns the offset that it stands for.
func (c *Client) drawScreen() (end int64) {
	c.s.streams[0].buf.View(func(kept []byte, start, e int64) {
		end = e
		var b bytes.Buffer
		if !c.s.modes.Alternate() {
			if start > 0 { // begin at a line, not inside a sequence
				_, kept, _ = bytes.Cut(kept, []byte("\n"))
			}
			b.WriteString("\x1b[H\x1b[2J")
			b.Write(termmode.StripQueries(kept))
			b.WriteString("\x1b[m")
		}
		b.Write(c.s.modes.On())
		if c.s.modes.Alternate() {
			b.WriteString("\x1b[H\x1b[2J")
		}
		c.Screen = b.Bytes()
	})
	return end
}

// applySize gives the terminal a size, if it is one. s.mu is held.
func (s *Session) applySize(size guestapi.Size) {
	if s.master == nil || size.Cols == 0 || size.Rows == 0 || size == s.size {
		return
	}
	if setSize(s.master, size) == nil {
		s.size = size
	}
}

// repaint makes a full-screen program draw everything: its terminal shrinks by
// a row and grows again. s.mu is held.
func (s *Session) repaint() {
	other := s.size
	if other.Rows > 1 {
		other.Rows--
	} else {
		other.Rows++
	}
	if setSize(s.master, other) != nil {
		return
	}
	time.AfterFunc(wiggle, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		_ = setSize(s.master, s.size) // fails harmlessly when it has ended
	})
}

// Write is input of the client. The terminal takes on the size of the client
// that writes. It blocks while the session does not read, and ends with an
// error when the session has ended or takes no input.
func (c *Client) Write(p []byte) (int, error) {
	if c.readOnly {
		return len(p), nil
	}
	c.s.touch()
	c.activate()
	switch {
	case c.s.master != nil:
		return c.s.master.Write(p)
	case c.s.stdin != nil:
		return c.s.stdin.Write(p)
	}
	return 0, os.ErrClosed
}

// activate makes the client the one whose size counts.
func (c *Client) activate() {
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.clients); n > 1 && s.clients[n-1] != c {
		s.clients = append(slices.DeleteFunc(s.clients, func(o *Client) bool { return o == c }), c)
		s.applySize(c.size)
	}
}

// CloseInput says that no more input comes: the end of a pipe, and the end of
// file character in a terminal.
func (c *Client) CloseInput() {
	switch {
	case c.readOnly:
	case c.s.stdin != nil:
		c.s.stdin.Close()
	case c.s.master != nil:
		_, _ = c.s.master.Write([]byte{4})
	}
}

// Resize is a change of the client's terminal.
func (c *Client) Resize(size guestapi.Size) {
	c.s.mu.Lock()
	c.size = size
	c.s.mu.Unlock()
	if c.readOnly {
		return
	}
	c.activate()
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	c.s.applySize(size)
}

// Signal sends a signal by its name without SIG. See Session.SignalName.
func (c *Client) Signal(name string) error {
	if c.readOnly {
		return guestapi.Errorf(guestapi.Denied, "this client only watches")
	}
	return c.s.SignalName(name)
}

// Lost is how many bytes of output the client did not get.
func (c *Client) Lost() int64 {
	n := c.Out.Lost()
	if c.Err != nil {
		n += c.Err.Lost()
	}
	return n
}

// Close detaches. The terminal takes on the size of the client that was active
// last; a session that asked for it is hung up when this was the last one.
func (c *Client) Close() {
	c.once.Do(func() {
		c.Out.Close()
		if c.Err != nil {
			c.Err.Close()
		}
		s := c.s
		s.mu.Lock()
		s.clients = slices.DeleteFunc(s.clients, func(o *Client) bool { return o == c })
		n := len(s.clients)
		if n > 0 && !s.clients[n-1].readOnly {
			s.applySize(s.clients[n-1].size)
		}
		s.mu.Unlock()
		if n == 0 && s.spec.Hangup {
			s.Hangup()
		}
	})
}

func signalName(sig unix.Signal) string {
	name := unix.SignalName(sig)
	if len(name) > 3 {
		return name[3:]
	}
	return "UNKNOWN"
}

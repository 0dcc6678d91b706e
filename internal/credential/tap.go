package credential

import (
	"errors"
	"io"
	"sync"
)

// tap decodes a copy of an encoded stream while it passes, in a goroutine of its
// own: decoders pull, a stream that passes pushes. The two take turns, so write
// returns when all that can be decoded of what it was given has been looked at.
type tap struct {
	codes []string
	look  func([]byte) // called from the tap's goroutine, while write waits

	mu     sync.Mutex
	turn   *sync.Cond
	begun  bool
	piece  []byte // lent by write; to be decoded
	idle   bool   // the decoder waits for more
	ended  bool   // nothing more will come
	over   bool   // the decoder has stopped
	err    error  // why, nil when it has decoded all
	passed int64  // encoded bytes
}

func newTap(codes []string, look func([]byte)) *tap {
	t := &tap{codes: codes, look: look}
	t.turn = sync.NewCond(&t.mu)
	return t
}

// write decodes the next piece.
func (t *tap) write(b []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.begun {
		t.begun = true
		go t.run()
	}
	t.passed += int64(len(b))
	t.piece, t.idle = b, false
	t.turn.Broadcast()
	for !t.over && !(t.idle && len(t.piece) == 0) {
		t.turn.Wait()
	}
	t.piece = nil
}

// end says that the stream has ended, and returns whether it was what its
// encoding says.
func (t *tap) end() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = true
	t.turn.Broadcast()
	for t.begun && !t.over {
		t.turn.Wait()
	}
	return t.err
}

// stop ends it where the stream was broken off. It may be called at any time.
func (t *tap) stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = true
	t.turn.Broadcast()
}

// Read gives the decoder what write has got.
func (t *tap) Read(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.piece) == 0 && !t.ended {
		t.idle = true
		t.turn.Broadcast()
		t.turn.Wait()
	}
	t.idle = false
	if len(t.piece) == 0 {
		return 0, io.EOF
	}
	n := copy(p, t.piece)
	t.piece = t.piece[n:]
	return n, nil
}

func (t *tap) run() {
	err := errDefect
	defer func() {
		_ = recover() // a decoder's defect must not end the process; the body is refused
		t.mu.Lock()
		defer t.mu.Unlock()
		t.over, t.err = true, err
		t.turn.Broadcast()
	}()
	d := newDecoder(t, t.codes)
	defer d.Close()
	buf := make([]byte, 32<<10)
	var decoded int64
	for {
		n, rerr := d.Read(buf)
		t.look(buf[:n])
		if decoded += int64(n); decoded > growFree+growTimes*t.encoded() {
			err = errGrows
			return
		}
		if rerr == io.EOF {
			err = nil
			return
		}
		if rerr != nil {
			err = rerr
			return
		}
	}
}

var errDefect = errors.New("a defect of Berth")

func (t *tap) encoded() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.passed
}

package terminal

import (
	"bytes"
	"io"

	"berth.dev/internal/guestapi/termmode"
)

// maxHeld bounds a sequence that is not whole yet, in bytes.
const maxHeld = 4 << 10

// Playback shows a recording of a program's output on a terminal, without the
// sequences that a terminal answers: the answers would be typed into the
// user's shell. Close puts the terminal back as it was.
type Playback struct {
	w     io.Writer
	held  []byte // a sequence that the last write cut off
	modes termmode.Tracker
}

// NewPlayback returns a Playback on w.
func NewPlayback(w io.Writer) *Playback { return &Playback{w: w} }

// Write shows p, but for a sequence that it cuts off, which waits for its rest.
func (b *Playback) Write(p []byte) (int, error) {
	buf := append(b.held, p...)
	cut := incomplete(buf)
	b.held = bytes.Clone(buf[cut:])
	shown := strip(buf[:cut])
	_, _ = b.modes.Write(shown)
	if _, err := b.w.Write(shown); err != nil {
		return 0, err
	}
	return len(p), nil
}

// maxPasses bounds the work of strip on what was made to be hard.
const maxPasses = 16

// strip removes questions until none is left: a recording may hide one in
// another, so that taking out the inner one makes the outer one whole.
func strip(p []byte) []byte {
	for range maxPasses {
		next := termmode.StripQueries(p)
		if len(next) == len(p) {
			return next
		}
		p = next
	}
	return bytes.ReplaceAll(p, []byte{esc}, nil)
}

// Close drops a sequence that never became whole and ends the modes that were
// left switched on.
func (b *Playback) Close() error {
	off := b.modes.Off()
	if len(off) == 0 {
		return nil
	}
	_, err := b.w.Write(off)
	return err
}

// incomplete returns where in p an escape sequence begins that p's end cuts
// off, else p's length. One that is longer than maxHeld is given up: it is cut,
// and StripQueries drops it.
func incomplete(p []byte) int {
	at := bytes.LastIndexByte(p, esc)
	if at < 0 || len(p)-at > maxHeld {
		return len(p)
	}
	rest := p[at+1:]
	if len(rest) == 0 {
		return at
	}
	switch rest[0] {
	case '[':
		for _, c := range rest[1:] {
			if c < 0x20 || c > 0x3f {
				return len(p)
			}
		}
		return at
	case ']', 'P', '_', '^', 'X':
		// Its end is BEL, or an ESC \ whose ESC would have been the last one.
		if bytes.IndexByte(rest, 0x07) >= 0 {
			return len(p)
		}
		return at
	}
	for _, c := range rest {
		if c < 0x20 || c > 0x2f {
			return len(p)
		}
	}
	return at
}

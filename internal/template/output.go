package template

import (
	"bytes"
	"strings"

	"berth.dev/internal/guestapi"
)

const (
	// tailLines of a step that failed are part of its error.
	tailLines = 15
	// lineLength is what is kept of a line, in bytes.
	lineLength = 200
	// maxPending bounds a line whose end has not come, in bytes.
	maxPending = 4096
)

// lines cuts a step's output into lines, made fit for a terminal: the guest
// wrote them, and they end up on the user's screen.
type lines struct {
	step    string
	p       Progress
	pending []byte
	tail    []string
}

// Write implements io.Writer; it never fails.
func (l *lines) Write(p []byte) (int, error) {
	l.pending = append(l.pending, p...)
	for {
		end := bytes.IndexAny(l.pending, "\r\n")
		next := end + 1
		if end < 0 {
			if len(l.pending) < maxPending {
				return len(p), nil
			}
			end, next = len(l.pending), len(l.pending)
		}
		l.line(l.pending[:end])
		l.pending = l.pending[next:]
	}
}

func (l *lines) line(b []byte) {
	line := strings.TrimSpace(guestapi.Printable(string(b), lineLength))
	if line == "" {
		return
	}
	l.tail = append(l.tail, line)
	if len(l.tail) > tailLines {
		l.tail = l.tail[1:]
	}
	l.p.send(Event{Step: l.step, Line: line})
}

// last returns the last lines, the one that has no end included.
func (l *lines) last() []string {
	l.line(l.pending)
	l.pending = nil
	return l.tail
}

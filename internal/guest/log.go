package guest

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// Budget of the log. Who lives in the sandbox can cause lines (by connecting,
// say), and must not fill the supervisor's disk with them.
const (
	logBurst = 50
	logEvery = 200 * time.Millisecond // one more line each
)

// logger writes lines to the supervisor, within the budget.
type logger struct {
	mu      sync.Mutex
	w       io.Writer
	left    int
	filled  time.Time
	dropped int
}

func newLogger(w io.Writer) *logger {
	return &logger{w: w, left: logBurst, filled: time.Now()}
}

// printf writes a line, unless there were too many.
func (l *logger) printf(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := int(time.Since(l.filled) / logEvery); n > 0 {
		l.left = min(logBurst, l.left+n)
		l.filled = time.Now()
	}
	if l.left == 0 {
		l.dropped++
		return
	}
	l.left--
	if l.dropped > 0 {
		fmt.Fprintf(l.w, "berth-guest: %d lines were left out\n", l.dropped)
		l.dropped = 0
	}
	fmt.Fprintf(l.w, "berth-guest: "+format+"\n", args...)
}

// errorf writes an error, if it is one.
func (l *logger) errorf(err error) {
	if err != nil {
		l.printf("%v", err)
	}
}

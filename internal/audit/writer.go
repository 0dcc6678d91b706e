package audit

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

const (
	// chunk is how many bytes are written at once, about.
	chunk = 256 << 10
	// goneEvery is how often the file is looked for.
	goneEvery = time.Second
	// keptQueue is how many events' room an empty queue keeps.
	keptQueue = 1024
)

// writer is the goroutine that writes a log.
type writer struct {
	log  *Log
	dir  string
	opts Options
	enc  *encoder

	// The last line that was made.
	seq  uint64
	prev string

	buf   []byte // lines, of which the first may be written in part
	file  file   // nil after a rotation that did not succeed
	size  int64  // of file, with buf
	first uint64 // number of the first line in file
	// looked is when the file was last looked for in the folder.
	looked time.Time

	failing time.Time // since when nothing can be written
	cause   error     // why
	lost    uint64    // events that no line tells of yet
	said    string    // what else the next gap has to say
	last    bool      // the log is closed, and the last try is under way
	given   bool      // given up: the log is closed and cannot be written
}

// run writes until the log is closed.
func (w *writer) run() {
	defer close(w.log.done)
	// Lines that the head knows nothing of would count as added by somebody.
	select {
	case <-w.log.keeper.ready:
	case <-w.log.closing:
		if err := w.log.keeper.firstTry(); err != nil {
			w.giveUp(err)
		}
	}
	var empty []Event
	for last := false; !last; {
		select {
		case <-w.log.wake:
		case <-w.log.closing:
			last = true
		}
		events, lost := w.log.take(empty)
		w.write(events, lost)
		clear(events)
		if empty = events[:0]; cap(empty) > keptQueue {
			empty = nil
		}
	}
	w.log.err = w.end()
}

// write writes events and tells of those that are lost, which came after them.
func (w *writer) write(events []Event, lost uint64) {
	for i := range events {
		w.line(&events[i])
	}
	w.lost += lost
	w.gap()
	w.flush()
	w.gap() // what flush had to say
	w.flush()
}

// gap adds the line that tells what is missing, if anything is.
func (w *writer) gap() {
	if w.lost == 0 && w.said == "" {
		return
	}
	e := Event{Kind: Gap, Lost: w.lost, Detail: w.said}
	if e.Detail == "" {
		e.Detail = "more was recorded than could be written"
	}
	w.lost, w.said = 0, ""
	e.clean()
	w.line(&e)
}

// line adds one line to what is to be written. Its Seq says its place.
func (w *writer) line(e *Event) {
	if w.given {
		w.lost++
		return
	}
	if e.Sandbox == "" && e.ID == "" {
		e.Sandbox, e.ID = w.opts.Sandbox, w.opts.ID
	}
	e.Seq, e.Prev = w.seq+1, w.prev
	line, hash, err := w.enc.line(e)
	if err != nil {
		w.lost++ // cannot be: it was cleaned
		return
	}
	if w.size > 0 && w.size+int64(len(line)) > w.opts.MaxFile {
		w.flush()
		w.rotate()
	}
	w.buf = append(w.buf, line...)
	w.size += int64(len(line))
	w.seq, w.prev = e.Seq, hash
	if len(w.buf) >= chunk {
		w.flush()
	}
}

// flush writes what is in buf, and does not return before it is written, or the
// log is closed and it cannot be. Record does not wait for it.
func (w *writer) flush() {
	for len(w.buf) > 0 && !w.given {
		if err := w.try(); err != nil {
			w.fails(err)
			continue
		}
		if !w.failing.IsZero() {
			w.said = fmt.Sprintf("nothing could be written for %s: %v", time.Since(w.failing).Round(time.Millisecond), w.cause)
			w.failing, w.cause = time.Time{}, nil
		}
		w.log.keeper.wrote(w.seq, w.prev)
	}
	if cap(w.buf) > 2*chunk {
		w.buf = nil
	}
}

// try writes as much of buf as it can.
func (w *writer) try() error {
	if err := w.openCurrent(); err != nil {
		return err
	}
	n, err := w.file.Write(w.buf)
	// The file is only ever added to: what is left of a line that was cut off
	// goes right behind it.
	w.buf = append(w.buf[:0], w.buf[n:]...)
	return err
}

// fails waits before the next try. When the log is closed there is one more.
func (w *writer) fails(err error) {
	if w.failing.IsZero() {
		w.failing = time.Now()
	}
	w.cause = err
	select {
	case <-time.After(w.opts.retry):
	case <-w.log.closing:
		if w.last {
			w.giveUp(err)
		}
		w.last = true
	}
}

func (w *writer) giveUp(err error) {
	w.given, w.cause = true, err
}

// openCurrent opens the current file, when that is not open.
func (w *writer) openCurrent() error {
	path := filepath.Join(w.dir, currentFile)
	if w.file != nil && !w.gone(path) {
		return nil
	}
	f, err := w.opts.openFile(path)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return errors.Join(err, f.Close(), errNoFile)
	}
	w.file, w.size = f, info.Size()+int64(len(w.buf))
	w.log.keeper.opened(f)
	// The next line to be written is the first, unless there are some already. An
	// unreadable one has no number.
	w.first = w.seq + 1 - uint64(bytes.Count(w.buf, []byte("\n")))
	if e, err := firstLine(path); err == nil {
		w.first = e.Seq
	}
	return nil
}

// gone reports, once a second at most, whether somebody removed the file that
// is being written. Verify will miss what was in it; what follows goes into a
// new one.
func (w *writer) gone(path string) bool {
	if now := time.Now(); now.Sub(w.looked) > goneEvery {
		w.looked = now
		has, err := w.file.Stat()
		there, terr := os.Lstat(path)
		return isMissing(terr) || err == nil && terr == nil && !os.SameFile(has, there)
	}
	return false
}

// rotate gives the current file its lasting name, begins a new one, and drops
// the oldest when there are too many. When it cannot, the file just grows.
func (w *writer) rotate() {
	if w.given || w.file == nil {
		return
	}
	if err := os.Rename(filepath.Join(w.dir, currentFile), filepath.Join(w.dir, oldName(w.first))); err != nil {
		return
	}
	w.file, w.size = nil, 0
	// On an error flush will try again.
	_ = w.openCurrent()
	w.drop()
}

// drop has the oldest files deleted that are too many.
func (w *writer) drop() {
	names, err := list(w.dir)
	if err != nil {
		return // the next rotation sees them too
	}
	if names[len(names)-1] == currentFile {
		names = names[:len(names)-1]
	}
	extra := len(names) + 1 - w.opts.MaxFiles
	if extra <= 0 {
		return
	}
	// A file whose first line cannot be read is no beginning. It goes with those
	// before it, or the log would grow without end.
	for ; extra < len(names); extra++ {
		if e, err := firstLine(filepath.Join(w.dir, names[extra])); err == nil {
			w.log.keeper.begins(e.Seq, e.Prev, names[:extra])
			return
		}
	}
	w.log.keeper.begins(w.seq+1, w.prev, names) // with the line to come
}

// end writes what is left to tell and ends the log.
func (w *writer) end() error {
	whole := !w.given && w.lost == 0
	var errs []error
	if !whole {
		errs = append(errs, fmt.Errorf("write audit log: %w", w.cause))
	}
	errs = append(errs, w.log.keeper.end(whole))
	return errors.Join(append(errs, w.log.lock.Close())...)
}

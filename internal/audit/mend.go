package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Details of the gaps that Open records.
const (
	gapKilled  = "the writer before was killed; what it had not written is missing"
	gapTorn    = "the writer before was killed within a line, of which a part was removed here"
	gapTail    = "lines at the end of the log had been removed"
	gapDamaged = "the last line of the log had been damaged"
	// gapHead is one that Verify makes a problem of: nobody can tell what else
	// was done.
	gapHead = "the head file was missing or damaged; whether lines are missing before this one cannot be known"
)

// begin is where a writer goes on.
type begin struct {
	head head // to be written first, with Closed false
	seq  uint64
	hash string
	gaps []Event
}

// mend looks at the end of a log, cuts off a line that is not whole, and says
// where to go on. The lock is held.
func mend(dir string) (begin, error) {
	end, err := findEnd(dir)
	if err != nil {
		return begin{}, err
	}
	b := begin{seq: end.seq, hash: end.hash}
	gap := func(lost uint64, detail string) {
		b.gaps = append(b.gaps, Event{Kind: Gap, Lost: lost, Detail: detail})
	}
	h, err := readHead(dir)
	switch {
	case err == nil:
	case isMissing(err) && end.empty():
		h = newHead(dir)
		h.Closed = !end.begun // else somebody was killed before there was a head
	case isMissing(err) || errors.Is(err, errHead):
		gap(0, gapHead)
		h = headless(dir, end)
	default:
		return begin{}, err
	}
	if end.seq < h.LastSeq || end.seq == 0 {
		// The chain goes on where it was, so that what is missing stays to be seen.
		b.seq, b.hash = h.LastSeq, h.LastHash
		if missing := h.LastSeq - max(end.seq, h.FirstSeq-1); missing > 0 {
			gap(missing, gapTail)
		}
	}
	switch {
	case end.broken > 0:
		gap(uint64(end.broken), gapDamaged)
	case end.torn > 0:
		gap(1, gapTorn)
	case !h.Closed:
		gap(0, gapKilled)
	}
	b.head = h
	b.head.Closed = false
	return b, nil
}

// headless makes up the head of a log that lost it.
func headless(dir string, end ending) head {
	h := newHead(dir)
	names, err := list(dir)
	if err == nil && len(names) > 0 {
		if first, err := firstLine(filepath.Join(dir, names[0])); err == nil {
			h.FirstSeq, h.FirstPrev = first.Seq, first.Prev
		}
	}
	h.LastSeq, h.LastHash = end.seq, end.hash
	if end.seq == 0 {
		h.LastSeq, h.LastHash = h.FirstSeq-1, h.FirstPrev
	}
	h.Closed = true // the gap says more
	return h
}

// ending is what stands at the end of a log.
type ending struct {
	seq    uint64 // of the last good line, 0 for none
	hash   string
	broken int   // lines after it that are none
	torn   int64 // bytes after them without a newline; they were cut off
	begun  bool  // there are files, be they empty
}

func (end ending) empty() bool { return end.seq == 0 && end.broken == 0 && end.torn == 0 }

// tailSize is how much of the end of a file is looked at, in bytes: one line at
// least, whatever lies after it.
const tailSize = 4 * maxLine

// findEnd finds the last good line, and cuts off what is not whole after it.
func findEnd(dir string) (ending, error) {
	var end ending
	names, err := list(dir)
	if err != nil {
		return end, err
	}
	end.begun = len(names) > 0
	for i := len(names) - 1; i >= 0 && end.seq == 0; i-- {
		path := filepath.Join(dir, names[i])
		tail, size, err := readTail(path)
		if err != nil {
			return end, fmt.Errorf("read the end of %s: %w", names[i], err)
		}
		whole := bytes.LastIndexByte(tail, '\n') + 1
		if torn := int64(len(tail) - whole); torn > 0 && names[i] == currentFile {
			end.torn = torn
			if err := os.Truncate(path, size-torn); err != nil {
				return end, fmt.Errorf("cut off a line that is not whole: %w", err)
			}
		}
		end.lastOf(tail[:whole])
	}
	return end, nil
}

// lastOf looks for the last good line among whole ones; the first of them may
// lack its beginning.
func (end *ending) lastOf(lines []byte) {
	for len(lines) > 0 {
		lines = lines[:len(lines)-1] // the newline
		at := bytes.LastIndexByte(lines, '\n') + 1
		if e, err := ParseLine(lines[at:]); err == nil && e.Seq > 0 {
			end.seq, end.hash = e.Seq, e.Hash
			return
		}
		end.broken++
		lines = lines[:at]
	}
}

// readTail reads the end of a file.
func readTail(path string) (tail []byte, size int64, err error) {
	f, err := openFile(path)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	size = info.Size()
	tail = make([]byte, min(size, tailSize))
	if _, err := f.ReadAt(tail, size-int64(len(tail))); err != nil && !errors.Is(err, io.EOF) {
		return nil, 0, err
	}
	return tail, size, nil
}

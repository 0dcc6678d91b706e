package audit

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"
)

// maxProblems bounds the list in a Report.
const maxProblems = 1000

// Problem is something in a log that Berth did not do.
type Problem struct {
	File string `json:"file"`           // its name in the folder
	Line int    `json:"line,omitempty"` // in the file, from 1; 0: the file as a whole
	Seq  uint64 `json:"seq,omitempty"`  // of the line, 0 when unknown
	What string `json:"what"`
}

// String returns the problem on one line.
func (p Problem) String() string {
	s := p.File
	if p.Line > 0 {
		s = fmt.Sprintf("%s:%d", s, p.Line)
	}
	if p.Seq > 0 {
		s += fmt.Sprintf(": event %d", p.Seq)
	}
	return s + ": " + p.What
}

// Missing is a Gap event: what Berth itself says is missing.
type Missing struct {
	Time time.Time `json:"time"`
	Seq  uint64    `json:"seq"`
	Lost uint64    `json:"lost"` // 0: unknown
	Why  string    `json:"why"`
}

// Report is what Verify found.
type Report struct {
	Files    int       `json:"files"`
	Events   uint64    `json:"events"`  // lines that are good
	Dropped  uint64    `json:"dropped"` // older ones that rotation deleted
	First    uint64    `json:"first"`   // number of the first and the last line, 0 when there is none
	Last     uint64    `json:"last"`
	From     time.Time `json:"from,omitzero"` // times of these two
	To       time.Time `json:"to,omitzero"`
	LastHash string    `json:"last_hash,omitempty"` // keep it elsewhere to know this log again
	Open     bool      `json:"open,omitempty"`      // it is being written, or its writer was killed
	// Torn are bytes at the end that are no whole line, with Open: one is being
	// written, or its writer was killed; the next one tells of it.
	Torn     int64     `json:"torn,omitempty"`
	Gaps     []Missing `json:"gaps"`
	Problems []Problem `json:"problems"`
	More     int       `json:"more_problems,omitempty"` // problems that are not in the list
}

// OK reports whether the log is as Berth wrote it.
func (r Report) OK() bool { return len(r.Problems) == 0 }

// Verify holds the log in dir against its chain and its head. An error says
// that it could not be read; what is wrong with it is in the report. The log may
// be written meanwhile: what is checked is what was there at the beginning.
func Verify(dir string) (Report, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return Report{}, err
	}
	s, err := open(dir)
	if err != nil {
		return Report{}, err
	}
	defer s.close()
	v := &verifier{head: s.head, genesis: genesis(filepath.Base(dir))}
	v.Gaps, v.Problems, v.Files = []Missing{}, []Problem{}, len(s.files)
	if err := v.begin(s); err != nil {
		return Report{}, err
	}
	for i := range s.files {
		v.file, v.newest = s.names[i], i == len(s.files)-1 && s.names[i] == currentFile
		if err := v.readAll(s.reader(i)); err != nil {
			return Report{}, fmt.Errorf("read audit log: %w", err)
		}
	}
	v.end()
	return v.Report, nil
}

// verifier is Verify under way.
type verifier struct {
	Report
	head    head
	headed  bool // there is a good head
	genesis string

	file   string
	newest bool
	line   int

	next  uint64 // number that the next line has to have
	prev  string // and its prev; "" when that cannot be known
	slack uint64 // lines before it that have no number, and may have been none
}

func (v *verifier) problem(seq uint64, format string, args ...any) {
	v.problemAt(v.file, v.line, seq, fmt.Sprintf(format, args...))
}

func (v *verifier) problemAt(file string, line int, seq uint64, what string) {
	if len(v.Problems) >= maxProblems {
		v.More++
		return
	}
	v.Problems = append(v.Problems, Problem{File: file, Line: line, Seq: seq, What: what})
}

// begin takes from the head where the lines begin.
func (v *verifier) begin(s *snapshot) error {
	for _, name := range s.bad {
		v.problemAt(name, 0, 0, "it is no file")
	}
	v.next, v.prev = 1, v.genesis
	switch {
	case s.herr == nil:
		v.headed = true
		v.next, v.prev = v.head.FirstSeq, v.head.FirstPrev
		v.Dropped, v.Open = v.head.FirstSeq-1, !v.head.Closed
		if v.next == 1 && v.prev != v.genesis {
			v.problemAt(headFile, 0, 0, "it belongs to the log of another folder")
		}
		v.atHead(v.next-1, v.prev)
	case isMissing(s.herr) && s.empty():
	case isMissing(s.herr):
		v.problemAt(headFile, 0, 0, "it is missing, so what is missing before and after the lines that are there cannot be known")
	case errors.Is(s.herr, errHead):
		v.problemAt(headFile, 0, 0, "it was changed, so what is missing before and after the lines that are there cannot be known")
	default:
		return s.herr
	}
	return nil
}

func (v *verifier) readAll(r io.Reader) error {
	sc := newScanner(r)
	for {
		line, err := sc.next()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		v.line = sc.n
		v.check(line)
	}
	if sc.n == 0 && v.file != currentFile {
		v.problemAt(v.file, 0, 0, "it has no line")
	}
	if v.Torn = sc.part; v.Torn > 0 && !(v.newest && v.Open) {
		v.line = sc.n + 1
		v.problem(0, "the line is not whole")
	}
	return nil
}

// check looks at one line.
func (v *verifier) check(line []byte) {
	e, err := ParseLine(line)
	if err != nil {
		// It counts as one line, of which only its own place is known.
		v.problem(e.Seq, "%v", err)
		v.next, v.prev, v.slack = v.next+1, "", v.slack+1
		return
	}
	v.Events++
	if first, ok := firstOf(v.file); ok && v.line == 1 && first != e.Seq {
		v.problem(e.Seq, "the name of the file says that event %d is its first", first)
	}
	if v.follows(&e) {
		v.next, v.prev, v.slack = e.Seq+1, e.Hash, 0
		v.atHead(e.Seq, e.Hash)
	}
	if v.First == 0 {
		v.First, v.From = e.Seq, e.Time
	}
	v.Last, v.To, v.LastHash = e.Seq, e.Time, e.Hash
	if e.Kind == Gap {
		v.gap(&e)
	}
}

// follows holds a line against the one before it, and reports whether the next
// one has to follow this.
func (v *verifier) follows(e *Event) bool {
	switch {
	case e.Seq == 0:
		v.problem(0, "it has no number")
		return false
	case v.First == 0 && v.headed && e.Seq < v.next:
		// Deleting what rotation dropped was cut short. What is left of it is
		// bound to the rest by the chain.
		if e.Seq == 1 && e.Prev != v.genesis {
			v.problem(e.Seq, "it is the first line of another log")
		}
		v.Dropped = e.Seq - 1
		return true
	case e.Seq > v.next:
		v.problem(e.Seq, "missing before it: %s", events(v.next, e.Seq-1))
		return true
	case e.Seq < v.next-min(v.slack, v.next):
		v.problem(e.Seq, "it is out of place: event %d has to be here", v.next)
		return false
	}
	if v.prev != "" && e.Prev != v.prev {
		v.problem(e.Seq, "it does not follow the line before it: one of the two was exchanged")
	}
	return true
}

// atHead holds a line against the head.
func (v *verifier) atHead(seq uint64, hash string) {
	if v.headed && seq == v.head.LastSeq && hash != v.head.LastHash {
		v.problem(seq, "it is not the line that the head file speaks of")
	}
	if v.headed && seq+1 == v.head.FirstSeq && hash != v.head.FirstPrev {
		v.problem(seq, "it is not the line before the one that the head file calls the first")
	}
}

func (v *verifier) gap(e *Event) {
	if e.Detail == gapHead {
		v.problem(e.Seq, "%s", e.Detail)
	}
	if len(v.Gaps) < maxProblems {
		v.Gaps = append(v.Gaps, Missing{Time: e.Time, Seq: e.Seq, Lost: e.Lost, Why: e.Detail})
	}
}

// end looks at what should have come after the last line.
func (v *verifier) end() {
	if !v.headed {
		return
	}
	last := v.next - 1
	switch {
	case last < v.head.LastSeq:
		v.problemAt(currentFile, 0, 0, "missing at the end: "+events(v.next, v.head.LastSeq))
	case v.head.Closed && last > v.head.LastSeq:
		v.problemAt(currentFile, 0, 0, "added after the log was closed: "+events(v.head.LastSeq+1, last))
	}
}

func events(from, to uint64) string {
	if from == to {
		return fmt.Sprintf("event %d", from)
	}
	return fmt.Sprintf("events %d to %d", from, to)
}

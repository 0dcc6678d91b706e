package audit

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"
)

// Read calls fn for the events of the log in dir that the filter wants, in the
// order in which they were written, until fn returns an error, which Read then
// returns. The log may be written meanwhile. It proves nothing: see Verify.
func Read(dir string, f Filter, fn func(Event) error) error {
	s, err := open(dir)
	if err != nil {
		return err
	}
	defer s.close()
	if f.Last <= 0 {
		for i := range s.files {
			if !s.skip(i, &f) {
				if _, err := readFile(s.reader(i), s.names[i], &f, fn); err != nil {
					return err
				}
			}
		}
		return nil
	}
	last, err := s.last(&f)
	if err != nil {
		return err
	}
	for _, e := range last {
		if err := fn(e); err != nil {
			return err
		}
	}
	return nil
}

// last returns the newest events that are wanted. It begins with the newest
// file, and mostly ends there.
func (s *snapshot) last(f *Filter) ([]Event, error) {
	var found []Event
	for i := len(s.files) - 1; i >= 0 && len(found) < f.Last; i-- {
		if s.skip(i, f) {
			continue
		}
		var ring []Event
		room := f.Last - len(found)
		_, err := readFile(s.reader(i), s.names[i], f, func(e Event) error {
			// Twice the room, so that making room is rare.
			if len(ring) >= 2*room {
				ring = slices.Delete(ring, 0, len(ring)-room)
			}
			ring = append(ring, e)
			return nil
		})
		if err != nil {
			return nil, err
		}
		found = append(ring[max(0, len(ring)-room):], found...)
	}
	return found, nil
}

// skip reports whether a file cannot hold anything that is wanted.
func (s *snapshot) skip(i int, f *Filter) bool {
	// The next file's name says where this one ends.
	if i+1 < len(s.names) {
		if next, ok := firstOf(s.names[i+1]); ok && next <= f.After {
			return true
		}
	}
	// An event is written after its time, but the time of a file is a little slow.
	info, err := s.files[i].Stat()
	return err == nil && info.ModTime().Add(time.Second).Before(f.Since)
}

// readFile calls fn for the lines of a file that are wanted and are whole. It
// returns how far it came.
func readFile(r io.Reader, name string, f *Filter, fn func(Event) error) (*scanner, error) {
	sc := newScanner(r)
	for {
		line, err := sc.next()
		if errors.Is(err, io.EOF) {
			return sc, nil
		} else if err != nil {
			return sc, fmt.Errorf("read audit log: %w", err)
		}
		e, err := ParseLine(line)
		if err != nil {
			if f.Broken != nil {
				f.Broken(Problem{File: name, Line: sc.n, Seq: e.Seq, What: err.Error()})
			}
			if e.Seq == 0 {
				continue
			}
		}
		if f.wants(&e) {
			if err := fn(e); err != nil {
				return sc, err
			}
		}
	}
}

// exists reports whether there is a folder.
func exists(dir string) bool {
	info, err := os.Stat(dir)
	return err == nil && info.IsDir()
}

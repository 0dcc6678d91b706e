package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// pollEvery is how soon a follower sees a new line.
const pollEvery = 200 * time.Millisecond

// Follow is Read that goes on with what is written later, until ctx ends, and
// then returns nil. A log that does not exist yet is waited for.
func Follow(ctx context.Context, dir string, f Filter, fn func(Event) error) error {
	t := &tail{dir: dir, filter: f, fn: fn}
	defer t.close()
	if f.Last > 0 && exists(dir) {
		last := f
		last.Broken = nil // they are found again below
		err := Read(dir, last, func(e Event) error {
			t.filter.After = max(t.filter.After, e.Seq)
			return fn(e)
		})
		if err != nil {
			return err
		}
	}
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		if err := t.poll(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// tail is a place in a log that grows.
type tail struct {
	dir    string
	filter Filter
	fn     func(Event) error
	file   *os.File
	name   string
	offset int64  // where the next line begins
	lines  int    // before it
	seen   uint64 // number of the last line that was looked at
}

// poll calls fn for what is new.
func (t *tail) poll() error {
	moved := false
	if t.file != nil {
		now, err := os.Lstat(filepath.Join(t.dir, currentFile))
		has, serr := t.file.Stat()
		if serr != nil {
			return fmt.Errorf("follow audit log: %w", serr)
		}
		moved = err != nil || !os.SameFile(now, has)
		// After the look: whatever was written before it was moved is there by
		// now.
		if err := t.drain(); err != nil {
			return err
		}
	}
	if t.file == nil || moved {
		return t.reopen()
	}
	return nil
}

// reopen reads the files that came after the one that was read last.
func (t *tail) reopen() error {
	s, err := open(t.dir)
	if isMissing(err) {
		return nil // not yet, or no more
	} else if err != nil {
		return err
	}
	defer s.close()
	for i, name := range s.names {
		if first, ok := firstOf(name); ok && t.file != nil && first <= t.seen {
			continue // it was read to its end under its former name
		}
		if same(t.file, s.files[i]) || i < len(s.names)-1 && s.skip(i, &t.filter) {
			continue
		}
		t.close()
		t.file, t.name, t.offset, t.lines = s.files[i], name, 0, 0
		s.files[i] = nil
		if err := t.drain(); err != nil {
			return err
		}
	}
	return nil
}

// drain reads the open file to its end. A line that is not whole waits.
func (t *tail) drain() error {
	info, err := t.file.Stat()
	if err != nil {
		return fmt.Errorf("follow audit log: %w", err)
	}
	if info.Size() <= t.offset {
		t.offset = info.Size() // less: a line that was not whole was cut off
		return nil
	}
	f := Filter{}
	if t.filter.Broken != nil {
		f.Broken = func(p Problem) {
			p.Line += t.lines
			t.filter.Broken(p)
		}
	}
	sc, err := readFile(io.NewSectionReader(t.file, t.offset, info.Size()-t.offset), t.name, &f, func(e Event) error {
		if e.Seq <= t.seen {
			return nil
		}
		t.seen = e.Seq
		if !t.filter.wants(&e) {
			return nil
		}
		return t.fn(e)
	})
	t.offset += sc.whole
	t.lines += sc.n
	return err
}

func (t *tail) close() {
	if t.file != nil {
		_ = t.file.Close()
		t.file = nil
	}
}

func same(a, b *os.File) bool {
	if a == nil || b == nil {
		return false
	}
	x, xerr := a.Stat()
	y, yerr := b.Stat()
	return errors.Join(xerr, yerr) == nil && os.SameFile(x, y)
}

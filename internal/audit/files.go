package audit

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

const (
	currentFile = "audit.log"
	lockFile    = "lock"
	oldPrefix   = "audit-"
	oldSuffix   = ".log"
)

const noFollow = syscall.O_NOFOLLOW | syscall.O_NONBLOCK | syscall.O_CLOEXEC

const errLoop = syscall.ELOOP

// oldName is the name of a rotated file whose first line has that number.
func oldName(first uint64) string { return fmt.Sprintf("%s%020d%s", oldPrefix, first, oldSuffix) }

// firstOf is the number in the name of a rotated file; ok is false for all
// other names.
func firstOf(name string) (first uint64, ok bool) {
	digits, ok := strings.CutPrefix(name, oldPrefix)
	if ok {
		digits, ok = strings.CutSuffix(digits, oldSuffix)
	}
	if !ok || len(digits) != 20 {
		return 0, false
	}
	first, err := strconv.ParseUint(digits, 10, 64)
	return first, err == nil && first > 0
}

// list returns the names of the files with lines, the oldest first.
func list(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read audit log: %w", err)
	}
	var names []string
	current := false
	for _, e := range entries {
		if _, ok := firstOf(e.Name()); ok {
			names = append(names, e.Name())
		}
		current = current || e.Name() == currentFile
	}
	slices.Sort(names)
	if current {
		names = append(names, currentFile)
	}
	return names, nil
}

// snapshot is a log at one moment: its head, and its files as far as they were
// written then.
type snapshot struct {
	head  head
	herr  error // of readHead
	files []*os.File
	names []string
	sizes []int64
	bad   []string // what has the name of a file and is none
}

// tries bounds how often a log may be rotated while it is opened.
const tries = 100

// open takes a snapshot of a log that may be written meanwhile.
func open(dir string) (*snapshot, error) {
	for range tries {
		s := &snapshot{}
		s.head, s.herr = readHead(dir)
		names, err := list(dir)
		if err == nil {
			err = s.open(dir, names)
		}
		if err == nil {
			// When a file was rotated or dropped in between, begin anew.
			after, aerr := list(dir)
			now, nerr := readHead(dir)
			if aerr == nil && slices.Equal(after, names) && (nerr == nil) == (s.herr == nil) && now.sameMoment(s.head) {
				return s, nil
			}
			err = aerr
		}
		s.close()
		if err != nil && !isMissing(err) {
			return nil, err
		}
		if _, serr := os.Stat(dir); serr != nil {
			return nil, fmt.Errorf("read audit log: %w", serr)
		}
	}
	return nil, fmt.Errorf("read audit log: %s changes too fast", dir)
}

func (s *snapshot) open(dir string, names []string) error {
	for _, name := range names {
		f, err := openFile(filepath.Join(dir, name))
		if errors.Is(err, errNoFile) {
			s.bad = append(s.bad, name)
			continue
		} else if err != nil {
			return fmt.Errorf("read audit log: %w", err)
		}
		s.files, s.names = append(s.files, f), append(s.names, name)
		info, err := f.Stat()
		if err != nil {
			return fmt.Errorf("read audit log: %w", err)
		}
		s.sizes = append(s.sizes, info.Size())
	}
	return nil
}

// reader reads a file as far as it was written.
func (s *snapshot) reader(i int) io.Reader { return io.NewSectionReader(s.files[i], 0, s.sizes[i]) }

// empty reports whether the log looks as one does to which nobody has added yet.
func (s *snapshot) empty() bool {
	return len(s.bad) == 0 && (len(s.names) == 0 || len(s.names) == 1 && s.names[0] == currentFile && s.sizes[0] == 0)
}

func (s *snapshot) close() {
	for _, f := range s.files {
		_ = f.Close() // nil when somebody took it over
	}
}

// scanner reads lines, however long they are.
type scanner struct {
	r     *bufio.Reader
	n     int   // lines so far
	whole int64 // bytes of whole lines so far
	part  int64 // bytes after the last newline so far
}

func newScanner(r io.Reader) *scanner { return &scanner{r: bufio.NewReaderSize(r, maxLine)} }

// next returns the next line without its newline, valid until the next call. A
// line that is too long is returned as nil. io.EOF is the end; what stands
// there without a newline is counted in part.
func (s *scanner) next() ([]byte, error) {
	line, err := s.r.ReadSlice('\n')
	size := int64(len(line))
	long := false
	for errors.Is(err, bufio.ErrBufferFull) {
		long = true
		var more []byte
		more, err = s.r.ReadSlice('\n')
		size += int64(len(more))
	}
	if err != nil {
		s.part = size
		return nil, err
	}
	s.n++
	s.whole += size
	if long {
		return nil, nil
	}
	return bytes.TrimSuffix(line, []byte("\n")), nil
}

// firstLine reads the first line of a file.
func firstLine(path string) (Event, error) {
	f, err := openFile(path)
	if err != nil {
		return Event{}, err
	}
	defer f.Close()
	line, err := newScanner(f).next()
	if err != nil {
		return Event{}, err
	}
	return ParseLine(line)
}

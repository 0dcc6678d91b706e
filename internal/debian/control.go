package debian

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"

	"berth.dev/internal/sandbox"
)

// Bounds of a control file. Real ones: the longest line of an archive (the
// Provides field of a Rust or Haskell package) has some 100 KB.
const (
	maxControlLine   = 4 << 20
	maxControlValue  = 16 << 20
	maxControlFields = 512
)

// field is one field of a stanza. Continuation lines are joined with newlines,
// their leading blank cut off; the first line comes first, even when empty.
type field struct{ name, value string }

// stanza is one paragraph of a control file (deb822), its fields in order.
type stanza []field

// get returns a field's value; names are compared without case. It is "" when
// the field is absent.
func (s stanza) get(name string) string {
	for _, f := range s {
		if strings.EqualFold(f.name, name) {
			return f.value
		}
	}
	return ""
}

// stanzaReader reads the paragraphs of a control file one by one. It takes the
// syntax of Packages, Release, control and .sources files: fields,
// continuation lines, comments at the start of a line, blank lines between
// paragraphs.
type stanzaReader struct {
	in   *bufio.Reader
	line int
	// keep says which fields to keep, all when nil; what is skipped costs no
	// memory, which matters for an index of 60,000 packages.
	keep func(name []byte) bool
	buf  []byte

	open  bool   // the last field that began is kept and may grow
	value []byte // its value so far
}

func newStanzaReader(r io.Reader) *stanzaReader {
	return &stanzaReader{in: bufio.NewReaderSize(r, 64<<10)}
}

// next returns the next stanza, or io.EOF after the last.
func (r *stanzaReader) next() (stanza, error) {
	var s stanza
	started := false
	r.open = false
	for {
		line, err := r.readLine()
		switch {
		case err == io.EOF && !started:
			return nil, io.EOF
		case err == io.EOF:
			return r.finish(s), nil
		case err != nil:
			return nil, err
		case len(line) > 0 && line[0] == '#':
			// A comment, also in the middle of a field.
		case len(bytes.TrimSpace(line)) == 0:
			if started {
				return r.finish(s), nil
			}
		case line[0] == ' ' || line[0] == '\t':
			if err := r.extend(line, started); err != nil {
				return nil, err
			}
		default:
			if s, err = r.begin(r.finish(s), line); err != nil {
				return nil, err
			}
			started = true
		}
	}
}

// begin starts the field that line opens. Its value grows in r.value until
// finish: appending to a string would cost the square of a long field.
func (r *stanzaReader) begin(s stanza, line []byte) (stanza, error) {
	name, value, ok := bytes.Cut(line, []byte{':'})
	if !ok || !validFieldName(name) {
		return nil, r.errorf("no field name in %q", clip(line))
	}
	if r.open = r.keep == nil || r.keep(name); !r.open {
		return s, nil
	}
	if len(s) >= maxControlFields {
		return nil, r.errorf("more than %d fields", maxControlFields)
	}
	if s.has(name) {
		return nil, r.errorf("field %s stands twice", name)
	}
	r.value = append(r.value[:0], bytes.TrimSpace(value)...)
	return append(s, field{name: string(name)}), nil
}

// extend adds a continuation line to the open field.
func (r *stanzaReader) extend(line []byte, started bool) error {
	switch {
	case !started:
		return r.errorf("continuation line without a field")
	case !r.open:
		return nil
	case len(r.value)+len(line) > maxControlValue:
		return r.errorf("field is longer than %d bytes", maxControlValue)
	}
	r.value = append(append(r.value, '\n'), bytes.TrimRight(line[1:], " \t")...)
	return nil
}

// finish closes the open field.
func (r *stanzaReader) finish(s stanza) stanza {
	if r.open {
		s[len(s)-1].value = string(r.value)
	}
	r.open = false
	return s
}

func (s stanza) has(name []byte) bool {
	for _, f := range s {
		if len(f.name) == len(name) && bytes.EqualFold([]byte(f.name), name) {
			return true
		}
	}
	return false
}

// readLine returns the next line without its end; the slice is valid until the
// next call.
func (r *stanzaReader) readLine() ([]byte, error) {
	r.line++
	r.buf = r.buf[:0]
	for {
		part, err := r.in.ReadSlice('\n')
		switch {
		case err == nil && len(r.buf) == 0:
			return trimEOL(part), nil
		case len(r.buf)+len(part) > maxControlLine:
			return nil, r.errorf("line is longer than %d bytes", maxControlLine)
		case err == nil || err == io.EOF && len(r.buf)+len(part) > 0:
			r.buf = append(r.buf, part...)
			return trimEOL(r.buf), nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		}
		r.buf = append(r.buf, part...)
	}
}

func (r *stanzaReader) errorf(format string, args ...any) error {
	return sandbox.Errorf(sandbox.ErrInvalid, "line %d: "+format, append([]any{r.line}, args...)...)
}

// parseStanzas reads a whole control file that is known to be small.
func parseStanzas(data []byte) ([]stanza, error) {
	r := newStanzaReader(bytes.NewReader(data))
	var all []stanza
	for {
		s, err := r.next()
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
}

func trimEOL(b []byte) []byte {
	return bytes.TrimSuffix(bytes.TrimSuffix(b, []byte{'\n'}), []byte{'\r'})
}

// validFieldName: printable ASCII but blank and colon, not starting with '-'
// (Policy 5.1).
func validFieldName(name []byte) bool {
	if len(name) == 0 || name[0] == '-' {
		return false
	}
	for _, c := range name {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return true
}

func clip(b []byte) string {
	if len(b) > 60 {
		return string(b[:60]) + "..."
	}
	return string(b)
}

package termmode

// kind is the form of a sequence.
type kind uint8

const (
	escape     kind = iota // ESC, intermediates, final
	control                // CSI
	operating              // OSC
	device                 // DCS, APC, PM and SOS
	answerback             // ENQ
)

// seq is one complete sequence. body is what stands between the introducer
// and the final byte (or the terminator), cut after maxBody bytes.
type seq struct {
	kind  kind
	intro byte // second byte of a device string: P _ ^ X
	final byte
	body  []byte
}

// maxBody bounds what is kept of a sequence; no mode needs more.
const maxBody = 256

type state uint8

const (
	ground state = iota
	afterEscape
	inControl
	inString
	inStringEscape
)

// scanner cuts output into sequences, across writes. The zero value is ready.
// Only 7-bit introducers are known: the 8-bit ones are continuation bytes of
// UTF-8, and terminals in UTF-8 mode do not know them either.
type scanner struct {
	state state
	cur   seq
	begin int // where the current sequence began in the slice being read
}

func (s *scanner) each(p []byte, fn func(seq)) {
	s.eachAt(p, func(q seq, _, _ int) { fn(q) })
}

// eachAt calls fn for each sequence that ends in p, with its place in p; a
// sequence that began in an earlier write has a place before 0. seq.body is
// valid during the call.
func (s *scanner) eachAt(p []byte, fn func(q seq, begin, end int)) {
	if s.state != ground {
		s.begin = -1
	}
	for i, c := range p {
		if s.step(c, i) {
			fn(s.cur, s.begin, i+1)
		}
	}
}

// step takes one byte and reports whether it completed a sequence.
func (s *scanner) step(c byte, at int) bool {
	// CAN and SUB abort any sequence, ESC begins another one everywhere but
	// in a string, where it may be the first half of its terminator.
	if c == 0x18 || c == 0x1a {
		s.state = ground
		return false
	}
	if c == 0x1b && s.state != inString {
		s.open(at)
		return false
	}
	switch s.state {
	case ground:
		if c == 0x05 {
			s.begin, s.cur = at, seq{kind: answerback}
			return true
		}
	case afterEscape:
		return s.escaped(c)
	case inControl:
		return s.controlled(c)
	case inString:
		switch {
		case c == 0x07 && s.cur.kind == operating:
			s.state = ground
			return true
		case c == 0x1b:
			s.state = inStringEscape
		default:
			s.keep(c)
		}
	case inStringEscape:
		if c == '\\' {
			s.state = ground
			return true
		}
		// The string was cut off by another sequence.
		s.open(at - 1)
		return s.escaped(c)
	}
	return false
}

func (s *scanner) open(at int) {
	s.state, s.begin = afterEscape, at
	s.cur = seq{kind: escape, body: s.cur.body[:0]}
}

func (s *scanner) escaped(c byte) bool {
	switch {
	case c == '[' && len(s.cur.body) == 0:
		s.cur.kind, s.state = control, inControl
	case c == ']' && len(s.cur.body) == 0:
		s.cur.kind, s.state = operating, inString
	case (c == 'P' || c == '_' || c == '^' || c == 'X') && len(s.cur.body) == 0:
		s.cur.kind, s.cur.intro, s.state = device, c, inString
	case c >= 0x20 && c <= 0x2f:
		s.keep(c)
	case c >= 0x30 && c <= 0x7e:
		s.cur.final, s.state = c, ground
		return true
	}
	return false // a control character inside a sequence is carried out on its own
}

func (s *scanner) controlled(c byte) bool {
	switch {
	case c >= 0x20 && c <= 0x3f:
		s.keep(c)
	case c >= 0x40 && c <= 0x7e:
		s.cur.final, s.state = c, ground
		return true
	}
	return false
}

func (s *scanner) keep(c byte) {
	if len(s.cur.body) < maxBody {
		s.cur.body = append(s.cur.body, c)
	}
}

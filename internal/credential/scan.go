package credential

// scanner looks through a stream for the needles of patterns. The stream is read
// in two ways at once: as it is, and with its escapes undone; in each of them the
// three codings are looked for. It does one look into a table for each byte and
// coding, and keeps nothing of the stream but the beginning of an escape.
type scanner struct {
	p     *patterns
	lines bool // base64 may be broken into lines
	found func(hit)

	pos int64   // bytes that were looked at
	raw reading // as it is
	// esc is the state with escapes undone. It differs from raw only after an
	// escape, and until both have forgotten it: while split is set.
	esc   reading
	split bool
	// places are where the last bytes of what esc read began, while split is set;
	// read is how many there were.
	places [64]int64
	read   uint64

	begun []candidate
	pend  [maxEscape]byte // the beginning of an escape
	pends int
}

// reading is how far each coding's search has come.
type reading [codings]uint16

// hit is a needle that was found.
type hit struct {
	n          *needle
	start, end int64 // where it is in the stream
	lead       int64 // where the character before it is, with lead bits; else start
	partial    bool  // it was not whole when the stream ended
	rest       []byte
}

// candidate is a needle of which the probe was found.
type candidate struct {
	n     *needle
	esc   bool // in the stream with its escapes undone
	start int64
	lead  int64
	read  int // bytes of the needle

	// Of an open one, what follows it:
	acc  uint32
	bits int
	drop int // bits that are still the needle's
	rest [restSize]byte
	got  int
}

// maxBegun bounds the candidates. More than a few there are only of a text that
// repeats itself, which a secret does not; what is beyond is taken for found.
const maxBegun = 64

func newScanner(p *patterns, lines bool, found func(hit)) *scanner {
	return &scanner{p: p, lines: lines, found: found}
}

// reset makes it ready for another stream.
func (s *scanner) reset() {
	*s = scanner{p: s.p, lines: s.lines, found: s.found, begun: s.begun[:0]}
}

// write looks through the next piece of the stream.
func (s *scanner) write(b []byte) {
	if s.pends > 0 {
		var joined [2 * maxEscape]byte
		n := copy(joined[:], s.pend[:s.pends])
		m := copy(joined[n:], b[:min(len(b), maxEscape)])
		used := s.run(joined[:n+m], false)
		if used < n { // b was too short to tell
			s.pends = copy(s.pend[:], joined[used:n+m])
			return
		}
		b, s.pends = b[used-n:], 0
	}
	used := s.run(b, false)
	s.pends = copy(s.pend[:], b[used:])
}

// end says that the stream has ended. What was found of a closed needle by then,
// its probe at least, is a hit: most of a secret is as bad as all of it.
func (s *scanner) end() {
	s.run(s.pend[:s.pends], true)
	s.pends = 0
	for i := range s.begun {
		if c := &s.begun[i]; !c.n.open {
			s.found(hit{n: c.n, start: c.start, end: s.pos, lead: c.lead, partial: true})
		}
	}
	s.begun = s.begun[:0]
}

// hold is the place from which on the stream may be the beginning of a needle.
func (s *scanner) hold() int64 {
	at := s.pos
	for k := range codings {
		if d := s.reach(k, s.raw[k]); d > 0 {
			at = min(at, s.pos-d)
		}
		if d := s.reach(k, s.esc[k]); s.split && d > 0 {
			at = min(at, s.place(d))
		}
	}
	for i := range s.begun {
		at = min(at, s.begun[i].lead)
	}
	return max(at, 0)
}

// reach is how many bytes before its end a state is about, with one that may
// have lead bits.
func (s *scanner) reach(k coding, st uint16) int64 {
	d := int64(s.p.dfas[k].depth[st])
	if d > 0 && k == base64ed {
		d++
	}
	return d
}

// place is where the byte began that was read n bytes ago with escapes undone.
// It is known for as many as a state is about.
func (s *scanner) place(n int64) int64 {
	if uint64(n) > s.read {
		return 0
	}
	return s.places[(s.read-uint64(n))%uint64(len(s.places))]
}

// run looks through b up to an escape that is not whole, and returns how far it
// came.
func (s *scanner) run(b []byte, final bool) int {
	for i := 0; i < len(b); {
		if !s.split && len(s.begun) == 0 {
			if i = s.fast(b, i); i == len(b) {
				break
			}
		}
		if isEscape(b[i]) {
			u, more := unescape(b[i:], final)
			if more {
				return i
			}
			if u.width > 0 {
				s.escape(b[i:i+u.width], u.text[:u.n])
				i += u.width
				continue
			}
		}
		s.literal(b[i])
		i++
	}
	return len(b)
}

// fast goes on as long as there is neither an escape nor a probe.
func (s *scanner) fast(b []byte, i int) int {
	start := i
	d0, d1, d2 := s.p.dfas[plain], s.p.dfas[base64ed], s.p.dfas[hexed]
	t0, t1, t2 := d0.next, d1.next, d2.next
	a0, a1, a2 := d0.accept, d1.accept, d2.accept
	s0, s1, s2 := s.raw[plain], s.raw[base64ed], s.raw[hexed]
	for ; i < len(b); i++ {
		c := b[i]
		if isEscape(c) {
			// JSON is full of escapes of two bytes, and nearly always it makes no
			// difference to any search how they are read.
			if c != '\\' || i+1 == len(b) || short[b[i+1]] == 0 {
				break
			}
			r, next := reading{s0, s1, s2}, short[b[i+1]]
			if !s.same(&r, b[i+1], next) {
				break
			}
			s0, s1, s2 = r[plain], r[base64ed], r[hexed]
			i++
			continue
		}
		n0, n1, n2 := t0[uint(s0)<<8|uint(c)], t1[uint(s1)<<8|uint(c)], t2[uint(s2)<<8|uint(c)]
		if n0 >= a0 || n1 >= a1 || n2 >= a2 {
			break
		}
		s0, s1, s2 = n0, n1, n2
	}
	s.raw = reading{s0, s1, s2}
	s.pos += int64(i - start)
	return i
}

// same goes on with a reading by an escape of a backslash and a letter, if that
// comes to the same as with what it stands for, and no probe is in it.
func (s *scanner) same(r *reading, letter, meaning byte) bool {
	for k, d := range s.p.dfas {
		back := d.next[uint(r[k])<<8|'\\']
		raw, esc := d.next[uint(back)<<8|uint(letter)], d.next[uint(r[k])<<8|uint(meaning)]
		if raw != esc || max(back, raw) >= d.accept {
			return false
		}
		r[k] = raw
	}
	return true
}

// literal reads a byte that stands for itself.
func (s *scanner) literal(c byte) {
	if s.split {
		s.mark(s.pos)
	}
	s.pos++
	s.follow(c, true, true)
	s.step(&s.raw, c, false)
	if s.split {
		s.step(&s.esc, c, true)
		s.split = s.raw != s.esc
	}
}

// escape reads an escape and what it stands for.
func (s *scanner) escape(b, text []byte) {
	if !s.split {
		s.divide()
	}
	start := s.pos
	for _, c := range b {
		s.pos++
		s.follow(c, true, false)
		s.step(&s.raw, c, false)
	}
	for _, c := range text {
		s.mark(start)
		s.follow(c, false, true)
		s.step(&s.esc, c, true)
	}
	s.split = s.raw != s.esc
}

// divide begins to follow both ways of reading.
func (s *scanner) divide() {
	s.split, s.esc, s.read = true, s.raw, 0
	var back int64
	for k := range codings {
		back = max(back, s.reach(k, s.raw[k]))
	}
	for n := min(s.pos, back); n > 0; n-- {
		s.mark(s.pos - n)
	}
}

func (s *scanner) mark(place int64) {
	s.places[s.read%uint64(len(s.places))] = place
	s.read++
}

// step changes a state by a byte.
func (s *scanner) step(st *reading, c byte, esc bool) {
	for k, d := range s.p.dfas {
		n := d.next[uint(st[k])<<8|uint(c)]
		if st[k] = n; n >= d.accept {
			for _, which := range d.ended[n-d.accept] {
				s.begin(s.p.needles[which], esc)
			}
		}
	}
}

// begin is called when the probe of a needle has been read.
func (s *scanner) begin(n *needle, esc bool) {
	size := int64(len(n.probe()))
	c := candidate{n: n, esc: esc, read: int(size), drop: n.tail}
	if c.start = s.pos - size; esc {
		c.start = s.place(size)
	}
	if c.lead = c.start; n.lead > 0 {
		if c.lead = max(c.start-1, 0); esc {
			c.lead = s.place(size + 1)
		}
	}
	switch {
	case !n.open && c.read == len(n.text), len(s.begun) >= maxBegun:
		s.found(hit{n: n, start: c.start, end: s.pos, lead: c.lead})
		return
	case !s.split: // it may go on in either way
		c.esc = true
		s.begun = append(s.begun, c)
		c.esc = false
	}
	s.begun = append(s.begun, c)
}

// follow goes on with the candidates.
func (s *scanner) follow(c byte, raw, esc bool) {
	if len(s.begun) == 0 {
		return
	}
	kept := s.begun[:0]
	for i := range s.begun {
		cand := &s.begun[i]
		if cand.esc && !esc || !cand.esc && !raw {
			kept = append(kept, *cand)
			continue
		}
		alive, done := cand.next(c, s.lines)
		if done {
			s.found(hit{n: cand.n, start: cand.start, end: s.pos, lead: cand.lead, rest: cand.rest[:cand.got]})
		} else if alive {
			kept = append(kept, *cand)
		}
	}
	s.begun = kept
}

// next reads one more byte of a candidate.
func (c *candidate) next(b byte, lines bool) (alive, done bool) {
	k := c.n.coding
	if lines && k == base64ed && (b == '\r' || b == '\n') {
		return true, false
	}
	if c.n.open {
		return c.collect(b)
	}
	if k.fold(b) != c.n.text[c.read] {
		return false, false
	}
	c.read++
	return true, c.read == len(c.n.text)
}

// collect reads one more byte of what follows an open needle.
func (c *candidate) collect(b byte) (alive, done bool) {
	switch c.n.coding {
	case plain:
		c.acc, c.bits = uint32(b), 8
	case hexed:
		v := hexValue(b)
		if v < 0 {
			return false, false
		}
		c.acc, c.bits = c.acc<<4|uint32(v), c.bits+4
	case base64ed:
		v := base64Value(b)
		if v < 0 {
			return false, false
		}
		c.acc, c.bits = c.acc<<6|uint32(v), c.bits+6
		if c.drop > 0 { // the highest bits of the first character
			c.bits, c.drop = c.bits-c.drop, 0
		}
	}
	for c.bits >= 8 {
		c.bits -= 8
		if c.rest[c.got] = byte(c.acc >> c.bits); !alnum(c.rest[c.got]) {
			return false, false
		}
		if c.got++; c.got == len(c.rest) {
			return false, true
		}
	}
	return true, false
}

// base64Value is the value of a character in either alphabet, -1 for others.
func base64Value(c byte) int {
	switch {
	case 'A' <= c && c <= 'Z':
		return int(c - 'A')
	case 'a' <= c && c <= 'z':
		return int(c-'a') + 26
	case '0' <= c && c <= '9':
		return int(c-'0') + 52
	case c == '+' || c == '-':
		return 62
	case c == '/' || c == '_':
		return 63
	}
	return -1
}

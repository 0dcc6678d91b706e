// Package termmode follows which modes a program has switched on in a
// terminal, by reading what it writes. The guest uses it to put the terminal
// of a client that joins late into the right state, the host to put the user's
// terminal back when a client leaves. It is no terminal emulator: it knows
// modes, not what is on the screen. Its input is hostile; memory is bounded
// whatever comes. It imports only the standard library.
//
// Sources: ECMA-48, xterm's ctlseqs, the kitty keyboard protocol.
package termmode

import (
	"bytes"
	"slices"
	"strconv"
)

// A mode that a terminal starts with, and that may be followed.
var follow = map[int]bool{
	1:    false, // application cursor keys
	5:    false, // reverse video
	7:    true,  // wrap around
	9:    false, // X10 mouse
	25:   true,  // cursor visible
	47:   false, // alternate screen, three kinds
	1047: false,
	1049: false,
	1000: false, // mouse
	1002: false,
	1003: false,
	1004: false, // focus events
	1005: false, // mouse encodings
	1006: false,
	1015: false,
	1016: false,
	2004: false, // bracketed paste
	2031: false, // colour scheme reports
}

// maxStack bounds the stack of kitty keyboard flags; terminals bound theirs.
const maxStack = 16

// Tracker follows the modes of one terminal. The zero value is a fresh
// terminal. It is not safe for concurrent use.
type Tracker struct {
	scan      scanner
	modes     map[int]bool // only what differs from the start
	keypad    bool         // application keypad
	kitty     []int        // keyboard flags, one per push
	otherKeys int          // xterm's modifyOtherKeys
}

// Write reads output. It never fails and keeps nothing of p.
func (t *Tracker) Write(p []byte) (int, error) {
	t.scan.each(p, func(s seq) { t.apply(s) })
	return len(p), nil
}

// Alternate reports whether the alternate screen is shown, as full-screen
// programs do.
func (t *Tracker) Alternate() bool {
	return t.modes[47] || t.modes[1047] || t.modes[1049]
}

// On returns the output that brings a fresh terminal into the present modes.
func (t *Tracker) On() []byte {
	var b bytes.Buffer
	for _, m := range t.changed() {
		private(&b, m, t.modes[m])
	}
	if t.keypad {
		b.WriteString("\x1b=")
	}
	for _, f := range t.kitty {
		b.WriteString("\x1b[>" + strconv.Itoa(f) + "u")
	}
	if t.otherKeys > 0 {
		b.WriteString("\x1b[>4;" + strconv.Itoa(t.otherKeys) + "m")
	}
	return b.Bytes()
}

// Off returns the output that brings a terminal in the present modes back to
// where it began, its attributes reset too. It is empty when no mode differs.
func (t *Tracker) Off() []byte {
	var b bytes.Buffer
	if t.otherKeys > 0 {
		b.WriteString("\x1b[>4m")
	}
	if n := len(t.kitty); n > 0 {
		b.WriteString("\x1b[<" + strconv.Itoa(n) + "u")
	}
	if t.keypad {
		b.WriteString("\x1b>")
	}
	for _, m := range slices.Backward(t.changed()) {
		private(&b, m, follow[m])
	}
	if b.Len() > 0 {
		b.WriteString("\x1b[m")
	}
	return b.Bytes()
}

// changed lists the modes that differ, the alternate screen first: it has to
// be entered before, and left after, everything else.
func (t *Tracker) changed() []int {
	var out []int
	for m := range t.modes {
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b int) int { return rank(a) - rank(b) })
	return out
}

func rank(m int) int {
	if m == 47 || m == 1047 || m == 1049 {
		return m - 10_000
	}
	return m
}

func private(b *bytes.Buffer, mode int, on bool) {
	b.WriteString("\x1b[?" + strconv.Itoa(mode))
	if on {
		b.WriteByte('h')
	} else {
		b.WriteByte('l')
	}
}

func (t *Tracker) apply(s seq) {
	switch {
	case s.kind == escape && s.final == 'c' && len(s.body) == 0: // RIS
		scan := t.scan
		*t = Tracker{scan: scan}
	case s.kind == escape && s.final == '=' && len(s.body) == 0:
		t.keypad = true
	case s.kind == escape && s.final == '>' && len(s.body) == 0:
		t.keypad = false
	case s.kind == control:
		t.control(s)
	}
}

func (t *Tracker) control(s seq) {
	switch p := string(s.body); {
	case s.final == 'p' && p == "!": // DECSTR
		t.set(1, false)
		t.set(7, true)
		t.set(25, true)
		t.keypad = false
	case (s.final == 'h' || s.final == 'l') && len(p) > 0 && p[0] == '?':
		for _, m := range numbers(p[1:]) {
			t.set(m, s.final == 'h')
		}
	case s.final == 'm' && len(p) > 0 && p[0] == '>':
		if n := numbers(p[1:]); len(n) > 0 && n[0] == 4 {
			t.otherKeys = 0
			if len(n) > 1 && n[1] <= 2 {
				t.otherKeys = n[1]
			}
		}
	case s.final == 'u' && len(p) > 0:
		t.keyboard(p[0], numbers(p[1:]))
	}
}

// keyboard applies the kitty protocol's push, pop and set.
func (t *Tracker) keyboard(op byte, n []int) {
	arg := func(i, unset int) int {
		if i < len(n) && n[i] >= 0 && n[i] < 1024 {
			return n[i]
		}
		return unset
	}
	switch op {
	case '>':
		if len(t.kitty) == maxStack {
			t.kitty = slices.Delete(t.kitty, 0, 1)
		}
		t.kitty = append(t.kitty, arg(0, 0))
	case '<':
		t.kitty = t.kitty[:max(0, len(t.kitty)-max(1, arg(0, 1)))]
	case '=':
		if len(t.kitty) == 0 {
			t.kitty = append(t.kitty, 0)
		}
		top := &t.kitty[len(t.kitty)-1]
		switch arg(1, 1) {
		case 1:
			*top = arg(0, 0)
		case 2:
			*top |= arg(0, 0)
		case 3:
			*top &^= arg(0, 0)
		}
	}
}

func (t *Tracker) set(mode int, on bool) {
	first, known := follow[mode]
	if !known {
		return
	}
	if on == first {
		delete(t.modes, mode)
		return
	}
	if t.modes == nil {
		t.modes = make(map[int]bool)
	}
	t.modes[mode] = on
}

// numbers reads parameters separated by ';'; what is no small number is -1.
func numbers(s string) []int {
	var out []int
	for _, f := range bytes.Split([]byte(s), []byte{';'}) {
		n, err := strconv.Atoi(string(f))
		if err != nil || n < 0 || n > 65535 {
			n = -1
		}
		out = append(out, n)
	}
	return out
}

// StripQueries returns output without the sequences that a terminal answers:
// played back later, the answers would be typed into the program. A sequence
// that p's end cuts off is dropped.
func StripQueries(p []byte) []byte {
	var s scanner
	out := make([]byte, 0, len(p))
	kept := 0 // p up to here is dealt with
	s.eachAt(p, func(q seq, begin, end int) {
		if asks(q) {
			out = append(out, p[kept:begin]...)
			kept = end
		}
	})
	end := len(p)
	if s.state != ground {
		end = max(kept, s.begin)
	}
	return append(out, p[kept:end]...)
}

// asks reports whether a terminal answers q.
func asks(q seq) bool {
	body := string(q.body)
	switch q.kind {
	case control:
		switch q.final {
		case 'c': // DA1, DA2, DA3
			return true
		case 'n': // DSR
			return true
		case 'x': // DECREQTPARM
			return true
		case 'p': // DECRQM
			return bytes.ContainsRune(q.body, '$')
		case 't': // window reports; sizes and titles are asked for by 11 to 21
			n := numbers(body)
			return len(n) > 0 && n[0] >= 11 && n[0] <= 21
		case 'u': // kitty: CSI ? u
			return body == "?"
		case 'q': // XTVERSION
			return len(body) > 0 && body[0] == '>'
		case 'm': // XTQMODKEYS
			return len(body) > 0 && body[0] == '?'
		case 'S': // XTSMGRAPHICS
			return len(body) > 0 && body[0] == '?'
		}
	case operating: // colours, clipboard: ...;?
		return bytes.HasSuffix(q.body, []byte("?"))
	case device: // DECRQSS, XTGETTCAP, kitty graphics and the like
		return q.intro != '^' && q.intro != 'X'
	case escape:
		return q.final == 'Z' && len(q.body) == 0 // DECID
	case answerback:
		return true
	}
	return false
}

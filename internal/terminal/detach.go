package terminal

import "bytes"

// maxKey bounds the encoding of one key, in bytes; what is longer is none.
const maxKey = 32

// Detacher finds the detach keys, ctrl-p and then ctrl-q, in what is typed. It
// knows a key in every form in which terminals send it: as the control
// character, as xterm's modifyOtherKeys has it (CSI 27;5;112~), and as the
// kitty keyboard protocol does (CSI 112;5u, with its events and locks), because
// agents switch those on. The zero value is ready; it is not safe for
// concurrent use.
type Detacher struct {
	armed []byte // a ctrl-p and what does not end its wait, held back
	tail  []byte // the beginning of a key that the last chunk cut off
}

// Filter takes the next input and returns what is meant for the program, which
// is valid until the next call, and whether the detach keys came. A ctrl-p is
// held back until the next key tells what it was; nothing else is, but for a
// key that came in two pieces. After detached is true, the Detacher begins
// anew and the rest of p is dropped.
func (d *Detacher) Filter(p []byte) (pass []byte, detached bool) {
	buf := p
	if len(d.tail) > 0 {
		buf = append(d.tail, p...)
		d.tail = nil
	}
	if len(d.armed) == 0 && bytes.IndexByte(buf, ctrlP) < 0 && bytes.IndexByte(buf, esc) < 0 {
		return buf, false // what is typed and pasted, nearly always
	}
	pass = make([]byte, 0, len(buf)+len(d.armed))
	for len(buf) > 0 {
		k, n := readKey(buf)
		if n == 0 {
			d.tail = bytes.Clone(buf)
			break
		}
		switch {
		case k == keyQ && len(d.armed) > 0:
			*d = Detacher{}
			return pass, true
		case k == keyQuiet && len(d.armed) > 0 && len(d.armed) < 8*maxKey:
			d.armed = append(d.armed, buf[:n]...)
		default:
			pass = append(pass, d.armed...)
			d.armed = nil
			if k == keyP {
				d.armed = bytes.Clone(buf[:n])
			} else {
				pass = append(pass, buf[:n]...)
			}
		}
		buf = buf[n:]
	}
	return pass, false
}

// Rest returns what is still held back, for the end of the input.
func (d *Detacher) Rest() []byte {
	rest := append(d.armed, d.tail...)
	*d = Detacher{}
	return rest
}

type key uint8

const (
	keyOther key = iota
	keyP
	keyQ
	keyQuiet // says nothing: a key let go, or Ctrl by itself
)

const (
	ctrlP = 0x10
	ctrlQ = 0x11
	esc   = 0x1b
)

// readKey returns the key at the start of buf and its length, 0 when buf ends
// before it does. Only CSI followed by a digit is taken for the start of a
// longer key: to hold back a lone ESC or Alt-[ would hold back what somebody
// typed.
func readKey(buf []byte) (key, int) {
	switch {
	case buf[0] == ctrlP:
		return keyP, 1
	case buf[0] == ctrlQ:
		return keyQ, 1
	case len(buf) < 3 || buf[0] != esc || buf[1] != '[' || !digit(buf[2]):
		return keyOther, 1
	}
	for i := 3; i < min(len(buf), maxKey); i++ {
		c := buf[i]
		if digit(c) || c == ';' || c == ':' {
			continue
		}
		if c == 'u' || c == '~' {
			return classify(fields(buf[2:i]), c), i + 1
		}
		return keyOther, i // some other sequence, or none
	}
	if len(buf) < maxKey {
		return keyOther, 0
	}
	return keyOther, maxKey
}

func digit(c byte) bool { return c >= '0' && c <= '9' }

// fields reads parameters: ';' between them, ':' between the parts of one.
func fields(s []byte) [][]int {
	var out [][]int
	for _, f := range bytes.Split(s, []byte{';'}) {
		var parts []int
		for _, p := range bytes.Split(f, []byte{':'}) {
			n := 0
			for _, c := range p {
				n = min(n*10+int(c-'0'), 1<<20)
			}
			parts = append(parts, n)
		}
		out = append(out, parts)
	}
	return out
}

// Codes of the kitty keyboard protocol, and its bits of modifiers.
const (
	leftControl  = 57442
	rightControl = 57448
	modCtrl      = 4
	modLocks     = 64 | 128 // caps lock, num lock
	released     = 3
)

func classify(f [][]int, final byte) key {
	at := func(i, j, unset int) int {
		if i < len(f) && j < len(f[i]) && f[i][j] != 0 {
			return f[i][j]
		}
		return unset
	}
	code, mods, event := at(0, 0, 0), at(1, 0, 1), at(1, 1, 1)
	if final == '~' {
		if code != 27 || len(f) < 3 { // modifyOtherKeys: CSI 27 ; mods ; code ~
			return keyOther
		}
		code, event = at(2, 0, 0), 1
	}
	if code == leftControl || code == rightControl || event == released {
		return keyQuiet
	}
	if (mods-1)&^modLocks != modCtrl {
		return keyOther
	}
	switch code {
	case 'p':
		return keyP
	case 'q':
		return keyQ
	}
	return keyOther
}

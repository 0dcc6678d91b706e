package sshd

import (
	"encoding/binary"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"berth.dev/internal/guestapi"
)

// maxSide bounds a terminal's side, as the kernel does.
const maxSide = 1<<16 - 1

func size(cols, rows uint32) guestapi.Size {
	return guestapi.Size{Cols: uint16(min(cols, maxSide)), Rows: uint16(min(rows, maxSide))}
}

// parseWindow reads a window-change (RFC 4254 section 6.7).
func parseWindow(b []byte) (guestapi.Size, error) {
	var w struct{ Cols, Rows, Width, Height uint32 }
	if err := ssh.Unmarshal(b, &w); err != nil {
		return guestapi.Size{}, err
	}
	return size(w.Cols, w.Rows), nil
}

// parseSignal reads a signal (RFC 4254 section 6.9): its name without SIG.
func parseSignal(b []byte) (string, error) {
	var s struct{ Name string }
	if err := ssh.Unmarshal(b, &s); err != nil {
		return "", err
	}
	return s.Name, nil
}

// ptyRequest is a terminal that a standard session asks for.
type ptyRequest struct {
	term  string
	size  guestapi.Size
	modes func(*unix.Termios)
}

// parsePTY reads a pty-req (RFC 4254 section 6.2).
func parsePTY(b []byte) (*ptyRequest, error) {
	var p struct {
		Term                      string
		Cols, Rows, Width, Height uint32
		Modes                     string
	}
	if err := ssh.Unmarshal(b, &p); err != nil {
		return nil, err
	}
	if len(p.Term) > 128 {
		return nil, guestapi.Errorf(guestapi.Invalid, "terminal type of %d bytes", len(p.Term))
	}
	return &ptyRequest{term: p.Term, size: size(p.Cols, p.Rows), modes: parseModes([]byte(p.Modes))}, nil
}

// parseModes reads encoded terminal modes (RFC 4254 section 8): an opcode and
// a uint32 each, until opcode 0 or one from 160 on. What is not known is
// passed over, as the RFC wants it.
func parseModes(b []byte) func(*unix.Termios) {
	type mode struct {
		op  byte
		arg uint32
	}
	var modes []mode
	for len(b) >= 5 && b[0] != 0 && b[0] < 160 {
		modes = append(modes, mode{b[0], binary.BigEndian.Uint32(b[1:])})
		b = b[5:]
	}
	return func(t *unix.Termios) {
		for _, m := range modes {
			if i, ok := characters[m.op]; ok {
				// 255 means that the character is switched off.
				t.Cc[i] = byte(m.arg)
				if m.arg == 255 {
					t.Cc[i] = 0 // _POSIX_VDISABLE of Linux
				}
			}
			if f, ok := flags[m.op]; ok {
				word := f.word(t)
				*word &^= f.bit
				if m.arg != 0 {
					*word |= f.bit
				}
			}
		}
	}
}

// characters maps opcodes to places in termios' c_cc.
var characters = map[byte]int{
	1: unix.VINTR, 2: unix.VQUIT, 3: unix.VERASE, 4: unix.VKILL, 5: unix.VEOF, 6: unix.VEOL, 7: unix.VEOL2,
	8: unix.VSTART, 9: unix.VSTOP, 10: unix.VSUSP, 12: unix.VREPRINT, 13: unix.VWERASE, 14: unix.VLNEXT,
	18: unix.VDISCARD,
}

type flag struct {
	word func(*unix.Termios) *uint32
	bit  uint32
}

func in(bit uint32) flag    { return flag{func(t *unix.Termios) *uint32 { return &t.Iflag }, bit} }
func out(bit uint32) flag   { return flag{func(t *unix.Termios) *uint32 { return &t.Oflag }, bit} }
func local(bit uint32) flag { return flag{func(t *unix.Termios) *uint32 { return &t.Lflag }, bit} }

// flags maps opcodes to bits of termios. The character size and parity (90 to
// 93) are left out: they mean a serial line.
var flags = map[byte]flag{
	30: in(unix.IGNPAR), 31: in(unix.PARMRK), 32: in(unix.INPCK), 33: in(unix.ISTRIP), 34: in(unix.INLCR),
	35: in(unix.IGNCR), 36: in(unix.ICRNL), 37: in(unix.IUCLC), 38: in(unix.IXON), 39: in(unix.IXANY),
	40: in(unix.IXOFF), 41: in(unix.IMAXBEL), 42: in(unix.IUTF8),
	50: local(unix.ISIG), 51: local(unix.ICANON), 52: local(unix.XCASE), 53: local(unix.ECHO),
	54: local(unix.ECHOE), 55: local(unix.ECHOK), 56: local(unix.ECHONL), 57: local(unix.NOFLSH),
	58: local(unix.TOSTOP), 59: local(unix.IEXTEN), 60: local(unix.ECHOCTL), 61: local(unix.ECHOKE),
	62: local(unix.PENDIN),
	70: out(unix.OPOST), 71: out(unix.OLCUC), 72: out(unix.ONLCR), 73: out(unix.OCRNL), 74: out(unix.ONOCR),
	75: out(unix.ONLRET),
}

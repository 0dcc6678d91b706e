package sshd

import (
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"berth.dev/internal/guestapi"
)

type ptyPayload struct {
	Term                      string
	Cols, Rows, Width, Height uint32
	Modes                     string
}

func TestModes(t *testing.T) {
	modes := string([]byte{
		1, 0, 0, 0, 7, // VINTR = ^G
		3, 0, 0, 0, 255, // VERASE off
		53, 0, 0, 0, 0, // ECHO off
		42, 0, 0, 0, 1, // IUTF8 on
		128, 0, 0, 0x96, 0, // speed, of no meaning here
		0, 54, 0, 0, 0, 0, // the end, and something after it
	})
	p, err := parsePTY(ssh.Marshal(&ptyPayload{"xterm", 1 << 20, 24, 0, 0, modes}))
	if err != nil || p.term != "xterm" || p.size != (guestapi.Size{Cols: 65535, Rows: 24}) {
		t.Fatalf("%+v, %v", p, err)
	}
	tio := unix.Termios{Lflag: unix.ECHO | unix.ECHOE | unix.ISIG}
	tio.Cc[unix.VERASE] = 0x7f
	p.modes(&tio)
	if tio.Cc[unix.VINTR] != 7 || tio.Cc[unix.VERASE] != 0 || tio.Lflag != unix.ECHOE|unix.ISIG || tio.Iflag != unix.IUTF8 {
		t.Errorf("%+v", tio)
	}
}

func FuzzPayloads(f *testing.F) {
	f.Add(ssh.Marshal(&ptyPayload{"xterm", 80, 24, 0, 0, "\x01\x00\x00\x00\x03\x00"}))
	f.Add(ssh.Marshal(&struct{ Cols, Rows, W, H uint32 }{80, 24, 0, 0}))
	f.Add(ssh.Marshal(&struct{ Name string }{"INT"}))
	f.Add([]byte(`{"spec":{"args":["true"],"kind":"exec"},"attach":true}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := parsePTY(b); err == nil {
			var tio unix.Termios
			p.modes(&tio)
		}
		_, _ = parseWindow(b)
		_, _ = parseSignal(b)
		sh := &shell{spec: guestapi.SessionSpec{Args: []string{"x"}, Env: map[string]string{}}}
		if sh.env(b) && sh.spec.Check() != nil {
			t.Errorf("an environment that cannot be passed was taken: %q", sh.spec.Env)
		}
	})
}

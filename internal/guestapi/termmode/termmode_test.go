package termmode

import (
	"bytes"
	"strings"
	"testing"
)

func TestModes(t *testing.T) {
	tests := []struct{ in, on, off string }{
		{"plain \u00fc\u65e5 text\x1b[31m\x1b[2J", "", ""},
		{"\x1b[?2004h\x1b[?25l", "\x1b[?25l\x1b[?2004h", "\x1b[?2004l\x1b[?25h\x1b[m"},
		{"\x1b[?2004h\x1b[?2004l", "", ""},
		{"\x1b[?1000;1006h\x1b[?1049h", "\x1b[?1049h\x1b[?1000h\x1b[?1006h", "\x1b[?1006l\x1b[?1000l\x1b[?1049l\x1b[m"},
		{"\x1b[?1049h\x1bc", "", ""}, // reset
		{"\x1b[?1h\x1b=\x1b[!p", "", ""},
		{"\x1b=", "\x1b=", "\x1b>\x1b[m"},
		{"\x1b[>1u\x1b[>5u\x1b[<u", "\x1b[>1u", "\x1b[<1u\x1b[m"},
		{"\x1b[>1u\x1b[=4;2u", "\x1b[>5u", "\x1b[<1u\x1b[m"},
		{"\x1b[>1u\x1b[<99u", "", ""},
		{"\x1b[>4;2m", "\x1b[>4;2m", "\x1b[>4m\x1b[m"},
		{"\x1b[>4;2m\x1b[>4m", "", ""},
		{"\x1b]0;title \x1b[?2004h\x07", "\x1b[?2004h", "\x1b[?2004l\x1b[m"}, // ESC ends a string; this one is a mode
		{"\x1bP\x1b\\\x1b[?25\x18h", "", ""},                                 // aborted
		{"\x1b[?99999999999999999999;25l", "\x1b[?25l", "\x1b[?25h\x1b[m"},
	}
	for _, tt := range tests {
		// Cut anywhere, it comes to the same.
		for cut := 0; cut <= len(tt.in); cut++ {
			var tr Tracker
			_, _ = tr.Write([]byte(tt.in[:cut]))
			_, _ = tr.Write([]byte(tt.in[cut:]))
			if string(tr.On()) != tt.on || string(tr.Off()) != tt.off {
				t.Errorf("%q cut at %d: on %q, off %q", tt.in, cut, tr.On(), tr.Off())
				break
			}
		}
	}
}

func TestAlternate(t *testing.T) {
	var tr Tracker
	for _, step := range []struct {
		in   string
		want bool
	}{{"\x1b[?1049h", true}, {"x\x1b[?25l", true}, {"\x1b[?1049l", false}, {"\x1b[?47h", true}} {
		_, _ = tr.Write([]byte(step.in))
		if tr.Alternate() != step.want {
			t.Errorf("after %q: %t", step.in, tr.Alternate())
		}
	}
}

func TestStripQueries(t *testing.T) {
	for in, want := range map[string]string{
		"a\x1b[cb\x1b[>0cc\x1b[=cd":                  "abcd",
		"\x1b[6n\x1b[5n\x1b[?6n":                     "",
		"\x1b]11;?\x07x\x1b]10;?\x1b\\y":             "xy",
		"\x1b]0;title?no\x07":                        "\x1b]0;title?no\x07",
		"\x1b]52;c;?\x07":                            "",
		"\x1bP+q544e\x1b\\z":                         "z",
		"\x1b_Gi=1,a=q;AAAA\x1b\\z":                  "z",
		"\x1b[?u\x1b[>q\x1b[?2026$p\x1b[18t\x1b[?4m": "",
		"\x1b[?2026h\x1b[31mred\x1b[m\x1b[22;0t":     "\x1b[?2026h\x1b[31mred\x1b[m\x1b[22;0t",
		"\x05\x1bZ":                                  "",
		"\u00fc\u65e5\u672c":                         "\u00fc\u65e5\u672c",
		"end\x1b[3":                                  "end",
		"end\x1b]0;half":                             "end",
		"":                                           "",
	} {
		if got := StripQueries([]byte(in)); string(got) != want {
			t.Errorf("%q: %q", in, got)
		}
	}
}

func FuzzTracker(f *testing.F) {
	f.Add([]byte("\x1b[?1049h\x1b[?25l\x1b[>1u\x1b=\x1b[>4;2m"), 3)
	f.Add([]byte("\x1b]11;?\x1b\x1b\\\x1bP\x1b[c"), 5)
	f.Add(bytes.Repeat([]byte("\x1b[>9u"), 100), 7)
	f.Add([]byte("\x1b["+strings.Repeat("1;", 500)+"h"), 9)
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		if cut < 0 || cut > len(b) {
			cut = len(b) / 2
		}
		var whole, parts, again, undone Tracker
		_, _ = whole.Write(b)
		_, _ = parts.Write(b[:cut])
		_, _ = parts.Write(b[cut:])
		if !bytes.Equal(whole.On(), parts.On()) || !bytes.Equal(whole.Off(), parts.Off()) {
			t.Errorf("%q cut at %d: %q and %q", b, cut, whole.On(), parts.On())
		}
		// What On says brings a fresh terminal to the same place, and Off back.
		_, _ = again.Write(whole.On())
		if !bytes.Equal(again.On(), whole.On()) {
			t.Errorf("%q: %q, replayed %q", b, whole.On(), again.On())
		}
		_, _ = undone.Write(whole.On())
		_, _ = undone.Write(whole.Off())
		if len(undone.On()) > 0 {
			t.Errorf("%q: %q is left", b, undone.On())
		}
		if len(whole.On()) > 2000 || len(whole.scan.cur.body) > maxBody {
			t.Errorf("%d bytes of state", len(whole.On()))
		}
		stripped := StripQueries(b)
		if len(stripped) > len(b) {
			t.Errorf("%q grew to %q", b, stripped)
		}
	})
}

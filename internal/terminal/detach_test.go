package terminal

import (
	"bytes"
	"testing"
)

func TestDetacher(t *testing.T) {
	const p, q = "\x10", "\x11"
	const kittyP, kittyQ = "\x1b[112;5u", "\x1b[113;5u"
	tests := []struct {
		name     string
		chunks   []string
		pass     string
		detached bool
		rest     string
	}{
		{"plain", []string{"ls -l\r"}, "ls -l\r", false, ""},
		{"detach", []string{"ab" + p + q + "cd"}, "ab", true, ""},
		{"detach in two chunks", []string{"ab" + p, q}, "ab", true, ""},
		{"ctrl-p then another key", []string{p, "x"}, p + "x", false, ""},
		{"ctrl-p alone is held back", []string{"a" + p}, "a", false, p},
		{"ctrl-q alone", []string{q}, q, false, ""},
		{"ctrl-p twice, then ctrl-q", []string{p, p, q}, p, true, ""},
		{"escape is not held back", []string{"\x1b"}, "\x1b", false, ""},
		{"alt-[ is not held back", []string{"\x1b["}, "\x1b[", false, ""},
		{"escape after ctrl-p", []string{p + "\x1b"}, p + "\x1b", false, ""},
		{"cursor keys", []string{"\x1b[A\x1bOB\x1b[15~\x1b[1;5C"}, "\x1b[A\x1bOB\x1b[15~\x1b[1;5C", false, ""},
		{"paste", []string{"\x1b[200~a\nb\x1b[201~"}, "\x1b[200~a\nb\x1b[201~", false, ""},
		{"utf-8", []string{"é", "\xc3", "\xa9"}, "éé", false, ""},
		{"kitty", []string{"a" + kittyP, kittyQ}, "a", true, ""},
		{"kitty, then another key", []string{kittyP + "b"}, kittyP + "b", false, ""},
		{"kitty in pieces", []string{"\x1b[11", "2;5u\x1b[1", "13;5u"}, "", true, ""},
		{"kitty with events", []string{"\x1b[112;5:1u\x1b[112;5:3u\x1b[113;5:1u"}, "", true, ""},
		{"kitty with control by itself", []string{"\x1b[57442;5u" + kittyP + "\x1b[57442;5:3u" + kittyQ}, "\x1b[57442;5u", true, ""},
		{"kitty with a release and no end", []string{kittyP + "\x1b[112;5:3ux"}, kittyP + "\x1b[112;5:3ux", false, ""},
		{"kitty with num lock", []string{"\x1b[112;133u\x1b[113;133u"}, "", true, ""},
		{"kitty with alternates", []string{"\x1b[112:80;5u\x1b[113:81;5u"}, "", true, ""},
		{"kitty with shift", []string{"\x1b[112;6u\x1b[113;6u"}, "\x1b[112;6u\x1b[113;6u", false, ""},
		{"modifyOtherKeys", []string{"\x1b[27;5;112~\x1b[27;5;113~"}, "", true, ""},
		{"mixed forms", []string{p + kittyQ}, "", true, ""},
		{"a key that never ends", []string{"\x1b[1111111111111111111111111111111111111"}, "\x1b[1111111111111111111111111111111111111", false, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var d Detacher
			var got []byte
			detached := false
			for _, c := range tt.chunks {
				var out []byte
				out, detached = d.Filter([]byte(c))
				got = append(got, out...)
				if detached {
					break
				}
			}
			if string(got) != tt.pass || detached != tt.detached {
				t.Errorf("got %q, detached %v; want %q, %v", got, detached, tt.pass, tt.detached)
			}
			if rest := d.Rest(); string(rest) != tt.rest {
				t.Errorf("rest %q, want %q", rest, tt.rest)
			}
		})
	}
}

// Nothing that is typed may be lost, invented or reordered, however it is cut.
func FuzzDetacher(f *testing.F) {
	for _, s := range []string{"abc", "\x10x\x10\x10", "\x10\x11tail", "\x1b[112;5u\x1b[113;5u", "\x1b[27;5;112~z", "\x1b[112;5:3u\x1b[1"} {
		f.Add([]byte(s), 3)
	}
	f.Fuzz(func(t *testing.T, in []byte, size int) {
		size = min(max(size, 1), 64)
		var d Detacher
		var out []byte
		for rest := in; len(rest) > 0; {
			chunk := rest[:min(size, len(rest))]
			rest = rest[len(chunk):]
			before := bytes.Clone(chunk)
			pass, detached := d.Filter(chunk)
			out = append(out, pass...)
			if !bytes.Equal(before, chunk) {
				t.Fatal("the input was changed")
			}
			if detached {
				if !bytes.HasPrefix(in, out) {
					t.Fatalf("%q is no beginning of %q", out, in)
				}
				return
			}
		}
		if out = append(out, d.Rest()...); !bytes.Equal(out, in) {
			t.Fatalf("got %q of %q", out, in)
		}
	})
}

package terminal

import (
	"bytes"
	"strings"
	"testing"
)

func TestPlayback(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"text and colours", "a\x1b[31mred\x1b[m\r\n", "a\x1b[31mred\x1b[m\r\n"},
		{"a question is not asked again", "x\x1b[6ny", "xy"},
		{"nor the terminal's colour", "x\x1b]11;?\x1b\\y", "xy"},
		{"modes end with the recording", "\x1b[?1049hx", "\x1b[?1049hx\x1b[?1049l\x1b[m"},
		{"a title stays", "\x1b]0;t\x07x", "\x1b]0;t\x07x"},
		{"a sequence that never ends", "x\x1b[6", "x"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for size := 1; size <= len(tt.in); size++ {
				var out bytes.Buffer
				b := NewPlayback(&out)
				for rest := tt.in; rest != ""; {
					n := min(size, len(rest))
					if _, err := b.Write([]byte(rest[:n])); err != nil {
						t.Fatal(err)
					}
					rest = rest[n:]
				}
				if err := b.Close(); err != nil {
					t.Fatal(err)
				}
				got := out.String()
				if tt.name == "nor the terminal's colour" {
					// Cut inside its terminator, the harmless half may stay.
					got = strings.Replace(got, "\x1b\\", "", 1)
				}
				if got != tt.want {
					t.Errorf("in pieces of %d: got %q, want %q", size, got, tt.want)
				}
			}
		})
	}
}

// No recording, however it is cut, makes the terminal answer.
func FuzzPlayback(f *testing.F) {
	f.Add([]byte("\x1b[\x1b[6n6n"), 9)
	f.Add([]byte("a\x1b[6nb\x1b]11;?\x07c\x1bP$q\"p\x1b\\"), 1)
	f.Fuzz(func(t *testing.T, in []byte, size int) {
		in, size = in[:min(len(in), 4*maxHeld)], min(max(size, 1), 64)
		var out bytes.Buffer
		b := NewPlayback(&out)
		for rest := in; len(rest) > 0; {
			n := min(size, len(rest))
			if _, err := b.Write(rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if len(b.held) > maxHeld {
			t.Fatalf("%d bytes are held back", len(b.held))
		}
		for _, ask := range []string{"\x1b[6n", "\x1b[c", "\x1b[5n", "\x1bZ"} {
			if strings.Contains(out.String(), ask) {
				t.Fatalf("%q came out of %q", ask, in)
			}
		}
	})
}

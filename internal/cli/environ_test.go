package cli

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"berth.dev/internal/sandbox"
)

func shellOf(vars map[string]string) lookup {
	return func(name string) (string, bool) { v, ok := vars[name]; return v, ok }
}

func TestParseEnv(t *testing.T) {
	shell := shellOf(map[string]string{"SET": "from shell", "EMPTY": ""})
	got, missing, err := parseEnv([]string{"A=1", "B=", "C=x=y", "SET", "EMPTY", "UNSET", "A=2"}, shell)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"A": "2", "B": "", "C": "x=y", "SET": "from shell", "EMPTY": ""}
	if !maps.Equal(got, want) || !slices.Equal(missing, []string{"UNSET"}) {
		t.Errorf("got %v, missing %v", got, missing)
	}
	for _, bad := range []string{"", "=x", "a b=c", "A=\x00", "A\n=x"} {
		if _, _, err := parseEnv([]string{bad}, shell); sandbox.ClassOf(err) != sandbox.ErrInvalid {
			t.Errorf("%q: got %v", bad, err)
		}
	}
}

func TestParseEnvFile(t *testing.T) {
	in := "\xef\xbb\xbf# comment\n\n  A=1\nB=\"quoted\" # no comment\r\nC\n\tD==\nE=a b \n"
	got, err := parseEnvFile("f", []byte(in))
	want := []string{"A=1", `B="quoted" # no comment`, "C", "D==", "E=a b "}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v", got, err)
	}
	for _, bad := range []string{"export A=1", "=x", "a b=c", "A=\xff"} {
		_, err := parseEnvFile("f", []byte("OK=1\n"+bad))
		if sandbox.ClassOf(err) != sandbox.ErrInvalid || !strings.Contains(err.Error(), "line 2") {
			t.Errorf("%q: got %v", bad, err)
		}
	}
}

func TestReadEnvFiles(t *testing.T) {
	dir := t.TempDir()
	one, two := filepath.Join(dir, "1"), filepath.Join(dir, "2")
	for name, text := range map[string]string{one: "A=1\n", two: "A=2"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := readEnvFiles([]string{one, two})
	if err != nil || !slices.Equal(got, []string{"A=1", "A=2"}) {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := readEnvFiles([]string{filepath.Join(dir, "3")}); sandbox.ClassOf(err) != sandbox.ErrNotFound {
		t.Errorf("got %v", err)
	}
}

func FuzzParseEnvFile(f *testing.F) {
	f.Add([]byte("A=1\n# x\nB\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		entries, err := parseEnvFile("f", data)
		if err != nil {
			return
		}
		for _, e := range entries {
			if strings.ContainsAny(e, "\n") {
				t.Fatalf("%q", e)
			}
			if key, _, _ := strings.Cut(e, "="); checkEnvName(key) != nil {
				t.Fatalf("%q", e)
			}
		}
	})
}

func TestSessionEnv(t *testing.T) {
	tests := []struct {
		name  string
		shell map[string]string
		tty   bool
		want  map[string]string
	}{
		{"a secret stays", map[string]string{"AWS_SECRET_ACCESS_KEY": "x", "HOME": "/h"}, true, map[string]string{"TERM": "xterm"}},
		{"terminal", map[string]string{"TERM": "tmux-256color", "COLORTERM": "truecolor"}, true, map[string]string{"TERM": "tmux-256color", "COLORTERM": "truecolor"}},
		{"a terminal that the guest does not know", map[string]string{"TERM": "xterm-kitty"}, true, map[string]string{"TERM": "xterm-256color"}},
		{"no terminal", map[string]string{"TERM": "xterm", "TZ": "UTC"}, false, map[string]string{"TZ": "UTC"}},
		{"language", map[string]string{"LANG": "de_DE.UTF-8"}, false, map[string]string{"LANG": "C.UTF-8"}},
		{"the strongest wins", map[string]string{"LC_ALL": "C", "LANG": "de_DE.UTF-8"}, false, map[string]string{"LC_ALL": "C"}},
		{"an old charset", map[string]string{"LANG": "de_DE.ISO-8859-1"}, false, map[string]string{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := sessionEnv(shellOf(tt.shell), tt.tty); !maps.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

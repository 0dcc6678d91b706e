package cli

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"berth.dev/internal/sandbox"
)

func TestParseRunArgs(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"lib", "my dir", "-odd", "x:ro"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	a := newApp(Stdio{}, Env{Dir: dir, Vars: []string{"HOME=" + dir}})
	tests := []struct {
		words string // split at '|'
		want  runArgs
	}{
		{"claude", runArgs{Target: "claude"}},
		{"claude|.", runArgs{Target: "claude", Folders: []string{"."}}},
		{"claude|/usr|lib:ro", runArgs{Target: "claude", Folders: []string{"/usr", "lib:ro"}}},
		{"claude|lib:rw", runArgs{Target: "claude", Folders: []string{"lib:rw"}}},
		{"claude|--continue", runArgs{Target: "claude", Args: []string{"--continue"}}},
		{"claude|-p|hi", runArgs{Target: "claude", Args: []string{"-p", "hi"}}},
		{"claude|Add error handling", runArgs{Target: "claude", Args: []string{"Add error handling"}}},
		{"claude|.|Add error handling|.", runArgs{Target: "claude", Folders: []string{"."}, Args: []string{"Add error handling", "."}}},
		{"claude|fix src/main.go please", runArgs{Target: "claude", Args: []string{"fix src/main.go please"}}},
		{"claude|README.md", runArgs{Target: "claude", Args: []string{"README.md"}}},
		{"claude|https://example.com/issue/1", runArgs{Target: "claude", Args: []string{"https://example.com/issue/1"}}},
		{"claude|my dir", runArgs{Target: "claude", Folders: []string{"my dir"}}},
		{"claude|src/missing", runArgs{Target: "claude", Folders: []string{"src/missing"}}},
		{"claude|/missing:ro", runArgs{Target: "claude", Folders: []string{"/missing:ro"}}},
		{"claude|note:ro", runArgs{Target: "claude", Args: []string{"note:ro"}}},
		{"claude|:ro", runArgs{Target: "claude", Args: []string{":ro"}}},
		{"claude|~/lib|~", runArgs{Target: "claude", Folders: []string{"~/lib", "~"}}},
		{"shell|.|--|-c|true", runArgs{Target: "shell", Folders: []string{"."}, Args: []string{"-c", "true"}}},
		{"shell|--|lib", runArgs{Target: "shell", Args: []string{"lib"}}},
		{"shell|--", runArgs{Target: "shell", Args: []string{}}},
		{"shell|lib|--|--|x", runArgs{Target: "shell", Folders: []string{"lib"}, Args: []string{"--", "x"}}},
		{"shell|say|--|x", runArgs{Target: "shell", Args: []string{"say", "--", "x"}}},
		{"claude||.", runArgs{Target: "claude", Args: []string{"", "."}}},
		{"claude|-odd", runArgs{Target: "claude", Args: []string{"-odd"}}},
		{"claude-my-project|--|-v", runArgs{Target: "claude-my-project", Args: []string{"-v"}}},
	}
	for _, tt := range tests {
		t.Run(tt.words, func(t *testing.T) {
			got, err := parseRunArgs(strings.Split(tt.words, "|"), a.isWorkspace)
			if err != nil || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %+v, %v; want %+v", got, err, tt.want)
			}
		})
	}
	for _, words := range [][]string{nil, {""}, {"--"}, {"--", "claude"}} {
		if _, err := parseRunArgs(words, a.isWorkspace); sandbox.ClassOf(err) != sandbox.ErrInvalid {
			t.Errorf("%q: got %v", words, err)
		}
	}
}

// Every word has exactly one meaning, and the agent's arguments reach it as
// they were written.
func FuzzParseRunArgs(f *testing.F) {
	f.Add("claude\x00.\x00--continue")
	f.Add("shell\x00lib:ro\x00--\x00-c\x00true")
	f.Fuzz(func(t *testing.T, line string) {
		words := strings.Split(line, "\x00")
		got, err := parseRunArgs(words, func(p string) bool { return len(p)%3 == 1 })
		if err != nil {
			return
		}
		n := 1 + len(got.Folders)
		if !slices.Equal(words[1:n], got.Folders) {
			t.Fatalf("%q: folders %q", words, got.Folders)
		}
		rest := words[n:]
		if len(rest) > 0 && rest[0] == "--" {
			rest = rest[1:]
		}
		if !slices.Equal(rest, got.Args) {
			t.Fatalf("%q: arguments %q", words, got.Args)
		}
	})
}

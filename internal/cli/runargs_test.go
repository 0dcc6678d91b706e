package cli

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"berth.dev/internal/sandbox"
)

func TestParseRunArgs(t *testing.T) {
	dirs := []string{".", "..", "/src", "lib", "my dir", "-odd", "x:ro", "./lib", "~/notes"}
	isDir := func(p string) bool { return slices.Contains(dirs, p) }
	tests := []struct {
		words string // split at '|'
		want  runArgs
	}{
		{"claude", runArgs{Target: "claude"}},
		{"claude|.", runArgs{Target: "claude", Folders: []folder{{Path: "."}}}},
		{"claude|/src|lib:ro", runArgs{Target: "claude", Folders: []folder{{Path: "/src"}, {Path: "lib", ReadOnly: true}}}},
		{"claude|lib:rw", runArgs{Target: "claude", Folders: []folder{{Path: "lib"}}}},
		{"claude|--continue", runArgs{Target: "claude", Args: []string{"--continue"}}},
		{"claude|-p|hi", runArgs{Target: "claude", Args: []string{"-p", "hi"}}},
		{"claude|Add error handling", runArgs{Target: "claude", Args: []string{"Add error handling"}}},
		{"claude|.|Add error handling|.", runArgs{Target: "claude", Folders: []folder{{Path: "."}}, Args: []string{"Add error handling", "."}}},
		{"claude|fix src/main.go please", runArgs{Target: "claude", Args: []string{"fix src/main.go please"}}},
		{"claude|README.md", runArgs{Target: "claude", Args: []string{"README.md"}}},
		{"claude|https://example.com/issue/1", runArgs{Target: "claude", Args: []string{"https://example.com/issue/1"}}},
		{"claude|my dir", runArgs{Target: "claude", Folders: []folder{{Path: "my dir"}}}},
		{"claude|./missing dir", runArgs{Target: "claude", Folders: []folder{{Path: "./missing dir"}}}},
		{"claude|src/missing", runArgs{Target: "claude", Folders: []folder{{Path: "src/missing"}}}},
		{"claude|/missing:ro", runArgs{Target: "claude", Folders: []folder{{Path: "/missing", ReadOnly: true}}}},
		{"claude|x:ro", runArgs{Target: "claude", Folders: []folder{{Path: "x:ro"}}}},
		{"claude|note:ro", runArgs{Target: "claude", Args: []string{"note:ro"}}},
		{"claude|:ro", runArgs{Target: "claude", Args: []string{":ro"}}},
		{"claude|~/notes|~", runArgs{Target: "claude", Folders: []folder{{Path: "~/notes"}, {Path: "~"}}}},
		{"shell|.|--|-c|true", runArgs{Target: "shell", Folders: []folder{{Path: "."}}, Args: []string{"-c", "true"}}},
		{"shell|--|lib", runArgs{Target: "shell", Args: []string{"lib"}}},
		{"shell|--", runArgs{Target: "shell", Args: []string{}}},
		{"shell|lib|--|--|x", runArgs{Target: "shell", Folders: []folder{{Path: "lib"}}, Args: []string{"--", "x"}}},
		{"shell|say|--|x", runArgs{Target: "shell", Args: []string{"say", "--", "x"}}},
		{"claude||.", runArgs{Target: "claude", Args: []string{"", "."}}},
		{"claude|-odd", runArgs{Target: "claude", Args: []string{"-odd"}}},
		{"claude-my-project|--|-v", runArgs{Target: "claude-my-project", Args: []string{"-v"}}},
	}
	for _, tt := range tests {
		t.Run(tt.words, func(t *testing.T) {
			got, err := parseRunArgs(strings.Split(tt.words, "|"), isDir)
			if err != nil || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %+v, %v; want %+v", got, err, tt.want)
			}
		})
	}
	for _, words := range [][]string{nil, {""}, {"--"}, {"--", "claude"}} {
		if _, err := parseRunArgs(words, isDir); sandbox.ClassOf(err) != sandbox.ErrInvalid {
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
		isDir := func(p string) bool { return len(p)%3 == 1 }
		got, err := parseRunArgs(words, isDir)
		if err != nil {
			return
		}
		n := 1 + len(got.Folders)
		rest := words[n:]
		if len(rest) > 0 && rest[0] == "--" {
			rest = rest[1:]
		}
		if !slices.Equal(rest, got.Args) {
			t.Fatalf("%q: arguments %q", words, got.Args)
		}
		for i, folder := range got.Folders {
			if !strings.HasPrefix(words[i+1], folder.Path) || folder.Path == "" || strings.HasPrefix(folder.Path, "-") {
				t.Fatalf("%q: folder %q", words, folder.Path)
			}
		}
	})
}

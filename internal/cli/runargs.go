package cli

import (
	"strings"

	"berth.dev/internal/sandbox"
)

// runArgs is what the words of `berth run`, after its flags, mean.
type runArgs struct {
	Target  string   // an agent or a sandbox
	Folders []folder // the workspace, if it was named, and the extra ones
	Args    []string // the agent's own
}

// folder is a folder as the user wrote it.
type folder struct {
	Path     string
	ReadOnly bool
}

// parseRunArgs reads AGENT|SANDBOX [PATH] [EXTRA[:ro]...] [-- AGENT_ARGS...].
// After the first word, every word that is a folder, or looks like a path, is
// one; the first that is neither begins the agent's arguments, whatever they
// look like, and so does what follows a "--". isDir reports whether a path, as
// written, is a folder; it is only asked, so that this function is pure.
func parseRunArgs(words []string, isDir func(string) bool) (runArgs, error) {
	var r runArgs
	if len(words) == 0 || words[0] == "" || words[0] == "--" {
		return r, sandbox.Errorf(sandbox.ErrInvalid, "no agent and no sandbox was named").
			WithHint("write for instance: berth run claude")
	}
	r.Target = words[0]
	for i, word := range words[1:] {
		if word == "--" {
			r.Args = words[i+2:]
			break
		}
		f, ok := parseFolder(word, isDir)
		if !ok {
			r.Args = words[i+1:]
			break
		}
		r.Folders = append(r.Folders, f)
	}
	return r, nil
}

// parseFolder reads PATH[:ro|:rw] when word is one. A folder whose own name
// ends so is meant when there is one.
func parseFolder(word string, isDir func(string) bool) (folder, bool) {
	if word == "" || strings.HasPrefix(word, "-") {
		return folder{}, false
	}
	if isDir(word) {
		return folder{Path: word}, true
	}
	path, mode, _ := cutLast(word, ":")
	switch {
	case path != "" && (mode == "ro" || mode == "rw"):
		if isDir(path) || looksLikePath(path) {
			return folder{Path: path, ReadOnly: mode == "ro"}, true
		}
	case looksLikePath(word):
		return folder{Path: word}, true
	}
	return folder{}, false
}

// looksLikePath reports whether a word that is no folder was most likely meant
// as one, so that its absence is an error rather than a strange prompt.
func looksLikePath(word string) bool {
	switch word {
	case ".", "..", "~":
		return true
	}
	if strings.ContainsAny(word, " \t\r\n") || strings.Contains(word, "://") {
		// A sentence, or an address. Only one that begins as a path is one.
		return strings.HasPrefix(word, "./") || strings.HasPrefix(word, "../")
	}
	return strings.Contains(word, "/")
}

// cutLast is strings.Cut at the last separator.
func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

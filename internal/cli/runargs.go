package cli

import "berth.dev/internal/sandbox"

// runArgs is what the words of `berth run`, after its flags, mean.
type runArgs struct {
	Target  string   // an agent or a sandbox
	Folders []string // PATH[:ro]: the workspace, if it was named, and the extra ones
	Args    []string // the agent's own
}

// parseRunArgs reads AGENT|SANDBOX [PATH] [EXTRA[:ro]...] [-- AGENT_ARGS...].
// After the first word, every word that isWorkspace takes for a folder is one;
// the first that is none begins the agent's arguments, whatever they look like,
// and so does what follows a "--". It only asks, so that it is pure.
func parseRunArgs(words []string, isWorkspace func(string) bool) (runArgs, error) {
	var r runArgs
	if len(words) == 0 || words[0] == "" || words[0] == "--" {
		return r, sandbox.Errorf(sandbox.ErrInvalid, "no agent and no sandbox was named").
			WithHint("berth run claude")
	}
	r.Target = words[0]
	for i, word := range words[1:] {
		if word == "--" {
			r.Args = words[i+2:]
			break
		}
		if !isWorkspace(word) {
			r.Args = words[i+1:]
			break
		}
		r.Folders = append(r.Folders, word)
	}
	return r, nil
}

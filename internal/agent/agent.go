// Package agent is the table of the coding agents that Berth knows: how each
// is installed and started, what it must find in its home so that it asks
// nothing on its first run, and which variables and hosts belong to it. It is
// data and the rules to read it; it starts, writes and installs nothing.
//
// To add an agent, add a row to table in table.go, and run it once with an
// empty home in a terminal: what it still asks about theme, trust or bypassing
// its permissions is what its row lacks.
package agent

import (
	"io/fs"
	"slices"
	"strings"

	"berth.dev/internal/sandbox"
)

// Agent is one row. Its slices and maps are shared: read, do not change.
type Agent struct {
	// Name is what the user types, and the last part of the agent's folder.
	Name string
	// Title is its name for people.
	Title string
	// Command is the executable's name, found through PATH, and arguments that
	// come before all others.
	Command []string
	// Bypass is the flag that keeps the agent from asking for permission at
	// each step, "" when there is none to give.
	Bypass string
	// BypassOnce: the agent fails when it is given the flag twice.
	BypassOnce bool
	// VersionArgs make the command print its version and exit.
	VersionArgs []string
	// Files are what its home must hold.
	Files []File
	// Env is set for every process of a sandbox of this agent.
	Env map[string]string
	// Credentials are the secrets that it reads from the environment.
	Credentials []Credential
	// Passed are variables without a secret that steer it, such as the address
	// of its API; like Credentials they are handed on from the user's shell.
	Passed []string
	// Hosts are those that it cannot do without: API and sign-in. A name that
	// starts with "*." stands for all names below it. Ports are 443.
	Hosts []string
	// Recipe says how to install it; nil for what every template has.
	Recipe *Recipe
}

// Credential is a variable that holds a secret, and where it belongs.
type Credential struct {
	Env string
	// Hosts are the only ones that this secret is meant for, as in Agent.Hosts.
	Hosts []string
}

// Facts are what the content of an agent's files depends on.
type Facts struct {
	// Workspace is the agent's working directory in the guest.
	Workspace string
	// Env is the environment that the agent will have.
	Env map[string]string
	// Login: it is signed in by a login, which is to be used where Env has no key.
	Login bool
}

// File is one file in the home of the guest's user.
type File struct {
	// Path is relative to the home. Folders in it are made 0700.
	Path string
	Mode fs.FileMode
	// Content returns what the file has to hold. old is what it holds now, nil
	// when it does not exist. What the user or the agent wrote into it stays:
	// only what is missing is added, and what cannot be read is returned as it
	// is. When nothing is to be done the result equals old. old comes from the
	// guest and may be anything.
	Content func(facts Facts, old []byte) []byte
}

// Recipe says how an agent gets into its own layer. The layer is the folder
// PREFIX, which is sandbox.AgentDir/NAME both while it is built and later.
type Recipe struct {
	// Package is the npm package; `npm install -g --prefix $PREFIX Package`
	// installs it, with its install scripts on. Those fetch nothing.
	Package string
	// Version is the npm version or tag to ask for.
	Version string
	// Node is the lowest major version of Node.js that it runs with; 0 when it
	// is a native program and only npm needs Node.js. (What a package demands
	// in its engines field may be more than it needs.)
	Node int
	// Steps are shell commands to run after that, with PREFIX set; they need no
	// network.
	Steps []string
}

// Spec is the package as npm takes it.
func (r Recipe) Spec() string { return r.Package + "@" + r.Version }

// Dir is the agent's folder in the guest.
func (a Agent) Dir() string { return sandbox.AgentDir + "/" + a.Name }

// BinDir is the folder of its commands in the guest, for PATH; "" when it has
// none of its own.
func (a Agent) BinDir() string {
	if a.Recipe == nil {
		return ""
	}
	return a.Dir() + "/bin"
}

// Argv is the command line for the user's arguments: the bypass flag is always
// in it, before them, so that no argument can take it for its value.
func (a Agent) Argv(args []string) []string {
	argv := slices.Clone(a.Command)
	if a.Bypass == "" {
		return append(argv, args...)
	}
	argv = append(argv, a.Bypass)
	ended := false
	for _, arg := range args {
		ended = ended || arg == "--"
		if a.BypassOnce && !ended && arg == a.Bypass {
			continue
		}
		argv = append(argv, arg)
	}
	return argv
}

// Variables are the names of all variables that are handed on from the shell
// of `berth run`, when they are set there.
func (a Agent) Variables() []string {
	var names []string
	for _, c := range a.Credentials {
		names = append(names, c.Env)
	}
	return append(names, a.Passed...)
}

// All returns the table.
func All() []Agent { return table }

// Names are the agents' names, in the table's order.
func Names() []string {
	var names []string
	for _, a := range table {
		names = append(names, a.Name)
	}
	return names
}

// Find returns the agent of that name, or sandbox.ErrNotFound.
func Find(name string) (Agent, error) {
	for _, a := range table {
		if a.Name == name {
			return a, nil
		}
	}
	return Agent{}, sandbox.Errorf(sandbox.ErrNotFound, "there is no agent %q", name).
		WithHint("the agents are %s", strings.Join(Names(), ", "))
}

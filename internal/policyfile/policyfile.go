// Package policyfile reads and changes the files that hold a sandbox's policy:
// the user's, the project's and the sandbox's own. It owns their format, the
// lock under which they are changed, what of a project's file acts before the
// user has approved it, and where approvals are kept. What rules mean is
// policy's business, and nothing here connects, watches or tells anybody.
//
// A file is TOML 1.0:
//
//	version = 1
//	preset = "balanced"
//
//	[[allow]]                      # or [[deny]]
//	host = "api.example.com"       # pattern, address or range
//	ports = [443, "8000-8100"]
//	methods = ["GET"]
//	paths = ["/v1/**"]
//	inspect = true
//	note = "why"
//
// Only host is required, and only in a rule. A key that is not among these is
// an error: a mistyped "ports" would open all of them.
package policyfile

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"berth.dev/internal/policy"
	"berth.dev/internal/sandbox"
)

// Version is the version of the format that this Berth writes, and the newest
// that it reads.
const Version = 1

// Names of what lies in the configuration folder and in a workspace.
const (
	FileName     = "policy.toml" // in the configuration folder, and in a bundle
	approvedName = "approved"    // folder in the configuration folder
	projectDir   = ".berth"      // in a workspace, with FileName in it
)

// Bounds of files, in bytes and rules. A project's file is written by whoever
// can write to the project, the guest among them.
const (
	maxFile         = 1 << 20
	maxProject      = 256 << 10
	maxProjectRules = 1000
	maxNote         = 1024
)

// Sources says where the parts of a policy are.
type Sources struct {
	// User and Sandbox are files, "" for none; they need not exist.
	User, Sandbox string
	// Project is the workspace folder in which .berth/policy.toml may be, ""
	// for none.
	Project string
	// Approvals is the folder of approved project files. It need not exist.
	Approvals string
	// Agent and AgentHosts are the sandbox's agent and what it cannot do
	// without, as package agent has it: "*.x" means all names below x, and the
	// port is 443.
	Agent      string
	AgentHosts []string
	// Preset was chosen when the sandbox was made, "" for none. The sandbox's
	// file is above it, the user's below.
	Preset string
	// HostPorts are ports of this machine's loopback that were opened when the
	// sandbox was made.
	HostPorts []int
}

// ForUser returns the sources of what holds for every sandbox, given the
// configuration folder.
func ForUser(config string) Sources {
	return Sources{User: filepath.Join(config, FileName), Approvals: filepath.Join(config, approvedName)}
}

// ForSandbox returns the sources of a sandbox's policy: file is its own policy
// file, and agentHosts are those of its agent's row.
func ForSandbox(config, file string, spec sandbox.Spec, agentHosts []string) Sources {
	s := ForUser(config)
	s.Sandbox, s.Project = file, spec.Workspace
	s.Agent, s.AgentHosts, s.HostPorts, s.Preset = spec.Agent, agentHosts, spec.HostPorts, spec.Preset
	return s
}

// Effective is what the sources come to.
type Effective struct {
	Preset string
	// PresetScope says who chose the preset; ScopePreset when nobody did.
	PresetScope policy.Scope
	// Rules are those of all scopes but the preset, the user's first and then
	// in the order of policy.Scope, each in the order of its file.
	Rules []policy.Rule
	// Project is what became of the project's file.
	Project ProjectState
	// Warnings are sentences for the user. They may quote what a guest wrote.
	Warnings []string
}

// All returns the preset's rules and then the others: what policy.New takes.
func (e Effective) All() ([]policy.Rule, error) {
	rules, err := policy.Preset(e.Preset)
	if err != nil {
		return nil, err
	}
	return append(rules, e.Rules...), nil
}

// Load reads the sources. A file that is not there counts as empty. One that
// cannot be read or makes no sense is an error (sandbox.ErrInvalid, with file,
// line and key), so that a mistake in a deny rule never widens what is allowed;
// only a project's file that makes no sense is a warning, see ProjectState.
func Load(src Sources) (Effective, error) {
	e := Effective{Preset: policy.DefaultPreset}
	user, err := readOwn(src.User, policy.ScopeUser)
	if err != nil {
		return e, err
	}
	own, err := readOwn(src.Sandbox, policy.ScopeSandbox)
	if err != nil {
		return e, err
	}
	switch {
	case own.Preset != "":
		e.Preset, e.PresetScope = own.Preset, policy.ScopeSandbox
	case src.Preset != "":
		if _, err := policy.Preset(src.Preset); err != nil {
			return e, sandbox.Errorf(sandbox.ErrInvalid, "%w", err)
		}
		e.Preset, e.PresetScope = src.Preset, policy.ScopeSandbox
	case user.Preset != "":
		e.Preset, e.PresetScope = user.Preset, policy.ScopeUser
	}
	e.Rules = append(e.Rules, user.Rules...)
	if src.Project != "" {
		if err := e.addProject(src); err != nil {
			return e, err
		}
	}
	e.Rules = append(e.Rules, own.Rules...)
	return e, e.addBuiltIn(src)
}

// addBuiltIn adds the rules that stand in no file.
func (e *Effective) addBuiltIn(src Sources) error {
	for _, port := range src.HostPorts {
		r, err := policy.ParseRule(policy.Allow, fmt.Sprintf("%s:%d", sandbox.HostName, port))
		if err != nil {
			return sandbox.Errorf(sandbox.ErrInvalid, "%d is no port of this machine: %w", port, err)
		}
		r.Scope = policy.ScopeSandbox
		e.Rules = append(e.Rules, r)
	}
	for _, host := range src.AgentHosts {
		if len(host) > 2 && host[:2] == "*." {
			host = "*" + host // agent's one star is policy's two
		}
		r, err := policy.ParseRule(policy.Allow, host+":443")
		if err != nil {
			return sandbox.Errorf(sandbox.ErrInternal, "host of agent %s: %w", src.Agent, err)
		}
		r.Scope, r.Preset = policy.ScopeAgent, src.Agent
		e.Rules = append(e.Rules, r)
	}
	return nil
}

// readOwn reads a file that only the user writes.
func readOwn(path string, scope policy.Scope) (File, error) {
	if path == "" {
		return File{}, nil
	}
	f, err := Read(path, scope)
	if errors.Is(err, fs.ErrNotExist) {
		return File{}, nil
	}
	return f, err
}

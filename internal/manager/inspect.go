package manager

import (
	"context"
	"maps"
	"slices"
	"time"

	"berth.dev/internal/bundle"
	"berth.dev/internal/control"
	"berth.dev/internal/engine"
	"berth.dev/internal/sandbox"
)

// Inspection is all that is known of a sandbox. Its JSON form is what `berth
// inspect` prints: names stay, new ones may come.
type Inspection struct {
	ID        string          `json:"id"`
	Name      string          `json:"name"`
	Agent     string          `json:"agent"`
	Status    sandbox.Status  `json:"status"`
	Created   time.Time       `json:"created"`
	Started   *time.Time      `json:"started,omitempty"`
	Stopped   *time.Time      `json:"stopped,omitempty"`
	Engine    string          `json:"engine"`
	Template  string          `json:"template"`
	Image     string          `json:"image"` // digest
	Workspace string          `json:"workspace"`
	Mounts    []sandbox.Mount `json:"mounts"`
	// Env names the variables that were fixed at creation; their values may be
	// secrets.
	Env       []string `json:"env"`
	HostPorts []int    `json:"host_ports"`
	// Network is its policy, of a running sandbox as it holds now.
	Network   Network           `json:"network"`
	Resources sandbox.Resources `json:"resources"`
	// Limits says which caps hold and by what; only of a running sandbox.
	Limits   []engine.Limit `json:"limits,omitempty"`
	Sessions int            `json:"sessions"`
	Memory   uint64         `json:"memory,omitempty"` // bytes in use
	PIDs     *PIDs          `json:"pids,omitempty"`
	Save     *Save          `json:"save,omitempty"`
	Exit     *bundle.Exit   `json:"exit,omitempty"`    // how the agent last ended
	Failure  string         `json:"failure,omitempty"` // why the last run ended, when nobody asked for it
	Dir      string         `json:"dir"`               // its folder on the host
}

// Network is what is known of a sandbox's policy.
type Network struct {
	Preset   string   `json:"preset,omitempty"` // "": the user's
	Ask      bool     `json:"ask"`
	Policy   string   `json:"policy"` // its own policy file, which need not exist
	Warnings []string `json:"warnings,omitempty"`
}

// PIDs are the host's processes of a running sandbox.
type PIDs struct {
	Supervisor int   `json:"supervisor"`
	Engine     []int `json:"engine"`
}

// Save is the state that the next start begins from.
type Save struct {
	Created     time.Time `json:"created"`
	Size        int64     `json:"size"` // bytes
	EngineBuild string    `json:"engine_build"`
	Berth       string    `json:"berth"`
	Error       string    `json:"error,omitempty"` // why the last try to save did not work
}

// Inspect returns all that is known of a sandbox, running or not.
func (m *Manager) Inspect(ctx context.Context, b *bundle.Bundle) (Inspection, error) {
	spec, info := b.Spec(), b.Info()
	in := Inspection{
		ID: b.ID(), Name: b.Name(), Agent: spec.Agent, Status: info.Status, Created: b.Created(),
		Started: instant(info.State.Started), Stopped: instant(info.State.Stopped),
		Engine: spec.Engine, Template: spec.Template, Image: spec.Image, Workspace: spec.Workspace,
		Mounts: append([]sandbox.Mount{}, spec.Mounts...), Env: sortedKeys(spec.Env), HostPorts: append([]int{}, spec.HostPorts...), Resources: spec.Resources,
		Network: Network{Preset: spec.Preset, Ask: spec.Ask, Policy: b.PolicyFile()},
		Exit:    info.State.Exit, Failure: info.State.Failure, Dir: b.Dir(),
	}
	if info.Save != nil {
		in.Save = &Save{Created: info.Save.Created, Size: info.Save.Size(), EngineBuild: info.Save.EngineBuild, Berth: info.Save.Berth}
	}
	if eng, err := m.cfg.Engines.Lookup(spec.Engine); err == nil {
		in.Engine = eng.Name()
	}
	if info.Status != sandbox.Running {
		return in, nil
	}
	st, err := control.NewClient(info.State.Socket).Status(ctx)
	if err != nil {
		if in.Status = ending(ctx, b); in.Status == sandbox.Running {
			return in, err
		}
		return in, nil // it ended meanwhile
	}
	in.Limits, in.Sessions, in.Memory = st.Limits, st.Sessions, st.Memory
	in.Network.Preset, in.Network.Warnings = st.Preset, st.Warnings
	in.PIDs = &PIDs{Supervisor: info.State.Supervisor.PID, Engine: st.Processes}
	if st.SaveError != "" {
		if in.Save == nil {
			in.Save = &Save{}
		}
		in.Save.Error = st.SaveError
	}
	return in, nil
}

// endingTime is how long a supervisor that answers nobody any more may take to
// write down how it ended: with a machine that is slow to go, a moment.
const endingTime = 5 * time.Second

// ending waits until a sandbox that does not answer has a status that says why.
func ending(ctx context.Context, b *bundle.Bundle) sandbox.Status {
	ctx, cancel := context.WithTimeout(ctx, endingTime)
	defer cancel()
	for {
		status := b.Info().Status
		if status != sandbox.Running {
			return status
		}
		select {
		case <-ctx.Done():
			return status
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func instant(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func sortedKeys(env map[string]string) []string {
	return append([]string{}, slices.Sorted(maps.Keys(env))...)
}

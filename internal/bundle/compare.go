package bundle

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"berth.dev/internal/sandbox"
)

// Compare holds a wish against what the sandbox was made as. A zero field of
// the wish asks for nothing, so it never differs, and what the sandbox has
// beyond the wish is no difference either: a mount, variable or port must be
// there, not be the only one. Image and IdleAfter are not compared: the first
// follows from the template at creation, the second binds nobody. A difference
// is sandbox.ErrPrecondition, names what differs and says how to go on.
func Compare(b *Bundle, asked sandbox.Spec) error {
	made := b.Spec()
	var diffs []string
	differ := func(what, has, wants string) {
		diffs = append(diffs, fmt.Sprintf("%s is %s, not %s", what, has, wants))
	}
	texts := []struct{ what, has, wants string }{
		{"agent", made.Agent, asked.Agent},
		{"workspace", made.Workspace, asked.Workspace},
		{"template", made.Template, asked.Template},
		{"engine", made.Engine, asked.Engine},
	}
	for _, t := range texts {
		if t.wants != "" && t.wants != t.has {
			differ(t.what, t.has, t.wants)
		}
	}
	if asked.Preset != "" && asked.Preset != made.Preset {
		diffs = append(diffs, fmt.Sprintf("it was made with %s, not with the preset %s (berth policy preset --sandbox %s changes that)",
			presetOf(made), asked.Preset, b.Name()))
	}
	if asked.Ask && !made.Ask {
		diffs = append(diffs, "it was made without --ask")
	}
	if asked.Credentials != "" && asked.Credentials != cmp.Or(made.Credentials, sandbox.CredentialsSandbox) {
		differ("credentials", cmp.Or(made.Credentials, sandbox.CredentialsSandbox), asked.Credentials)
	}
	if asked.Remove && !made.Remove {
		diffs = append(diffs, "it was made to be kept, not to go away after its session (--rm)")
	}
	diffs = append(diffs, diffMounts(made.Mounts, asked.Mounts)...)
	diffs = append(diffs, diffEnv(made.Env, asked.Env)...)
	diffs = append(diffs, diffPorts(made.HostPorts, asked.HostPorts)...)
	diffs = append(diffs, diffResources(made.Resources, asked.Resources)...)
	if len(diffs) == 0 {
		return nil
	}
	return sandbox.Errorf(sandbox.ErrPrecondition, "sandbox %s exists and is different: %s", b.Name(), strings.Join(diffs, "; ")).
		WithHint("these are fixed when a sandbox is made; remove it with `berth rm %s` and run again, or make another with --name", b.Name())
}

func presetOf(made sandbox.Spec) string {
	if made.Preset == "" {
		return "the user's own preset"
	}
	return "the preset " + made.Preset
}

func diffMounts(made, asked []sandbox.Mount) []string {
	var diffs []string
	for _, want := range asked {
		i := slices.IndexFunc(made, func(m sandbox.Mount) bool { return m.Guest == want.Guest })
		switch {
		case i < 0:
			diffs = append(diffs, "it has no mount at "+want.Guest)
		case made[i].Host != want.Host:
			diffs = append(diffs, fmt.Sprintf("%s is %s, not %s", want.Guest, made[i].Host, want.Host))
		case made[i].ReadOnly != want.ReadOnly:
			diffs = append(diffs, fmt.Sprintf("%s is %s, not %s", want.Guest, access(made[i]), access(want)))
		}
	}
	return diffs
}

func access(m sandbox.Mount) string {
	if m.ReadOnly {
		return "read-only"
	}
	return "writable"
}

// diffEnv names variables and never their values, which may be secrets.
func diffEnv(made, asked map[string]string) []string {
	var diffs []string
	for _, key := range slices.Sorted(maps.Keys(asked)) {
		has, ok := made[key]
		if !ok {
			diffs = append(diffs, "it has no variable "+key)
		} else if has != asked[key] {
			diffs = append(diffs, "the variable "+key+" has another value")
		}
	}
	return diffs
}

func diffPorts(made, asked []int) []string {
	var diffs []string
	for _, port := range asked {
		if !slices.Contains(made, port) {
			diffs = append(diffs, "it may not reach the host's port "+strconv.Itoa(port))
		}
	}
	return diffs
}

func diffResources(made, asked sandbox.Resources) []string {
	var diffs []string
	numbers := []struct {
		what       string
		has, wants int64
		unit       string
	}{
		{"number of CPUs", int64(made.CPUs), int64(asked.CPUs), ""},
		{"memory", made.Memory, asked.Memory, " bytes"},
		{"disk", made.Disk, asked.Disk, " bytes"},
		{"limit of processes", int64(made.PIDs), int64(asked.PIDs), ""},
	}
	for _, n := range numbers {
		if n.wants == 0 || n.wants == n.has {
			continue
		}
		has := "not limited"
		if n.has != 0 {
			has = strconv.FormatInt(n.has, 10) + n.unit
		}
		diffs = append(diffs, fmt.Sprintf("its %s is %s, not %d%s", n.what, has, n.wants, n.unit))
	}
	return diffs
}

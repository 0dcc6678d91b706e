package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"berth.dev/internal/policy"
	"berth.dev/internal/policyfile"
)

func newPolicyPresetCommand(a *app) *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "preset [flags] [NAME]",
		Short: "Show or choose the preset",
		Long: `Show or choose the preset that other rules build on:
  open       every public address
  balanced   the APIs of model providers, code hosts, registries of packages and
             containers, archives of operating systems, downloads of tools
  locked     only what the sandbox's agent cannot do without
All of them keep private addresses closed, and other resolvers than Berth's.`,
		Args:      wants(0, 1),
		ValidArgs: policy.Presets(),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return a.runPolicyPreset(name)
			}
			return a.runPolicySetPreset(cmd.Context(), name, args[0])
		},
	}
	a.sandboxFlag(cmd, &name)
	return cmd
}

func (a *app) runPolicyPreset(name string) error {
	t, _, err := a.policyTarget(name)
	if err != nil {
		return err
	}
	e, err := a.loadPolicy(t)
	if err != nil {
		return err
	}
	if a.json {
		return printJSON(a.Out, map[string]string{"preset": e.Preset, "preset_scope": e.PresetScope.String()})
	}
	fmt.Fprintln(a.Out, e.Preset)
	return nil
}

func (a *app) runPolicySetPreset(ctx context.Context, name, preset string) error {
	t, m, err := a.policyTarget(name)
	if err != nil {
		return err
	}
	err = a.editPolicy(ctx, t, m, "preset", func(d *policyfile.Draft) ([]string, error) {
		if err := d.SetPreset(preset); err != nil {
			return nil, err
		}
		if !d.Changed() {
			return nil, nil
		}
		return []string{preset}, nil
	})
	if err != nil {
		return err
	}
	e, err := a.loadPolicy(t)
	if err != nil {
		return err
	}
	if e.Preset != preset {
		a.note("the preset is %s nevertheless: %s", e.Preset, presetOrigin(e))
	}
	return nil
}

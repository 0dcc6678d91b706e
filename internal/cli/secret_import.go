package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"berth.dev/internal/sandbox"
	"berth.dev/internal/secret"
	"berth.dev/internal/service"
)

func newSecretImportCommand(a *app) *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "import [flags] [VAR...]",
		Short: "Keep the known keys that are set in this shell",
		Long: `Keep the keys that are set in this shell: those of the agents' providers and of a
few other services, or the variables that are named. Each is kept by the name of
its variable; the parts of AWS keys as one secret, aws.`,
		ValidArgsFunction: func(_ *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
			var vars []string
			for _, f := range a.foundSecrets() {
				vars = append(vars, f.vars...)
			}
			return vars, cobra.ShellCompDirectiveNoFileComp
		},
		Args: importArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runSecretImport(cmd.Context(), name, args)
		},
	}
	cmd.SetFlagErrorFunc(quietFlags)
	a.sandboxFlag(cmd, &name)
	return cmd
}

// importArgs wants names of variables, and repeats nothing that is none.
func importArgs(_ *cobra.Command, args []string) error {
	for _, v := range args {
		if secret.CheckName(v) != nil || service.LooksLikeKey(v) {
			return sandbox.Errorf(sandbox.ErrInvalid, "that is no name of a variable").WithHint("berth secret import VAR")
		}
	}
	return nil
}

// foundSecret is a secret that this shell has.
type foundSecret struct {
	name  string
	vars  []string // that it was found in
	value secret.Value
	auto  bool // most work needs it
}

// foundSecrets are the secrets of known services that are set in this shell.
func (a *app) foundSecrets() []foundSecret {
	var all []foundSecret
	seen := map[string]bool{}
	add := func(f foundSecret) {
		if !seen[f.name] {
			all = append(all, f)
		}
		seen[f.name] = true
	}
	for _, d := range a.services() {
		if d.Signs() {
			if f, ok := a.foundKeys(d); ok {
				add(f)
			}
			continue
		}
		for _, v := range d.Vars {
			if text := a.getenv(v); text != "" {
				add(foundSecret{v, []string{v}, secret.NewValue(text), d.Auto})
			}
		}
	}
	return all
}

// foundKeys makes one secret of the parts of keys that requests are signed with.
func (a *app) foundKeys(d service.Definition) (foundSecret, bool) {
	parts := make([]string, 3) // identifier, key, session
	var vars []string
	for i, v := range d.Vars {
		if text := a.getenv(v); text != "" && i < len(parts) {
			parts[i] = text
			vars = append(vars, v)
		}
	}
	if parts[0] == "" || parts[1] == "" {
		return foundSecret{}, false
	}
	return foundSecret{d.Name, vars, secret.NewAWSKeys(parts[0], parts[1], parts[2]), d.Auto}, true
}

func (a *app) runSecretImport(ctx context.Context, sandboxName string, vars []string) error {
	sandboxName, err := a.secretSandbox(sandboxName, false)
	if err != nil {
		return err
	}
	found := a.foundSecrets()
	wanted := map[string]bool{} // still to be found
	for _, v := range vars {
		wanted[v] = true
	}
	var chosen []foundSecret
	var others []string
	for _, f := range found {
		take := len(vars) == 0 && f.auto
		for _, v := range f.vars {
			take = take || wanted[v]
			delete(wanted, v)
		}
		if take {
			chosen = append(chosen, f)
		} else {
			others = append(others, f.vars[0])
		}
	}
	if len(vars) == 0 && len(others) > 0 {
		a.note("not kept, as little work needs them: %s; to keep one say: berth secret import %s", strings.Join(others, ", "), others[0])
	}
	for _, v := range vars {
		if _, isPart := service.ByVar(v); wanted[v] && !isPart && a.getenv(v) != "" {
			return sandbox.Errorf(sandbox.ErrNotFound, "Berth does not know where %s belongs", v).
				WithHint("berth secret set %s --from-env %s --host HOST --bearer", v, v)
		}
		if wanted[v] {
			return sandbox.Errorf(sandbox.ErrNotFound, "%s is not set in this shell, or not all that belongs to it", v).WithHint("export it first")
		}
	}
	if len(chosen) == 0 {
		a.note("no variable that Berth would import is set in this shell")
		return nil
	}
	s, err := a.secrets()
	if err != nil {
		return err
	}
	kept, err := a.importSecrets(ctx, s, sandboxName, chosen, len(vars) > 0)
	return errors.Join(err, a.secretsChanged(ctx, sandboxName, "imported", kept...))
}

// importSecrets keeps what was found. What the user set otherwise stays, unless
// it is meant by its name.
func (a *app) importSecrets(ctx context.Context, s *secret.Store, sandboxName string, chosen []foundSecret, named bool) (kept []string, err error) {
	entries, err := s.List(ctx)
	if err != nil {
		return nil, err
	}
	old := map[string]secret.Entry{}
	for _, e := range entries {
		if e.Sandbox == sandboxName {
			old[e.Name] = e
		}
	}
	for _, f := range chosen {
		if e := old[f.name]; !named && (e.Command != "" || e.Service != "") {
			a.note("%s stays as it was set; to replace it say: berth secret import %s", f.name, f.vars[0])
			continue
		}
		if err := s.Set(ctx, secret.Entry{Name: f.name, Sandbox: sandboxName}, f.value); err != nil {
			return kept, fmt.Errorf("import %s: %w", f.name, err)
		}
		kept = append(kept, f.name)
		fmt.Fprintln(a.Out, f.name)
	}
	return kept, nil
}

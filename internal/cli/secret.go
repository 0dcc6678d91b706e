package cli

import (
	"context"
	"errors"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"berth.dev/internal/audit"
	"berth.dev/internal/config"
	"berth.dev/internal/manager"
	"berth.dev/internal/sandbox"
	"berth.dev/internal/secret"
	"berth.dev/internal/service"
)

func newSecretCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "secret",
		Short: "Keep keys on the host that sandboxes use and never see",
		Long: `Keep keys and tokens on this machine. A sandbox gets a placeholder for each;
the real value is put into requests to the hosts that it belongs to, on their
way out, and nowhere else.

A secret that is called like a known variable, such as OPENAI_API_KEY, belongs
to the hosts of that service; for any other say which hosts those are. Without
--sandbox a command is about all of your sandboxes.

Values are kept in the desktop's keyring, and where there is none in encrypted
files. Changes act at once, in running sandboxes too.`,
		Args: cobra.ArbitraryArgs,
		RunE: groupOnly,
	}
	cmd.AddCommand(newSecretSetCommand(a), newSecretLsCommand(a), newSecretRmCommand(a), newSecretImportCommand(a), newSecretShareCommand(a))
	return cmd
}

// secrets opens the store of the user's secrets. The desktop may ask for the
// password of its keyring.
func (a *app) secrets() (*secret.Store, error) {
	if _, err := a.manager(); err != nil {
		return nil, err
	}
	return manager.OpenSecrets(a.dirs, secret.WithEnv(a.getenv), secret.WithPrompt(),
		secret.WithNote(func(note string) { a.note("%s", note) }))
}

// secretsOf opens the store for what is kept of one sandbox, which may be gone, or
// of all.
func (a *app) secretsOf(sandboxName string) (name string, s *secret.Store, err error) {
	if name, err = a.secretSandbox(sandboxName, true); err != nil {
		return "", nil, err
	}
	s, err = a.secrets()
	return name, s, err
}

// secretSandbox is the name of the sandbox that a command is about, "" for all.
// One that is gone is found by nobody, and can still have secrets.
func (a *app) secretSandbox(name string, gone bool) (string, error) {
	if name == "" {
		return "", nil
	}
	m, err := a.manager()
	if err != nil {
		return "", err
	}
	b, err := m.Find(name)
	if gone && errors.Is(err, sandbox.ErrNotFound) && sandbox.CheckName(name) == nil {
		return name, nil
	}
	if err != nil {
		return "", err
	}
	return b.Name(), nil
}

// secretsChanged records a change of secrets and has those who run follow it.
func (a *app) secretsChanged(ctx context.Context, sandboxName, what string, names ...string) error {
	m, err := a.manager()
	if err != nil {
		return err
	}
	root, err := a.dirs.Audit()
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		errs = append(errs, audit.Append(filepath.Join(root, audit.UserDir), audit.Event{
			Kind: audit.Secret, Secret: name, Sandbox: sandboxName, Detail: what,
		}))
	}
	return errors.Join(append(errs, a.reload(ctx, m, sandboxName))...)
}

// services are those that are known, the user's own first, as they are when the
// command first needs them. A file of them that makes no sense is said once, and
// stands in the way of nothing else.
func (a *app) services() []service.Definition {
	a.readServices.Do(func() { a.known = a.loadServices() })
	return a.known
}

func (a *app) loadServices() []service.Definition {
	if _, err := a.manager(); err != nil {
		return service.Builtin()
	}
	dir, err := a.dirs.Config()
	var own []service.Definition
	if err == nil {
		own, err = config.Services(filepath.Join(dir, config.ServicesName))
	}
	if err != nil {
		a.badServices = err
		a.note("%v", err)
	}
	return service.All(own)
}

// knownVar reports whether a variable holds the key of a service that is known,
// the user's own included.
func (a *app) knownVar(name string) bool {
	return slices.ContainsFunc(a.services(), func(d service.Definition) bool { return slices.Contains(d.Vars, name) })
}

// serviceOf says what service an entry's secret is for.
func serviceOf(e secret.Entry, all []service.Definition) (service.Definition, bool) {
	if e.Service != "" {
		d, err := service.Parse([]byte(e.Service))
		return d, err == nil
	}
	return service.Of(e.Name, all)
}

// completeSecrets completes names of secrets that are kept.
func (a *app) completeSecrets(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	s, err := a.secrets()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	rows, err := listSecrets(context.Background(), s, "", nil)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var names []string
	for _, r := range rows {
		names = append(names, r.Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// quietFlags keeps what was meant as a value, and looks like a flag, out of the
// error about it.
func quietFlags(cmd *cobra.Command, err error) error {
	what := "there is no such flag"
	var lacking *pflag.ValueRequiredError
	var wrong *pflag.InvalidValueError
	switch {
	case errors.As(err, &lacking):
		what = "--" + lacking.GetFlag().Name + " needs a value"
	case errors.As(err, &wrong):
		what = "--" + wrong.GetFlag().Name + " cannot have this value"
	}
	return sandbox.Errorf(sandbox.ErrInvalid, "%s: %s", cmd.CommandPath(), what).WithHint("%s --help", cmd.CommandPath())
}

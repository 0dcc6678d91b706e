package cli

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"berth.dev/internal/manager"
	"berth.dev/internal/sandbox"
	"berth.dev/internal/secret"
	"berth.dev/internal/signin"
)

func newSecretShareCommand(a *app) *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "share --sandbox NAME LOGIN",
		Short: "Sign all sandboxes in with the login of one",
		Long: `Sign all sandboxes in with a login that was made in one of them.

A login that was made with the browser of this machine is for all of them at
once. One that was made with a code could be anybody's, as far as Berth can
tell, and so is that sandbox's alone until you say that it is yours.`,
		Args:              wants(1, 1),
		ValidArgsFunction: a.completeOwnLogins,
		RunE: func(cmd *cobra.Command, args []string) error {
			if name == "" {
				return sandbox.Errorf(sandbox.ErrInvalid, "say which sandbox signed in: --sandbox NAME").WithHint("see them with: berth secret ls")
			}
			return a.runSecretShare(cmd.Context(), name, args[0])
		},
	}
	a.sandboxFlag(cmd, &name)
	cmd.Flags().Lookup("sandbox").Usage = "the `SANDBOX` that signed in"
	return cmd
}

// completeOwnLogins completes the logins that sandboxes have of their own.
func (a *app) completeOwnLogins(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	var names []string
	if s, err := a.secrets(); err == nil {
		logins, _ := s.Logins(context.Background())
		for _, l := range logins {
			if provider, of := secret.SplitLogin(l.Name); of != "" {
				names = append(names, secret.LoginPrefix+provider)
			}
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func (a *app) runSecretShare(ctx context.Context, sandboxName, login string) error {
	sandboxName, s, err := a.secretsOf(sandboxName)
	if err != nil {
		return err
	}
	provider := strings.TrimPrefix(login, secret.LoginPrefix)
	if _, ok := signin.Find(provider); !ok {
		return sandbox.Errorf(sandbox.ErrNotFound, "there is no login %q", plain(login)).WithHint("see them with: berth secret ls")
	}
	return a.shareLogin(ctx, s, provider, sandboxName)
}

// shareLogin makes a sandbox's own login everybody's.
func (a *app) shareLogin(ctx context.Context, s *secret.Store, provider, sandboxName string) error {
	own := secret.LoginOf(provider, sandboxName)
	v, err := s.Get(ctx, own)
	if err != nil {
		return err
	}
	if err := s.Put(ctx, secret.LoginPrefix+provider, v); err != nil {
		return err
	}
	if err := s.Delete(ctx, own); err != nil {
		return err
	}
	return a.secretsChanged(ctx, "", "shared", secret.LoginPrefix+provider)
}

// offerLogins asks, where somebody can answer, whether a login that another
// sandbox made with a code is for this one too; elsewhere it says how.
func (a *app) offerLogins(ctx context.Context, agentName, sandboxName string, quiet bool) error {
	data, err := a.dirs.Data()
	if err != nil || quiet {
		return nil
	}
	if _, err := os.Stat(filepath.Join(data, manager.SecretsDir)); err != nil {
		return nil // none is made by looking
	}
	s, err := a.secrets()
	if err != nil {
		return nil // who uses them says so
	}
	logins, err := s.Logins(ctx)
	if err != nil {
		return nil
	}
	has := func(name string) bool {
		return slices.ContainsFunc(logins, func(l secret.Login) bool { return l.Name == name })
	}
	for _, p := range signin.Of(agentName) {
		if has(p.Secret()) || has(secret.LoginOf(p.Name, sandboxName)) {
			continue
		}
		i := slices.IndexFunc(logins, func(l secret.Login) bool { provider, _ := secret.SplitLogin(l.Name); return provider == p.Name })
		if i < 0 {
			continue
		}
		_, of := secret.SplitLogin(logins[i].Name)
		v, err := s.Get(ctx, logins[i].Name)
		if err != nil || !a.wantsLogin(p, of, signin.PersonOf(v)) {
			continue
		}
		if err := a.shareLogin(ctx, s, p.Name, of); err != nil {
			return err
		}
	}
	return nil
}

// wantsLogin asks whether a login of another sandbox's is for all.
func (a *app) wantsLogin(p *signin.Provider, of, person string) bool {
	to := p.Title
	if person != "" {
		to += " as " + person
	}
	if !a.interactive() {
		a.note("sandbox %s is signed in to %s by a code; to use that login everywhere: berth secret share --sandbox %s %s", of, to, of, p.Secret())
		return false
	}
	fmt.Fprintf(a.Err, "berth: sandbox %s signed in to %s, by a code. Was that you, and are all sandboxes to use that login? [y/N] ", of, to)
	answer, err := bufio.NewReader(a.In).ReadString('\n')
	word := strings.ToLower(strings.TrimSpace(answer))
	return err == nil && (word == "y" || word == "yes")
}

package cli

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"berth.dev/internal/secret"
	"berth.dev/internal/service"
	"berth.dev/internal/signin"
)

func newSecretLsCommand(a *app) *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:     "ls [flags]",
		Aliases: []string{"list"},
		Short:   "List the secrets, without their values",
		Long: `List the secrets that are kept, and the logins that sandboxes made, without their
values. With --sandbox those that this one uses.`,
		Args: wants(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.runSecretLs(cmd.Context(), name) },
	}
	a.sandboxFlag(cmd, &name)
	return cmd
}

// listedSecret is a secret as `berth secret ls --json` prints it.
type listedSecret struct {
	Name    string    `json:"name"`
	Kind    string    `json:"kind"`              // "value", "command" or "login"
	Sandbox string    `json:"sandbox,omitempty"` // "": for all
	Kept    string    `json:"kept,omitempty"`    // "keyring" or "file"; a command's is nowhere
	Command string    `json:"command,omitempty"`
	TTL     string    `json:"ttl,omitempty"`
	Service string    `json:"service,omitempty"` // "" when nothing says where it belongs
	Hosts   []string  `json:"hosts,omitempty"`
	Set     time.Time `json:"set"`
}

func (a *app) runSecretLs(ctx context.Context, name string) error {
	name, s, err := a.secretsOf(name)
	if err != nil {
		return err
	}
	all, err := listSecrets(ctx, s, name, a.services())
	if err != nil {
		return err
	}
	if a.json {
		return printJSON(a.Out, all)
	}
	if len(all) == 0 {
		a.note("no secret is kept; keep one with: berth secret set NAME, or those of this shell with: berth secret import")
		return nil
	}
	rows := [][]string{{"NAME", "SANDBOX", "KEPT IN", "HOSTS", "SET"}}
	for _, l := range all {
		kept := l.Kept
		if l.Command != "" {
			kept = "command: " + shorten(l.Command, 40)
		}
		scope := l.Sandbox
		if scope == "" {
			scope = "all"
		}
		rows = append(rows, []string{l.Name, scope, kept, shortHosts(l.Hosts), ago(l.Set, time.Now())})
	}
	return table(a.Out, rows)
}

// listSecrets lists what is kept; with a sandbox, what that one uses.
func listSecrets(ctx context.Context, s *secret.Store, sandboxName string, services []service.Definition) ([]listedSecret, error) {
	entries, err := s.List(ctx)
	if err != nil {
		return nil, err
	}
	own := map[string]bool{}
	for _, e := range entries {
		own[e.Name] = own[e.Name] || sandboxName != "" && e.Sandbox == sandboxName
	}
	all := []listedSecret{}
	for _, e := range entries {
		if sandboxName != "" && e.Sandbox != sandboxName && (e.Sandbox != "" || own[e.Name]) {
			continue
		}
		l := listedSecret{Name: e.Name, Kind: "value", Sandbox: e.Sandbox, Kept: e.Backend, Command: e.Command, Set: e.Set}
		if e.Command != "" {
			l.Kind = "command"
			if e.TTL != 0 {
				l.TTL = e.TTL.String()
			}
		}
		if d, ok := serviceOf(e, services); ok {
			l.Service = d.Name
			for _, h := range d.Hosts {
				l.Hosts = append(l.Hosts, h.String())
			}
		}
		all = append(all, l)
	}
	logins, err := s.Logins(ctx)
	if err != nil {
		return nil, err
	}
	for _, in := range logins {
		provider, of := secret.SplitLogin(in.Name)
		if sandboxName != "" && of != "" && of != sandboxName {
			continue
		}
		l := listedSecret{Name: secret.LoginPrefix + provider, Kind: "login", Sandbox: of, Kept: in.Backend, Set: in.Set}
		if p, ok := signin.Find(provider); ok {
			l.Hosts = p.Hosts()
		}
		all = append(all, l)
	}
	return all, nil
}

func shortHosts(hosts []string) string {
	if len(hosts) > 2 {
		return strings.Join(hosts[:2], ", ") + ", ..."
	}
	return strings.Join(hosts, ", ")
}

// shorten keeps the start of a text.
func shorten(s string, most int) string {
	if r := []rune(s); len(r) > most {
		return string(r[:most-3]) + "..."
	}
	return s
}

package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"berth.dev/internal/sandbox"
	"berth.dev/internal/secret"
	"berth.dev/internal/service"
)

type secretSetOptions struct {
	Sandbox string

	// Where the value is from; none of these is standard input.
	FromEnv string
	File    string
	Command string
	TTL     time.Duration

	// The user's own service.
	Hosts   []string
	Headers []string
	Bearer  bool
	Basic   string
	Query   string
	Env     []string
	Docker  bool
}

func newSecretSetCommand(a *app) *cobra.Command {
	o := &secretSetOptions{}
	cmd := &cobra.Command{
		Use:   "set [flags] NAME",
		Short: "Keep a secret",
		Long: `Keep a secret, in place of the one of that name. Its value is asked for, or read
from standard input when that is no terminal; it is never an argument, where
every process of this machine could see it.

With --command nothing is kept but the command. It is run when the secret is
used, by sh -c on this machine, and what it prints is used by all sandboxes until
it expires: as a token, or as JSON that AWS, kubectl, gcloud, az and others
print. It is given few variables and no terminal, and has 30 seconds.

A secret that is called like a known variable or service needs no more. For any
other, --host says where it belongs, --header, --bearer, --basic or --query where
in a request it stands, and --env which variable a sandbox sees.`,
		Example: `  berth secret set OPENAI_API_KEY
  pass show anthropic | berth secret set ANTHROPIC_API_KEY
  berth secret set GH_TOKEN --command 'gh auth token'
  berth secret set aws --command 'aws configure export-credentials'
  berth secret set REGISTRY --host registry.example.com --basic me --docker
  berth secret set TRACKER --host tracker.example.com --header 'X-Key: {}' --env TRACKER_KEY`,
		Args:              secretName,
		ValidArgsFunction: completeSetSecret,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runSecretSet(cmd.Context(), args[0], o)
		},
	}
	cmd.SetFlagErrorFunc(quietFlags)
	f := cmd.Flags()
	a.sandboxFlag(cmd, &o.Sandbox)
	f.StringVar(&o.FromEnv, "from-env", "", "take the value that `VAR` has in this shell")
	f.StringVar(&o.File, "file", "", "take what `FILE` holds now")
	f.StringVar(&o.Command, "command", "", "run `CMD` on this machine each time that the secret is needed anew")
	f.DurationVar(&o.TTL, "ttl", 0, "how long what the command prints holds, when that does not say so itself; 5m")
	f.StringArrayVar(&o.Hosts, "host", nil, "a `HOST` that it belongs to: NAME, NAME:PORT or *.NAME; may be given several times")
	f.StringArrayVar(&o.Headers, "header", nil, "it is sent in this `HEADER`: 'NAME: FORMAT', with {} for the secret")
	f.BoolVar(&o.Bearer, "bearer", false, "it is sent as Authorization: Bearer")
	f.StringVar(&o.Basic, "basic", "", "it is sent as the password of `USER`; * for any")
	f.StringVar(&o.Query, "query", "", "it is sent as this `PARAM` of the URL")
	f.StringArrayVar(&o.Env, "env", nil, "a variable `VAR` in which sandboxes see the placeholder; NAME without it")
	f.BoolVar(&o.Docker, "docker", false, "the hosts are container registries: Docker in sandboxes is signed in there, as the USER of --basic")
	return cmd
}

// secretName wants one argument, a name. What else was given is not repeated.
func secretName(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return wants(1, 1)(cmd, args)
	}
	name, _, assigned := strings.Cut(args[0], "=")
	isKey := service.LooksLikeKey(name) // which most of them could be by their letters
	if len(args) > 1 || assigned || isKey {
		hint := "berth secret set NAME"
		if secret.CheckName(name) == nil && !isKey {
			hint = "berth secret set " + name
		}
		return sandbox.Errorf(sandbox.ErrInvalid, "a secret's value cannot be an argument: other processes see it there, and the shell remembers it").
			WithHint("%s    asks for it; if you just wrote a real one, clear it from the shell's history", hint)
	}
	return secret.CheckName(args[0])
}

func completeSetSecret(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, d := range service.Builtin() {
		for _, v := range d.Vars {
			names = append(names, cobra.CompletionWithDesc(v, d.Title))
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func (a *app) runSecretSet(ctx context.Context, name string, o *secretSetOptions) error {
	e := secret.Entry{Name: name, Command: o.Command, TTL: o.TTL}
	d, err := o.definition(name)
	switch {
	case err != nil:
		return err
	case o.FromEnv != "" && o.File != "" || o.Command != "" && o.FromEnv+o.File != "":
		return sandbox.Errorf(sandbox.ErrInvalid, "--from-env, --file and --command are different places of a value: give one")
	case o.Command != "" && strings.TrimSpace(o.Command) == "":
		return sandbox.Errorf(sandbox.ErrInvalid, "the command is empty")
	case o.TTL != 0 && o.Command == "":
		return sandbox.Errorf(sandbox.ErrInvalid, "--ttl is for what a --command prints")
	}
	if d != nil {
		text, err := service.Format(*d)
		if err != nil {
			return err
		}
		e.Service = string(text)
	}
	if e.Sandbox, err = a.secretSandbox(o.Sandbox, false); err != nil {
		return err
	}
	s, err := a.secrets()
	if err != nil {
		return err
	}
	var v secret.Value
	if o.Command == "" {
		if v, err = a.secretValue(ctx, name, o); err != nil {
			return err
		}
		if a.checkForm(e, v) != nil {
			return sandbox.Errorf(sandbox.ErrInvalid, "that is not what the secret %s can be: AWS keys are JSON with AccessKeyId and SecretAccessKey", name).
				WithHint("keep those of this shell with: berth secret import AWS_ACCESS_KEY_ID; or what a command prints: berth secret set %s --command 'aws configure export-credentials'", name)
		}
	}
	if err := s.Set(ctx, e, v); err != nil {
		return err
	}
	fmt.Fprintln(a.Out, name)
	src, e, err := s.Source(name, e.Sandbox)
	if err != nil {
		return err
	}
	a.noteSecret(e)
	if e.Command != "" {
		// So that a slip shows now, and not in a sandbox.
		t, err := src.Token(ctx)
		if err == nil {
			err = a.checkForm(e, t.Value)
		}
		if err != nil {
			a.note("the command is kept, but does not work now: %v", err)
		}
	}
	return a.secretsChanged(ctx, e.Sandbox, "set", name)
}

// checkForm refuses what cannot be the secret of its service.
func (a *app) checkForm(e secret.Entry, v secret.Value) error {
	if d, ok := serviceOf(e, a.services()); !ok || !d.Signs() {
		return nil
	}
	_, err := secret.ParseAWSKeys(v)
	return err
}

// definition is the user's own service, nil when none of its flags was given.
func (o *secretSetOptions) definition(name string) (*service.Definition, error) {
	schemes, err := o.schemes()
	if err != nil {
		return nil, err
	}
	part, isPart := service.ByVar(name)
	switch {
	case len(o.Hosts) == 0 && (len(schemes)+len(o.Env) > 0 || o.Docker):
		return nil, sandbox.Errorf(sandbox.ErrInvalid, "it is not said which hosts secret %s belongs to", name).WithHint("say it with --host HOST")
	case len(o.Hosts) == 0 && isPart && part.Signs():
		return nil, sandbox.Errorf(sandbox.ErrInvalid, "%s is one part of the keys of %s, which are kept as one secret", name, part.Title).
			WithHint("set the variables %s and say: berth secret import %s; or say: berth secret set %s --command 'aws configure export-credentials'",
				strings.Join(part.Vars, ", "), part.Vars[0], part.Name)
	case len(o.Hosts) == 0:
		return nil, nil
	case o.Docker && (o.Basic == "" || strings.ContainsAny(o.Basic, "*:{}<>&\"\\")):
		return nil, sandbox.Errorf(sandbox.ErrInvalid, "it is not said as whom Docker signs in").WithHint("say it with --basic USER")
	case len(schemes) == 0:
		return nil, sandbox.Errorf(sandbox.ErrInvalid, "it is not said where in a request secret %s stands", name).
			WithHint("say it with --bearer, --header 'NAME: {}', --basic USER or --query PARAM")
	}
	d := &service.Definition{Name: serviceName(name), Schemes: schemes}
	for _, h := range o.Hosts {
		p, err := service.ParsePlace(h)
		if err != nil {
			return nil, sandbox.Errorf(sandbox.ErrInvalid, "--host: %w", err)
		}
		d.Hosts = append(d.Hosts, p)
	}
	env := o.Env
	if len(env) == 0 {
		env = []string{strings.NewReplacer(".", "_", "-", "_").Replace(name)}
		if c := name[0]; c >= '0' && c <= '9' {
			return nil, sandbox.Errorf(sandbox.ErrInvalid, "no variable can be called %s", env[0]).
				WithHint("say in which one sandboxes see the placeholder: --env VAR")
		}
	}
	for _, v := range env {
		d.Env = append(d.Env, service.Var{Name: v})
	}
	if o.Docker {
		d.Files = []service.File{service.DockerLogin(o.Basic, d.Hosts...)}
	}
	if err := d.Check(); err != nil {
		return nil, sandbox.Errorf(sandbox.ErrInvalid, "%w", err)
	}
	return d, nil
}

func (o *secretSetOptions) schemes() ([]service.Scheme, error) {
	var all []service.Scheme
	for _, h := range o.Headers {
		sc, err := service.ParseHeader(h)
		if err != nil {
			return nil, sandbox.Errorf(sandbox.ErrInvalid, "--header: %w", err)
		}
		all = append(all, sc)
	}
	if o.Bearer {
		all = append(all, service.Scheme{Kind: service.Bearer})
	}
	if o.Basic != "" {
		all = append(all, service.Scheme{Kind: service.Basic, Format: o.Basic + ":{}"})
	}
	if o.Query != "" {
		all = append(all, service.Scheme{Kind: service.Query, Name: o.Query})
	}
	return all, nil
}

// serviceName makes the name of a service of a secret's.
func serviceName(name string) string {
	s := strings.Map(func(r rune) rune {
		if r == '_' || r == '.' {
			return '-'
		}
		return r
	}, strings.ToLower(name))
	if s = strings.Trim(s[:min(len(s), 64)], "-"); s == "" {
		return "own"
	}
	return s
}

// noteSecret says what becomes of a secret.
func (a *app) noteSecret(e secret.Entry) {
	where := "in an encrypted file"
	switch {
	case e.Command != "":
		where = "as its command"
	case e.Backend == secret.BackendKeyring:
		where = "in the desktop's keyring"
	}
	if d, ok := serviceOf(e, a.services()); ok {
		a.note("%s is kept %s, and sent to %s alone", e.Label(), where, hostsOf(d))
		return
	}
	a.note("%s is kept %s, and not used yet: say where it belongs with --host, and with --bearer, --header, --basic or --query", e.Label(), where)
}

// hostsOf names the hosts of a service.
func hostsOf(d service.Definition) string {
	var hosts []string
	for _, h := range d.Hosts {
		hosts = append(hosts, h.String())
	}
	const most = 3
	if n := len(hosts); n > most+1 {
		hosts = append(hosts[:most:most], fmt.Sprintf("%d more hosts", n-most))
	}
	if n := len(hosts); n > 1 {
		return strings.Join(hosts[:n-1], ", ") + " and " + hosts[n-1]
	}
	return strings.Join(hosts, "")
}

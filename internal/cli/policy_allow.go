package cli

import (
	"context"

	"github.com/spf13/cobra"

	"berth.dev/internal/policy"
	"berth.dev/internal/policyfile"
	"berth.dev/internal/sandbox"
)

// policyRuleOptions are the flags of the commands that add rules.
type policyRuleOptions struct {
	Sandbox string
	Methods []string
	Paths   []string
	Inspect bool
	Note    string
}

func (o *policyRuleOptions) register(a *app, cmd *cobra.Command) {
	a.sandboxFlag(cmd, &o.Sandbox)
	cmd.Flags().StringSliceVar(&o.Methods, "method", nil, "only HTTP requests of this `METHOD`; may be given several times")
	cmd.Flags().StringArrayVar(&o.Paths, "path", nil, "only HTTP requests to this `PATH`; * within a segment, ** any depth")
	cmd.Flags().StringVar(&o.Note, "note", "", "a `TEXT` to keep with the rule")
}

func newPolicyAllowCommand(a *app) *cobra.Command {
	o := &policyRuleOptions{}
	cmd := &cobra.Command{
		Use:   "allow [flags] TARGET...",
		Short: "Allow hosts or addresses",
		Example: `  berth policy allow api.example.com
  berth policy allow '**.example.com:443,8443' --sandbox claude-project
  berth policy allow api.example.com:443 --method GET --path '/v1/**'
  berth policy allow host.berth.internal:5432    a database on this machine
  berth policy allow 10.1.2.3                    a host of the local network`,
		Args: wants(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runPolicyRule(cmd.Context(), policy.Allow, args, o)
		},
	}
	o.register(a, cmd)
	cmd.Flags().BoolVar(&o.Inspect, "inspect", false, "look into HTTP and TLS, and record each request")
	return cmd
}

// runPolicyRule adds one rule for each target, or none of them.
func (a *app) runPolicyRule(ctx context.Context, v policy.Verdict, targets []string, o *policyRuleOptions) error {
	var rules []policy.Rule
	for _, target := range targets {
		r, err := policy.ParseRule(v, target)
		if err == nil {
			r.Methods, r.Paths, r.Inspect, r.Note = o.Methods, o.Paths, o.Inspect, o.Note
			r, err = r.Clean()
		}
		if err != nil {
			return sandbox.Errorf(sandbox.ErrInvalid, "%w", err).WithHint("berth policy --help")
		}
		rules = append(rules, r)
	}
	t, m, err := a.policyTarget(o.Sandbox)
	if err != nil {
		return err
	}
	a.noteUseless(t, rules)
	return a.editPolicy(ctx, t, m, "added", func(d *policyfile.Draft) (done []string, err error) {
		for _, r := range rules {
			added, err := d.Add(r)
			if err != nil {
				return nil, err
			}
			if !added {
				a.note("there is already: %s", r)
				continue
			}
			done = append(done, r.String())
		}
		return done, nil
	})
}

// noteUseless says of allow rules to be added why they will change nothing.
// What the user wants is done all the same: the reason may go away.
func (a *app) noteUseless(t policyTarget, rules []policy.Rule) {
	e, err := policyfile.Load(t.src)
	if err != nil {
		return // the change itself will say
	}
	all, err := e.All()
	if err != nil {
		return
	}
	scope := policy.ScopeUser
	if t.sandbox != nil {
		scope = policy.ScopeSandbox
	}
	for _, r := range rules {
		if r.Verdict == policy.Deny || !r.Host.Exact() {
			continue
		}
		r.Scope = scope
		var port uint16
		if len(r.Ports) > 0 {
			port = r.Ports[0].First
		}
		req := policy.Request{Host: r.Host.String(), Port: port}
		if d := policy.New(append(all, r)).Decide(req); d.Verdict == policy.Deny && d.Rule != nil {
			a.note("%s stays denied by %s: %s", r.Target(), d.Rule.Origin(), d.Rule)
			continue
		}
		if d := policy.New(all).Decide(req); d.Verdict == policy.Allow && !d.Inspect && port != 0 && len(r.Methods)+len(r.Paths) > 0 {
			a.note("%s is allowed whole by %s, so this rule narrows nothing; to narrow, deny what must not be: berth policy deny %s --method %s",
				r.Target(), d.Rule.Origin(), r.Target(), "POST,PUT,PATCH,DELETE")
		}
	}
}

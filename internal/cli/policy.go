package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"berth.dev/internal/audit"
	"berth.dev/internal/bundle"
	"berth.dev/internal/control"
	"berth.dev/internal/manager"
	"berth.dev/internal/policyfile"
	"berth.dev/internal/sandbox"
)

func newPolicyCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "See and change what sandboxes may reach in the network",
		Long: `See and change what sandboxes may reach in the network.

A rule allows or denies a target: HOST, HOST:PORT, an address or a range of
addresses. Deny beats allow, and what no rule allows is denied.
  example.com                    that host
  *.example.com                  one label below it
  **.example.com:443,8000-8100   any number of labels below it, these ports
  10.1.2.3:5432, 10.1.0.0/16     an address, a range; private ones too
  host.berth.internal:5432       a port of this machine's loopback

Rules come from a preset, from you, from the project's .berth/policy.toml (what
that allows waits for ` + "`berth policy approve`" + `), from the sandbox and from its
agent. Without --sandbox a command is about your rules for every sandbox; they
are in policy.toml in Berth's configuration folder, and may be written by hand:
  version = 1
  preset = "balanced"

  [[allow]]                  # or [[deny]]
  host = "api.example.com"
  ports = [443]              # these are optional: ports, methods, paths,
  methods = ["GET"]          # inspect, note
  paths = ["/v1/**"]

Changes act at once, in running sandboxes too.`,
		Args: cobra.ArbitraryArgs,
		RunE: groupOnly,
	}
	cmd.AddCommand(newPolicyPendingCommand(a), newPolicyAnswerCommand(a), newPolicyLsCommand(a), newPolicyAllowCommand(a), newPolicyDenyCommand(a), newPolicyRmCommand(a),
		newPolicyPresetCommand(a), newPolicyCheckCommand(a), newPolicySuggestCommand(a), newPolicyApproveCommand(a))
	return cmd
}

// sandboxFlag is --sandbox, which says whose policy a command is about.
func (a *app) sandboxFlag(cmd *cobra.Command, name *string) {
	cmd.Flags().StringVarP(name, "sandbox", "s", "", "of this `SANDBOX` alone")
	_ = cmd.RegisterFlagCompletionFunc("sandbox", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return a.names(nil), cobra.ShellCompDirectiveNoFileComp
	})
}

// policyTarget is whose policy a command is about: the user's for every
// sandbox, or that of one.
type policyTarget struct {
	sandbox *bundle.Bundle // nil: the user's
	file    string         // that is changed
	src     policyfile.Sources
}

// policyTarget finds the policy of a sandbox; "" means the user's.
func (a *app) policyTarget(name string) (policyTarget, *manager.Manager, error) {
	m, err := a.manager()
	if err != nil {
		return policyTarget{}, nil, err
	}
	config, err := a.dirs.Config()
	if err != nil {
		return policyTarget{}, nil, err
	}
	if name == "" {
		src := policyfile.ForUser(config)
		return policyTarget{file: src.User, src: src}, m, nil
	}
	b, err := m.Find(name)
	if err != nil {
		return policyTarget{}, nil, err
	}
	return policyTarget{sandbox: b, file: b.PolicyFile(), src: manager.PolicySources(config, b)}, m, nil
}

// name is that of the sandbox, "" for the user's policy.
func (t policyTarget) name() string {
	if t.sandbox == nil {
		return ""
	}
	return t.sandbox.Name()
}

// flag is what has to be added to a command line that is about the same.
func (t policyTarget) flag() string {
	if t.sandbox == nil {
		return ""
	}
	return " --sandbox " + t.sandbox.Name()
}

// load reads what the target's policy comes to, and says what is odd about it.
func (a *app) loadPolicy(t policyTarget) (policyfile.Effective, error) {
	e, err := policyfile.Load(t.src)
	for _, w := range e.Warnings {
		a.note("%s", w)
	}
	return e, err
}

// editPolicy changes a policy file, prints what became different, and lets
// running sandboxes and the record know. change returns that, one rule or
// preset an item; verb says in the record what was done to it.
func (a *app) editPolicy(ctx context.Context, t policyTarget, m *manager.Manager, verb string, change func(*policyfile.Draft) ([]string, error)) error {
	var done []string
	err := policyfile.Edit(t.file, func(d *policyfile.Draft) (err error) {
		done, err = change(d)
		return err
	})
	if err != nil || len(done) == 0 {
		return err
	}
	for i, what := range done {
		fmt.Fprintln(a.Out, plain(what))
		done[i] = verb + ": " + what
	}
	return a.policyWritten(ctx, t, m, done)
}

// policyWritten is what follows every change: the record, and those who run.
func (a *app) policyWritten(ctx context.Context, t policyTarget, m *manager.Manager, done []string) error {
	var errs []error
	for _, what := range done {
		errs = append(errs, a.recordPolicyChange(t.name(), what))
	}
	return errors.Join(append(errs, a.reload(ctx, m, t.name()))...)
}

// reload tells the running sandbox of that name, or with "" all that run, to
// read again what it goes by, and returns when the new one holds there.
func (a *app) reload(ctx context.Context, m *manager.Manager, sandboxName string) error {
	entries, err := m.List()
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if e.Bundle == nil || sandboxName != "" && e.Name != sandboxName {
			continue
		}
		info := e.Bundle.Info()
		if info.Status != sandbox.Running {
			continue
		}
		// One that ends at this moment is no error.
		if err := control.NewClient(info.State.Socket).Reload(ctx); err != nil && !errors.Is(err, sandbox.ErrPrecondition) {
			errs = append(errs, fmt.Errorf("sandbox %s goes by what held before: %w", e.Name, err))
		}
	}
	return errors.Join(errs...)
}

// recordPolicyChange enters a change of the user's own policy into their log.
// That of a sandbox its supervisor records when it reads its policy again.
func (a *app) recordPolicyChange(sandboxName, what string) error {
	if sandboxName != "" {
		return nil
	}
	root, err := a.dirs.Audit()
	if err != nil {
		return err
	}
	return audit.Append(filepath.Join(root, audit.UserDir), audit.Event{Kind: audit.Policy, Detail: what})
}

package cli

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"berth.dev/internal/audit"
	"berth.dev/internal/sandbox"
)

type logOptions struct {
	Net, HTTP, DNS bool
	Secrets        bool
	Kinds          []string
	Denied         bool
	Follow         bool
	Since          string
	Last           int
}

func newLogCommand(a *app) *cobra.Command {
	o := &logOptions{}
	cmd := &cobra.Command{
		Use:   "log [flags] [SANDBOX]",
		Short: "Show what sandboxes did in the network, and what was decided about it",
		Long: `Show the audit record of a sandbox, or of all and of your changes to the policy:
one line for each connection, DNS question, request that Berth looked into, use
of a credential, decision, change of policy or of a secret, start and end.
Sandboxes that were removed are in it for 30 days. With --json the lines are as
they are on disk, one JSON object each.

` + "`berth logs SANDBOX`" + ` is something else: what the agent wrote on its terminal.`,
		Example: `  berth log claude-project --denied       what was refused, and why
  berth log -f                            everything as it happens
  berth log claude-project --http --since 10m
  berth log verify                        whether anybody changed the record`,
		Args:              wants(0, 1),
		ValidArgsFunction: a.completeSandbox(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runLog(cmd.Context(), o, strings.Join(args, ""))
		},
	}
	f := cmd.Flags()
	f.BoolVar(&o.Net, "net", false, "only connections, requests and DNS questions")
	f.BoolVar(&o.HTTP, "http", false, "only requests on connections that Berth looks into")
	f.BoolVar(&o.DNS, "dns", false, "only DNS questions")
	f.BoolVar(&o.Secrets, "secrets", false, "only uses of credentials and changes of those that are kept")
	f.StringSliceVar(&o.Kinds, "kind", nil, "only this `KIND`: "+kindNames()+"; may be given several times")
	f.BoolVar(&o.Denied, "denied", false, "only what was denied")
	f.BoolVarP(&o.Follow, "follow", "f", false, "go on with what happens from now on")
	f.StringVar(&o.Since, "since", "", "only what happened since then: a duration such as 10m or 3d, or a `TIME`")
	f.IntVarP(&o.Last, "tail", "n", 0, "only the last `N` lines")
	_ = cmd.RegisterFlagCompletionFunc("kind", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return strings.Split(kindNames(), ", "), cobra.ShellCompDirectiveNoFileComp
	})
	cmd.AddCommand(newLogVerifyCommand(a))
	return cmd
}

func kindNames() string {
	var names []string
	for _, k := range audit.Kinds() {
		names = append(names, string(k))
	}
	return strings.Join(names, ", ")
}

// filter is what the flags ask for.
func (o *logOptions) filter(now time.Time) (audit.Filter, error) {
	f := audit.Filter{Denied: o.Denied, Last: o.Last}
	if o.Last < 0 {
		return f, sandbox.Errorf(sandbox.ErrInvalid, "-n %d is no number of lines", o.Last)
	}
	var err error
	if f.Since, err = parseSince(o.Since, now); err != nil {
		return f, err
	}
	if o.Net {
		f.Kinds = append(f.Kinds, audit.Connection, audit.HTTP, audit.DNS)
	}
	if o.HTTP {
		f.Kinds = append(f.Kinds, audit.HTTP)
	}
	if o.DNS {
		f.Kinds = append(f.Kinds, audit.DNS)
	}
	if o.Secrets {
		f.Kinds = append(f.Kinds, audit.Secret)
	}
	for _, text := range o.Kinds {
		known := false
		for _, k := range audit.Kinds() {
			known = known || string(k) == text
		}
		if !known {
			return f, sandbox.Errorf(sandbox.ErrInvalid, "--kind %q is no kind of event", text).WithHint("kinds are %s", kindNames())
		}
		f.Kinds = append(f.Kinds, audit.Kind(text))
	}
	return f, nil
}

// parseSince reads a moment: how long ago it was (a Go duration, or days as in
// 3d), a date in local time, or RFC 3339. "" is no moment.
func parseSince(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil {
			return now.AddDate(0, 0, -int(n)), nil
		}
	}
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t, nil
	}
	if t, err := time.ParseInLocation(time.DateOnly, text, time.Local); err == nil {
		return t, nil
	}
	return time.Time{}, sandbox.Errorf(sandbox.ErrInvalid, "--since %q is no time", text).
		WithHint("write how long ago, such as 10m, 2h or 3d, or a date such as 2026-01-31 or 2026-01-31T15:04:05Z")
}

func (a *app) runLog(ctx context.Context, o *logOptions, name string) error {
	f, err := o.filter(time.Now())
	if err != nil {
		return err
	}
	places, err := a.auditLogs(name)
	if err != nil {
		return err
	}
	broken := map[string]int{}
	show := a.logPrinter(places, name == "")
	err = mergeLogs(places, f, broken, func(e audit.Event) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return show(e)
	})
	for _, p := range places {
		if n := broken[p.dir]; n > 0 {
			a.note("%d lines of the log of %s cannot be read or were changed: see `berth log verify %s`", n, p.label(), p.id)
		}
	}
	if err == nil && o.Follow {
		more := func() ([]logPlace, error) { return places, nil }
		if name == "" {
			more = func() ([]logPlace, error) { return a.auditLogs("") }
		}
		err = followLogs(ctx, f, places, more, show)
	}
	if errors.Is(err, syscall.EPIPE) {
		return nil // whoever read it has seen enough
	}
	if err == nil {
		err = ctx.Err()
	}
	return err
}

// logPrinter prints events, as a table or as they are.
func (a *app) logPrinter(places []logPlace, several bool) func(audit.Event) error {
	if a.json {
		return func(e audit.Event) error {
			_, err := fmt.Fprintln(a.Out, e.Line())
			return err
		}
	}
	t := newLogTable(a.Out, a.styled(a.Out), columns(a.Out), places, several)
	return t.print
}

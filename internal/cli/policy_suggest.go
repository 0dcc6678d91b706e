package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"berth.dev/internal/audit"
	"berth.dev/internal/policy"
)

type policySuggestOptions struct {
	Since string
	Used  bool
}

func newPolicySuggestCommand(a *app) *cobra.Command {
	o := &policySuggestOptions{}
	cmd := &cobra.Command{
		Use:   "suggest [flags] SANDBOX",
		Short: "Say which rules would allow what was denied",
		Long: `Print the smallest set of rules that would have allowed what a sandbox was
denied, as commands that add them to it. With --used, or when the sandbox has
the preset open, they are the rules for what it used, so that it can go on with
a narrower preset.

Nothing is changed. What is printed was asked for by what runs in the sandbox:
read it before you run it. Lines that begin with # have to be thought about.`,
		Args:              wants(1, 1),
		ValidArgsFunction: a.completeSandbox(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runPolicySuggest(cmd.Context(), o, args[0])
		},
	}
	cmd.Flags().StringVar(&o.Since, "since", "", "only of what happened since then: a duration such as 10m or 3d, or a `TIME`")
	cmd.Flags().BoolVar(&o.Used, "used", false, "rules for what was used, not for what was denied")
	return cmd
}

func (a *app) runPolicySuggest(ctx context.Context, o *policySuggestOptions, name string) error {
	f := audit.Filter{Kinds: []audit.Kind{audit.Connection, audit.DNS, audit.HTTP}}
	var err error
	if f.Since, err = parseSince(o.Since, time.Now()); err != nil {
		return err
	}
	place, err := a.auditLog(name)
	if err != nil {
		return err
	}
	from := suggestFrom{used: o.Used}
	if place.living() {
		t, _, err := a.policyTarget(place.id)
		if err != nil {
			return err
		}
		e, err := a.loadPolicy(t)
		if err != nil {
			return err
		}
		all, err := e.All()
		if err != nil {
			return err
		}
		from.used = from.used || e.Preset == policy.PresetOpen
		from.policy = policy.New(all)
	}
	c := newCollector(from)
	err = place.read(f, func(e audit.Event) error {
		c.add(e)
		return ctx.Err()
	})
	if err != nil {
		return err
	}
	s := c.suggestions()
	if a.json {
		return printJSON(a.Out, s.json(place, from.used))
	}
	a.printSuggestions(s, place, from.used)
	return nil
}

func (a *app) printSuggestions(s suggestions, place logPlace, used bool) {
	what := "was denied"
	if used {
		what = "used"
	}
	if len(s.rules)+len(s.options)+len(s.notes) == 0 {
		a.note("there is nothing that %s %s and that needs a rule", place.label(), what)
		return
	}
	comment := func(format string, args ...any) {
		fmt.Fprintf(a.Out, "# %s\n", strings.ReplaceAll(plain(fmt.Sprintf(format, args...)), "\n", " "))
	}
	comment("What %s %s. Read it before you run it.", place.label(), what)
	if !place.living() {
		comment("That sandbox is gone, so these rules are for all of yours.")
	}
	for _, r := range s.rules {
		also := ""
		if r.balanced {
			also = "; the preset balanced allows it"
		}
		comment("%s%s", times(tally{r.count, r.last}), also)
		fmt.Fprintln(a.Out, r.command(place))
	}
	if len(s.options) > 0 {
		comment("")
		comment("To think about:")
		for _, r := range s.options {
			comment("%s; %s", times(tally{r.count, r.last}), r.why)
			comment("%s", r.command(place))
		}
	}
	if len(s.notes) > 0 {
		comment("")
		comment("Without a rule:")
		for _, n := range s.notes {
			comment("%s", n)
		}
	}
}

// command is the command line that adds a rule.
func (s suggested) command(place logPlace) string {
	words := []string{"berth", "policy", "allow", shellQuote(s.rule.Target())}
	for _, m := range s.rule.Methods {
		words = append(words, "--method", shellQuote(m))
	}
	for _, p := range s.rule.Paths {
		words = append(words, "--path", shellQuote(p))
	}
	if place.living() {
		words = append(words, "--sandbox", shellQuote(place.name))
	}
	return strings.Join(words, " ")
}

// shellQuote makes one word of s for a POSIX shell (XCU 2.2.2). What a guest
// chose stands in it.
func shellQuote(s string) string {
	safe := func(r rune) bool {
		return r < 0x80 && (r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-/:,@%+=", r))
	}
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !safe(r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// suggestJSON is how --json prints suggestions.
type suggestJSON struct {
	Sandbox string              `json:"sandbox"`
	ID      string              `json:"id"`
	Of      string              `json:"of"` // "denied" or "used"
	Rules   []suggestedRuleJSON `json:"rules"`
	Options []suggestedRuleJSON `json:"options"` // to think about
	Notes   []string            `json:"notes"`
}

type suggestedRuleJSON struct {
	Rule     string    `json:"rule"`
	Command  string    `json:"command"`
	Count    int       `json:"count"`
	Last     time.Time `json:"last"`
	Why      string    `json:"why,omitempty"`
	Balanced bool      `json:"balanced,omitempty"` // that preset allows it
}

func (s suggestions) json(place logPlace, used bool) suggestJSON {
	rules := func(list []suggested) []suggestedRuleJSON {
		all := []suggestedRuleJSON{}
		for _, r := range list {
			all = append(all, suggestedRuleJSON{
				Rule: r.rule.String(), Command: r.command(place), Count: r.count, Last: r.last, Why: r.why, Balanced: r.balanced,
			})
		}
		return all
	}
	j := suggestJSON{Sandbox: place.name, ID: place.id, Of: "denied", Rules: rules(s.rules), Options: rules(s.options), Notes: slices.Concat([]string{}, s.notes)}
	if used {
		j.Of = "used"
	}
	return j
}

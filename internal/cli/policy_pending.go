package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"berth.dev/internal/bundle"
	"berth.dev/internal/control"
	"berth.dev/internal/manager"
	"berth.dev/internal/policy"
	"berth.dev/internal/policyfile"
	"berth.dev/internal/sandbox"
	"berth.dev/internal/sshagent"
)

// Answers to a question of a sandbox's.
const (
	answerOnce    = "once"
	answerSandbox = "sandbox"
	answerAlways  = "always"
	answerNever   = "never"
	// answerSession is one to a question about the SSH agent alone.
	answerSession = string(sshagent.Session)
)

// Words of the answers, by what is asked.
var (
	answerWords      = []string{answerOnce, answerSandbox, answerAlways, answerNever}
	agentAnswerWords = []string{answerOnce, answerSession, answerNever}
	allAnswerWords   = []string{answerOnce, answerSandbox, answerAlways, answerSession, answerNever}
)

const answersText = `once     the connections that wait now, or the next one
sandbox  from now on, in this sandbox
always   from now on, in all of your sandboxes
never    denied from now on, in all of your sandboxes

A question about your SSH agent (--ssh-agent) has other answers:

once     the signature that waits now, or the next one
session  from now on, until the command that forwards the agent ends
never    denied until then`

type pendingOptions struct{ Watch bool }

func newPolicyPendingCommand(a *app) *cobra.Command {
	o := &pendingOptions{}
	cmd := &cobra.Command{
		Use:   "pending [flags] [SANDBOX...]",
		Short: "Show and answer what sandboxes ask about their network and your SSH agent",
		Long: `Show the places that sandboxes want to connect to and no rule decides. A sandbox
asks when it was made with --ask, or when the settings say so (ask = true). And
show what sessions that have your SSH agent want it to do (--ssh-agent).

In a terminal each question can be answered at once:

` + answersText + `

Without an answer a connection is denied after a time; a later answer holds for
the next one.`,
		ValidArgsFunction: a.completeSandbox(-1),
		RunE:              func(cmd *cobra.Command, args []string) error { return a.runPending(cmd.Context(), o, args) },
	}
	cmd.Flags().BoolVar(&o.Watch, "watch", false, "wait for questions, until interrupted")
	return cmd
}

func newPolicyAnswerCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:       "answer ID " + strings.Join(allAnswerWords, "|"),
		Short:     "Answer a question that berth policy pending shows",
		Long:      "Answer a question that berth policy pending shows:\n\n" + answersText,
		Args:      wants(2, 2),
		ValidArgs: allAnswerWords,
		RunE:      func(cmd *cobra.Command, args []string) error { return a.runAnswer(cmd.Context(), args[0], args[1]) },
	}
}

// asked is a question and whose it is.
type asked struct {
	Sandbox string `json:"sandbox"`
	control.Question
	bundle *bundle.Bundle
}

// what is it that the sandbox wants, safe to print.
func (q asked) what() string {
	if q.Agent != nil {
		return "to " + describe(*q.Agent)
	}
	return plain(net.JoinHostPort(q.Host, strconv.Itoa(int(q.Port))))
}

// words are those that answer the question.
func (q asked) words() []string {
	if q.Agent != nil {
		return agentAnswerWords
	}
	return answerWords
}

// questions of the running sandboxes among names, or of all.
func questions(ctx context.Context, m *manager.Manager, names []string) ([]asked, error) {
	bundles := make([]*bundle.Bundle, 0, len(names))
	for _, name := range names {
		b, err := m.Find(name)
		if err != nil {
			return nil, err
		}
		bundles = append(bundles, b)
	}
	if len(names) == 0 {
		all, err := m.List()
		if err != nil {
			return nil, err
		}
		for _, e := range all {
			if e.Bundle != nil {
				bundles = append(bundles, e.Bundle)
			}
		}
	}
	list := []asked{}
	for _, b := range bundles {
		info := b.Info()
		if info.Status != sandbox.Running {
			continue
		}
		qs, err := control.NewClient(info.State.Socket).Pending(ctx)
		if errors.Is(err, sandbox.ErrPrecondition) || errors.Is(err, sandbox.ErrUnavailable) {
			continue // it ended meanwhile
		}
		if err != nil {
			return nil, err
		}
		for _, q := range qs {
			list = append(list, asked{b.Name(), q, b})
		}
	}
	return list, nil
}

func (a *app) runPending(ctx context.Context, o *pendingOptions, names []string) error {
	m, err := a.manager()
	if err != nil {
		return err
	}
	if o.Watch {
		return a.watchPending(ctx, m, names)
	}
	list, err := questions(ctx, m, names)
	if err != nil {
		return err
	}
	if a.json {
		return printJSON(a.Out, list)
	}
	if len(list) == 0 {
		a.note("no sandbox asks anything")
		return nil
	}
	if a.interactive() {
		return a.prompt(ctx, list, bufio.NewReader(a.In))
	}
	rows := [][]string{{"ID", "SANDBOX", "WANTS", "ASKED", "WAITING"}}
	for _, q := range list {
		rows = append(rows, []string{q.ID, q.Sandbox, q.what(), ago(q.Asked, time.Now()), strconv.Itoa(q.Waiting)})
	}
	return table(a.Out, rows)
}

// watchPending shows each question once, and lets a user at a terminal answer.
func (a *app) watchPending(ctx context.Context, m *manager.Manager, names []string) error {
	seen := map[string]bool{}
	in := bufio.NewReader(a.In)
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		list, err := questions(ctx, m, names)
		if err != nil {
			return err
		}
		list = slices.DeleteFunc(list, func(q asked) bool { return seen[q.ID] })
		for _, q := range list {
			seen[q.ID] = true
			switch {
			case a.json:
				err = printJSON(a.Out, q)
			case a.interactive():
				err = a.prompt(ctx, []asked{q}, in)
			default:
				_, err = fmt.Fprintf(a.Out, "%s  %s wants %s\n", q.ID, q.Sandbox, q.what())
			}
			if err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// prompt asks the user at the terminal about each.
func (a *app) prompt(ctx context.Context, list []asked, in *bufio.Reader) error {
	for _, q := range list {
		wants, choice := "to connect to "+q.what(), "allow [o]nce, in this [s]andbox, [a]lways; [n]ever"
		if q.Agent != nil {
			wants, choice = q.what(), "allow [o]nce, in this [s]ession; [n]ever in it"
		}
		fmt.Fprintf(a.Err, "%s wants %s (asked %s)\n  %s; Enter leaves it open: ", q.Sandbox, wants, ago(q.Asked, time.Now()), choice)
		line, err := in.ReadString('\n')
		if err != nil {
			return nil // no more answers come
		}
		word := strings.ToLower(strings.TrimSpace(line))
		if word == "" {
			continue
		}
		words := q.words()
		i := slices.IndexFunc(words, func(w string) bool { return strings.HasPrefix(w, word) })
		if i < 0 {
			a.note("%q is none of the answers; it stays open", word)
			continue
		}
		if err := a.answer(ctx, q, words[i]); err != nil {
			a.printError(err)
		}
	}
	return nil
}

func (a *app) runAnswer(ctx context.Context, id, how string) error {
	if !slices.Contains(allAnswerWords, how) {
		return noAnswer(how, allAnswerWords)
	}
	m, err := a.manager()
	if err != nil {
		return err
	}
	list, err := questions(ctx, m, nil)
	if err != nil {
		return err
	}
	for _, q := range list {
		if q.ID == id {
			return a.answer(ctx, q, how)
		}
	}
	return sandbox.Errorf(sandbox.ErrNotFound, "there is no question %s", id).WithHint("berth policy pending lists those that stand")
}

func noAnswer(how string, words []string) error {
	return sandbox.Errorf(sandbox.ErrInvalid, "%q is none of the answers", how).WithHint("the answers are %s", strings.Join(words, ", "))
}

// answer makes a lasting answer a rule, and ends the question.
func (a *app) answer(ctx context.Context, q asked, how string) error {
	if !slices.Contains(q.words(), how) {
		return noAnswer(how, q.words())
	}
	if q.Agent != nil {
		return control.NewClient(q.bundle.Info().State.Socket).Answer(ctx, q.ID, how == answerOnce, how)
	}
	verdict, file := policy.Allow, ""
	switch how {
	case answerSandbox:
		file = q.bundle.PolicyFile()
	case answerNever:
		verdict = policy.Deny
		fallthrough
	case answerAlways:
		dir, err := a.dirs.Config()
		if err != nil {
			return err
		}
		file = policyfile.ForUser(dir).User
	}
	if file != "" {
		r, err := policy.ParseRule(verdict, target(q.Host, q.Port))
		if err != nil {
			return sandbox.Errorf(sandbox.ErrInvalid, "%w", err)
		}
		r.Note = "answered " + time.Now().Format(time.DateOnly) + " for " + q.Sandbox
		if err := policyfile.Edit(file, func(d *policyfile.Draft) error { _, err := d.Add(r); return err }); err != nil {
			return err
		}
		if how != answerSandbox {
			if err := a.reload(ctx, a.mgr, ""); err != nil {
				return err
			}
		}
	}
	return control.NewClient(q.bundle.Info().State.Socket).Answer(ctx, q.ID, how == answerOnce, how)
}

// target is a place as rules have it.
func target(host string, port uint16) string { return net.JoinHostPort(host, strconv.Itoa(int(port))) }

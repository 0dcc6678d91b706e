package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"

	"github.com/spf13/cobra"

	"berth.dev/internal/agent"
	"berth.dev/internal/guestapi"
	"berth.dev/internal/sandbox"
)

// exitBerth is the status of every error of Berth's own, as Docker's is.
const exitBerth = 125

// exitStatus is the end of a command that has said all there is to say.
type exitStatus int

// Error implements error.
func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// exitCode is the one place where an error becomes an exit status.
func exitCode(err error) int {
	var status exitStatus
	var guest *guestapi.Error
	switch {
	case err == nil:
		return 0
	case errors.As(err, &status):
		return int(status)
	case errors.As(err, &guest):
		return guest.ExitCode() // 127 and 126 as a shell means them, else 125
	}
	return exitBerth
}

// report prints an error and returns the exit status for it.
func (a *app) report(err error) int {
	var status exitStatus
	if err != nil && !errors.As(err, &status) {
		a.printError(err)
	}
	return exitCode(err)
}

// errorJSON is how --json prints an error, on one line.
type errorJSON struct {
	Error struct {
		Class   string `json:"class"`
		Message string `json:"message"`
		Hint    string `json:"hint,omitempty"`
	} `json:"error"`
}

func (a *app) printError(err error) {
	message, hint := err.Error(), sandbox.HintOf(err)
	if a.json {
		var e errorJSON
		e.Error.Class, e.Error.Message, e.Error.Hint = string(sandbox.ClassOf(err)), message, hint
		enc := json.NewEncoder(a.Err)
		enc.SetEscapeHTML(false)
		_ = enc.Encode(e)
		return
	}
	name, try := "berth:", "try:"
	if a.styled(a.Err) {
		name, try = "\x1b[1;31mberth:\x1b[m", "\x1b[1mtry:\x1b[m"
	}
	fmt.Fprintf(a.Err, "%s %s\n", name, plain(message))
	if hint != "" {
		fmt.Fprintf(a.Err, "%s %s\n", try, plain(hint))
	}
}

// note prints a line for people on standard error.
func (a *app) note(format string, args ...any) {
	fmt.Fprintf(a.Err, "berth: %s\n", plain(fmt.Sprintf(format, args...)))
}

// plain makes text safe to print: a folder's name, or what a guest said, may
// hold sequences that a terminal obeys.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r != '\n' && r != '\t' && (unicode.IsControl(r) || r == unicode.ReplacementChar || unicode.Is(unicode.Cf, r)) {
			return '?'
		}
		return r
	}, s)
}

// printJSON writes an answer.
func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

func unknownCommand(root *cobra.Command, word string) error {
	err := sandbox.Errorf(sandbox.ErrInvalid, "there is no command %q", word)
	if _, aerr := agent.Find(word); aerr == nil {
		return err.WithHint("berth run %s", word)
	}
	if root.SuggestionsMinimumDistance <= 0 {
		root.SuggestionsMinimumDistance = 2
	}
	if near := root.SuggestionsFor(word); len(near) > 0 {
		return err.WithHint("berth %s", strings.Join(near, ", or berth "))
	}
	return err.WithHint("berth --help")
}

// wants checks the number of arguments; atMost < 0 means any number.
func wants(atLeast, atMost int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) >= atLeast && (atMost < 0 || len(args) <= atMost) {
			return nil
		}
		what := "too few arguments"
		if len(args) > atLeast {
			what = fmt.Sprintf("unexpected argument %q", args[atMost])
		}
		return sandbox.Errorf(sandbox.ErrInvalid, "%s: %s", cmd.CommandPath(), what).
			WithHint("%s", cmd.UseLine())
	}
}

// each does one thing to several sandboxes or images. All are tried; an error
// is printed when it happens, and the end of it is then exit status 125. done
// names on standard output are those that it worked for.
func (a *app) each(names []string, do func(name string) error) error {
	failed := false
	for _, name := range names {
		if err := do(name); err != nil {
			a.printError(err)
			failed = true
			continue
		}
		fmt.Fprintln(a.Out, name)
	}
	if failed {
		return exitStatus(exitBerth)
	}
	return nil
}

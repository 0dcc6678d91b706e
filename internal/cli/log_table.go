package cli

import (
	"cmp"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/term"

	"berth.dev/internal/audit"
	"berth.dev/internal/sshagent"
)

// Widths of the columns of the log, in characters.
const (
	logVerdict = 9
	logBytes   = 13
	logTook    = 7
	logGap     = 2 // between columns
	maxLogName = 24
	// Where nothing is cut, and the least when something is.
	logWhat, minLogWhat = 44, 16
	logWhy, minLogWhy   = 40, 12
	// narrowLog is what has to be left for these two, or else others go.
	narrowLog, narrowLogName = 60, 16
	narrowLogTime            = "01-02 15:04:05"
)

// columns is the width of a terminal in characters, 0 for what is none.
func columns(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok {
		return 0
	}
	cols, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return cols
}

// logTable prints events as lines of a table as they come. On a terminal what
// is too long is cut; elsewhere nothing is.
type logTable struct {
	w         io.Writer
	styled    bool
	cut       bool
	name      int // width of the sandbox's column, 0 for none
	what, why int
	narrow    bool // without bytes and duration
	time      string
	begun     bool
}

func newLogTable(w io.Writer, styled bool, width int, places []logPlace, several bool) *logTable {
	t := &logTable{w: w, styled: styled, what: logWhat, why: logWhy, time: time.DateTime}
	if several {
		t.name = len("SANDBOX")
		for _, p := range places {
			t.name = min(max(t.name, len(p.name)), maxLogName)
		}
	}
	if width > 0 {
		t.fit(width)
	}
	return t
}

// fit makes lines as wide as a terminal.
func (t *logTable) fit(width int) {
	t.cut = true
	rest := func() int {
		rest := width - len(t.time) - logVerdict - 3*logGap
		if t.name > 0 {
			rest -= t.name + logGap
		}
		if !t.narrow {
			rest -= logBytes + logTook + 2*logGap
		}
		return rest
	}
	if rest() < narrowLog {
		t.narrow = true
	}
	if rest() < narrowLog {
		t.time, t.name = narrowLogTime, min(t.name, narrowLogName)
	}
	t.why = max(minLogWhy, rest()*45/100)
	t.what = max(minLogWhat, rest()-t.why)
}

func (t *logTable) print(e audit.Event) error {
	if !t.begun {
		t.begun = true
		if err := t.row("", "TIME", "SANDBOX", "VERDICT", "WHAT", "WHY", "OUT/IN", "TOOK"); err != nil {
			return err
		}
	}
	style := ""
	switch {
	case e.Kind == audit.Gap:
		style = "\x1b[33m"
	case e.Verdict == audit.Deny:
		style = "\x1b[31m"
	case e.Verdict == audit.Allow:
		style = "\x1b[32m"
	}
	return t.row(style, e.Time.Local().Format(t.time), e.Sandbox, cmp.Or(e.Verdict, string(e.Kind)), logWhatOf(e), logWhyOf(e), logBytesOf(e), logTookOf(e))
}

// row prints one line. The style is that of the verdict.
func (t *logTable) row(style, at, name, verdict, what, why, bytes, took string) error {
	var b strings.Builder
	column := func(s string, width int, cut bool, style string) {
		s = cmp.Or(logText(s), "-")
		n := utf8.RuneCountInString(s)
		if cut && n > width {
			s, n = cutRunes(s, width-1)+"…", width
		}
		if style != "" && t.styled {
			s = style + s + "\x1b[m"
		}
		b.WriteString(s)
		b.WriteString(strings.Repeat(" ", max(width-n, 0)+logGap))
	}
	column(at, len(t.time), false, "")
	if t.name > 0 {
		column(name, t.name, t.cut, "")
	}
	column(verdict, logVerdict, t.cut, style)
	column(what, t.what, t.cut, "")
	column(why, t.why, t.cut, "")
	if !t.narrow {
		column(bytes, logBytes, false, "")
		b.WriteString(took)
	}
	_, err := fmt.Fprintln(t.w, strings.TrimRight(b.String(), " "))
	return err
}

// logText makes text harmless, and keeps it on its line.
func logText(s string) string {
	return strings.NewReplacer("\n", " ", "\t", " ").Replace(plain(s))
}

func cutRunes(s string, n int) string {
	for i := range s {
		if n--; n < 0 {
			return s[:i]
		}
	}
	return s
}

// logWhatOf says what an event is about.
func logWhatOf(e audit.Event) string {
	place := cmp.Or(e.Name, e.Address)
	if e.Port != 0 {
		place = net.JoinHostPort(place, strconv.Itoa(int(e.Port)))
	}
	switch {
	case e.Kind == audit.DNS:
		return strings.TrimSpace("dns " + e.Question + " " + e.Name)
	case e.Kind == audit.HTTP && e.Method != "":
		// The port says no more than the method does when it is the usual one.
		if e.Port == 443 || e.Port == 80 {
			place = cmp.Or(e.Name, e.Address)
		}
		return e.Method + " " + place + e.Path
	case e.Kind == audit.Secret && e.Protocol == audit.SSHAgent:
		return logAgentOf(e)
	case secretChange(e):
		return e.Detail + " " + e.Secret
	case e.Kind == audit.Secret:
		return strings.TrimSpace(e.Secret + " for " + e.Method + " " + cmp.Or(e.Name, e.Address) + e.Path)
	case e.Kind == audit.Gap && e.Lost > 0:
		return fmt.Sprintf("%d events are missing here", e.Lost)
	case e.Kind == audit.Gap:
		return "events may be missing here"
	case place == "":
		return e.Detail
	}
	return place
}

// secretChange reports whether an event is a change of a secret by its user, and
// not a use of one.
func secretChange(e audit.Event) bool {
	return e.Kind == audit.Secret && e.Protocol != audit.SSHAgent && e.Verdict == "" && e.Detail != ""
}

// logAgentOf says what the user's SSH agent was asked for.
func logAgentOf(e audit.Event) string {
	key := strings.TrimSpace("SSH key " + e.Secret)
	switch {
	case e.Method == sshagent.SignCommit:
		return key + " for a commit"
	case e.Method == sshagent.SignIn && e.Name != "":
		return key + " for " + e.Detail + "@" + e.Name
	case e.Secret == "":
		return "SSH agent"
	}
	return key
}

// logWhyOf says which rule or what else decided, and what came of it.
func logWhyOf(e audit.Event) string {
	var parts []string
	switch {
	case e.Kind == audit.Gap:
		parts = append(parts, e.Detail)
	case e.Rule != "":
		parts = append(parts, e.Rule)
		if e.Origin != "" {
			parts[0] += " (" + e.Origin + ")"
		}
	case e.Reason != "":
		parts = append(parts, e.Reason)
	}
	if e.Status != 0 {
		parts = append(parts, "status "+strconv.Itoa(e.Status))
	}
	if e.Kind == audit.DNS && e.Answer != "" && e.Answer != "NOERROR" && e.Verdict == audit.Allow {
		parts = append(parts, e.Answer)
	}
	if e.Error != "" {
		parts = append(parts, "failed: "+e.Error)
	}
	return strings.Join(parts, "; ")
}

func logBytesOf(e audit.Event) string {
	if e.Sent == 0 && e.Received == 0 {
		return "-"
	}
	return shortBytes(e.Sent) + "/" + shortBytes(e.Received)
}

// shortBytes is a size in at most six characters, in units of 1024.
func shortBytes(n int64) string {
	if n < 1024 {
		return strconv.FormatInt(n, 10)
	}
	v, unit := float64(n), -1
	for v >= 1023.5 && unit < 5 {
		v /= 1024
		unit++
	}
	if v < 9.95 {
		return fmt.Sprintf("%.1f%c", v, "KMGTPE"[unit])
	}
	return fmt.Sprintf("%.0f%c", v, "KMGTPE"[unit])
}

func logTookOf(e audit.Event) string {
	d := e.Duration
	switch {
	case d <= 0:
		return "-"
	case d < time.Millisecond:
		return "<1ms"
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

package cli

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// table writes rows in columns; the first row is the heading. Cells are made
// safe to print, and an empty one becomes a dash.
func table(w io.Writer, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	for _, row := range rows {
		for i, cell := range row {
			cell = strings.NewReplacer("\t", " ", "\n", " ").Replace(plain(cell))
			if cell == "" {
				cell = "-"
			}
			if i < len(row)-1 {
				cell += "\t"
			}
			fmt.Fprint(t, cell)
		}
		fmt.Fprintln(t)
	}
	return t.Flush()
}

// ago is a moment for people: "5 minutes ago".
func ago(t, now time.Time) string {
	d := now.Sub(t)
	count := func(n int, unit string) string {
		if n == 1 {
			return fmt.Sprintf("1 %s ago", unit)
		}
		return fmt.Sprintf("%d %ss ago", n, unit)
	}
	switch {
	case t.IsZero():
		return "-"
	case d < time.Minute:
		return "just now"
	case d < time.Hour:
		return count(int(d.Minutes()), "minute")
	case d < 24*time.Hour:
		return count(int(d.Hours()), "hour")
	case d < 60*24*time.Hour:
		return count(int(d.Hours()/24), "day")
	}
	return count(int(d.Hours()/24/30), "month")
}

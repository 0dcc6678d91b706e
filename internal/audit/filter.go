package audit

import (
	"slices"
	"strings"
	"time"
)

// Filter says which events are wanted. The zero value wants all.
type Filter struct {
	Since, Until time.Time // zero: no bound; Until is not in it
	Kinds        []Kind    // empty: every kind
	Denied       bool      // only what was denied
	Sandbox      string    // name or ID
	Name         string    // host name or address; a name takes in those below it
	// After wants only lines of a higher number, to go on where one stopped.
	After uint64
	// Last wants only the newest of that many events, 0 for all. Follow counts
	// those that are there already.
	Last int
	// Broken is told of lines that cannot be read or were changed. What of the
	// latter can be read is an event all the same. nil: nobody is.
	Broken func(Problem)
}

func (f *Filter) wants(e *Event) bool {
	switch {
	case e.Seq <= f.After && f.After > 0,
		!f.Since.IsZero() && e.Time.Before(f.Since),
		!f.Until.IsZero() && !e.Time.Before(f.Until),
		len(f.Kinds) > 0 && !slices.Contains(f.Kinds, e.Kind),
		f.Denied && e.Verdict != Deny,
		f.Sandbox != "" && e.Sandbox != f.Sandbox && e.ID != f.Sandbox:
		return false
	}
	if f.Name == "" || e.Address == f.Name {
		return true
	}
	name, want := strings.ToLower(e.Name), strings.ToLower(f.Name)
	return name == want || strings.HasSuffix(name, "."+want)
}

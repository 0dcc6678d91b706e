package bundle

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"berth.dev/internal/sandbox"
)

// idPrefixRE is what may be meant as the beginning of an ID. Two digits would
// make too many typing mistakes mean something.
var idPrefixRE = regexp.MustCompile(`^[0-9a-f]{3,12}$`)

// Find returns the sandbox of that name, else of that ID, else the only one
// whose ID begins so (3 digits or more). The errors are sandbox.ErrNotFound,
// with a hint that lists names like it, sandbox.ErrInvalid for a prefix of
// several IDs, and whatever is wrong with the bundle that was found.
func (s *Store) Find(nameOrID string) (*Bundle, error) {
	if sandbox.CheckName(nameOrID) == nil && s.exists(nameOrID) {
		return load(filepath.Join(s.dir, nameOrID))
	}
	entries := s.entries()
	if idPrefixRE.MatchString(nameOrID) {
		var found []*Bundle
		for _, e := range entries {
			if e.Bundle != nil && strings.HasPrefix(e.Bundle.ID(), nameOrID) {
				found = append(found, e.Bundle)
			}
		}
		if len(found) == 1 {
			return found[0], nil
		}
		if len(found) > 1 {
			return nil, sandbox.Errorf(sandbox.ErrInvalid, "%q begins the IDs of %d sandboxes", nameOrID, len(found)).
				WithHint("write more of the ID, or use a name: %s", joinNames(found))
		}
	}
	err := notFound(nameOrID)
	if near := nearNames(nameOrID, entries); len(near) > 0 {
		return nil, err.WithHint("did you mean %s?", strings.Join(near, " or "))
	}
	return nil, err
}

// FindFor returns the sandbox that stands for an agent and a workspace: the
// one whose name Berth chose, else the only one that was named by the user.
// Those that go away again (Spec.Remove) never do. With several named ones and
// nothing to choose between them it is sandbox.ErrPrecondition, with none
// sandbox.ErrNotFound.
func (s *Store) FindFor(agent, workspace string) (*Bundle, error) {
	var found []*Bundle
	for _, e := range s.entries() {
		if e.Bundle == nil {
			continue
		}
		spec := e.Bundle.Spec()
		if spec.Agent != agent || spec.Workspace != workspace || spec.Remove {
			continue
		}
		if !e.Bundle.Named() {
			return e.Bundle, nil
		}
		found = append(found, e.Bundle)
	}
	switch len(found) {
	case 0:
		return nil, sandbox.Errorf(sandbox.ErrNotFound, "%s has no sandbox for %s", agent, workspace).
			WithHint("make one with: berth run %s %s", agent, workspace)
	case 1:
		return found[0], nil
	}
	return nil, sandbox.Errorf(sandbox.ErrPrecondition, "%s has several sandboxes for %s", agent, workspace).
		WithHint("name one of them: %s", joinNames(found))
}

// Obtain returns the sandbox that a wish means: the one called asked.Name, else
// the one of its agent and workspace (FindFor), after Compare with the wish;
// and made is false. When there is none, or asked.Remove is set without a
// name, it makes one of what prepare turns the wish into, and made is true.
// prepare may take long; nothing is locked meanwhile, and when somebody else
// was quicker, theirs is returned as if it had always been there.
func (s *Store) Obtain(asked sandbox.Spec, prepare func(sandbox.Spec) (sandbox.Spec, error)) (b *Bundle, made bool, err error) {
	// Each round that fails is one in which another process made the sandbox
	// and a third one deleted it: ten of these are no accident.
	for range 10 {
		if b, err = s.lookup(asked); err == nil {
			return b, false, Compare(b, asked)
		} else if !errors.Is(err, sandbox.ErrNotFound) {
			return nil, false, err
		}
		spec, err := prepare(asked)
		if err != nil {
			return nil, false, err
		}
		if b, err = s.Create(spec); err == nil {
			return b, true, nil
		} else if !errors.Is(err, sandbox.ErrExists) {
			return nil, false, err
		}
	}
	return nil, false, fmt.Errorf("make sandbox: it comes and goes: %w", sandbox.ErrInternal)
}

func (s *Store) lookup(asked sandbox.Spec) (*Bundle, error) {
	switch {
	case asked.Name != "":
		if err := sandbox.CheckName(asked.Name); err != nil {
			return nil, err
		}
		// Not Find: a wish names a sandbox, it does not abbreviate an ID.
		if !s.exists(asked.Name) {
			return nil, notFound(asked.Name)
		}
		return load(filepath.Join(s.dir, asked.Name))
	case asked.Remove:
		return nil, notFound("")
	}
	return s.FindFor(asked.Agent, asked.Workspace)
}

func joinNames(bundles []*Bundle) string {
	var names []string
	for _, b := range bundles {
		names = append(names, b.Name())
	}
	return strings.Join(names, ", ")
}

// nearNames lists at most three names that a typing mistake, or a forgotten
// part, separates from s.
func nearNames(s string, entries []Entry) []string {
	type candidate struct {
		name string
		cost int
	}
	var near []candidate
	for _, e := range entries {
		cost := distance(s, e.Name)
		if strings.Contains(e.Name, s) || strings.Contains(s, e.Name) {
			cost = min(cost, 1)
		}
		if cost <= 1+len(s)/5 {
			near = append(near, candidate{e.Name, cost})
		}
	}
	slices.SortStableFunc(near, func(a, b candidate) int { return a.cost - b.cost })
	var out []string
	for _, c := range near[:min(3, len(near))] {
		out = append(out, c.name)
	}
	return out
}

// distance is the Levenshtein distance in bytes, of the first 64 of each.
func distance(a, b string) int {
	a, b = a[:min(64, len(a))], b[:min(64, len(b))]
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diag
			if a[i] != b[j] {
				cost = 1 + min(diag, row[j], row[j+1])
			}
			diag, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}

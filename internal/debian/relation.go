package debian

import (
	"strings"

	"berth.dev/internal/sandbox"
)

// relation is one alternative of a dependency: "name:arch (op version)".
type relation struct {
	name    string
	arch    string // architecture qualifier, "" when there is none
	op      string // "", <<, <=, =, >=, >>
	version string
}

func (r relation) String() string {
	s := r.name
	if r.arch != "" {
		s += ":" + r.arch
	}
	if r.op != "" {
		s += " (" + r.op + " " + r.version + ")"
	}
	return s
}

// dependency is a list of alternatives, the preferred one first.
type dependency []relation

func (d dependency) String() string {
	parts := make([]string, len(d))
	for i, r := range d {
		parts[i] = r.String()
	}
	return strings.Join(parts, " | ")
}

// parseRelations reads a relationship field (Policy 7.1): dependencies
// separated by commas, alternatives by bars. Architecture restrictions and
// build profiles do not occur in binary packages and are refused.
func parseRelations(s string) ([]dependency, error) {
	var all []dependency
	for clause := range strings.SplitSeq(s, ",") {
		if strings.TrimSpace(clause) == "" {
			continue // a trailing comma, or an empty field
		}
		var d dependency
		for alt := range strings.SplitSeq(clause, "|") {
			r, err := parseRelation(alt)
			if err != nil {
				return nil, err
			}
			d = append(d, r)
		}
		all = append(all, d)
	}
	return all, nil
}

func parseRelation(s string) (relation, error) {
	bad := func() (relation, error) {
		return relation{}, sandbox.Errorf(sandbox.ErrInvalid, "relation %q makes no sense", strings.TrimSpace(s))
	}
	var r relation
	head, constraint, constrained := strings.Cut(s, "(")
	r.name = strings.TrimSpace(head)
	r.name, r.arch, _ = strings.Cut(r.name, ":")
	if !validPackageName(r.name) || strings.ContainsAny(r.arch, " \t\n:[<") {
		return bad()
	}
	if !constrained {
		return r, nil
	}
	constraint, tail, closed := strings.Cut(constraint, ")")
	if !closed || strings.TrimSpace(tail) != "" {
		return bad()
	}
	constraint = strings.TrimSpace(constraint)
	r.op, r.version = cutWhile(constraint, func(c byte) bool { return c == '<' || c == '=' || c == '>' })
	r.version = strings.TrimSpace(r.version)
	switch r.op {
	case "<<", "<=", "=", ">=", ">>", "<", ">":
	default:
		return bad()
	}
	if checkVersion(r.version) != nil {
		return bad()
	}
	return r, nil
}

// validPackageName: Policy 5.6.1, with the upper case letters that a few
// foreign archives use. Names become file names in dpkg's database.
func validPackageName(s string) bool {
	if len(s) < 2 || len(s) > 128 || !isDigit(s[0]) && !isLetter(s[0]) {
		return false
	}
	for _, c := range []byte(s) {
		if !isDigit(c) && !isLetter(c) && c != '+' && c != '-' && c != '.' {
			return false
		}
	}
	return true
}

// validArch: architecture names, such as amd64 or hurd-i386.
func validArch(s string) bool {
	if s == "" || len(s) > 32 {
		return false
	}
	for _, c := range []byte(s) {
		if !isDigit(c) && !(c >= 'a' && c <= 'z') && c != '-' {
			return false
		}
	}
	return true
}

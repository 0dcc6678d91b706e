package debian

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"berth.dev/internal/sandbox"
)

// resolver picks packages: everything essential or required, what was asked
// for, and the closure of their dependencies. It knows only the newest version
// of each package and never goes back on a choice; that is enough for a base
// system, and it says so plainly when it is not.
type resolver struct {
	newest    map[string]*candidate
	providers map[string][]provider // of virtual packages
	chosen    map[string]*candidate
	why       map[string]string // who needs a chosen package
	queue     []*candidate
}

type provider struct {
	pkg     *candidate
	version string // "" for an unversioned Provides
}

// universe collects the newest version of each package. Two archives with the
// same version: the first one wins.
type universe map[string]*candidate

func (u universe) add(c candidate) {
	if old := u[c.Name]; old == nil || CompareVersions(c.Version, old.Version) > 0 {
		u[c.Name] = &c
	}
}

// resolve returns the chosen packages sorted by name.
func resolve(u universe, include []string) ([]Package, error) {
	r := resolver{newest: u, providers: map[string][]provider{}, chosen: map[string]*candidate{}, why: map[string]string{}}
	if err := r.findProviders(); err != nil {
		return nil, err
	}
	if err := r.seed(include); err != nil {
		return nil, err
	}
	for len(r.queue) > 0 {
		p := r.queue[0]
		r.queue = r.queue[1:]
		for _, field := range []string{p.preDepends, p.depends} {
			if err := r.require(p, field); err != nil {
				return nil, err
			}
		}
	}
	var all []Package
	for _, name := range slices.Sorted(maps.Keys(r.chosen)) {
		p := r.chosen[name]
		if q := r.clash(p); q != nil {
			return nil, sandbox.Errorf(sandbox.ErrInvalid, "packages %s (%s) and %s (%s) exclude each other", p.Name, r.why[p.Name], q.Name, r.why[q.Name])
		}
		all = append(all, p.Package)
	}
	return all, nil
}

// findProviders parses the Provides of all packages.
func (r *resolver) findProviders() error {
	for _, name := range slices.Sorted(maps.Keys(r.newest)) {
		p := r.newest[name]
		if p.provides == "" {
			continue
		}
		provides, err := parseRelations(p.provides)
		if err != nil {
			return fmt.Errorf("package %s: Provides: %w", p.Name, err)
		}
		for _, d := range provides {
			if len(d) == 1 && (d[0].op == "" || d[0].op == "=") {
				r.providers[d[0].name] = append(r.providers[d[0].name], provider{p, d[0].version})
			}
		}
	}
	// The best first: Debian ranks them by priority; the name makes it certain.
	for _, ps := range r.providers {
		slices.SortFunc(ps, func(a, b provider) int {
			return cmp.Or(cmp.Compare(rank(a.pkg.priority), rank(b.pkg.priority)), cmp.Compare(a.pkg.Name, b.pkg.Name))
		})
	}
	return nil
}

func rank(priority string) int {
	if i := slices.Index([]string{"required", "important", "standard", "optional", "extra"}, priority); i >= 0 {
		return i
	}
	return 5
}

// seed chooses what is there without being depended on, all of it before any
// dependency is looked at: an alternative that is there anyway is preferred.
func (r *resolver) seed(include []string) error {
	for _, name := range slices.Sorted(maps.Keys(r.newest)) {
		if p := r.newest[name]; p.essential || p.priority == "required" {
			r.choose(p, "essential or required")
		}
	}
	for _, name := range include {
		p := r.newest[name]
		if p == nil {
			return sandbox.Errorf(sandbox.ErrUnavailable, "the archive has no package %s", name)
		}
		r.choose(p, "asked for")
	}
	return nil
}

func (r *resolver) choose(p *candidate, why string) {
	if r.chosen[p.Name] == nil {
		r.chosen[p.Name] = p
		r.why[p.Name] = why
		r.queue = append(r.queue, p)
	}
}

// require chooses what a Depends or Pre-Depends field of p needs.
func (r *resolver) require(p *candidate, field string) error {
	deps, err := parseRelations(field)
	if err != nil {
		return fmt.Errorf("package %s: Depends: %w", p.Name, err)
	}
	for _, d := range deps {
		if slices.ContainsFunc(d, r.satisfied) {
			continue
		}
		best := r.best(d)
		if best == nil {
			return sandbox.Errorf(sandbox.ErrUnavailable, "package %s %s (%s) depends on %q, which nothing in the archive satisfies", p.Name, p.Version, r.why[p.Name], d).
				WithHint("the mirror may be incomplete or in the middle of an update")
		}
		r.choose(best, "needed by "+p.Name)
	}
	return nil
}

// satisfied reports whether something that was chosen meets a relation.
func (r *resolver) satisfied(rel relation) bool {
	if p := r.chosen[rel.name]; p != nil && meets(p, p.Version, rel) {
		return true
	}
	for _, v := range r.providers[rel.name] {
		if r.chosen[v.pkg.Name] == v.pkg && v.meets(rel) {
			return true
		}
	}
	return false
}

// best returns the package to choose for a dependency: the first alternative
// that exists and excludes nothing chosen, a real package before a provider.
func (r *resolver) best(d dependency) *candidate {
	for _, rel := range d {
		if p := r.newest[rel.name]; p != nil && meets(p, p.Version, rel) && r.clash(p) == nil {
			return p
		}
		for _, v := range r.providers[rel.name] {
			if v.meets(rel) && r.clash(v.pkg) == nil {
				return v.pkg
			}
		}
	}
	return nil
}

// meets reports whether a package in a version meets a relation to its name.
// Every architecture qualifier but the package's own and "any" means another
// machine's package.
func meets(p *candidate, version string, rel relation) bool {
	if rel.arch != "" && rel.arch != "any" && rel.arch != p.Arch {
		return false
	}
	return rel.op == "" || version != "" && relationHolds(version, rel.op, rel.version)
}

func (v provider) meets(rel relation) bool { return meets(v.pkg, v.version, rel) }

// clash returns a chosen package that p conflicts with or breaks, or that does
// so with p; nil when there is none.
func (r *resolver) clash(p *candidate) *candidate {
	for _, name := range slices.Sorted(maps.Keys(r.chosen)) {
		q := r.chosen[name]
		if q != p && (excludes(p, q) || excludes(q, p)) {
			return q
		}
	}
	return nil
}

// excludes reports whether p says that it conflicts with or breaks q. A field
// that cannot be parsed excludes nothing here: dpkg has the last word.
func excludes(p, q *candidate) bool {
	for _, field := range []string{p.conflicts, p.breaks} {
		if field == "" {
			continue
		}
		rels, _ := parseRelations(field)
		for _, d := range rels {
			for _, rel := range d {
				if rel.name == q.Name && meets(q, q.Version, rel) || providesOf(q, rel) {
					return true
				}
			}
		}
	}
	return false
}

func providesOf(q *candidate, rel relation) bool {
	if q.provides == "" {
		return false
	}
	provides, _ := parseRelations(q.provides)
	for _, d := range provides {
		if d[0].name == rel.name && (provider{q, d[0].version}).meets(rel) {
			return true
		}
	}
	return false
}

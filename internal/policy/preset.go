package policy

import (
	"fmt"
	"slices"
	"strings"
)

// Names of the presets, from the widest to the narrowest.
const (
	PresetOpen     = "open"     // every public address
	PresetBalanced = "balanced" // what developers' tools reach
	PresetLocked   = "locked"   // nothing but what the agent's profile adds

	// DefaultPreset holds where nobody chose one.
	DefaultPreset = PresetBalanced
)

// presets are ordered, the widest first.
var presets = []string{PresetOpen, PresetBalanced, PresetLocked}

// Presets returns the names of the presets, the widest first.
func Presets() []string { return slices.Clone(presets) }

// Narrower returns that of two presets that allows less. A name that is none
// counts as the narrowest of all.
func Narrower(a, b string) string {
	if rank(a) >= rank(b) {
		return a
	}
	return b
}

func rank(name string) int {
	if i := slices.Index(presets, name); i >= 0 {
		return i
	}
	return len(presets)
}

// Preset returns the rules of a preset, denies first.
func Preset(name string) ([]Rule, error) {
	var allowed []group
	switch name {
	case PresetOpen:
		allowed = everything
	case PresetBalanced:
		allowed = slices.Concat(models, codeHosts, packages, containers, archives, tools)
	case PresetLocked:
	default:
		return nil, fmt.Errorf("there is no preset %s: they are %s", quote(name), strings.Join(presets, ", "))
	}
	var rules []Rule
	for _, g := range resolvers {
		rules = append(rules, g.rules(Deny, name)...)
	}
	for _, g := range allowed {
		rules = append(rules, g.rules(Allow, name)...)
	}
	return rules, nil
}

// group is places that belong together and are treated alike.
type group struct {
	places string // separated by white space; {REGION} stands for each of regions
	ports  string // "": every port
	// methods and paths, separated by white space, narrow what may be asked;
	// connections to such a place are looked at.
	methods, paths string
	regions        string
}

// rules panics on what does not parse: the data is part of the program, and a
// test reads all of it.
func (g group) rules(v Verdict, preset string) []Rule {
	var rules []Rule
	for _, place := range g.expand() {
		if strings.Contains(place, ":") {
			place = "[" + place + "]" // IPv6
		}
		if g.ports != "" {
			place += ":" + g.ports
		}
		r, err := ParseRule(v, place)
		if err != nil {
			panic(err)
		}
		r.Methods, r.Paths = strings.Fields(g.methods), strings.Fields(g.paths)
		if r, err = r.Clean(); err != nil {
			panic(err)
		}
		r.Scope, r.Preset = ScopePreset, preset
		rules = append(rules, r)
	}
	return rules
}

func (g group) expand() []string {
	const slot = "{REGION}"
	var places []string
	for place := range strings.FieldsSeq(g.places) {
		if !strings.Contains(place, slot) {
			places = append(places, place)
			continue
		}
		for region := range strings.FieldsSeq(g.regions) {
			places = append(places, strings.ReplaceAll(place, slot, region))
		}
	}
	return places
}

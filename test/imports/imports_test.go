// Package imports holds the import graph of the tree: who may know whom, and
// why. A package that is not in the graph may not exist.
package imports

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "berth.dev/"

// graph says for each package which others of the tree it may import. Reading
// it from top to bottom is reading the architecture from the inside out.
var graph = map[string]string{
	// Vocabulary and small tools: they know nothing.
	"internal/sandbox":    "",
	"internal/atomicfile": "",
	"internal/unwind":     "",
	"internal/failpoint":  "",
	"internal/version":    "",

	// Pure decisions.
	"internal/policy": "",
	"internal/agent":  "internal/sandbox",

	// What is decided, as files; and what was done, as a log.
	"internal/policyfile": "internal/policy internal/sandbox internal/atomicfile internal/failpoint",
	"internal/config":     "internal/sandbox internal/service",
	"internal/audit":      "internal/sandbox internal/atomicfile internal/failpoint",

	// The user's secrets. Of what may import it, secrets_test.go says what may
	// look inside them.
	"internal/secret":  "internal/sandbox internal/atomicfile internal/failpoint",
	"internal/service": "internal/policy internal/sandbox",

	// The host's folders, and one sandbox's.
	"internal/hostdir": "internal/sandbox",
	"internal/bundle":  "internal/sandbox internal/atomicfile internal/failpoint internal/unwind",

	// Parts: siblings do not know each other; the supervisor joins them.
	"internal/unprivileged":                    "internal/sandbox",
	"internal/engine":                          "internal/sandbox",
	"internal/engine/gvisor":                   "internal/engine internal/engine/driver internal/sandbox internal/unwind internal/engine/gvisor/programs internal/engine/squash",
	"internal/engine/gvisor/programs":          "",
	"internal/engine/gvisor/programs/generate": "internal/atomicfile internal/engine/gvisor/programs",
	"internal/engine/all":                      "internal/engine internal/engine/gvisor internal/engine/microvm",
	// Its guests' kernel is a package of the distribution's, verified like the
	// templates'; its parts are its own.
	"internal/engine/microvm":          "internal/engine internal/engine/driver internal/engine/squash internal/engine/microvm/... internal/atomicfile internal/sandbox internal/unwind !internal/engine/microvm/init",
	"internal/engine/microvm/bootapi":  "",
	"internal/engine/microvm/ext4":     "",
	"internal/engine/microvm/init":     "internal/engine/microvm/bootapi",
	"internal/engine/microvm/kernel":   "internal/debian internal/engine/microvm/bootapi internal/atomicfile internal/sandbox",
	"internal/engine/driver":           "internal/engine internal/sandbox",
	"internal/engine/squash":           "",
	"internal/engine/enginetest":       "internal/engine internal/sandbox",
	"internal/engine/enginetest/probe": "",
	"internal/image":                   "internal/sandbox internal/atomicfile internal/unwind internal/failpoint internal/image/erofs",
	"internal/image/erofs":             "",
	"internal/debian":                  "internal/sandbox internal/atomicfile",
	"internal/debian/debiantest":       "",
	"internal/workspace":               "internal/sandbox",
	"internal/netstack":                "internal/sandbox",
	"internal/netstack/netstacktest":   "internal/netstack",
	"internal/egress":                  "internal/policy internal/sandbox internal/audit internal/egress/...",
	"internal/egress/clienthello":      "",
	"internal/egress/intercept":        "",
	"internal/credential":              "internal/secret internal/service internal/sandbox internal/egress/intercept",
	"internal/signin":                  "internal/credential internal/egress/intercept internal/secret internal/service internal/sandbox internal/atomicfile",
	"internal/guestbin":                "internal/atomicfile internal/sandbox",

	// The guest: what runs inside knows only the words it shares with the host.
	"internal/guestapi":          "",
	"internal/guestapi/termmode": "",
	"internal/guestapi/client":   "internal/guestapi internal/sandbox",
	"internal/guest":             "internal/guestapi internal/guest/...",
	"internal/guest/guesttest":   "internal/guestapi/... internal/guestapi internal/guest internal/sandbox",
	"internal/guest/account":     "internal/guestapi",
	"internal/guest/browse":      "internal/guestapi",
	"internal/guest/docker":      "internal/guestapi internal/guest/...",
	"internal/guest/netports":    "internal/guestapi",
	"internal/guest/reap":        "",
	"internal/guest/reclaim":     "internal/guestapi",
	"internal/guest/ring":        "",
	"internal/guest/runc":        "internal/guestapi internal/guest/trust",
	"internal/guest/trust":       "internal/guestapi",
	"internal/guest/session":     "internal/guestapi internal/guestapi/termmode internal/guest/...",
	"internal/guest/setup":       "internal/guestapi internal/guest/...",
	"internal/guest/sshd":        "internal/guestapi internal/guest/...",
	"cmd/berth-guest":            "internal/guest",

	// Before the user's SSH agent; cli joins it to the guest's sessions.
	"internal/sshagent": "",

	// Processes: the only packages that join parts.
	"internal/control":    "internal/sandbox internal/engine internal/secret",
	"internal/supervisor": "internal/... !internal/cli !internal/manager !internal/image/erofs !internal/engine/gvisor !internal/engine/microvm !internal/guest",
	"internal/manager":    "internal/agent internal/atomicfile internal/audit internal/bundle internal/config internal/policyfile internal/control internal/engine internal/guestapi/client internal/hostdir internal/image internal/sandbox internal/secret internal/supervisor internal/unprivileged",
	"internal/template":   "internal/...  !internal/cli !internal/engine/gvisor !internal/engine/microvm !internal/guest",
	"internal/terminal":   "internal/guestapi internal/guestapi/termmode internal/sandbox",
	"internal/cli":        "internal/... !internal/engine/gvisor !internal/engine/microvm !internal/guest",
	"cmd/berth":           "internal/cli internal/cli/... internal/engine internal/engine/all internal/hostdir internal/manager internal/supervisor",
}

// forbidden are packages outside the tree that must stay away from some of it.
var forbidden = []struct{ from, path, why string }{
	{"internal/guest", "gvisor.dev/", "the guest's binary is small and starts fast"},
	{"cmd/berth-guest", "gvisor.dev/", "the guest's binary is small and starts fast"},
	{"internal/policy", "net/http", "decisions are pure"},
	{"internal/agent", "os/exec", "the table is data"},
	{"internal/sandbox", "os/exec", "the vocabulary does nothing"},
}

type pkg struct {
	ImportPath string
	Imports    []string
}

func TestGraph(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range list(t) {
		from := strings.TrimPrefix(p.ImportPath, module)
		if strings.HasPrefix(from, "test/") {
			continue // tests of the whole may know everything
		}
		seen[from] = true
		allowed, known := lookup(from)
		if !known {
			t.Errorf("%s is not in the import graph: say what it may import", from)
			continue
		}
		for _, imp := range p.Imports {
			to, ours := strings.CutPrefix(imp, module)
			if ours && !matches(allowed, to) {
				t.Errorf("%s imports %s, which the graph does not allow", from, to)
			}
			for _, f := range forbidden {
				if (from == f.from || strings.HasPrefix(from, f.from+"/")) && (imp == f.path || strings.HasPrefix(imp, f.path) && strings.HasSuffix(f.path, "/")) {
					t.Errorf("%s imports %s: %s", from, imp, f.why)
				}
			}
		}
	}
	for name := range graph {
		if !seen[name] {
			t.Errorf("the graph has %s, the tree has not", name)
		}
	}
}

// lookup finds a package's line; a folder below internal/cli or
// internal/template belongs to it.
func lookup(from string) (string, bool) {
	if a, ok := graph[from]; ok {
		return a, true
	}
	for _, parent := range []string{"internal/cli", "internal/template"} {
		if strings.HasPrefix(from, parent+"/") {
			return graph[parent], true
		}
	}
	return "", false
}

// matches reports whether a list of patterns takes in a package: a path, or a
// path and "/..." for all below it; "!" before a pattern excludes.
func matches(patterns, to string) bool {
	ok := false
	for p := range strings.FieldsSeq(patterns) {
		p, not := strings.CutPrefix(p, "!")
		below, tree := strings.CutSuffix(p, "/...")
		if p == to || tree && strings.HasPrefix(to, below+"/") {
			ok = !not
		}
	}
	return ok
}

func list(t *testing.T) []pkg {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", module+"...").Output()
	if err != nil {
		var ee *exec.ExitError
		if errors.As(err, &ee) {
			t.Fatalf("go list: %v\n%s", err, ee.Stderr)
		}
		t.Fatal(err)
	}
	var all []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if len(all) < 10 {
		t.Fatalf("go list found %d packages", len(all))
	}
	slices.SortFunc(all, func(a, b pkg) int { return strings.Compare(a.ImportPath, b.ImportPath) })
	return all
}

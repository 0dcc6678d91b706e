package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"berth.dev/internal/audit"
)

// auditTime bounds the wait for a line that is written by another process.
const auditTime = 10 * time.Second

// attack is one way out. It has to work where nothing guards, and to fail in a
// sandbox, where it leaves a line.
type attack struct {
	name string
	// cmd is run by both. "attacker" as its first word is the test's program.
	cmd []string
	// direct replaces cmd where nothing guards, if what the guest has to name
	// is called otherwise there.
	direct []string
	root   bool // of the guest
	// hit is what the other end notes when the attack gets there.
	hit string
	// line is what the audit log has of the try; nil where it has nothing to
	// say, as nothing went to the network.
	line func(audit.Event) bool
}

// denied matches a line of a kind, or of any, about a name or an address.
func denied(kind audit.Kind, place string) func(audit.Event) bool {
	return func(e audit.Event) bool {
		return (kind == "" || e.Kind == kind) && e.Verdict == audit.Deny && (place == "" || e.Name == place || e.Address == place)
	}
}

// because is denied, and the reason has a text in it.
func because(kind audit.Kind, place, reason string) func(audit.Event) bool {
	match := denied(kind, place)
	return func(e audit.Event) bool { return match(e) && strings.Contains(e.Reason, reason) }
}

// captive is a sandbox in a world, with the attacker in its workspace.
type captive struct {
	w        *world
	name, ws string
	log      string // folder of its audit log
}

// capture makes a sandbox.
func (w *world) capture(t *testing.T, preset string, options ...string) *captive {
	t.Helper()
	c := &captive{w: w, name: w.u.fresh(t), ws: w.u.workspace(t)}
	data, err := os.ReadFile(program(t, "attacker"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(c.ws, "attacker"), data, 0o755); err != nil {
		t.Fatal(err)
	}
	args := append([]string{"create", "-q", "--name", c.name, "--preset", preset}, options...)
	w.must(t, c.ws, append(args, "shell", c.ws)...)
	var known []struct{ ID string }
	if err := json.Unmarshal([]byte(w.must(t, c.ws, "inspect", c.name)), &known); err != nil || len(known) != 1 {
		t.Fatalf("inspect: %v, %+v", err, known)
	}
	c.log = filepath.Join(w.u.berthHome, "data", "audit", known[0].ID)
	t.Cleanup(func() {
		if r, err := audit.Verify(c.log); err != nil {
			t.Errorf("verify the audit log: %v, %+v", err, r)
		}
	})
	return c
}

// allow adds a rule for this sandbox alone.
func (c *captive) allow(t *testing.T, args ...string) {
	t.Helper()
	c.w.must(t, c.ws, append([]string{"policy", "allow", "--sandbox", c.name}, args...)...)
}

func (c *captive) exec(t *testing.T, root bool, cmd ...string) result {
	t.Helper()
	args := []string{"exec"}
	if root {
		args = append(args, "-u", "root")
	}
	if cmd[0] == "attacker" {
		cmd = append([]string{filepath.Join(c.ws, "attacker")}, cmd[1:]...)
	}
	return c.w.berth(t, c.ws, append(append(args, c.name), cmd...)...)
}

// unguarded runs a command where nothing guards.
func (w *world) unguarded(t *testing.T, cmd []string) result {
	t.Helper()
	if cmd[0] == "attacker" {
		cmd = append([]string{program(t, "attacker")}, cmd[1:]...)
	}
	return w.direct(t, cmd...)
}

// survives runs attacks against a sandbox, each as a test.
func (c *captive) survives(t *testing.T, attacks ...attack) {
	t.Helper()
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) { c.survive(t, a) })
	}
}

func (c *captive) survive(t *testing.T, a attack) {
	t.Helper()
	direct := a.direct
	if direct == nil {
		direct = a.cmd
	}
	before := c.w.count(a.hit)
	if r := c.w.unguarded(t, direct); r.code != 0 || !strings.Contains(r.out, secret) {
		t.Fatalf("it does not work where nothing guards: %+v", r)
	}
	if a.hit != "" && c.w.count(a.hit) == before {
		t.Fatalf("where nothing guards nobody noted %q", a.hit)
	}
	before = c.w.count(a.hit)
	last := c.last(t)
	if r := c.exec(t, a.root, a.cmd...); r.code == 0 || strings.Contains(r.out, secret) {
		t.Errorf("it works in a sandbox: %+v", r)
	} else {
		t.Logf("status %d: %.200s %.200s", r.code, r.out, r.err)
	}
	if a.hit != "" && c.w.count(a.hit) != before {
		t.Errorf("from the sandbox %q was reached", a.hit)
	}
	if a.line != nil {
		c.line(t, last, a.line)
	}
}

// last is the number of the newest line of the log.
func (c *captive) last(t *testing.T) uint64 {
	t.Helper()
	var seq uint64
	if err := audit.Read(c.log, audit.Filter{Last: 1}, func(e audit.Event) error { seq = e.Seq; return nil }); err != nil {
		t.Fatal(err)
	}
	return seq
}

var errFound = errors.New("found")

// line waits for one after a number.
func (c *captive) line(t *testing.T, after uint64, match func(audit.Event) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), auditTime)
	defer cancel()
	var seen []string
	err := audit.Follow(ctx, c.log, audit.Filter{After: after}, func(e audit.Event) error {
		if match(e) {
			return errFound
		}
		seen = append(seen, e.Line())
		return nil
	})
	if !errors.Is(err, errFound) {
		t.Errorf("no such line in the audit log, but (%v)\n%s", err, strings.Join(seen, "\n"))
	}
}

// have fails where a program of the host's is missing.
func have(t *testing.T, name string) string {
	t.Helper()
	for _, dir := range slices.Concat(filepath.SplitList(os.Getenv("PATH")), []string{"/usr/sbin", "/sbin"}) {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path
		}
	}
	t.Fatalf("%s is not installed; scripts/test installs what tests need", name)
	return ""
}

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
)

// isolation is an engine on this machine.
type isolation struct {
	engine string
	how    string // by what its guests' instructions are executed
	// emulated: they are translated, so that fewer runs have to do.
	emulated bool
	missing  error // why it cannot be measured
}

// String is its name in a row, with the acceleration that the figures are of.
func (i isolation) String() string { return fmt.Sprintf("%s (%s)", i.engine, i.how) }

// runs is how often something is measured that is measured n times where it is
// quick.
func (i isolation) runs(n int) int {
	if i.emulated {
		return max(min(n, 5), n/5)
	}
	return n
}

// isolations are the engines of the binary: its own doctor knows them.
func (b *bench) isolations() ([]isolation, error) {
	out, err := exec.Command(b.berth, "doctor", "--json").Output()
	var status *exec.ExitError
	if err != nil && !errors.As(err, &status) {
		return nil, err
	}
	var findings []struct{ Check, Says string }
	if err := json.Unmarshal(out, &findings); err != nil {
		return nil, fmt.Errorf("read berth doctor: %w", err)
	}
	all := []isolation{{engine: "gvisor", how: "systrap, no virtualisation"}}
	for _, f := range findings {
		name, ok := strings.CutPrefix(f.Check, "engine ")
		if !ok {
			continue
		}
		i := isolation{engine: name}
		i.how, _, _ = strings.Cut(f.Says, ": ")
		i.emulated = strings.Contains(i.how, "emulated")
		if !i.emulated && !strings.Contains(i.how, "accelerated") {
			i.missing = errors.New(f.Says)
		}
		all = append(all, i)
	}
	return all, nil
}

// eachEngine measures an engine after the other and prints a row for each, or
// why there is none; blank are the cells of such a row.
func (b *bench) eachEngine(blank int, measure func(isolation) error) error {
	for _, i := range b.engines {
		if i.missing != nil {
			fmt.Printf("| %s: %v |%s\n", i.engine, i.missing, strings.Repeat(" |", blank))
			continue
		}
		if err := measure(i); err != nil {
			return fmt.Errorf("%s: %w", i.engine, err)
		}
	}
	return nil
}

// filesOf is how many small files are made, looked at, read and removed.
const filesOf = 2000

// work does that in a folder and prints the milliseconds of each part.
const work = `import os, sys, time
top, n = sys.argv[1] + "/bench-files", int(sys.argv[2])
paths = [f"{top}/{i % 40}/{i}" for i in range(n)]
def make():
    for i in range(40): os.makedirs(f"{top}/{i}")
    for p in paths:
        with open(p, "w") as f: f.write("x" * 1000)
def look():
    for d, _, names in os.walk(top):
        for name in names: os.stat(d + "/" + name)
def read():
    for p in paths:
        with open(p) as f: f.read()
def remove():
    for p in paths: os.unlink(p)
    for i in range(40): os.rmdir(f"{top}/{i}")
    os.rmdir(top)
for part in make, look, read, remove:
    begun = time.monotonic()
    part()
    print(round((time.monotonic() - begun) * 1000), end=" ")
`

// files measures the guest's own files and those of a workspace, by the same
// program, in the same sandbox.
func (b *bench) files() error {
	fmt.Printf("| %d small files, ms | make | look | read | remove |\n|---|---|---|---|---|\n", filesOf)
	return b.eachEngine(4, func(i isolation) error {
		name, err := b.start(i, 0)
		if err != nil {
			return err
		}
		defer b.remove(name)
		for _, place := range []struct{ what, dir string }{{"the sandbox's own", "/var/tmp"}, {"of the workspace", b.dir}} {
			out, err := exec.Command(b.berth, "exec", name, "python3", "-c", work, place.dir, fmt.Sprint(filesOf)).CombinedOutput()
			if err != nil {
				return fmt.Errorf("%w\n%s", err, out)
			}
			fmt.Printf("| %s, %s | %s |\n", i, place.what, strings.Join(strings.Fields(string(out)), " | "))
		}
		return nil
	})
}

// Command bench measures Berth beside what else this machine offers, all in
// one run, and prints a table in Markdown: starts, commands in a running
// sandbox, files, memory, of each engine; many sandboxes, the network. Single figures of one machine mean little;
// the ratios in one table do.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

func main() {
	berth := flag.String("berth", "berth", "the binary to measure")
	n := flag.Int("n", 50, "counted runs of each short measurement")
	many := flag.Int("many", 100, "sandboxes of the measurement of many")
	rounds := flag.Int("rounds", 3, "rounds of each measurement of the network")
	only := flag.String("only", "", "measure one part alone: starts, execs, files, many, memory or network")
	flag.Parse()
	if err := run(*berth, *only, *n, *many, *rounds); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bench is one run of the whole.
type bench struct {
	berth string
	dir   string // an empty workspace
	n     int
	// engines are those of the binary; the first is the default, by which the
	// parts are measured that are not of engines.
	engines []isolation
}

func run(berth, only string, n, many, rounds int) error {
	path, err := exec.LookPath(berth)
	if err != nil {
		return err
	}
	if path, err = filepath.Abs(path); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "berth-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := &bench{berth: path, dir: dir, n: n}
	fmt.Printf("%s, %d CPUs, %s, %s\n\n", host(), runtime.NumCPU(), time.Now().Format(time.DateOnly), b.version())
	if b.engines, err = b.isolations(); err != nil {
		return err
	}
	if err := b.warm(); err != nil {
		return err
	}
	done := false
	for _, part := range []struct {
		name    string
		measure func() error
	}{
		{"starts", b.starts}, {"execs", b.execs}, {"files", b.files}, {"many", func() error { return b.many(many) }}, {"memory", b.memory},
		{"network", func() error { return b.network(rounds) }},
	} {
		if only != "" && only != part.name {
			continue
		}
		if err := part.measure(); err != nil {
			return err
		}
		fmt.Println()
		done = true
	}
	if !done {
		return fmt.Errorf("there is no part %q", only)
	}
	return nil
}

func host() string {
	data, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	for line := range strings.Lines(string(data)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

func (b *bench) version() string {
	out, err := exec.Command(b.berth, "version").Output()
	if err != nil {
		return "berth"
	}
	return strings.TrimSpace(strings.SplitN(string(out), "\n", 2)[0])
}

// warm builds the template, and has engines fetch what they need, so that no
// measurement does.
func (b *bench) warm() error {
	for _, i := range b.engines {
		if i.missing != nil {
			continue
		}
		cmd := b.newSandbox(i)
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("warm up: %w", err)
		}
	}
	return nil
}

// newSandbox is the command that makes a sandbox of an engine, runs true in it
// and removes it.
func (b *bench) newSandbox(i isolation) *exec.Cmd {
	return exec.Command(b.berth, "run", "-q", "--rm", "--engine", i.engine, "shell", b.dir, "--", "-c", "true")
}

// peers are other ways to run `true`, weakest isolation first; those that are
// not there are named as such.
func (b *bench) peers() []peer {
	return []peer{
		{"fork and exec on the host", func() *exec.Cmd { return exec.Command("/bin/true") }},
		{"bwrap, new namespaces", func() *exec.Cmd {
			return exec.Command("bwrap", "--unshare-all", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "/bin/true")
		}},
		{"docker run --rm", func() *exec.Cmd {
			return exec.Command("docker", "run", "--rm", "--pull", "never", "debian:stable-slim", "true")
		}},
	}
}

type peer struct {
	name string
	cmd  func() *exec.Cmd
}

// usable reports whether a peer works here at all, and why not.
func (p peer) usable() error {
	cmd := p.cmd()
	if errors.Is(cmd.Err, exec.ErrNotFound) {
		return errors.New("not installed")
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		return fmt.Errorf("does not work here: %s", line)
	}
	return nil
}

func (b *bench) starts() error {
	fmt.Println("| new, to a finished `true` | p50 ms | p95 ms | p99 ms | to Berth |")
	fmt.Println("|---|---|---|---|---|")
	var own samples
	err := b.eachEngine(4, func(i isolation) error {
		s, err := sample(i.runs(b.n), func() *exec.Cmd { return b.newSandbox(i) })
		if err != nil {
			return err
		}
		if own == nil {
			own = s
		}
		fmt.Printf("| berth run --rm shell, %s | %s | %.2f |\n", i, s, s.at(50).Seconds()/own.at(50).Seconds())
		return nil
	})
	if err != nil {
		return err
	}
	return b.besides(own)
}

// besides measures the peers and prints a row for each.
func (b *bench) besides(own samples) error {
	for _, p := range b.peers() {
		if err := p.usable(); err != nil {
			fmt.Printf("| %s | %v | | | |\n", p.name, err)
			continue
		}
		s, err := sample(b.n, p.cmd)
		if err != nil {
			return err
		}
		fmt.Printf("| %s | %s | %.2f |\n", p.name, s, s.at(50).Seconds()/own.at(50).Seconds())
	}
	return nil
}

func (b *bench) execs() error {
	fmt.Println("| in a running sandbox | p50 ms | p95 ms | p99 ms |")
	fmt.Println("|---|---|---|---|")
	err := b.eachEngine(3, func(i isolation) error {
		name, err := b.start(i, 0)
		if err != nil {
			return err
		}
		defer b.remove(name)
		s, err := sample(b.n, func() *exec.Cmd { return exec.Command(b.berth, "exec", name, "true") })
		if err != nil {
			return err
		}
		fmt.Printf("| berth exec NAME true, %s | %s |\n", i, s)
		return nil
	})
	if err != nil {
		return err
	}
	v, err := sample(b.n, func() *exec.Cmd { return exec.Command(b.berth, "version") })
	if err != nil {
		return err
	}
	fmt.Printf("| berth version, for comparison | %s |\n", v)
	return nil
}

// start makes the n-th sandbox of an engine that runs at the same time.
func (b *bench) start(i isolation, n int) (string, error) {
	name := fmt.Sprintf("bench-%d-%d", os.Getpid(), n)
	out, err := exec.Command(b.berth, "create", "-q", "--name", name, "--engine", i.engine, "shell", b.dir).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("create a sandbox: %w\n%s", err, out)
	}
	return name, nil
}

func (b *bench) remove(name string) {
	if out, err := exec.Command(b.berth, "rm", "-f", name).CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "bench: remove %s: %v\n%s", name, err, out)
	}
}

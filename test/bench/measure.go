package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// samples are durations, sorted.
type samples []time.Duration

// at returns a percentile by nearest rank.
func (s samples) at(p int) time.Duration {
	i := (len(s)*p + 99) / 100
	return s[max(0, min(len(s), i)-1)]
}

// String is three cells of a table, in milliseconds.
func (s samples) String() string {
	ms := func(p int) string { return fmt.Sprintf("%.1f", float64(s.at(p).Microseconds())/1000) }
	return ms(50) + " | " + ms(95) + " | " + ms(99)
}

// sample runs a command n times, after one run that is not counted.
func sample(n int, cmd func() *exec.Cmd) (samples, error) {
	var s samples
	for i := range n + 1 {
		took, err := timed(cmd())
		if err != nil {
			return nil, err
		}
		if i > 0 {
			s = append(s, took)
		}
	}
	slices.Sort(s)
	return s, nil
}

func timed(cmd *exec.Cmd) (time.Duration, error) {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	begun := time.Now()
	err := cmd.Run()
	took := time.Since(begun)
	if err != nil {
		return 0, fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out.Bytes())
	}
	return took, nil
}

// many makes n sandboxes, 1, 4 and 16 at a time.
func (b *bench) many(n int) error {
	fmt.Printf("| %d new sandboxes | seconds | a second |\n|---|---|---|\n", n)
	for _, width := range []int{1, 4, 16} {
		begun := time.Now()
		if err := b.batch(n, width); err != nil {
			return err
		}
		took := time.Since(begun).Seconds()
		fmt.Printf("| %d at a time | %.1f | %.1f |\n", width, took, float64(n)/took)
	}
	return nil
}

func (b *bench) batch(n, width int) error {
	var wg sync.WaitGroup
	next := make(chan struct{}, n)
	for range n {
		next <- struct{}{}
	}
	close(next)
	errs := make(chan error, width)
	for range width {
		wg.Go(func() {
			for range next {
				if _, err := timed(b.newSandbox(b.engines[0])); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	return <-errs
}

// memory measures the proportional set size of idle sandboxes, over all their
// processes on the host: of one alone, and of each of eight, which share the
// pages of the one binary and of their template.
func (b *bench) memory() error {
	fmt.Print("| idle sandboxes | sentry or QEMU MB | file server MB | supervisor MB | together |\n|---|---|---|---|---|\n")
	return b.eachEngine(4, b.memoryOf)
}

func (b *bench) memoryOf(i isolation) error {
	var names []string
	defer func() {
		for _, name := range names {
			b.remove(name)
		}
	}()
	for _, n := range []int{1, 8} {
		for len(names) < n {
			name, err := b.start(i, len(names))
			if err != nil {
				return err
			}
			names = append(names, name)
			if _, err := timed(exec.Command(b.berth, "exec", name, "true")); err != nil {
				return err
			}
		}
		var sum [3]float64
		for _, name := range names {
			parts, err := b.parts(name)
			if err != nil {
				return err
			}
			for i, mb := range parts {
				sum[i] += mb / float64(n)
			}
		}
		fmt.Printf("| %s, each of %d | %.1f | %.1f | %.1f | %.1f |\n", i, n, sum[0], sum[1], sum[2], sum[0]+sum[1]+sum[2])
	}
	return nil
}

// parts are the set sizes of a sandbox's kernel, file server and supervisor, in MB.
func (b *bench) parts(name string) (mb [3]float64, err error) {
	out, err := exec.Command(b.berth, "inspect", name).Output()
	if err != nil {
		return mb, err
	}
	var in []struct {
		PIDs struct {
			Supervisor int   `json:"supervisor"`
			Engine     []int `json:"engine"`
		} `json:"pids"`
	}
	if err := json.Unmarshal(out, &in); err != nil || len(in) != 1 || len(in[0].PIDs.Engine) != 2 {
		return mb, fmt.Errorf("read berth inspect: %w", err)
	}
	roots := append(in[0].PIDs.Engine, in[0].PIDs.Supervisor)
	for i, root := range roots {
		for _, pid := range tree(root, roots) {
			mb[i] += sizeOf(pid, "Pss")
		}
	}
	return mb, nil
}

// tree returns a process and its descendants, but not those of others.
func tree(pid int, others []int) []int {
	all := []int{pid}
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	for f := range strings.FieldsSeq(string(data)) {
		child, err := strconv.Atoi(f)
		if err == nil && !slices.Contains(others, child) {
			all = append(all, tree(child, others)...)
		}
	}
	return all
}

// sizeOf reads one line of a process's memory, in MB: its resident set size,
// Rss, or the proportional one, Pss.
func sizeOf(pid int, line string) float64 {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0
	}
	for l := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(l, line+":"); ok {
			kb, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kb / 1024
		}
	}
	return 0
}

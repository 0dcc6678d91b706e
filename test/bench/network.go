package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"berth.dev/test/bench/origin"
)

// Names that the origin is reached by: on this machine, and in a sandbox, where
// the settings say which of them are looked into.
const (
	localName = "localhost"
	passName  = "pass.bench.test"
	lookName  = "look.bench.test"
	lookName2 = "look2.bench.test" // served by HTTP/2
)

// Programs that are built: the client, and Berth's interception alone.
const (
	clientName = "netclient"
	aloneName  = "alone"
)

const (
	patience = 2 * time.Minute // for anything that takes seconds
	slice    = 2 * time.Second // of one measurement of a rate
	holds    = 1000            // connections whose memory is measured
	asked    = 1000            // DNS questions, of a burst of 2,000 that is answered at full speed
	refill   = 3 * time.Second // until that burst may come again
)

// network measures ways to one and the same origin: Berth's, those of other
// proxies that pass through or look into what they carry, and none.
type network struct {
	b      *bench
	rounds int

	dir, ws, home string // of all this; what the sandboxes share; Berth's own
	ca            string // file with the origin's authority
	origin        *origin.Server
	kinds         [][]*way // each with Berth's way as the last
	sandboxes     []string
	stops         []func()
}

func (b *bench) network(rounds int) error {
	n := &network{b: b, rounds: rounds}
	defer n.close()
	before := load()
	if err := n.setUp(); err != nil {
		return err
	}
	for _, part := range []func() error{n.memory, n.transfers, n.requests, n.waits, n.dns} {
		if err := part(); err != nil {
			return err
		}
		fmt.Println()
	}
	fmt.Printf("Network: %d rounds, every way in each; medians of rates, percentiles of all requests. Load average %s before, %s after.\n", rounds, before, load())
	return nil
}

// load is the machine's, of the last minute.
func load() string {
	data, _ := os.ReadFile("/proc/loadavg")
	first, _, _ := strings.Cut(string(data), " ")
	return first
}

func (n *network) setUp() (err error) {
	if n.dir, err = os.MkdirTemp("", "berth-net"); err != nil {
		return err
	}
	n.ws, n.home = filepath.Join(n.dir, "ws"), filepath.Join(n.dir, "home")
	n.ca = filepath.Join(n.ws, "origin.pem")
	// Squid, started by root, becomes somebody else.
	if err := errors.Join(os.Chmod(n.dir, 0o755), os.Mkdir(n.ws, 0o755)); err != nil {
		return err
	}
	if n.origin, err = origin.New(localName, passName, lookName, lookName2); err != nil {
		return err
	}
	if err := errors.Join(os.WriteFile(n.ca, n.origin.CA.PEM(), 0o644), n.settings()); err != nil {
		return err
	}
	for dir, program := range map[string]string{n.ws: clientName, n.dir: aloneName} {
		build := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(dir, program), "berth.dev/test/bench/"+program)
		build.Env = append(os.Environ(), "CGO_ENABLED=0") // there is no loader that both sides have
		if _, err := output(build); err != nil {
			return err
		}
	}
	return n.makeWays()
}

func (n *network) close() {
	for _, name := range n.sandboxes {
		if _, err := n.run("rm", "-f", name); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
	}
	for _, stop := range n.stops {
		stop()
	}
	if n.origin != nil {
		n.origin.Close()
	}
	if n.dir != "" {
		_ = os.RemoveAll(n.dir)
	}
}

// output is what a command prints, or why it did not work.
func output(cmd *exec.Cmd) ([]byte, error) {
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, errs.Bytes())
	}
	return out.Bytes(), nil
}

// each does something with every way that works. What fails with another's is
// no way from then on; with Berth's or none it is an error.
func (n *network) each(do func(*way) error) error {
	for _, k := range n.kinds {
		for _, w := range k {
			if w.missing != nil {
				continue
			}
			if err := do(w); err != nil {
				if w == w.to || w == w.base {
					return fmt.Errorf("%s: %w", w.name, err)
				}
				fmt.Fprintf(os.Stderr, "bench: %s: %v\n", w.name, err)
				w.missing = errors.New("did not work, see above")
			}
		}
	}
	return nil
}

// numbers has the client measure, and reads what it prints.
func (n *network) numbers(w *way, mode string, rest ...string) ([]float64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	out, err := output(n.client(ctx, w, mode, rest...))
	if err != nil {
		return nil, err
	}
	var all []float64
	for f := range strings.FieldsSeq(string(out)) {
		v, err := strconv.ParseFloat(f, 64)
		if err != nil {
			return nil, fmt.Errorf("the client prints %q", out)
		}
		all = append(all, v)
	}
	if len(all) == 0 {
		return nil, errors.New("the client prints nothing")
	}
	return all, nil
}

// rates measures in rounds, in each of which every way has its turn: what the
// machine does beside it hits all of them.
func (n *network) rates(what, mode string, width int) error {
	for range n.rounds {
		err := n.each(func(w *way) error {
			v, err := n.numbers(w, mode, strconv.Itoa(width), slice.String())
			if err == nil {
				w.rates[what] = append(w.rates[what], v[0])
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *way) rate(what string) float64 { return median(w.rates[what]) }

// cells are a rate and its ratio to Berth's.
func (w *way) cells(what string) string {
	own := w.to.rate(what)
	if own == 0 {
		return fmt.Sprintf("%.0f | -", w.rate(what))
	}
	return fmt.Sprintf("%.0f | %.2f", w.rate(what), w.rate(what)/own)
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	return v[(len(v)-1)/2]
}

// rows prints a row for each way.
func (n *network) rows(columns int, cells func(*way) string) {
	for _, k := range n.kinds {
		for _, w := range k {
			if w.missing != nil {
				fmt.Printf("| %s | %v |%s\n", w.name, w.missing, strings.Repeat(" |", columns-2))
				continue
			}
			fmt.Printf("| %s | %s |\n", w.name, cells(w))
		}
	}
}

const (
	down1, down16, up1 = "1 stream", "16 streams", "1 upload"
	small16            = "small"
)

func (n *network) transfers() error {
	for _, m := range []struct {
		what, mode string
		width      int
	}{{down1, "get", 1}, {down16, "get", 16}, {up1, "put", 1}} {
		if err := n.rates(m.what, m.mode, m.width); err != nil {
			return err
		}
	}
	fmt.Println("| HTTPS, MB/s | 1 stream | to Berth | 16 streams | to Berth | 1 upload | to Berth |")
	fmt.Println("|---|---|---|---|---|---|---|")
	n.rows(7, func(w *way) string {
		var cells []string
		for _, what := range []string{down1, down16, up1} {
			cells = append(cells, w.cells(what))
		}
		return strings.Join(cells, " | ")
	})
	return nil
}

func (n *network) requests() error {
	if err := n.rates(small16, "ask", 16); err != nil {
		return err
	}
	fmt.Println("| small answers, 16 connections | a second | to Berth |")
	fmt.Println("|---|---|---|")
	n.rows(3, func(w *way) string { return w.cells(small16) })
	return nil
}

// waits measures how long an answer takes on a connection that is open, and how
// much of it the way adds.
func (n *network) waits() error {
	const each = 1000
	for range n.rounds {
		err := n.each(func(w *way) error {
			took, err := n.numbers(w, "wait", strconv.Itoa(each))
			for _, t := range took {
				w.waits = append(w.waits, time.Duration(t))
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	for _, k := range n.kinds {
		for _, w := range k {
			slices.Sort(w.waits)
		}
	}
	fmt.Println("| small answers, one after another | p50 ms | p95 ms | p99 ms | added p50 | added p99 |")
	fmt.Println("|---|---|---|---|---|---|")
	n.rows(6, func(w *way) string {
		ms := func(d time.Duration) string { return fmt.Sprintf("%.2f", d.Seconds()*1e3) }
		return strings.Join([]string{
			ms(w.waits.at(50)), ms(w.waits.at(95)), ms(w.waits.at(99)),
			ms(w.waits.at(50) - w.base.waits.at(50)), ms(w.waits.at(99) - w.base.waits.at(99)),
		}, " | ")
	})
	return nil
}

// memory is measured first, of processes that have done nothing yet: what they
// let go of is not given back to the system at once.
func (n *network) memory() error {
	fmt.Printf("| %d open connections | MB before | MB with them | KB each |\n|---|---|---|---|\n", holds)
	cells := map[*way]string{}
	err := n.each(func(w *way) error {
		if w.pid == 0 {
			return nil
		}
		if _, err := n.numbers(w, "wait", "1"); err != nil {
			return err
		}
		before := w.resident()
		with, err := n.held(w)
		cells[w] = fmt.Sprintf("%.1f | %.1f | %.1f", before, with, (with-before)*1024/holds)
		return err
	})
	if err != nil {
		return err
	}
	for _, k := range n.kinds {
		for _, w := range k {
			if c, ok := cells[w]; ok {
				fmt.Printf("| %s | %s |\n", w.name, c)
			}
		}
	}
	return nil
}

// held is the memory with connections that are open.
func (n *network) held(w *way) (float64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := n.client(ctx, w, "hold", strconv.Itoa(holds))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return 0, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	r := bufio.NewReader(out)
	line, err := r.ReadString('\n')
	mb := w.resident()
	_ = in.Close()
	_, _ = io.Copy(io.Discard, r)
	if werr := cmd.Wait(); werr != nil || err != nil {
		return 0, fmt.Errorf("hold connections: %q, %w", line, errors.Join(err, werr))
	}
	return mb, nil
}

// resident is the memory that a way's process has, in MB: of Berth the
// supervisor, whose children run the sandbox.
func (w *way) resident() float64 {
	if w == w.to {
		return sizeOf(w.pid, "Rss")
	}
	var mb float64
	for _, pid := range tree(w.pid, nil) {
		mb += sizeOf(pid, "Rss")
	}
	return mb
}

// dns measures Berth's resolver, from inside.
func (n *network) dns() error {
	w := *n.kinds[0][len(n.kinds[0])-1]
	w.url = passName
	fmt.Println("| Berth's resolver, by UDP | answers a second |\n|---|---|")
	for _, width := range []int{1, 16} {
		var rates []float64
		for range n.rounds {
			time.Sleep(refill)
			v, err := n.numbers(&w, "dns", strconv.Itoa(asked), strconv.Itoa(width))
			if err != nil {
				return err
			}
			rates = append(rates, v[0])
		}
		fmt.Printf("| %d at a time | %.0f |\n", width, median(rates))
	}
	return nil
}

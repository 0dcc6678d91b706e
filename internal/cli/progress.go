package cli

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"berth.dev/internal/template"
	"berth.dev/internal/terminal"
)

// display shows the steps of something that takes a while: a bar for each on a
// terminal, a line for each elsewhere. It prints nothing before the first step,
// so that what needs none stays silent.
type display struct {
	out  io.Writer
	bars bool

	mu      sync.Mutex
	all     *mpb.Progress // made at the first step
	current *stepBar
	begun   time.Time
}

// progress returns a display, or nil, which shows nothing. The caller calls end.
func (a *app) progress(quiet bool) *display {
	if quiet {
		return nil
	}
	return &display{out: a.Err, bars: terminal.Is(a.Err) && a.getenv("TERM") != "dumb"}
}

// stepBar is one step on a terminal.
type stepBar struct {
	name string
	bar  *mpb.Bar

	mu      sync.Mutex
	done    int64
	total   int64
	line    string
	elapsed time.Duration // not zero once it has finished
	begun   time.Time
}

// template receives a builder's events.
func (d *display) template() template.Progress {
	if d == nil {
		return nil
	}
	return func(e template.Event) {
		d.step(e.Step)
		d.advance(e.Done, e.Total, e.Line)
		if e.Finished {
			d.finish(e.Elapsed)
		}
	}
}

// step begins a step, and ends the one before, unless it goes on with that.
func (d *display) step(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.current != nil && d.current.name == name {
		return
	}
	d.closeStep(time.Since(d.begun))
	d.begun = time.Now()
	d.current = &stepBar{name: name, begun: d.begun}
	if !d.bars {
		fmt.Fprintf(d.out, "%s\n", plain(name))
		return
	}
	if d.all == nil {
		d.all = mpb.New(mpb.WithOutput(d.out), mpb.WithWidth(24), mpb.WithRefreshRate(120*time.Millisecond))
	}
	d.current.bar = d.current.attach(d.all)
}

// advance tells how far the step has come; zeros and "" say nothing.
func (d *display) advance(done, total int64, line string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.current
	if s == nil {
		return
	}
	done, total = s.note(done, total, line)
	// Without s.mu: the bar's own goroutine may be waiting for it, to draw.
	if s.bar != nil && total > 0 {
		// Never whole by itself: only the end of the step completes its bar.
		s.bar.SetTotal(total+1, false)
		s.bar.SetCurrent(min(done, total))
	}
}

// note keeps what advance was told, and returns how far the step has come.
func (s *stepBar) note(done, total int64, line string) (int64, int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if done > 0 || total > 0 {
		s.done, s.total = done, total
	}
	if line != "" {
		s.line = line
	}
	return s.done, s.total
}

// finish ends the step.
func (d *display) finish(elapsed time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closeStep(elapsed)
}

func (d *display) closeStep(elapsed time.Duration) {
	s := d.current
	if s == nil {
		return
	}
	d.current = nil
	s.mu.Lock()
	s.elapsed = max(elapsed, time.Millisecond)
	s.mu.Unlock()
	if s.bar != nil {
		s.bar.SetTotal(-1, true)
		return
	}
	fmt.Fprintf(d.out, "%s: done%s\n", plain(s.name), s.amount())
}

// end leaves the terminal to others. A step that is still open has failed.
func (d *display) end() {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.current != nil && d.current.bar != nil {
		d.current.bar.Abort(false)
	}
	d.current = nil
	if d.all != nil {
		d.all.Wait()
		d.all = nil
	}
}

// attach makes the bar: NAME [====    ] 12 MB of 90 MB, or what it writes.
func (s *stepBar) attach(all *mpb.Progress) *mpb.Bar {
	return all.New(0, mpb.BarStyle().Lbound("[").Filler("=").Tip(">").Padding(" ").Rbound("]"),
		mpb.BarFillerMiddleware(s.onlyWithSize),
		mpb.PrependDecorators(decor.Name(plain(s.name), decor.WC{W: 34, C: decor.DindentRight})),
		mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return s.text() })),
	)
}

// onlyWithSize leaves the bar out while nobody knows how long it would be.
func (s *stepBar) onlyWithSize(base mpb.BarFiller) mpb.BarFiller {
	return mpb.BarFillerFunc(func(w io.Writer, st decor.Statistics) error {
		s.mu.Lock()
		show := s.total > 0 && s.elapsed == 0
		s.mu.Unlock()
		if !show {
			return nil
		}
		return base.Fill(w, st)
	})
}

// text is what stands behind the bar.
func (s *stepBar) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.elapsed > 0:
		return "done" + s.amount()
	case s.total > 0:
		return fmt.Sprintf(" %s of %s", size(s.done), size(s.total))
	case s.line != "":
		return fmt.Sprintf("%s  %.60s", duration(time.Since(s.begun)), plain(s.line))
	}
	return duration(time.Since(s.begun))
}

// amount is " (90 MB, 12 s)"; s.mu is held, or nobody else has s any more.
func (s *stepBar) amount() string {
	if s.total > 0 {
		return fmt.Sprintf(" (%s, %s)", size(s.total), duration(s.elapsed))
	}
	return fmt.Sprintf(" (%s)", duration(s.elapsed))
}

// duration is for people: 0.4 s, 12 s, 2 min 5 s.
func duration(d time.Duration) string {
	switch {
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%.0f s", d.Seconds())
	}
	d = d.Round(time.Second)
	return fmt.Sprintf("%d min %d s", int(d.Minutes()), int(d.Seconds())%60)
}

// size is a number of bytes for people, in powers of 1000 as disks are sold.
func size(n int64) string {
	if n < 1000 {
		return fmt.Sprintf("%d B", max(n, 0))
	}
	v, unit := float64(n), 0
	for v >= 999.5 && unit < 4 {
		v /= 1000
		unit++
	}
	if v < 9.95 {
		return fmt.Sprintf("%.1f %cB", v, " kMGT"[unit])
	}
	return fmt.Sprintf("%.0f %cB", v, " kMGT"[unit])
}

package cli

import (
	"fmt"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"berth.dev/internal/template"
	"berth.dev/internal/terminal"
)

// progress shows a build on standard error: a bar for each step on a terminal,
// a line for each elsewhere. done must be called when the build has ended.
func (a *app) progress(quiet bool) (p template.Progress, done func()) {
	switch {
	case quiet:
		return nil, func() {}
	case terminal.Is(a.Err):
		b := &bars{group: mpb.New(mpb.WithOutput(a.Err), mpb.WithWidth(64), mpb.WithRefreshRate(100*time.Millisecond))}
		return b.event, b.close
	}
	return a.progressLine, func() {}
}

// progressLine prints the end of each step.
func (a *app) progressLine(e template.Event) {
	if e.Finished {
		a.note("%s: %.1f s", e.Step, e.Elapsed.Seconds())
	}
}

// bars draws one bar at a time; those of finished steps stay as lines.
type bars struct {
	group *mpb.Progress
	bar   *mpb.Bar
	step  string
	line  string
	begun time.Time
}

func (b *bars) event(e template.Event) {
	if e.Step != b.step || b.bar == nil {
		b.finish(false)
		b.start(e.Step)
	}
	if e.Line != "" {
		b.line = plain(e.Line)
	}
	if e.Total > 0 {
		b.bar.SetTotal(e.Total, false)
		b.bar.SetCurrent(min(e.Done, e.Total-1)) // the step, not its bytes, says when it is done
	}
	if e.Finished {
		b.finish(true)
	}
}

func (b *bars) start(step string) {
	b.step, b.line, b.begun = step, "", time.Now()
	b.bar = b.group.New(0, mpb.BarStyle().Rbound("|").Lbound("|"),
		mpb.PrependDecorators(
			decor.Name(step, decor.WC{W: 22, C: decor.DindentRight}),
			decor.Elapsed(decor.ET_STYLE_MMSS, decor.WC{W: 6}),
		),
		mpb.AppendDecorators(decor.Any(b.tail)),
	)
}

// tail is what stands behind the bar: bytes, or the last line of output.
func (b *bars) tail(s decor.Statistics) string {
	switch {
	case s.Completed:
		return fmt.Sprintf(" %.1f s", time.Since(b.begun).Seconds())
	case s.Total > 0:
		return fmt.Sprintf(" %s of %s", size(s.Current), size(s.Total))
	}
	line := b.line
	if len(line) > 40 {
		line = line[:40]
	}
	return " " + line
}

func (b *bars) finish(complete bool) {
	if b.bar == nil {
		return
	}
	if complete {
		b.bar.SetTotal(-1, true)
	} else {
		b.bar.Abort(false)
	}
	b.bar.Wait()
	b.bar = nil
}

func (b *bars) close() {
	b.finish(false)
	b.group.Wait()
}

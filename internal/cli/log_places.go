package cli

import (
	"context"
	"errors"
	"io/fs"
	"iter"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"berth.dev/internal/audit"
	"berth.dev/internal/sandbox"
)

// logPlace is one audit log.
type logPlace struct {
	name   string // of the sandbox, "" when nobody knows or it is the user's
	id     string // of the sandbox, or audit.UserDir
	dir    string
	exists bool // the sandbox does
	// after is the number of the last event that was shown.
	after *uint64
}

func newLogPlace(root, name, id string, exists bool) logPlace {
	return logPlace{name: name, id: id, dir: filepath.Join(root, id), exists: exists, after: new(uint64)}
}

// living reports whether the sandbox exists.
func (p logPlace) living() bool { return p.exists }

// label is the log's name for people.
func (p logPlace) label() string {
	switch {
	case p.id == audit.UserDir:
		return "your policy"
	case p.name == "":
		return p.id
	}
	return p.name
}

// read is audit.Read, for which a log that was never written is empty.
func (p logPlace) read(f audit.Filter, fn func(audit.Event) error) error {
	err := audit.Read(p.dir, f, fn)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// auditLog finds the log of a sandbox: that of one which exists, whether it was
// ever started or not, before those of removed ones.
func (a *app) auditLog(name string) (logPlace, error) {
	places, err := a.auditLogs(name)
	if err != nil {
		return logPlace{}, err
	}
	return places[0], nil
}

// auditLogs finds the log of a sandbox, or with "" all logs.
func (a *app) auditLogs(name string) ([]logPlace, error) {
	m, err := a.manager()
	if err != nil {
		return nil, err
	}
	root, err := a.dirs.Audit()
	if err != nil {
		return nil, err
	}
	if name == "" {
		return a.allAuditLogs(root)
	}
	b, err := m.Find(name)
	if err == nil {
		return []logPlace{newLogPlace(root, b.Name(), b.ID(), true)}, nil
	}
	e, ferr := audit.Find(root, name)
	switch {
	case ferr == nil:
		return []logPlace{newLogPlace(root, e.Name, e.ID, false)}, nil
	case name == audit.UserDir:
		return []logPlace{newLogPlace(root, "", audit.UserDir, false)}, nil
	case errors.Is(err, sandbox.ErrNotFound):
		return nil, ferr
	}
	return nil, err // it is broken
}

func (a *app) allAuditLogs(root string) ([]logPlace, error) {
	entries, err := audit.List(root)
	if err != nil {
		return nil, err
	}
	sandboxes, err := a.mgr.List()
	if err != nil {
		return nil, err
	}
	names := map[string]string{}
	for _, s := range sandboxes {
		if s.Bundle != nil {
			names[s.Bundle.ID()] = s.Name
		}
	}
	var places []logPlace
	for _, e := range entries {
		name, exists := names[e.ID]
		if !exists {
			name = e.Name
		}
		places = append(places, newLogPlace(root, name, e.ID, exists))
	}
	return append(places, newLogPlace(root, "", audit.UserDir, false)), nil
}

// mergeLogs reads several logs as one, by time. broken counts, by folder, lines
// that are no good.
func mergeLogs(places []logPlace, f audit.Filter, broken map[string]int, fn func(audit.Event) error) error {
	if f.Last <= 0 || len(places) == 1 {
		return mergeAll(places, f, broken, fn)
	}
	// Which of the last of each are the last of all is known at the end.
	var last []audit.Event
	err := mergeAll(places, f, broken, func(e audit.Event) error {
		if last = append(last, e); len(last) > 2*f.Last {
			last = slices.Delete(last, 0, len(last)-f.Last)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, e := range last[max(0, len(last)-f.Last):] {
		if err := fn(e); err != nil {
			return err
		}
	}
	return nil
}

func mergeAll(places []logPlace, f audit.Filter, broken map[string]int, fn func(audit.Event) error) error {
	type source struct {
		next  func() (audit.Event, error, bool)
		event audit.Event
		after *uint64
	}
	var open []*source
	// advance reads the next event of a source, and reports whether there is one.
	advance := func(s *source) (bool, error) {
		e, err, ok := s.next()
		s.event = e
		return ok, err
	}
	for _, p := range places {
		f := f
		f.Broken = func(audit.Problem) { broken[p.dir]++ }
		next, stop := iter.Pull2(p.events(f))
		defer stop()
		s := &source{next: next, after: p.after}
		if ok, err := advance(s); err != nil {
			return err
		} else if ok {
			open = append(open, s)
		}
	}
	for len(open) > 0 {
		i := 0
		for j := range open {
			if open[j].event.Time.Before(open[i].event.Time) {
				i = j
			}
		}
		s := open[i]
		if err := fn(s.event); err != nil {
			return err
		}
		*s.after = max(*s.after, s.event.Seq)
		if ok, err := advance(s); err != nil {
			return err
		} else if !ok {
			open = slices.Delete(open, i, i+1)
		}
	}
	return nil
}

// events are those of the log; an error is the last item.
func (p logPlace) events(f audit.Filter) iter.Seq2[audit.Event, error] {
	return func(yield func(audit.Event, error) bool) {
		stopped := errors.New("stopped")
		err := p.read(f, func(e audit.Event) error {
			if !yield(e, nil) {
				return stopped
			}
			return nil
		})
		if err != nil && !errors.Is(err, stopped) {
			yield(audit.Event{}, err)
		}
	}
}

// lookForLogs is how often new logs are looked for.
const lookForLogs = time.Second

// followLogs goes on with what is written to the logs after what was shown, and
// to those that more comes to tell of, until ctx ends.
func followLogs(ctx context.Context, f audit.Filter, places []logPlace, more func() ([]logPlace, error), show func(audit.Event) error) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	events, failed := make(chan audit.Event), make(chan error, 1)
	f.Last = 0
	known := map[string]bool{}
	follow := func(places []logPlace) {
		for _, p := range places {
			if known[p.dir] {
				continue
			}
			known[p.dir] = true
			f := f
			f.After = *p.after
			wg.Go(func() {
				err := audit.Follow(ctx, p.dir, f, func(e audit.Event) error {
					select {
					case events <- e:
					case <-ctx.Done():
					}
					return ctx.Err()
				})
				if err != nil && ctx.Err() == nil {
					select {
					case failed <- err:
					default: // one is enough
					}
				}
			})
		}
	}
	follow(places)
	tick := time.NewTicker(lookForLogs)
	defer tick.Stop()
	for {
		select {
		case e := <-events:
			if err := show(e); err != nil {
				return err
			}
		case err := <-failed:
			return err
		case <-tick.C:
			now, err := more()
			if err != nil {
				return err
			}
			follow(now)
		case <-ctx.Done():
			return nil
		}
	}
}

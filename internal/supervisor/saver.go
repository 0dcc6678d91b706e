package supervisor

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"berth.dev/internal/bundle"
	"berth.dev/internal/engine"
	"berth.dev/internal/version"
)

// saver decides when the machine's state is saved, and does it. It is safe for
// concurrent use.
type saver struct {
	held    *bundle.Held
	machine engine.Machine
	meta    bundle.Meta
	// persistent: the machine's folder is its state, and a save only makes sure
	// that nothing of it is in memory alone.
	persistent bool
	// keepBuild is called before the first save.
	keepBuild func() error
	// every is how long a change waits at most for a save.
	every time.Duration
	now   func() time.Time
	// work is how much the machine has computed so far: what runs on quietly,
	// such as a container, changes things without any event.
	work func() time.Duration

	saving sync.Mutex // one save at a time

	mu      sync.Mutex
	dirty   bool          // something happened since the last save began
	wanted  bool          // a session ended: save soon
	lastEnd time.Time     // of the last save that worked
	tried   time.Time     // end of the last try
	took    time.Duration // by the last try
	worked  time.Duration // work at the last try
	lastErr error
}

// Times of saving.
const (
	saveEvery = 3 * time.Minute
	// restRatio keeps saves, which pause the guest and write its whole root, to
	// a small part of the time: the next one waits this many times as long as
	// the last one took.
	restRatio = 20
	// quietWork is what an idle guest computes between two saves, generously.
	quietWork = time.Second
)

func newSaver(h *bundle.Held, m engine.Machine, e engine.Engine, keepBuild func() error) *saver {
	return &saver{
		held: h, machine: m, persistent: e.Features().Persistent, every: saveEvery, now: time.Now, keepBuild: keepBuild,
		work: func() time.Duration { return cpuTime(m.Processes()) },
		meta: bundle.Meta{Engine: e.Name(), EngineBuild: e.Build(), Berth: version.Version},
		// The start itself changes things worth a save, but not at once.
		tried: time.Now(),
	}
}

// touched notes that the guest may have changed something.
func (s *saver) touched() {
	s.mu.Lock()
	s.dirty = true
	s.mu.Unlock()
}

// want asks for a save soon: a session has ended.
func (s *saver) want() {
	s.mu.Lock()
	s.dirty, s.wanted = true, true
	s.mu.Unlock()
}

// due reports whether it is time to save.
func (s *saver) due() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	rest := s.now().Sub(s.tried)
	if !s.dirty && rest >= s.every {
		s.dirty = s.work()-s.worked > quietWork
		s.tried = s.now() // look again after as long a time
		rest = s.every
	}
	if !s.dirty || rest < restRatio*s.took {
		return false
	}
	return s.wanted || rest >= s.every
}

// saveIfDue saves when it is time. A failure is kept for status.
func (s *saver) saveIfDue() {
	if s.due() {
		_ = s.save()
	}
}

// save makes the machine's present state the bundle's current save.
func (s *saver) save() error {
	s.saving.Lock()
	defer s.saving.Unlock()
	s.mu.Lock()
	s.dirty, s.wanted = false, false
	s.mu.Unlock()
	start := s.now()
	err := s.write()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tried = s.now()
	s.took, s.lastErr = s.tried.Sub(start), err
	s.worked = s.work()
	if err == nil {
		s.lastEnd = s.tried
	} else {
		s.dirty = true
	}
	return err
}

func (s *saver) write() error {
	if s.persistent {
		if f, ok := s.machine.(engine.Flusher); ok {
			return f.Flush(context.Background())
		}
		return nil
	}
	// First the program that reads it, then the save.
	if err := s.keepBuild(); err != nil {
		return err
	}
	dir, err := s.held.BeginSave()
	if err != nil {
		return err
	}
	if err := s.machine.Save(context.Background(), dir); err != nil {
		_ = s.held.AbortSave() // the next BeginSave clears what stays
		return err
	}
	return s.held.CommitSave(s.meta)
}

// last returns when a save last worked, and why the last try did not.
func (s *saver) last() (time.Time, string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lastErr != nil {
		return s.lastEnd, s.lastErr.Error()
	}
	return s.lastEnd, ""
}

// userHz is the unit of /proc/PID/stat's times, the same on all architectures
// that Berth is built for.
const userHz = 100

// cpuTime is what processes have computed so far (proc_pid_stat(5), utime and
// stime).
func cpuTime(pids []int) time.Duration {
	var ticks int64
	for _, pid := range pids {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
		for _, i := range []int{11, 12} {
			if i < len(fields) {
				n, _ := strconv.ParseInt(fields[i], 10, 64)
				ticks += n
			}
		}
	}
	return time.Duration(ticks) * time.Second / userHz
}

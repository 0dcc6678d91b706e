package supervisor

import (
	"context"
	"fmt"
	"path"
	"time"

	"berth.dev/internal/bundle"
	"berth.dev/internal/guestapi"
	"berth.dev/internal/sandbox"
)

// watch subscribes to the guest's events: they drive the log, the saves and
// the idle clock. It returns once the subscription stands.
func (s *Supervisor) watch(ctx context.Context) error {
	agentLog, err := s.held.OpenLog(bundle.AgentLog, logSize)
	if err != nil {
		return err
	}
	synced := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer agentLog.Close()
		err := s.guest.Events(context.Background(), guestapi.EventsRequest{Output: true}, func(e *guestapi.Event) error {
			if e.Type == guestapi.Synced {
				close(synced)
				return nil
			}
			s.event(e, agentLog)
			return nil
		})
		s.log.Debug("the guest's events ended", "error", err)
	}()
	s.undo.Push(func() error {
		err := s.guest.Close() // ends the stream
		<-done
		return err
	})
	select {
	case <-synced:
		return nil
	case <-done:
		return errGuestGone
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Supervisor) event(e *guestapi.Event, log *bundle.LogFile) {
	switch e.Type {
	case guestapi.Started:
		s.sessions.started(e.Session.ID, e.Session.Kind)
	case guestapi.Output:
		if _, err := log.Write(e.Data); err != nil {
			s.log.Warn("write the sandbox's log", "error", err)
		}
	case guestapi.Ended:
		if e.Session.Kind == guestapi.Agent {
			s.recordExit(e.Session.Result.ExitCode)
		}
		s.saver.want()
		s.sessions.finished(e.Session.ID)
	case guestapi.Activity:
		s.saver.touched()
	}
}

func (s *Supervisor) recordExit(code int) {
	err := s.held.Update(func(st *bundle.State) {
		st.Exit = &bundle.Exit{Code: code, At: time.Now().UTC()}
	})
	if err != nil {
		s.log.Warn("record the agent's exit", "error", err)
	}
}

// endSessions asks every session to end and waits for it, at most for grace.
func (s *Supervisor) endSessions(grace time.Duration) {
	if !s.up() {
		return // nobody can have started one
	}
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	for _, id := range s.sessions.ids() {
		if err := s.guest.CloseSession(ctx, id); err != nil {
			s.log.Warn("end a session", "session", id, "error", err)
		}
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for s.sessions.live() > 0 {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// reclaim ends the guest's largest process and says which it was.
func (s *Supervisor) reclaim() (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), graceTime)
	defer cancel()
	r, err := s.guest.Reclaim(ctx)
	return fmt.Sprintf("%s (process %d, %d MB)", r.Name, r.PID, r.Bytes>>20), err
}

// makeLinks makes the symlinks that the guest is to have, where there is
// nothing yet.
func (s *Supervisor) makeLinks(ctx context.Context, links []sandbox.Link) error {
	if len(links) == 0 {
		return nil
	}
	files, err := s.guest.SFTP(ctx, "0")
	if err != nil {
		return err
	}
	defer files.Close()
	for _, l := range links {
		if _, err := files.Lstat(l.Path); err == nil {
			continue
		}
		err := files.MkdirAll(path.Dir(l.Path))
		if err == nil {
			err = files.Symlink(l.Target, l.Path)
		}
		if err != nil {
			return fmt.Errorf("link %s: %w", l.Path, err)
		}
	}
	return nil
}

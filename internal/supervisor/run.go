package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"berth.dev/internal/audit"
	"berth.dev/internal/bundle"
	"berth.dev/internal/control"
	"berth.dev/internal/engine"
	"berth.dev/internal/sandbox"
	"berth.dev/internal/version"
)

var errGuestGone = errors.New("the guest closed its connection")

// Times of a running sandbox.
const (
	graceTime = 10 * time.Second // for sessions, and for the guest, to end by themselves
	tickTime  = time.Second      // how often time-driven work is looked at
)

// ending is a reason for the sandbox to end.
type ending struct {
	reason string
	// save: end the sessions and save first. When that does not work the
	// sandbox goes on, unless must is set.
	save, must bool
	failure    error      // why it is not an orderly end; nil when it is
	answer     chan error // receives what came of it; nil for nobody

	connectEnded bool // connect's result has been received
}

// Run serves the sandbox until it is told to stop, ctx ends, it was idle for
// its time, or the machine ends by itself; then it undoes everything. The
// error says why a sandbox ended that was not meant to.
func (s *Supervisor) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	serving, cancel := context.WithCancel(context.Background())
	defer cancel()
	wg.Go(func() { s.serve(serving, &wg) })
	connecting := make(chan error, 1)
	connectCtx, stopConnecting := context.WithCancel(serving)
	go func() { connecting <- s.connect(connectCtx) }()
	e := s.wait(ctx, connecting)
	s.log.Info("ending", "reason", e.reason)
	ended := audit.Event{Kind: audit.Lifecycle, Detail: "ends: " + e.reason}
	if e.failure != nil {
		ended.Error = e.failure.Error()
	}
	s.net.audit.Record(ended)
	stopConnecting()
	if !e.connectEnded {
		<-connecting // it may be pushing its own undo steps
	}
	err := errors.Join(e.failure, s.tearDown(e.failure))
	s.final = err
	close(s.ended)
	if e.answer != nil {
		e.answer <- err
	}
	cancel()
	wg.Wait()
	return err
}

// wait blocks until the sandbox is to end, with what has to be saved saved.
func (s *Supervisor) wait(ctx context.Context, connecting <-chan error) (e ending) {
	connectEnded := false
	defer func() { e.connectEnded = connectEnded }()
	died := make(chan error, 1)
	go func() {
		status, err := s.machine.Wait(context.Background())
		died <- errors.Join(fmt.Errorf("the guest's first process ended with status %d", status), err)
	}()
	tick := time.NewTicker(tickTime)
	defer tick.Stop()
	for {
		select {
		case err := <-connecting:
			connectEnded = true
			if err == nil {
				close(s.connected)
				continue
			}
			e = ending{reason: "no answer", failure: err}
		case <-ctx.Done():
			e = ending{reason: "signal", save: true, must: true}
		case e = <-s.stop:
		case err := <-died:
			e = ending{reason: "died", failure: err}
		case <-s.sessions.removed:
			e = ending{reason: "its agent ended and it was to be removed then"}
		case <-tick.C:
			s.net.follow()
			s.creds.follow()
			if !s.up() {
				continue
			}
			s.saver.saveIfDue()
			s.memory.enforce()
			if !s.sessions.idle() {
				continue
			}
			e = ending{reason: "idle", save: true}
		}
		if e.save && !s.cfg.Bundle.Spec().Remove {
			s.endSessions(graceTime)
			if err := s.saver.save(); err != nil && !e.must {
				s.log.Error("save before the end", "error", err)
				if e.answer != nil {
					e.answer <- fmt.Errorf("the sandbox goes on running, because its state cannot be saved: %w", err)
				}
				s.sessions.postpone() // an idle one tries again after as long a time
				continue
			}
		}
		return e
	}
}

// up reports whether this process is connected with the guest.
func (s *Supervisor) up() bool {
	select {
	case <-s.connected:
		return true
	default:
		return false
	}
}

// tearDown ends the guest and undoes everything that Start did.
func (s *Supervisor) tearDown(failure error) error {
	if failure == nil && !s.cfg.Bundle.Spec().Remove {
		s.endGuest()
	}
	err := s.undo.Undo()
	return errors.Join(err, s.letGo(failure))
}

// endGuest lets the guest end by itself for a moment.
func (s *Supervisor) endGuest() {
	ctx, cancel := context.WithTimeout(context.Background(), graceTime)
	defer cancel()
	if err := s.machine.Signal(syscall.SIGTERM); err == nil {
		_, _ = s.machine.Wait(ctx)
	}
}

// letGo gives the bundle back, or removes it when it was to go.
func (s *Supervisor) letGo(failure error) error {
	if s.cfg.Bundle.Spec().Remove {
		// Before its name is free: who has it next must not find them.
		return errors.Join(s.forgetSecrets(), s.held.Delete(), audit.MarkRemoved(s.cfg.AuditDir, time.Now()))
	}
	err := s.held.Update(func(st *bundle.State) {
		st.Status, st.Stopped = sandbox.Stopped, time.Now().UTC()
		if failure != nil {
			st.Failure = failure.Error()
		}
	})
	return errors.Join(err, s.held.Unlock())
}

// forgetSecrets removes the secrets and logins that are this sandbox's alone, also
// where it was made to use none.
func (s *Supervisor) forgetSecrets() error {
	c := credentials{dir: s.cfg.SecretsDir, keyring: s.cfg.Settings.Secrets.UsesKeyring()}
	store, err := c.open(false)
	if err == nil && store != nil {
		err = store.RemoveSandbox(context.Background(), s.cfg.Bundle.Name())
	}
	if err != nil {
		return fmt.Errorf("remove the secrets of %s: %w", s.cfg.Bundle.Name(), err)
	}
	return nil
}

// serve answers the control socket until it is closed.
func (s *Supervisor) serve(ctx context.Context, wg *sync.WaitGroup) {
	for {
		conn, err := s.ln.AcceptUnix()
		if err != nil {
			return
		}
		wg.Go(func() {
			defer conn.Close()
			// Not Close: a stop's answer is written when ctx has ended.
			defer context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Now()) })()
			if err := s.handle(ctx, conn); err != nil && ctx.Err() == nil {
				s.log.Warn("control connection", "error", err)
			}
		})
	}
}

func (s *Supervisor) handle(ctx context.Context, conn *net.UnixConn) error {
	c, err := control.Accept(conn)
	if err != nil {
		return err
	}
	switch c.Request.Op {
	case control.OpStatus:
		return c.Reply(s.status(), nil)
	case control.OpSave:
		return c.Reply(nil, s.saver.save())
	case control.OpStop:
		return c.Reply(nil, s.requestStop(c.Request.Discard))
	case control.OpReload:
		return c.Reply(nil, errors.Join(s.net.reload(), s.creds.reload()))
	case control.OpBind:
		return c.Reply(s.creds.bind(c.Request.Secrets, c.Request.Bases))
	case control.OpVouch:
		return c.Reply(nil, s.creds.vouch(c.Request.Vouch))
	case control.OpSettled:
		s.creds.settle(c.Request.Settled)
		return c.Reply(nil, nil)
	case control.OpPending:
		return c.Reply(s.questions(), nil)
	case control.OpAnswer:
		return c.Reply(nil, s.answer(c.Request))
	case control.OpAgentUse, control.OpAgentAsk:
		return s.serveAgent(ctx, c)
	case control.OpGuest:
		defer s.sessions.hold()()
		return s.tunnel(ctx, c)
	case control.OpLayer:
		if err := c.Reply(nil, nil); err != nil {
			return err
		}
		w := control.NewChunkWriter(conn)
		return w.Finish(s.writeLayer(ctx, w))
	}
	return c.Reply(nil, control.UnknownOp(c.Request.Op))
}

// requestStop hands the wish to the run loop and waits until all is undone.
func (s *Supervisor) requestStop(discard bool) error {
	e := ending{reason: "asked to", save: !discard, answer: make(chan error, 1)}
	select {
	case s.stop <- e:
		return <-e.answer
	case <-s.ended:
		return s.final
	}
}

// writeLayer copies the root's changes to w. The engine wants a file to write
// to, so a pipe stands between.
func (s *Supervisor) writeLayer(ctx context.Context, w *control.ChunkWriter) error {
	lw, ok := s.machine.(engine.LayerWriter)
	if !ok {
		return sandbox.Errorf(sandbox.ErrPrecondition, "engine %s cannot write layers", s.engine.Name())
	}
	out, in, err := os.Pipe()
	if err != nil {
		return err
	}
	defer out.Close()
	written := make(chan error, 1)
	go func() { written <- errors.Join(lw.WriteLayer(ctx, in), in.Close()) }()
	_, err = io.Copy(w, out)
	if err != nil {
		out.Close() // ends the writer
	}
	return errors.Join(<-written, err)
}

func (s *Supervisor) status() control.Status {
	st := control.Status{
		PID: os.Getpid(), Berth: version.Version, Engine: s.engine.Build(), Started: s.started.UTC(),
		Processes: s.machine.Processes(), Limits: s.machine.Limits(), Sessions: s.sessions.live(),
	}
	if mr, ok := s.machine.(engine.MemoryReporter); ok {
		st.Memory, _ = mr.Memory() // 0 when the machine is just ending
	}
	st.LastSave, st.SaveError = s.saver.last()
	st.Preset, st.Warnings = s.net.state()
	st.Warnings = append(st.Warnings, s.creds.warnings()...)
	return st
}

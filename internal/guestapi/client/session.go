package client

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"berth.dev/internal/guestapi"
	"berth.dev/internal/sandbox"
)

// Attach is what a session's bytes are joined to. Every field may be left out.
type Attach struct {
	// Stdin is read until its end, which the session is told of. A nil Stdin
	// sends nothing and no end. A Read that is under way when the call returns
	// is not ended by it.
	Stdin io.Reader
	// Stdout and Stderr get the output; nil throws it away. They are written
	// by one goroutine each. A Writer that fails detaches.
	Stdout, Stderr io.Writer
	// Resize gives the sizes of the client's terminal, each as it changes.
	Resize <-chan guestapi.Size
	// Signals are passed on to the foreground process group.
	Signals <-chan os.Signal
	// Detach, when it is closed or receives, ends the call and leaves the
	// session running.
	Detach <-chan struct{}
	// SSHAgent gives a session that is started the agent of Client.ServeAgent.
	SSHAgent bool
	// Started is called with the session's description before any byte flows.
	Started func(guestapi.SessionInfo)
}

// Start starts a session, joins it and returns when it has ended and all its
// output is written, or when it was detached from (Result.Detached). Input is
// only passed when spec has a terminal or Stdin. When ctx ends the session
// goes on and the error is ctx's.
//
// An error that the guest reported, such as a command that is not there, is a
// *sandbox.Error; ExitCode tells the status that belongs to it.
func (c *Client) Start(ctx context.Context, spec guestapi.SessionSpec, a Attach) (guestapi.Result, error) {
	ch, reqs, err := c.open(ctx, guestapi.ChanStart, guestapi.StartRequest{Spec: spec, Attach: true, SSHAgent: a.SSHAgent})
	if err != nil {
		return guestapi.Result{}, err
	}
	return join(ctx, ch, reqs, a)
}

// Attach joins a session that runs, or one that has ended to get the output
// that is kept.
func (c *Client) Attach(ctx context.Context, req guestapi.AttachRequest, a Attach) (guestapi.Result, error) {
	ch, reqs, err := c.open(ctx, guestapi.ChanAttach, req)
	if err != nil {
		return guestapi.Result{}, err
	}
	return join(ctx, ch, reqs, a)
}

// StartDetached starts a session that nobody is joined to.
func (c *Client) StartDetached(ctx context.Context, spec guestapi.SessionSpec) (guestapi.SessionInfo, error) {
	ch, reqs, err := c.open(ctx, guestapi.ChanStart, guestapi.StartRequest{Spec: spec})
	if err != nil {
		return guestapi.SessionInfo{}, err
	}
	defer ch.Close()
	go io.Copy(io.Discard, ch)
	go io.Copy(io.Discard, ch.Stderr())
	for {
		select {
		case r, open := <-reqs:
			if !open {
				return guestapi.SessionInfo{}, unavailable("start a session", io.ErrUnexpectedEOF)
			}
			if r.WantReply {
				_ = r.Reply(false, nil)
			}
			if r.Type == guestapi.ReqInfo {
				go ssh.DiscardRequests(reqs)
				return guestapi.ParseInfo(r.Payload)
			}
		case <-ctx.Done():
			go ssh.DiscardRequests(reqs)
			return guestapi.SessionInfo{}, ctx.Err()
		}
	}
}

// shutTime bounds how long a return waits for a local writer that is stuck.
const shutTime = time.Second

// joint is one attachment as the host sees it.
type joint struct {
	a    Attach
	ch   ssh.Channel
	over chan struct{} // closed when the call is about to return

	mu     sync.Mutex
	result *guestapi.Result
	err    error // first failure of a local writer or of what the guest said
}

// join serves a channel of a session until one side ends it.
func join(ctx context.Context, ch ssh.Channel, reqs <-chan *ssh.Request, a Attach) (guestapi.Result, error) {
	j := &joint{a: a, ch: ch, over: make(chan struct{})}
	defer close(j.over)
	var out sync.WaitGroup
	requests := make(chan struct{})
	informed := make(chan struct{})
	go func() {
		defer close(requests)
		j.requests(reqs, informed)
	}()
	stdout, stderr := newGate(a.Stdout), newGate(a.Stderr)
	defer stdout.shut()
	defer stderr.shut()
	out.Go(func() { j.copyOut(stdout, ch, informed) })
	out.Go(func() { j.copyOut(stderr, ch.Stderr(), informed) })
	go j.copyIn()
	go j.control()

	ended := make(chan struct{})
	go func() {
		out.Wait()
		<-requests
		close(ended)
	}()
	select {
	case <-ended:
		return j.outcome()
	case <-a.Detach:
		ch.Close()
		return guestapi.Result{Detached: true}, nil
	case <-ctx.Done():
		ch.Close()
		return guestapi.Result{}, ctx.Err()
	}
}

// outcome is what a channel that came to its end amounts to.
func (j *joint) outcome() (guestapi.Result, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.ch.Close()
	switch {
	case j.err != nil:
		return guestapi.Result{}, j.err
	case j.result == nil:
		return guestapi.Result{}, unavailable("follow the session", io.ErrUnexpectedEOF)
	}
	return *j.result, nil
}

func (j *joint) fail(err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.err == nil {
		j.err = err
	}
	j.ch.Close()
}

// requests reads what the guest says about the session. informed is closed
// when it has described it, or never will.
func (j *joint) requests(reqs <-chan *ssh.Request, informed chan struct{}) {
	var once sync.Once
	inform := func() { once.Do(func() { close(informed) }) }
	defer inform()
	for r := range reqs {
		if r.WantReply {
			_ = r.Reply(false, nil)
		}
		switch r.Type {
		case guestapi.ReqInfo:
			info, err := guestapi.ParseInfo(r.Payload)
			if err != nil {
				j.fail(err)
			} else if j.a.Started != nil {
				once.Do(func() { // the first only
					j.a.Started(info)
					close(informed)
				})
			}
			inform()
		case guestapi.ReqResult:
			res, err := guestapi.ParseResult(r.Payload)
			if err != nil {
				j.fail(err)
				continue
			}
			j.mu.Lock()
			j.result = &res
			j.mu.Unlock()
		}
	}
}

// copyOut writes output; a local writer that fails ends the attachment.
func (j *joint) copyOut(w io.Writer, r io.Reader, informed <-chan struct{}) {
	<-informed
	if _, err := io.Copy(w, r); err != nil {
		j.fail(sandbox.Errorf(sandbox.ErrUnavailable, "write output: %w", err))
		_, _ = io.Copy(io.Discard, r)
	}
}

// gate is a writer that can be shut, so that nothing is written to a caller's
// writer once the call has returned, whatever still arrives.
type gate struct {
	w  io.Writer
	mu sync.Mutex
}

func newGate(w io.Writer) *gate {
	if w == nil {
		w = io.Discard
	}
	return &gate{w: w}
}

func (g *gate) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.w.Write(p)
}

// shut throws away all that comes from now on. A write that is stuck in the
// caller's own writer is waited for only briefly: it is the caller's to end.
func (g *gate) shut() {
	done := make(chan struct{})
	go func() {
		g.mu.Lock()
		g.w = io.Discard
		g.mu.Unlock()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(shutTime):
	}
}

// copyIn sends input and its end. The end needs an answer before the channel's
// own EOF, because the guest takes a bare EOF for a lost client.
func (j *joint) copyIn() {
	if j.a.Stdin == nil {
		return
	}
	if _, err := io.Copy(j.ch, j.a.Stdin); err != nil {
		return // the channel is closed, or the local reader failed
	}
	if ok, err := j.ch.SendRequest(guestapi.ReqEOF, true, nil); ok && err == nil {
		_ = j.ch.CloseWrite()
	}
}

// control passes window changes and signals on.
func (j *joint) control() {
	resize, signals := j.a.Resize, j.a.Signals
	for resize != nil || signals != nil {
		select {
		case s, open := <-resize:
			if !open {
				resize = nil
				continue
			}
			msg := struct{ Cols, Rows, Width, Height uint32 }{uint32(s.Cols), uint32(s.Rows), 0, 0}
			_, _ = j.ch.SendRequest("window-change", false, ssh.Marshal(&msg))
		case s, open := <-signals:
			if !open {
				signals = nil
				continue
			}
			if name, err := signalName(s); err == nil {
				msg := struct{ Name string }{name}
				_, _ = j.ch.SendRequest("signal", false, ssh.Marshal(&msg))
			}
		case <-j.over:
			return
		}
	}
}

// signalName is a signal's name without SIG.
func signalName(s os.Signal) (string, error) {
	if n, ok := s.(unix.Signal); ok {
		if name := unix.SignalName(n); name != "" {
			return strings.TrimPrefix(name, "SIG"), nil
		}
	}
	return "", errors.New("unknown signal")
}

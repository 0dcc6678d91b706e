package sshd

import (
	"context"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"berth.dev/internal/guest/ring"
	"berth.dev/internal/guest/session"
	"berth.dev/internal/guestapi"
)

const (
	// activityEvery bounds how often a stream reports activity.
	activityEvery = 5 * time.Second
	// logPatience is how long a reader of events that reads nothing at all may
	// hold an agent back before the log loses output.
	logPatience = 2 * time.Second
)

// hub tells event streams that something happened. It is called for every
// chunk of every session, so it does next to nothing.
type hub struct {
	mu   sync.Mutex
	subs map[chan struct{}]struct{}
}

func newHub() *hub { return &hub{subs: map[chan struct{}]struct{}{}} }

func (h *hub) activity() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for sub := range h.subs {
		select {
		case sub <- struct{}{}:
		default: // one is pending already
		}
	}
}

func (h *hub) subscribe() (sub chan struct{}, stop func()) {
	sub = make(chan struct{}, 1)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.subs[sub] = struct{}{}
	return sub, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.subs, sub)
	}
}

// stream is one reader of events. Nothing is queued: each session has a
// goroutine that blocks on the channel, and output waits in its ring.
type stream struct {
	c      *conn
	req    guestapi.EventsRequest
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu sync.Mutex // one frame at a time
	ch ssh.Channel
}

// eventsChannel streams events until the client leaves.
func (c *conn) eventsChannel(nc ssh.NewChannel) error {
	req, err := extra[guestapi.EventsRequest](nc)
	if err != nil {
		return err
	}
	ch, reqs, err := nc.Accept()
	if err != nil {
		return nil // the connection is gone
	}
	defer ch.Close()
	st := &stream{c: c, req: req, ch: ch}
	st.ctx, st.cancel = context.WithCancel(c.ctx)
	defer st.cancel()
	go func() {
		ssh.DiscardRequests(reqs)
		st.cancel()
	}()
	st.run()
	return nil
}

func (st *stream) run() {
	active, stop := st.c.hub.subscribe()
	defer stop()
	// A session that starts meanwhile is told of before its first byte is
	// read, so its readers miss nothing.
	known, stop := st.c.cfg.Sessions.Watch(func(s *session.Session) {
		outputs := st.open(s)
		st.wg.Go(func() {
			st.send(&guestapi.Event{Type: guestapi.Started, Session: info(s)})
			st.follow(s, outputs)
		})
	})
	defer st.wg.Wait() // after stop, so that none is added any more
	defer stop()
	for _, s := range known {
		st.send(&guestapi.Event{Type: guestapi.Started, Session: info(s)})
	}
	st.send(&guestapi.Event{Type: guestapi.Synced})
	for _, s := range known {
		outputs := st.open(s)
		st.wg.Go(func() { st.follow(s, outputs) })
	}
	for {
		select {
		case <-active:
			st.send(&guestapi.Event{Type: guestapi.Activity})
		case <-st.ctx.Done():
			return
		}
		select {
		case <-time.After(activityEvery):
		case <-st.ctx.Done():
			return
		}
	}
}

func info(s *session.Session) *guestapi.SessionInfo {
	i := s.Info()
	return &i
}

// output is one output stream of a session that is followed.
type output struct {
	id   string
	name guestapi.Stream
	r    *ring.Reader
}

// open makes readers of what is asked for of a session's output.
func (st *stream) open(s *session.Session) []output {
	if !st.req.Output || s.Kind() != guestapi.Agent {
		return nil
	}
	from, known := st.req.From[s.ID()]
	if !known {
		from = guestapi.Offsets{Stdout: -1, Stderr: -1}
	}
	var all []output
	if r := s.Reader(guestapi.Stdout, from.Stdout, logPatience); r != nil {
		all = append(all, output{s.ID(), guestapi.Stdout, r})
	}
	if r := s.Reader(guestapi.Stderr, from.Stderr, logPatience); r != nil {
		all = append(all, output{s.ID(), guestapi.Stderr, r})
	}
	return all
}

// follow reports a session's output and its end, and closes the readers.
func (st *stream) follow(s *session.Session, outputs []output) {
	var wg sync.WaitGroup
	for _, o := range outputs {
		wg.Go(func() { st.copy(o) })
	}
	wg.Wait()
	select {
	case <-s.Done():
		st.send(&guestapi.Event{Type: guestapi.Ended, Session: info(s)})
	case <-st.ctx.Done():
	}
}

// copy reports one output stream to its end.
func (st *stream) copy(o output) {
	defer o.r.Close()
	p := make([]byte, 32<<10)
	for {
		n, off, err := o.r.Read(st.ctx, p)
		if err != nil { // the end of the output or of the events
			return
		}
		st.send(&guestapi.Event{Type: guestapi.Output, ID: o.id, Stream: o.name, Offset: off, Data: p[:n]})
	}
}

// send writes one frame; when that fails the stream is over.
func (st *stream) send(e *guestapi.Event) {
	e.Time = time.Now()
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.ctx.Err() != nil {
		return
	}
	if err := guestapi.WriteFrame(st.ch, e); err != nil {
		st.cancel()
	}
}

package sshd

import (
	"context"
	"encoding/binary"
	"io"
	"sync"
	"sync/atomic"

	"golang.org/x/crypto/ssh"

	"berth.dev/internal/guest/ring"
	"berth.dev/internal/guest/session"
	"berth.dev/internal/guestapi"
)

// bridge carries bytes between a channel and an attached client until the
// session ends or the channel does.
type bridge struct {
	ch     ssh.Channel
	s      *session.Session
	client *session.Client
	// plain is a standard session channel: its EOF is the input's, and its
	// result has the standard's form.
	plain bool
	eof   atomic.Bool // the client said that its input came to its end
}

// run serves the channel and closes it. requests are served until the channel
// is closed by the other side, which detaches the client.
func (b *bridge) run(ctx context.Context, reqs <-chan *ssh.Request) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() {
		for r := range reqs {
			b.request(r)
		}
		cancel() // gone: the readers end
	})
	go b.input() // ends with the channel, or when the process reads no more
	b.output(ctx)
	b.client.Close()
	b.ch.Close()
	wg.Wait()
}

// request serves what a client asks for on a running session's channel.
func (b *bridge) request(r *ssh.Request) {
	ok := false
	switch r.Type {
	case "window-change":
		size, err := parseWindow(r.Payload)
		if ok = err == nil; ok {
			b.client.Resize(size)
		}
	case "signal":
		name, err := parseSignal(r.Payload)
		ok = err == nil && b.client.Signal(name) == nil
	case guestapi.ReqEOF:
		ok = !b.plain
		b.eof.Store(ok)
	}
	if r.WantReply {
		_ = r.Reply(ok, nil)
	}
}

// input moves the client's bytes to the session. The end of the channel's data
// also comes when the connection is lost; only who said so beforehand means
// the end of the input. A standard client's EOF ends a pipe and leaves a
// terminal alone, as with sshd.
func (b *bridge) input() {
	_, err := io.Copy(writerOnly{b.client}, readerOnly{b.ch})
	if err == nil {
		if b.eof.Load() || b.plain && !b.s.TTY() {
			b.client.CloseInput()
		}
		return
	}
	// The session reads no more. The client may still be writing, and finds
	// out by the result.
	_, _ = io.Copy(io.Discard, readerOnly{b.ch})
}

// writerOnly and readerOnly keep io.Copy from looking for faster ways that the
// types behind do not have.
type (
	writerOnly struct{ io.Writer }
	readerOnly struct{ io.Reader }
)

// output moves the session's bytes to the client, then its result.
func (b *bridge) output(ctx context.Context) {
	if len(b.client.Screen) > 0 {
		if _, err := b.ch.Write(b.client.Screen); err != nil {
			return
		}
	}
	var wg sync.WaitGroup
	complete := true
	if b.client.Err != nil {
		wg.Go(func() { complete = drain(ctx, b.ch.Stderr(), b.client.Err) })
	}
	all := drain(ctx, b.ch, b.client.Out)
	wg.Wait()
	if !all || !complete {
		return
	}
	select {
	case <-b.s.Done():
		b.result()
	case <-ctx.Done():
	}
}

// drain copies to w until the stream's end and reports whether it got there.
func drain(ctx context.Context, w io.Writer, r *ring.Reader) bool {
	p := make([]byte, 32<<10)
	for {
		n, _, err := r.Read(ctx, p)
		if err != nil {
			return err == io.EOF
		}
		if _, err := w.Write(p[:n]); err != nil {
			return false
		}
	}
}

// result tells how the session ended, as RFC 4254 section 6.10 has it on a
// standard channel.
func (b *bridge) result() {
	res := b.s.Result()
	res.Lost = b.client.Lost()
	switch {
	case !b.plain:
		sendJSON(b.ch, guestapi.ReqResult, res)
	case res.Signal != "":
		msg := struct {
			Signal string
			Core   bool
			Error  string
			Lang   string
		}{Signal: res.Signal}
		_, _ = b.ch.SendRequest("exit-signal", false, ssh.Marshal(&msg))
	default:
		_, _ = b.ch.SendRequest("exit-status", false, binary.BigEndian.AppendUint32(nil, uint32(res.ExitCode)))
	}
	_ = b.ch.CloseWrite()
}

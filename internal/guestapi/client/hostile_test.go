package client_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"berth.dev/internal/guest/guesttest"
	"berth.dev/internal/guestapi"
	"berth.dev/internal/guestapi/client"
	"berth.dev/internal/sandbox"
)

// evil is a guest that was taken over: it has the right host key, and answers
// channels as a test wants.
type evil struct {
	accept func(ch ssh.Channel, reqs <-chan *ssh.Request)
	reject string // when it is set, channels are refused with it
	conn   func(c *ssh.ServerConn)
}

// dial connects a client to it.
func (e evil) dial(t *testing.T) *client.Client {
	t.Helper()
	host, _ := guesttest.Key(t)
	key, _ := guesttest.Key(t)
	config := &ssh.ServerConfig{NoClientAuth: true}
	config.AddHostKey(host)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		nc, err := l.Accept()
		if err != nil {
			return
		}
		sc, chans, reqs, err := ssh.NewServerConn(nc, config)
		if err != nil {
			nc.Close()
			return
		}
		go ssh.DiscardRequests(reqs)
		if e.conn != nil {
			go e.conn(sc)
		}
		for nch := range chans {
			if e.accept == nil {
				_ = nch.Reject(ssh.Prohibited, e.reject)
				continue
			}
			if ch, reqs, err := nch.Accept(); err == nil {
				go e.accept(ch, reqs)
			}
		}
	}()
	nc, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.Dial(guesttest.Context(t), nc, key, host.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// flood writes without end.
func flood(w io.Writer) {
	p := bytes.Repeat([]byte("x"), 32<<10)
	for {
		if _, err := w.Write(p); err != nil {
			return
		}
	}
}

func info(id string) []byte { return []byte(`{"id":"` + id + `"}`) }

func start(t *testing.T, c *client.Client, a client.Attach) (guestapi.Result, error) {
	t.Helper()
	return c.Start(guesttest.Context(t), guestapi.SessionSpec{Args: []string{"x"}}, a)
}

// Answers without end, of the wrong form or of the wrong size are errors, in
// bounded memory.
func TestHostileAnswers(t *testing.T) {
	t.Parallel()
	answers := map[string]func(ch ssh.Channel){
		"endless":     func(ch ssh.Channel) { flood(ch) },
		"empty":       func(ch ssh.Channel) { ch.Close() },
		"not JSON":    func(ch ssh.Channel) { io.WriteString(ch, "\x1b]0;x\x07"); ch.Close() },
		"wrong type":  func(ch ssh.Channel) { io.WriteString(ch, `"text"`); ch.Close() },
		"bad id":      func(ch ssh.Channel) { io.WriteString(ch, `[{"id":"../../x"}]`); ch.Close() },
		"bad result":  func(ch ssh.Channel) { io.WriteString(ch, `[{"id":"a","result":{"exit_code":4711}}]`); ch.Close() },
		"bad offset":  func(ch ssh.Channel) { io.WriteString(ch, `[{"id":"a","end":{"stdout":-5}}]`); ch.Close() },
		"deep":        func(ch ssh.Channel) { io.WriteString(ch, strings.Repeat("[", 1<<20)); ch.Close() },
		"much stderr": func(ch ssh.Channel) { ch.Stderr().Write(make([]byte, 8<<20)); ch.Close() },
	}
	for name, answer := range answers {
		c := evil{accept: func(ch ssh.Channel, reqs <-chan *ssh.Request) {
			go ssh.DiscardRequests(reqs)
			answer(ch)
		}}.dial(t)
		if got, err := c.Sessions(guesttest.Context(t)); err == nil {
			t.Errorf("%s: %+v", name, got)
		} else if strings.ContainsAny(err.Error(), "\x1b\x07") {
			t.Errorf("%s: the error carries the guest's control characters: %q", name, err)
		}
	}
}

func TestHostileRefusals(t *testing.T) {
	t.Parallel()
	for _, message := range []string{"", "\x1b[2Jgone", strings.Repeat("x", 200<<10), `{"code":"no-session","message":"\u001b[31mred"}`, `{"code":"\u0007","message":{}}`} {
		c := evil{reject: message}.dial(t)
		_, err := start(t, c, client.Attach{})
		if err == nil || strings.ContainsAny(err.Error(), "\x1b\x07") || len(err.Error()) > 4096 {
			t.Errorf("%.30q: %.60q", message, err)
		}
		if code := client.ExitCode(err); code != 125 {
			t.Errorf("%.30q: exit code %d", message, code)
		}
	}
}

// A session that lies about itself or its end is an error; what it may claim
// is only what a process can end with.
func TestHostileSessions(t *testing.T) {
	t.Parallel()
	type request struct {
		name    string
		payload string
	}
	tests := map[string][]request{
		"no result":         {{guestapi.ReqInfo, `{"id":"a"}`}},
		"no id":             {{guestapi.ReqInfo, `{}`}, {guestapi.ReqResult, `{}`}},
		"impossible status": {{guestapi.ReqInfo, `{"id":"a"}`}, {guestapi.ReqResult, `{"exit_code":-1}`}},
		"wrong type":        {{guestapi.ReqInfo, `{"id":"a"}`}, {guestapi.ReqResult, `[]`}},
		"giant info":        {{guestapi.ReqInfo, `{"id":"a","user":"` + strings.Repeat("x", 100<<10) + `"}`}},
		"giant result":      {{guestapi.ReqInfo, `{"id":"a"}`}, {guestapi.ReqResult, `{"signal":"` + strings.Repeat("x", 100<<10) + `"}`}},
		"nothing":           {},
		"unknown":           {{"what@is.this", "?"}},
	}
	for name, reqs := range tests {
		c := evil{accept: func(ch ssh.Channel, in <-chan *ssh.Request) {
			go ssh.DiscardRequests(in)
			for _, r := range reqs {
				_, _ = ch.SendRequest(r.name, false, []byte(r.payload))
			}
			ch.Close()
		}}.dial(t)
		if res, err := start(t, c, client.Attach{}); err == nil {
			t.Errorf("%s: %+v", name, res)
		}
		if i, err := c.StartDetached(guesttest.Context(t), guestapi.SessionSpec{Args: []string{"x"}}); err == nil && i.ID != "a" {
			t.Errorf("%s: %+v", name, i)
		}
	}
	// Detached is the host's word, not the guest's.
	c := evil{accept: func(ch ssh.Channel, in <-chan *ssh.Request) {
		go ssh.DiscardRequests(in)
		_, _ = ch.SendRequest(guestapi.ReqInfo, false, info("a"))
		_, _ = ch.SendRequest(guestapi.ReqResult, false, []byte(`{"detached":true,"signal":"\u001b[2J","new":1}`))
		ch.Close()
	}}.dial(t)
	if res, err := start(t, c, client.Attach{}); err != nil || res.Detached || res.Signal != "?[2J" {
		t.Errorf("%+v, %v", res, err)
	}
}

// Output without end flows on, ends when the caller wants it to, and nothing is
// written after the return.
func TestEndlessOutput(t *testing.T) {
	t.Parallel()
	c := evil{accept: func(ch ssh.Channel, in <-chan *ssh.Request) {
		go ssh.DiscardRequests(in)
		_, _ = ch.SendRequest(guestapi.ReqInfo, false, info("a"))
		go flood(ch.Stderr())
		flood(ch)
	}}.dial(t)
	for _, detach := range []bool{true, false} {
		ctx, cancel := context.WithCancel(guesttest.Context(t))
		stop := make(chan struct{})
		w := &counter{limit: 10 << 20, reached: func() {
			if detach {
				close(stop)
			} else {
				cancel()
			}
		}}
		res, err := c.Start(ctx, guestapi.SessionSpec{Args: []string{"yes"}}, client.Attach{Stdout: w, Detach: stop})
		w.over = true // the race detector watches
		if detach && (err != nil || !res.Detached) || !detach && !errors.Is(err, context.Canceled) {
			t.Errorf("detach %t: %+v, %v", detach, res, err)
		}
		cancel()
	}
}

// counter counts; it must not be written to once over.
type counter struct {
	n, limit int
	reached  func()
	over     bool
}

func (w *counter) Write(p []byte) (int, error) {
	if w.over {
		panic("written to after the return")
	}
	if w.n < w.limit && w.n+len(p) >= w.limit {
		w.reached()
	}
	w.n += len(p)
	return len(p), nil
}

// A local writer that fails ends the attachment with its error.
func TestBrokenStdout(t *testing.T) {
	t.Parallel()
	c := guesttest.Start(t).Dial(t)
	r, w := io.Pipe()
	r.CloseWithError(errors.New("no space left"))
	_, err := c.Start(guesttest.Context(t), guestapi.SessionSpec{Args: []string{"yes"}}, client.Attach{Stdout: w})
	if err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Error(err)
	}
}

func TestHostileEvents(t *testing.T) {
	t.Parallel()
	giant := binary.BigEndian.AppendUint32(nil, 0xffffffff)
	for _, b := range [][]byte{append(giant, giant...), []byte("\x00\x00\x00\x02\x00\x00\x00\x00[]"), []byte("short"), nil} {
		c := evil{accept: func(ch ssh.Channel, in <-chan *ssh.Request) {
			go ssh.DiscardRequests(in)
			_, _ = ch.Write(b)
			ch.Close()
		}}.dial(t)
		err := c.Events(guesttest.Context(t), guestapi.EventsRequest{}, func(e *guestapi.Event) error {
			t.Errorf("%q gave %+v", b, e)
			return nil
		})
		if !errors.Is(err, sandbox.ErrInvalid) && !errors.Is(err, sandbox.ErrUnavailable) {
			t.Errorf("%q: %v", b, err)
		}
	}
}

// A guest opens nothing towards the host and asks nothing of it, however often
// it tries.
func TestGuestAsks(t *testing.T) {
	t.Parallel()
	refused := make(chan string, 10)
	c := evil{reject: "busy", conn: func(sc *ssh.ServerConn) {
		for _, name := range []string{"session", "forwarded-tcpip", "auth-agent@openssh.com", "x11"} {
			if _, _, err := sc.OpenChannel(name, nil); err == nil {
				refused <- name + " was accepted"
			}
		}
		for range 100 {
			if ok, _, err := sc.SendRequest("tcpip-forward", true, nil); ok || err != nil {
				refused <- "tcpip-forward was accepted"
			}
		}
		close(refused)
	}}.dial(t)
	for text := range refused {
		t.Error(text)
	}
	if err := c.Ping(guesttest.Context(t)); err == nil || !strings.Contains(err.Error(), "busy") {
		t.Error(err)
	}
}

// With an agent on offer a guest may open that and nothing else, and not without
// end.
func TestGuestAsksForAgent(t *testing.T) {
	t.Parallel()
	offered, result := make(chan struct{}), make(chan string, 10)
	c := evil{reject: "busy", conn: func(sc *ssh.ServerConn) {
		defer close(result)
		<-offered
		for _, name := range []string{"session", "forwarded-tcpip", "auth-agent", "x11"} {
			if _, _, err := sc.OpenChannel(name, nil); err == nil {
				result <- name + " was accepted"
			}
		}
		open := 0
		for range 3 * guestapi.MaxAgents {
			if ch, reqs, err := sc.OpenChannel(guestapi.ChanAgent, nil); err == nil {
				go ssh.DiscardRequests(reqs)
				go flood(ch.Stderr())
				open++
			}
		}
		if open != guestapi.MaxAgents {
			result <- fmt.Sprint(open, " connections to the agent were accepted")
		}
	}}.dial(t)
	c.ServeAgent(func(rw io.ReadWriteCloser) { _, _ = io.Copy(io.Discard, rw) })
	close(offered)
	for text := range result {
		t.Error(text)
	}
}

// A guest that never answers costs the caller its context and no more.
func TestSilentGuest(t *testing.T) {
	t.Parallel()
	c := evil{accept: func(ch ssh.Channel, in <-chan *ssh.Request) { ssh.DiscardRequests(in) }}.dial(t)
	short := func() context.Context {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}
	calls := map[string]func() error{
		"ping": func() error { return c.Ping(short()) },
		"start": func() error {
			_, err := c.Start(short(), guestapi.SessionSpec{Args: []string{"x"}}, client.Attach{})
			return err
		},
		"detached": func() error {
			_, err := c.StartDetached(short(), guestapi.SessionSpec{Args: []string{"x"}})
			return err
		},
		"events": func() error { return c.Events(short(), guestapi.EventsRequest{}, nil) },
	}
	for name, call := range calls {
		if err := call(); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := c.SFTP(short(), ""); err == nil {
		t.Error("files of a silent guest")
	}
	// And the handshake: a listener that says nothing.
	a, b := net.Pipe()
	defer b.Close()
	key, _ := guesttest.Key(t)
	if _, err := client.Dial(short(), a, key, key.PublicKey()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("dial: %v", err)
	}
	if _, err := a.Write(nil); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("the connection was left open: %v", err)
	}
}

func TestMain(m *testing.M) { guesttest.Main(m) }

// A guest that was taken over asks for pages as it likes. What is none is told
// so, what is too long ends it, and nothing of it makes the host wait.
func TestHostilePages(t *testing.T) {
	long := strings.Repeat("x", guestapi.MaxPage+1)
	for _, c := range []struct {
		name, said string
		shown      int
		answers    string // of the host's, for each line one
		ends       bool   // by itself
	}{
		{"two pages", `{"url":"https://a"}` + "\n" + `{"url":"https://b"}` + "\n", 2, "{}\n{}\n", false},
		{"no JSON", "https://a\n\x00\xff\n\n", 0, "eee", false},
		{"another type", `{"url":1}` + "\n[]\nnull\n", 0, "eee", false},
		{"no address", `{"url":""}` + "\n", 0, "e", false},
		{"two on a line", `{"url":"https://a"}{"url":"https://b"}` + "\n", 0, "e", false},
		{"no end", `{"url":"https://a"}`, 0, "", false},
		{"too long", long, 0, "", true},
		{"too long, and one more", long + "\n" + `{"url":"https://a"}` + "\n", 0, "", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			answers := make(chan string, 1)
			cl := evil{accept: func(ch ssh.Channel, reqs <-chan *ssh.Request) {
				go ssh.DiscardRequests(reqs)
				_, _ = io.WriteString(ch, c.said)
				var got strings.Builder
				for r := bufio.NewReader(ch); strings.Count(got.String(), "\n") < len(c.answers) && !strings.HasPrefix(c.answers, "{") || got.Len() < len(c.answers); {
					line, err := r.ReadString('\n')
					if err != nil {
						break
					}
					got.WriteString(line)
				}
				answers <- got.String()
			}}.dial(t)
			ctx, cancel := context.WithCancel(guesttest.Context(t))
			defer cancel()
			shown := 0
			ended := make(chan error, 1)
			go func() { ended <- cl.Browse(ctx, func(string) error { shown++; return nil }) }()
			got := <-answers
			if c.ends {
				if err := <-ended; err == nil || ctx.Err() != nil {
					t.Errorf("it ends with %v", err)
				}
			} else {
				cancel()
				if err := <-ended; !errors.Is(err, context.Canceled) {
					t.Errorf("it ends with %v", err)
				}
			}
			if shown != c.shown || strings.HasPrefix(c.answers, "{") && got != c.answers || strings.HasPrefix(c.answers, "e") && strings.Count(got, `{"error":`) != len(c.answers) {
				t.Errorf("%d pages are shown, the guest is told %q", shown, got)
			}
		})
	}
	// One that asks and never reads the answers.
	cl := evil{accept: func(ch ssh.Channel, reqs <-chan *ssh.Request) {
		go ssh.DiscardRequests(reqs)
		for {
			if _, err := io.WriteString(ch, `{"url":"https://a"}`+"\n"); err != nil {
				return
			}
		}
	}}.dial(t)
	ctx, cancel := context.WithTimeout(guesttest.Context(t), 300*time.Millisecond)
	defer cancel()
	begun := time.Now()
	err := cl.Browse(ctx, func(string) error { return errors.New(strings.Repeat("no ", 1000)) })
	if err == nil || time.Since(begun) > 10*time.Second {
		t.Errorf("it ends with %v after %s", err, time.Since(begun))
	}
}

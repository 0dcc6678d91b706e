package control

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"berth.dev/internal/sandbox"
)

// serve answers connections to a socket with handle until the test ends.
func serve(t *testing.T, handle func(*Conn)) *Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.AcceptUnix()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				if c, err := Accept(conn); err == nil {
					handle(c)
				}
			}()
		}
	}()
	return NewClient(path)
}

func TestCall(t *testing.T) {
	c := serve(t, func(c *Conn) {
		if c.Request.Op == OpStatus {
			_ = c.Reply(Status{PID: 7, Sessions: 2}, nil)
			return
		}
		_ = c.Reply(nil, sandbox.Errorf(sandbox.ErrForbidden, "no %s", c.Request.Op).WithHint("do %t", c.Request.Discard))
	})
	st, err := c.Status(t.Context())
	if err != nil || st.PID != 7 || st.Sessions != 2 {
		t.Errorf("%+v, %v", st, err)
	}
	err = c.Stop(t.Context(), true)
	if !errors.Is(err, sandbox.ErrForbidden) || err.Error() != "no stop" || sandbox.HintOf(err) != "do true" {
		t.Errorf("%v (%s)", err, sandbox.HintOf(err))
	}
}

func TestGuestTunnel(t *testing.T) {
	public, private, _ := ed25519.GenerateKey(nil)
	c := serve(t, func(c *Conn) {
		_ = c.Reply(GuestKeys{Client: private, Host: public}, nil)
		_, _ = io.Copy(c.Conn, c) // what came with the request included
		_ = c.CloseWrite()
	})
	conn, keys, err := c.Guest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if !bytes.Equal(keys.Host, public) {
		t.Error("the keys changed on their way")
	}
	if _, err := io.WriteString(conn, "through"); err != nil {
		t.Fatal(err)
	}
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); err != nil || string(got) != "through" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestLayer(t *testing.T) {
	blob := bytes.Repeat([]byte("layer "), 500_000)
	for _, fail := range []error{nil, sandbox.Errorf(sandbox.ErrUnavailable, "disk full")} {
		c := serve(t, func(c *Conn) {
			_ = c.Reply(nil, nil)
			w := NewChunkWriter(c.Conn)
			_, _ = w.Write(blob)
			_ = w.Finish(fail)
		})
		var got bytes.Buffer
		err := c.Layer(t.Context(), &got)
		if sandbox.ClassOf(err) != sandbox.ClassOf(fail) || !bytes.Equal(got.Bytes(), blob) {
			t.Errorf("%d bytes, %v; want %v", got.Len(), err, fail)
		}
	}
	broken := serve(t, func(c *Conn) {
		_ = c.Reply(nil, nil)
		_, _ = NewChunkWriter(c.Conn).Write([]byte("half"))
	})
	if err := broken.Layer(t.Context(), io.Discard); err == nil {
		t.Error("a stream that broke off was taken for a whole one")
	}
}

func TestNobodyThere(t *testing.T) {
	_, err := NewClient(filepath.Join(t.TempDir(), "none")).Status(t.Context())
	if !errors.Is(err, sandbox.ErrPrecondition) {
		t.Errorf("no socket: %v", err)
	}
	silent := serve(t, func(c *Conn) {})
	if _, err := silent.Status(t.Context()); !errors.Is(err, sandbox.ErrUnavailable) {
		t.Errorf("no answer: %v", err)
	}
	block := make(chan struct{})
	defer close(block)
	stuck := serve(t, func(c *Conn) { <-block })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := stuck.Status(ctx); err == nil {
		t.Error("a cancelled call came back without an error")
	}
}

func TestOtherVersion(t *testing.T) {
	client, server := net.Pipe()
	defer client.Close()
	answered := make(chan Reply, 1)
	go func() {
		_ = WriteLine(client, Request{Version: Version + 1, Op: OpStatus})
		var r Reply
		_ = ReadLine(bufio.NewReader(client), &r)
		answered <- r
	}()
	if _, err := Accept(server); err == nil {
		t.Error("another version was accepted")
	}
	if r := <-answered; r.Error == nil || !errors.Is(r.Error.Unwrap(), sandbox.ErrPrecondition) {
		t.Errorf("the client was told %+v", r)
	}
}

func TestLongLine(t *testing.T) {
	long := strings.NewReader(`"` + strings.Repeat("x", MaxLine+1) + "\"\n")
	var s string
	if err := ReadLine(bufio.NewReader(long), &s); !errors.Is(err, sandbox.ErrInvalid) {
		t.Errorf("a line over the limit: %v", err)
	}
}

func FuzzReadLine(f *testing.F) {
	f.Add([]byte("{\"version\":1,\"op\":\"status\"}\nrest"))
	f.Add([]byte("{"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var req Request
		_ = ReadLine(bufio.NewReader(bytes.NewReader(data)), &req)
	})
}

func FuzzReadChunks(f *testing.F) {
	var b bytes.Buffer
	w := NewChunkWriter(&b)
	_, _ = w.Write([]byte("some"))
	_ = w.Finish(nil)
	f.Add(b.Bytes())
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		var out bytes.Buffer
		_ = ReadChunks(&out, bufio.NewReader(bytes.NewReader(data)))
		if out.Len() > len(data) {
			t.Errorf("%d bytes came out of %d", out.Len(), len(data))
		}
	})
}

// An older supervisor's answer to a new operation is told from other refusals,
// across the wire.
func TestUnknownOp(t *testing.T) {
	if err := WrapError(UnknownOp("bind")).Unwrap(); !IsUnknownOp(err) {
		t.Errorf("%v", err)
	}
	if IsUnknownOp(nil) || IsUnknownOp(sandbox.Errorf(sandbox.ErrInvalid, "no")) {
		t.Error("taken for an unknown operation")
	}
}

// TestAgent: a use crosses as it is, and a question whose client leaves ends.
func TestAgent(t *testing.T) {
	use := AgentUse{Purpose: "sign-in", Key: "SHA256:k", Comment: "key", Host: "git.example", Known: true, User: "git", Allowed: true, Reason: "r", Error: "e"}
	asking, left := make(chan struct{}), make(chan struct{})
	c := serve(t, func(c *Conn) {
		switch {
		case c.Request.Agent == nil || *c.Request.Agent != use:
			_ = c.Reply(nil, sandbox.Errorf(sandbox.ErrInternal, "%+v", c.Request.Agent))
		case c.Request.Op == OpAgentUse:
			_ = c.Reply(nil, nil)
		case c.Request.Op == OpAgentAsk:
			close(asking)
			_, _ = io.Copy(io.Discard, c)
			close(left)
		}
	})
	if err := c.AgentUse(t.Context(), use); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	asked := make(chan error)
	go func() {
		_, err := c.AgentAsk(ctx, use)
		asked <- err
	}()
	<-asking
	cancel()
	<-left
	if err := <-asked; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	c = serve(t, func(c *Conn) { _ = c.Reply(AgentAnswer{Answer: "once"}, nil) })
	if answer, err := c.AgentAsk(t.Context(), use); err != nil || answer != "once" {
		t.Errorf("%q, %v", answer, err)
	}
}

// TestSumOf: files that have to be given to a guest anew have another sum.
func TestSumOf(t *testing.T) {
	plain := []GuestFile{{Path: "a", Content: []byte("b")}}
	merged := []GuestFile{{Path: "a", Content: []byte(`{"at":1}`), Merge: true, Mark: "m"}}
	if SumOf(nil) != nil {
		t.Error("no files have a sum")
	}
	for what, other := range map[string][]GuestFile{
		"content": {{Path: "a", Content: []byte("c")}}, "name": {{Path: "c", Content: []byte("b")}},
		"more": append(slices.Clone(plain), plain...), "ends elsewhere": {{Path: "a1 ", Content: []byte("b")}},
	} {
		if bytes.Equal(SumOf(plain), SumOf(other)) {
			t.Errorf("another %s has the same sum", what)
		}
	}
	// What is merged says the time, and is not written where its mark is.
	later := []GuestFile{{Path: "a", Content: []byte(`{"at":2}`), Merge: true, Mark: "m"}}
	if !bytes.Equal(SumOf(merged), SumOf(later)) {
		t.Error("the same mark has two sums")
	}
	later[0].Mark = "n"
	if bytes.Equal(SumOf(merged), SumOf(later)) {
		t.Error("two marks have the same sum")
	}
}

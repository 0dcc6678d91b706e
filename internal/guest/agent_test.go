package guest_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh/agent"

	"berth.dev/internal/guest/guesttest"
	"berth.dev/internal/guestapi"
	"berth.dev/internal/guestapi/client"
)

// keyring serves an agent with one key, which is called "forwarded".
func keyring(t *testing.T) func(io.ReadWriteCloser) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ring := agent.NewKeyring()
	if err := ring.Add(agent.AddedKey{PrivateKey: key, Comment: "forwarded"}); err != nil {
		t.Fatal(err)
	}
	return func(rw io.ReadWriteCloser) { _ = agent.ServeAgent(ring, rw) }
}

// runWithAgent runs a script in a session that has the client's agent.
func runWithAgent(t *testing.T, c *client.Client, script string) (guestapi.Result, string) {
	t.Helper()
	var out bytes.Buffer
	res, err := c.Start(guesttest.Context(t), sh(script), client.Attach{Stdout: &out, Stderr: &out, SSHAgent: true})
	if err != nil {
		t.Fatal(err)
	}
	return res, out.String()
}

// TestAgentSocket: the session that asked for it has a socket of its own, nobody
// else's to use, which is gone when the session is.
func TestAgentSocket(t *testing.T) {
	t.Parallel()
	g := guesttest.Start(t)
	c := g.Dial(t)
	c.ServeAgent(keyring(t))
	res, out := runWithAgent(t, c, `ssh-add -l && stat -c '%a %U %F' "$SSH_AUTH_SOCK" "$(dirname "$SSH_AUTH_SOCK")" && echo "$SSH_AUTH_SOCK"`)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if res.ExitCode != 0 || len(lines) != 4 || !strings.Contains(lines[0], "forwarded") {
		t.Fatalf("status %d: %s", res.ExitCode, out)
	}
	if !strings.HasPrefix(lines[1], "600 ") || !strings.HasSuffix(lines[1], " socket") || !strings.HasPrefix(lines[2], "700 ") {
		t.Errorf("modes: %q, %q", lines[1], lines[2])
	}
	gone(t, filepath.Dir(lines[3]))

	if _, out, _ := run(t, c, sh(`echo "<$SSH_AUTH_SOCK>"`), nil); out != "<>\n" {
		t.Errorf("a session that did not ask has an agent: %s", out)
	}
	// What could not be started leaves nothing.
	_, err := c.Start(guesttest.Context(t), guestapi.SessionSpec{Args: []string{"no-such-command"}}, client.Attach{SSHAgent: true})
	if left, _ := os.ReadDir(filepath.Join(g.Config.StateDir, "agents")); err == nil || len(left) != 0 {
		t.Errorf("%v, left behind: %v", err, left)
	}
	// The owner of the folder can make it hard to remove, and not lead elsewhere.
	kept := filepath.Join(t.TempDir(), "kept")
	if err := os.WriteFile(kept, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, out = runWithAgent(t, c, `cd "$(dirname "$SSH_AUTH_SOCK")"; rm agent; mkdir -p d/e; ln -s `+filepath.Dir(kept)+` d/link; ln -s `+filepath.Dir(kept)+` agent; chmod 0 d; pwd`)
	gone(t, strings.TrimSpace(out))
	if _, err := os.Stat(kept); err != nil {
		t.Error(err)
	}
}

func gone(t *testing.T, dir string) {
	t.Helper()
	for end := time.Now().Add(guesttest.Timeout); ; time.Sleep(time.Millisecond) {
		if _, err := os.Lstat(dir); os.IsNotExist(err) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s is still there", dir)
		}
	}
}

// TestAgentBelongsToItsConnection: another client's sessions do not reach an
// agent, and when its own connection is gone nobody answers.
func TestAgentBelongsToItsConnection(t *testing.T) {
	t.Parallel()
	g := guesttest.Start(t)
	with, without := g.Dial(t), g.Dial(t)
	with.ServeAgent(keyring(t))
	if res, out := runWithAgent(t, without, `ssh-add -l`); res.ExitCode == 0 {
		t.Errorf("the agent of another connection answers: %s", out)
	}
	mark := filepath.Join(g.Dir, "mark")
	started := make(chan struct{})
	go func() {
		_, _ = with.Start(guesttest.Context(t), sh(`ssh-add -l; echo ready; while [ ! -e go ]; do sleep 0.01; done; ssh-add -l > out 2>&1; echo $? > mark`),
			client.Attach{Stdout: &waiter{want: "ready", got: started}, SSHAgent: true})
	}()
	<-started
	with.Close()
	if err := os.WriteFile(filepath.Join(g.Dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(guesttest.Timeout); ; time.Sleep(time.Millisecond) {
		if b, err := os.ReadFile(mark); err == nil && len(b) > 1 {
			if strings.TrimSpace(string(b)) == "0" {
				t.Error("the agent answers after its client has gone")
			}
			return
		}
		if time.Now().After(end) {
			t.Fatal("the session did not go on")
		}
	}
}

// TestAgentConnectionBound: a session that opens many connections gets no more
// than the bound, and they are free again afterwards.
func TestAgentConnectionBound(t *testing.T) {
	t.Parallel()
	g := guesttest.Start(t)
	c := g.Dial(t)
	var open, most atomic.Int32
	serve := keyring(t)
	c.ServeAgent(func(rw io.ReadWriteCloser) {
		most.Store(max(most.Load(), open.Add(1)))
		defer open.Add(-1)
		serve(rw)
	})
	script := fmt.Sprintf(`import os, socket
def conn():
    s = socket.socket(socket.AF_UNIX); s.connect(os.environ["SSH_AUTH_SOCK"])
    try:
        s.sendall(b"\0\0\0\1\13"); return s, s.recv(1)
    except OSError: # refused
        return s, b""
all = [conn() for _ in range(%d)]
print(sum(1 for s, b in all if b))
for s, b in all: s.close()
for _ in range(1000):
    s, b = conn()
    s.close()
    if b: break
print(len(b))`, guestapi.MaxAgents+20)
	res, out := runWithAgent(t, c, "python3 - <<'END'\n"+script+"\nEND")
	if want := fmt.Sprintf("%d\n1\n", guestapi.MaxAgents); res.ExitCode != 0 || out != want {
		t.Errorf("status %d, %q", res.ExitCode, out)
	}
	if n := most.Load(); n > guestapi.MaxAgents {
		t.Errorf("%d at once", n)
	}
}

// TestOpenSSHAgent: a client of OpenSSH's can forward its agent, too.
func TestOpenSSHAgent(t *testing.T) {
	t.Parallel()
	g := guesttest.Start(t)
	path := filepath.Join(t.TempDir(), "agent")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	serve := keyring(t)
	go func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			go serve(nc)
		}
	}()
	for _, flag := range []string{"-A", "-a"} {
		cmd := openssh(t, g, "ssh", flag, "guest", "ssh-add -l")
		cmd.Env = append(os.Environ(), "SSH_AUTH_SOCK="+path)
		out, err := cmd.CombinedOutput()
		if forwarded := err == nil && strings.Contains(string(out), "forwarded"); forwarded != (flag == "-A") {
			t.Errorf("ssh %s: %v\n%s", flag, err, out)
		}
	}
}

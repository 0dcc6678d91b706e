package guest_test

import (
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/creack/pty"
	"golang.org/x/crypto/ssh"

	"berth.dev/internal/guest/guesttest"
)

// openssh makes a command of the real OpenSSH suite that knows the guest.
func openssh(t *testing.T, g *guesttest.Guest, program string, args ...string) *exec.Cmd {
	t.Helper()
	dir := t.TempDir()
	addr := netip.MustParseAddrPort(g.Config.Listen)
	known := fmt.Sprintf("[%s]:%d %s", addr.Addr(), addr.Port(), ssh.MarshalAuthorizedKey(g.HostKey))
	config := fmt.Sprintf(`Host guest
HostName %s
Port %d
User agent
BindAddress %s
IdentityFile %s/key
IdentitiesOnly yes
UserKnownHostsFile %s/known
StrictHostKeyChecking yes
BatchMode yes
LogLevel ERROR
`, addr.Addr(), addr.Port(), g.Config.Peer, dir, dir)
	for name, content := range map[string]string{"key": string(g.ClientPEM), "known": known, "config": config} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return exec.CommandContext(guesttest.Context(t), program, append([]string{"-F", filepath.Join(dir, "config")}, args...)...)
}

func TestOpenSSHExec(t *testing.T) {
	t.Parallel()
	g := guesttest.Start(t)
	tests := []struct {
		args []string
		in   string
		code int
		out  string
	}{
		{[]string{"guest", "cat; echo err >&2; exit 3"}, "in\x00put", 3, "in\x00put"},
		{[]string{"guest", "no-such-command"}, "", 127, ""},
		{[]string{"guest", "kill -9 $$"}, "", 255, ""}, // ssh's status for a signal
		{[]string{"-o", "SetEnv=FOO=bar", "guest", "echo $FOO $HOME $USER $LANG; pwd"}, "", 0, fmt.Sprintf("bar %s agent C.UTF-8\n%[1]s\n", g.Dir)},
		{[]string{"-tt", "guest", "stty -echo -onlcr; read -t 0.3 x; echo rc=$? x=$x"}, "", 0, "rc=142 x=\n"}, // no end of file in a terminal
		{[]string{"-T", "guest"}, "echo from the shell; exit 4\n", 4, "from the shell\n"},
	}
	for _, tt := range tests {
		cmd := openssh(t, g, "ssh", tt.args...)
		cmd.Stdin = strings.NewReader(tt.in)
		out, err := cmd.Output()
		if cmd.ProcessState.ExitCode() != tt.code || string(out) != tt.out {
			t.Errorf("%q: status %d, %q, %v", tt.args, cmd.ProcessState.ExitCode(), out, err)
		}
	}
}

// ssh in a real terminal of ours: its size, its keys and its modes reach the
// session.
func TestOpenSSHTerminal(t *testing.T) {
	t.Parallel()
	g := guesttest.Start(t)
	cmd := openssh(t, g, "ssh", "-tt", "guest", "stty size; echo TERM=$TERM; stty -a | grep -o 'intr = [^;]*'; trap 'stty size; exit 5' WINCH; trap 'echo int' QUIT; echo ready; while :; do sleep 0.01; done")
	cmd.Env = append(os.Environ(), "TERM=vt220")
	tty, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 33, Cols: 99})
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	out := &screen{more: make(chan struct{}, 1)}
	go io.Copy(out, tty)
	k := &console{t: t, out: out}
	k.see("33 99", 1)
	k.see("TERM=vt220", 1)
	k.see("intr = ^C", 1)
	k.see("ready", 1)
	fmt.Fprint(tty, "\x1c") // Ctrl-\ reaches the remote line discipline
	k.see("int\r\n", 1)
	if err := pty.Setsize(tty, &pty.Winsize{Rows: 40, Cols: 120}); err != nil {
		t.Fatal(err)
	}
	k.see("40 120", 1)
	if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != 5 {
		t.Fatalf("status %d, %q", cmd.ProcessState.ExitCode(), out.log.String())
	}
}

// As with sshd, a standard session does not outlive its connection.
func TestOpenSSHHangup(t *testing.T) {
	t.Parallel()
	g := guesttest.Start(t)
	c := g.Dial(t)
	mark := filepath.Join(g.Dir, "hup")
	cmd := openssh(t, g, "ssh", "-tt", "guest", "trap 'echo hup > "+mark+"; exit' HUP; echo ready; while :; do sleep 0.01; done")
	out := &screen{more: make(chan struct{}, 1)}
	cmd.Stdout = out
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	(&console{t: t, out: out}).see("ready", 1)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	for ctx := guesttest.Context(t); ; {
		all, err := c.Sessions(ctx)
		if err != nil || len(all) != 1 {
			t.Fatalf("%v, %v", all, err)
		}
		if all[0].Result != nil {
			break
		}
	}
	if b, err := os.ReadFile(mark); err != nil || string(b) != "hup\n" {
		t.Errorf("%q, %v", b, err)
	}
}

func TestOpenSSHFiles(t *testing.T) {
	t.Parallel()
	g := guesttest.Start(t)
	local := filepath.Join(t.TempDir(), "file")
	data := bytes.Repeat([]byte("sftp\x00"), 200_000)
	if err := os.WriteFile(local, data, 0o640); err != nil {
		t.Fatal(err)
	}
	cmd := openssh(t, g, "sftp", "-b", "-", "guest")
	cmd.Stdin = strings.NewReader(fmt.Sprintf("mkdir sub\nput -p %s sub/copy\nrename sub/copy sub/moved\nln -s moved sub/link\nls -l sub\n", local))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("sftp: %v\n%s", err, out)
	}
	b, err := os.ReadFile(filepath.Join(g.Dir, "sub/link"))
	if err != nil || !bytes.Equal(b, data) {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	if to, err := os.Readlink(filepath.Join(g.Dir, "sub/link")); to != "moved" {
		t.Errorf("the link leads to %q, %v", to, err)
	}
	if out, err := openssh(t, g, "scp", "guest:sub/moved", local+"2").CombinedOutput(); err != nil {
		t.Fatalf("scp: %v\n%s", err, out)
	}
	if b, err := os.ReadFile(local + "2"); err != nil || !bytes.Equal(b, data) {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
}

func TestOpenSSHForward(t *testing.T) {
	t.Parallel()
	g := guesttest.Start(t)
	cmd := openssh(t, g, "ssh", "-W", g.Config.Peer+":1", "guest")
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "forwarding failed") {
		t.Errorf("to a closed port: %v, %q", err, out)
	}
	// Through the guest to the guest's own SSH port, which refuses it: the
	// address that it comes from is not the peer's.
	cmd = openssh(t, g, "ssh", "-W", g.Config.Listen, "guest")
	cmd.Stdin = strings.NewReader("SSH-2.0-x\r\n")
	if out, err := cmd.Output(); len(out) > 0 {
		t.Errorf("the guest's port answers the guest: %q, %v", out, err)
	}
}

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// secret is what every server of the world says to whom it should not. The
// attacker knows it.
const secret = "the-secret-of-the-origin"

// Ports of services of the host's own. The first is served on every address,
// the other on 127.0.0.1 alone.
const loopbackPort, onlyLoopbackPort = 7777, 7778

// resolverAddress is the resolver that the host is told to ask.
const resolverAddress = "192.0.2.53"

// world is a machine with a network of its own: namespaces in which every
// address of the internet, of the local network and of the machine itself is
// local, and servers of the test's that answer on them. What reaches them is
// noted. Berth runs in it as on any host.
type world struct {
	u      *user
	dir    string
	keeper *exec.Cmd
	socket int // to the keeper
	ca     *authority
	ech    echKey

	mu    sync.Mutex
	hits  []string
	flips map[string]int
}

// programs are the test's own, which all users and sandboxes share.
var programs = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(suite.dir, "adversary")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", dir+"/", "./testdata/adversary/keeper", "./testdata/adversary/attacker")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return dir, nil
})

func program(t *testing.T, name string) string {
	t.Helper()
	dir, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, name)
}

// newWorld starts one for a user. It ends with the test.
func newWorld(t *testing.T, u *user) *world {
	t.Helper()
	dir, err := os.MkdirTemp(suite.dir, "world-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	w := &world{u: u, dir: dir, flips: map[string]int{}}
	conf := filepath.Join(dir, "resolv.conf")
	if err := os.WriteFile(conf, []byte("nameserver "+resolverAddress+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "keeper")
	w.socket = pair[0]
	w.keeper = exec.Command(program(t, "keeper"), conf)
	w.keeper.ExtraFiles = []*os.File{theirs}
	var said bytes.Buffer
	w.keeper.Stderr = &said
	w.keeper.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS}
	if os.Geteuid() != 0 {
		w.keeper.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		w.keeper.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		w.keeper.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	if err := w.keeper.Start(); err != nil {
		t.Fatal(err)
	}
	_ = theirs.Close()
	t.Cleanup(func() {
		_ = unix.Close(w.socket)
		_ = w.keeper.Wait() // it ends when its socket does
	})
	if answer, _ := w.receive(); answer != "ready" {
		_ = w.keeper.Wait()
		t.Fatalf("the keeper of the namespaces: %s", said.String())
	}
	w.serve(t)
	return w
}

// receive reads one message of the keeper's, and the descriptor with it.
func (w *world) receive() (string, int) {
	buf, oob := make([]byte, 1024), make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := unix.Recvmsg(w.socket, buf, oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return err.Error(), -1
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(messages) == 0 {
		return string(buf[:n]), -1
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return "no descriptor", -1
	}
	return string(buf[:n]), fds[0]
}

// open opens a socket inside.
func (w *world) open(network, address string) (*os.File, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := unix.Send(w.socket, []byte(network+" "+address), 0); err != nil {
		return nil, err
	}
	answer, fd := w.receive()
	if fd < 0 {
		return nil, errors.New(answer)
	}
	return os.NewFile(uintptr(fd), network+" "+address), nil
}

func (w *world) listen(t *testing.T, network, address string) net.Listener {
	t.Helper()
	f, err := w.open(network, address)
	if err != nil {
		t.Fatalf("listen on %s %s: %v", network, address, err)
	}
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func (w *world) listenPacket(t *testing.T, network, address string) net.PacketConn {
	t.Helper()
	f, err := w.open(network, address)
	if err != nil {
		t.Fatalf("listen on %s %s: %v", network, address, err)
	}
	defer f.Close()
	pc, err := net.FilePacketConn(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pc.Close() })
	return pc
}

// note remembers that something arrived.
func (w *world) note(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hits = append(w.hits, fmt.Sprintf(format, args...))
}

// count says how often something with this text in it arrived.
func (w *world) count(text string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, h := range w.hits {
		if strings.Contains(h, text) {
			n++
		}
	}
	return n
}

// enter makes a command one that runs in the world; as the user, or as root of
// the namespaces.
func (w *world) enter(cmd *exec.Cmd, asRoot bool) *exec.Cmd {
	args := []string{"nsenter", "--target", fmt.Sprint(w.keeper.Process.Pid), "--net", "--mount"}
	switch {
	case os.Geteuid() != 0:
		args = append(args, "--user", "--preserve-credentials", "--")
		if !asRoot {
			args = append(args, "unshare", fmt.Sprintf("--map-user=%d", os.Geteuid()), fmt.Sprintf("--map-group=%d", os.Getegid()), "--")
		}
	case !asRoot && w.u.uid != 0:
		args = append(args, fmt.Sprintf("--setuid=%d", w.u.uid), fmt.Sprintf("--setgid=%d", w.u.uid), "--")
	default:
		args = append(args, "--")
	}
	path, err := exec.LookPath("nsenter")
	if err != nil {
		cmd.Err = err
		return cmd
	}
	// A folder that was opened outside has no path inside.
	cmd.Args = append(append(args, "env", "--chdir="+cmd.Dir, cmd.Path), cmd.Args[1:]...)
	cmd.Path = path
	cmd.SysProcAttr = nil
	return cmd
}

// berth runs berth in the world.
func (w *world) berth(t *testing.T, dir string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := w.u.command(ctx, dir, args...)
	cmd.Env = append(cmd.Env, "SSL_CERT_FILE="+w.ca.file)
	return finish(t, w.enter(cmd, false))
}

func (w *world) must(t *testing.T, dir string, args ...string) string {
	t.Helper()
	r := w.berth(t, dir, args...)
	if r.code != 0 {
		t.Fatalf("berth %s: status %d\n%s%s", strings.Join(args, " "), r.code, r.out, r.err)
	}
	return r.out
}

// direct runs a program in the world where nothing guards.
func (w *world) direct(t *testing.T, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = w.dir
	return finish(t, w.enter(cmd, true))
}

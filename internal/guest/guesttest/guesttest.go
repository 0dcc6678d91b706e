// Package guesttest runs the real berth-guest as an ordinary process for
// tests: no sandbox, no root, its own loopback address. Only tests import it.
package guesttest

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"fmt"
	mrand "math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"berth.dev/internal/guestapi"
	"berth.dev/internal/guestapi/client"
)

// Timeout bounds every wait of a test that should take milliseconds.
const Timeout = 20 * time.Second

// Guest is a running berth-guest.
type Guest struct {
	Config    guestapi.Config
	Dir       string // its home, empty at first
	ClientKey ssh.Signer
	ClientPEM []byte // the same key for OpenSSH
	HostKey   ssh.PublicKey
	Cmd       *exec.Cmd
	Log       *Log // what it wrote to standard error

	stdout *bufio.Reader
	ended  chan struct{}
	err    error
}

var build struct {
	once sync.Once
	path string
	err  error
}

// Binary builds cmd/berth-guest once per test process, with the race detector
// when the test has it, and returns its path. Main removes it.
func Binary(t testing.TB) string {
	t.Helper()
	build.once.Do(func() {
		dir, err := os.MkdirTemp("", "berth-guest-")
		if err != nil {
			build.err = err
			return
		}
		// A guest that becomes another user still runs this very file.
		_ = os.Chmod(dir, 0o755)
		build.path = filepath.Join(dir, "berth-guest")
		args := append([]string{"build", "-buildvcs=false", "-o", build.path}, buildFlags...)
		out, err := exec.Command("go", append(args, "berth.dev/cmd/berth-guest")...).CombinedOutput()
		if err != nil {
			build.err = fmt.Errorf("build berth-guest: %w\n%s", err, out)
		}
	})
	if build.err != nil {
		t.Fatal(build.err)
	}
	return build.path
}

// Main is TestMain for packages that use Binary.
func Main(m *testing.M) {
	code := m.Run()
	if build.path != "" {
		os.RemoveAll(filepath.Dir(build.path))
	}
	os.Exit(code)
}

// Key makes a fresh ed25519 key and its form in OpenSSH's PEM.
func Key(t testing.TB) (ssh.Signer, []byte) {
	t.Helper()
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(priv, "")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	return signer, pem.EncodeToMemory(block)
}

// New prepares a guest that runs as the test's own user, in an address of
// 127.0.0.0/8 that nobody else has.
func New(t testing.TB) *Guest {
	t.Helper()
	g := &Guest{Dir: t.TempDir()}
	var hostPEM []byte
	var host ssh.Signer
	host, hostPEM = Key(t)
	g.HostKey = host.PublicKey()
	g.ClientKey, g.ClientPEM = Key(t)
	net := fmt.Sprintf("127.%d.%d.", 1+mrand.IntN(250), mrand.IntN(250))
	g.Config = guestapi.Config{
		Version: guestapi.Version, HostKey: string(hostPEM),
		AuthorizedKey: string(ssh.MarshalAuthorizedKey(g.ClientKey.PublicKey())),
		Listen:        net + "2:2222", Peer: net + "1",
		User:     guestapi.User{Name: "agent", UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), Home: g.Dir, Shell: "/bin/bash"},
		StateDir: filepath.Join(g.Dir, ".state"),
		Env:      map[string]string{"LANG": "C.UTF-8"},
		GraceMS:  2000,
	}
	return g
}

// Start makes a guest, lets change alter its configuration, and runs it until
// the test's end.
func Start(t testing.TB, change ...func(*guestapi.Config)) *Guest {
	t.Helper()
	g := New(t)
	for _, c := range change {
		c(&g.Config)
	}
	g.Run(t, exec.Command(Binary(t)))
	return g
}

// Run runs the guest by a given command, waits until it is ready, and stops it
// at the test's end.
func (g *Guest) Run(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	b, err := json.Marshal(g.Config)
	if err != nil {
		t.Fatal(err)
	}
	g.Cmd, g.Log, g.ended = cmd, &Log{}, make(chan struct{})
	cmd.Stdin = strings.NewReader(string(b))
	cmd.Stderr = g.Log
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	g.stdout = bufio.NewReader(out)
	line, err := g.stdout.ReadString('\n')
	if err != nil || line != guestapi.ReadyLine+"\n" {
		_ = cmd.Wait()
		t.Fatalf("guest said %q (%v), log:\n%s", line, err, g.Log)
	}
	go func() {
		g.err = cmd.Wait()
		close(g.ended)
	}()
	t.Cleanup(func() { g.Stop(t) })
}

// Stop sends SIGTERM and waits; an exit status other than 0 fails the test.
func (g *Guest) Stop(t testing.TB) {
	t.Helper()
	_ = g.Cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-g.ended:
	case <-time.After(Timeout):
		_ = g.Cmd.Process.Kill()
		t.Errorf("guest did not stop, log:\n%s", g.Log)
		return
	}
	if g.err != nil || strings.Contains(g.Log.String(), "DATA RACE") {
		t.Errorf("guest ended with %v, log:\n%s", g.err, g.Log)
	}
}

// Conn connects from an address; the zero one is the configured peer's.
func (g *Guest) Conn(from netip.Addr) (net.Conn, error) {
	if !from.IsValid() {
		from = netip.MustParseAddr(g.Config.Peer)
	}
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: from.AsSlice()}, Timeout: Timeout}
	return d.Dial("tcp", g.Config.Listen)
}

// Dial logs in and hangs up at the test's end.
func (g *Guest) Dial(t testing.TB) *client.Client {
	t.Helper()
	conn, err := g.Conn(netip.Addr{})
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.Dial(Context(t), conn, g.ClientKey, g.HostKey)
	if err != nil {
		t.Fatalf("dial: %v, log:\n%s", err, g.Log)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// Context ends with the test, or after Timeout.
func Context(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), Timeout)
	t.Cleanup(cancel)
	return ctx
}

// Log collects output; it is safe for concurrent use.
type Log struct {
	mu sync.Mutex
	b  strings.Builder
}

// Write appends.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// String is what was written so far.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

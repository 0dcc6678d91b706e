package docker

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"berth.dev/internal/guest/reap"
	"berth.dev/internal/guestapi"
)

// timeout bounds every wait.
const timeout = 20 * time.Second

// TestMain lets the test binary be what the activator starts: Self, which
// becomes the daemon, and the daemon.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "exec-listen" {
		env := append(os.Environ(), fmt.Sprintf("LISTEN_PID=%d", os.Getpid()), "FAKE_DOCKERD=1")
		panic(syscall.Exec(os.Args[2], os.Args[2:], env))
	}
	if os.Getenv("FAKE_DOCKERD") != "" {
		fakeDaemon()
		return
	}
	os.Exit(m.Run())
}

// fakeDaemon does with its sockets what dockerd does: it takes LISTEN_FDS only
// when LISTEN_PID is itself. It answers each request with its command line,
// and ends when it is asked for /die.
func fakeDaemon() {
	if slices.Contains(os.Args, "--fail=true") {
		fmt.Fprintln(os.Stderr, "failed to start daemon: no such luck")
		os.Exit(1)
	}
	if os.Getenv("LISTEN_PID") != fmt.Sprint(os.Getpid()) || os.Getenv("LISTEN_FDS") != "1" {
		fmt.Fprintln(os.Stderr, "not activated")
		os.Exit(2)
	}
	l, err := net.FileListener(os.NewFile(3, "socket"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	err = http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/die" {
			os.Exit(0)
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"args": os.Args[1:], "env": os.Environ(), "pid": os.Getpid()})
	}))
	fmt.Fprintln(os.Stderr, err)
}

// activate runs an activator on a root of its own, and the dockerd that is the
// test binary.
func activate(t *testing.T, d guestapi.Docker) (root string) {
	t.Helper()
	root = t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(root, "bin")
	for _, dir := range []string{bin, filepath.Join(root, "etc/docker"), filepath.Join(root, "var/run/docker/containerd"), filepath.Join(root, "proc/sys/net/ipv4")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(self, filepath.Join(bin, "dockerd")); err != nil {
		t.Fatal(err)
	}
	r, err := reap.New()
	if err != nil {
		t.Fatal(err)
	}
	a, err := Listen(Config{Docker: d, Reaper: r, Path: bin, Env: map[string]string{"HTTPS_PROXY": "http://p"}, Self: self, GID: os.Getgid(), Root: root, Logf: t.Logf})
	if err != nil || a == nil {
		t.Fatalf("listen: %v, %v", a, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { a.Run(ctx); close(done) }()
	t.Cleanup(func() {
		cancel()
		<-done
		r.WaitAll(timeout)
		r.Close()
	})
	return root
}

// request asks the daemon for a path.
func request(root, path string) (status int, body string, err error) {
	conn, err := net.DialTimeout("unix", filepath.Join(root, socketPath), timeout)
	if err != nil {
		return 0, "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(timeout))
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n", path)
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0, "", err
	}
	b, err := io.ReadAll(res.Body)
	return res.StatusCode, string(b), err
}

type reply struct {
	Args []string
	Env  []string
	PID  int
}

func ask(t *testing.T, root string) reply {
	t.Helper()
	status, body, err := request(root, "/")
	if err != nil || status != 200 {
		t.Fatalf("%d %q %v", status, body, err)
	}
	var r reply
	if err := json.Unmarshal([]byte(body), &r); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestStartsOnFirstUseAndAgain(t *testing.T) {
	root := activate(t, guestapi.Docker{Enabled: true, DNS: []string{"10.0.0.1", "fd00::1"}})
	for _, p := range pidFiles {
		if err := os.WriteFile(filepath.Join(root, p), []byte("1"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	fi, err := os.Stat(filepath.Join(root, socketPath))
	if err != nil || fi.Mode().Perm() != 0o660 {
		t.Fatalf("%v, %v", fi, err)
	}
	if _, err := os.Stat(filepath.Join(root, logPath)); err == nil {
		t.Fatal("the daemon was started before anybody asked")
	}
	first := ask(t, root)
	want := []string{"-H", "fd://", "--iptables=false", "--ip6tables=false", "--storage-driver=overlay2", "--dns=10.0.0.1", "--dns=fd00::1"}
	if !slices.Equal(first.Args, want) || !slices.Contains(first.Env, "HTTPS_PROXY=http://p") {
		t.Errorf("%+v", first)
	}
	if second := ask(t, root); second.PID != first.PID {
		t.Error("a second request has another daemon")
	}
	for _, p := range pidFiles {
		if _, err := os.Stat(filepath.Join(root, p)); err == nil {
			t.Errorf("%s is left from before", p)
		}
	}
	if b, err := os.ReadFile(filepath.Join(root, "proc/sys/net/ipv4/ip_forward")); string(b) != "1\n" {
		t.Errorf("ip_forward: %q, %v", b, err)
	}
	// Killed by somebody: the next one who asks gets another. A connection
	// that was already made may still be answered with the end.
	if err := syscall.Kill(first.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(timeout); ; {
		if status, _, err := request(root, "/"); err == nil && status == 200 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("no new daemon")
		}
	}
	if third := ask(t, root); third.PID == first.PID {
		t.Error("the dead one answers")
	}
}

// Who asks for a daemon that cannot start is told why, each time.
func TestSaysWhyItDoesNotStart(t *testing.T) {
	root := activate(t, guestapi.Docker{Enabled: true, Args: []string{"--fail=true"}})
	for range 3 {
		status, body, err := request(root, "/_ping")
		var e struct{ Message string }
		if err != nil || status != 500 || json.Unmarshal([]byte(body), &e) != nil || !strings.Contains(e.Message, "no such luck") {
			t.Fatalf("%d %q %v", status, body, err)
		}
	}
}

// What the user set in daemon.json is not set again by a flag, which dockerd
// would refuse.
func TestDaemonJSON(t *testing.T) {
	root := activate(t, guestapi.Docker{Enabled: true, DNS: []string{"10.0.0.1"}})
	if err := os.WriteFile(filepath.Join(root, configPath), []byte(`{"dns": ["9.9.9.9"], "storage-driver": "vfs"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if got, want := ask(t, root).Args, []string{"-H", "fd://", "--iptables=false", "--ip6tables=false"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestTrust: where containers are to trust the sandbox's authority, what the
// daemon finds as runc is this program, however the folder was left.
func TestTrust(t *testing.T) {
	root := t.TempDir()
	a := &Activator{cfg: Config{Path: "/a:/b", Self: "/new/berth-guest", Root: root, Logf: t.Logf}}
	if got := a.searchPath(); got != "/a:/b" {
		t.Errorf("without an authority: %q", got)
	}
	a.cfg.Trust = true
	name := filepath.Join(root, runcDir, "runc")
	for _, before := range []string{"", "/old/berth-guest", "/new/berth-guest"} {
		if before != "" {
			if err := os.Remove(name); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(before, name); err != nil {
				t.Fatal(err)
			}
		}
		if got := a.searchPath(); got != filepath.Dir(name)+":/a:/b" {
			t.Errorf("the path is %q", got)
		}
		if target, err := os.Readlink(name); err != nil || target != "/new/berth-guest" {
			t.Errorf("runc is %q, %v", target, err)
		}
	}
	// What cannot be made leaves the daemon's path as it was.
	if err := os.RemoveAll(filepath.Join(root, "run")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "run"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := a.searchPath(); got != "/a:/b" {
		t.Errorf("where the folder cannot be made: %q", got)
	}
}

func TestNoDaemon(t *testing.T) {
	if a, err := Listen(Config{Path: t.TempDir(), Root: t.TempDir()}); a != nil || err != nil {
		t.Errorf("%v, %v", a, err)
	}
}

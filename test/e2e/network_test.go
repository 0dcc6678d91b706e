package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// TestHostPort: one port of the host's loopback is open when it was asked for,
// by its name, and nothing else of the host is.
func TestHostPort(t *testing.T) {
	each(t, func(t *testing.T, u *user) {
		open, closed := serve(t), serve(t)
		ws, name := u.workspace(t), u.fresh(t)
		u.must(t, ws, "create", "-q", "--name", name, "--host-port", fmt.Sprint(open), "shell", ws)
		get := func(addr string, port int) result {
			return u.run(t, ws, nil, "exec", name, "curl", "-sS", "--max-time", "10", fmt.Sprintf("http://%s:%d/", addr, port))
		}
		if r := get("host.berth.internal", open); r.code != 0 || r.out != "host" {
			t.Fatalf("the open port: %+v", r)
		}
		// The attack works where nothing guards: the port is served on the host.
		if resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/", closed)); err != nil {
			t.Fatal(err)
		} else {
			resp.Body.Close()
		}
		addrs := append([]string{"host.berth.internal", "127.0.0.1", "localhost", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]", "2130706433",
			"169.254.169.254", "10.0.0.1", "192.168.0.1", "172.16.0.1", "100.64.0.1", "[fd00::1]", "[fe80::1]", "[64:ff9b::7f00:1]"}, hostAddresses(t)...)
		for _, addr := range addrs {
			if r := get(addr, closed); r.code == 0 {
				t.Errorf("the guest reaches %s:%d: %q", addr, closed, r.out)
			}
		}
	})
}

// TestInternet: names resolve and the archive that the template came from
// answers; nothing goes out that is neither TCP nor DNS.
func TestInternet(t *testing.T) {
	each(t, func(t *testing.T, u *user) {
		ws, name := u.workspace(t), u.fresh(t)
		u.must(t, ws, "create", "-q", "--name", name, "shell", ws)
		u.must(t, ws, "exec", "-u", "root", name, "apt-get", "update", "-qq")
		script := `import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(2)
s.sendto(b"x" * 40, ("203.0.113.7", 123))
try:
    print("answer", s.recv(100))
except Exception as e:
    print("closed", type(e).__name__)`
		if out := u.must(t, ws, "exec", name, "python3", "-c", script); !strings.HasPrefix(out, "closed") {
			t.Errorf("UDP: %s", out)
		}
	})
}

// serve answers "host" on a port of the loopback.
func serve(t *testing.T) int {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "host") })}
	go func() { _ = srv.Serve(ln) }()
	t.Cleanup(func() { srv.Close() })
	return ln.Addr().(*net.TCPAddr).Port
}

func hostAddresses(t *testing.T) []string {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil {
			all = append(all, n.IP.String())
		}
	}
	return all
}

package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/websocket"
)

// streamHost is on the preset's list; the tests stand in for it.
const streamHost = "api.openai.com"

// streams is a sandbox for which a handler stands behind interception.
type streams struct {
	u        *user
	ws, name string
}

func newStreams(t *testing.T, u *user, h http.Handler) streams {
	t.Helper()
	u = u.apart(t, serveTLS(t, h, streamHost))
	s := streams{u, u.workspace(t), u.fresh(t)}
	u.must(t, s.ws, "create", "-q", "--name", s.name, "shell", s.ws)
	return s
}

func (s streams) exec(t *testing.T, args ...string) result {
	t.Helper()
	return s.u.run(t, s.ws, nil, append([]string{"exec", "-w", s.ws, s.name}, args...)...)
}

// client builds the program that speaks from inside.
func (s streams) client(t *testing.T) string {
	t.Helper()
	path := filepath.Join(s.ws, "streamclient")
	cmd := exec.Command("go", "build", "-trimpath", "-o", path, "berth.dev/test/standin/streamclient")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return path
}

// TestStreamsTalk: what goes back and forth within one exchange arrives as it
// is sent, with nothing waiting for what comes after it.
func TestStreamsTalk(t *testing.T) {
	each(t, func(t *testing.T, u *user) {
		next := make(chan struct{})
		mux := http.NewServeMux()
		mux.Handle("/socket", websocket.Server{Handler: func(c *websocket.Conn) {
			_, _ = io.Copy(c, c)
			_ = c.Close() // says so to the client, too
		}})
		mux.HandleFunc("/events", func(w http.ResponseWriter, r *http.Request) { sendEvents(w, r, next) })
		mux.HandleFunc("/bidi", echoLines)
		s := newStreams(t, u, mux)
		t.Run("websocket", func(t *testing.T) {
			write(t, u, filepath.Join(s.ws, "client.py"), socketClient)
			if r := s.exec(t, "python3", "client.py", streamHost); r.out != "101 20 echoes, closed\n" {
				t.Errorf("%+v", r)
			}
		})
		t.Run("events", func(t *testing.T) { testEvents(t, s, next) })
		t.Run("bidi", func(t *testing.T) {
			r := s.exec(t, s.client(t), "bidi", "https://"+streamHost+"/bidi", "50")
			if r.out != "HTTP/2.0 \"bye\\n\" map[Grpc-Message:[fine] Grpc-Status:[0]]\n" {
				t.Errorf("%+v", r)
			}
		})
		events, _ := s.u.events(t, s.name, "--http")
		for _, want := range []string{"websocket GET /socket 101", "h2 GET /events 200", "http/1.1 GET /events 200", "h2 POST /bidi 200"} {
			found := false
			for _, e := range events {
				found = found || fmt.Sprintf("%s %s %s %d", e.Protocol, e.Method, e.Path, e.Status) == want && e.Received > 0
			}
			if !found {
				t.Errorf("the record lacks %s:\n%s", want, summary(events))
			}
		}
	})
}

// testEvents: the server sends an event only when the one before was seen, so
// that nothing may hold one back.
func testEvents(t *testing.T, s streams, next chan<- struct{}) {
	for _, version := range []string{"--http1.1", "--http2"} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		cmd := s.u.command(ctx, s.ws, "exec", s.name, "curl", "-sSN", version, "https://"+streamHost+"/events")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		in := bufio.NewReader(out)
		for i := range 5 {
			select {
			case next <- struct{}{}:
			case <-ctx.Done():
				t.Fatalf("%s: the server was not asked", version)
			}
			line, err := in.ReadString('\n')
			if empty, _ := in.ReadString('\n'); line != fmt.Sprintf("data: %d\n", i) || empty != "\n" {
				t.Fatalf("%s: event %d is %q, %v", version, i, line, err)
			}
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v", version, err)
		}
	}
}

func sendEvents(w http.ResponseWriter, r *http.Request, next <-chan struct{}) {
	w.Header().Set("Content-Type", "text/event-stream")
	for i := range 5 {
		select {
		case <-next:
		case <-r.Context().Done():
			return
		}
		fmt.Fprintf(w, "data: %d\n\n", i)
		w.(http.Flusher).Flush()
	}
}

// echoLines answers each line when it comes, and says how it went in trailers.
func echoLines(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/grpc")
	w.Header().Set("Trailer", "Grpc-Status, Grpc-Message")
	w.WriteHeader(http.StatusOK)
	w.(http.Flusher).Flush()
	for in := bufio.NewScanner(r.Body); in.Scan(); {
		fmt.Fprintf(w, "echo %s\n", in.Text())
		w.(http.Flusher).Flush()
	}
	_, _ = io.WriteString(w, "bye\n")
	w.Header().Set("Grpc-Status", "0")
	w.Header().Set("Grpc-Message", "fine")
}

// socketClient sends frames of growing size, each when the one before has come
// back (RFC 6455).
const socketClient = `import base64, os, socket, ssl, struct, sys
host = sys.argv[1]
c = ssl.create_default_context().wrap_socket(socket.create_connection((host, 443), 30), server_hostname=host)
key = base64.b64encode(os.urandom(16)).decode()
c.sendall(f"GET /socket HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
          f"Sec-WebSocket-Version: 13\r\nOrigin: https://{host}\r\n\r\n".encode())
f = c.makefile("rb")
status = f.readline().split()[1].decode()
while f.readline().strip():
    pass

def send(op, data):
    mask, n = os.urandom(4), len(data)
    head = bytes([0x80 | op, 0x80 | n]) if n < 126 else struct.pack(">BBH", 0x80 | op, 0xfe, n)
    c.sendall(head + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(data)))

def receive():
    op, n = f.read(2)
    if n == 126:
        n, = struct.unpack(">H", f.read(2))
    return op & 15, f.read(n)

echoes, got = 0, b""
for i in range(20):
    data, got = bytes([65 + i]) * (1 << i % 15), b""
    send(1, data)
    while len(got) < len(data):
        got += receive()[1]
    echoes += got == data
send(8, struct.pack(">H", 1000))
print(status, echoes, "echoes,", "closed" if receive()[0] == 8 else "open")
`

// TestStreamsLarge: 2 GB in either direction pass through interception, and
// little of them is in memory at any time.
func TestStreamsLarge(t *testing.T) {
	const (
		size    = 2 << 30
		atMost  = 150 << 20 // bytes of the supervisor's
		counted = "counted %d"
	)
	u := suite.users[len(suite.users)-1]
	s := newStreams(t, u, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			_, _ = io.CopyN(w, zeros{}, size)
			return
		}
		n, err := io.Copy(io.Discard, r.Body)
		if err == nil {
			fmt.Fprintf(w, counted, n)
		}
	}))
	url := "https://" + streamHost + "/large"
	for what, c := range map[string]struct{ script, want string }{
		"download": {"curl -sS -o /dev/null -w '%{size_download}' " + url, fmt.Sprint(size)},
		"upload":   {fmt.Sprintf("truncate -s %d zeros; curl -sS -T zeros %s", size, url), fmt.Sprintf(counted, size)},
	} {
		t.Run(what, func(t *testing.T) {
			// How fast it is the bench says; a busy machine takes its time.
			ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
			defer cancel()
			begun := time.Now()
			r := finish(t, s.u.command(ctx, s.ws, "exec", "-w", s.ws, s.name, "sh", "-c", c.script))
			if r.code != 0 || r.out != c.want {
				t.Fatalf("it ends with %d and prints %q, not %q\n%s", r.code, r.out, c.want, r.err)
			}
			took, peak := time.Since(begun), peakMemory(t, s.u.inspect(t, s.name).PIDs.Supervisor)
			t.Logf("%.0f MB/s, at most %d MB of memory", size/1e6/took.Seconds(), peak>>20)
			if peak > atMost {
				t.Errorf("the supervisor had %d MB in memory", peak>>20)
			}
		})
	}
}

// zeros is an endless reader.
type zeros struct{}

// Read implements io.Reader.
func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// peakMemory is the most that a process ever had in memory, in bytes (proc(5)).
func peakMemory(t *testing.T, pid int) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^VmHWM:\s*(\d+) kB$`).FindSubmatch(status)
	if m == nil {
		t.Fatalf("no VmHWM in\n%s", status)
	}
	kb, err := strconv.Atoi(string(m[1]))
	if err != nil {
		t.Fatal(err)
	}
	return kb << 10
}

// TestStreamsMany: 1,000 connections are open at once, each with a request that
// is answered only when all are there; then all are closed.
func TestStreamsMany(t *testing.T) {
	const n = 1000
	each(t, func(t *testing.T, u *user) {
		g := newGathering(n)
		s := newStreams(t, u, g)
		pid := s.u.inspect(t, s.name).PIDs.Supervisor
		before := descriptors(t, pid)
		r := s.exec(t, s.client(t), "connections", "https://"+streamHost+"/all", fmt.Sprint(n))
		if r.out != fmt.Sprint(n, " answers\n") {
			t.Fatalf("%+v", r)
		}
		// What Berth keeps open to servers for the next request is bounded.
		eventually(t, "the supervisor has closed its connections", func() bool { return descriptors(t, pid) < before+50 })
		events, _ := s.u.events(t, s.name, "--http")
		if len(events) != n {
			t.Errorf("%d requests are recorded", len(events))
		}
		if r := s.exec(t, "curl", "-sS", "https://"+streamHost+"/one"); r.out != "all here" {
			t.Errorf("a request after them: %+v", r)
		}
	})
}

func descriptors(t *testing.T, pid int) int {
	t.Helper()
	all, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// gathering answers n requests when all have come, and later ones at once.
type gathering struct {
	mu      sync.Mutex
	missing int
	all     chan struct{}
}

func newGathering(n int) *gathering { return &gathering{missing: n, all: make(chan struct{})} }

// ServeHTTP implements http.Handler.
func (g *gathering) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	if g.missing--; g.missing == 0 {
		close(g.all)
	}
	g.mu.Unlock()
	select {
	case <-g.all:
		_, _ = io.WriteString(w, "all here")
	case <-r.Context().Done():
	}
}

package intercept

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestHeaderBounds(t *testing.T) {
	start := "GET / HTTP/1.1\r\nHost: " + testHost + "\r\n"
	for name, raw := range map[string]string{
		"large":       start + "X: " + strings.Repeat("x", maxHead) + "\r\n\r\n",
		"many fields": start + strings.Repeat("X: y\r\n", maxFields) + "\r\n",
		"endless":     strings.Repeat("GET", maxHead),
		"method":      strings.Repeat("G", maxMethod+1) + " / HTTP/1.1\r\nHost: " + testHost + "\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, setup{handler: secretServer})
			if got := w.send(raw); !strings.HasPrefix(got, "HTTP/1.1 400 ") || w.dialed() != 0 {
				t.Errorf("%.100q", got)
			}
		})
	}
	t.Run("h2", func(t *testing.T) {
		w := newWorld(t, setup{handler: secretServer})
		r := newRequest(t, "GET", "https://"+testHost+"/", nil)
		for i := range 20 {
			r.Header.Set(fmt.Sprint("X-", i), strings.Repeat("x", 8<<10))
		}
		res, err := w.client(true).Do(r)
		if err == nil {
			_ = res.Body.Close()
		}
		if w.dialed() != 0 || err == nil && res.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("%v, %v", res, err)
		}
	})
}

// Whoever sends nothing, or sends slowly, is not waited for.
func TestSlowGuests(t *testing.T) {
	limits := Limits{Handshake: 3 * time.Second, Header: time.Second, Idle: time.Second} // longer than a slow machine needs
	w := newWorld(t, setup{handler: secretServer, config: func(c *Config) { c.Limits = limits }})
	c, err := net.Dial("tcp", w.addr) // no handshake
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if b, err := io.ReadAll(c); err != nil || len(b) > 0 {
		t.Errorf("no handshake: %q, %v", b, err)
	}
	for name, sent := range map[string]string{
		"nothing":    "",
		"half":       "GET / HTTP/1.1\r\nHos",
		"idle after": "GET / HTTP/1.1\r\nHost: " + testHost + "\r\n\r\n",
	} {
		if got := w.send(sent); (got == "") != (name != "idle after") {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestRequestBound(t *testing.T) {
	begun, leave := make(chan struct{}), make(chan struct{})
	w := newWorld(t, setup{config: func(c *Config) { c.Limits.Requests = 1 }, handler: func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/first" {
			close(begun)
			<-leave
		}
	}})
	c := w.client(true)
	first := make(chan int, 1)
	go func() {
		res, err := c.Get("https://" + testHost + "/first")
		if err != nil {
			first <- 0
			return
		}
		_ = res.Body.Close()
		first <- res.StatusCode
	}()
	<-begun
	if res, body := get(t, c, newRequest(t, "GET", "https://"+testHost+"/second", nil)); res.StatusCode != 503 || !strings.Contains(body, "too many requests at once") {
		t.Errorf("%v %q", res.Status, body)
	}
	close(leave)
	if s := <-first; s != 200 {
		t.Errorf("the first request: %d", s)
	}
	w.records(2)
	if res, _ := get(t, c, newRequest(t, "GET", "https://"+testHost+"/third", nil)); res.StatusCode != 200 {
		t.Errorf("the third request: %v", res.Status)
	}
}

func TestConnectionBound(t *testing.T) {
	w := newWorld(t, setup{handler: secretServer, config: func(c *Config) { c.Limits.Connections = 1 }})
	c := w.raw()
	d, err := net.Dial("tcp", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if b, err := io.ReadAll(d); err != nil || len(b) > 0 {
		t.Errorf("%q, %v", b, err)
	}
	fmt.Fprintf(c, "GET /public HTTP/1.1\r\nHost: %s\r\n\r\n", testHost)
	if res, body := response(t, bufio.NewReader(c), "GET"); res.StatusCode != 200 || body != "public" {
		t.Errorf("%v %q", res.Status, body)
	}
}

// A server's answer is bounded too.
func TestServerBounds(t *testing.T) {
	w := newWorld(t, setup{handler: func(w http.ResponseWriter, _ *http.Request) {
		for i := range 200 {
			w.Header().Set(fmt.Sprint("X-", i), strings.Repeat("x", 8<<10))
		}
	}})
	if res, body := get(t, w.client(false), newRequest(t, "GET", "https://"+testHost+"/", nil)); res.StatusCode != 502 || !strings.HasPrefix(body, "berth: ") {
		t.Errorf("%v %q", res.Status, body)
	}
}

// A status that nobody may send, and informational answers without end.
func TestOddServers(t *testing.T) {
	for name, answer := range map[string]string{
		"status 000":  "HTTP/1.1 000 x\r\nContent-Length: 0\r\n\r\n",
		"status 99":   "HTTP/1.1 099 x\r\nContent-Length: 0\r\n\r\n",
		"endless 103": strings.Repeat("HTTP/1.1 103 x\r\n\r\n", 1000),
		"no HTTP":     "SSH-2.0-x\r\n\r\n",
		"two lengths": "HTTP/1.1 200 x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
		"nothing":     "",
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, setup{plain: true, handler: func(w http.ResponseWriter, _ *http.Request) {
				c, _, err := w.(http.Hijacker).Hijack()
				if err == nil {
					_, _ = io.WriteString(c, answer)
					_ = c.Close()
				}
			}})
			if got := w.send("GET / HTTP/1.1\r\nHost: " + testHost + "\r\nConnection: close\r\n\r\n"); !strings.Contains(got, "HTTP/1.1 502 ") || strings.Contains(got, "SSH-2.0-x\r\n") {
				t.Errorf("%.200q", got)
			}
		})
	}
}

// A body whose framing is broken reaches nobody as a whole one.
func TestBrokenBodies(t *testing.T) {
	post := "POST /public HTTP/1.1\r\nHost: " + testHost + "\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n"
	for name, body := range map[string]string{
		"bare LF":           "5\nabcde\r\n0\r\n\r\n",
		"size with sign":    "+5\r\nabcde\r\n0\r\n\r\n",
		"size with 0x":      "0x5\r\nabcde\r\n0\r\n\r\n",
		"size too large":    "fffffffffffffffff\r\nabcde\r\n0\r\n\r\n",
		"no CRLF behind":    "5\r\nabcdef\r\n0\r\n\r\n",
		"trailer bare LF":   "5\r\nabcde\r\n0\r\nX-T: a\n\r\n",
		"trailer no colon":  "5\r\nabcde\r\n0\r\nX-T\r\n\r\n",
		"trailer folded":    "5\r\nabcde\r\n0\r\nX-T: a\r\n b\r\n\r\n",
		"trailer control":   "5\r\nabcde\r\n0\r\nX-T: a\x00\r\n\r\n",
		"trailer too large": "5\r\nabcde\r\n0\r\n" + strings.Repeat("X-T: "+strings.Repeat("x", 1000)+"\r\n", 20) + "\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			whole := make(chan bool, 1)
			w := newWorld(t, setup{judge: allowPublic, handler: func(_ http.ResponseWriter, r *http.Request) {
				_, err := io.Copy(io.Discard, r.Body)
				whole <- err == nil
			}})
			got := w.send(post + body + follower)
			if !strings.HasPrefix(got, "HTTP/1.1 400 ") || strings.Count(got, "HTTP/1.1 ") != 1 {
				t.Errorf("%q", got)
			}
			if rec := w.records(1)[0]; rec.Error != bodyBroken {
				t.Errorf("%+v", rec)
			}
			if w.dialed() > 0 {
				w.origin.CloseClientConnections()
				select {
				case ok := <-whole:
					if ok {
						t.Error("the server got it as a whole one")
					}
				default: // it was given up before it was sent
				}
			}
		})
	}
}

// A chunked body arrives with its trailer, and without what was not announced.
func TestRequestTrailer(t *testing.T) {
	var body string
	var trailer http.Header
	w := newWorld(t, setup{handler: func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		body, trailer = string(b), r.Trailer
	}})
	w.send("POST / HTTP/1.1\r\nHost: " + testHost + "\r\nConnection: close\r\nTransfer-Encoding: Chunked\r\nTrailer: X-T\r\n\r\n" +
		"3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\nX-T: yes\r\nX-Other: no\r\nContent-Length: 3\r\n\r\n")
	if body != "abcde" || len(trailer) != 1 || trailer.Get("X-T") != "yes" {
		t.Errorf("%q, %v", body, trailer)
	}
}

// A defect that a request finds costs its connection or stream, and no other.
func TestDefect(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		t.Run(fmt.Sprint("h2=", h2), func(t *testing.T) {
			w := newWorld(t, setup{handler: secretServer, judge: func(r Request) Ruling {
				if r.Path == "/defect" {
					panic("a defect with guest-bytes")
				}
				return Ruling{Allowed: true}
			}})
			c := w.client(h2)
			if res, err := c.Do(newRequest(t, "GET", "https://"+testHost+"/defect", nil)); err == nil {
				t.Errorf("answered with %v", res.Status)
				_ = res.Body.Close()
			}
			if _, body := get(t, c, newRequest(t, "GET", "https://"+testHost+"/public", nil)); body != "public" {
				t.Errorf("%q", body)
			}
			if log := w.log.String(); !strings.Contains(log, "TestDefect") || strings.Contains(log, "guest-bytes") {
				t.Errorf("the log has %q", log)
			}
			if recs := w.records(2); recs[0].Error == "" {
				t.Errorf("%+v", recs[0])
			}
		})
	}
}

// Close ends all that runs, and what comes later ends at once.
func TestClose(t *testing.T) {
	begun := make(chan struct{}, 2)
	w := newWorld(t, setup{handler: func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			websocketEcho(w, r)
			return
		}
		w.(http.Flusher).Flush()
		begun <- struct{}{}
		<-r.Context().Done()
	}})
	ws := w.raw()
	_, _ = io.WriteString(ws, upgradeRequest("/"))
	if res, err := http.ReadResponse(bufio.NewReader(ws), nil); err != nil || res.StatusCode != 101 {
		t.Fatal(res, err)
	}
	var bodies []io.ReadCloser
	for _, h2 := range []bool{false, true} {
		res, err := w.client(h2).Do(newRequest(t, "GET", "https://"+testHost+"/", nil))
		if err != nil {
			t.Fatal(err)
		}
		bodies = append(bodies, res.Body)
		<-begun
	}
	if err := w.proxy.Close(); err != nil {
		t.Error(err)
	}
	for _, b := range bodies {
		if _, err := io.ReadAll(b); err == nil {
			t.Error("an answer that was cut looks whole")
		}
		_ = b.Close()
	}
	if rest, _ := io.ReadAll(ws); strings.Contains(string(rest), "bye") {
		t.Errorf("%q", rest)
	}
	for _, rec := range w.records(3) {
		if rec.Error == "" {
			t.Errorf("%+v", rec)
		}
	}
	c, err := net.Dial("tcp", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if b, err := io.ReadAll(c); err != nil || len(b) > 0 {
		t.Errorf("%q, %v", b, err)
	}
}

// A cut takes a WebSocket and connections that wait to be used again, and
// leaves what is still allowed.
func TestCutSome(t *testing.T) {
	w := newWorld(t, setup{handler: func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			websocketEcho(w, r)
			return
		}
		_, _ = io.WriteString(w, "fine")
	}})
	open := func(path string) (net.Conn, *bufio.Reader) {
		c := w.raw()
		br := bufio.NewReader(c)
		_, _ = io.WriteString(c, upgradeRequest(path))
		if res, err := http.ReadResponse(br, nil); err != nil || res.StatusCode != 101 {
			t.Fatal(res, err)
		}
		_, _ = br.Discard(len("hello "))
		return c, br
	}
	_, gone := open("/secret")
	stays, br := open("/public")
	w.proxy.Cut(func(r Request) bool { return r.Path == "/secret" })
	if rest, _ := io.ReadAll(gone); len(rest) > 0 {
		t.Errorf("%q", rest)
	}
	if rec := w.records(1)[0]; rec.Path != "/secret" || rec.Error != errCut.Error() {
		t.Errorf("%+v", rec)
	}
	_, _ = io.WriteString(stays, "frame")
	b := make([]byte, 5)
	if _, err := io.ReadFull(br, b); err != nil || string(b) != "frame" {
		t.Errorf("%q, %v", b, err)
	}
	c := w.client(false)
	get(t, c, newRequest(t, "GET", "https://"+testHost+"/", nil))
	dialed := w.dialed()
	w.proxy.Cut(func(r Request) bool { return r.Method == "" && r.Host == testHost })
	if !wait(func() bool {
		w.proxy.mu.Lock()
		defer w.proxy.mu.Unlock()
		return len(w.proxy.upstream)+len(w.proxy.guests) == 0
	}) {
		t.Error("connections stay")
	}
	if _, body := get(t, c, newRequest(t, "GET", "https://"+testHost+"/", nil)); body != "fine" || w.dialed() != dialed+1 {
		t.Errorf("%q, %d connections made", body, w.dialed()-dialed)
	}
}

package intercept

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// Events arrive when they are sent: the server sends the next one only when the
// guest has had the one before.
func TestServerSentEvents(t *testing.T) {
	protocols(t, func(t *testing.T, guest, server bool) {
		next := make(chan struct{})
		w := newWorld(t, setup{h2: server, handler: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			w.(http.Flusher).Flush()
			for i := range 3 {
				select {
				case <-next:
				case <-r.Context().Done():
					return
				}
				fmt.Fprintf(w, "data: %d\n\n", i)
				w.(http.Flusher).Flush()
			}
		}})
		res, err := w.client(guest).Do(newRequest(t, "GET", "https://"+testHost+"/", nil)) // with nothing sent but the header
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		br := bufio.NewReader(res.Body)
		for i := range 3 {
			next <- struct{}{}
			line, err := br.ReadString('\n')
			if want := fmt.Sprintf("data: %d\n", i); line != want || err != nil {
				t.Fatalf("%q, %v", line, err)
			}
			_, _ = br.ReadString('\n')
		}
	})
}

// A body of a known length is not held back either.
func TestSlowBody(t *testing.T) {
	protocols(t, func(t *testing.T, guest, server bool) {
		next := make(chan struct{})
		w := newWorld(t, setup{h2: server, handler: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "10")
			_, _ = io.WriteString(w, "first")
			w.(http.Flusher).Flush()
			select {
			case <-next:
			case <-r.Context().Done():
			}
			_, _ = io.WriteString(w, "again")
		}})
		res, err := w.client(guest).Do(newRequest(t, "GET", "https://"+testHost+"/", nil))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b := make([]byte, 5)
		if _, err := io.ReadFull(res.Body, b); err != nil || string(b) != "first" {
			t.Fatalf("%q, %v", b, err)
		}
		close(next)
		if b, err := io.ReadAll(res.Body); err != nil || string(b) != "again" {
			t.Fatalf("%q, %v", b, err)
		}
	})
}

// Both directions of one request go on at once, as gRPC's bidirectional streams
// do, and the trailer ends it.
func TestFullDuplex(t *testing.T) {
	w := newWorld(t, setup{h2: true, handler: func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status")
		w.(http.Flusher).Flush()
		br := bufio.NewReader(r.Body)
		for {
			line, err := br.ReadString('\n')
			if err != nil {
				break
			}
			_, _ = io.WriteString(w, strings.ToUpper(line))
			w.(http.Flusher).Flush()
		}
		w.Header().Set("Grpc-Status", "0")
		w.Header().Set(http.TrailerPrefix+"Grpc-Message", "fine")
	}})
	pr, pw := io.Pipe()
	r := newRequest(t, "POST", "https://"+testHost+"/service/Method", pr)
	r.Header.Set("Te", "trailers")
	r.Header.Set("Content-Type", "application/grpc")
	res, err := w.client(true).Do(r) // the answer begins with nothing sent yet
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	br := bufio.NewReader(res.Body)
	for i := range 100 {
		fmt.Fprintf(pw, "message %d\n", i)
		line, err := br.ReadString('\n')
		if want := fmt.Sprintf("MESSAGE %d\n", i); line != want || err != nil {
			t.Fatalf("%q, %v", line, err)
		}
	}
	_ = pw.Close()
	if rest, err := io.ReadAll(br); len(rest) > 0 || err != nil {
		t.Errorf("%q, %v", rest, err)
	}
	if res.Trailer.Get("Grpc-Status") != "0" || res.Trailer.Get("Grpc-Message") != "fine" {
		t.Errorf("trailer %v", res.Trailer)
	}
	rec := w.records(1)[0]
	if rec.Proto != "h2" || rec.Sent != rec.Received || rec.Sent == 0 || rec.Error != "" {
		t.Errorf("%+v", rec)
	}
}

// HTTP/1.1 can do so too, with a client that is made for it.
func TestFullDuplexHTTP1(t *testing.T) {
	w := newWorld(t, setup{handler: func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		w.(http.Flusher).Flush()
		_, _ = io.Copy(flushing{w}, r.Body)
	}})
	c := w.raw()
	fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: %s\r\nTransfer-Encoding: chunked\r\n\r\n", testHost)
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"one", "two"} {
		fmt.Fprintf(c, "3\r\n%s\r\n", s)
		b := make([]byte, 3)
		if _, err := io.ReadFull(res.Body, b); err != nil || string(b) != s {
			t.Fatalf("%q, %v", b, err)
		}
	}
	_, _ = io.WriteString(c, "0\r\n\r\n")
	if rest, err := io.ReadAll(res.Body); len(rest) > 0 || err != nil {
		t.Errorf("%q, %v", rest, err)
	}
}

type flushing struct{ http.ResponseWriter }

func (f flushing) Write(p []byte) (int, error) {
	n, err := f.ResponseWriter.Write(p)
	f.ResponseWriter.(http.Flusher).Flush()
	return n, err
}

// websocketEcho is a server that agrees to any WebSocket and sends back what
// comes, without looking at frames.
func websocketEcho(w http.ResponseWriter, r *http.Request) {
	c, rw, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer c.Close()
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	accept := base64.StdEncoding.EncodeToString(sum[:])
	if r.URL.Path == "/liar" {
		accept = "AAAA"
	}
	fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\nhello ", accept)
	_, _ = io.Copy(c, rw)
	_, _ = io.WriteString(c, "bye")
}

func upgradeRequest(path string) string {
	return "GET " + path + " HTTP/1.1\r\nHost: " + testHost + "\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
}

func TestWebSocket(t *testing.T) {
	for name, plain := range map[string]bool{"wss": false, "ws": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, setup{plain: plain, h2: true, judge: allowPublic, handler: websocketEcho})
			c := w.raw()
			br := bufio.NewReader(c)
			_, _ = io.WriteString(c, upgradeRequest("/public")+"early ") // no need to wait for the 101
			res, err := http.ReadResponse(br, nil)
			if err != nil || res.StatusCode != 101 || res.Header.Get("Sec-Websocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" ||
				res.Header.Get("Upgrade") != "websocket" || res.Header.Get("Connection") != "Upgrade" {
				t.Fatalf("%+v, %v", res, err)
			}
			_, _ = io.WriteString(c, "frame")
			b := make([]byte, len("hello early frame"))
			if _, err := io.ReadFull(br, b); err != nil || string(b) != "hello early frame" {
				t.Fatalf("%q, %v", b, err)
			}
			_ = c.(interface{ CloseWrite() error }).CloseWrite()
			if rest, err := io.ReadAll(br); string(rest) != "bye" || err != nil {
				t.Errorf("%q, %v", rest, err)
			}
			rec := w.records(1)[0]
			if rec.Upgrade != "websocket" || rec.Status != 101 || rec.Sent != 11 || rec.Received != 20 || rec.Error != "" {
				t.Errorf("%+v", rec)
			}
		})
	}
}

// A server that is not asked for a WebSocket, says no, or says yes without
// knowing to what.
func TestWebSocketRefused(t *testing.T) {
	w := newWorld(t, setup{judge: allowPublic, handler: func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/public/no" {
			http.Error(w, "no", http.StatusUpgradeRequired)
			return
		}
		r.URL.Path = strings.TrimPrefix(r.URL.Path, "/public")
		websocketEcho(w, r)
	}})
	for path, want := range map[string]string{
		"/public/no":   "HTTP/1.1 426 ",
		"/public/liar": "HTTP/1.1 502 ",
		"/secret":      "HTTP/1.1 403 ",
	} {
		got := w.send(strings.Replace(upgradeRequest(path), "keep-alive", "close", 1))
		if !strings.HasPrefix(got, want) || strings.Contains(got, "hello") {
			t.Errorf("%s: %q", path, got)
		}
		w.records(1)
	}
	// What says 101 without having been asked.
	got := w.send("GET /public/liar HTTP/1.1\r\nHost: " + testHost + "\r\nConnection: close\r\n\r\n")
	if !strings.HasPrefix(got, "HTTP/1.1 502 ") || strings.Contains(got, "hello") {
		t.Errorf("%q", got)
	}
}

// pattern is n bytes that cost nothing to make.
func pattern(n int64) io.Reader { return io.LimitReader(zeros{}, n) }

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// Bodies larger than memory stream in both directions, and memory stays.
func TestLargeBodies(t *testing.T) {
	size := int64(2 << 30)
	if testing.Short() {
		size = 128 << 20 // the race detector makes it slow
	}
	protocols(t, func(t *testing.T, guest, server bool) {
		var got atomic.Int64
		w := newWorld(t, setup{h2: server, handler: func(w http.ResponseWriter, r *http.Request) {
			n, _ := io.Copy(io.Discard, r.Body)
			got.Store(n)
			if r.Method == "GET" {
				_, _ = io.Copy(w, pattern(size))
			}
		}})
		c := w.client(guest)
		runtime.GC()
		var most, before runtime.MemStats
		runtime.ReadMemStats(&before)
		watch := make(chan struct{})
		done := make(chan struct{})
		go func() {
			defer close(done)
			tick := time.NewTicker(50 * time.Millisecond)
			defer tick.Stop()
			for {
				var m runtime.MemStats
				if runtime.ReadMemStats(&m); m.HeapInuse > most.HeapInuse {
					most = m
				}
				select {
				case <-watch:
					return
				case <-tick.C:
				}
			}
		}()
		res, err := c.Do(newRequest(t, "GET", "https://"+testHost+"/", nil))
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
		if n != size || err != nil {
			t.Errorf("%d bytes down, %v", n, err)
		}
		r := newRequest(t, "PUT", "https://"+testHost+"/", pattern(size))
		r.ContentLength = size
		if res, _ := get(t, c, r); res.StatusCode != 200 || got.Load() != size {
			t.Errorf("%d bytes up, %v", got.Load(), res.Status)
		}
		close(watch)
		<-done
		if grown := int64(most.HeapInuse) - int64(before.HeapInuse); grown > 48<<20 {
			t.Errorf("%d MiB of memory for streams", grown>>20)
		}
		recs := w.records(2)
		if recs[0].Received != size || recs[1].Sent != size {
			t.Errorf("%+v", recs)
		}
	})
}

// A guest that goes away ends what the server does for it.
func TestGuestLeaves(t *testing.T) {
	protocols(t, func(t *testing.T, guest, server bool) {
		ended := make(chan struct{})
		begun := make(chan struct{})
		w := newWorld(t, setup{h2: server, handler: func(w http.ResponseWriter, r *http.Request) {
			close(begun)
			<-r.Context().Done() // a model that thinks for minutes
			close(ended)
		}})
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			<-begun
			cancel()
		}()
		_, err := w.client(guest).Do(newRequest(t, "GET", "https://"+testHost+"/", nil).WithContext(ctx))
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		<-ended
		if rec := w.records(1)[0]; rec.Error != errGone.Error() || !rec.Ruling.Allowed {
			t.Errorf("%+v", rec)
		}
	})
}

// What the server breaks off arrives as broken.
func TestBrokenAnswer(t *testing.T) {
	protocols(t, func(t *testing.T, guest, server bool) {
		w := newWorld(t, setup{h2: server, handler: func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/length" {
				w.Header().Set("Content-Length", "100000")
			}
			_, _ = w.Write(make([]byte, 50000))
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}})
		for _, path := range []string{"/length", "/chunks"} {
			res, err := w.client(guest).Do(newRequest(t, "GET", "https://"+testHost+path, nil))
			if err != nil {
				t.Fatal(err)
			}
			n, err := io.Copy(io.Discard, res.Body)
			_ = res.Body.Close()
			if err == nil || n > 50000 {
				t.Errorf("%s: %d bytes and %v", path, n, err)
			}
			if rec := w.records(1)[0]; !strings.HasPrefix(rec.Error, "the answer broke off: ") || rec.Received != n && guest == false {
				t.Errorf("%+v", rec)
			}
		}
	})
}

// An answer that comes before the whole body was sent reaches the guest, and
// what is still sent is not taken for a request.
func TestEarlyAnswer(t *testing.T) {
	w := newWorld(t, setup{handler: func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "too large", http.StatusRequestEntityTooLarge)
	}})
	c := w.raw()
	fmt.Fprintf(c, "PUT /a HTTP/1.1\r\nHost: %s\r\nContent-Length: 1000000\r\n\r\n", testHost)
	br := bufio.NewReader(c)
	res, body := response(t, br, "PUT")
	if res.StatusCode != 413 || body != "too large\n" || !res.Close {
		t.Fatalf("%+v %q", res, body)
	}
	_, _ = c.Write(bytes.Repeat([]byte("GET /b HTTP/1.1\r\nHost: "+testHost+"\r\n\r\n"), 1000))
	if rest, _ := io.ReadAll(br); len(rest) > 0 {
		t.Errorf("%q", rest)
	}
	if recs := w.records(1); recs[0].Path != "/a" {
		t.Errorf("%+v", recs)
	}
}

// Requests that are sent without waiting are answered one by one, in order, and
// each is judged.
func TestPipelining(t *testing.T) {
	w := newWorld(t, setup{judge: allowPublic, handler: func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s", r.Method, r.URL.Path, b)
	}})
	c := w.raw()
	for _, path := range []string{"/public/1", "/secret", "/public/2"} {
		fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Length: 4\r\n\r\nbody", path, testHost)
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", path, testHost)
		fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: %s\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nc\r\n0\r\n\r\n", path, testHost)
	}
	br := bufio.NewReader(c)
	for _, path := range []string{"/public/1", "/secret", "/public/2"} {
		for _, want := range []string{"POST " + path + " body", "GET " + path + " ", "POST " + path + " c"} {
			res, body := response(t, br, "")
			if path == "/secret" {
				if res.StatusCode != 403 || !strings.Contains(body, "blocked") {
					t.Errorf("%s: %v %q", want, res.Status, body)
				}
			} else if body != want {
				t.Errorf("%q, want %q", body, want)
			}
		}
	}
	if n := len(w.records(9)); n != 9 {
		t.Errorf("%d records", n)
	}
}

// Many connections at once do not hold each other up.
func TestConcurrent(t *testing.T) {
	protocols(t, func(t *testing.T, guest, server bool) {
		const n = 100
		var now atomic.Int64
		all := make(chan struct{})
		w := newWorld(t, setup{h2: server, handler: func(w http.ResponseWriter, r *http.Request) {
			if now.Add(1) == n {
				close(all)
			}
			<-all // every one of them is under way
			_, _ = io.WriteString(w, r.URL.RawQuery)
		}})
		c := w.client(guest)
		errs := make(chan error, n)
		for i := range n {
			go func() {
				res, err := c.Get(fmt.Sprintf("https://%s/?%d", testHost, i))
				if err != nil {
					errs <- err
					return
				}
				defer res.Body.Close()
				b, err := io.ReadAll(res.Body)
				if err == nil && string(b) != fmt.Sprint(i) {
					err = fmt.Errorf("%q for %d", b, i)
				}
				errs <- err
			}()
		}
		for range n {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
	})
}

var _ net.Conn = (*serverConn)(nil)

package credential

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"
)

// askWith sends a request with the placeholder where the service takes it.
func askWith(tb testing.TB, w *world, c *http.Client, change func(*http.Request)) (*http.Response, string) {
	tb.Helper()
	r := newTestRequest(tb, "GET", "https://"+boundHost+"/echo", nil)
	key := w.b.Placeholder("KEY")
	r.Header.Set("X-Api-Key", key)
	if change != nil {
		change(r)
	}
	return do(tb, c, r)
}

// all is all of an answer that a guest sees.
func all(res *http.Response, body string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d\n", res.StatusCode)
	_ = res.Header.Write(&b)
	b.WriteString(body + "\n")
	_ = res.Trailer.Write(&b)
	return b.String()
}

// echoes are ways in which a server carries a key back.
func echoes() map[string]func(tb testing.TB, rw http.ResponseWriter, text string) {
	body := func(status int, kind, code string, known bool) func(testing.TB, http.ResponseWriter, string) {
		return func(tb testing.TB, rw http.ResponseWriter, text string) {
			b := encoded(tb, code, []byte(`{"you sent": "`+text+`", "rest": "`+strings.Repeat("z", 700)+`"}`))
			rw.Header().Set("Content-Type", kind)
			if code != "" {
				rw.Header().Set("Content-Encoding", strings.TrimPrefix(code, "raw "))
			}
			if known {
				rw.Header().Set("Content-Length", strconv.Itoa(len(b)))
			}
			rw.WriteHeader(status)
			for len(b) > 0 { // in pieces
				n := min(len(b), 61)
				_, _ = rw.Write(b[:n])
				if !known {
					_ = http.NewResponseController(rw).Flush()
				}
				b = b[n:]
			}
		}
	}
	header := func(name string) func(testing.TB, http.ResponseWriter, string) {
		return func(_ testing.TB, rw http.ResponseWriter, text string) {
			rw.Header().Set(name, "a="+text+"; b")
			rw.WriteHeader(200)
		}
	}
	ways := map[string]func(testing.TB, http.ResponseWriter, string){
		"body": body(200, "application/json", "", true), "chunked body": body(200, "application/json", "", false),
		"error page": body(500, "text/html", "", true), "401": body(401, "", "", false),
		"binary": body(200, "application/octet-stream", "", true), "chunked binary": body(200, "application/grpc", "", false),
		"header": header("X-Echo"), "cookie": header("Set-Cookie"), "challenge": header("Www-Authenticate"),
		"redirect": func(_ testing.TB, rw http.ResponseWriter, text string) {
			rw.Header()["Location"] = []string{"https://" + otherHost + "/?key=" + text}
			rw.WriteHeader(302)
		},
		"trailer": func(_ testing.TB, rw http.ResponseWriter, text string) {
			rw.Header().Set("Trailer", "X-Sum")
			_, _ = io.WriteString(rw, "data")
			rw.Header().Set("X-Sum", text)
			rw.Header().Set(http.TrailerPrefix+"X-More", text)
		},
		"large": func(_ testing.TB, rw http.ResponseWriter, text string) {
			b := strings.Repeat("y", maxWhole) + text + "end"
			rw.Header().Set("Content-Length", strconv.Itoa(len(b)))
			_, _ = io.WriteString(rw, b)
		},
		"206": func(_ testing.TB, rw http.ResponseWriter, text string) {
			rw.Header().Set("Content-Range", fmt.Sprintf("bytes 0-%d/99999", len(text)-1))
			rw.Header().Set("Content-Length", strconv.Itoa(len(text)))
			rw.WriteHeader(206)
			_, _ = io.WriteString(rw, text)
		},
	}
	for _, code := range []string{"gzip", "deflate", "raw deflate", "br", "zstd", "gzip, br"} {
		ways[code] = body(200, "application/json", code, true)
		ways["chunked "+code] = body(404, "application/json", code, false)
	}
	return ways
}

// TestAnswers: whatever a bound host does with the key that it got, the guest
// does not see it.
func TestAnswers(t *testing.T) {
	protocols(t, func(t *testing.T, guest, server bool) {
		var send func(rw http.ResponseWriter)
		handler := func(rw http.ResponseWriter, _ *http.Request) { send(rw) }
		w := newWorld(t, setup{h2: server, handler: handler})
		off := newWorld(t, setup{h2: server, handler: handler, off: true})
		on, without := w.client(guest), off.client(guest)
		text := written(realKey)
		for name, echo := range echoes() {
			for way, text := range text {
				if testing.Short() && way != "raw" && way != "mixed" && way != "base64, after 1" {
					continue
				}
				send = func(rw http.ResponseWriter) { echo(t, rw, text) }
				// First: the leak would be seen.
				res, body := askWith(t, off, without, nil)
				if !refContains(all(res, decode(t, res, body)), realKey, false) {
					t.Fatalf("%s, %s: without the broker the guest does not see it: %s", name, way, all(res, body))
				}
				status := res.StatusCode
				res, body = askWith(t, w, on, nil)
				if got := all(res, decode(t, res, body)); res.StatusCode != status || refContains(got, realKey, false) {
					t.Errorf("%s, %s: %s", name, way, got)
				}
				if n := res.ContentLength; n >= 0 && n != int64(len(body)) {
					t.Errorf("%s, %s: a length of %d, a body of %d", name, way, n, len(body))
				}
				if name == "body" && way == "raw" && !strings.Contains(body, `"you sent": "`+w.b.Placeholder("KEY")+`"`) {
					t.Errorf("%s: %s", name, body)
				}
				if name == "redirect" && way == "raw" && !strings.HasSuffix(res.Header.Get("Location"), "?key="+w.b.Placeholder("KEY")) {
					t.Errorf("%s: %s", name, res.Header.Get("Location"))
				}
				if (name == "206" || name == "large" || name == "binary") && res.ContentLength < 0 {
					t.Errorf("%s: the length is lost", name)
				}
			}
		}
	})
}

// decode undoes what a guest would.
func decode(tb testing.TB, res *http.Response, body string) string {
	codes := codingsOf(res.Header["Content-Encoding"])
	if len(codes) == 0 {
		return body
	}
	b, err := io.ReadAll(newDecoder(strings.NewReader(body), codes))
	if err != nil {
		tb.Error(err)
	}
	return string(b)
}

// TestInformational: 103 and the like come from the server too.
func TestInformational(t *testing.T) {
	handler := func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Link", "<"+r.Header.Get("X-Api-Key")+realKey+">")
		rw.WriteHeader(http.StatusEarlyHints)
		rw.Header().Del("Link")
		rw.WriteHeader(200)
	}
	for _, off := range []bool{true, false} {
		w := newWorld(t, setup{handler: handler, off: off})
		var got string
		askWith(t, w, w.client(true), func(r *http.Request) {
			*r = *r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
				Got1xxResponse: func(_ int, h textproto.MIMEHeader) error { got = h.Get("Link"); return nil },
			}))
		})
		if strings.Contains(got, realKey) != off || got == "" {
			t.Errorf("off %v: %q", off, got)
		}
	}
}

// TestEventsAreNotDelayed: each arrives before the next is sent.
func TestEventsAreNotDelayed(t *testing.T) {
	protocols(t, func(t *testing.T, guest, server bool) {
		for _, code := range []string{"", "gzip"} {
			next := make(chan bool)
			w := newWorld(t, setup{h2: server, handler: func(rw http.ResponseWriter, r *http.Request) {
				rw.Header().Set("Content-Type", "text/event-stream")
				out, flush := io.Writer(rw), func() { _ = http.NewResponseController(rw).Flush() }
				if code != "" {
					rw.Header().Set("Content-Encoding", code)
					z := gzipWriter(rw)
					defer z.Close()
					out, flush = z, func() { _ = z.Flush(); _ = http.NewResponseController(rw).Flush() }
				}
				for i := range 20 {
					fmt.Fprintf(out, "data: {\"n\": %d, \"key\": \"%s\", \"more\": \"sk-ant-api0%d\"}\n\n", i, r.Header.Get("X-Api-Key"), i%5)
					flush()
					if !<-next {
						return
					}
				}
			}})
			r := newTestRequest(t, "GET", "https://"+boundHost+"/", nil)
			r.Header.Set("X-Api-Key", w.b.Placeholder("KEY"))
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			res, err := w.client(guest).Do(r.WithContext(ctx))
			if err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(res.Body)
			for i := range 20 {
				want := fmt.Sprintf("data: {\"n\": %d, \"key\": \"%s\", \"more\": \"sk-ant-api0%d\"}", i, w.b.Placeholder("KEY"), i%5)
				if !lines.Scan() || lines.Text() != want || !lines.Scan() || lines.Text() != "" {
					t.Errorf("event %d: %q", i, lines.Text())
				}
				next <- i < 19
			}
			_ = res.Body.Close()
			cancel()
		}
	})
}

// TestRedirect: the guest follows with the placeholder, and gets no further.
func TestRedirect(t *testing.T) {
	var asked []string
	w := newWorld(t, setup{handler: func(rw http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Host)
		if r.Host == boundHost {
			http.Redirect(rw, r, "https://"+otherHost+"/?k="+url.QueryEscape(r.Header.Get("X-Api-Key")), http.StatusFound)
		}
	}})
	c := w.client(true)
	c.CheckRedirect = nil
	res, body := askWith(t, w, c, nil)
	if res.StatusCode != 403 || !strings.Contains(body, "KEY is in the query") || len(asked) != 1 {
		t.Errorf("%d %s; asked %q", res.StatusCode, body, asked)
	}
}

// TestEncodingsOfAnswers: what the guest may not get encoded it gets decoded; what
// cannot be decoded it does not get.
func TestEncodingsOfAnswers(t *testing.T) {
	var accepted, code string
	var status int
	w := newWorld(t, setup{handler: func(rw http.ResponseWriter, r *http.Request) {
		accepted = r.Header.Get("Accept-Encoding")
		rw.Header().Set("Content-Encoding", code)
		b := []byte("hello")
		if code != "compress" {
			b = encoded(t, code, b)
		}
		rw.Header().Set("Content-Length", strconv.Itoa(len(b)))
		rw.WriteHeader(status)
		if r.Method != "HEAD" {
			_, _ = rw.Write(b)
		}
	}})
	for _, e := range []struct {
		method, code string
		status, want int
		body         string
	}{
		{"GET", "gzip", 200, 200, "hello"}, {"GET", "br", 200, 200, "hello"}, {"GET", "zstd", 404, 404, "hello"},
		{"GET", "compress", 200, 502, ""}, {"GET", "gzip", 206, 502, ""}, {"HEAD", "gzip", 200, 200, ""},
	} {
		code, status = e.code, e.status
		res, body := askWith(t, w, w.client(true), func(r *http.Request) {
			r.Method = e.method
			r.Header.Set("Accept-Encoding", "br, gzip")
		})
		if accepted != "gzip" || res.StatusCode != e.want || e.body != "" && body != e.body {
			t.Errorf("%+v: asked for %q; %d %q", e, accepted, res.StatusCode, body)
		}
		if e.want == 200 && (res.Header.Get("Content-Encoding") != "" || e.method == "HEAD" && res.Header.Get("Content-Length") != "") {
			t.Errorf("%+v: %q", e, res.Header)
		}
	}
	// An answer of another host's is none of the Broker's business.
	code, status = "compress", 200
	res, body := do(t, w.client(true), newTestRequest(t, "GET", "https://"+otherHost+"/", nil))
	if res.StatusCode != 200 || body != "hello" || res.Header.Get("Content-Encoding") != "compress" {
		t.Errorf("%d %q %q", res.StatusCode, body, res.Header)
	}
}

// TestRotated: the one before is still taken out of answers.
func TestRotated(t *testing.T) {
	w := newWorld(t, setup{handler: func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(rw, realKey+" and "+r.Header.Get("X-Api-Key"))
	}})
	c := w.client(false)
	ph := w.b.Placeholder("KEY")
	askWith(t, w, c, nil)
	if err := w.b.Bind(testBinding("KEY", "the key that came after it")); err != nil {
		t.Fatal(err)
	}
	if _, body := askWith(t, w, c, nil); body != ph+" and "+ph {
		t.Error(body)
	}
	for i := range 300 {
		if err := w.b.Bind(testBinding("KEY", fmt.Sprint("rotated many times ", i))); err != nil {
			t.Fatal(err)
		}
		askWith(t, w, c, nil)
	}
	if n := len(w.b.known.Load().list); n > keptValues {
		t.Errorf("%d values are remembered", n)
	}
}

// TestBrokenOff: an answer that breaks off does so for the guest, whichever way
// it is held.
func TestBrokenOff(t *testing.T) {
	protocols(t, func(t *testing.T, guest, server bool) {
		for _, size := range []int{100, maxWhole * 2, -1} {
			w := newWorld(t, setup{h2: server, handler: func(rw http.ResponseWriter, _ *http.Request) {
				rw.Header().Set("Content-Type", "text/plain")
				if size > 0 {
					rw.Header().Set("Content-Length", strconv.Itoa(size))
				}
				_, _ = io.WriteString(rw, strings.Repeat("x", 50))
				_ = http.NewResponseController(rw).Flush()
				panic(http.ErrAbortHandler)
			}})
			if res, body := askWith(t, w, w.client(guest), nil); res.StatusCode == 200 {
				t.Errorf("%d: the guest takes it for whole: %q", size, body)
			}
		}
	})
}

// TestUpgrade: the handshake of a WebSocket is treated as any request; what
// follows is not looked at.
func TestUpgrade(t *testing.T) {
	w := newWorld(t, setup{handler: func(rw http.ResponseWriter, r *http.Request) {
		conn, buf, err := http.NewResponseController(rw).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
		fmt.Fprintf(buf, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\nX-Echo: %s\r\n\r\n",
			base64.StdEncoding.EncodeToString(sum[:]), r.Header.Get("Authorization"))
		_ = buf.Flush()
		line, _ := buf.ReadString('\n')
		_, _ = io.WriteString(conn, line)
	}})
	raw, err := w.wire(boundHost, 443)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(w.ca.PEM())
	conn := tls.Client(raw, &tls.Config{ServerName: boundHost, RootCAs: pool, NextProtos: []string{"http/1.1"}, MinVersion: tls.VersionTLS12})
	defer conn.Close()
	fmt.Fprintf(conn, "GET /ws HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\nAuthorization: Bearer %s\r\n\r\n",
		boundHost, w.b.Placeholder("KEY"))
	br := bufio.NewReader(conn)
	res, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := res.Header.Get("X-Echo"); res.StatusCode != 101 || got != "Bearer "+w.b.Placeholder("KEY") {
		t.Errorf("%d %q", res.StatusCode, got)
	}
	fmt.Fprintf(conn, "hello\n")
	if line, _ := br.ReadString('\n'); line != "hello\n" {
		t.Errorf("%q", line)
	}
	if u := w.used(); len(u) != 1 || u[0].Refused {
		t.Errorf("recorded %+v", u)
	}
}

// TestUnchanged: an answer without a secret goes through as it is, byte for byte
// and with its length.
func TestUnchanged(t *testing.T) {
	bodies := map[string][]byte{"small": []byte(`{"a": "\u0041%41&amp;` + "\xff\"}"), "large": bytes.Repeat([]byte("sk-ant-api03 c2stYW50 \\u00 "), 1<<14)}
	protocols(t, func(t *testing.T, guest, server bool) {
		w := newWorld(t, setup{h2: server, handler: func(rw http.ResponseWriter, r *http.Request) {
			b := bodies[r.URL.Query().Get("b")]
			rw.Header().Set("Content-Type", "application/json")
			if r.URL.Query().Get("n") != "" {
				rw.Header().Set("Content-Length", strconv.Itoa(len(b)))
			}
			_, _ = rw.Write(b)
		}})
		for name, want := range bodies {
			for _, n := range []string{"", "1"} {
				res, body := askWith(t, w, w.client(guest), func(r *http.Request) { r.URL.RawQuery = "b=" + name + "&n=" + n })
				if body != string(want) || n != "" && res.ContentLength != int64(len(want)) {
					t.Errorf("%s, %q: a length of %d, %d bytes, want %d", name, n, res.ContentLength, len(body), len(want))
				}
			}
		}
	})
}

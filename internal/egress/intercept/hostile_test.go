package intercept

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// secretServer answers what nobody may ask for.
func secretServer(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	if r.URL.Path == "/secret" {
		_, _ = io.WriteString(w, "SECRET")
		return
	}
	_, _ = io.WriteString(w, "public")
}

// naive is a forwarder that judges the first line that it sees and goes by
// Content-Length, as many do; what follows the body it takes for the server's
// next request without a look. It shows that the attacks are ones.
func naive(tb testing.TB, origin string, raw string) string {
	tb.Helper()
	if !strings.Contains(raw[:strings.IndexByte(raw, '\n')], " /public") {
		return "denied"
	}
	c, err := net.Dial("tcp", origin)
	if err != nil {
		tb.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = io.WriteString(c, raw)
	b, _ := io.ReadAll(c)
	return string(b)
}

const follower = "GET /secret HTTP/1.1\r\nHost: " + testHost + "\r\nConnection: close\r\n\r\n"

// TestFollowerIsJudged: the plain trick, a pipelined follower, works against
// who looks at the first request alone; here each is judged by itself.
func TestFollowerIsJudged(t *testing.T) {
	first := "GET /public HTTP/1.1\r\nHost: " + testHost + "\r\n\r\n"
	plain := newWorld(t, setup{judge: allowPublic, handler: secretServer, plain: true})
	if got := naive(t, plain.origin.Listener.Addr().String(), first+follower); !strings.Contains(got, "SECRET") {
		t.Fatalf("the attack does not work where nothing guards: %q", got)
	}
	answer := plain.send(first + follower)
	if !strings.Contains(answer, "public") || strings.Contains(answer, "SECRET") || !strings.Contains(answer, "HTTP/1.1 403 ") {
		t.Errorf("answered %q", answer)
	}
	if recs := plain.records(2); !recs[0].Ruling.Allowed || recs[1].Ruling.Allowed || recs[1].Path != "/secret" {
		t.Errorf("records %+v", recs)
	}
}

// TestFronting: inside TLS for one name, another one is asked for.
func TestFronting(t *testing.T) {
	fronted := func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "served "+r.Host) }
	w := newWorld(t, setup{handler: fronted, h2: true})
	// The server itself serves whoever is asked for.
	direct := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	r := newRequest(t, "GET", "https://"+w.origin.Listener.Addr().String()+"/", nil)
	r.Host = "evil.example"
	if _, body := get(t, direct, r); body != "served evil.example" {
		t.Fatalf("the attack does not work where nothing guards: %q", body)
	}
	direct.CloseIdleConnections()
	if answer := w.send("GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"); !strings.HasPrefix(answer, "HTTP/1.1 4") || strings.Contains(answer, "served") {
		t.Errorf("Host: %q", answer)
	}
	if status := authority(t, w, "evil.example"); status != "400" && status != "403" && status != "421" {
		t.Errorf(":authority: %s", status)
	}
	if status := authority(t, w, testHost); status != "200" {
		t.Errorf("the right :authority: %s", status)
	}
	for _, name := range []string{"evil.example", ""} {
		c, err := net.Dial("tcp", w.addr)
		if err != nil {
			t.Fatal(err)
		}
		if err := tls.Client(c, &tls.Config{ServerName: name, InsecureSkipVerify: true}).Handshake(); err == nil {
			t.Errorf("a handshake for %q succeeds", name)
		}
		_ = c.Close()
	}
}

// authority asks by HTTP/2 for a name of its own and returns the status.
func authority(t *testing.T, w *world, name string) string {
	t.Helper()
	c := w.raw(func(c *tls.Config) { c.NextProtos = []string{"h2"} })
	_, _ = io.WriteString(c, http2.ClientPreface)
	f := http2.NewFramer(c, c)
	_ = f.WriteSettings()
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, h := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":path", "/"}, {":authority", name}} {
		_ = enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
	}
	_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true})
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return err.Error()
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			return frame.PseudoValue("status")
		case *http2.RSTStreamFrame:
			return "400" // refused by the stream
		}
	}
}

// TestServersAreVerified: a server that cannot prove its name gets no request.
func TestServersAreVerified(t *testing.T) {
	other := newTestCA(t)
	wrong, err := other.certificate(testHost)
	if err != nil {
		t.Fatal(err)
	}
	past, err := NewCA(func() time.Time { return time.Now().AddDate(-20, 0, 0) })
	if err != nil {
		t.Fatal(err)
	}
	expired, err := past.certificate(testHost)
	if err != nil {
		t.Fatal(err)
	}
	elsewhere, err := other.certificate("other.example")
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		cert  *tls.Certificate
		roots *x509.CertPool
	}{
		"unknown authority": {wrong, nil}, "expired": {expired, pool(past)}, "another name": {elsewhere, pool(other)},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, setup{handler: secretServer, cert: tt.cert, config: func(c *Config) {
				if tt.roots != nil {
					c.Roots = tt.roots
				}
			}})
			r := newRequest(t, "GET", "https://"+testHost+"/secret", nil)
			r.Header.Set("Authorization", "key")
			res, body := get(t, w.client(false), r)
			if res.StatusCode != http.StatusBadGateway || strings.Contains(body, "SECRET") || !strings.Contains(body, "certificate") {
				t.Errorf("%d %s", res.StatusCode, body)
			}
			if rec := w.records(1)[0]; rec.Error == "" {
				t.Errorf("record %+v", rec)
			}
		})
	}
}

// TestCut ends what is under way and no longer allowed.
func TestCut(t *testing.T) {
	begun := make(chan struct{})
	w := newWorld(t, setup{handler: func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(200)
		_ = http.NewResponseController(w).Flush()
		close(begun)
		<-r.Context().Done()
	}})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	res, err := w.client(false).Do(newRequest(t, "GET", "https://"+testHost+"/", nil).WithContext(ctx))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	<-begun
	w.proxy.Cut(func(Request) bool { return false })
	w.proxy.Cut(func(r Request) bool { return r.Host == testHost })
	if _, err := io.ReadAll(res.Body); err == nil || ctx.Err() != nil {
		t.Errorf("the answer ended as if it were whole: %v", err)
	}
	if rec := w.records(1)[0]; rec.Error == "" {
		t.Errorf("record %+v", rec)
	}
}

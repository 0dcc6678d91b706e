package credential

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"berth.dev/internal/service"
)

// TestPutIn: with only a placeholder inside, exactly the real key arrives.
func TestPutIn(t *testing.T) {
	protocols(t, func(t *testing.T, guest, server bool) {
		var got *http.Request
		w := newWorld(t, setup{h2: server, handler: func(_ http.ResponseWriter, r *http.Request) {
			got = r.Clone(t.Context())
			_, _ = io.Copy(io.Discard, r.Body)
		}})
		ph := w.b.Placeholder("KEY")
		c := w.client(guest)
		for name, e := range map[string]struct{ query, field, value, want, where string }{
			"header":       {"", "x-api-key", ph, realKey, "the header X-Api-Key"},
			"bearer":       {"", "Authorization", "Bearer " + ph, "Bearer " + realKey, "the header Authorization"},
			"bearer, case": {"", "Authorization", "bearer " + ph, "Bearer " + realKey, "the header Authorization"},
			"token":        {"", "Authorization", "token " + ph, "token " + realKey, "the header Authorization"},
			"basic":        {"", "Authorization", basicOf("git", ph), basicOf("git", realKey), "the header Authorization"},
			"basic, user":  {"", "Authorization", basicOf(ph, "x-oauth-basic"), basicOf(realKey, "x-oauth-basic"), "the header Authorization"},
			"basic, none":  {"", "Authorization", basicOf(ph, ""), basicOf(realKey, ""), "the header Authorization"},
			"base64":       {"", "Authorization", "Bearer " + b64(ph), "Bearer " + b64(realKey), "the header Authorization"},
			"query":        {"a=1&key=" + ph + "&b=%20", "", "", "a=1&key=" + url.QueryEscape(realKey) + "&b=%20", "the query parameter key"},
			"query, coded": {"k%65y=%73" + ph[1:], "", "", "k%65y=" + url.QueryEscape(realKey), "the query parameter key"},
		} {
			r := newTestRequest(t, "POST", "https://"+boundHost+"/v1/messages?"+e.query, strings.NewReader("hello"))
			if e.field != "" {
				r.Header.Set(e.field, e.value)
			}
			res, body := do(t, c, r)
			if res.StatusCode != 200 {
				t.Fatalf("%s: %d %s", name, res.StatusCode, body)
			}
			if e.field != "" && (got.Header.Get(e.field) != e.want || len(got.Header[http.CanonicalHeaderKey(e.field)]) != 1) || e.field == "" && got.URL.RawQuery != e.want {
				t.Errorf("%s: the server got %q, %q", name, got.Header, got.URL.RawQuery)
			}
			if got.ContentLength != 5 {
				t.Errorf("%s: a body of %d", name, got.ContentLength)
			}
			u := w.used()
			if len(u) != 1 || u[0].Secret != "KEY" || u[0].Refused || u[0].Host != boundHost || u[0].Port != 443 || u[0].Method != "POST" ||
				u[0].Path != "/v1/messages" || u[0].Reason != "put into "+e.where || u[0].Time.IsZero() {
				t.Errorf("%s: recorded %+v", name, u)
			}
		}
	})
}

func b64(s string) string                  { return base64.StdEncoding.EncodeToString([]byte(s)) }
func basicOf(user, password string) string { return "Basic " + b64(user+":"+password) }

// place is where a guest may put a placeholder.
type place struct {
	name string
	make func(tb testing.TB, url, text string) *http.Request
}

func places() []place {
	body := func(code, declared string, known bool) func(testing.TB, string, string) *http.Request {
		return func(tb testing.TB, url, text string) *http.Request {
			var b io.Reader = bytes.NewReader(encoded(tb, code, []byte(`{"a": "`+strings.Repeat("x", 1500)+text+`", "b": 1}`)))
			if !known {
				b = struct{ io.Reader }{b}
			}
			r := newTestRequest(tb, "POST", url, b)
			if declared != "" {
				r.Header.Set("Content-Encoding", declared)
			}
			return r
		}
	}
	list := []place{
		{"a header", func(tb testing.TB, url, text string) *http.Request {
			r := newTestRequest(tb, "GET", url, nil)
			r.Header.Set("X-Data", "x "+text)
			return r
		}},
		{"the user agent", func(tb testing.TB, url, text string) *http.Request {
			r := newTestRequest(tb, "GET", url, nil)
			r.Header.Set("User-Agent", text)
			return r
		}},
		{"a cookie", func(tb testing.TB, url, text string) *http.Request {
			r := newTestRequest(tb, "GET", url, nil)
			r.Header["Cookie"] = []string{"a=b; c=" + text}
			return r
		}},
		{"the query", func(tb testing.TB, u, text string) *http.Request {
			return newTestRequest(tb, "GET", u+"?q=a"+text, nil)
		}},
		{"the path", func(tb testing.TB, u, text string) *http.Request {
			return newTestRequest(tb, "GET", u+"v1/"+text, nil)
		}},
		{"a body", body("", "", true)},
		{"a chunked body", body("", "", false)},
		{"gzip that does not say so", body("gzip", "", false)},
		{"zstd that does not say so", body("zstd", "", true)},
		{"zlib that does not say so", body("deflate", "", true)},
		{"a trailer", func(tb testing.TB, url, text string) *http.Request {
			r := newTestRequest(tb, "POST", url, nil)
			r.Trailer = http.Header{"X-Sum": nil}
			r.Body, r.ContentLength = &withTrailer{strings.NewReader("data"), r.Trailer, text}, -1
			return r
		}},
	}
	for _, code := range []string{"gzip", "deflate", "br", "zstd", "gzip, br"} {
		list = append(list, place{code, body(code, code, true)}, place{"chunked " + code, body(code, code, false)})
	}
	return append(list, place{"raw deflate", body("raw deflate", "deflate", true)})
}

type withTrailer struct {
	io.Reader
	h    http.Header
	text string
}

func (b *withTrailer) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err == io.EOF {
		b.h.Set("X-Sum", b.text)
	}
	return n, err
}

func (b *withTrailer) Close() error { return nil }

// TestPlaceholderElsewhere: on its way to a host that it is not for, in whichever
// form, a placeholder does not arrive, and that it was tried is recorded.
func TestPlaceholderElsewhere(t *testing.T) {
	protocols(t, func(t *testing.T, guest, server bool) {
		s := &seen{}
		w := newWorld(t, setup{h2: server, handler: s.watch})
		off := newWorld(t, setup{h2: server, handler: s.watch, off: true})
		on, without := w.client(guest), off.client(guest)
		ph := w.b.Placeholder("KEY")
		core := w.b.state.Load().list[0].main.core
		ways := written(ph)
		for _, pl := range places() {
			for way, text := range ways {
				if testing.Short() && !strings.HasPrefix(pl.name, "a ") && way != "raw" && way != "mixed" {
					continue
				}
				if strings.ContainsAny(text, `\&;`) && (pl.name == "a cookie" || pl.name == "the query" || pl.name == "the path") {
					continue // nothing that can stand there
				}
				target := "https://" + otherHost + "/"
				// First: the leak would be seen.
				if res, body := do(t, without, pl.make(t, target, text)); res.StatusCode != 200 {
					t.Fatalf("%s, %s: without the broker: %d %s", pl.name, way, res.StatusCode, body)
				}
				if there, n := s.take(core); !there || n != 1 {
					t.Fatalf("%s, %s: without the broker the server does not see it", pl.name, way)
				}
				res, body := do(t, on, pl.make(t, target, text))
				if res.StatusCode != http.StatusForbidden || !strings.Contains(body, "the placeholder of KEY is in") {
					t.Errorf("%s, %s: %d %s", pl.name, way, res.StatusCode, body)
				}
				if there, n := s.take(core); there || n != 0 {
					t.Errorf("%s, %s: it got through: %v, %d requests", pl.name, way, there, n)
				}
				u := w.used()
				if len(u) != 1 || !u[0].Refused || u[0].Secret != "KEY" || u[0].Host != otherHost {
					t.Errorf("%s, %s: recorded %+v", pl.name, way, u)
				}
			}
		}
	})
}

// TestPlaceholderMisplaced: at its own host, where its service does not take it.
func TestPlaceholderMisplaced(t *testing.T) {
	s := &seen{}
	w := newWorld(t, setup{handler: s.watch})
	ph := w.b.Placeholder("KEY")
	c := w.client(true)
	for name, change := range map[string]func(r *http.Request){
		"another header":       func(r *http.Request) { r.Header.Set("X-Other", ph) },
		"twice":                func(r *http.Request) { r.Header.Set("X-Api-Key", ph+ph) },
		"with something":       func(r *http.Request) { r.Header.Set("X-Api-Key", ph+" "); r.Header.Set("X-Other", ph) },
		"behind something":     func(r *http.Request) { r.Header.Set("X-Api-Key", "x"+ph) },
		"another word":         func(r *http.Request) { r.Header.Set("Authorization", "Digest "+ph) },
		"base64 as a key":      func(r *http.Request) { r.Header.Set("X-Api-Key", b64(ph)) },
		"the path":             func(r *http.Request) { r.URL.Path += ph },
		"another parameter":    func(r *http.Request) { r.URL.RawQuery = "token=" + ph },
		"a part of one":        func(r *http.Request) { r.URL.RawQuery = "key=" + ph + "x" },
		"the name of one":      func(r *http.Request) { r.URL.RawQuery = ph + "=key" },
		"the name of a header": func(r *http.Request) { r.Header.Set("X-"+ph, "1") },
	} {
		r := newTestRequest(t, "GET", "https://"+boundHost+"/v1/", nil)
		change(r)
		res, body := do(t, c, r)
		if _, n := s.take(ph); n != 0 || res.StatusCode != 403 || !strings.Contains(body, "where its service does not take it") {
			t.Errorf("%s: %d %s", name, res.StatusCode, body)
		}
		if u := w.used(); len(u) != 1 || !u[0].Refused || u[0].Secret != "KEY" {
			t.Errorf("%s: recorded %+v", name, u)
		}
	}
}

// TestPlain: over plain HTTP nothing is put in, and the placeholder stays here;
// even when the port is one that the secret is bound to.
func TestPlain(t *testing.T) {
	s := &seen{}
	at80 := testBinding("KEY", realKey)
	at80.Service.Hosts = append(at80.Service.Hosts, service.Place{Host: at80.Service.Hosts[0].Host, Port: 80})
	for _, binding := range []Binding{testBinding("KEY", realKey), at80} {
		ask := func(w *world) (*http.Response, string) {
			r := newTestRequest(t, "GET", "http://"+boundHost+"/", nil)
			r.Header.Set("X-Api-Key", w.b.Placeholder("KEY"))
			return do(t, w.client(false), r)
		}
		off := newWorld(t, setup{handler: s.watch, off: true})
		ask(off)
		if there, _ := s.take(off.b.Placeholder("KEY")); !there {
			t.Fatal("without the broker the server does not see it")
		}
		w := newWorld(t, setup{handler: s.watch, bindings: []Binding{binding}})
		res, body := ask(w)
		if _, n := s.take(realKey); n != 0 || res.StatusCode != 403 || !strings.Contains(body, "not encrypted") {
			t.Errorf("%d %s", res.StatusCode, body)
		}
		if u := w.used(); len(u) != 1 || !u[0].Refused || u[0].Port != 80 {
			t.Errorf("recorded %+v", u)
		}
	}
}

// TestBusy: bindings change while requests are under way; each gets one of the
// values as a whole, and the guest sees none.
func TestBusy(t *testing.T) {
	w := newWorld(t, setup{h2: true, handler: func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if k := r.Header.Get("X-Api-Key"); !strings.HasPrefix(k, "real value ") {
			t.Errorf("%q arrived", k)
		}
		_, _ = io.WriteString(rw, r.Header.Get("X-Api-Key"))
	}})
	if err := w.b.Bind(testBinding("KEY", "real value 0")); err != nil {
		t.Fatal(err)
	}
	ph := w.b.Placeholder("KEY")
	c := w.client(true)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 25 {
				r := newTestRequest(t, "POST", "https://"+boundHost+"/", struct{ io.Reader }{strings.NewReader("body")})
				r.Header.Set("X-Api-Key", ph)
				if res, body := do(t, c, r); res.StatusCode != 200 || body != ph {
					t.Errorf("%d %s", res.StatusCode, body)
				}
			}
		})
	}
	for i := range 50 {
		if err := w.b.Bind(testBinding("KEY", fmt.Sprint("real value ", i))); err != nil {
			t.Error(err)
		}
		w.b.Environment()
		w.b.Hosts()
	}
	wg.Wait()
}

// TestOtherPort: another port of a bound host is another place.
func TestOtherPort(t *testing.T) {
	s := &seen{}
	w := newWorld(t, setup{handler: s.watch})
	r := newTestRequest(t, "GET", "https://"+boundHost+":8443/", nil)
	r.Header.Set("X-Api-Key", w.b.Placeholder("KEY"))
	if res, body := do(t, w.client(false), r); res.StatusCode != 403 || !strings.Contains(body, "no host that it is for") {
		t.Errorf("%d %s", res.StatusCode, body)
	}
	if _, n := s.take(realKey); n != 0 {
		t.Error("it arrived")
	}
}

// TestOtherSandbox: what another sandbox has is worth nothing here, and is known.
func TestOtherSandbox(t *testing.T) {
	s := &seen{}
	w := newWorld(t, setup{handler: s.watch})
	other, err := New(Config{Sandbox: "other", Key: testKey})
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Bind(testBinding("KEY", realKey)); err != nil {
		t.Fatal(err)
	}
	for name, make := range map[string]func() *http.Request{
		"header": func() *http.Request {
			r := newTestRequest(t, "GET", "https://"+boundHost+"/", nil)
			r.Header.Set("X-Api-Key", other.Placeholder("KEY"))
			return r
		},
		"body": func() *http.Request {
			return newTestRequest(t, "POST", "https://"+boundHost+"/", strings.NewReader(other.Placeholder("KEY")))
		},
		"unbound": func() *http.Request {
			return newTestRequest(t, "POST", "https://"+otherHost+"/", strings.NewReader(b64("a"+other.Placeholder("KEY"))))
		},
	} {
		res, body := do(t, w.client(true), make())
		if _, n := s.take(realKey); n != 0 || res.StatusCode != 403 || !strings.Contains(body, "a placeholder of another sandbox") {
			t.Errorf("%s: %d %s", name, res.StatusCode, body)
		}
		if u := w.used(); len(u) != 1 || !u[0].Refused || u[0].Secret != "" {
			t.Errorf("%s: recorded %+v", name, u)
		}
	}
}

// TestOwnBody: to its own host a placeholder in a body goes as it is; to a
// language model those of other secrets do too, and nowhere else.
func TestOwnBody(t *testing.T) {
	s := &seen{}
	own, other := testBinding("KEY", realKey), testBinding("OTHER", "the-other-real-secret")
	other.Service.Hosts = nil
	other.Service.Name = "other"
	for _, h := range testService().Hosts {
		h.Port = 8443
		other.Service.Hosts = append(other.Service.Hosts, h)
	}
	w := newWorld(t, setup{handler: s.watch, bindings: []Binding{own, other}})
	send := func(url string, names ...string) (*http.Response, string) {
		var text string
		for _, n := range names {
			text += n + "=" + w.b.Placeholder(n) + "\n"
		}
		r := newTestRequest(t, "POST", url, strings.NewReader(text))
		r.Header.Set("X-Api-Key", w.b.Placeholder("KEY"))
		return do(t, w.client(false), r)
	}
	res, body := send("https://"+boundHost+"/", "KEY")
	if there, n := s.take(w.b.Placeholder("KEY")); res.StatusCode != 200 || !there || n != 1 {
		t.Errorf("%d %s", res.StatusCode, body)
	}
	if u := w.used(); len(u) != 2 || u[0].Refused || u[1].Refused || u[1].Secret != "KEY" || !strings.Contains(u[1].Reason, "in the body") {
		t.Errorf("recorded %+v", u)
	}
	if res, body = send("https://"+boundHost+"/", "KEY", "OTHER"); res.StatusCode != 403 || !strings.Contains(body, "OTHER is in the body") {
		t.Errorf("%d %s", res.StatusCode, body)
	}
	own.Service.Quotes = true
	if err := w.b.Bind(own, other); err != nil {
		t.Fatal(err)
	}
	s.take("")
	w.used()
	if res, body = send("https://"+boundHost+"/", "KEY", "OTHER"); res.StatusCode != 200 {
		t.Errorf("%d %s", res.StatusCode, body)
	}
	if there, _ := s.take("the-other-real-secret"); there {
		t.Error("it was replaced in the body")
	}
	if u := w.used(); len(u) != 3 || u[1].Secret != "KEY" || u[2].Secret != "OTHER" || u[2].Refused {
		t.Errorf("recorded %+v", u)
	}
}

// TestLargeBody: bodies stream, whole and with their length.
func TestLargeBody(t *testing.T) {
	const size = 8 << 20
	protocols(t, func(t *testing.T, guest, server bool) {
		arrived := make(chan int64, 1)
		w := newWorld(t, setup{h2: server, handler: func(_ http.ResponseWriter, r *http.Request) {
			first := make([]byte, 1<<20)
			if _, err := io.ReadFull(r.Body, first); err != nil {
				t.Error(err)
			}
			arrived <- r.ContentLength
			n, err := io.Copy(io.Discard, r.Body)
			if err != nil || n != size-1<<20 {
				t.Errorf("%d bytes, %v", n, err)
			}
		}})
		c := w.client(guest)
		for _, known := range []bool{true, false} {
			pr, pw := io.Pipe()
			r := newTestRequest(t, "POST", "https://"+otherHost+"/", pr)
			if known {
				r.ContentLength = size
			}
			go func() {
				piece := bytes.Repeat([]byte("0123456789abcde\n"), 1<<16)
				_, _ = pw.Write(piece)
				_, _ = pw.Write(piece)
				want := int64(-1)
				if known {
					want = size
				}
				if n := <-arrived; n != want { // before the rest was sent
					t.Errorf("a length of %d, want %d", n, want)
				}
				for range size>>20 - 2 {
					_, _ = pw.Write(piece)
				}
				_ = pw.Close()
			}()
			if res, body := do(t, c, r); res.StatusCode != 200 {
				t.Fatalf("%d %s", res.StatusCode, body)
			}
		}
	})
}

// TestFoundLate: a placeholder at the end of a large body breaks it off before
// its last byte.
func TestFoundLate(t *testing.T) {
	protocols(t, func(t *testing.T, guest, server bool) {
		s := &seen{}
		w := newWorld(t, setup{h2: server, handler: s.watch})
		for _, known := range []bool{true, false} {
			var body io.Reader = strings.NewReader(strings.Repeat("x", 300<<10) + w.b.Placeholder("KEY"))
			if !known {
				body = struct{ io.Reader }{body}
			}
			res, text := do(t, w.client(guest), newTestRequest(t, "POST", "https://"+otherHost+"/", body))
			if res.StatusCode != 403 || !strings.Contains(text, "KEY") {
				t.Errorf("%d %s", res.StatusCode, text)
			}
			if there, n := s.take(w.b.Placeholder("KEY")); there || n != 0 {
				t.Error("it arrived")
			}
		}
	})
}

func TestBadEncodings(t *testing.T) {
	s := &seen{}
	w := newWorld(t, setup{handler: s.watch})
	bomb := encoded(t, "gzip", make([]byte, 64<<20))
	for name, e := range map[string]struct {
		code, want string
		body       []byte
	}{
		"not gzip": {"gzip", "not encoded with gzip", []byte("hello")},
		"cut":      {"gzip", "not encoded with gzip", encoded(t, "gzip", []byte("hello"))[:20]},
		"not br":   {"br", "not encoded with br", []byte("hello")},
		"a bomb":   {"gzip", "grows too much", bomb},
		"unknown":  {"aws-chunked", "", []byte("hello")},
		"too many": {"gzip, gzip, gzip, gzip", "", []byte("hello")},
	} {
		r := newTestRequest(t, "POST", "https://"+otherHost+"/", bytes.NewReader(e.body))
		r.Header.Set("Content-Encoding", e.code)
		res, body := do(t, w.client(true), r)
		if e.want == "" && res.StatusCode != 200 || e.want != "" && (res.StatusCode != 403 || !strings.Contains(body, e.want)) {
			t.Errorf("%s: %d %s", name, res.StatusCode, body)
		}
	}
}

var errNoKeyring = errors.New("the keyring at /home/user is locked; pin 12345")

// TestSourceFails: the guest hears which secret, and nothing else.
func TestSourceFails(t *testing.T) {
	s := &seen{}
	b := testBinding("KEY", "")
	b.Source = failing{}
	w := newWorld(t, setup{handler: s.watch, bindings: []Binding{b}})
	r := newTestRequest(t, "GET", "https://"+boundHost+"/", nil)
	r.Header.Set("X-Api-Key", w.b.Placeholder("KEY"))
	res, body := do(t, w.client(false), r)
	if res.StatusCode != 502 || !strings.Contains(body, "the secret KEY could not be had") || strings.Contains(body, "keyring") {
		t.Errorf("%d %s", res.StatusCode, body)
	}
	if _, n := s.take(""); n != 0 {
		t.Error("it was sent")
	}
	if u := w.used(); len(u) != 1 || !u[0].Refused || !strings.Contains(u[0].Reason, errNoKeyring.Error()) {
		t.Errorf("recorded %+v", u)
	}
	for _, value := range []string{"", "two\nlines", "a\x00b"} {
		if err := w.b.Bind(testBinding("KEY", value)); err != nil {
			t.Fatal(err)
		}
		if res, body := do(t, w.client(false), r.Clone(t.Context())); res.StatusCode != 502 || value != "" && strings.Contains(body, value) {
			t.Errorf("%q: %d %s", value, res.StatusCode, body)
		}
	}
}

// TestRebind: what is bound changes at once.
func TestRebind(t *testing.T) {
	var got string
	w := newWorld(t, setup{handler: func(_ http.ResponseWriter, r *http.Request) { got = r.Header.Get("X-Api-Key") }})
	ph := w.b.Placeholder("KEY")
	c := w.client(true)
	ask := func() (*http.Response, string) {
		got = ""
		r := newTestRequest(t, "GET", "https://"+boundHost+"/", nil)
		r.Header.Set("X-Api-Key", ph)
		return do(t, c, r)
	}
	if ask(); got != realKey {
		t.Fatal(got)
	}
	if err := w.b.Bind(testBinding("KEY", "another-real-key")); err != nil {
		t.Fatal(err)
	}
	if ask(); got != "another-real-key" {
		t.Error(got)
	}
	if err := w.b.Bind(); err != nil {
		t.Fatal(err)
	}
	if res, body := ask(); got != "" || res.StatusCode != 403 || !strings.Contains(body, "KEY, which was taken back") {
		t.Errorf("%d %s %s", res.StatusCode, body, got)
	}
	if len(w.b.Environment()) != 0 || len(w.b.Hosts()) != 0 || w.b.Inspect(boundHost, 443) {
		t.Error("something stayed")
	}
	if err := w.b.Bind(testBinding("KEY", realKey), testBinding("KEY", realKey)); err == nil {
		t.Error("one name twice")
	}
}

// TestWithout: a request without a placeholder goes as it is.
func TestWithout(t *testing.T) {
	s := &seen{}
	w := newWorld(t, setup{handler: s.watch})
	r := newTestRequest(t, "POST", "https://"+boundHost+"/a?b=c", strings.NewReader("body"))
	r.Header.Set("Authorization", "Bearer the guest's own")
	if res, body := do(t, w.client(true), r); res.StatusCode != 200 {
		t.Errorf("%d %s", res.StatusCode, body)
	}
	if there, n := s.take("Bearer the guest's own"); !there || n != 1 || len(w.used()) != 0 {
		t.Error("it did not arrive as it was")
	}
}

func TestAcceptDecodable(t *testing.T) {
	for _, e := range []struct{ in, rng, want string }{
		{"gzip, deflate, br, zstd", "", "gzip"}, {"br;q=1.0, gzip;q=0.8, *;q=0.1", "", "gzip"}, {"br", "", "identity"}, {"*", "", "gzip"},
		{"gzip;q=0", "", "identity"}, {"gzip;q=0.0, br", "", "identity"}, {"GZIP", "", "gzip"}, {"identity", "", "identity"}, {"gzip", "bytes=0-9", "identity"},
	} {
		h := http.Header{"Accept-Encoding": {e.in}, "Available-Dictionary": {"x"}}
		if e.rng != "" {
			h.Set("Range", e.rng)
		}
		acceptDecodable(h)
		if got := h.Get("Accept-Encoding"); got != e.want || h.Get("Available-Dictionary") != "" {
			t.Errorf("%q: %q, want %q", e.in, got, e.want)
		}
	}
	h := http.Header{}
	if acceptDecodable(h); len(h) != 0 {
		t.Error(fmt.Sprint(h))
	}
}

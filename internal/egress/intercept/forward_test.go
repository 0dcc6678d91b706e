package intercept

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
)

func TestForward(t *testing.T) {
	protocols(t, func(t *testing.T, guest, server bool) {
		var got *http.Request
		w := newWorld(t, setup{h2: server, handler: func(w http.ResponseWriter, r *http.Request) {
			got = r
			w.Header()["Date"] = nil
			w.Header().Set("Content-Type", "x/y")
			w.Header().Set("X-Twice", "a")
			w.Header().Add("X-Twice", "b")
			if !server {
				w.Header().Set("Connection", "X-Hop")
				w.Header().Set("X-Hop", "1")
			}
			w.WriteHeader(http.StatusTeapot)
			_, _ = io.Copy(w, r.Body)
		}})
		r := newRequest(t, "PATCH", "https://"+testHost+"/a//b/%2e%2E/c%2fd?q=%zz&x=1;2", strings.NewReader("body"))
		r.Header.Set("User-Agent", "")
		r.Header.Set("X-Own", "mine")
		res, body := get(t, w.client(guest), r)
		if body != "body" || res.StatusCode != http.StatusTeapot || res.Header.Get("X-Hop") != "" {
			t.Errorf("%v %q", res, body)
		}
		want := http.Header{"Content-Type": {"x/y"}, "X-Twice": {"a", "b"}}
		delete(res.Header, "Content-Length")
		if !reflect.DeepEqual(res.Header, want) {
			t.Errorf("header %v, want %v", res.Header, want)
		}
		if got.RequestURI != "/a//b/%2e%2E/c%2fd?q=%zz&x=1;2" || got.Host != testHost || got.Method != "PATCH" {
			t.Errorf("the server got %s %s for %s", got.Method, got.RequestURI, got.Host)
		}
		if want := (http.Header{"Content-Length": {"4"}, "X-Own": {"mine"}}); !reflect.DeepEqual(got.Header, want) {
			t.Errorf("the server got header %v, want %v", got.Header, want)
		}
		rec := w.records(1)[0]
		if rec.Method != "PATCH" || rec.Path != "/a//b/%2e%2E/c%2fd" || rec.Status != 418 || rec.Sent != 4 || rec.Received != 4 ||
			rec.Host != testHost || rec.Port != 443 || !rec.TLS || rec.Error != "" || rec.Upstream != w.origin.Listener.Addr().String() ||
			rec.Duration <= 0 || rec.Ruling.Rule != "allow all" || (rec.Proto == "h2") != guest {
			t.Errorf("%+v", rec)
		}
	})
}

func TestTrailers(t *testing.T) {
	protocols(t, func(t *testing.T, guest, server bool) {
		w := newWorld(t, setup{h2: server, handler: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Trailer", "X-Sum")
			w.Header().Set("X-Te", r.Header.Get("Te"))
			b, _ := io.ReadAll(r.Body)
			_, _ = w.Write(b)
			w.Header().Set("X-Sum", r.Trailer.Get("X-Mine")+"!")
			w.Header().Set(http.TrailerPrefix+"X-Late", "late")
		}})
		r := newRequest(t, "POST", "https://"+testHost+"/", io.MultiReader(strings.NewReader("body")))
		r.Header.Set("Te", "trailers")
		r.Trailer = http.Header{"X-Mine": {"sum"}}
		res, body := get(t, w.client(guest), r)
		if body != "body" || res.Trailer.Get("X-Sum") != "sum!" || res.Trailer.Get("X-Late") != "late" || res.Header.Get("X-Te") != "trailers" {
			t.Errorf("%q, trailer %v, header %v", body, res.Trailer, res.Header)
		}
	})
}

// Answers without a body keep what they say about the one that they would have.
func TestNoBody(t *testing.T) {
	protocols(t, func(t *testing.T, guest, server bool) {
		w := newWorld(t, setup{h2: server, handler: func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/head":
				w.Header().Set("Content-Length", "1234")
			case "/304":
				w.Header().Set("Etag", `"x"`)
				w.WriteHeader(http.StatusNotModified)
			case "/204":
				w.WriteHeader(http.StatusNoContent)
			}
		}})
		c := w.client(guest)
		for path, status := range map[string]int{"/head": 200, "/304": 304, "/204": 204, "/empty": 200} {
			method := "GET"
			if path == "/head" {
				method = "HEAD"
			}
			for range 2 { // the connection is in order afterwards
				res, body := get(t, c, newRequest(t, method, "https://"+testHost+path, nil))
				if res.StatusCode != status || body != "" {
					t.Errorf("%s: %v %q", path, res.Status, body)
				}
				if path == "/head" && res.ContentLength != 1234 || path == "/304" && res.Header.Get("Etag") == "" {
					t.Errorf("%s: %v", path, res.Header)
				}
			}
		}
	})
}

func TestInformational(t *testing.T) {
	protocols(t, func(t *testing.T, guest, server bool) {
		w := newWorld(t, setup{h2: server, handler: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Link", "</style.css>; rel=preload")
			w.WriteHeader(http.StatusEarlyHints)
			w.Header().Del("Link")
			_, _ = io.WriteString(w, "done")
		}})
		var link string
		r := newRequest(t, "GET", "https://"+testHost+"/", nil)
		r = r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
			Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
				link = fmt.Sprint(code, " ", h.Get("Link"))
				return nil
			},
		}))
		res, body := get(t, w.client(guest), r)
		if body != "done" || link != "103 </style.css>; rel=preload" || res.Header.Get("Link") != "" {
			t.Errorf("%q, early %q, header %v", body, link, res.Header)
		}
	})
}

// A guest that waits for a 100 gets one when the server wants the body, and the
// answer alone when it does not. Over HTTP/2 the library takes the wish out of
// the request, and the guest's body is asked for at once.
func TestExpectContinue(t *testing.T) {
	protocols(t, func(t *testing.T, guest, server bool) {
		w := newWorld(t, setup{h2: server, handler: func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/no" {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			_, _ = io.Copy(w, r.Body)
		}})
		for _, path := range []string{"/yes", "/no"} {
			body := &readSpy{Reader: strings.NewReader("body")}
			r := newRequest(t, "PUT", "https://"+testHost+path, body)
			r.ContentLength = 4
			r.Header.Set("Expect", "100-continue")
			res, text := get(t, w.client(guest), r)
			if path == "/yes" && (text != "body" || res.StatusCode != 200) {
				t.Errorf("%s: %v %q", path, res.Status, text)
			}
			if path == "/no" && (res.StatusCode != 401 || body.read.Load() && !guest) {
				t.Errorf("%s: %v, body read: %v", path, res.Status, body.read.Load())
			}
		}
		for _, rec := range w.records(2) {
			if want := map[string]int64{"/yes": 4, "/no": 0}[rec.Path]; rec.Sent != want && !guest {
				t.Errorf("%s: %d bytes sent, want %d", rec.Path, rec.Sent, want)
			}
		}
	})
}

type readSpy struct {
	io.Reader
	read atomic.Bool
}

func (r *readSpy) Read(p []byte) (int, error) {
	r.read.Store(true)
	return r.Reader.Read(p)
}

type stage struct {
	request  func(Target, *http.Request) error
	response func(Target, *http.Response) error
}

func (s stage) Request(_ context.Context, t Target, r *http.Request) error   { return s.request(t, r) }
func (s stage) Response(_ context.Context, t Target, r *http.Response) error { return s.response(t, r) }

func TestStages(t *testing.T) {
	protocols(t, func(t *testing.T, guest, server bool) {
		s := stage{
			request: func(to Target, r *http.Request) error {
				if r.URL.Path == "/refuse-request" {
					return errors.New("no such credential")
				}
				r.Header.Set("Authorization", "real")
				r.URL.Host, r.Host = "elsewhere.example", "elsewhere.example" // to no effect
				return nil
			},
			response: func(_ Target, r *http.Response) error {
				if r.Request.URL.Path == "/refuse-response" {
					return errors.New("a secret in the answer")
				}
				r.Body = io.NopCloser(io.MultiReader(r.Body, strings.NewReader(" and more")))
				r.ContentLength = -1
				return nil
			},
		}
		w := newWorld(t, setup{h2: server, config: func(c *Config) {
			c.Requests, c.Responses = []RequestStage{s}, []ResponseStage{s}
		}, handler: func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, r.Host+" "+r.Header.Get("Authorization"))
		}})
		c := w.client(guest)
		for path, want := range map[string]string{
			"/":                "200 " + testHost + " real and more",
			"/refuse-request":  "403 berth: blocked GET https://" + testHost + "/refuse-request - no such credential.\n",
			"/refuse-response": "403 berth: blocked GET https://" + testHost + "/refuse-response - a secret in the answer.\n",
		} {
			r := newRequest(t, "GET", "https://"+testHost+path, nil)
			r.Header.Set("Authorization", "placeholder")
			res, body := get(t, c, r)
			if got := fmt.Sprint(res.StatusCode, " ", body); got != want {
				t.Errorf("%s: %q, want %q", path, got, want)
			}
		}
		for _, rec := range w.records(3) {
			if rec.Ruling.Allowed != (rec.Path == "/") {
				t.Errorf("%+v", rec)
			}
		}
	})
}

// What a Connection field lists is not passed on, and what a stage adds cannot
// be taken out by it.
func TestHopByHop(t *testing.T) {
	var got http.Header
	add := stage{request: func(_ Target, r *http.Request) error {
		r.Header.Set("Authorization", "real")
		return nil
	}}
	w := newWorld(t, setup{config: func(c *Config) { c.Requests = []RequestStage{add} },
		handler: func(_ http.ResponseWriter, r *http.Request) { got = maps.Clone(r.Header) }})
	w.send("GET / HTTP/1.1\r\nHost: " + testHost + "\r\nConnection: close, authorization, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\n" +
		"Proxy-Authorization: x\r\nTE: gzip, trailers\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n")
	if want := (http.Header{"Authorization": {"real"}, "Te": {"trailers"}, "X-Forwarded-For": {"1.2.3.4"}}); !reflect.DeepEqual(got, want) {
		t.Errorf("the server got %v, want %v", got, want)
	}
}

func TestHTTP10(t *testing.T) {
	w := newWorld(t, setup{handler: func(w http.ResponseWriter, _ *http.Request) {
		w.(http.Flusher).Flush() // no length
		_, _ = io.WriteString(w, "body")
	}})
	got := w.send("GET / HTTP/1.0\r\nHost: " + testHost + "\r\n\r\n")
	if !strings.HasSuffix(got, "\r\n\r\nbody") || !strings.Contains(got, "Connection: close\r\n") || strings.Contains(got, "chunked") {
		t.Errorf("%q", got)
	}
}

func TestOptionsAsterisk(t *testing.T) {
	var got string
	w := newWorld(t, setup{handler: func(_ http.ResponseWriter, r *http.Request) { got = r.RequestURI },
		server: nil})
	w.origin.Config.DisableGeneralOptionsHandler = true
	w.send("OPTIONS * HTTP/1.1\r\nHost: " + testHost + "\r\nConnection: close\r\n\r\n")
	if got != "*" || w.records(1)[0].Path != "*" {
		t.Errorf("the server got %q", got)
	}
}

// An absolute-form target of the right origin is a path; servers have to take it.
func TestAbsoluteForm(t *testing.T) {
	var got string
	w := newWorld(t, setup{handler: func(_ http.ResponseWriter, r *http.Request) { got = r.RequestURI }})
	w.send("GET HTTPS://API.example.test:443/a?b HTTP/1.1\r\nHost: " + testHost + "\r\nConnection: close\r\n\r\n")
	if got != "/a?b" {
		t.Errorf("the server got %q", got)
	}
}

package intercept

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

func TestAuthority(t *testing.T) {
	name := Target{testHost, 8443, true}
	six := Target{"2001:db8::7", 443, true}
	for _, tt := range []struct {
		target   Target
		in, want string
	}{
		{name, testHost, testHost},
		{name, "API.Example.TEST:8443", testHost + ":8443"},
		{name, testHost + ":443", ""},
		{name, testHost + ":08443", ""},
		{name, testHost + ":", ""},
		{name, testHost + ".", ""},
		{name, testHost + " ", ""},
		{name, "x." + testHost, ""},
		{name, "user@" + testHost, ""},
		{name, testHost + ":8443:8443", ""},
		{name, "[" + testHost + "]", ""},
		{name, "", ""},
		{six, "[2001:db8::7]", "[2001:db8::7]"},
		{six, "[2001:DB8:0::7]:443", "[2001:db8::7]:443"},
		{six, "2001:db8::7", ""},
		{six, "[2001:db8::7%25eth0]", ""},
		{six, "[2001:db8::8]", ""},
		{six, "[2001:db8::7", ""},
		{six, "[2001:db8::7]x", ""},
	} {
		got, err := tt.target.authority(tt.in)
		if got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%q for %v: %q, %v", tt.in, tt.target, got, err)
		}
	}
}

// The path that is judged is the one that is sent, and bytes that servers treat
// differently are encoded before.
func TestPath(t *testing.T) {
	target := Target{testHost, 443, true}
	for in, want := range map[string]string{
		"/":                         "/",
		"/a//b/../c/./":             "/a//b/../c/./",
		"//other.example/x":         "//other.example/x",
		"/%2e%2E/%2f%5c?x=/../":     "/%2e%2E/%2f%5c?x=/../",
		"/a\\b|c%2Fd":               "/a%5Cb%7Cc%2Fd",
		"/a#b?c#d":                  "/a%23b?c%23d",
		"/\xc3\xa9":                 "/%C3%A9",
		"/[x]@:;=,!$&'()*+~":        "/[x]@:;=,!$&'()*+~",
		"/a?":                       "/a?",
		"/?%zz":                     "/?%zz",
		"https://" + testHost:       "/",
		"https://" + testHost + "?": "/?",
		"/%":                        "",
		"/%2":                       "",
		"/%g0":                      "",
		"/a b":                      "",
		"/a?b c":                    "",
		"/a\x7f":                    "",
		"":                          "",
		"a":                         "",
		"ftp://" + testHost + "/":   "",
	} {
		u, err := target.url("GET", in)
		if err != nil {
			if want != "" {
				t.Errorf("%q: %v", in, err)
			}
			continue
		}
		if got := u.RequestURI(); got != want || u.Host != testHost+":443" || u.Scheme != "https" {
			t.Errorf("%q: %q at %s, want %q", in, got, u.Host, want)
		}
	}
}

// FuzzURL: whatever target passes is sent as it is judged, to the right place,
// as one token, and a server that parses it finds the same path.
func FuzzURL(f *testing.F) {
	for _, s := range []string{"/", "*", "/a%2fb/../c?x#y", "//x", "https://" + testHost + "/", "/\\|\xff", "/%41?%"} {
		f.Add(s)
	}
	target := Target{testHost, 443, true}
	f.Fuzz(func(t *testing.T, raw string) {
		u, err := target.url("OPTIONS", raw)
		if err != nil {
			var bad badRequest
			if !errors.As(err, &bad) {
				t.Errorf("refused by %T", err)
			}
			return
		}
		sent := u.RequestURI()
		if u.Host != testHost+":443" || strings.ContainsAny(sent, " \t\r\n\x00\x7f#") {
			t.Fatalf("%q is sent as %q to %s", raw, sent, u.Host)
		}
		if path, _, _ := strings.Cut(sent, "?"); path != u.EscapedPath() {
			t.Fatalf("%q is judged as %q and sent as %q", raw, u.EscapedPath(), path)
		}
		if sent == "*" {
			return
		}
		back, err := url.ParseRequestURI(sent)
		if err != nil || back.Path != u.Path || back.EscapedPath() != u.EscapedPath() || back.RawQuery != u.RawQuery {
			t.Errorf("%q is sent as %q and read as %v, %v", raw, sent, back, err)
		}
	})
}

// status2 sends one HTTP/2 request of these fields and returns the status of the
// answer, or "reset".
func status2(t *testing.T, w *world, fields ...string) string {
	t.Helper()
	c := w.raw(func(c *tls.Config) { c.NextProtos = []string{"h2"} })
	defer c.Close()
	_, _ = io.WriteString(c, http2.ClientPreface)
	f := http2.NewFramer(c, c)
	_ = f.WriteSettings()
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for i := 0; i < len(fields); i += 2 {
		_ = enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true})
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return "reset"
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			return frame.PseudoValue("status")
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			return "reset"
		}
	}
}

// What HTTP/2 allows to be said in two ways, or would be two requests in HTTP/1.
func TestMalformed2(t *testing.T) {
	w := newWorld(t, setup{judge: allowPublic, handler: secretServer})
	ok := []string{":method", "GET", ":scheme", "https", ":path", "/public", ":authority", testHost}
	with := func(more ...string) []string { return append(append([]string(nil), ok...), more...) }
	replaced := func(name, value string) []string {
		out := append([]string(nil), ok...)
		for i := 0; i < len(out); i += 2 {
			if out[i] == name {
				out[i+1] = value
			}
		}
		return out
	}
	if s := status2(t, w, ok...); s != "200" {
		t.Fatalf("a good request: %s", s)
	}
	if s := status2(t, w, with("host", testHost)...); s != "200" {
		t.Fatalf("with Host: %s", s)
	}
	dialed := w.dialed()
	for name, fields := range map[string][]string{
		"line break in path":     replaced(":path", "/public HTTP/1.1\r\nHost: x\r\n\r\nGET /secret"),
		"space in path":          replaced(":path", "/public /secret"),
		"space in query":         replaced(":path", "/public?a HTTP/1.1"),
		"space in method":        replaced(":method", "GET /secret"),
		"CONNECT":                {":method", "CONNECT", ":authority", testHost + ":443"},
		"extended CONNECT":       with(":protocol", "websocket"),
		"scheme":                 replaced(":scheme", "http"),
		"authority":              replaced(":authority", "other.example"),
		"port":                   replaced(":authority", testHost+":80"),
		"user":                   replaced(":authority", "x@"+testHost),
		"other Host":             with("host", "other.example"),
		"two Hosts":              with("host", testHost, "host", "other.example"),
		"two lengths":            with("content-length", "0", "content-length", "5"),
		"no length":              with("content-length", "x"),
		"coding":                 with("transfer-encoding", "chunked"),
		"upgrade":                with("upgrade", "h2c"),
		"connection":             with("connection", "upgrade"),
		"settings":               with("http2-settings", "AAMAAABk"),
		"line break in a value":  with("x", "a\r\nContent-Length: 5"),
		"line break in a name":   with("x\r\ny", "a"),
		"upper case in a name":   with("X-Y", "a"),
		"path without a slash":   replaced(":path", "public"),
		"absolute path":          replaced(":path", "https://other.example/public"),
		"asterisk without OPTIO": replaced(":path", "*"),
	} {
		if s := status2(t, w, fields...); s != "400" && s != "reset" {
			t.Errorf("%s: %s", name, s)
		}
	}
	if w.dialed() != dialed {
		t.Error("the server was reached")
	}
	if s := status2(t, w, replaced(":path", "/secret")...); s != "403" {
		t.Errorf("what is not allowed: %s", s)
	}
}

// Fields that a guest sends do not become the server's framing.
func TestDowngrade(t *testing.T) {
	var got *http.Request
	w := newWorld(t, setup{handler: func(_ http.ResponseWriter, r *http.Request) { got = r }})
	r := newRequest(t, "POST", "https://"+testHost+"/", io.MultiReader(strings.NewReader("body")))
	get(t, w.client(true), r)
	if len(got.TransferEncoding) != 1 || got.ContentLength != -1 || len(got.Header["Content-Length"]) > 0 {
		t.Errorf("%v, length %d, %v", got.TransferEncoding, got.ContentLength, got.Header)
	}
}

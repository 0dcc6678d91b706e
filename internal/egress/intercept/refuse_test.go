package intercept

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
)

// What a person reads of a refusal: where to, why, and what to do.
func TestRefusalText(t *testing.T) {
	long := "/" + strings.Repeat("a", 300)
	for _, tt := range []struct {
		ruling       Ruling
		method, path string
		want         string
	}{
		{Ruling{Reason: "no rule allows it", Hint: "berth policy allow " + testHost + ":443 --sandbox s"}, "GET", "/a?token=x",
			"berth: blocked GET https://" + testHost + "/a - no rule allows it.\nTo allow it, on the host: berth policy allow " + testHost + ":443 --sandbox s\n"},
		{Ruling{Rule: "deny " + testHost, Origin: "user (policy.toml)"}, "POST", "/",
			"berth: blocked POST https://" + testHost + "/ - a rule denies it: deny " + testHost + " (user (policy.toml)).\n"},
		{Ruling{Rule: "deny x", Reason: "denied by the preset: deny x"}, "GET", "/",
			"berth: blocked GET https://" + testHost + "/ - denied by the preset: deny x.\n"},
		{Ruling{}, "GET", long, "berth: blocked GET https://" + testHost + long[:200] + "... - no rule allows it.\n"},
	} {
		protocols(t, func(t *testing.T, guest, server bool) {
			w := newWorld(t, setup{h2: server, judge: func(Request) Ruling { return tt.ruling }})
			r := newRequest(t, tt.method, "https://"+testHost+tt.path, nil)
			res, body := get(t, w.client(guest), r)
			if body != tt.want || res.StatusCode != 403 || res.Header.Get("Content-Type") != "text/plain; charset=utf-8" || res.Header.Get(Marker) != "blocked" {
				t.Errorf("%v\n%q, want\n%q", res, body, tt.want)
			}
			if rec := w.records(1)[0]; rec.Ruling != tt.ruling || rec.Status != 403 || rec.Upstream != "" || w.dialed() != 0 {
				t.Errorf("%+v, %d connections", rec, w.dialed())
			}
		})
	}
}

// npm and the SDKs of model providers show the "error" of a JSON object.
func TestRefusalJSON(t *testing.T) {
	w := newWorld(t, setup{judge: func(Request) Ruling { return Ruling{Hint: `berth policy allow "<x>"`} }})
	r := newRequest(t, "GET", "https://"+testHost+"/", nil)
	r.Header.Set("Accept", "application/vnd.npm.install-v1+json; q=1.0, application/json; q=0.8, */*")
	res, body := get(t, w.client(false), r)
	var got struct{ Error string }
	if err := json.Unmarshal([]byte(body), &got); err != nil || res.Header.Get("Content-Type") != "application/json" {
		t.Fatalf("%q: %v", body, err)
	}
	if want := "berth: blocked GET https://" + testHost + "/ - no rule allows it.\nTo allow it, on the host: berth policy allow \"<x>\""; got.Error != want || !strings.Contains(body, "<x>") {
		t.Errorf("%q, want %q", body, want)
	}
}

// A refusal does not cost the connection, unless a large body is on its way.
func TestRefusalKeepsConnection(t *testing.T) {
	w := newWorld(t, setup{judge: allowPublic, handler: secretServer})
	got := w.send("POST /secret HTTP/1.1\r\nHost: " + testHost + "\r\nContent-Length: 4\r\n\r\nbody" +
		"HEAD /secret HTTP/1.1\r\nHost: " + testHost + "\r\n\r\n" +
		"GET /public HTTP/1.1\r\nHost: " + testHost + "\r\n\r\n" +
		"POST /secret HTTP/1.1\r\nHost: " + testHost + "\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
	if n := strings.Count(got, "HTTP/1.1 403 "); n != 3 || !strings.Contains(got, "public") || strings.Contains(got, "100 Continue") {
		t.Errorf("%q", got)
	}
}

// A connection that is denied as a whole is told so by its first answer, and
// nothing is dialed.
func TestRefuseConnection(t *testing.T) {
	ruling := Ruling{Reason: "no rule allows it", Hint: "berth policy allow"}
	for _, tt := range []struct {
		name      string
		plain, h2 bool
	}{{"plain", true, false}, {"h1", false, false}, {"h2", false, true}} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, setup{plain: tt.plain, refusal: &ruling})
			scheme := "https"
			if tt.plain {
				scheme = "http"
			}
			c := w.client(tt.h2)
			for range 2 {
				res, body := get(t, c, newRequest(t, "GET", scheme+"://"+testHost+"/", nil))
				if res.StatusCode != 403 || !strings.HasPrefix(body, "berth: blocked GET "+scheme+"://"+testHost+"/ - no rule allows it.\n") {
					t.Errorf("%v %q", res, body)
				}
				if tt.h2 != (res.ProtoMajor == 2) || !tt.h2 && !res.Close {
					t.Errorf("%v", res)
				}
			}
			if w.dialed() != 0 {
				t.Error("the server was reached")
			}
			for _, rec := range w.records(2) {
				if rec.Ruling != ruling {
					t.Errorf("%+v", rec)
				}
			}
		})
	}
}

type timeout struct{}

func (timeout) Error() string   { return "timeout" }
func (timeout) Timeout() bool   { return true }
func (timeout) Temporary() bool { return true }

// What the dialer says comes to the guest as what it is: a decision, a failure,
// or that it took too long.
func TestDialErrors(t *testing.T) {
	denied := &Denied{Ruling{Reason: "it resolves to a private address", Hint: "berth policy allow 10.0.0.1"}}
	for name, tt := range map[string]struct {
		err    error
		status int
		text   string
	}{
		"denied":   {denied, 403, "it resolves to a private address.\nTo allow it, on the host: berth policy allow 10.0.0.1\n"},
		"failed":   {errors.New("refused\x1b[31m\n"), 502, "the server cannot be reached: refused?[31m?.\n"},
		"slow":     {&net.OpError{Op: "dial", Err: timeout{}}, 504, "the server did not answer in time: "},
		"deadline": {os.ErrDeadlineExceeded, 504, "the server did not answer in time: "},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, setup{dial: func(context.Context, string, uint16) (net.Conn, error) { return nil, tt.err }})
			res, body := get(t, w.client(true), newRequest(t, "GET", "https://"+testHost+"/", nil))
			if res.StatusCode != tt.status || !strings.Contains(body, tt.text) {
				t.Errorf("%v %q", res.Status, body)
			}
			rec := w.records(1)[0]
			if isDenied := name == "denied"; rec.Ruling.Allowed == isDenied || (rec.Error == "") != isDenied || rec.Status != tt.status {
				t.Errorf("%+v", rec)
			}
		})
	}
}

// A handshake that fails is recorded, with the reason for those that are
// refused and plain words for clients that do not know the CA.
func TestHandshakeRecords(t *testing.T) {
	w := newWorld(t, setup{})
	for _, tt := range []struct {
		cfg     *tls.Config
		allowed bool
		alert   string
		want    string
	}{
		{&tls.Config{ServerName: "evil.example", InsecureSkipVerify: true}, false, "unrecognized name", `the TLS client named "evil.example", the connection is for ` + testHost},
		{&tls.Config{InsecureSkipVerify: true}, false, "unrecognized name", "the TLS client named no server, the connection is for " + testHost},
		{&tls.Config{ServerName: testHost}, true, "", "the client does not trust the sandbox's CA: remote error: tls: "},
		{&tls.Config{ServerName: testHost, InsecureSkipVerify: true, MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}, true, "protocol version", "TLS with the guest: tls: client offered only unsupported versions"},
		{&tls.Config{ServerName: testHost, InsecureSkipVerify: true, NextProtos: []string{"acme-tls/1"}}, true, "no application protocol", "TLS with the guest: tls: client requested unsupported application protocols"},
	} {
		c, err := net.Dial("tcp", w.addr)
		if err != nil {
			t.Fatal(err)
		}
		err = tls.Client(c, tt.cfg).Handshake()
		if err == nil || !strings.Contains(err.Error(), tt.alert) {
			t.Errorf("%s: the client sees %v", tt.want, err)
		}
		_ = c.Close()
		rec := w.records(1)[0]
		if text := rec.Error + rec.Ruling.Reason; !strings.HasPrefix(text, tt.want) || rec.Ruling.Allowed != tt.allowed || rec.Proto != "tls" {
			t.Errorf("%+v, want %q", rec, tt.want)
		}
	}
	// Case does not matter in names.
	if _, err := w.raw(func(c *tls.Config) { c.ServerName = "API.Example.Test" }).Write([]byte("x")); err != nil {
		t.Error(err)
	}
}

// A connection to an address has no name to send, and its own Host.
func TestAddressTarget(t *testing.T) {
	for _, host := range []string{"192.0.2.7", "2001:db8::7"} {
		t.Run(host, func(t *testing.T) {
			w := newWorld(t, setup{host: host, port: 8443, handler: func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Host) }})
			for _, h2 := range []bool{false, true} {
				authority := net.JoinHostPort(host, "8443")
				if res, body := get(t, w.client(h2), newRequest(t, "GET", "https://"+authority+"/", nil)); res.StatusCode != 200 || body != authority {
					t.Errorf("%v %q", res.Status, body)
				}
			}
			c, err := net.Dial("tcp", w.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if err := tls.Client(c, &tls.Config{ServerName: testHost, InsecureSkipVerify: true}).Handshake(); err == nil {
				t.Error("a name is taken for an address")
			}
		})
	}
}

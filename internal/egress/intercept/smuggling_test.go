package intercept

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/net/http2"
)

// reading is how somebody reads a stream of HTTP/1: one that the standard
// allowed at some time, or that some software had. Two of them, one that judges
// and one that serves, are what smuggling needs.
type reading struct {
	lf, cr   bool   // a bare LF, a bare CR ends a line
	unfolded bool   // a line that begins with a space is a field of its own
	trims    bool   // spaces before a colon
	cuts     bool   // a value ends at NUL
	last     bool   // of several fields the last one counts
	sign     bool   // a number may have one
	coding   bool   // Transfer-Encoding beats Content-Length
	sloppy   bool   // a coding that has "chunked" in it is chunked
	old      bool   // HTTP/1.0 knows no Transfer-Encoding
	before   bool   // the target is what is before the version, not what is behind the method
	absolute bool   // the target's authority beats Host
	opaque   string // methods and upgrades behind which it does not look
}

// requests are what it finds in a stream, as "host path".
func (r reading) requests(s string) []string {
	var found []string
	for s != "" {
		var line string
		line, s = r.line(s)
		parts := strings.Split(line, " ")
		if len(parts) < 3 || !strings.Contains(line, " HTTP/") {
			continue // many skip what is no request
		}
		target := parts[1]
		if r.before {
			target = parts[len(parts)-2]
		}
		fields := map[string][]string{}
		s = r.fields(s, fields)
		host := r.pick(fields["host"])
		if _, rest, ok := strings.Cut(target, "://"); ok {
			authority, path, _ := strings.Cut(rest, "/")
			if target = "/" + path; r.absolute {
				host = authority
			}
		}
		found = append(found, host+" "+target)
		if strings.Contains(r.opaque, parts[0]) || r.opaque != "" && len(fields["upgrade"]) > 0 {
			return found
		}
		s = s[min(len(s), r.body(s, fields, r.old && strings.Contains(line, "HTTP/1.0"))):]
	}
	return found
}

func (r reading) line(s string) (line, rest string) {
	for i := range len(s) {
		switch {
		case strings.HasPrefix(s[i:], "\r\n"):
			return s[:i], s[i+2:]
		case r.lf && s[i] == '\n', r.cr && s[i] == '\r':
			return s[:i], s[i+1:]
		}
	}
	return s, ""
}

func (r reading) fields(s string, into map[string][]string) (rest string) {
	name := ""
	for {
		var line string
		if line, s = r.line(s); line == "" {
			return s
		}
		if line[0] == ' ' && !r.unfolded && name != "" {
			into[name][len(into[name])-1] += line
			continue
		}
		var value string
		name, value, _ = strings.Cut(strings.TrimLeft(line, " "), ":")
		if r.trims {
			name = strings.TrimSpace(name)
		}
		if r.cuts {
			value, _, _ = strings.Cut(value, "\x00")
		}
		name = strings.ToLower(name)
		into[name] = append(into[name], strings.Trim(value, " "))
	}
}

func (r reading) pick(values []string) string {
	switch {
	case len(values) == 0:
		return ""
	case r.last:
		return values[len(values)-1]
	}
	return values[0]
}

// body is how many bytes belong to the request.
func (r reading) body(s string, fields map[string][]string, old bool) int {
	coding := strings.ToLower(r.pick(fields["transfer-encoding"]))
	chunked := !old && (coding == "chunked" || r.sloppy && strings.Contains(coding, "chunked"))
	if length := fields["content-length"]; len(length) > 0 && !(chunked && r.coding) {
		v := r.pick(strings.Split(strings.Join(length, ","), ","))
		if !r.sign && strings.HasPrefix(strings.TrimSpace(v), "+") {
			return 0
		}
		n, _ := strconv.Atoi(strings.TrimSpace(v))
		return n
	}
	if !chunked {
		return 0
	}
	at := 0
	for {
		head, _ := r.line(s[at:])
		n, err := strconv.ParseInt(head, 16, 32)
		at += len(head) + 2
		if at += int(n) + 2; n == 0 || err != nil || at >= len(s) {
			return min(at, len(s))
		}
	}
}

func forbidden(request string) bool {
	return strings.HasPrefix(request, "other.example ") || strings.HasSuffix(request, " /secret")
}

// TestSmuggling: what one reader takes for a part of an allowed request, another
// takes for a request of its own. Each trick is first shown to fool a forwarder
// that judges by one reading and passes the bytes on to a server with the other;
// here it is refused, and reaches no server.
func TestSmuggling(t *testing.T) {
	post := "POST /public HTTP/1.1\r\nHost: " + testHost + "\r\n"
	length := fmt.Sprint(len(follower))
	chunk := fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(follower), follower)
	empty := "0\r\n\r\n"
	for name, tt := range map[string]struct {
		raw          string
		judge, serve reading
	}{
		"CL.TE": {post + "Content-Length: " + fmt.Sprint(len(empty+follower)) + "\r\nTransfer-Encoding: chunked\r\n\r\n" + empty + follower,
			reading{}, reading{coding: true}},
		"TE.CL": {post + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk,
			reading{coding: true}, reading{}},
		"two lengths": {post + "Content-Length: 0\r\nContent-Length: " + length + "\r\n\r\n" + follower,
			reading{last: true}, reading{}},
		"length list": {post + "Content-Length: 0, " + length + "\r\n\r\n" + follower,
			reading{last: true}, reading{}},
		"signed length": {post + "Content-Length: +" + length + "\r\n\r\n" + follower,
			reading{sign: true}, reading{}},
		"coding list": {post + "Transfer-Encoding: gzip, chunked\r\n\r\n" + chunk,
			reading{sloppy: true}, reading{}},
		"coding spelled oddly": {post + "Transfer-Encoding: xchunked\r\n\r\n" + chunk,
			reading{sloppy: true}, reading{}},
		"coding with control": {post + "Transfer-Encoding: \vchunked\r\n\r\n" + chunk,
			reading{sloppy: true}, reading{}},
		"two codings": {post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n" + chunk,
			reading{}, reading{last: true}},
		"coding in HTTP/1.0": {"POST /public HTTP/1.0\r\nHost: " + testHost + "\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk,
			reading{}, reading{old: true}},
		"space before colon": {post + "Content-Length : " + length + "\r\n\r\n" + follower,
			reading{trims: true}, reading{}},
		"folded field": {post + "X: a\r\n Content-Length: " + length + "\r\n\r\n" + follower,
			reading{unfolded: true}, reading{}},
		"bare LF": {post + "X: a\nContent-Length: " + length + "\r\n\r\n" + follower,
			reading{lf: true}, reading{}},
		"bare CR": {post + "X: a\rContent-Length: " + length + "\r\n\r\n" + follower,
			reading{cr: true}, reading{}},
		"NUL": {post + "Transfer-Encoding: chunked\x00\r\n\r\n" + chunk,
			reading{cuts: true}, reading{}},
		"four parts": {"GET /secret /public HTTP/1.1\r\nHost: " + testHost + "\r\n\r\n",
			reading{before: true}, reading{}},
		"two hosts": {"GET /public HTTP/1.1\r\nHost: " + testHost + "\r\nHost: other.example\r\n\r\n",
			reading{}, reading{last: true}},
		"absolute form": {"GET https://other.example/public HTTP/1.1\r\nHost: " + testHost + "\r\n\r\n",
			reading{}, reading{absolute: true}},
		"h2c upgrade": {"GET /public HTTP/1.1\r\nHost: " + testHost + "\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n" + follower,
			reading{opaque: "h2c"}, reading{}},
		"HTTP/2 preface": {http2.ClientPreface + follower,
			reading{opaque: "PRI"}, reading{}},
		"CONNECT": {"CONNECT " + testHost + ":443 HTTP/1.1\r\nHost: " + testHost + "\r\n\r\n" + follower,
			reading{opaque: "CONNECT"}, reading{}},
		"unknown upgrade": {"GET /public HTTP/1.1\r\nHost: " + testHost + "\r\nConnection: Upgrade\r\nUpgrade: tunnel\r\n\r\n" + follower,
			reading{opaque: "tunnel"}, reading{}},
		"upgrade not announced": {"GET /public HTTP/1.1\r\nHost: " + testHost + "\r\nUpgrade: websocket\r\n\r\n" + follower,
			reading{opaque: "websocket"}, reading{}},
	} {
		t.Run(name, func(t *testing.T) {
			if seen := tt.judge.requests(tt.raw); slices.ContainsFunc(seen, forbidden) {
				t.Fatalf("the judge of a naive forwarder sees through it: %q", seen)
			}
			if served := tt.serve.requests(tt.raw); !slices.ContainsFunc(served, forbidden) {
				t.Fatalf("the attack does not work where nothing guards: the server serves %q", served)
			}
			w := newWorld(t, setup{judge: allowPublic, handler: secretServer})
			answer := w.send(tt.raw)
			if !strings.HasPrefix(answer, "HTTP/1.1 400 ") || strings.Count(answer, "HTTP/1.1 ") != 1 {
				t.Errorf("answered %q", answer)
			}
			if w.dialed() != 0 {
				t.Error("the server was reached")
			}
			if rec := w.records(1)[0]; rec.Ruling.Allowed || rec.Ruling.Reason == "" || rec.Status != 400 {
				t.Errorf("record %+v", rec)
			}
		})
	}
}

// TestMalformed: what is no trick yet is refused all the same.
func TestMalformed(t *testing.T) {
	host := "Host: " + testHost + "\r\n"
	for name, raw := range map[string]string{
		"other version":       "GET /public HTTP/1.3\r\n" + host + "\r\n",
		"no version":          "GET /public\r\n" + host + "\r\n",
		"lower case":          "GET /public http/1.1\r\n" + host + "\r\n",
		"two spaces":          "GET  /public HTTP/1.1\r\n" + host + "\r\n",
		"tab":                 "GET\t/public\tHTTP/1.1\r\n" + host + "\r\n",
		"empty line before":   "\r\nGET /public HTTP/1.1\r\n" + host + "\r\n",
		"LF only":             "GET /public HTTP/1.1\nHost: " + testHost + "\n\n",
		"no host":             "GET /public HTTP/1.1\r\n\r\n",
		"empty host":          "GET /public HTTP/1.1\r\nHost:\r\n\r\n",
		"user in host":        "GET /public HTTP/1.1\r\nHost: x@" + testHost + "\r\n\r\n",
		"other port":          "GET /public HTTP/1.1\r\nHost: " + testHost + ":8443\r\n\r\n",
		"other scheme":        "GET http://" + testHost + "/public HTTP/1.1\r\n" + host + "\r\n",
		"Kelvin sign":         "GET /public HTTP/1.1\r\nHost: api.example.test\u212a\r\n\r\n",
		"asterisk":            "GET * HTTP/1.1\r\n" + host + "\r\n",
		"authority form":      "GET " + testHost + ":443 HTTP/1.1\r\n" + host + "\r\n",
		"broken encoding":     "GET /public%2 HTTP/1.1\r\n" + host + "\r\n",
		"negative length":     "GET /public HTTP/1.1\r\n" + host + "Content-Length: -1\r\n\r\n",
		"huge length":         "GET /public HTTP/1.1\r\n" + host + "Content-Length: 99999999999999999999\r\n\r\n",
		"empty length":        "GET /public HTTP/1.1\r\n" + host + "Content-Length:\r\n\r\n",
		"no name":             "GET /public HTTP/1.1\r\n" + host + ": x\r\n\r\n",
		"no colon":            "GET /public HTTP/1.1\r\n" + host + "X\r\n\r\n",
		"websocket by POST":   strings.Replace(upgradeRequest("/public"), "GET", "POST", 1),
		"websocket with body": strings.Replace(upgradeRequest("/public"), "\r\n\r\n", "\r\nContent-Length: 1\r\n\r\nx", 1),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, setup{judge: allowPublic, handler: secretServer})
			if answer := w.send(raw); !strings.HasPrefix(answer, "HTTP/1.1 400 ") || w.dialed() != 0 {
				t.Errorf("answered %q", answer)
			}
			if rec := w.records(1)[0]; rec.Ruling.Allowed || rec.Ruling.Reason == "" {
				t.Errorf("record %+v", rec)
			}
		})
	}
}

// FuzzHead: a header block that passes means the same to net/http, and to every
// reading that smuggling needs two of: each finds it, its body, and what follows.
func FuzzHead(f *testing.F) {
	for _, s := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "POST /x HTTP/1.1\r\nHost: a:443\r\nContent-Length: 5\r\n\r\n",
		"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n",
		"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
		"GET http://a/ HTTP/1.0\r\nHost: a\r\n\r\n", "OPTIONS * HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, block []byte) {
		if len(block) > maxHead {
			return
		}
		h, err := checkHead(block)
		if err != nil {
			var bad badRequest
			if !errors.As(err, &bad) {
				t.Errorf("refused by %T", err)
			}
			return
		}
		if bytes.Count(block, []byte("\n")) != bytes.Count(block, []byte("\r\n")) || bytes.Contains(block[:len(block)-4], []byte("\r\n\r\n")) {
			t.Fatalf("%q passes", block)
		}
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(block)))
		if err != nil {
			return // net/http refuses more, and parse asks both
		}
		if r.Method != h.method || r.RequestURI != h.target || r.ProtoMinor != h.minor {
			t.Errorf("%q: %s %s, net/http has %s %s", block, h.method, h.target, r.Method, r.RequestURI)
		}
		if chunked := len(r.TransferEncoding) == 1; chunked != (h.length < 0) || !chunked && r.ContentLength != h.length {
			t.Errorf("%q: a body of %d, net/http has %d %v", block, h.length, r.ContentLength, r.TransferEncoding)
		}
		body := "0\r\n\r\n"
		if h.length >= 0 {
			body = strings.Repeat("x", int(min(h.length, 4096)))
		}
		if h.length > 4096 {
			return
		}
		for _, as := range []reading{{}, {lf: true}, {cr: true}, {unfolded: true}, {trims: true}, {cuts: true}, {last: true},
			{sign: true}, {coding: true}, {sloppy: true}, {old: true}, {before: true}, {absolute: true},
			{lf: true, cr: true, unfolded: true, trims: true, cuts: true, last: true, sign: true, coding: true, sloppy: true, old: true}} {
			found := as.requests(string(block) + body + follower)
			if len(found) != 2 || found[1] != testHost+" /secret" || strings.HasPrefix(h.target, "/") && found[0] != h.host+" "+h.target && !strings.Contains(h.target, "://") {
				t.Errorf("%q: %+v finds %q", block, as, found)
			}
		}
	})
}

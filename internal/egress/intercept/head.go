package intercept

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// Bounds of a header block.
const (
	maxHead   = 64 << 10 // bytes, request line included
	maxFields = 256
	maxMethod = 32 // bytes
)

// badRequest is why a request is refused before anybody judges it: it says
// something that two readers could take for two different things, or is no HTTP.
type badRequest string

// Error implements error.
func (b badRequest) Error() string { return string(b) }

func badf(format string, args ...any) badRequest { return badRequest(fmt.Sprintf(format, args...)) }

// head is an HTTP/1 header block that means one thing only.
type head struct {
	method, target string
	minor          int    // of HTTP/1
	host           string // as sent
	length         int64  // of the body; -1 when it is chunked
	upgrade        string // "websocket" or ""
	expects        bool   // 100-continue
	close          bool   // no other request will follow
}

// checkHead reads a header block, up to and with the empty line that ends it.
// It is stricter than RFC 9112 where that lets receivers be lenient: each such
// leniency is a way to make two of them disagree about where a request ends.
func checkHead(block []byte) (*head, error) {
	lines, err := splitHead(block)
	if err != nil {
		return nil, err
	}
	h := &head{}
	if err := h.requestLine(lines[0]); err != nil {
		return nil, err
	}
	var f fields
	for _, line := range lines[1:] {
		name, value, err := splitField(line)
		if err != nil {
			return nil, err
		}
		f.add(name, value)
	}
	if err := h.framing(&f); err != nil {
		return nil, err
	}
	return h, h.connection(&f)
}

// splitHead splits at CRLF and finds what is no part of any line.
func splitHead(block []byte) ([]string, error) {
	body, ok := bytes.CutSuffix(block, []byte("\r\n\r\n"))
	if !ok {
		return nil, badRequest("the header block does not end with an empty line")
	}
	lines := strings.Split(string(body), "\r\n")
	if len(lines) > maxFields+1 {
		return nil, badf("more than %d header fields", maxFields)
	}
	for _, line := range lines {
		if line == "" {
			return nil, badRequest("an empty line before the end of the header block")
		}
		for _, c := range []byte(line) {
			switch {
			case c == '\r' || c == '\n':
				return nil, badRequest("a line that does not end with CR LF")
			case c < ' ' && c != '\t' || c == 0x7f:
				return nil, badRequest("a control byte in the header block")
			}
		}
	}
	return lines, nil
}

func (h *head) requestLine(line string) error {
	parts := strings.Split(line, " ")
	if len(parts) != 3 || parts[1] == "" || strings.Contains(line, "\t") {
		return badRequest("the request line is not three parts with one space between")
	}
	h.method, h.target = parts[0], parts[1]
	if err := checkMethod(h.method); err != nil {
		return err
	}
	switch parts[2] {
	case "HTTP/1.1":
		h.minor = 1
	case "HTTP/1.0":
	case "HTTP/2.0":
		return badRequest("HTTP/2 on a connection that did not negotiate it")
	default:
		return badRequest("not HTTP/1.1")
	}
	return nil
}

// checkMethod is for HTTP/2 as well.
func checkMethod(m string) error {
	if len(m) > maxMethod || !token(m) {
		return badRequest("the method is no token")
	}
	if lower(m) == "connect" {
		return badRequest("CONNECT: this is no proxy, connect to the server itself")
	}
	return nil
}

// splitField takes a field line apart (RFC 9112 §5).
func splitField(line string) (name, value string, err error) {
	if line[0] == ' ' || line[0] == '\t' {
		return "", "", badRequest("a header field that goes on in another line")
	}
	name, value, ok := strings.Cut(line, ":")
	if !ok {
		return "", "", badRequest("a header field without a colon")
	}
	if !token(name) {
		return "", "", badRequest("a header field whose name is no token")
	}
	return lower(name), strings.Trim(value, " \t"), nil
}

// fields are the values of those fields that decide about framing and routing.
type fields struct {
	host, length, coding, connection, upgrade, expect, http2 []string
}

func (f *fields) add(name, value string) {
	switch name {
	case "host":
		f.host = append(f.host, value)
	case "content-length":
		f.length = append(f.length, value)
	case "transfer-encoding":
		f.coding = append(f.coding, value)
	case "connection", "proxy-connection":
		f.connection = append(f.connection, value)
	case "upgrade":
		f.upgrade = append(f.upgrade, value)
	case "expect":
		f.expect = append(f.expect, value)
	case "http2-settings":
		f.http2 = append(f.http2, value)
	}
}

// framing finds the length of the body (RFC 9112 §6.3, without its choices).
func (h *head) framing(f *fields) error {
	if len(f.host) != 1 || f.host[0] == "" {
		return badRequest("not exactly one Host")
	}
	h.host = f.host[0]
	if len(f.coding) > 0 {
		switch {
		case len(f.length) > 0:
			return badRequest("both Content-Length and Transfer-Encoding")
		case len(f.coding) > 1 || lower(f.coding[0]) != "chunked":
			return badRequest("a Transfer-Encoding other than chunked")
		case h.minor == 0:
			return badRequest("Transfer-Encoding in HTTP/1.0")
		}
		h.length = -1
		return nil
	}
	if len(f.length) > 0 {
		n, err := contentLength(f.length)
		if err != nil {
			return err
		}
		h.length = n
	}
	return nil
}

// contentLength is for HTTP/2 as well.
func contentLength(values []string) (int64, error) {
	if len(values) > 1 {
		return 0, badRequest("more than one Content-Length")
	}
	s := values[0]
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return 0, badRequest("a Content-Length that is no number")
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, badRequest("a Content-Length that is no number")
	}
	return n, nil
}

// connection finds what is asked of the connection. What would make another
// protocol of it is refused, not ignored: a server that answers "101" to what
// was meant to be dropped on the way would be believed.
func (h *head) connection(f *fields) error {
	tokens := list(f.connection)
	h.close = h.minor == 0 || contains(tokens, "close")
	h.expects = contains(list(f.expect), "100-continue") && h.length != 0 && h.minor > 0
	upgrade := contains(tokens, "upgrade")
	switch {
	case len(f.http2) > 0 || contains(tokens, "http2-settings"):
		return badRequest("HTTP2-Settings: HTTP/2 without TLS is not supported")
	case !upgrade && len(f.upgrade) == 0:
		return nil
	case !upgrade || len(f.upgrade) != 1:
		return badRequest("Upgrade and Connection do not agree")
	case lower(f.upgrade[0]) != "websocket":
		return badf("an upgrade to %s; only websocket is supported", quote(f.upgrade[0]))
	case h.method != "GET" || h.minor == 0 || h.length != 0:
		return badRequest("an upgrade to websocket by something else than a GET without a body")
	}
	h.upgrade = "websocket"
	return nil
}

// list is the elements of comma-separated values, in lower case.
func list(values []string) []string {
	var out []string
	for _, v := range values {
		for e := range strings.SplitSeq(v, ",") {
			if e = strings.Trim(e, " \t"); e != "" {
				out = append(out, lower(e))
			}
		}
	}
	return out
}

func contains(list []string, s string) bool {
	for _, e := range list {
		if e == s {
			return true
		}
	}
	return false
}

// token reports whether s is a token of RFC 9110 §5.6.2, as a method and the name
// of a field are.
func token(s string) bool { return httpguts.ValidHeaderFieldName(s) }

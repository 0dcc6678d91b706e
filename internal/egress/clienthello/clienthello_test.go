package clienthello

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"
)

// hello returns the first flight of Go's own client.
func hello(tb testing.TB, cfg *tls.Config) []byte {
	tb.Helper()
	client, server := net.Pipe()
	defer server.Close()
	go func() {
		cfg.InsecureSkipVerify = true
		_ = tls.Client(client, cfg).Handshake()
		client.Close()
	}()
	head := make([]byte, recordHeader)
	if _, err := io.ReadFull(server, head); err != nil {
		tb.Fatal(err)
	}
	body := make([]byte, int(head[3])<<8|int(head[4]))
	if _, err := io.ReadFull(server, body); err != nil {
		tb.Fatal(err)
	}
	return append(head, body...)
}

// split cuts the message into records of n bytes.
func split(flight []byte, n int) []byte {
	var out []byte
	for body := flight[recordHeader:]; len(body) > 0; {
		part := body[:min(n, len(body))]
		out = append(out, recordHandshake, 3, 1, byte(len(part)>>8), byte(len(part)))
		out = append(out, part...)
		body = body[len(part):]
	}
	return out
}

func TestParse(t *testing.T) {
	flight := hello(t, &tls.Config{ServerName: "example.com"})
	for _, b := range [][]byte{flight, split(flight, 1), split(flight, 100), append(bytes.Clone(flight), "more"...)} {
		h, err := Parse(b)
		if err != nil || h.ServerName != "example.com" || h.ECH {
			t.Errorf("%+v, %v", h, err)
		}
	}
	if h, err := Parse(hello(t, &tls.Config{})); err != nil || h.ServerName != "" {
		t.Errorf("without a name: %+v, %v", h, err)
	}
	for n := range flight {
		if _, err := Parse(flight[:n]); !errors.Is(err, ErrIncomplete) {
			t.Fatalf("the first %d bytes: %v", n, err)
		}
	}
}

func TestNotTLS(t *testing.T) {
	for _, s := range []string{"GET / HTTP/1.1\r\n", "SSH-2.0-x\r\n", "\x16\x02\x00", "\x80\x2e\x01"} {
		if _, err := Parse([]byte(s)); !errors.Is(err, ErrNotTLS) {
			t.Errorf("%q: %v", s, err)
		}
	}
}

// insert adds raw extensions to a hello, mending the lengths around them.
func insert(flight, ext []byte) []byte {
	r := &reader{flight[recordHeader+4:], true}
	r.take(34)
	r.vector(1)
	r.vector(2)
	r.vector(1)
	at := len(flight) - len(r.b)
	exts := append(bytes.Clone(flight[at+2:]), ext...)
	out := append(bytes.Clone(flight[:at]), byte(len(exts)>>8), byte(len(exts)))
	out = append(out, exts...)
	n := len(out) - recordHeader
	out[3], out[4] = byte(n>>8), byte(n)
	out[6], out[7], out[8] = byte((n-4)>>16), byte((n-4)>>8), byte(n-4)
	return out
}

func TestECHIsSeen(t *testing.T) {
	flight := insert(hello(t, &tls.Config{ServerName: "example.com"}), []byte{0xfe, 0x0d, 0, 1, 0})
	if h, err := Parse(flight); err != nil || !h.ECH || h.ServerName != "example.com" {
		t.Errorf("%+v, %v", h, err)
	}
}

// TestTwoNames: a hello that says two names is nobody's to choose from.
func TestTwoNames(t *testing.T) {
	second := []byte{0, 0, 0, 9, 0, 7, 0, 0, 4, 'e', 'v', 'i', 'l'}
	flight := hello(t, &tls.Config{ServerName: "example.com"})
	if _, err := Parse(insert(flight, second)); !errors.Is(err, ErrMalformed) {
		t.Errorf("two server_name extensions: %v", err)
	}
	two := append([]byte{0, 0, 0, 16, 0, 14}, []byte{0, 0, 4, 'g', 'o', 'o', 'd', 0, 0, 4, 'e', 'v', 'i', 'l'}...)
	if _, err := Parse(insert(hello(t, &tls.Config{}), two)); !errors.Is(err, ErrMalformed) {
		t.Errorf("two names in one: %v", err)
	}
}

func TestTooLong(t *testing.T) {
	long := []byte{recordHandshake, 3, 1, 0x40, 0, clientHello, 0xff, 0xff, 0xff}
	if _, err := Parse(long); !errors.Is(err, ErrMalformed) {
		t.Errorf("a hello of 16 MB: %v", err)
	}
	drip := bytes.Repeat([]byte{recordHandshake, 3, 1, 0, 1, clientHello}, 1)
	for len(drip) < 2*MaxSize+recordHeader {
		drip = append(drip, recordHandshake, 3, 1, 0, 1, 0)
	}
	if _, err := Parse(drip); errors.Is(err, ErrIncomplete) {
		t.Error("one byte a record is waited for without end")
	}
}

// FuzzParse holds what is read against Go's own parser: whatever that takes,
// both read the same name.
func FuzzParse(f *testing.F) {
	f.Add(hello(f, &tls.Config{ServerName: "example.com"}))
	f.Add(split(hello(f, &tls.Config{ServerName: "a.b"}), 50))
	f.Add([]byte("GET / HTTP/1.1\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := Parse(b)
		theirs, ok := goParses(b)
		switch {
		case !ok:
		case errors.Is(err, ErrMalformed): // stricter is allowed
		case err != nil:
			t.Errorf("Go read a hello for %q where there is %v", theirs, err)
		case theirs != "" && theirs != h.ServerName:
			t.Errorf("Go reads %q, this %q", theirs, h.ServerName)
		}
	})
}

type replay struct {
	net.Conn
	r io.Reader
}

func (c replay) Read(p []byte) (int, error)  { return c.r.Read(p) }
func (c replay) Write(p []byte) (int, error) { return len(p), nil }

var errSeen = errors.New("seen")

func goParses(b []byte) (name string, ok bool) {
	err := tls.Server(replay{r: bytes.NewReader(b)}, &tls.Config{
		GetConfigForClient: func(info *tls.ClientHelloInfo) (*tls.Config, error) {
			name, ok = info.ServerName, true
			return nil, errSeen
		},
	}).Handshake()
	return name, ok && err != nil
}

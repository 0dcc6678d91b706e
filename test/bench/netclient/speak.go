package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"
)

// options say how a server is reached.
type options struct {
	ca, proxy string
	h2        bool
	small     bool // connections that are held and not used need no buffers
}

// speaker is one conversation with a server: a connection of HTTP/1.1, or a
// stream at a time on the one connection of HTTP/2. One goroutine uses it.
type speaker interface {
	get(path string) (io.ReadCloser, error)
	// put sends a body that has no end.
	put(path string, body io.Reader) error
	close()
}

// length is what an upload says that it will have: more than it lives to send.
const length = 1 << 40

// patience bounds a connection's making.
const patience = 30 * time.Second

// opener says how speakers with a server are made.
func (o options) opener(where string) (func() (speaker, error), error) {
	u, err := url.Parse(where)
	if err != nil {
		return nil, err
	}
	host, address := u.Host, u.Host
	if u.Port() == "" {
		address += ":443"
	}
	cfg := &tls.Config{ServerName: u.Hostname(), NextProtos: []string{"http/1.1"}}
	if o.ca != "" {
		pem, err := os.ReadFile(o.ca)
		if err != nil {
			return nil, err
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate", o.ca)
		}
	}
	if o.h2 {
		t := &http.Transport{Protocols: new(http.Protocols), TLSClientConfig: &tls.Config{RootCAs: cfg.RootCAs}, DisableCompression: true}
		t.Protocols.SetHTTP2(true)
		if o.proxy != "" {
			t.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: o.proxy})
		}
		return func() (speaker, error) { return http2{t, where}, nil }, nil
	}
	return func() (speaker, error) { return o.open1(host, address, cfg) }, nil
}

// http1 is a connection of HTTP/1.1.
type http1 struct {
	host string
	conn *tls.Conn
	in   *bufio.Reader
}

func (o options) open1(host, address string, cfg *tls.Config) (speaker, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	to := address
	if o.proxy != "" {
		to = o.proxy
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", to)
	if err != nil {
		return nil, err
	}
	if o.proxy != "" {
		if err := connect(conn, address); err != nil {
			return nil, fmt.Errorf("CONNECT: %w", err)
		}
	}
	size := 4 << 10
	if !o.small {
		size = 64 << 10
		conn = &buffered{conn, bufio.NewReaderSize(conn, piece)}
	}
	secure := tls.Client(conn, cfg)
	if err := secure.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	return &http1{host, secure, bufio.NewReaderSize(secure, size)}, nil
}

// buffered reads more than a TLS record at once: system calls are dear in a
// sandbox, and it is not those of the client that are measured.
type buffered struct {
	net.Conn
	r *bufio.Reader
}

// Read implements net.Conn.
func (b *buffered) Read(p []byte) (int, error) { return b.r.Read(p) }

func connect(conn net.Conn, address string) error {
	if _, err := fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %[1]s\r\n\r\n", address); err != nil {
		return err
	}
	// Nothing follows the answer: the server waits for a hello.
	res, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: http.MethodConnect})
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("the proxy answers %s", res.Status)
	}
	return nil
}

func (c *http1) get(path string) (io.ReadCloser, error) {
	if _, err := io.WriteString(c.conn, "GET "+path+" HTTP/1.1\r\nHost: "+c.host+"\r\n\r\n"); err != nil {
		return nil, err
	}
	res, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return nil, err
	}
	return ok(res)
}

func (c *http1) put(path string, body io.Reader) error {
	if _, err := fmt.Fprintf(c.conn, "PUT %s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n", path, c.host, length); err != nil {
		return err
	}
	_, err := io.CopyBuffer(struct{ io.Writer }{c.conn}, body, make([]byte, piece))
	return err
}

func (c *http1) close() { _ = c.conn.Close() }

// http2 is streams of one connection.
type http2 struct {
	t   *http.Transport
	url string
}

func (c http2) get(path string) (io.ReadCloser, error) {
	req, err := http.NewRequest(http.MethodGet, c.url+path, nil)
	if err != nil {
		return nil, err
	}
	res, err := c.t.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	return ok(res)
}

func (c http2) put(path string, body io.Reader) error {
	req, err := http.NewRequest(http.MethodPut, c.url+path, body)
	if err != nil {
		return err
	}
	req.ContentLength = length
	res, err := c.t.RoundTrip(req)
	if err != nil {
		return err
	}
	return fmt.Errorf("an upload that has no end is answered with %s", res.Status)
}

func (c http2) close() { c.t.CloseIdleConnections() }

func ok(res *http.Response) (io.ReadCloser, error) {
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the server answers %s", res.Status)
	}
	return res.Body, nil
}

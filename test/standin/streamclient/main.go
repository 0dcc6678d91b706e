// Command streamclient is what a test runs in a sandbox to speak with its
// server in ways that curl does not: a stream in both directions at once, and
// very many connections at once, and a request in very small pieces. It prints what
// it saw.
//
//	streamclient bidi URL N         N messages, each sent after the answer to the one before
//	streamclient connections URL N  N connections, a request on each, then all are closed
//	streamclient frames URL WHAT    a request with header:TEXT or body:TEXT in HTTP/2 frames of a few bytes
package main

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"sync"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "streamclient:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 3 {
		return fmt.Errorf("got %q, want a mode, a URL and a number or a text", args)
	}
	if args[0] == "frames" {
		return frames(args[1], args[2])
	}
	n, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	switch args[0] {
	case "bidi":
		return bidi(args[1], n)
	case "connections":
		return connections(args[1], n)
	}
	return fmt.Errorf("there is no mode %q", args[0])
}

// bidi speaks as gRPC does: lines both ways in one exchange, and trailers.
func bidi(where string, n int) error {
	r, w := io.Pipe()
	req, err := http.NewRequest(http.MethodPost, where, r)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("Te", "trailers")
	t := &http.Transport{Protocols: new(http.Protocols)}
	t.Protocols.SetHTTP2(true)
	resp, err := t.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	in := bufio.NewReader(resp.Body)
	for i := range n {
		if _, err := fmt.Fprintf(w, "message %d\n", i); err != nil {
			return err
		}
		line, err := in.ReadString('\n')
		if err != nil || line != fmt.Sprintf("echo message %d\n", i) {
			return fmt.Errorf("the answer to message %d is %q, %v", i, line, err)
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	rest, err := io.ReadAll(in)
	if err != nil {
		return err
	}
	fmt.Printf("%s %q %v\n", resp.Proto, rest, resp.Trailer)
	return nil
}

// atOnce bounds the handshakes that are under way: a storm of them would
// measure how fast the machine signs.
const atOnce = 32

// connections opens n connections and asks on each, before it reads an answer
// from any.
func connections(where string, n int) error {
	u, err := url.Parse(where)
	if err != nil {
		return err
	}
	var (
		conns   = make([]net.Conn, n)
		errs    = make([]error, n)
		turn    = make(chan struct{}, atOnce)
		waiting sync.WaitGroup
	)
	for i := range conns {
		waiting.Go(func() {
			turn <- struct{}{}
			defer func() { <-turn }()
			conns[i], errs[i] = ask(u)
		})
	}
	waiting.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, c := range conns {
		if err := answered(c); err != nil {
			return err
		}
	}
	for _, c := range conns {
		if err := c.Close(); err != nil {
			return err
		}
	}
	fmt.Println(n, "answers")
	return nil
}

func ask(u *url.URL) (net.Conn, error) {
	c, err := tls.Dial("tcp", net.JoinHostPort(u.Hostname(), "443"), &tls.Config{MinVersion: tls.VersionTLS12})
	if err != nil {
		return nil, err
	}
	_, err = fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", u.Path, u.Host)
	return c, err
}

func answered(c net.Conn) error {
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(resp.Body)
	if err == nil && (resp.StatusCode != http.StatusOK || string(body) != "all here") {
		err = fmt.Errorf("the answer is %s %q", resp.Status, body)
	}
	return err
}

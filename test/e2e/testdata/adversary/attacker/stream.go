package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// dial connects, from an address of the attacker's choice if it has one.
func dial(from, to string) (net.Conn, error) {
	d := net.Dialer{Timeout: 5 * time.Second}
	if from != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	conn, err := d.Dial("tcp", to)
	if err == nil {
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	}
	return conn, err
}

// collect reads until the secret has come, or nothing more does: a guard that
// refuses may keep the connection.
func collect(r net.Conn) ([]byte, error) {
	var got []byte
	buf := make([]byte, 4096)
	for len(got) < 1<<20 {
		n, err := r.Read(buf)
		got = append(got, buf[:n]...)
		if bytes.Contains(got, []byte(secret)) || errors.Is(err, io.EOF) {
			return got, nil
		}
		if err != nil {
			return got, err
		}
		_ = r.SetReadDeadline(time.Now().Add(patience))
	}
	return got, nil
}

// tcp [-from=IP] HOST:PORT TEXT...: each text is sent when an answer to the one
// before has begun.
func tcp(args []string) ([]byte, error) {
	from, _ := flag(&args, "-from")
	conn, err := dial(from, args[0])
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return say(conn, args[1:])
}

func say(conn net.Conn, texts []string) ([]byte, error) {
	var got []byte
	for i, t := range texts {
		if i > 0 {
			buf := make([]byte, 4096)
			n, err := conn.Read(buf)
			got = append(got, buf[:n]...)
			if err != nil {
				return got, err
			}
		}
		if _, err := conn.Write(text(t)); err != nil {
			return got, err
		}
	}
	rest, err := collect(conn)
	return append(got, rest...), err
}

// unix PATH
func unixSocket(args []string) ([]byte, error) {
	conn, err := net.Dial("unix", args[0])
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	return collect(conn)
}

// tls [-bytes] [-records] [-ech=LIST] HOST:PORT SNI TEXT...
func tlsHello(args []string) ([]byte, error) {
	_, bytewise := flag(&args, "-bytes")
	_, records := flag(&args, "-records")
	list, _ := flag(&args, "-ech")
	conn, err := dial("", args[0])
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	cfg := &tls.Config{ServerName: args[1], InsecureSkipVerify: true}
	if list != "" {
		if cfg.EncryptedClientHelloConfigList, err = base64.StdEncoding.DecodeString(list); err != nil {
			return nil, err
		}
		cfg.MinVersion = tls.VersionTLS13
		cfg.InsecureSkipVerify = false
		cfg.EncryptedClientHelloRejectionVerify = func(tls.ConnectionState) error { return nil }
		cfg.InsecureSkipVerify = true
	}
	t := tls.Client(&pieces{Conn: conn, bytewise: bytewise, records: records}, cfg)
	if err := t.Handshake(); err != nil {
		return nil, err
	}
	return say(t, args[2:])
}

// pieces sends the first message in many: byte by byte, or in records of a few
// bytes each (RFC 8446 §5.1).
type pieces struct {
	net.Conn
	bytewise, records, sent bool
}

// Write implements net.Conn.
func (p *pieces) Write(b []byte) (int, error) {
	if p.sent || !p.bytewise && !p.records {
		return p.Conn.Write(b)
	}
	p.sent = true
	out := b
	if p.records {
		out = nil
		for body := b[5:]; len(body) > 0; {
			n := min(7, len(body))
			out = append(out, b[0], b[1], b[2], 0, byte(n))
			out = append(out, body[:n]...)
			body = body[n:]
		}
	}
	step := len(out)
	if p.bytewise {
		step = 1
	}
	for len(out) > 0 {
		if _, err := p.Conn.Write(out[:step]); err != nil {
			return 0, err
		}
		out = out[step:]
	}
	return len(b), nil
}

// h2 [-plain|-upgrade] HOST:PORT SNI NAME=VALUE...: one HTTP/2 request of exactly
// these header fields.
func http2Request(args []string) ([]byte, error) {
	_, plain := flag(&args, "-plain")
	upgrade, upgrades := flag(&args, "-upgrade") // the HTTP/1.1 request that asks for it
	conn, err := dial("", args[0])
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stream := uint32(1)
	var rw io.ReadWriter = conn
	switch {
	case upgrades:
		if _, err := conn.Write(text(upgrade)); err != nil {
			return nil, err
		}
		var head []byte
		one := make([]byte, 1)
		for !bytes.HasSuffix(head, []byte("\r\n\r\n")) {
			if _, err := conn.Read(one); err != nil {
				return head, err
			}
			head = append(head, one...)
		}
		if !bytes.HasPrefix(head, []byte("HTTP/1.1 101")) {
			return head, errors.New("no upgrade")
		}
		stream = 3 // 1 is the request that asked for it
	case !plain:
		t := tls.Client(conn, &tls.Config{ServerName: args[1], InsecureSkipVerify: true, NextProtos: []string{"h2"}})
		if err := t.Handshake(); err != nil {
			return nil, err
		}
		rw = t
	}
	return frames2(rw, stream, args[2:])
}

func frames2(rw io.ReadWriter, stream uint32, fields []string) ([]byte, error) {
	if _, err := io.WriteString(rw, http2.ClientPreface); err != nil {
		return nil, err
	}
	f := http2.NewFramer(rw, rw)
	if err := f.WriteSettings(); err != nil {
		return nil, err
	}
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, kv := range fields {
		i := strings.Index(kv[1:], "=") + 1 // a name may begin with a colon, none with "="
		if err := enc.WriteField(hpack.HeaderField{Name: kv[:i], Value: kv[i+1:]}); err != nil {
			return nil, err
		}
	}
	if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true}); err != nil {
		return nil, err
	}
	var got []byte
	for {
		fr, err := f.ReadFrame()
		if err != nil {
			return got, err
		}
		switch fr := fr.(type) {
		case *http2.DataFrame:
			if fr.StreamID != stream {
				continue
			}
			got = append(got, fr.Data()...)
			if fr.StreamEnded() {
				return got, nil
			}
		case *http2.RSTStreamFrame:
			if fr.StreamID == stream {
				return got, fmt.Errorf("reset: %s", fr.ErrCode)
			}
		case *http2.GoAwayFrame:
			return got, fmt.Errorf("go away: %s", fr.ErrCode)
		case *http2.SettingsFrame:
			if !fr.IsAck() {
				_ = f.WriteSettingsAck()
			}
		}
	}
}

// flip NAME:PORT COUNT: connects again and again to a name whose answers change.
func flip(args []string) ([]byte, error) {
	n := 0
	if _, err := fmt.Sscan(args[1], &n); err != nil {
		return nil, err
	}
	var errs []error
	for range n {
		got, err := tcp([]string{args[0], `GET / HTTP/1.0\r\nHost: flip\r\n\r\n`})
		if bytes.Contains(got, []byte(secret)) && bytes.Contains(got, []byte("loopback")) {
			return got, nil
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	return nil, errors.Join(errs...)
}

// ssh [-from=IP] HOST:PORT USER: logs in with a key of the attacker's own.
func sshLogin(args []string) ([]byte, error) {
	from, _ := flag(&args, "-from")
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		return nil, err
	}
	conn, err := dial(from, args[0])
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	c, _, _, err := ssh.NewClientConn(conn, args[0], &ssh.ClientConfig{
		User: args[1], HostKeyCallback: ssh.InsecureIgnoreHostKey(),
		Auth: []ssh.AuthMethod{ssh.PublicKeys(signer), ssh.Password("")},
	})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return []byte(secret), nil // whoever is let in has it
}

// scan ADDRESS: prints which ports answer, but for DNS's.
func scan(args []string) ([]byte, error) {
	open := make(chan int)
	ports := []int{2375, 2376, 3128, 5353, 5355, 6443, 7777, 7778, 8080, 8443, 9090, 10250}
	for port := 1; port <= 1024; port++ {
		ports = append(ports, port)
	}
	go func() {
		defer close(open)
		slots := make(chan struct{}, 64)
		for _, port := range ports {
			slots <- struct{}{}
			go func() {
				defer func() { <-slots }()
				conn, err := net.DialTimeout("tcp", net.JoinHostPort(args[0], fmt.Sprint(port)), 2*time.Second)
				if err == nil {
					_ = conn.Close()
					open <- port
				}
			}()
		}
		for range cap(slots) {
			slots <- struct{}{}
		}
	}()
	var got []byte
	for port := range open {
		got = fmt.Appendf(got, "%d\n", port)
		if port != 53 {
			got = append(got, secret+"\n"...)
		}
	}
	return got, nil
}

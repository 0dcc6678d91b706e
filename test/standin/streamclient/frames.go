package main

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// pieceSize is how many bytes of a header block, or of a body, a frame has: so few
// that no text of some length is in one.
const pieceSize = 3

// frames sends one HTTP/2 request in frames of a few bytes each, with a text in
// the header X-Api-Key or as the body, and prints what became of it: the status
// and the answer, or how the stream ended.
func frames(where, what string) error {
	place, text, _ := strings.Cut(what, ":")
	if place != "header" && place != "body" {
		return fmt.Errorf("got %q, want header:TEXT or body:TEXT", what)
	}
	u, err := url.Parse(where)
	if err != nil {
		return err
	}
	conn, err := tls.Dial("tcp", net.JoinHostPort(u.Hostname(), "443"), &tls.Config{NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS12})
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		return err
	}
	f := http2.NewFramer(conn, conn)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if err := f.WriteSettings(); err != nil {
		return err
	}
	// Written while it is read: a server may refuse before it has all of it.
	sent := make(chan error, 1)
	go func() { sent <- sendPieces(f, u, place, text) }()
	status, answer, err := receive(f)
	fmt.Println(status, string(answer))
	var ended http2.StreamError
	if err != nil && !errors.As(err, &ended) {
		return errors.Join(err, <-sent)
	}
	return nil
}

// sendPieces sends the request.
func sendPieces(f *http2.Framer, u *url.URL, place, text string) error {
	fields := []hpack.HeaderField{
		{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "https"}, {Name: ":authority", Value: u.Host}, {Name: ":path", Value: u.RequestURI()},
	}
	body := "harmless"
	if place == "header" {
		fields = append(fields, hpack.HeaderField{Name: "x-api-key", Value: text})
	} else {
		body = text
	}
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, h := range fields {
		if err := enc.WriteField(h); err != nil {
			return err
		}
	}
	first := block.Next(pieceSize)
	if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: first}); err != nil {
		return err
	}
	for block.Len() > 0 {
		piece := block.Next(pieceSize)
		if err := f.WriteContinuation(1, block.Len() == 0, piece); err != nil {
			return err
		}
	}
	for len(body) > 0 {
		n := min(pieceSize, len(body))
		if err := f.WriteData(1, n == len(body), []byte(body[:n])); err != nil {
			return err
		}
		body = body[n:]
	}
	return nil
}

// receive reads the answer to its end.
func receive(f *http2.Framer) (status string, answer []byte, err error) {
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return status, answer, err
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			if s := frame.PseudoValue("status"); s != "" {
				status = s
			}
			if frame.StreamEnded() {
				return status, answer, nil
			}
		case *http2.DataFrame:
			answer = append(answer, frame.Data()...)
			if frame.StreamEnded() {
				return status, answer, nil
			}
		case *http2.RSTStreamFrame:
			return status + " reset", answer, http2.StreamError{StreamID: frame.StreamID, Code: frame.ErrCode}
		case *http2.GoAwayFrame:
			return status + " gone", answer, http2.StreamError{Code: frame.ErrCode}
		}
	}
}

package intercept

// net/http's own server takes connections from a listener and does their TLS;
// this one takes a connection that has been looked at.
//lint:file-ignore SA1019 http2.Server.ServeConn has no successor for that

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net/http"
	"time"

	"golang.org/x/net/http2"
)

// Bounds of a guest's HTTP/2 connection. The windows are what a guest can make
// Berth hold of bodies that no server takes; the wire to it has no latency that
// larger ones would bridge.
const (
	maxStreams      = 250
	uploadPerConn   = 1 << 20 // bytes
	uploadPerStream = 512 << 10
	maxFrame        = 64 << 10
)

func (p *Proxy) newHTTP2() *http2.Server {
	return &http2.Server{
		MaxConcurrentStreams:         maxStreams,
		MaxReadFrameSize:             maxFrame,
		MaxUploadBufferPerConnection: uploadPerConn,
		MaxUploadBufferPerStream:     uploadPerStream,
		IdleTimeout:                  p.cfg.Limits.Idle,
	}
}

// serve2 answers the requests of a connection that negotiated HTTP/2.
func (p *Proxy) serve2(ctx context.Context, g *guest, conn *tls.Conn) {
	p.h2.ServeConn(conn, &http2.ServeConnOpts{
		Context: ctx,
		BaseConfig: &http.Server{
			MaxHeaderBytes: maxHead,
			ErrorLog:       log.New(io.Discard, "", 0), // of what guests do wrong
		},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { p.answer2(g, w, r) }),
	})
}

// answer2 sees to one HTTP/2 request. A panic with http.ErrAbortHandler is how a
// stream is reset; returning would end it as if all were well.
func (p *Proxy) answer2(g *guest, w http.ResponseWriter, r *http.Request) {
	defer func() {
		if v := recover(); v != nil {
			if v != http.ErrAbortHandler {
				p.defect()
			}
			panic(http.ErrAbortHandler)
		}
	}()
	start := time.Now()
	q := Request{Target: g.target, Method: r.Method, Proto: "h2"}
	if g.refusal != nil {
		w.Header().Set("Connection", "close") // GOAWAY, after this answer
	}
	if err := p.check2(g.target, r); err != nil {
		var bad badRequest
		if !errors.As(err, &bad) {
			bad = badRequest(clean(err.Error()))
		}
		if !token(q.Method) || len(q.Method) > maxMethod {
			q.Method = ""
		}
		p.refuseBad(w, q, bad)
		return
	}
	q.Path = r.URL.EscapedPath()
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	x := &exchange{p: p, g: g, q: q, w: w, r: r, start: start, stop: cancel}
	if x.run(ctx) != nil {
		panic(http.ErrAbortHandler)
	}
}

// check2 is what checkHead is for HTTP/1: what the HTTP/2 library leaves open.
// It sees to the framing itself, and to fields that have no place in HTTP/2.
func (p *Proxy) check2(t Target, r *http.Request) error {
	if err := checkMethod(r.Method); err != nil {
		return err
	}
	if r.TLS == nil {
		return badRequest("a request for http, the connection is for https")
	}
	if v, ok := r.Header["Content-Length"]; ok {
		if _, err := contentLength(v); err != nil {
			return err
		}
	}
	if v, ok := r.Header["Host"]; ok && (len(v) != 1 || lower(v[0]) != lower(r.Host)) {
		return badRequest("Host and :authority do not agree")
	}
	if len(r.Header["Http2-Settings"]) > 0 {
		return badRequest("HTTP2-Settings in HTTP/2")
	}
	host, err := t.authority(r.Host)
	if err != nil {
		return err
	}
	u, err := t.url(r.Method, r.RequestURI)
	if err != nil {
		return err
	}
	r.Host, r.URL = host, u
	if r.ContentLength == 0 {
		r.Body = http.NoBody
	}
	return nil
}

package credential

import (
	"bytes"
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"

	"berth.dev/internal/egress/intercept"
)

// maxWhole is the longest body, in bytes, that is held until it has ended, so
// that its length can be said when a placeholder has changed it.
const maxWhole = 64 << 10

// pieceSize is how much of a body is looked through at a time, in bytes.
const pieceSize = 32 << 10

// Response implements intercept.ResponseStage: it puts placeholders where an
// answer of a bound host has a secret that was put into a request. An answer in
// an encoding that cannot be undone is an *intercept.Failed.
//
// The length of a text may change with that. One of a known length that is not
// short, and what is no text, keep theirs: there something of the secret's length
// that means nothing takes its place.
func (b *Broker) Response(_ context.Context, t intercept.Target, res *http.Response) error {
	k := b.known.Load()
	if k == nil || !b.state.Load().knows(t.Host) {
		return nil
	}
	text := newScrubber(k, false)
	scrubFields(text, res.Header)
	if !hasBody(res) {
		if len(codingsOf(res.Header["Content-Encoding"])) > 0 && res.StatusCode >= 200 {
			// As the answer to a GET would be.
			res.Header.Del("Content-Encoding")
			res.Header.Del("Content-Length")
			res.ContentLength = -1
		}
		return nil
	}
	var src io.Reader = res.Body
	var dec *decoder
	if codes := codingsOf(res.Header["Content-Encoding"]); len(codes) > 0 {
		if dec = newDecoder(res.Body, codes); dec == nil || res.StatusCode == http.StatusPartialContent {
			return &intercept.Failed{Reason: "the server's answer is encoded in a way that hides whether a secret is in it: " + strings.Join(codes, ", ")}
		}
		src = dec
		res.Header.Del("Content-Encoding")
	}
	body := &gotBody{Closer: res.Body, src: src, dec: dec, res: res, text: text}
	known := res.ContentLength
	switch {
	case dec == nil && (known > maxWhole || known > 0 && !isText(res)):
		body.c = newScrubber(k, true)
	case known > 0 && isText(res):
		body.c = newScrubber(k, false)
		res.ContentLength = body.whole(known)
	default:
		body.c = newScrubber(k, !isText(res))
		res.ContentLength = -1
	}
	res.Body = body
	return nil
}

// hasBody reports whether a body belongs to an answer.
func hasBody(res *http.Response) bool {
	switch {
	case res.StatusCode < 200, res.StatusCode == http.StatusNoContent, res.StatusCode == http.StatusNotModified:
		return false
	case res.Request != nil && res.Request.Method == http.MethodHead:
		return false
	}
	return res.Body != nil && res.Body != http.NoBody && res.ContentLength != 0
}

// isText reports whether the length of a body may change: pieces of something,
// and what has lengths within, are no texts.
func isText(res *http.Response) bool {
	if res.StatusCode == http.StatusPartialContent {
		return false
	}
	kind, _, err := mime.ParseMediaType(res.Header.Get("Content-Type"))
	if err != nil && kind == "" {
		kind = "text/plain"
	}
	if strings.HasPrefix(kind, "text/") {
		return true
	}
	_, sub, _ := strings.Cut(kind, "/")
	if i := strings.LastIndexByte(sub, '+'); i >= 0 {
		sub = sub[i+1:]
	}
	return slices.Contains([]string{"json", "xml", "yaml", "toml", "javascript", "ecmascript", "x-www-form-urlencoded",
		"x-ndjson", "ndjson", "jsonl", "json-seq", "graphql", "problem"}, sub)
}

// scrubFields puts placeholders into the values of fields. A name that holds a
// secret cannot be mended, and goes.
func scrubFields(c *scrubber, h http.Header) {
	for name, values := range h {
		for _, r := range c.k.list {
			if strings.Contains(strings.ToLower(name), strings.ToLower(r.secret)) {
				delete(h, name)
			}
		}
		for i, v := range values {
			if len(v) >= minSecret {
				values[i] = c.text(v)
			}
		}
	}
}

// gotBody is the body of an answer on its way to the guest.
type gotBody struct {
	io.Closer // of what came from the server
	src       io.Reader
	dec       *decoder // nil for a body without an encoding
	res       *http.Response
	c         *scrubber
	text      *scrubber // for the trailer

	piece []byte
	ready []byte // of c.out
	err   error
}

// Read implements io.Reader. It waits only for what it has nothing of.
func (b *gotBody) Read(p []byte) (int, error) {
	if b.piece == nil {
		b.piece = make([]byte, pieceSize)
	}
	for len(b.ready) == 0 {
		if b.err != nil {
			return 0, b.err
		}
		b.c.out = b.c.out[:0]
		n, err := b.src.Read(b.piece)
		b.c.write(b.piece[:n])
		if b.err = err; err != nil {
			b.finish()
		}
		b.ready = b.c.out
	}
	n := copy(p, b.ready)
	b.ready = b.ready[n:]
	return n, nil
}

// finish is called when there will be no more.
func (b *gotBody) finish() {
	b.c.end()
	if b.err == io.EOF {
		scrubFields(b.text, b.res.Trailer)
	}
}

// Close implements io.Closer.
func (b *gotBody) Close() error {
	err := b.Closer.Close()
	if b.dec != nil {
		b.dec.Close()
	}
	return err
}

// whole reads a short body up to its end and returns the length that it has now;
// -1 when it is not short after all.
func (b *gotBody) whole(known int64) int64 {
	var all bytes.Buffer
	n, err := io.Copy(&all, io.LimitReader(readFunc(b.Read), maxWhole+1))
	b.ready = append(all.Bytes(), b.ready...)
	switch {
	case err != nil: // it broke off: what is said of its length tells the guest
		return max(known, n+1)
	case !errors.Is(b.err, io.EOF) || n > maxWhole:
		return -1
	}
	return int64(len(b.ready))
}

type readFunc func([]byte) (int, error)

// Read implements io.Reader.
func (f readFunc) Read(p []byte) (int, error) { return f(p) }

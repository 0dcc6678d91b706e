package intercept

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// answer1 writes the answer to one HTTP/1 request. It is an http.ResponseWriter
// with the conventions of net/http (1xx by WriteHeader, trailers announced or by
// http.TrailerPrefix), with one difference: it holds back at most connBuffer
// bytes and adds no field but those of the framing.
type answer1 struct {
	c      *conn1
	body   *body // of the request; nil when it could not be read
	header http.Header
	head   bool // the request was a HEAD
	minor  int  // of the request
	last   bool // the connection ends with this answer

	bounded bool // there is a deadline for writing
	begun   bool
	bare    bool // no body follows
	chunked bool
	left    int64 // bytes of the body that are to come; -1 when it is not known
	trailer []string
	err     error
}

var errLength = errors.New("the body is longer than was said")

// Header implements http.ResponseWriter.
func (w *answer1) Header() http.Header { return w.header }

// WriteHeader implements http.ResponseWriter.
func (w *answer1) WriteHeader(status int) {
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	if w.begun {
		return
	}
	if status < 200 && status != http.StatusSwitchingProtocols {
		if w.minor > 0 {
			w.writeHead(status)
			w.note(w.c.bw.Flush())
		}
		return
	}
	w.begun, w.c.begun = true, true
	w.frame(status)
	w.writeHead(status)
}

// frame decides how the end of the answer is found (RFC 9112 §6.3).
func (w *answer1) frame(status int) {
	w.left = -1
	if n, err := strconv.ParseInt(w.header.Get("Content-Length"), 10, 64); err == nil && n >= 0 {
		w.left = n
	}
	if w.body != nil && !w.body.whole() {
		w.last = true // the next request would have to be looked for behind it
	}
	switch {
	case status == http.StatusSwitchingProtocols:
		w.bare = true
		return
	case w.head || status == http.StatusNoContent || status == http.StatusNotModified:
		w.bare, w.left = true, 0
	case w.left >= 0 && (w.minor == 0 || w.header.Get("Trailer") == ""):
	case w.minor > 0:
		w.chunked = true // only that has room for a trailer
		w.left = -1
		delete(w.header, "Content-Length")
		w.header.Set("Transfer-Encoding", "chunked")
		for _, v := range w.header["Trailer"] {
			for k := range strings.SplitSeq(v, ",") {
				w.trailer = append(w.trailer, http.CanonicalHeaderKey(strings.TrimSpace(k)))
			}
		}
	default:
		w.last = true
	}
	if !w.chunked {
		w.header.Del("Trailer")
	}
	if w.last {
		w.header.Set("Connection", "close")
	}
}

func (w *answer1) writeHead(status int) {
	text := http.StatusText(status)
	if text == "" {
		text = "Status " + strconv.Itoa(status)
	}
	fmt.Fprintf(w.c.bw, "HTTP/1.1 %03d %s\r\n", status, text)
	w.note(w.header.Write(w.c.bw)) // which makes spaces of CR and LF in values
	_, err := w.c.bw.WriteString("\r\n")
	w.note(err)
}

// Write implements http.ResponseWriter.
func (w *answer1) Write(p []byte) (int, error) {
	if !w.begun {
		w.WriteHeader(http.StatusOK)
	}
	switch {
	case w.err != nil:
		return 0, w.err
	case w.bare || len(p) == 0:
		return len(p), nil
	case w.chunked:
		fmt.Fprintf(w.c.bw, "%x\r\n", len(p))
		w.write(p)
		_, err := w.c.bw.WriteString("\r\n")
		w.note(err)
	case w.left >= 0 && int64(len(p)) > w.left:
		w.note(errLength)
	default:
		if w.left >= 0 {
			w.left -= int64(len(p))
		}
		w.write(p)
	}
	if w.err != nil {
		return 0, w.err
	}
	return len(p), nil
}

// write puts small pieces together and large ones past the buffer.
func (w *answer1) write(p []byte) {
	if len(p) <= w.c.bw.Available() {
		_, err := w.c.bw.Write(p)
		w.note(err)
		return
	}
	w.note(w.c.bw.Flush())
	if w.err == nil {
		_, err := w.c.conn.Write(p)
		w.note(err)
	}
}

// Flush sends what is held back.
func (w *answer1) Flush() {
	if !w.begun {
		w.WriteHeader(http.StatusOK)
	}
	w.note(w.c.bw.Flush())
}

func (w *answer1) note(err error) {
	if w.err == nil {
		w.err = err
	}
}

// finish ends the answer. An error means that the guest has not got all of it.
func (w *answer1) finish() error {
	if !w.begun {
		w.WriteHeader(http.StatusOK)
	}
	if w.chunked {
		_, err := w.c.bw.WriteString("0\r\n")
		w.note(err)
		w.note(w.trailers().Write(w.c.bw))
		_, err = w.c.bw.WriteString("\r\n")
		w.note(err)
	} else if w.left > 0 && !w.bare {
		w.note(errors.New("the body is shorter than was said"))
	}
	w.note(w.c.bw.Flush())
	if w.bounded && w.err == nil {
		_ = w.c.conn.SetWriteDeadline(time.Time{})
	}
	return w.err
}

// trailers are the announced fields and those with http.TrailerPrefix.
func (w *answer1) trailers() http.Header {
	t := http.Header{}
	for _, k := range w.trailer {
		if v, ok := w.header[k]; ok {
			t[k] = v
		}
	}
	for k, v := range w.header {
		if name, ok := strings.CutPrefix(k, http.TrailerPrefix); ok {
			t[http.CanonicalHeaderKey(name)] = v
		}
	}
	return t
}

// own prepares for an answer of Berth's own: the guest has some time to take it,
// and to send the rest of a small body, after which the connection can stay.
func (w *answer1) own() {
	if w.body != nil {
		w.body.discard()
	}
	w.bounded = true
	_ = w.c.conn.SetWriteDeadline(time.Now().Add(answerTime))
}

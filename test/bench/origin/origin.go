// Package origin is the server that all of the bench's ways lead to.
package origin

import (
	"io"
	"net/http"
	"strconv"

	"berth.dev/test/standin"
)

// Server serves small answers, downloads without an end and uploads over TLS, on
// the loopback of who made it.
type Server struct {
	CA           *standin.CA
	HTTP1, HTTP2 string // addresses of the two protocols
	servers      []*http.Server
}

// New starts one for hosts. Close ends it.
func New(hosts ...string) (*Server, error) {
	ca, err := standin.NewCA()
	if err != nil {
		return nil, err
	}
	o := &Server{CA: ca}
	if o.HTTP1, err = o.serve(false, hosts); err == nil {
		o.HTTP2, err = o.serve(true, hosts)
	}
	if err != nil {
		o.Close()
		return nil, err
	}
	return o, nil
}

func (o *Server) serve(h2 bool, hosts []string) (string, error) {
	s := &http.Server{Handler: routes(), Protocols: new(http.Protocols)}
	s.Protocols.SetHTTP1(!h2)
	s.Protocols.SetHTTP2(h2)
	o.servers = append(o.servers, s)
	return o.CA.Start(s, hosts...)
}

// Close stops it and cuts what is under way.
func (o *Server) Close() {
	for _, s := range o.servers {
		_ = s.Close()
	}
}

// endless is the length of what is downloaded: nobody reads to its end.
const endless = 1 << 40

func routes() http.Handler {
	zeros := make([]byte, 256<<10)
	mux := http.NewServeMux()
	mux.HandleFunc("/small", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "a small answer") })
	mux.HandleFunc("/zeros", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(endless))
		w.Header().Set("Content-Type", "application/octet-stream")
		for {
			if _, err := w.Write(zeros); err != nil {
				return
			}
		}
	})
	mux.HandleFunc("/take", func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, r.Body, make([]byte, len(zeros)))
	})
	return mux
}

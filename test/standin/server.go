package standin

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Request is one that a server was asked.
type Request struct {
	Proto string // "HTTP/1.1", "HTTP/2.0"
	// Line is method, host and path: "GET example.com/x".
	Line string
	// Keys are what the request proves its right with: credentials of the
	// header and of the query, without the words around them.
	Keys []string
	// Query are the parameters of the query that have a value, as NAME=VALUE.
	Query []string
}

// Server serves hosts over TLS on the loopback, by HTTP/1.1 and HTTP/2. It is
// safe for concurrent use.
type Server struct {
	// Address is ADDRESS:PORT.
	Address string

	http  *http.Server
	ca    *CA
	hosts []string
	mu    sync.Mutex
	seen  []Request
}

// Serve starts a server whose certificate, of ca's, is for the hosts.
func Serve(ca *CA, h http.Handler, hosts ...string) (*Server, error) {
	s := &Server{ca: ca, hosts: hosts}
	s.http = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.note(r)
		h.ServeHTTP(w, r)
	})}
	var err error
	s.Address, err = ca.Start(s.http, hosts...)
	return s, err
}

func (s *Server) note(r *http.Request) {
	q := Request{Proto: r.Proto, Line: r.Method + " " + r.Host + r.URL.Path}
	for _, name := range []string{"X-Api-Key", "X-Goog-Api-Key", "Authorization"} {
		if v := r.Header.Get(name); v != "" {
			q.Keys = append(q.Keys, v[strings.LastIndexByte(v, ' ')+1:])
		}
	}
	for name, values := range r.URL.Query() {
		for _, v := range values {
			if v != "" {
				q.Query = append(q.Query, name+"="+v)
			}
			if name == "key" {
				q.Keys = append(q.Keys, v)
			}
		}
	}
	s.mu.Lock()
	s.seen = append(s.seen, q)
	s.mu.Unlock()
}

// Requests are those that came, in order.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.seen)
}

// Browser is a client as a user's browser is one: it trusts the server, finds
// its hosts and all others, follows redirects, and keeps no connection that
// would outlive its use.
func (s *Server) Browser() *http.Client {
	roots := x509.NewCertPool()
	roots.AddCert(s.ca.cert)
	var d net.Dialer
	return &http.Client{Timeout: time.Minute, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			if host, _, _ := net.SplitHostPort(address); slices.Contains(s.hosts, host) {
				address = s.Address
			}
			return d.DialContext(ctx, network, address)
		},
	}}
}

// Close stops it and cuts what is under way.
func (s *Server) Close() error { return s.http.Close() }

// Shutdown stops it when what is under way has ended.
func (s *Server) Shutdown(ctx context.Context) error { return s.http.Shutdown(ctx) }

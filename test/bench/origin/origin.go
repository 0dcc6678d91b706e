// Package origin is the server that all of the bench's ways lead to.
package origin

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"strconv"
	"time"
)

// Identity is a key and its certificate, which signs itself: that of a server,
// and that of an authority for the peer that needs to be one.
type Identity struct{ Cert, Key []byte } // PEM

// NewIdentity makes one for hosts, for a day.
func NewIdentity(hosts ...string) (Identity, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Identity{}, fmt.Errorf("make a key: %w", err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "bench " + hosts[0]},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), DNSNames: hosts,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true, IsCA: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return Identity{}, fmt.Errorf("sign a certificate: %w", err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return Identity{}, fmt.Errorf("write a key: %w", err)
	}
	return Identity{
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}),
	}, nil
}

// Server serves small answers, downloads without an end and uploads over TLS, on
// the loopback of who made it.
type Server struct {
	Identity
	HTTP1, HTTP2 string // addresses of the two protocols
	servers      []*http.Server
}

// New starts one for hosts. Close ends it.
func New(hosts ...string) (*Server, error) {
	id, err := NewIdentity(hosts...)
	if err != nil {
		return nil, err
	}
	o := &Server{Identity: id}
	if o.HTTP1, err = o.serve(false); err == nil {
		o.HTTP2, err = o.serve(true)
	}
	if err != nil {
		o.Close()
		return nil, err
	}
	return o, nil
}

func (o *Server) serve(h2 bool) (string, error) {
	pair, err := tls.X509KeyPair(o.Cert, o.Key)
	if err != nil {
		return "", fmt.Errorf("read own key: %w", err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("listen: %w", err)
	}
	s := &http.Server{
		Handler: routes(), TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}},
		Protocols: new(http.Protocols), ReadHeaderTimeout: time.Minute,
		ErrorLog: log.New(io.Discard, "", 0), // of clients that end in the middle
	}
	s.Protocols.SetHTTP1(!h2)
	s.Protocols.SetHTTP2(h2)
	o.servers = append(o.servers, s)
	go func() { _ = s.ServeTLS(ln, "", "") }()
	return ln.Addr().String(), nil
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

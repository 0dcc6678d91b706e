package intercept

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/net/http2"
)

// guestTLS is what is offered to guests. No session tickets: a resumed session
// skips the choice of a certificate, and with it the look at the name. No ECH
// keys: a client that hides its name gets a handshake for the outer one, which
// is another, and fails.
func guestTLS() *tls.Config {
	return &tls.Config{
		MinVersion:                  tls.VersionTLS12,
		NextProtos:                  []string{http2.NextProtoTLS, "http/1.1"},
		SessionTicketsDisabled:      true,
		DynamicRecordSizingDisabled: true, // the wire is local and loses nothing
	}
}

// handshake returns the guest's connection when it asked for the very host that
// it is meant for. Otherwise it has recorded why not, and returns nil.
func (p *Proxy) handshake(ctx context.Context, g *guest) *tls.Conn {
	start := time.Now()
	asked := ""
	wrong := false
	cfg := p.tls.Clone()
	cfg.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		asked = hello.ServerName
		if wrong = !g.target.named(asked); wrong {
			return nil, nil // crypto/tls sends unrecognized_name (RFC 6066 §3)
		}
		return p.cfg.CA.certificate(g.target.Host)
	}
	conn := tls.Server(g.Conn, cfg)
	ctx, cancel := context.WithTimeout(ctx, p.cfg.Limits.Handshake)
	defer cancel()
	err := conn.HandshakeContext(ctx)
	if err == nil {
		return conn
	}
	ex := Exchange{
		Request: Request{Target: g.target, Proto: "tls"}, Start: start, Duration: time.Since(start),
		Ruling: Ruling{Allowed: true},
	}
	switch {
	case wrong:
		ex.Ruling = Ruling{Reason: fmt.Sprintf("the TLS client named %s, the connection is for %s", quote(asked), g.target.Host)}
		if asked == "" {
			ex.Ruling.Reason = "the TLS client named no server, the connection is for " + g.target.Host
		}
	case g.refusal != nil:
		ex.Ruling = *g.refusal
		ex.Error = guestTLSError(err)
	default:
		ex.Error = guestTLSError(err)
	}
	p.cfg.Record(ex)
	return nil
}

// named reports whether a server_name is the target's. A literal address is
// never sent as one (RFC 6066 §3).
func (t Target) named(sni string) bool {
	if _, err := netip.ParseAddr(t.Host); err == nil {
		return sni == ""
	}
	return sni != "" && lower(sni) == t.Host
}

// guestTLSError says what went wrong in a handshake with the guest. The alerts
// by which clients say that they do not know the CA deserve plain words.
func guestTLSError(err error) string {
	var alert tls.AlertError
	if errors.As(err, &alert) || strings.Contains(err.Error(), "remote error") {
		for _, s := range []string{"unknown certificate", "bad certificate", "certificate authority"} {
			if strings.Contains(err.Error(), s) {
				return "the client does not trust the sandbox's CA: " + clean(err.Error())
			}
		}
	}
	return "TLS with the guest: " + clean(err.Error())
}

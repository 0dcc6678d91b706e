package intercept

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// Bounds of the connections to servers.
const (
	dialTime        = 30 * time.Second
	serverIdle      = 60 * time.Second
	maxIdle         = 256
	maxIdlePerHost  = 32
	maxServerHead   = 1 << 20 // bytes
	continueTime    = time.Second
	pingAfter       = 30 * time.Second // of silence: a laptop may be in another network by now
	pingTime        = 15 * time.Second
	serverBuffer    = 32 << 10
	downloadStream  = 4<<20 - 1 // bytes; what bridges a distant server
	downloadPerConn = 64 << 20  // bytes that guests who do not read can make Berth hold
	sessions        = 128
)

// newTransport makes what speaks with servers: both protocols, or HTTP/1.1 only.
// Bytes pass as they are, in either direction; what the host's environment says
// of proxies is for Config.Dial to follow.
func (p *Proxy) newTransport(h2 bool) *http.Transport {
	t := &http.Transport{
		DialContext: p.dial,
		TLSClientConfig: &tls.Config{
			RootCAs:            p.cfg.Roots,
			MinVersion:         tls.VersionTLS12,
			ClientSessionCache: tls.NewLRUClientSessionCache(sessions),
		},
		TLSHandshakeTimeout:    p.cfg.Limits.Handshake,
		DisableCompression:     true,
		MaxIdleConns:           maxIdle,
		MaxIdleConnsPerHost:    maxIdlePerHost,
		IdleConnTimeout:        serverIdle,
		ExpectContinueTimeout:  continueTime,
		MaxResponseHeaderBytes: maxServerHead,
		WriteBufferSize:        serverBuffer,
		ReadBufferSize:         serverBuffer,
		Protocols:              new(http.Protocols),
		HTTP2: &http.HTTP2Config{
			MaxReceiveBufferPerStream:     downloadStream,
			MaxReceiveBufferPerConnection: downloadPerConn,
			SendPingTimeout:               pingAfter,
			PingTimeout:                   pingTime,
		},
	}
	t.Protocols.SetHTTP1(true)
	t.Protocols.SetHTTP2(h2)
	return t
}

// dial connects by Config.Dial and keeps the connection where Cut finds it.
func (p *Proxy) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	host, portText, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("split %q: %w", addr, err)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("read the port of %q: %w", addr, err)
	}
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	conn, err := p.cfg.Dial(ctx, host, uint16(port))
	if err != nil {
		return nil, err
	}
	c := &serverConn{Conn: conn, p: p, target: Target{Host: host, Port: uint16(port)}}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		_ = conn.Close()
		return nil, net.ErrClosed
	}
	p.upstream[c] = struct{}{}
	return c, nil
}

// serverConn is a connection to a server.
type serverConn struct {
	net.Conn
	p      *Proxy
	target Target // without TLS
	once   sync.Once
}

// Close implements net.Conn.
func (c *serverConn) Close() error {
	c.once.Do(func() {
		c.p.mu.Lock()
		defer c.p.mu.Unlock()
		delete(c.p.upstream, c)
	})
	return c.Conn.Close()
}

// CloseWrite ends what is sent to the server.
func (c *serverConn) CloseWrite() error {
	if cw, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return nil
}

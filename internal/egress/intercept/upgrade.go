package intercept

import (
	"context"
	"crypto/sha1" // RFC 6455 §4.2.2 wants it; nothing rests on it being strong
	"encoding/base64"
	"io"
	"net/http"
	"time"
)

// upgradeGrace is how long one direction of a WebSocket may go on when the other
// has ended.
const upgradeGrace = 10 * time.Second

// upgrade passes on a request for a WebSocket, and, if the server agrees, all
// that follows. Nothing of that is judged any more, so the server has to prove
// that it knows what it agreed to: one that says 101 to anything would turn the
// connection into a tunnel past the rules on method and path.
func (x *exchange) upgrade(ctx context.Context) error {
	out := x.outgoing(ctx)
	out.Header["Connection"] = []string{"Upgrade"}
	out.Header["Upgrade"] = []string{x.q.Upgrade}
	keys := out.Header["Sec-Websocket-Key"]
	if len(keys) != 1 || keys[0] == "" {
		x.rec.Ruling = Ruling{Reason: "an upgrade to websocket needs one Sec-WebSocket-Key"}
		return x.refuse(http.StatusBadRequest, x.rec.Ruling)
	}
	if err := x.before(ctx, out); err != nil {
		return x.stopped(err)
	}
	res, err := x.p.upgrades.RoundTrip(out)
	x.mu.Lock()
	x.answered = true
	x.mu.Unlock()
	if err != nil {
		return x.failed(ctx, err)
	}
	defer func() { _ = res.Body.Close() }()
	server, switched := res.Body.(io.ReadWriteCloser)
	if res.StatusCode < 200 && (res.StatusCode != http.StatusSwitchingProtocols || !switched || !accepts(res.Header, keys[0])) {
		return x.fail(http.StatusBadGateway, "the server's answer to an upgrade is no WebSocket's")
	}
	if err := x.after(ctx, res); err != nil {
		return x.stopped(err)
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		return x.respond(ctx, res)
	}
	return x.tunnel(ctx, res, server)
}

// accepts reports whether a 101 is the answer to a WebSocket's key.
func accepts(h http.Header, key string) bool {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	upgrade := list(h["Upgrade"])
	return len(upgrade) == 1 && upgrade[0] == "websocket" && contains(list(h["Connection"]), "upgrade") &&
		h.Get("Sec-Websocket-Accept") == base64.StdEncoding.EncodeToString(sum[:])
}

// tunnel passes bytes both ways until both have ended. Only HTTP/1 gets here.
func (x *exchange) tunnel(ctx context.Context, res *http.Response, server io.ReadWriteCloser) error {
	w := x.w.(*answer1)
	cleanHeader(res.Header)
	for k, v := range res.Header {
		w.header[k] = v
	}
	w.header["Connection"], w.header["Upgrade"] = []string{"Upgrade"}, []string{x.q.Upgrade}
	x.rec.Status = res.StatusCode
	w.body.gone.stop() // from here on its end is seen by reading
	w.last = true
	w.WriteHeader(res.StatusCode)
	w.Flush()
	if w.err != nil {
		return errAborted
	}
	end := func() { // the guest first: it is not told what a server says to being cut
		_ = w.c.g.Close()
		_ = server.Close()
	}
	stop := context.AfterFunc(ctx, end)
	defer stop()
	up := make(chan error, 1)
	down := make(chan error, 1)
	go func() {
		n, err := pump(server, w.c.br)
		x.sent.n.Add(n)
		closeWrite(server)
		up <- err
	}()
	go func() {
		n, err := pump(w.c.conn, server)
		x.received = n
		closeWrite(w.c.conn)
		down <- err
	}()
	x.rec.Error = x.await(ctx, up, down, end)
	return nil
}

// await waits for both directions, for the second only a little longer, and
// returns what went wrong.
func (x *exchange) await(ctx context.Context, up, down chan error, end func()) string {
	var err error
	select {
	case err = <-up:
		up = nil
	case err = <-down:
		down = nil
	}
	timer := time.NewTimer(upgradeGrace)
	defer timer.Stop()
	if err != nil {
		end()
	}
	for up != nil || down != nil {
		select {
		case <-up:
			up = nil
		case <-down:
			down = nil
		case <-timer.C:
			end()
		}
	}
	if cause := context.Cause(ctx); cause != nil || err != nil {
		return x.broken(ctx, err)
	}
	return ""
}

// pump copies until src ends. It writes what it has read at once.
func pump(dst io.Writer, src io.Reader) (int64, error) {
	buf := getBuffer()
	defer putBuffer(buf)
	var total int64
	for {
		n, err := src.Read(*buf)
		if n > 0 {
			m, werr := dst.Write((*buf)[:n])
			total += int64(m)
			if werr != nil {
				return total, werr
			}
		}
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

func closeWrite(w any) {
	if cw, ok := w.(interface{ CloseWrite() error }); ok {
		_ = cw.CloseWrite()
	}
}

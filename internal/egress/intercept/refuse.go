package intercept

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// Marker is the field that an answer of Berth's own has: "blocked" when it was
// refused, "failed" when the server could not be reached, "answered" when a stage
// stands for the server.
const Marker = "X-Berth"

// page is an answer of Berth's own.
type page struct {
	status int
	marker string
	text   string // one line
	hint   string // the command that would change it, or ""
}

// refuse answers what was not allowed.
func (x *exchange) refuse(status int, r Ruling) error {
	what := x.q.Method + " " + x.q.scheme() + "://" + x.r.Host + shown(x.q.Path)
	if x.q.Upgrade != "" {
		what += " (" + x.q.Upgrade + ")"
	}
	return x.show(page{status, "blocked", "berth: blocked " + what + " - " + r.why(), r.Hint})
}

// why is the reason of a refusal, and the rule where the reason does not say it.
func (r Ruling) why() string {
	why := r.Reason
	if why == "" {
		why = "no rule allows it"
		if r.Rule != "" {
			why = "a rule denies it"
		}
	}
	if r.Rule != "" && !strings.Contains(why, r.Rule) {
		why += ": " + r.Rule
		if r.Origin != "" {
			why += " (" + r.Origin + ")"
		}
	}
	return why
}

// fail answers what was allowed and did not work, and records why.
func (x *exchange) fail(status int, why string) error {
	x.rec.Error = why
	return x.show(page{status, "failed", "berth: " + x.q.scheme() + "://" + x.q.hostPort() + ": " + why, ""})
}

// answer gives the guest what a stage has in place of the server's answer.
func (x *exchange) answer(a *Answer) error {
	x.mu.Lock()
	x.answered = true
	x.mu.Unlock()
	x.rec.Status = a.Status
	if w, ok := x.w.(*answer1); ok {
		w.own()
	}
	h := x.w.Header()
	h.Set(Marker, "answered")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Type", a.Kind)
	h.Set("Content-Length", strconv.Itoa(len(a.Body)))
	x.w.WriteHeader(a.Status)
	_, _ = x.w.Write(a.Body)
	return nil
}

func (x *exchange) show(pg page) error {
	x.mu.Lock()
	x.answered = true
	x.mu.Unlock()
	x.rec.Status = pg.status
	x.p.show(x.w, x.r.Header, pg)
	return nil
}

// refuseBad answers and records a request that is malformed.
func (p *Proxy) refuseBad(w http.ResponseWriter, q Request, bad badRequest) {
	p.show(w, nil, page{http.StatusBadRequest, "blocked", "berth: refused a request to " + q.Host + " - " + string(bad), ""})
	p.cfg.Record(Exchange{
		Request: q, Start: time.Now(), Status: http.StatusBadRequest,
		Ruling: Ruling{Reason: "malformed or ambiguous: " + string(bad)},
	})
}

// show writes a page: text for people, JSON for who asks for that.
func (p *Proxy) show(w http.ResponseWriter, asked http.Header, pg page) {
	if a, ok := w.(*answer1); ok {
		a.own()
	}
	text := strings.TrimRight(pg.text, ".") + ".\n"
	if pg.hint != "" {
		text += "To allow it, on the host: " + pg.hint + "\n"
	}
	kind, body := "text/plain; charset=utf-8", []byte(text)
	if wantsJSON(asked) {
		kind, body = "application/json", asJSON(strings.TrimSpace(text))
	}
	h := w.Header()
	if pg.marker == "blocked" && pg.status == http.StatusForbidden {
		h.Set("Cache-Control", "no-store") // the rule may come
	}
	h.Set(Marker, pg.marker)
	h.Set("Content-Type", kind)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(pg.status)
	_, _ = w.Write(body)
}

func asJSON(text string) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // commands are for reading
	_ = enc.Encode(map[string]string{"error": text})
	return b.Bytes()
}

func wantsJSON(asked http.Header) bool {
	for _, e := range list(asked["Accept"]) {
		kind, _, _ := strings.Cut(e, ";")
		if strings.Trim(kind, " \t") == "application/json" {
			return true
		}
	}
	return false
}

// shown is a path for a message.
func shown(path string) string {
	if len(path) > 200 {
		return path[:200] + "..."
	}
	return path
}

// failed answers a request that did not reach the server or got no answer.
func (x *exchange) failed(ctx context.Context, err error) error {
	var denied *Denied
	cause := context.Cause(ctx)
	switch {
	case errors.As(err, &denied):
		x.rec.Ruling = denied.Ruling
		x.rec.Ruling.Allowed = false
		return x.refuse(http.StatusForbidden, x.rec.Ruling)
	case errors.Is(cause, errCut):
		x.rec.Ruling = Ruling{Reason: "the policy has changed and does not allow it any more"}
		return x.refuse(http.StatusForbidden, x.rec.Ruling)
	case cause != nil:
		x.rec.Error = x.broken(ctx, err)
		return errAborted
	case x.sent.failed.Load():
		return x.fail(http.StatusBadRequest, bodyBroken)
	}
	status, why := explain(x.q.Host, err)
	return x.fail(status, why)
}

const bodyBroken = "the body of the request is not whole"

// broken says why an answer that had begun is not whole.
func (x *exchange) broken(ctx context.Context, err error) string {
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errCut), errors.Is(cause, errGone):
		return cause.Error()
	case cause != nil:
		return errGone.Error() // an HTTP/2 stream that was reset, a connection that was closed
	case x.sent.failed.Load():
		return bodyBroken
	}
	return "the answer broke off: " + clean(err.Error())
}

// explain says why a server could not be reached.
func explain(host string, err error) (status int, why string) {
	var cert *tls.CertificateVerificationError
	var network net.Error
	switch {
	case errors.As(err, &cert):
		return http.StatusBadGateway, certificateText(host, cert.Err)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded),
		errors.As(err, &network) && network.Timeout():
		return http.StatusGatewayTimeout, "the server did not answer in time: " + clean(err.Error())
	}
	return http.StatusBadGateway, "the server cannot be reached: " + clean(err.Error())
}

func certificateText(host string, err error) string {
	var (
		unknown x509.UnknownAuthorityError
		invalid x509.CertificateInvalidError
		name    x509.HostnameError
	)
	why := clean(err.Error())
	switch {
	case errors.As(err, &unknown):
		why = "it is signed by a CA that the host does not trust"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		why = "it has expired or is not yet valid (" + clean(err.Error()) + ")"
	case errors.As(err, &name):
		why = "it is for another name (" + clean(err.Error()) + ")"
	}
	return "the server's certificate cannot be trusted for " + host + ": " + why
}

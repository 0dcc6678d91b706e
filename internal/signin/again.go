package signin

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"slices"
	"strings"

	"berth.dev/internal/credential"
	"berth.dev/internal/egress/intercept"
)

// Bounds of the bodies of requests that are kept to be sent again, in bytes: of
// one, and of all that are under way.
const (
	maxAgain = 4 << 20
	maxKept  = 32 << 20
)

// repeatable is a request that is sent again with the next token where a server
// does not take this one: some agents give a login up that is refused once, and
// others wait for the end of a token that the guest does not know.
type repeatable struct {
	p    *Provider
	body []byte
}

type repeatableKey struct{}

// repeatable keeps what it takes to send a request again that a login goes with.
func (k *Keeper) repeatable(ctx context.Context, r *http.Request) error {
	token := tokenOf(r)
	if token == "" {
		return nil
	}
	i := slices.IndexFunc(k.providers, func(p *Provider) bool { return k.cfg.Broker.Placeholder(p.Secret()) == token })
	if i < 0 || r.ContentLength < 0 || r.ContentLength > maxAgain || r.Header.Get("Upgrade") != "" {
		return nil
	}
	n := r.ContentLength
	if k.kept.Add(n) > maxKept {
		k.kept.Add(-n)
		return nil
	}
	context.AfterFunc(ctx, func() { k.kept.Add(-n) }) // which ends with the request
	body, err := read(r, maxAgain)
	if err != nil {
		return err
	}
	*r = *r.WithContext(context.WithValue(r.Context(), repeatableKey{}, &repeatable{k.providers[i], body}))
	return nil
}

// again sends a request again whose token was refused, when there is another by
// now. What cannot be sent leaves the answer that there is.
func (k *Keeper) again(ctx context.Context, t intercept.Target, res *http.Response) {
	r, ok := res.Request.Context().Value(repeatableKey{}).(*repeatable)
	if !ok {
		return
	}
	l, err := k.current(ctx, r.p)
	if err != nil || tokenOf(res.Request) == l.Access.Reveal() {
		return
	}
	req := res.Request.Clone(res.Request.Context())
	req.Header.Set("Authorization", bearer+l.Access.Reveal())
	req.Body, req.ContentLength = http.NoBody, int64(len(r.body))
	if len(r.body) > 0 {
		req.Body = io.NopCloser(bytes.NewReader(r.body))
	}
	next, err := k.cfg.Client().Do(req)
	if err != nil {
		return
	}
	k.cfg.Record(credential.Use{
		Time: k.cfg.Now(), Secret: r.p.Secret(), Host: t.Host, Port: t.Port, Method: req.Method, Path: req.URL.EscapedPath(), Reason: "sent again, renewed",
	})
	_ = res.Body.Close()
	*res = *next
}

// tokenOf is what a request has for a bearer's token, "" for none.
func tokenOf(r *http.Request) string {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), bearer)
	if !ok {
		return ""
	}
	return token
}

// bearer is what comes before a token (RFC 6750 §2.1).
const bearer = "Bearer "

package credential

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"berth.dev/internal/egress/intercept"
	"berth.dev/internal/service"
)

// request is one request that is looked at.
type request struct {
	b            *Broker
	st           *state
	t            intercept.Target
	r            *http.Request
	method, path string
	bound        []*bound // whose secrets may go there
	f            *finder
	plans        []plan
}

// plan is one secret to put in.
type plan struct {
	b     *bound
	core  string // what was found in its place
	where string
	put   func(secret string) error
	sig   *signature // in place of put: sign anew
}

// Request implements intercept.RequestStage: it puts secrets in where their
// services take them, and refuses requests with a placeholder in another place.
// A secret that cannot be had is an *intercept.Failed that names it.
func (b *Broker) Request(ctx context.Context, t intercept.Target, r *http.Request) error {
	q := &request{b: b, st: b.state.Load(), t: t, r: r, method: r.Method, path: r.URL.EscapedPath(), f: newFinder()}
	if t.TLS {
		q.bound = q.st.at(t.Host, t.Port)
	}
	if err := q.look(); err != nil {
		return err
	}
	secrets := make([]values, len(q.plans))
	for i, p := range q.plans {
		var err error
		if secrets[i], err = b.reveal(ctx, p.b); err != nil {
			return q.failed(p.b, err)
		}
	}
	q.watchBody()
	for _, p := range q.plans {
		if p.sig != nil {
			if err := q.prepare(ctx, p); err != nil {
				return err
			}
		}
	}
	if q.st.knows(t.Host) {
		acceptDecodable(r.Header)
	}
	for i, p := range q.plans {
		if p.sig != nil {
			p.sig.resign(r, secrets[i].aws)
		} else if err := p.put(secrets[i].text); err != nil {
			return q.failed(p.b, err)
		}
		q.record(p.b.Secret, false, "put into "+p.where)
	}
	return nil
}

// look looks for placeholders in all of a request but its body, and plans what
// takes their place.
func (q *request) look() error {
	if cores := q.f.text(q.path); len(cores) > 0 {
		return q.refuse(cores[0], "the path")
	}
	for i, seg := range strings.Split(q.r.URL.RawQuery, "&") {
		if err := q.place(seg, "the query", func(b *bound) (plan, bool) { return q.inQuery(b, i, seg) }); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(q.r.Header)) {
		if core := q.inName(name); core != "" {
			return q.refuse(core, "the name of a header")
		}
		for i, v := range q.r.Header[name] {
			if err := q.place(v, "the header "+name, func(b *bound) (plan, bool) { return q.inField(b, name, i, v) }); err != nil {
				return err
			}
		}
	}
	return q.chunked()
}

// place looks at one place of a request. When all that is there is what some
// binding has a plan for, it is planned; else it is refused.
func (q *request) place(text, where string, of func(*bound) (plan, bool)) error {
	cores := q.f.text(text)
	if len(cores) == 0 {
		return nil
	}
	for _, b := range q.bound {
		if p, ok := of(b); ok {
			if i := slices.Index(cores, p.core); i >= 0 {
				q.plans, cores = append(q.plans, p), slices.Delete(cores, i, i+1)
				break
			}
		}
	}
	if len(cores) > 0 {
		return q.refuse(cores[0], where)
	}
	return nil
}

// inName looks for a placeholder in the name of a field, whose case is not what
// it was any more.
func (q *request) inName(name string) string {
	i := strings.Index(name, tag)
	if i < 0 {
		return ""
	}
	for core := range q.st.cores {
		if rest := name[i:]; len(rest) >= len(core) && strings.EqualFold(rest[:len(core)], core) {
			return core
		}
	}
	return ""
}

// refuse records a placeholder in a place where it may not be, and returns the
// error that says so.
func (q *request) refuse(core, where string) error {
	name, reason := q.wrong(core, where)
	q.record(name, true, reason)
	return errors.New(reason)
}

func (q *request) wrong(core, where string) (name, reason string) {
	if b := q.st.cores[core]; b != nil {
		what := "the placeholder of " + b.Secret + " is in " + where
		switch {
		case slices.Contains(q.bound, b):
			return b.Secret, what + ", where its service does not take it"
		case !q.t.TLS && q.st.binds(b, q.t.Host):
			return b.Secret, what + ", and the connection is not encrypted"
		}
		return b.Secret, what + ", and this is no host that it is for"
	}
	q.b.mu.Lock()
	defer q.b.mu.Unlock()
	if name := q.b.former[core]; name != "" {
		return name, "the placeholder of " + name + ", which was taken back, is in " + where
	}
	return "", "a placeholder of another sandbox is in " + where
}

// binds reports whether a binding has a host, on whichever port.
func (st *state) binds(b *bound, host string) bool {
	return slices.ContainsFunc(b.Service.Hosts, func(p service.Place) bool { return p.Host.Match(host) })
}

// failed is the error for a secret that could not be had or put in. What a
// source says is for the user's log, not for the guest.
func (q *request) failed(b *bound, err error) error {
	q.record(b.Secret, true, "it could not be had: "+err.Error())
	// A login that has ended is said as its service says it, for the guest to sign
	// in again.
	var answer *intercept.Answer
	if errors.As(err, &answer) {
		return answer
	}
	return &intercept.Failed{Reason: "the secret " + b.Secret + " could not be had on the host; berth log --secrets says why"}
}

func (q *request) record(name string, refused bool, reason string) {
	q.b.cfg.Record(Use{
		Time: q.b.cfg.Now(), Secret: name, Host: q.t.Host, Port: q.t.Port, Method: q.method, Path: q.path, Refused: refused, Reason: reason,
	})
}

// watchBody has the body looked through while it is sent.
//
// A placeholder in a body is never replaced: a service does not look for a
// credential there, and what the guest can have written down it could otherwise
// read back. Whether it is refused depends on where it goes. To the host that it
// is for it is nothing new. To a language model an agent sends all that it has
// seen, again with each request: were a placeholder refused there, one look at
// the environment would end its work. Anywhere else it is a try to get a
// credential out, and the request is broken off.
func (q *request) watchBody() {
	r := q.r
	if r.Body == nil || r.Body == http.NoBody {
		return
	}
	quotes := slices.ContainsFunc(q.bound, func(b *bound) bool { return b.Service.Quotes })
	denied := func(core, where string) error {
		return &intercept.Denied{Ruling: intercept.Ruling{Reason: q.refuse(core, where).Error()}}
	}
	judge := func(core string) error {
		own := q.st.cores[core]
		if !slices.Contains(q.bound, own) && !quotes {
			return denied(core, "the body")
		}
		name := ""
		if own != nil {
			name = own.Secret
		}
		q.record(name, false, "its placeholder is in the body, where it stays one")
		return nil
	}
	trailer := func() error {
		f := newFinder()
		for _, name := range slices.Sorted(maps.Keys(r.Trailer)) {
			for _, v := range r.Trailer[name] {
				if cores := f.text(v); len(cores) > 0 {
					return denied(cores[0], "the trailer")
				}
			}
		}
		return nil
	}
	r.Body = newSentBody(r.Body, r.ContentLength, codingsOf(r.Header["Content-Encoding"]), judge, trailer)
}

// acceptDecodable asks for what can be looked through: gzip, when the guest is
// content with that, else no encoding at all. The guest gets it decoded, over a
// wire where size does not matter.
func acceptDecodable(h http.Header) {
	h.Del("Available-Dictionary") // RFC 9842: encodings that refer to it
	asked, ok := h["Accept-Encoding"]
	if !ok {
		return
	}
	h["Accept-Encoding"] = []string{"identity"}
	if h.Get("Range") != "" { // a piece of an encoded body cannot be decoded
		return
	}
	for _, v := range asked {
		for part := range strings.SplitSeq(strings.ToLower(v), ",") {
			name, weight, weighed := strings.Cut(strings.ReplaceAll(part, " ", ""), ";")
			if (name == "gzip" || name == "*") && (!weighed || strings.Trim(weight, "q=0.") != "") {
				h["Accept-Encoding"] = []string{"gzip"}
				return
			}
		}
	}
}

// unescapeQuery is one part of a query as a server reads it.
func unescapeQuery(s string) string {
	text, err := url.QueryUnescape(s)
	if err != nil {
		return s
	}
	return text
}

package sshagent

import (
	"bytes"
	"encoding/binary"
	"testing"

	"golang.org/x/crypto/ssh"
)

// FuzzRequest: whatever the guest sends is understood exactly or refused, and
// what is understood is no more than was there.
func FuzzRequest(f *testing.F) {
	s := newServer(f)
	session := newSession()
	f.Add([]byte{msgList})
	f.Add(s.bind(f, session).encode())
	f.Add(signIn(s.PublicKey(), session, nil).encode())
	f.Add(signIn(s.PublicKey(), session, s.blob()).encode())
	f.Add(commit(s.PublicKey(), "git").encode())
	f.Add([]byte{msgSign, 255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, body []byte) {
		req, err := parseRequest(body)
		if err != nil {
			return
		}
		switch req := req.(type) {
		case signRequest:
			if !bytes.Equal(req.encode(), body) {
				t.Fatalf("%q was understood as %+v", body, req)
			}
			checkSigned(t, req)
		case bindRequest:
			if !req.forwarding && body[len(body)-1] == 0 && !bytes.Equal(req.encode(), body) {
				t.Fatalf("%q was understood as %+v", body, req)
			}
		}
	})
}

// FuzzSigned: the same of what is to be signed.
func FuzzSigned(f *testing.F) {
	s := newServer(f)
	for _, req := range []signRequest{signIn(s.PublicKey(), newSession(), nil), signIn(s.PublicKey(), newSession(), s.blob()), commit(s.PublicKey(), "git")} {
		f.Add(req.key, req.data, req.flags)
	}
	f.Fuzz(func(t *testing.T, key, data []byte, flags uint32) {
		checkSigned(t, signRequest{key, data, flags})
	})
}

// checkSigned puts together what was understood, and compares.
func checkSigned(t *testing.T, req signRequest) {
	t.Helper()
	got, err := parseSigned(req)
	if err != nil {
		return
	}
	if got.commit {
		if !bytes.HasPrefix(req.data, []byte("SSHSIG\x00\x00\x00\x03git\x00\x00\x00\x00\x00\x00\x00\x06sha")) {
			t.Fatalf("%q is taken for a commit", req.data)
		}
		return
	}
	b := append(appendString(nil, got.session), 50)
	b = appendString(appendString(b, got.user), "ssh-connection")
	method := methodPlain
	if got.hostKey != nil {
		method = methodBound
	}
	b = append(appendString(b, method), 1)
	rest, found := bytes.CutPrefix(req.data, b)
	if !found || len(rest) < 4 {
		t.Fatalf("%q was understood as %+v", req.data, got)
	}
	n := binary.BigEndian.Uint32(rest) // the algorithm
	end := appendString(nil, req.key)
	if got.hostKey != nil {
		end = appendString(end, got.hostKey)
	}
	if !bytes.Equal(rest[4+n:], end) {
		t.Fatalf("%q was understood as %+v", req.data, got)
	}
}

// FuzzConnection: whole connections, with a real agent behind: it never does
// what nobody allowed.
func FuzzConnection(f *testing.F) {
	w := newWorld(f)
	w.guard.limit.SetLimit(1e9)
	s := newServer(f)
	session := newSession()
	seed := func(bodies ...[]byte) {
		var all []byte
		for _, b := range bodies {
			all = appendString(all, b)
		}
		f.Add(all)
	}
	seed([]byte{msgList}, s.bind(f, session).encode(), signIn(w.user.key, session, s.blob()).encode())
	seed(commit(w.user.key, "git").encode(), []byte{19})
	f.Fuzz(func(t *testing.T, stream []byte) {
		w := &world{t: t, user: w.user, ctx: t.Context()}
		w.guard = New(Config{Dial: w.user.dial, Record: w.record, Ask: w.ask})
		w.guard.limit.SetLimit(1e9)
		out := &sink{r: bytes.NewReader(stream)}
		w.guard.Serve(w.ctx, out)
		for r := bytes.NewReader(out.w.Bytes()); r.Len() > 0; {
			reply, err := readMessage(r, maxReply)
			if err != nil || reply[0] == msgSignature {
				t.Fatalf("the answer %q, %v", reply, err)
			}
		}
	})
}

type sink struct {
	r *bytes.Reader
	w bytes.Buffer
}

func (s *sink) Read(p []byte) (int, error)  { return s.r.Read(p) }
func (s *sink) Write(p []byte) (int, error) { return s.w.Write(p) }
func (s *sink) Close() error                { return nil }

// FuzzHosts: a file of known hosts is the user's, and yet nothing in it breaks.
func FuzzHosts(f *testing.F) {
	s := newServer(f)
	f.Add([]byte(s.known("a.example,*.b.example,!c.b.example")), "x.b.example")
	f.Add([]byte("@cert-authority "+s.known("*")+"@revoked "+s.known("*")), "a")
	f.Add([]byte("|1|c2FsdA==|aGFzaA== ssh-ed25519 AAAA"), "a")
	f.Fuzz(func(t *testing.T, data []byte, name string) {
		var h Hosts
		h.add(data)
		d, err := h.find(s.PublicKey(), []string{name})
		if err == nil && !d.Known && d.Name != ssh.FingerprintSHA256(s.PublicKey()) {
			t.Errorf("a key that is not known is called %q", d.Name)
		}
		h.Lines(name)
	})
}

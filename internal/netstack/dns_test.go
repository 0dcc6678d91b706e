package netstack_test

import (
	"encoding/binary"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func reverse(query []byte, transport string) ([]byte, error) {
	if string(query) == "no answer" {
		return nil, errRefused
	}
	return append([]byte(transport+" "), query...), nil
}

func TestDNSTransports(t *testing.T) {
	o := origins{dns: reverse}
	s, g := start(t, &o)
	for _, gw := range []netip.Addr{g.Link.Gateway4, g.Link.Gateway6} {
		dst := netip.AddrPortFrom(gw, 53)
		u, err := g.DialUDP(dst)
		if err != nil {
			t.Fatal(err)
		}
		_ = u.SetDeadline(time.Now().Add(5 * time.Second))
		_, _ = u.Write([]byte("no answer"))
		_, _ = u.Write(make([]byte, 5000)) // too long: dropped
		_, _ = u.Write([]byte("question"))
		buf := make([]byte, 100)
		if n, err := u.Read(buf); string(buf[:n]) != "udp question" || err != nil {
			t.Errorf("%s: got %q, %v", dst, buf[:n], err)
		}
		_ = u.Close()

		c, err := g.Dial(ctx(t), dst)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		for _, q := range []string{"one", strings.Repeat("long", 10000)} { // two on one connection
			_, _ = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(q))), q...))
			var n [2]byte
			_, _ = io.ReadFull(c, n[:])
			got := make([]byte, binary.BigEndian.Uint16(n[:]))
			if _, err := io.ReadFull(c, got); string(got) != "tcp "+q || err != nil {
				t.Errorf("%s: got %d bytes, %v", dst, len(got), err)
			}
		}
		_, _ = c.Write([]byte("\x00\x09no answer"))
		if b, err := io.ReadAll(c); len(b) != 0 || err != nil {
			t.Errorf("%s: %q, %v after a question without an answer; want the end", dst, b, err)
		}
		_ = c.Close()
	}
	if n := s.Stats().Questions; n != 12 {
		t.Errorf("%d questions counted, want 12", n)
	}
}

// Close ends DNS connections that wait for a question.
func TestCloseEndsIdleDNS(t *testing.T) {
	o := origins{dns: reverse}
	s, g := start(t, &o)
	c, err := g.Dial(ctx(t), netip.AddrPortFrom(g.Link.Gateway4, 53))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "connection", func() bool { return s.Stats().Active == 1 })
	begin := time.Now()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(begin); d > 5*time.Second {
		t.Errorf("Close took %s", d)
	}
	_ = c.Close()
}

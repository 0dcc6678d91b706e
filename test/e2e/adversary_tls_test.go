package e2e

import (
	"strings"
	"testing"

	"berth.dev/internal/audit"
)

// TestAdversaryTLS: TLS that passes through, to a host that serves others too.
func TestAdversaryTLS(t *testing.T) {
	each(t, func(t *testing.T, u *user) {
		w := newWorld(t, u)
		c := w.capture(t, "locked")
		c.allow(t, passHost+":443")
		const get = `GET /other HTTP/1.1\r\nHost: other.example\r\nConnection: close\r\n\r\n`
		to := func(options ...string) []string {
			return append(append([]string{"attacker", "tls"}, options...), passHost+":443")
		}
		if r := c.exec(t, false, append(to(), passHost, `GET / HTTP/1.1\r\nHost: `+passHost+`\r\nConnection: close\r\n\r\n`)...); r.out == "" {
			t.Fatalf("what is allowed does not pass: %+v", r)
		}
		c.survives(t,
			attack{
				name: "another server name", cmd: append(to(), "other.example", get),
				hit: "sni=other.example.", line: because(audit.Connection, passHost, "server name"),
			},
			attack{
				name: "no server name", cmd: append(to(), "", get),
				hit: "sni=.", line: because(audit.Connection, passHost, "server name"),
			},
			attack{
				name: "byte by byte", cmd: append(to("-bytes"), "slow.example", get),
				hit: "sni=slow.example.", line: because(audit.Connection, passHost, "server name"),
			},
			attack{
				name: "in many records", cmd: append(to("-records"), "pieces.example", get),
				hit: "sni=pieces.example.", line: because(audit.Connection, passHost, "server name"),
			},
			attack{
				name: "in many records, byte by byte", cmd: append(to("-bytes", "-records"), "both.example", get),
				hit: "sni=both.example.", line: because(audit.Connection, passHost, "server name"),
			},
			attack{
				name: "a longer name", cmd: append(to(), passHost+".evil.example", get),
				hit: "sni=" + passHost + ".evil.example.", line: because(audit.Connection, passHost, "server name"),
			},
			attack{
				name: "encrypted hello", cmd: append(to("-ech="+w.ech.list), "hidden.example", get),
				hit:  "sni=hidden.example.",
				line: func(e audit.Event) bool { return e.Name == passHost && strings.Contains(e.Reason+e.Error, "ECH") },
			},
			attack{
				name: "the address itself", cmd: []string{"attacker", "tls", publicAddr + ":443", "direct.example", get},
				hit: "sni=direct.example.", line: denied(audit.Connection, publicAddr),
			},
			attack{
				name: "a denied name", cmd: []string{"attacker", "tls", deniedHost + ":443", deniedHost, get},
				hit: "sni=" + deniedHost + ".", line: denied("", deniedHost),
			},
		)
	})
}

package e2e

import (
	"fmt"
	"strings"
	"testing"

	"berth.dev/internal/audit"
)

const ask = `GET / HTTP/1.0\r\nHost: there\r\n\r\n`

// TestAdversaryNames: an allowed name that leads to a place which is closed, at
// once or from the second answer on.
func TestAdversaryNames(t *testing.T) {
	each(t, func(t *testing.T, u *user) {
		w := newWorld(t, u)
		c := w.capture(t, "open")
		var attacks []attack
		for name, list := range addresses {
			name = strings.TrimSuffix(name, ".")
			if len(list) > 1 {
				continue
			}
			arrives := list[0]
			switch arrives {
			case "0.0.0.0", "::ffff:127.0.0.1":
				arrives = "127.0.0.1" // what the kernel makes of it
			}
			if strings.Contains(arrives, ":") {
				arrives = "[" + arrives + "]"
			}
			attacks = append(attacks, attack{
				name: name, cmd: []string{"attacker", "tcp", fmt.Sprintf("%s:%d", name, loopbackPort), ask},
				hit:  fmt.Sprintf("http %s:%d ", arrives, loopbackPort),
				line: because(audit.Connection, name, "it resolves to"),
			})
		}
		attacks = append(attacks,
			attack{
				name: "alias", cmd: []string{"attacker", "tcp", fmt.Sprintf("alias.example:%d", loopbackPort), ask},
				hit: fmt.Sprintf("http 127.0.0.1:%d ", loopbackPort), line: because(audit.Connection, "alias.example", "it resolves to"),
			},
			attack{
				name: "plain HTTP", cmd: []string{"curl", "-fsS", "--max-time", "10", "http://metadata.example/"},
				hit: "http 169.254.169.254:80 ", line: because(audit.HTTP, "metadata.example", "it resolves to"),
			},
			attack{
				name: "HTTPS", cmd: []string{"attacker", "tls", "private.example:443", "private.example", ask},
				hit: "http 10.9.8.7:443 ", line: because(audit.Connection, "private.example", "it resolves to"),
			},
			// Both are allowed to answer for the name; what only the closed one serves
			// cannot be had.
			attack{
				name: "one of two", cmd: []string{"attacker", "tcp", fmt.Sprintf("both.example:%d", onlyLoopbackPort), ask},
				hit: fmt.Sprintf("http 127.0.0.1:%d ", onlyLoopbackPort),
				line: func(e audit.Event) bool {
					return e.Kind == audit.Connection && e.Name == "both.example" && e.Error != ""
				},
			},
			attack{
				name: "rebinding", cmd: []string{"attacker", "flip", fmt.Sprintf("flip.example:%d", loopbackPort), "12"},
				hit: fmt.Sprintf("http 127.0.0.1:%d ", loopbackPort), line: because(audit.Connection, "flip.example", "it resolves to 127.0.0.1"),
			},
			attack{
				name: "rebinding, later", cmd: []string{"attacker", "flip", fmt.Sprintf("flip3.example:%d", loopbackPort), "12"},
				hit: fmt.Sprintf("http 127.0.0.1:%d ", loopbackPort), line: because(audit.Connection, "flip3.example", "it resolves to 127.0.0.1"),
			},
		)
		c.survives(t, attacks...)
	})
}

// TestAdversaryResolver: questions that would carry data out, and resolvers that
// are not the one that names are decided by.
func TestAdversaryResolver(t *testing.T) {
	each(t, func(t *testing.T, u *user) {
		w := newWorld(t, u)
		var attacks []attack
		for i, kind := range []string{"A", "TXT", "MX", "SRV", "NULL", "HTTPS", "CNAME", "PTR"} {
			for _, network := range []string{"udp", "tcp"} {
				name := fmt.Sprintf("stolen-%d-%s.denied.example", i, network)
				attacks = append(attacks, attack{
					name: "data in a question, " + kind + " by " + network,
					cmd:  []string{"attacker", "dns", network, "own", name + ".", kind},
					hit:  name, line: denied(audit.DNS, name),
				})
			}
		}
		t.Run("balanced", func(t *testing.T) { w.capture(t, "balanced").survives(t, attacks...) })

		attacks = nil
		for _, q := range [][]string{{"example.", "AXFR"}, {"any.example.", "ANY"}, {"version.bind.", "TXT", "CH"}} {
			name := strings.TrimSuffix(q[0], ".")
			attacks = append(attacks, attack{
				name: strings.Join(q, " "), cmd: append([]string{"attacker", "dns", "tcp", "own"}, q...),
				hit: "dns tcp " + q[0], line: denied(audit.DNS, name),
			})
		}
		for _, server := range []string{"8.8.8.8", publicAddr, resolverAddress} {
			for _, network := range []string{"tcp", "udp"} {
				attacks = append(attacks, attack{
					name: "resolver " + server + " by " + network,
					cmd:  []string{"attacker", "dns", network, server + ":53", "other.example.", "TXT"},
					hit:  "dns " + network + " other.example.", line: denied(audit.Connection, server),
				})
			}
		}
		for _, server := range []string{"8.8.8.8", publicAddr, "dns.google", "dot.example"} {
			attacks = append(attacks, attack{
				name: "DNS over TLS, " + server, cmd: []string{"attacker", "dns", "tls", server + ":853", "other.example.", "TXT"},
				hit: "dns tls other.example.", line: denied(audit.Connection, server),
			})
		}
		for _, host := range []string{"8.8.8.8", "dns.google", "cloudflare-dns.com", "dns.quad9.net", "mozilla.cloudflare-dns.com"} {
			attacks = append(attacks, attack{
				name: "DNS over HTTPS, " + host, cmd: []string{"attacker", "dns", "https", "https://" + host + "/dns-query", "other.example.", "TXT"},
				hit: "dns https other.example.", line: denied("", host),
			})
		}
		t.Run("open", func(t *testing.T) { w.capture(t, "open").survives(t, attacks...) })
	})
}

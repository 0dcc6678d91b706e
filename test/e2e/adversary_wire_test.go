package e2e

import (
	"fmt"
	"strings"
	"testing"

	"berth.dev/internal/audit"
)

// TestAdversaryWire: what is no TCP, and frames of the guest's own making, under
// the widest preset.
func TestAdversaryWire(t *testing.T) {
	each(t, func(t *testing.T, u *user) {
		w := newWorld(t, u)
		c := w.capture(t, "open")
		var attacks []attack
		for _, a := range []string{"203.0.113.9", "[2001:db8:9::9]", "169.254.169.254", "198.18.0.9"} {
			for what, port := range map[string]int{"UDP": 123, "QUIC": 443} {
				attacks = append(attacks, attack{
					name: what + " " + a, cmd: []string{"attacker", "udp", fmt.Sprintf("%s:%d", a, port), `\xc0\x00\x00\x00\x01hello`},
					hit: fmt.Sprintf("udp %s:%d ", a, port), line: denied(audit.Connection, strings.Trim(a, "[]")),
				})
			}
		}
		attacks = append(attacks, attack{
			name: "QUIC to a name", cmd: []string{"attacker", "udp", "quic.example:443", `\xc0\x00\x00\x00\x01hello`},
			hit: "udp " + publicAddr + ":443 ", line: denied(audit.Connection, "quic.example"),
		})
		for _, a := range []string{"203.0.113.9", "2001:db8:9::9", "169.254.169.254"} {
			attacks = append(attacks, attack{
				name: "ICMP " + a, cmd: []string{"attacker", "icmp", a}, root: true, line: denied(audit.Connection, a),
			})
		}
		c.survives(t, attacks...)

		t.Run("frames", func(t *testing.T) { c.frames(t) })
	})
}

// frames has root of the guest send frames of its own making, under the widest
// preset.
func (c *captive) frames(t *testing.T) {
	t.Helper()
	const guest4, guest6 = "10.213.77.3", "fdbe:7274:6800::3"
	shots := []string{
		"udp," + guest4 + ",203.0.113.9", "udp," + guest6 + ",2001:db8:9::9",
		"icmp," + guest4 + ",203.0.113.9", "icmp," + guest6 + ",2001:db8:9::9",
		"47," + guest4 + ",203.0.113.9", "132," + guest4 + ",203.0.113.9", "4," + guest4 + ",203.0.113.9", "47," + guest6 + ",2001:db8:9::9",
		"options-udp," + guest4 + ",203.0.113.9", "options-udp," + guest6 + ",2001:db8:9::9",
		"destination-udp," + guest6 + ",2001:db8:9::9",
		"fragments-udp," + guest4 + ",203.0.113.9", "fragments-udp," + guest6 + ",2001:db8:9::9",
		// The host's loopback, which a kernel does not send to but a frame can.
		"tcp," + guest4 + ",127.0.0.1,7777", "tcp," + guest6 + ",64:ff9b::7f00:1,7777",
		"tcp," + guest4 + ",169.254.169.254,80", "tcp," + guest4 + ",192.168.77.1,7777",
		// The same from a container's address.
		"tcp,172.20.0.9,127.0.0.1,7777", "tcp,172.20.0.9,169.254.169.254,80", "tcp,172.20.0.9,10.0.0.1,7777",
		// Allowed places, in the name of somebody else.
		"tcp,10.213.77.1," + publicAddr + ",80", "tcp,10.213.77.2," + publicAddr + ",80", "tcp,10.213.77.5," + publicAddr + ",80",
		"tcp,192.168.5.5," + publicAddr + ",80", "tcp,203.0.113.5," + publicAddr + ",80", "tcp,fd00::5,2001:db8:9::9,80",
		"fragments-tcp," + guest4 + "," + publicAddr + ",80", "options-tcp," + guest4 + "," + publicAddr + ",80",
		"options-tcp," + guest6 + ",2001:db8:9::9,80", "destination-tcp," + guest6 + ",2001:db8:9::9,80",
	}
	direct := c.w.unguarded(t, append([]string{"attacker", "frames", "lo", "00:00:00:00:00:00"}, shots...))
	last := c.last(t)
	real := []string{"tcp," + guest4 + "," + publicAddr + ",80", "tcp,172.20.0.9," + publicAddr + ",80"}
	guarded := c.exec(t, true, append([]string{"attacker", "frames", "eth0", "02:be:72:74:68:01"}, append(shots, real...)...)...)
	for _, s := range shots {
		t.Run(s, func(t *testing.T) {
			if !strings.Contains(direct.out, s+" ") {
				t.Fatalf("it is not answered where nothing guards: %s", direct.err)
			}
			if strings.Contains(guarded.out, s+" ") {
				t.Error("it is answered in a sandbox")
			}
		})
	}
	// The frames are good: those that ask for nothing forbidden are answered.
	for _, s := range real {
		if !strings.Contains(guarded.out, s+" ") {
			t.Errorf("%s does not arrive: %+v", s, guarded)
		}
	}
	c.line(t, last, denied(audit.Connection, "10.0.0.1"))
	c.line(t, last, denied(audit.Connection, "169.254.169.254"))
}

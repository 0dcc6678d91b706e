package e2e

import (
	"fmt"
	"strings"
	"testing"

	"berth.dev/internal/audit"
)

// TestAdversaryAddresses: places that no policy opens, under the widest preset,
// in every way in which their addresses can be written.
func TestAdversaryAddresses(t *testing.T) {
	each(t, func(t *testing.T, u *user) {
		w := newWorld(t, u)
		c := w.capture(t, "open")
		var attacks []attack
		var notations []string
		// How libc's inet_aton, which getaddrinfo and with it everything uses,
		// reads numbers: what they mean is what is denied.
		for _, n := range []struct{ written, means string }{
			{"169.254.169.254", "169.254.169.254"},
			{"2852039166", "169.254.169.254"},
			{"0xa9fea9fe", "169.254.169.254"},
			{"0251.0376.0251.0376", "169.254.169.254"},
			{"0xa9.0xfe.0xa9.0xfe", "169.254.169.254"},
			{"169.254.43518", "169.254.169.254"},
			{"169.16689662", "169.254.169.254"},
			{"0251.254.0xa9fe", "169.254.169.254"},
			{"168427527", "10.10.0.7"},
			{"10.657415", "10.10.8.7"},
			{"192.168.077.0x1", "192.168.63.1"},
			{"3232255233", "192.168.77.1"},
		} {
			attacks = append(attacks, attack{
				name: "curl " + n.written, cmd: []string{"curl", "-sS", "-g", "--max-time", "10", "http://" + n.written + "/"},
				hit: "http " + n.means + ":80 ", line: denied(audit.Connection, n.means),
			})
			notations = append(notations, n.written)
		}
		// The same by another client, all in one run as it takes long to start. In
		// the host's own terms each is shown to mean what it means above.
		attacks = append(attacks, attack{
			name: "getaddrinfo",
			cmd: append([]string{"python3", "-c", `import socket, sys
for where in sys.argv[1:]:
    try:
        s = socket.create_connection((where, 80), 10)
        s.sendall(b"GET / HTTP/1.0\r\n\r\n")
        print(where, s.makefile().read())
    except OSError as e:
        print(where, e)
        failed = True
sys.exit("failed" in globals())`}, notations...),
			hit: "http 169.254.169.254:80 ", line: denied(audit.Connection, "192.168.77.1"),
		})
		// Places by what they are. The address of the machine itself counts, public
		// as it looks.
		for name, addr := range map[string]string{
			"private 10":        "10.0.0.1",
			"private 172":       "172.16.0.1",
			"private 192":       "192.168.0.1",
			"own":               "192.168.77.1",
			"own IPv6":          "2001:db8:77::1",
			"carrier":           "100.64.0.1",
			"carrier metadata":  "100.100.100.200",
			"Azure":             "168.63.129.16",
			"link-local":        "169.254.1.1",
			"reserved":          "192.0.0.8",
			"benchmark":         "198.19.255.254",
			"unique local":      "fd00::1",
			"IPv6 metadata":     "fd00:ec2::254",
			"site-local":        "fec0::1",
			"NAT64 loopback":    "64:ff9b::7f00:1",
			"NAT64 metadata":    "64:ff9b::a9fe:a9fe",
			"NAT64 local":       "64:ff9b:1::a00:1",
			"6to4 loopback":     "2002:7f00:1::1",
			"6to4 private":      "2002:a00:1::1",
			"Teredo loopback":   "2001:0:7f00:1::80ff:fffe",
			"compatible":        "::7f00:2",
			"translated":        "::ffff:0:7f00:1",
			"ISATAP":            "2001:db8:1::5efe:7f00:1",
			"discard":           "100::1",
			"outside of 2000/3": "4000::1",
		} {
			host := addr
			if strings.Contains(addr, ":") {
				host = "[" + addr + "]"
			}
			attacks = append(attacks, attack{
				name: name, cmd: []string{"attacker", "tcp", fmt.Sprintf("%s:%d", host, loopbackPort), ask},
				hit: fmt.Sprintf("http %s:%d ", host, loopbackPort), line: denied(audit.Connection, addr),
			})
		}
		c.survives(t, attacks...)
	})
}

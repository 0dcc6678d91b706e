package e2e

import (
	"fmt"
	"strings"
	"testing"

	"berth.dev/internal/audit"
)

// TestAdversaryHTTP: requests on connections that are looked at, to hosts of
// which only /open/ may be asked for.
func TestAdversaryHTTP(t *testing.T) {
	each(t, func(t *testing.T, u *user) {
		w := newWorld(t, u)
		c := w.capture(t, "locked")
		for _, host := range []string{apiHost + ":443", plainHost + ":80", fmt.Sprintf("%s:%d", sloppyHost, sloppyPort)} {
			c.allow(t, host, "--path", "/open/**")
		}
		api := func(texts ...string) []string {
			return append([]string{"attacker", "tls", apiHost + ":443", apiHost}, texts...)
		}
		plain := func(texts ...string) []string {
			return append([]string{"attacker", "tcp", plainHost + ":80"}, texts...)
		}
		h2 := func(fields ...string) []string {
			return append([]string{"attacker", "h2", apiHost + ":443", apiHost}, fields...)
		}
		const end = `\r\nConnection: close\r\n\r\n`
		if r := c.exec(t, false, api(`GET /open/a HTTP/1.1\r\nHost: `+apiHost+end)...); r.out == "" || r.code != 1 {
			t.Fatalf("what is allowed does not pass: %+v", r)
		}
		// A request that makes no sense is a line about its connection.
		refused := func(host string) func(audit.Event) bool { return denied("", host) }
		attacks := []attack{
			{name: "a path", cmd: api(`GET /secret HTTP/1.1\r\nHost: ` + apiHost + end), hit: "GET /secret host=" + apiHost, line: refused(apiHost)},
			{name: "a plain path", cmd: plain(`GET /secret HTTP/1.1\r\nHost: ` + plainHost + end), hit: "GET /secret host=" + plainHost, line: refused(plainHost)},
			{name: "dots", cmd: api(`GET /open/../dots HTTP/1.1\r\nHost: ` + apiHost + end), hit: "/open/../dots ", line: refused(apiHost)},
			{name: "encoded dots", cmd: api(`GET /open/%2e%2e/encoded HTTP/1.1\r\nHost: ` + apiHost + end), hit: "/open/%2e%2e/encoded ", line: refused(apiHost)},
			{name: "encoded slash", cmd: api(`GET /open/..%2fslash HTTP/1.1\r\nHost: ` + apiHost + end), hit: "/open/..%2fslash ", line: refused(apiHost)},
			{name: "backslash", cmd: api(`GET /open/..%5cback HTTP/1.1\r\nHost: ` + apiHost + end), hit: "/open/..%5cback ", line: refused(apiHost)},

			// Another host on the same connection.
			{name: "fronting", cmd: api(`GET /open/a HTTP/1.1\r\nHost: fronted.example` + end), hit: "host=fronted.example.", line: refused(apiHost)},
			{name: "plain fronting", cmd: plain(`GET /open/a HTTP/1.1\r\nHost: plainfronted.example` + end), hit: "host=plainfronted.example.", line: refused(plainHost)},
			{name: "fronting by a URL", cmd: api(`GET https://byurl.example/open/a HTTP/1.1\r\nHost: ` + apiHost + end), hit: "host=byurl.example.", line: refused(apiHost)},
			{name: "fronting by a plain URL", cmd: plain(`GET http://byplainurl.example/open/a HTTP/1.1\r\nHost: ` + plainHost + end), hit: "host=byplainurl.example.", line: refused(plainHost)},
			{name: "fronting on a kept connection", cmd: api(`GET /open/a HTTP/1.1\r\nHost: `+apiHost+`\r\n\r\n`, `GET /open/a HTTP/1.1\r\nHost: kept.example`+end), hit: "host=kept.example.", line: refused(apiHost)},
			{name: "authority", cmd: h2(":method=GET", ":scheme=https", ":authority=authority.example", ":path=/open/a"), hit: "host=authority.example.", line: refused(apiHost)},
			{name: "host beside authority", cmd: h2(":method=GET", ":scheme=https", ":path=/open/a", "host=beside.example"), hit: "host=beside.example.", line: refused(apiHost)},
			{name: "a path by HTTP/2", cmd: h2(":method=GET", ":scheme=https", ":authority="+apiHost, ":path=/h2secret"), hit: "/h2secret ", line: refused(apiHost)},
			{name: "another server name", cmd: []string{"attacker", "tls", apiHost + ":443", "sni.example", `GET /open/a HTTP/1.1\r\nHost: sni.example` + end}, hit: "sni=sni.example.", line: denied("", apiHost)},
			{name: "no server name", cmd: []string{"attacker", "tls", apiHost + ":443", "", `GET /open/a HTTP/1.1\r\nHost: nosni.example` + end}, hit: "host=nosni.example.", line: denied("", apiHost)},

			// Tunnels.
			{name: "CONNECT", cmd: api(`CONNECT ` + deniedHost + `:443 HTTP/1.1\r\nHost: ` + deniedHost + `:443\r\n\r\n`), hit: "CONNECT " + deniedHost + ":443", line: refused(apiHost)},
			{name: "plain CONNECT", cmd: plain(`CONNECT plain-` + deniedHost + `:443 HTTP/1.1\r\nHost: ` + plainHost + `\r\n\r\n`), hit: "CONNECT plain-" + deniedHost + ":443", line: refused(plainHost)},
			{name: "WebSocket", cmd: api(`GET /wssecret HTTP/1.1\r\nHost: ` + apiHost + `\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n`), hit: "/wssecret ", line: refused(apiHost)},
			{
				// The server agrees to a WebSocket without being one, so what follows
				// would be a tunnel past the rules on paths.
				name: "a WebSocket that is none",
				cmd:  api(`GET /open/switch HTTP/1.1\r\nHost: ` + apiHost + `\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n`),
				line: func(e audit.Event) bool { return e.Kind == audit.HTTP && e.Name == apiHost && e.Error != "" },
			},
			{name: "another upgrade", cmd: api(`GET /open/switch HTTP/1.1\r\nHost: ` + apiHost + `\r\nConnection: Upgrade\r\nUpgrade: anything\r\n\r\n`), hit: "/open/switch ", line: refused(apiHost)},
			{
				name: "h2c upgrade",
				cmd: []string{"attacker", "h2", `-upgrade=GET /open/a HTTP/1.1\r\nHost: ` + plainHost + `\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\n`,
					plainHost + ":80", "", ":method=GET", ":scheme=http", ":authority=" + plainHost, ":path=/h2csecret"},
				hit: "by an upgrade /h2csecret.", line: refused(plainHost),
			},
			{
				name: "h2c at once",
				cmd:  []string{"attacker", "h2", "-plain", plainHost + ":80", "", ":method=GET", ":scheme=http", ":authority=" + plainHost, ":path=/h2cprior"},
				hit:  "/h2cprior ", line: refused(plainHost),
			},
			{
				name: "redirect", cmd: []string{"curl", "-fsSL", "--max-time", "10", "http://" + plainHost + "/open/redirect"},
				hit: "host=" + deniedHost + ".", line: refused(deniedHost),
			},
		}
		attacks = append(attacks, smuggling(refused(sloppyHost))...)
		c.survives(t, attacks...)
	})
}

// smuggling are requests that a guard could take for one, and that their server
// takes for two: the second asks for what may not be asked for.
func smuggling(line func(audit.Event) bool) []attack {
	const head = `POST /open/a HTTP/1.1\r\nHost: ` + sloppyHost + `\r\n`
	// hidden is the follower, inside what a guard might take for a body.
	hidden := func(mark string) string {
		return `GET /` + mark + ` HTTP/1.1\r\nHost: ` + sloppyHost + `\r\nConnection: close\r\n\r\n`
	}
	length := func(s string) int {
		n := 0
		for i := 0; i < len(s); i++ {
			if s[i] == '\\' {
				i++ // an escape of one byte
			}
			n++
		}
		return n
	}
	var attacks []attack
	add := func(name, mark, text string) {
		attacks = append(attacks, attack{
			name: "smuggling, " + name, cmd: []string{"attacker", "tcp", fmt.Sprintf("%s:%d", sloppyHost, sloppyPort), text},
			hit: "sloppy GET /" + mark + ".", line: line,
		})
	}
	for mark, field := range map[string]string{
		"plain":  `Transfer-Encoding: chunked\r\n`,
		"space":  `Transfer-Encoding : chunked\r\n`,
		"tab":    `Transfer-Encoding:\tchunked\r\n`,
		"vtab":   `Transfer-Encoding: \x0bchunked\r\n`,
		"case":   `tRANSFER-eNCODING: ChUnKeD\r\n`,
		"list":   `Transfer-Encoding: identity, chunked\r\n`,
		"twice":  `Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n`,
		"folded": `Transfer-Encoding:\r\n chunked\r\n`,
		"named":  `X-Chunked: x\nTransfer-Encoding: chunked\r\n`,
		"cr":     `X: x\rTransfer-Encoding: chunked\r\n`,
		"quoted": `Transfer-Encoding: \"chunked\"\r\n`,
		"other":  `Transfer-Encoding: xchunked\r\n`,
	} {
		body := `0\r\n\r\n` + hidden("te-"+mark)
		add("length and encoding, "+mark, "te-"+mark, head+fmt.Sprintf(`Content-Length: %d\r\n`, length(body))+field+`\r\n`+body)
	}
	for mark, fields := range map[string]string{
		"two":      `Content-Length: %d\r\nContent-Length: 0\r\n`,
		"list":     `Content-Length: %d\r\nContent-Length: 0, 0\r\n`,
		"plus":     `Content-Length: %d\r\nContent-Length: +0\r\n`,
		"underbar": `Content-Length: %d\r\nContent-Length : 0\r\n`,
	} {
		body := hidden("cl-" + mark)
		add("lengths, "+mark, "cl-"+mark, head+fmt.Sprintf(fields, length(body))+`\r\n`+body)
	}
	add("pipelined", "pipelined", head+`Content-Length: 0\r\n\r\n`+hidden("pipelined"))
	add("a body of a GET", "body", `GET /open/a HTTP/1.1\r\nHost: `+sloppyHost+`\r\n\r\n`+hidden("body"))
	add("line ends", "lines", `GET /open/a HTTP/1.1\nHost: `+sloppyHost+`\n\n`+hidden("lines"))
	add("a chunk's extension", "chunk", head+`Transfer-Encoding: chunked\r\n\r\n0;a\n\r\n`+hidden("chunk"))
	// Its beginning was allowed; that the rest makes no sense is what went wrong.
	attacks[len(attacks)-1].line = func(e audit.Event) bool {
		return e.Kind == audit.HTTP && e.Name == sloppyHost && strings.Contains(e.Error, "not whole")
	}
	return attacks
}

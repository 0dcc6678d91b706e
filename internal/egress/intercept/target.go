package intercept

import (
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// authority reports whether s (a Host field, an :authority, the authority of an
// absolute URL) names the target, and returns it as it is sent to the server:
// the target's own spelling, with a port if s had one.
func (t Target) authority(s string) (string, error) {
	host, port, err := splitAuthority(s)
	if err != nil {
		return "", err
	}
	if !t.is(host) {
		return "", badf("the request is for %s, the connection for %s", quote(s), t.Host)
	}
	own := t.Host
	if strings.Contains(own, ":") {
		own = "[" + own + "]"
	}
	if port == "" {
		return own, nil
	}
	if port != strconv.Itoa(int(t.Port)) {
		return "", badf("the request is for %s, the connection for port %d", quote(s), t.Port)
	}
	return own + ":" + port, nil
}

func splitAuthority(s string) (host, port string, err error) {
	rest := ""
	if strings.HasPrefix(s, "[") {
		var ok bool
		if host, rest, ok = strings.Cut(s[1:], "]"); !ok || !strings.Contains(host, ":") {
			return "", "", badf("%s is no host", quote(s))
		}
	} else if i := strings.IndexByte(s, ':'); i >= 0 {
		host, rest = s[:i], s[i:]
	} else {
		host = s
	}
	if rest == "" {
		return host, "", nil
	}
	port, ok := strings.CutPrefix(rest, ":")
	if !ok || port == "" {
		return "", "", badf("%s is no host", quote(s))
	}
	return host, port, nil
}

// is compares a host without brackets.
func (t Target) is(host string) bool {
	if lower(host) == t.Host {
		return true
	}
	a, err := netip.ParseAddr(host)
	if err != nil || !a.Is6() || a.Zone() != "" {
		return false
	}
	b, err := netip.ParseAddr(t.Host)
	return err == nil && a == b // one address has many spellings
}

// url makes the URL of a request's target (RFC 9112 §3.2). Its path is what is
// judged and what is sent, byte for byte: bytes that do not belong into a path
// are percent-encoded here, before anybody else does it in their own way, and
// nothing is decoded or joined.
func (t Target) url(method, raw string) (*url.URL, error) {
	u := &url.URL{Scheme: t.scheme(), Host: t.hostPort()}
	if raw == "*" {
		if method != "OPTIONS" {
			return nil, badRequest("* as a path")
		}
		u.Path = "*"
		return u, nil
	}
	if !strings.HasPrefix(raw, "/") {
		var err error
		if raw, err = t.absolute(raw); err != nil {
			return nil, err
		}
	}
	path, query, hasQuery := strings.Cut(raw, "?")
	path, err := cleanPath(path)
	if err != nil {
		return nil, err
	}
	for _, c := range []byte(query) {
		if c <= ' ' || c == 0x7f {
			return nil, badRequest("a space or control byte in the query")
		}
	}
	if u.Path, err = url.PathUnescape(path); err != nil {
		return nil, badRequest("a path with a broken percent-encoding")
	}
	u.RawPath = path
	u.RawQuery = strings.ReplaceAll(query, "#", "%23")
	u.ForceQuery = hasQuery && query == ""
	if got := u.EscapedPath(); got != path {
		return nil, badf("the path %s would be sent as %s", quote(path), quote(got))
	}
	return u, nil
}

// absolute takes the origin off an absolute-form target when it is the target's.
func (t Target) absolute(raw string) (string, error) {
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok {
		return "", badRequest("a target that is neither a path nor a URL")
	}
	if lower(scheme) != t.scheme() {
		return "", badf("the request is for %s, the connection for %s", quote(scheme), t.scheme())
	}
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	if _, err := t.authority(rest[:end]); err != nil {
		return "", err
	}
	if rest = rest[end:]; strings.HasPrefix(rest, "/") {
		return rest, nil
	}
	return "/" + rest, nil
}

func cleanPath(s string) (string, error) {
	plain := true
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c <= ' ' || c == 0x7f:
			return "", badRequest("a space or control byte in the path")
		case c == '%':
			if i+2 >= len(s) || !hex(s[i+1]) || !hex(s[i+2]) {
				return "", badRequest("a path with a broken percent-encoding")
			}
		case !pathByte(c):
			plain = false
		}
	}
	if plain {
		return s, nil
	}
	var b strings.Builder
	for _, c := range []byte(s) {
		if c == '%' || pathByte(c) {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String(), nil
}

// pathByte reports whether c may stand in a path as it is: pchar and "/" of
// RFC 3986 §3.3, and the brackets that everybody sends.
func pathByte(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	}
	return strings.IndexByte("-._~!$&'()*+,;=:@/[]", c) >= 0
}

func hex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

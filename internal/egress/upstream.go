package egress

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"

	"berth.dev/internal/sandbox"
)

const (
	resolvConf  = "/etc/resolv.conf"
	maxConf     = 64 << 10 // bytes of it that are read
	maxServers  = 3        // MAXNS of resolv.conf(5)
	confFresh   = 5 * time.Second
	defaultTry  = 2 * time.Second // of one server; glibc waits 5, and gives up when the guest would
	maxTry      = 10 * time.Second
	defaultTrys = 2
	maxTrys     = 5 // RES_MAXRETRY of resolv.conf(5)
	totalTime   = 10 * time.Second
	ednsSize    = 1232 // bytes by UDP that no path fragments (DNS Flag Day 2020)
)

// conf is what resolv.conf(5) says that matters here. Search domains do not:
// the guest asks for whole names.
type conf struct {
	servers  []string // address:port
	try      time.Duration
	attempts int
	useTCP   bool // use-vc: never by UDP
}

// upstream is the host's resolvers. It is safe for concurrent use.
type upstream struct {
	path string // followed; "" when the servers were given

	mu      sync.Mutex
	conf    conf
	checked time.Time
	stamp   string // of the file that conf was read from
	good    int    // index of the server that answered last
}

func newUpstream(servers []string) (*upstream, error) {
	u := &upstream{conf: conf{servers: servers, try: defaultTry, attempts: defaultTrys}}
	if servers == nil {
		u.path = resolvConf
		return u, nil
	}
	for _, s := range servers {
		if _, err := netip.ParseAddrPort(s); err != nil {
			return nil, sandbox.Errorf(sandbox.ErrInvalid, "DNS server %q: %w", s, err)
		}
	}
	return u, nil
}

// current returns the configuration as it is now.
func (u *upstream) current() (conf, int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.path == "" || time.Since(u.checked) < confFresh {
		return u.conf, u.good
	}
	u.checked = time.Now()
	stamp := "none"
	if fi, err := os.Stat(u.path); err == nil {
		stamp = fmt.Sprint(fi.ModTime(), fi.Size())
	}
	if stamp != u.stamp {
		u.conf, u.good, u.stamp = readConf(u.path), 0, stamp
	}
	return u.conf, u.good
}

func (u *upstream) answered(c conf, i int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if slices.Equal(c.servers, u.conf.servers) {
		u.good = i
	}
}

// ask puts one question to the servers, beginning with the one that answered
// last, and returns the first answer that settles it. A server that fails or
// refuses is passed over, and its answer is the last resort.
func (u *upstream) ask(ctx context.Context, q question) (*dns.Msg, error) {
	c, first := u.current()
	ctx, cancel := context.WithTimeout(ctx, totalTime)
	defer cancel()
	var unsettled *dns.Msg
	errs := []error{fmt.Errorf("ask %d servers for %s", len(c.servers), q.name)}
	for range c.attempts {
		for i := range c.servers {
			i = (first + i) % len(c.servers)
			m, err := exchange(ctx, c, c.servers[i], q)
			switch {
			case err != nil:
				errs = append(errs, err)
			case m.Rcode == dns.RcodeSuccess || m.Rcode == dns.RcodeNameError:
				u.answered(c, i)
				return m, nil
			default:
				unsettled = m
			}
			if ctx.Err() != nil {
				return nil, errors.Join(errs...)
			}
		}
		if unsettled != nil {
			return unsettled, nil
		}
	}
	return nil, errors.Join(errs...)
}

// exchange asks one server, by UDP and again by TCP when the answer was cut.
// The question is made anew, under an id and from a port of our own.
func exchange(ctx context.Context, c conf, server string, q question) (*dns.Msg, error) {
	m := new(dns.Msg)
	m.SetQuestion(q.name, q.qtype)
	m.SetEdns0(ednsSize, false)
	for _, network := range []string{"udp", "tcp"} {
		if network == "udp" && c.useTCP {
			continue
		}
		client := dns.Client{Net: network, Timeout: c.try, UDPSize: ednsSize}
		reply, _, err := client.ExchangeContext(ctx, m, server) // which checks the id
		if err != nil {
			return nil, fmt.Errorf("ask %s by %s: %w", server, network, err)
		}
		if !answers(reply, q) {
			return nil, fmt.Errorf("ask %s by %s: the answer is to another question", server, network)
		}
		if !reply.Truncated || network == "tcp" {
			return reply, nil
		}
	}
	return nil, fmt.Errorf("ask %s: no answer", server)
}

// answers reports whether m is an answer to q (RFC 5452 §9.1).
func answers(m *dns.Msg, q question) bool {
	return m.Response && m.Opcode == dns.OpcodeQuery && len(m.Question) == 1 &&
		m.Question[0].Qtype == q.qtype && m.Question[0].Qclass == dns.ClassINET &&
		dns.CanonicalName(m.Question[0].Name) == q.name
}

// readConf reads resolv.conf(5): nameserver, and the options timeout, attempts
// and use-vc. Where no server is named it is the one on the local machine.
func readConf(path string) conf {
	var c conf
	f, err := os.Open(path)
	if err == nil {
		defer func() { _ = f.Close() }()
		c = parseConf(io.LimitReader(f, maxConf))
	}
	if len(c.servers) == 0 {
		c.servers = []string{"127.0.0.1:53", "[::1]:53"}
	}
	c.try = min(cmp.Or(c.try, defaultTry), maxTry)
	c.attempts = min(cmp.Or(c.attempts, defaultTrys), maxTrys)
	return c
}

func parseConf(r io.Reader) conf {
	var c conf
	for sc := bufio.NewScanner(r); sc.Scan(); {
		fields := strings.Fields(sc.Text())
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			if a, err := netip.ParseAddr(fields[1]); err == nil && len(c.servers) < maxServers {
				c.servers = append(c.servers, net.JoinHostPort(a.String(), "53"))
			}
		case "options":
			c.options(fields[1:])
		}
	}
	return c
}

func (c *conf) options(opts []string) {
	for _, o := range opts {
		key, value, _ := strings.Cut(o, ":")
		n, err := strconv.Atoi(value)
		switch {
		case key == "use-vc":
			c.useTCP = true
		case err != nil || n < 1:
		case key == "timeout":
			c.try = time.Duration(min(n, 30)) * time.Second
		case key == "attempts":
			c.attempts = n
		}
	}
}

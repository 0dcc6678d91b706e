package supervisor

import (
	"context"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"
)

type interim struct{}

func (interim) DialTCP(ctx context.Context, src, dst netip.AddrPort) (net.Conn, error) {
	return (&net.Dialer{Timeout: 30 * time.Second}).DialContext(ctx, "tcp", dst.String())
}

func (interim) ServeDNS(ctx context.Context, q []byte, transport string) ([]byte, error) {
	data, _ := os.ReadFile("/etc/resolv.conf")
	f := strings.Fields(string(data))
	c, err := net.Dial("udp", net.JoinHostPort(f[1], "53"))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	c.Write(q)
	b := make([]byte, 65536)
	n, err := c.Read(b)
	return b[:n], err
}

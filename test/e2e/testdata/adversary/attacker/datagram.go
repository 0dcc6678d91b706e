package main

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// udp ADDRESS:PORT TEXT
func udp(args []string) ([]byte, error) {
	conn, err := net.Dial("udp", args[0])
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.Write(text(args[1])); err != nil {
		return nil, err
	}
	buf := make([]byte, 4096)
	n, err := conn.Read(buf)
	return buf[:n], err
}

// icmp ADDRESS: an echo request with the secret in it comes back.
func icmpEcho(args []string) ([]byte, error) {
	network, own := "ip4:icmp", "0.0.0.0"
	var kind, reply icmp.Type = ipv4.ICMPTypeEcho, ipv4.ICMPTypeEchoReply
	proto := 1
	if strings.Contains(args[0], ":") {
		network, own, proto = "ip6:ipv6-icmp", "::", 58
		kind, reply = ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply
	}
	conn, err := icmp.ListenPacket(network, own)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	echo := &icmp.Echo{ID: os.Getpid() & 0xffff, Seq: 1, Data: []byte(secret)}
	message, err := (&icmp.Message{Type: kind, Body: echo}).Marshal(nil)
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.WriteTo(message, &net.IPAddr{IP: net.ParseIP(args[0])}); err != nil {
		return nil, err
	}
	buf := make([]byte, 4096)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return nil, err
		}
		m, err := icmp.ParseMessage(proto, buf[:n])
		if err != nil || m.Type != reply || from.String() != args[0] {
			continue
		}
		if e, ok := m.Body.(*icmp.Echo); ok && e.ID == echo.ID {
			return e.Data, nil
		}
	}
}

// dns udp|tcp|tls|https SERVER NAME TYPE [CLASS]; SERVER is an address with a
// port, a URL, or "own" for the one that this machine is told to ask. The secret
// is in the answer, if there is one.
func dnsQuestion(args []string) ([]byte, error) {
	server := args[1]
	if server == "own" {
		conf, err := dns.ClientConfigFromFile("/etc/resolv.conf")
		if err != nil {
			return nil, err
		}
		server = net.JoinHostPort(conf.Servers[0], "53")
	}
	m := new(dns.Msg)
	m.SetQuestion(args[2], dns.StringToType[args[3]])
	m.SetEdns0(4096, false)
	if len(args) > 4 {
		m.Question[0].Qclass = dns.StringToClass[args[4]]
	}
	if args[3] == "AXFR" {
		return transfer(server, m)
	}
	answer, err := ask(args[0], server, m)
	if err != nil {
		return nil, err
	}
	if answer.Rcode != dns.RcodeSuccess {
		return []byte(answer.String()), errors.New(dns.RcodeToString[answer.Rcode])
	}
	return []byte(answer.String()), nil
}

func ask(network, server string, m *dns.Msg) (*dns.Msg, error) {
	if network == "https" {
		return askHTTPS(server, m)
	}
	if network == "tls" {
		network = "tcp-tls"
	}
	host, _, _ := net.SplitHostPort(server)
	c := dns.Client{Net: network, Timeout: patience, TLSConfig: &tls.Config{ServerName: host, InsecureSkipVerify: true}}
	answer, _, err := c.Exchange(m, server)
	return answer, err
}

func askHTTPS(url string, m *dns.Msg) (*dns.Msg, error) {
	packed, err := m.Pack()
	if err != nil {
		return nil, err
	}
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	resp, err := client.Post(url, "application/dns-message", bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", resp.Status, body)
	}
	answer := new(dns.Msg)
	return answer, answer.Unpack(body)
}

func transfer(server string, m *dns.Msg) ([]byte, error) {
	envelopes, err := (&dns.Transfer{DialTimeout: patience, ReadTimeout: patience}).In(m, server)
	if err != nil {
		return nil, err
	}
	var got []byte
	for e := range envelopes {
		if e.Error != nil {
			return got, e.Error
		}
		for _, rr := range e.RR {
			got = append(got, rr.String()+"\n"...)
		}
	}
	return got, nil
}

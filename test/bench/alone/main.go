// Command alone is Berth's interception and nothing else of Berth, on a port of
// the loopback: so the bench can lay it beside proxies that stand there too.
//
//	alone PORT SERVER AUTHORITY OWN
//
// SERVER is the address of what all connections go to, the file AUTHORITY
// verifies it, and the file OWN gets the authority that clients have to trust.
package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"berth.dev/internal/egress/intercept"
)

func main() {
	if len(os.Args) != 5 {
		fmt.Fprintln(os.Stderr, "alone: want PORT SERVER AUTHORITY OWN")
		os.Exit(2)
	}
	fmt.Fprintln(os.Stderr, "alone:", run(os.Args[1], os.Args[2], os.Args[3], os.Args[4]))
	os.Exit(1)
}

// all allows every request: what a policy costs is in the sandbox's figures.
type all struct{}

// Judge implements intercept.Judge.
func (all) Judge(context.Context, intercept.Request) intercept.Ruling {
	return intercept.Ruling{Allowed: true}
}

// run serves for as long as it can.
func run(port, server, authority, own string) error {
	roots := x509.NewCertPool()
	pem, err := os.ReadFile(authority)
	if err != nil {
		return err
	}
	if !roots.AppendCertsFromPEM(pem) {
		return errors.New("the authority's file holds none")
	}
	ca, err := intercept.NewCA(time.Now)
	if err != nil {
		return err
	}
	if err := os.WriteFile(own, ca.PEM(), 0o644); err != nil {
		return err
	}
	p, err := intercept.New(intercept.Config{
		CA: ca, Judge: all{}, Roots: roots,
		Dial: func(ctx context.Context, _ string, _ uint16) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", server)
		},
	})
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", port))
	if err != nil {
		return err
	}
	here, err := netip.ParseAddrPort(ln.Addr().String())
	if err != nil {
		return err
	}
	for {
		conn, err := ln.Accept()
		if err != nil {
			return err
		}
		go p.ServeTLS(context.Background(), conn, "localhost", here.Port())
	}
}

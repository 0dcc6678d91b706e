package main

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// questions asks the resolver n times by UDP, width at a time. An answer
// without an address is an error: refusing is quicker than answering.
func questions(name string, n int, widthText string) error {
	width, err := strconv.Atoi(widthText)
	if err != nil || width < 1 {
		return fmt.Errorf("%q is no width", widthText)
	}
	conf, err := dns.ClientConfigFromFile("/etc/resolv.conf")
	if err != nil {
		return err
	}
	if len(conf.Servers) == 0 {
		return errors.New("there is no resolver")
	}
	server := net.JoinHostPort(conf.Servers[0], conf.Port)
	var (
		left  atomic.Int64
		all   sync.WaitGroup
		errs  = make([]error, width)
		begun = time.Now()
	)
	left.Store(int64(n))
	for i := range width {
		all.Go(func() { errs[i] = asking(server, name, &left) })
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	fmt.Printf("%.3f\n", float64(n)/time.Since(begun).Seconds())
	return nil
}

// asking asks one question after the other until none is left.
func asking(server, name string, left *atomic.Int64) error {
	client := dns.Client{Timeout: patience}
	conn, err := client.Dial(server)
	if err != nil {
		return err
	}
	defer conn.Close()
	for left.Add(-1) >= 0 {
		m := new(dns.Msg)
		m.SetQuestion(dns.Fqdn(name), dns.TypeA)
		reply, _, err := client.ExchangeWithConn(m, conn)
		if err != nil {
			return err
		}
		if reply.Rcode != dns.RcodeSuccess || len(reply.Answer) == 0 {
			return fmt.Errorf("the answer is %s with %d records", dns.RcodeToString[reply.Rcode], len(reply.Answer))
		}
	}
	return nil
}

// Command netclient is what the bench has speak over the network, in a sandbox
// and beside it: one client for every way, so that ways are compared and not
// clients. It prints what it measured, and nothing else.
//
//	netclient get URL STREAMS TIME      MB a second, downloaded
//	netclient put URL STREAMS TIME      MB a second, uploaded
//	netclient ask URL CONNECTIONS TIME  requests a second, on connections that stay
//	netclient wait URL N                nanoseconds of each of N requests, one after another
//	netclient hold URL N                "held" when N connections are open, until its input ends
//	netclient serve FILE                an address to get from; FILE is its authority's
//	netclient dns NAME N WIDTH          answers a second, to N questions, WIDTH at a time
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"berth.dev/test/bench/origin"
)

// warmUp is what passes before anything is counted: handshakes, the windows of
// TCP and the sizes of TLS records settle in it.
const warmUp = 500 * time.Millisecond

// piece is what is read and written at once, in bytes.
const piece = 256 << 10

func main() {
	var o options
	flag.StringVar(&o.ca, "ca", "", "PEM file of the authority that is trusted; the system's when empty")
	flag.StringVar(&o.proxy, "proxy", "", "address of an HTTP proxy that is asked to CONNECT")
	flag.BoolVar(&o.h2, "h2", false, "speak HTTP/2: streams of one connection")
	flag.Parse()
	if err := run(o, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "netclient:", err)
		os.Exit(1)
	}
}

func run(o options, args []string) error {
	if len(args) == 2 && args[0] == "serve" {
		return serve(args[1])
	}
	if len(args) < 3 {
		return errors.New("what, where and how many are missing")
	}
	n, err := strconv.Atoi(args[2])
	if err != nil || n < 1 {
		return fmt.Errorf("%q is no number of them", args[2])
	}
	mode, where, rest := args[0], args[1], args[3:]
	switch {
	case mode == "wait" && len(rest) == 0:
		return wait(o, where, n)
	case mode == "hold" && len(rest) == 0:
		return hold(o, where, n)
	case len(rest) != 1:
		return fmt.Errorf("%s takes one argument more than %q", mode, args)
	case mode == "dns":
		return questions(where, n, rest[0])
	}
	d, err := time.ParseDuration(rest[0])
	if err != nil {
		return err
	}
	loops := map[string]func(speaker, *atomic.Int64) error{"get": download, "put": upload, "ask": ask}
	loop, ok := loops[mode]
	if !ok {
		return fmt.Errorf("there is no mode %q", mode)
	}
	open, err := o.opener(where)
	if err != nil {
		return err
	}
	rate, err := count(n, d, open, loop)
	if err != nil {
		return err
	}
	if mode != "ask" {
		rate /= 1e6
	}
	fmt.Printf("%.3f\n", rate)
	return nil
}

// count has n speakers loop, and says how much they counted a second in the
// time d, which begins a while after the first of it came.
func count(n int, d time.Duration, open func() (speaker, error), loop func(speaker, *atomic.Int64) error) (float64, error) {
	var counted atomic.Int64
	failed := make(chan error, n)
	opened := make(chan struct{}, n)
	for range n {
		go func() {
			s, err := open()
			if err == nil {
				opened <- struct{}{}
				err = loop(s, &counted)
			}
			failed <- err
		}()
	}
	for range n {
		select {
		case err := <-failed:
			return 0, err
		case <-opened:
		}
	}
	pass := func(d time.Duration) error {
		select {
		case err := <-failed:
			return fmt.Errorf("it ended before its time: %w", err)
		case <-time.After(d):
			return nil
		}
	}
	for begun := time.Now(); counted.Load() == 0; {
		if err := pass(time.Millisecond); err != nil {
			return 0, err
		}
		if time.Since(begun) > patience {
			return 0, errors.New("nothing comes")
		}
	}
	if err := pass(warmUp); err != nil {
		return 0, err
	}
	before, begun := counted.Load(), time.Now()
	if err := pass(d); err != nil {
		return 0, err
	}
	return float64(counted.Load()-before) / time.Since(begun).Seconds(), nil
}

func download(s speaker, counted *atomic.Int64) error {
	body, err := s.get("/zeros")
	if err != nil {
		return err
	}
	buf := make([]byte, piece)
	for {
		n, err := body.Read(buf)
		counted.Add(int64(n))
		if err != nil {
			return err
		}
	}
}

func upload(s speaker, counted *atomic.Int64) error { return s.put("/take", counting{counted}) }

// counting is zeros without end, and how many were taken.
type counting struct{ n *atomic.Int64 }

// Read implements io.Reader.
func (c counting) Read(p []byte) (int, error) {
	clear(p)
	c.n.Add(int64(len(p)))
	return len(p), nil
}

func ask(s speaker, counted *atomic.Int64) error {
	for {
		if err := answer(s); err != nil {
			return err
		}
		counted.Add(1)
	}
}

// answer is one small request to its end.
func answer(s speaker) error {
	body, err := s.get("/small")
	if err != nil {
		return err
	}
	defer body.Close()
	_, err = io.Copy(io.Discard, body)
	return err
}

func wait(o options, where string, n int) error {
	open, err := o.opener(where)
	if err != nil {
		return err
	}
	s, err := open()
	if err != nil {
		return err
	}
	for range n/10 + 1 { // the first ones are the handshake's
		if err := answer(s); err != nil {
			return err
		}
	}
	took := make([]time.Duration, n)
	for i := range took {
		begun := time.Now()
		if err := answer(s); err != nil {
			return err
		}
		took[i] = time.Since(begun)
	}
	for _, t := range took {
		fmt.Println(t.Nanoseconds())
	}
	return nil
}

// serve is a server where the client is, until its input ends.
func serve(file string) error {
	s, err := origin.New("localhost")
	if err != nil {
		return err
	}
	defer s.Close()
	if err := os.WriteFile(file, s.CA.PEM(), 0o644); err != nil {
		return err
	}
	fmt.Println(s.HTTP1)
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// atOnce bounds the handshakes that are under way: a storm of them would
// measure how fast the machine signs.
const atOnce = 32

// hold keeps n connections open, on each of which one request was answered.
func hold(o options, where string, n int) error {
	o.small = true
	open, err := o.opener(where)
	if err != nil {
		return err
	}
	speakers, errs := make([]speaker, n), make([]error, n)
	turn := make(chan struct{}, atOnce)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			turn <- struct{}{}
			defer func() { <-turn }()
			if speakers[i], errs[i] = open(); errs[i] == nil {
				errs[i] = answer(speakers[i])
			}
		})
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	fmt.Println("held")
	_, err = io.Copy(io.Discard, os.Stdin)
	for _, s := range speakers {
		s.close()
	}
	return err
}

// Command attacker is the hostile program of the adversary tests. Each of its
// attacks tries to get the secret from a place, or to bring bytes to it, in one
// way; it prints what it got and succeeds when the secret is in it. The very
// same program, with the same arguments, is run where nothing guards and inside
// a sandbox.
package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"
)

// secret is what every server of the tests says.
const secret = "the-secret-of-the-origin"

// patience bounds the wait for an answer that a guard may have swallowed.
const patience = 1500 * time.Millisecond

var attacks = map[string]func(args []string) ([]byte, error){
	"tcp":    tcp,
	"tls":    tlsHello,
	"h2":     http2Request,
	"udp":    udp,
	"dns":    dnsQuestion,
	"icmp":   icmpEcho,
	"frames": frames,
	"flip":   flip,
	"unix":   unixSocket,
	"ssh":    sshLogin,
	"scan":   scan,
	"tunnel": tunnel,
}

func main() {
	if len(os.Args) < 2 || attacks[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "attacker: no such attack")
		os.Exit(2)
	}
	got, err := attacks[os.Args[1]](os.Args[2:])
	_, _ = os.Stdout.Write(got)
	if err != nil {
		fmt.Fprintln(os.Stderr, "attacker:", err)
	}
	if !bytes.Contains(got, []byte(secret)) {
		os.Exit(1)
	}
}

// text is an argument with Go's escapes.
func text(s string) []byte {
	out, err := strconv.Unquote(`"` + s + `"`)
	if err != nil {
		panic("text " + s + ": " + err.Error())
	}
	return []byte(out)
}

// flag takes "-name" or "-name=value" off the front of args.
func flag(args *[]string, name string) (string, bool) {
	if len(*args) == 0 {
		return "", false
	}
	first := (*args)[0]
	if first == name {
		*args = (*args)[1:]
		return "", true
	}
	if len(first) > len(name) && first[:len(name)+1] == name+"=" {
		*args = (*args)[1:]
		return first[len(name)+1:], true
	}
	return "", false
}

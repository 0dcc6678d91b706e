package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"berth.dev/internal/hostdir"
	"berth.dev/test/standin"
)

// way is one road from the client to the origin.
type way struct {
	name    string
	missing error    // why there is no such way here
	command []string // the client and its flags
	url     string   // of the origin, as it is reached this way
	pid     int      // whose memory connections take; 0: nobody's
	to      *way     // Berth's of the same kind, which it is compared with
	base    *way     // none at all, in the same protocol

	rates map[string][]float64 // by what is measured, one of each round
	waits samples
}

// client is the client going this way.
func (n *network) client(ctx context.Context, w *way, mode string, rest ...string) *exec.Cmd {
	args := slices.Concat(w.command, []string{mode, w.url}, rest)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "BERTH_HOME="+n.home)
	return cmd
}

// makeWays starts everything that is compared. Berth's way is the last one of
// each kind.
func (n *network) makeWays() error {
	pass, err := n.sandbox("Berth, passed through", passName, "-ca", n.ca)
	if err != nil {
		return err
	}
	look, err := n.sandbox("Berth, intercepted", lookName)
	if err != nil {
		return err
	}
	look2 := &way{name: "Berth, intercepted, HTTP/2", command: append(slices.Clone(look.command), "-h2"), url: "https://" + lookName2}
	loop, err := n.loopback(pass.command)
	if err != nil {
		return err
	}
	mitm, mitm2 := n.mitmproxy()
	alone, alone2 := n.alone("", n.origin.HTTP1), n.alone(", HTTP/2", n.origin.HTTP2, "-h2")
	alone2.pid = 0 // many requests of HTTP/2 are one connection
	n.kinds = [][]*way{
		{n.beside("direct", n.origin.HTTP1, n.ca), loop, n.squid("squid, passed through", false), pass},
		{mitm, n.squid("squid, intercepted", true), alone, look},
		{n.beside("direct, HTTP/2", n.origin.HTTP2, n.ca, "-h2"), mitm2, alone2, look2},
	}
	for i, k := range n.kinds {
		for _, w := range k {
			w.to, w.rates = k[len(k)-1], map[string][]float64{}
			if w.base = n.kinds[0][0]; i == 2 {
				w.base = k[0]
			}
		}
	}
	return nil
}

// beside is a way of the client on this machine itself.
func (n *network) beside(name, address, ca string, flags ...string) *way {
	_, port, _ := net.SplitHostPort(address)
	return &way{
		name: name, url: "https://" + net.JoinHostPort(localName, port),
		command: slices.Concat([]string{filepath.Join(n.ws, clientName), "-ca", ca}, flags),
	}
}

// sandbox is a way of the client in a new sandbox.
func (n *network) sandbox(name, host string, flags ...string) (*way, error) {
	sandbox := fmt.Sprintf("bench-net-%d-%d", os.Getpid(), len(n.sandboxes))
	if _, err := n.run("create", "-q", "--name", sandbox, "shell", n.ws); err != nil {
		return nil, err
	}
	n.sandboxes = append(n.sandboxes, sandbox)
	out, err := n.run("inspect", sandbox)
	if err != nil {
		return nil, err
	}
	var in []struct {
		PIDs struct {
			Supervisor int `json:"supervisor"`
		} `json:"pids"`
	}
	if err := json.Unmarshal(out, &in); err != nil || len(in) != 1 {
		return nil, fmt.Errorf("read berth inspect: %w", err)
	}
	return &way{
		name: name, url: "https://" + host, pid: in[0].PIDs.Supervisor,
		command: slices.Concat([]string{n.b.berth, "exec", "-i", sandbox, filepath.Join(n.ws, clientName)}, flags),
	}, nil
}

// loopback is a way that does not leave a sandbox: what its own kernel takes,
// for the client and for the server.
func (n *network) loopback(client []string) (*way, error) {
	ca := filepath.Join(n.ws, "loopback.pem")
	end := slices.Index(client, "-ca")
	ctx, cancel := context.WithCancel(context.Background())
	n.stops = append(n.stops, cancel)
	cmd := exec.CommandContext(ctx, client[0], append(slices.Clone(client[1:end]), "serve", ca)...)
	cmd.Env, cmd.Stderr = append(os.Environ(), "BERTH_HOME="+n.home), os.Stderr
	if _, err := cmd.StdinPipe(); err != nil { // its end is the server's
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return nil, fmt.Errorf("serve in a sandbox: %w", err)
	}
	w := n.beside("a sandbox's own loopback", strings.TrimSpace(line), ca)
	w.command = slices.Concat(client[:end], []string{"-ca", ca})
	return w, nil
}

// alone is Berth's interception with no sandbox before it.
func (n *network) alone(protocol, server string, flags ...string) *way {
	ca := ""
	address, pid, err := n.peer(filepath.Join(n.dir, aloneName), "", func(port string) ([]string, error) {
		ca = filepath.Join(n.dir, aloneName+port+".pem")
		return []string{port, server, n.ca, ca}, nil
	})
	w := n.beside("Berth's interception alone"+protocol, address, ca, flags...)
	w.pid, w.missing = pid, err
	return w
}

// run is berth, with the bench's own settings, to its end.
func (n *network) run(args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, n.b.berth, args...)
	cmd.Env = append(os.Environ(), "BERTH_HOME="+n.home)
	return output(cmd)
}

// settings makes a home for Berth in which the origin's names are the origin.
// The templates are the user's own, and nothing else is.
func (n *network) settings() error {
	own, err := hostdir.From(os.Getenv, hostdir.HostUID())
	if err != nil {
		return err
	}
	data, err := own.Data()
	if err != nil {
		return err
	}
	for _, dir := range []string{"data", "config"} {
		if err := os.MkdirAll(filepath.Join(n.home, dir), 0o700); err != nil {
			return err
		}
	}
	for _, part := range []string{"images", "templates"} {
		if err := os.Symlink(filepath.Join(data, part), filepath.Join(n.home, "data", part)); err != nil {
			return err
		}
	}
	var upstreams, rules strings.Builder
	rules.WriteString("version = 1\npreset = \"locked\"\n")
	for _, u := range []struct{ host, address, ca string }{
		{passName, n.origin.HTTP1, ""}, {lookName, n.origin.HTTP1, n.ca}, {lookName2, n.origin.HTTP2, n.ca},
	} {
		fmt.Fprintf(&upstreams, "[[upstream]]\nhost = %q\nport = 443\naddress = %q\n", u.host, u.address)
		if u.ca != "" { // which is what has it looked into
			fmt.Fprintf(&upstreams, "ca = %q\n", u.ca)
		}
		fmt.Fprintf(&rules, "\n[[allow]]\nhost = %q\nports = [443]\n", u.host)
	}
	config := filepath.Join(n.home, "config")
	return errors.Join(
		os.WriteFile(filepath.Join(config, "config.toml"), []byte(upstreams.String()), 0o600),
		os.WriteFile(filepath.Join(config, "policy.toml"), []byte(rules.String()), 0o600),
	)
}

// mitmproxy is mitmdump as Debian has it, with bodies streamed: it would keep
// them whole. HTTP/1.1 and HTTP/2 go through the same one.
func (n *network) mitmproxy() (h1, h2 *way) {
	dir := filepath.Join(n.dir, "mitmproxy")
	ca := filepath.Join(dir, "mitmproxy-ca-cert.pem")
	port, pid, err := n.peer("mitmdump", "mitmproxy", func(port string) ([]string, error) {
		return []string{
			"-q", "--listen-host", "127.0.0.1", "--listen-port", port, "--set", "confdir=" + dir,
			"--set", "stream_large_bodies=1m", "--set", "ssl_verify_upstream_trusted_ca=" + n.ca,
		}, os.MkdirAll(dir, 0o700)
	})
	h1 = n.beside("mitmproxy, intercepted", n.origin.HTTP1, ca, "-proxy", port)
	h2 = n.beside("mitmproxy, intercepted, HTTP/2", n.origin.HTTP2, ca, "-h2", "-proxy", port)
	h1.pid, h1.missing, h2.missing = pid, err, err
	return h1, h2
}

// squid passes CONNECT through, or looks into it; it keeps nothing and writes
// no log, which is in its favour.
func (n *network) squid(name string, bump bool) *way {
	dir, err := os.MkdirTemp(n.dir, "squid")
	ca, options := n.ca, ""
	port, pid, perr := n.peer("/usr/sbin/squid", "squid-openssl", func(port string) ([]string, error) {
		if bump {
			if _, err := os.Stat(squidCerts); err != nil {
				return nil, errors.New("not in Debian's squid, but in squid-openssl")
			}
			own, err := standin.NewCA()
			if err != nil {
				return nil, err
			}
			key, err := own.KeyPEM()
			if err != nil {
				return nil, err
			}
			ca, options = filepath.Join(dir, "ca.pem"), fmt.Sprintf(squidBump, dir, n.ca)
			if err := os.WriteFile(ca, append(own.PEM(), key...), 0o644); err != nil {
				return nil, err
			}
			port += fmt.Sprintf(" ssl-bump generate-host-certificates=on tls-cert=%s", ca)
			if out, err := exec.Command(squidCerts, "-c", "-s", filepath.Join(dir, "certs"), "-M", "4MB").CombinedOutput(); err != nil {
				return nil, fmt.Errorf("%s: %w: %s", squidCerts, err, out)
			}
		}
		conf := filepath.Join(dir, "squid.conf")
		text := fmt.Sprintf(squidConf, port, dir, options)
		return []string{"-N", "-f", conf}, errors.Join(os.WriteFile(conf, []byte(text), 0o644), toProxy(dir))
	})
	w := n.beside(name, n.origin.HTTP1, ca, "-proxy", port)
	w.pid, w.missing = pid, errors.Join(err, perr)
	return w
}

const (
	squidCerts = "/usr/lib/squid/security_file_certgen"
	squidConf  = `http_port 127.0.0.1:%s
http_access allow all
cache deny all
access_log none
cache_log %[2]s/cache.log
pid_filename none
coredump_dir %[2]s
max_filedescriptors 8192
visible_hostname bench.test
%[3]s`
	squidBump = `sslcrtd_program ` + squidCerts + ` -s %s/certs -M 4MB
tls_outgoing_options cafile=%s
acl hello at_step SslBump1
ssl_bump peek hello
ssl_bump bump all
`
)

// toProxy gives a folder to the user that a squid which is started by root
// becomes.
func toProxy(dir string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	u, err := user.Lookup("proxy")
	if err != nil {
		return err
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return err
	}
	return filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, uid, -1))
	})
}

// peer starts a program that listens on a port of the loopback, and waits until
// it does.
func (n *network) peer(program, debian string, args func(port string) ([]string, error)) (address string, pid int, err error) {
	path, err := exec.LookPath(program)
	if err != nil {
		return "", 0, fmt.Errorf("not installed; Debian has it in %s", debian)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", 0, err
	}
	address = ln.Addr().String()
	_ = ln.Close()
	_, port, _ := net.SplitHostPort(address)
	list, err := args(port)
	if err != nil {
		return "", 0, err
	}
	cmd := exec.Command(path, list...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		return "", 0, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	n.stops = append(n.stops, func() { _ = cmd.Process.Kill() })
	// Two thousand connections need more files than a shell gives.
	var files unix.Rlimit
	if unix.Prlimit(cmd.Process.Pid, unix.RLIMIT_NOFILE, nil, &files) == nil {
		files.Cur = files.Max
		_ = unix.Prlimit(cmd.Process.Pid, unix.RLIMIT_NOFILE, &files, nil)
	}
	for begun := time.Now(); time.Since(begun) < patience; {
		if conn, err := net.Dial("tcp", address); err == nil {
			_ = conn.Close()
			return address, cmd.Process.Pid, nil
		}
		select {
		case err := <-ended:
			return "", 0, fmt.Errorf("%s does not work here: %v %s", program, err, said.String())
		case <-time.After(50 * time.Millisecond):
		}
	}
	return "", 0, fmt.Errorf("%s does not listen", program)
}

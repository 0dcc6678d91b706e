// Command keeper holds the namespaces that stand for a machine and all of its
// network in the adversary tests: every address, of every class, is local and
// can be served. It is started in namespaces of its own, prepares them, and
// opens sockets in them for its parent, which it passes over descriptor 3. It
// ends when the parent does.
package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) != 2 {
		fail(errors.New("usage: keeper RESOLV.CONF"))
	}
	if err := prepare(os.Args[1]); err != nil {
		fail(err)
	}
	if err := serve(3); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "keeper:", err)
	os.Exit(1)
}

// links makes every address local, as a host that has a way to all of them sees
// them; those of lo are the machine's own.
const links = `link set lo up
addr add 192.168.77.1/24 dev lo
-6 addr add 2001:db8:77::1/64 dev lo nodad
route add local 0.0.0.0/0 dev lo
-6 route add local ::/0 dev lo
`

// settings let a frame that was written to a loopback device arrive, whatever
// it says of where it comes from.
var settings = map[string]string{
	"ipv6/conf/all/disable_ipv6":     "0",
	"ipv6/conf/default/disable_ipv6": "0",
	"ipv4/conf/all/accept_local":     "1",
	"ipv4/conf/all/route_localnet":   "1",
	"ipv4/conf/all/rp_filter":        "0",
	"ipv4/ip_nonlocal_bind":          "1",
	"ipv6/ip_nonlocal_bind":          "1",
}

func prepare(resolvConf string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount(resolvConf, "/etc/resolv.conf", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("put resolv.conf in its place: %w", err)
	}
	for name, value := range settings {
		if err := os.WriteFile("/proc/sys/net/"+name, []byte(value), 0); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	for line := range strings.Lines(links) {
		if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", strings.TrimSpace(line), err, out)
		}
	}
	return nil
}

// serve answers "NETWORK ADDRESS" with a descriptor, or with what went wrong.
func serve(fd int) error {
	if err := unix.Send(fd, []byte("ready"), 0); err != nil {
		return err
	}
	buf := make([]byte, 256)
	for {
		n, err := unix.Read(fd, buf)
		if err != nil || n == 0 {
			return err
		}
		network, address, _ := strings.Cut(string(buf[:n]), " ")
		f, err := open(network, address)
		if err != nil {
			if err := unix.Send(fd, []byte(err.Error()), 0); err != nil {
				return err
			}
			continue
		}
		err = unix.Sendmsg(fd, []byte("ok"), unix.UnixRights(int(f.Fd())), nil, 0)
		_ = f.Close()
		if err != nil {
			return err
		}
	}
}

func open(network, address string) (*os.File, error) {
	if strings.HasPrefix(network, "tcp") {
		l, err := net.Listen(network, address)
		if err != nil {
			return nil, err
		}
		defer l.Close()
		return l.(*net.TCPListener).File()
	}
	pc, err := net.ListenPacket(network, address)
	if err != nil {
		return nil, err
	}
	defer pc.Close()
	f, ok := pc.(interface{ File() (*os.File, error) })
	if !ok {
		return nil, fmt.Errorf("%s has no descriptor", network)
	}
	return f.File()
}

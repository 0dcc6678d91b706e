// Package netports lists the TCP ports that something in the guest listens on,
// from /proc/net/tcp and tcp6 (proc_net(5)). It only reads.
package netports

import (
	"bufio"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"berth.dev/internal/guestapi"
)

// Bounds of what is read and returned.
const (
	maxFile  = 16 << 20
	maxPorts = 4096
)

// listening is TCP_LISTEN of the kernel's enum.
const listening = "0A"

// List returns the listening ports under a proc file system, by port and
// address. A missing table (no IPv6) is an empty one.
func List(proc string) ([]guestapi.Port, error) {
	var all []guestapi.Port
	for _, name := range []string{"tcp", "tcp6"} {
		f, err := os.Open(filepath.Join(proc, "net", name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, Parse(io.LimitReader(f, maxFile))...)
		f.Close()
	}
	slices.SortFunc(all, func(a, b guestapi.Port) int {
		if a.Port != b.Port {
			return int(a.Port) - int(b.Port)
		}
		return strings.Compare(a.Addr, b.Addr)
	})
	all = slices.Compact(all)
	return all[:min(len(all), maxPorts)], nil
}

// Parse reads one table; lines that are not in its form are skipped.
func Parse(r io.Reader) []guestapi.Port {
	var out []guestapi.Port
	s := bufio.NewScanner(r)
	for s.Scan() && len(out) < maxPorts {
		f := strings.Fields(s.Text())
		if len(f) < 8 || f[3] != listening {
			continue
		}
		local, ok := parseAddr(f[1])
		uid, err := strconv.ParseUint(f[7], 10, 32)
		if !ok || err != nil {
			continue
		}
		out = append(out, guestapi.Port{Addr: local.Addr().String(), Port: local.Port(), UID: uint32(uid)})
	}
	return out
}

// parseAddr reads ADDRESS:PORT in hexadecimal, the address in words of the
// machine's byte order, which is little-endian on all that Berth runs on.
func parseAddr(s string) (netip.AddrPort, bool) {
	a, p, _ := strings.Cut(s, ":")
	raw, err := hex.DecodeString(a)
	port, err2 := strconv.ParseUint(p, 16, 16)
	if err != nil || err2 != nil || (len(raw) != 4 && len(raw) != 16) {
		return netip.AddrPort{}, false
	}
	for w := range slices.Chunk(raw, 4) {
		slices.Reverse(w)
	}
	addr, _ := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(addr.Unmap(), uint16(port)), true
}

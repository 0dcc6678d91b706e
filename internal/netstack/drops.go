package netstack

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync"
	"time"
)

// Drop is traffic of the guest's that goes nowhere: anything but TCP and
// questions to the resolver.
type Drop struct {
	// Protocol is "udp", "icmp", "icmpv6", "tcp" (in a form that is not looked
	// at), another one's number as "ip-47", or "" for places that are too many to
	// be told apart.
	Protocol string
	// Addr and Port are where it was meant for; port 0 where there is none.
	Addr netip.Addr
	Port uint16
	// More is how many packets like it are not reported by themselves, since the
	// last Drop of this kind.
	More uint64
}

const (
	// dropInterval is how often one kind of traffic is reported.
	dropInterval = 10 * time.Second
	// maxDropKinds are told apart at one time; a guest that scans makes no more
	// than these and one summary each interval.
	maxDropKinds = 256
)

// drops reports what goes nowhere, each kind once in an interval and then with
// their number. The guest decides how much there is: what it costs is bounded,
// and nothing goes uncounted.
type drops struct {
	report func(Drop)
	now    func() time.Time

	mu    sync.Mutex
	kinds map[Drop]*dropped // by what it is, with More 0
	rest  dropped           // beyond maxDropKinds
}

type dropped struct {
	last time.Time
	more uint64
}

func newDrops(report func(Drop)) *drops {
	return &drops{report: report, now: time.Now, kinds: map[Drop]*dropped{}}
}

// add counts one packet.
func (d *drops) add(kind Drop) {
	now := d.now()
	d.mu.Lock()
	seen := d.kinds[kind]
	if seen == nil && len(d.kinds) >= maxDropKinds {
		kind, seen = Drop{}, &d.rest
	}
	if seen == nil {
		seen = &dropped{}
		d.kinds[kind] = seen
	}
	if now.Sub(seen.last) < dropInterval {
		seen.more++
		d.mu.Unlock()
		return
	}
	kind.More, seen.more, seen.last = seen.more, 0, now
	d.mu.Unlock()
	d.report(kind)
}

// flush reports what was counted and not said, and forgets what is old. With
// all it reports also what an interval has not passed for.
func (d *drops) flush(all bool) {
	now := d.now()
	d.mu.Lock()
	var out []Drop
	for kind, seen := range d.kinds {
		if !all && now.Sub(seen.last) < dropInterval {
			continue
		}
		if seen.more > 0 {
			out = append(out, Drop{kind.Protocol, kind.Addr, kind.Port, seen.more - 1})
		}
		delete(d.kinds, kind)
	}
	if d.rest.more > 0 && (all || now.Sub(d.rest.last) >= dropInterval) {
		out = append(out, Drop{More: d.rest.more - 1})
		d.rest = dropped{last: now}
	}
	d.mu.Unlock()
	for _, kind := range out {
		d.report(kind)
	}
}

// run flushes until stop is closed.
func (d *drops) run(stop <-chan struct{}) {
	tick := time.NewTicker(dropInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			d.flush(false)
		case <-stop:
			d.flush(true)
			return
		}
	}
}

// classify says what a frame is that the filter kept out, or that nobody
// answers; false where there is nothing to say: what every kernel sends to find
// its neighbours, and what has no destination.
func (f *filter) classify(head []byte) (Drop, bool) {
	if len(head) < ethernetSize {
		return Drop{}, false
	}
	packet := head[ethernetSize:]
	switch binary.BigEndian.Uint16(head[12:]) {
	case etherIPv4:
		if len(packet) < ipv4Size || packet[0]>>4 != 4 {
			return Drop{}, false
		}
		size := int(packet[0]&0xf) * 4
		first := binary.BigEndian.Uint16(packet[6:])&0x1fff == 0 // of its fragments
		return drop(packet[9], netip.AddrFrom4([4]byte(packet[16:20])), packet, size, first), true
	case etherIPv6:
		if len(packet) < ipv6Size || packet[0]>>4 != 6 {
			return Drop{}, false
		}
		dst := netip.AddrFrom16([16]byte(packet[24:40]))
		// Neighbour discovery and group membership (RFC 4861, RFC 3810) go no
		// further than the wire.
		if dst.IsMulticast() && (packet[6] == protoICMPv6 || packet[6] == 0) {
			return Drop{}, false
		}
		return drop(packet[6], dst, packet, ipv6Size, true), true
	}
	return Drop{}, false
}

func drop(proto byte, dst netip.Addr, packet []byte, header int, first bool) Drop {
	d := Drop{Addr: dst}
	switch proto {
	case protoICMP:
		d.Protocol = "icmp"
		return d
	case protoICMPv6:
		d.Protocol = "icmpv6"
		return d
	case protoTCP:
		d.Protocol = "tcp"
	case protoUDP:
		d.Protocol = "udp"
	default:
		d.Protocol = fmt.Sprintf("ip-%d", proto)
		return d
	}
	if first && len(packet) >= header+4 {
		d.Port = binary.BigEndian.Uint16(packet[header+2:])
	}
	return d
}

// unanswered reports whether a frame that was admitted is nonetheless for
// nobody: UDP to anything but the resolver.
func (f *filter) unanswered(d Drop) bool {
	return d.Protocol == "udp" && (d.Port != dnsPort || d.Addr != f.gateway4 && d.Addr != f.gateway6)
}

// isUDP is a quick look at what most frames are not.
func isUDP(head []byte) bool {
	const proto4, proto6 = ethernetSize + 9, ethernetSize + 6
	return len(head) > proto4 && (head[proto4] == protoUDP || head[proto6] == protoUDP)
}

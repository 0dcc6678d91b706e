package egress

import (
	"container/list"
	"encoding/binary"
	"net/netip"
	"sync"
)

// The addresses that stand for names: 198.18.0.0/15, which nobody on the
// internet has (RFC 2544), and a unique local prefix of our own (RFC 4193).
var (
	names4 = netip.MustParsePrefix("198.18.0.0/15")
	names6 = netip.MustParsePrefix("fdbe:7274:6801::/64")
)

const (
	nameSlots = 1 << 17 // addresses of names4
	// maxNames bounds how many names have an address. The guest can ask for any
	// number: those that nothing allows go first, the least recently used first.
	maxNames = 16384
)

// isName reports whether an address is one that stands for a name.
func isName(a netip.Addr) bool { return names4.Contains(a) || names6.Contains(a) }

// names gives each name an address. Which one depends on the name and the seed
// alone as long as no two names want the same, so that it is the same after a
// restart of the sandbox too.
type names struct {
	seed string

	mu     sync.Mutex
	byName map[string]*list.Element
	bySlot map[uint32]*list.Element
	kept   *list.List // of *entry; allowed once, most recently used first
	loose  *list.List // the others
}

type entry struct {
	name string
	slot uint32
	kept bool
}

func newNames(seed string) *names {
	return &names{
		seed: seed, byName: map[string]*list.Element{}, bySlot: map[uint32]*list.Element{},
		kept: list.New(), loose: list.New(),
	}
}

// addresses are those that stand for a normalised name. keep says that the name
// is allowed: what is not cannot push it out.
func (n *names) addresses(name string, keep bool) (v4, v6 netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	el := n.byName[name]
	if el == nil {
		el = n.add(name, keep)
	} else {
		el = n.touch(el, keep)
	}
	return address4(el.Value.(*entry).slot), address6(el.Value.(*entry).slot)
}

// nameOf is the name that an address stands for.
func (n *names) nameOf(a netip.Addr) (string, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	slot, ok := slotOf(a)
	if !ok {
		return "", false
	}
	el := n.bySlot[slot]
	if el == nil {
		return "", false
	}
	return n.touch(el, false).Value.(*entry).name, true
}

func (n *names) add(name string, keep bool) *list.Element {
	if len(n.byName) >= maxNames {
		n.evict()
	}
	slot := n.wanted(name)
	for n.bySlot[slot] != nil || slot == 0 || slot == nameSlots-1 { // not the network's first and last
		slot = (slot + 1) % nameSlots
	}
	el := n.list(keep).PushFront(&entry{name, slot, keep})
	n.byName[name], n.bySlot[slot] = el, el
	return el
}

// touch marks a name as used, and as allowed when it is.
func (n *names) touch(el *list.Element, keep bool) *list.Element {
	e := el.Value.(*entry)
	if e.kept || !keep {
		n.list(e.kept).MoveToFront(el)
		return el
	}
	n.loose.Remove(el)
	e.kept = true
	el = n.kept.PushFront(e)
	n.byName[e.name], n.bySlot[e.slot] = el, el
	return el
}

func (n *names) list(kept bool) *list.List {
	if kept {
		return n.kept
	}
	return n.loose
}

func (n *names) evict() {
	from := n.loose
	if from.Len() == 0 {
		from = n.kept
	}
	e := from.Remove(from.Back()).(*entry)
	delete(n.byName, e.name)
	delete(n.bySlot, e.slot)
}

// wanted is FNV-1a of seed and name: it has to spread, not to resist anybody,
// as a collision only moves a name to the next slot.
func (n *names) wanted(name string) uint32 {
	h := uint32(2166136261)
	for _, s := range [...]string{n.seed, "\x00", name} {
		for i := range len(s) {
			h = (h ^ uint32(s[i])) * 16777619
		}
	}
	return (h ^ h>>15) % nameSlots
}

func address4(slot uint32) netip.Addr {
	b := names4.Addr().As4()
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+slot)
	return netip.AddrFrom4(b)
}

func address6(slot uint32) netip.Addr {
	b := names6.Addr().As16()
	binary.BigEndian.PutUint32(b[12:], slot)
	return netip.AddrFrom16(b)
}

// slotOf is the inverse of address4 and address6.
func slotOf(a netip.Addr) (uint32, bool) {
	switch {
	case names4.Contains(a):
		base, b := names4.Addr().As4(), a.As4()
		return binary.BigEndian.Uint32(b[:]) - binary.BigEndian.Uint32(base[:]), true
	case names6.Contains(a):
		b := a.As16()
		slot := binary.BigEndian.Uint32(b[12:])
		return slot, binary.BigEndian.Uint32(b[8:]) == 0 && slot < nameSlots
	}
	return 0, false
}

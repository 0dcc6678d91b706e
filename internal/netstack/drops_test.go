package netstack

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// One kind is reported at once and then with how many there were; a guest that
// scans makes no more lines than the bound, and no packet goes uncounted.
func TestDropsAreBoundedAndCounted(t *testing.T) {
	now := time.Unix(1000, 0)
	var got []Drop
	d := newDrops(func(x Drop) { got = append(got, x) })
	d.now = func() time.Time { return now }
	kind := Drop{Protocol: "udp", Addr: netip.MustParseAddr("203.0.113.9"), Port: 443}
	sum := func() (n uint64) {
		for _, x := range got {
			n += 1 + x.More
		}
		return n
	}
	for range 5 {
		d.add(kind)
	}
	if !slices.Equal(got, []Drop{kind}) {
		t.Fatalf("%+v", got)
	}
	now = now.Add(dropInterval)
	d.add(kind) // tells of the four before it
	if len(got) != 2 || got[1].More != 4 {
		t.Fatalf("%+v", got)
	}
	for i := range 3 * maxDropKinds {
		d.add(Drop{Protocol: "udp", Addr: kind.Addr, Port: uint16(1000 + i)})
	}
	if len(got) > maxDropKinds+2 {
		t.Errorf("%d reports", len(got))
	}
	now = now.Add(dropInterval)
	d.flush(false)
	if want := uint64(6 + 3*maxDropKinds); sum() != want {
		t.Errorf("%d packets reported of %d", sum(), want)
	}
	if len(d.kinds) != 0 {
		t.Errorf("%d kinds kept", len(d.kinds))
	}
	d.add(kind)
	d.add(kind)
	d.flush(true) // the end waits for no interval
	if want := uint64(8 + 3*maxDropKinds); sum() != want {
		t.Errorf("%d packets reported of %d at the end", sum(), want)
	}
}

func FuzzClassify(f *testing.F) {
	link := DefaultLink()
	for _, s := range seeds(link) {
		f.Add(s)
	}
	filter := newFilter(link)
	f.Fuzz(func(t *testing.T, frame []byte) {
		head := frame[:min(len(frame), headSize)]
		if d, ok := filter.classify(head); ok && (d.Protocol == "" || !d.Addr.IsValid()) {
			t.Errorf("%x: %+v", head, d)
		}
		_ = isUDP(head)
		_ = fmt.Sprint(filter.admit(head, len(frame)))
	})
}

package netstack

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/rawfile"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// wire is the link endpoint on the socket pair. It is not gVisor's fdbased
// one, for five reasons: that parses a frame before anybody can filter it,
// drops what it sends when the socket is full (the stack then waits for a
// retransmission), can be kept from stopping by a guest that never pauses, does
// not close its event descriptors, and waits in poll(2). A thread that does so
// has to be woken for each frame beside the runtime's own; waiting with the
// runtime takes a quarter of the time from a request, and of the supervisor's
// work for it.
type wire struct {
	fd      int             // the socket
	file    *os.File        // it again, for the runtime to wait for
	raw     syscall.RawConn // file's
	mac     tcpip.LinkAddress
	caps    stack.LinkEndpointCapabilities
	mtu     atomic.Uint32
	filter  *filter
	halted  atomic.Bool
	dropped atomic.Uint64 // frames that the filter kept out
	drops   *drops
	unsent  atomic.Uint64 // frames that could not be sent
	reader  sync.WaitGroup

	mu         sync.RWMutex
	dispatcher stack.NetworkDispatcher
}

var _ stack.LinkEndpoint = (*wire)(nil)

// Frames are received eight at a time, each into three views: the first alone
// holds what a small packet needs, so that an acknowledgement does not pin 64
// KiB, and is what the filter sees.
const (
	framesPerCall = 8
	maxFrame      = 2048 + 16<<10 + 48<<10
)

var viewSizes = [...]int{2048, 16 << 10, 48 << 10}

func newWire(fd int, link Link, report func(Drop)) (*wire, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, fmt.Errorf("prepare wire: %w", err)
	}
	file, raw, err := again(fd)
	if err != nil {
		return nil, fmt.Errorf("prepare wire: %w", err)
	}
	w := &wire{
		fd: fd, file: file, raw: raw, filter: newFilter(link), drops: newDrops(report),
		mac: tcpip.LinkAddress(link.GatewayMAC),
		// What arrives is not verified: it crossed no medium that could damage it.
		caps: stack.CapabilityResolutionRequired | stack.CapabilityRXChecksumOffload,
	}
	if !link.Checksums {
		w.caps |= stack.CapabilityTXChecksumOffload
	}
	w.mtu.Store(uint32(link.MTU))
	return w, nil
}

// again is a second descriptor of a socket that does not block. The first one
// may belong to a file that the runtime does not wait for.
func again(fd int) (*os.File, syscall.RawConn, error) {
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	file := os.NewFile(uintptr(own), "wire")
	raw, err := file.SyscallConn()
	if err == nil {
		err = file.SetDeadline(time.Time{}) // fails where halt's would
	}
	if err != nil {
		_ = file.Close()
		return nil, nil, err
	}
	return file, raw, nil
}

// halt stops the reader and waits for it; what is sent afterwards is sent only
// if that does not block. It is called before the NIC is removed.
func (w *wire) halt() {
	w.halted.Store(true)
	_ = w.file.SetDeadline(past)
	w.reader.Wait()
}

// past is a deadline that is over: who waits is woken, and nobody waits again.
var past = time.Unix(1, 0)

// release closes the second descriptor. Nobody uses the wire any more.
func (w *wire) release() { _ = w.file.Close() }

// Attach implements stack.LinkEndpoint.
func (w *wire) Attach(d stack.NetworkDispatcher) {
	w.mu.Lock()
	defer w.mu.Unlock()
	start := w.dispatcher == nil && d != nil && !w.halted.Load()
	w.dispatcher = d
	if start {
		w.reader.Go(w.read)
	}
}

// slot receives one frame.
type slot struct {
	views  [len(viewSizes)]*buffer.View
	iovecs [len(viewSizes)]unix.Iovec
}

// refill replaces the views that the last frame took along.
func (s *slot) refill() {
	for i, v := range s.views {
		if v == nil {
			v = buffer.NewViewSize(viewSizes[i])
			s.views[i] = v
			s.iovecs[i] = unix.Iovec{Base: v.BasePtr()}
			s.iovecs[i].SetLen(viewSizes[i])
		}
	}
}

// take moves a frame of n bytes out.
func (s *slot) take(n int) buffer.Buffer {
	var b buffer.Buffer
	for i, v := range s.views {
		if n <= 0 {
			break
		}
		size := v.Size()
		v.CapLength(n)
		_ = b.Append(v)
		s.views[i] = nil
		n -= size
	}
	return b
}

func (s *slot) release() {
	for _, v := range s.views {
		if v != nil {
			v.Release()
		}
	}
}

// read delivers frames until the wire is halted or the socket fails.
func (w *wire) read() {
	slots := make([]slot, framesPerCall)
	hdrs := make([]rawfile.MMsgHdr, framesPerCall)
	defer func() {
		for i := range slots {
			slots[i].release()
		}
	}()
	for !w.halted.Load() {
		for i := range slots {
			slots[i].refill()
			hdrs[i] = rawfile.MMsgHdr{}
			hdrs[i].Msg.Iov = &slots[i].iovecs[0]
			hdrs[i].Msg.SetIovlen(len(slots[i].iovecs))
		}
		n, errno := 0, unix.Errno(0)
		err := w.raw.Read(func(fd uintptr) bool {
			n, errno = recvMMsg(fd, hdrs)
			return errno != unix.EAGAIN
		})
		if errno == unix.EINTR {
			continue
		}
		if err != nil || errno != 0 {
			return
		}
		for i := range n {
			w.receive(&slots[i], int(hdrs[i].Len), hdrs[i].Msg.Flags&unix.MSG_TRUNC != 0)
		}
	}
}

// receive hands one frame to the stack if the filter has no objection.
func (w *wire) receive(s *slot, n int, truncated bool) {
	w.mu.RLock()
	d := w.dispatcher
	w.mu.RUnlock()
	head := s.views[0].AsSlice()[:min(n, headSize)]
	admitted := !truncated && d != nil && w.filter.admit(head, n)
	if !admitted {
		w.dropped.Add(1)
	}
	if !admitted || isUDP(head) {
		if kind, ok := w.filter.classify(head); ok && (!admitted || w.filter.unanswered(kind)) {
			w.drops.add(kind)
		}
	}
	if !admitted {
		return
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: s.take(n)})
	defer pkt.DecRef()
	if !w.ParseHeader(pkt) {
		return
	}
	d.DeliverNetworkPacket(pkt.NetworkProtocolNumber, pkt)
}

// WritePackets implements stack.LinkWriter. It waits for room in the socket,
// which is why a queueing discipline stands before it: the stack itself never
// waits for the guest.
func (w *wire) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	frames := pkts.AsSlice()
	hdrs := make([]rawfile.MMsgHdr, len(frames))
	for i, pkt := range frames {
		views := pkt.AsSlices()
		iovecs := make([]unix.Iovec, 0, len(views))
		for _, v := range views {
			iovecs = rawfile.AppendIovecFromBytes(iovecs, v, rawfile.MaxIovs)
		}
		hdrs[i].Msg.Iov = &iovecs[0]
		hdrs[i].Msg.SetIovlen(len(iovecs))
	}
	sent := 0
	for sent < len(hdrs) {
		n, errno := rawfile.NonBlockingSendMMsg(w.fd, hdrs[sent:])
		if errno == unix.EAGAIN {
			// Tried again within, where no room that is made goes unnoticed. After
			// halt that does not run, and nothing is waited for.
			_ = w.raw.Write(func(fd uintptr) bool {
				n, errno = rawfile.NonBlockingSendMMsg(int(fd), hdrs[sent:])
				return errno != unix.EAGAIN
			})
		}
		switch errno {
		case 0:
			sent += n
		case unix.EINTR:
		default:
			w.unsent.Add(uint64(len(hdrs) - sent))
			return sent, tcpip.TranslateErrno(errno)
		}
	}
	return sent, nil
}

// AddHeader implements stack.NetworkLinkEndpoint.
func (w *wire) AddHeader(pkt *stack.PacketBuffer) {
	eth := header.Ethernet(pkt.LinkHeader().Push(header.EthernetMinimumSize))
	eth.Encode(&header.EthernetFields{
		SrcAddr: pkt.EgressRoute.LocalLinkAddress,
		DstAddr: pkt.EgressRoute.RemoteLinkAddress,
		Type:    pkt.NetworkProtocolNumber,
	})
}

// ParseHeader implements stack.NetworkLinkEndpoint.
func (w *wire) ParseHeader(pkt *stack.PacketBuffer) bool {
	h, ok := pkt.LinkHeader().Consume(header.EthernetMinimumSize)
	if ok {
		pkt.NetworkProtocolNumber = header.Ethernet(h).Type()
	}
	return ok
}

// IsAttached implements stack.NetworkLinkEndpoint.
func (w *wire) IsAttached() bool {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.dispatcher != nil
}

// MTU implements stack.NetworkLinkEndpoint.
func (w *wire) MTU() uint32 { return w.mtu.Load() }

// SetMTU implements stack.NetworkLinkEndpoint.
func (w *wire) SetMTU(mtu uint32) { w.mtu.Store(mtu) }

// MaxHeaderLength implements stack.NetworkLinkEndpoint.
func (w *wire) MaxHeaderLength() uint16 { return header.EthernetMinimumSize }

// LinkAddress implements stack.NetworkLinkEndpoint.
func (w *wire) LinkAddress() tcpip.LinkAddress { return w.mac }

// SetLinkAddress implements stack.NetworkLinkEndpoint; the address is fixed.
func (w *wire) SetLinkAddress(tcpip.LinkAddress) {}

// Capabilities implements stack.NetworkLinkEndpoint.
func (w *wire) Capabilities() stack.LinkEndpointCapabilities { return w.caps }

// Wait implements stack.NetworkLinkEndpoint. halt has waited already.
func (w *wire) Wait() {}

// ARPHardwareType implements stack.NetworkLinkEndpoint.
func (w *wire) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareEther }

// Close implements stack.NetworkLinkEndpoint; the Stack owns the descriptors.
func (w *wire) Close() {}

// SetOnCloseAction implements stack.NetworkLinkEndpoint.
func (w *wire) SetOnCloseAction(func()) {}

package netstack

import (
	"encoding/binary"
	"io"
	"net"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
)

const (
	dnsPort = 53
	// maxUDPQuestion is the longest question by UDP that is looked at; EDNS
	// clients say no more than this (RFC 6891 §6.2.5).
	maxUDPQuestion = 4096
	// maxUDPQuestions are answered at one time; more are dropped, as a resolver
	// under load drops them.
	maxUDPQuestions = 512
	maxDNSConns     = 64
	// dnsIdle ends a TCP connection on which nothing was asked (RFC 7766 §6.2.3).
	dnsIdle = 30 * time.Second
)

// serveUDP passes datagrams to the handler until the stack closes.
func (s *Stack) serveUDP(conn *gonet.UDPConn) {
	defer s.wg.Done()
	stop := make(chan struct{})
	defer close(stop)
	if !s.begin() {
		_ = conn.Close()
		return
	}
	go func() {
		defer s.wg.Done()
		select {
		case <-s.ctx.Done():
		case <-stop:
		}
		_ = conn.SetReadDeadline(time.Unix(1, 0)) // wakes the reader, which Close alone may not
		_ = conn.Close()
	}()
	buf := make([]byte, maxUDPQuestion+1)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			if s.ctx.Err() == nil {
				s.log.Error("DNS socket of the guest's stack is gone", "error", err)
			}
			return
		}
		s.counters.questions.Add(1)
		if n > maxUDPQuestion {
			continue
		}
		select {
		case s.udpSlots <- struct{}{}:
		default:
			s.counters.overLimit.Add(1)
			s.warn("guest asks DNS faster than it is answered; dropping questions")
			continue
		}
		query := append([]byte(nil), buf[:n]...)
		if !s.begin() {
			<-s.udpSlots
			return
		}
		go s.answerUDP(conn, query, from)
	}
}

func (s *Stack) answerUDP(conn *gonet.UDPConn, query []byte, from net.Addr) {
	defer s.wg.Done()
	defer func() { <-s.udpSlots }()
	answer, err := s.handler.ServeDNS(s.ctx, query, "udp")
	if err != nil || len(answer) == 0 {
		return
	}
	_, _ = conn.WriteTo(answer, from) // a guest that is gone needs no answer
}

// serveTCP answers one connection's questions in order, each with two bytes of
// length before it (RFC 1035 §4.2.2).
func (s *Stack) serveTCP(conn *gonet.TCPConn, ep tcpip.Endpoint) {
	defer func() { _ = conn.Close() }()
	stop := make(chan struct{})
	defer close(stop)
	if !s.begin() {
		return
	}
	go func() {
		defer s.wg.Done()
		select {
		case <-s.ctx.Done():
			ep.Abort()
		case <-stop:
		}
	}()
	for {
		_ = conn.SetDeadline(time.Now().Add(dnsIdle))
		var length [2]byte
		if _, err := io.ReadFull(conn, length[:]); err != nil {
			return
		}
		query := make([]byte, binary.BigEndian.Uint16(length[:]))
		if _, err := io.ReadFull(conn, query); err != nil {
			return
		}
		s.counters.questions.Add(1)
		answer, err := s.handler.ServeDNS(s.ctx, query, "tcp")
		if err != nil || len(answer) == 0 || len(answer) > 0xffff {
			return
		}
		framed := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(answer)), uint16(len(answer)))
		if _, err := conn.Write(append(framed, answer...)); err != nil {
			return
		}
	}
}

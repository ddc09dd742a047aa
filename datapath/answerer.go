package datapath

import (
	"errors"
	"hash/maphash"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"weir/bpf"
	"weir/flow"
)

// answerer tells senders of packets that these were rejected, so many in a second,
// and each of them not too often (RFC 1812, section 4.3.2.8).
type answerer struct {
	log        *slog.Logger
	all        limit
	each       limit
	seed       maphash.Seed
	v4, v6     int // raw sockets that take packets with their header; -1: not to be had
	icmp6      int // one that writes the header, the source and the checksum
	unanswered atomic.Uint64

	mu     sync.Mutex
	state  time.Time
	states [4096]time.Time // by the hash of whom they go to: some share one
}

const (
	answerRate  = 100 // a second
	answersEach = 20  // to one address, a second
)

// newAnswerer opens sockets, in the network namespace of the calling thread. rate 0
// is the usual one, less is none at all.
func newAnswerer(log *slog.Logger, rate int) *answerer {
	if rate == 0 {
		rate = answerRate
	}
	a := &answerer{log: log, each: perSecond(answersEach, answersEach), seed: maphash.MakeSeed(), v4: -1, v6: -1, icmp6: -1}
	if rate < 0 {
		return a
	}
	a.all = perSecond(rate, rate)
	for _, s := range []struct {
		fd            *int
		family, proto int
	}{{&a.v4, unix.AF_INET, unix.IPPROTO_RAW}, {&a.v6, unix.AF_INET6, unix.IPPROTO_RAW}, {&a.icmp6, unix.AF_INET6, unix.IPPROTO_ICMPV6}} {
		fd, err := unix.Socket(s.family, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, s.proto)
		if err != nil {
			if !errors.Is(err, unix.EAFNOSUPPORT) {
				log.Warn("rules with reject do not answer", "error", err)
			}
			continue
		}
		*s.fd = fd
	}
	if a.icmp6 >= 0 {
		// It is for sending: nothing need be kept for it.
		var none unix.ICMPv6Filter
		for i := range none.Data {
			none.Data[i] = 1<<32 - 1
		}
		if err := unix.SetsockoptICMPv6Filter(a.icmp6, unix.IPPROTO_ICMPV6, unix.ICMPV6_FILTER, &none); err != nil {
			log.Debug("a socket for ICMPv6", "error", err)
		}
	}
	return a
}

func (a *answerer) close() {
	for _, fd := range []*int{&a.v4, &a.v6, &a.icmp6} {
		if *fd >= 0 {
			unix.Close(*fd)
		}
		*fd = -1
	}
}

// answer sends what an event asks for, if anything may be sent.
func (a *answerer) answer(ev *bpf.Event, octets []byte, now time.Time) {
	out, ok := Answer(octets, int(ev.Network))
	if !ok {
		return
	}
	if !a.may(out, now) {
		a.unanswered.Add(1)
		return
	}
	if err := a.send(out, ev.Port); err != nil {
		a.unanswered.Add(1)
		a.log.Debug("an answer to a rejected packet", "error", err)
	}
}

// may says whether one more may go where this one does. Who has had enough takes
// nothing of what there is for the others.
func (a *answerer) may(out []byte, now time.Time) bool {
	to := out[16:20]
	if out[0]>>4 == 6 {
		to = out[24:32] // a sender has 64 bits of it to itself
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	each := &a.states[maphash.Bytes(a.seed, to)%uint64(len(a.states))]
	was := *each
	if !a.each.take(each, now) {
		return false
	}
	if a.all.each == 0 || !a.all.take(&a.state, now) {
		*each = was
		return false
	}
	return true
}

func (a *answerer) send(out []byte, port uint32) error {
	if out[0]>>4 == 4 {
		return unix.Sendto(a.v4, out, 0, &unix.SockaddrInet4{Addr: [4]byte(out[16:20])})
	}
	to := &unix.SockaddrInet6{Addr: [16]byte(out[24:40])}
	if to.Addr[0] == 0xfe && to.Addr[1]&0xc0 == 0x80 && port&flow.KeyEgress == 0 {
		to.ZoneId = port // a link-local address is that of a link
	}
	if out[6] == flow.ProtoICMPv6 {
		return unix.Sendto(a.icmp6, out[40:], 0, to)
	}
	return unix.Sendto(a.v6, out, 0, to)
}

package collect

import (
	"encoding/binary"
	"slices"

	"weir/capture"
	"weir/flow"
	"weir/packet"
	"weir/wire"
)

var be = binary.BigEndian

// extractor finds export messages in captured packets: the payload of UDP
// datagrams, fragmented or not, and the messages in TCP connections.
type extractor struct {
	ports   []uint16 // given by the user; empty: by custom and by content
	known   map[conversation]bool
	frags   map[fragKey]*fragments
	order   []fragKey // oldest first
	streams map[conversation]*stream
	ignored map[string]uint64

	// take is called with each message.
	take func(src wire.Source, dst uint16, time int64, msg []byte)
}

// Bounds of what a capture can make the extractor hold.
const (
	maxKnown   = 65536
	maxFrags   = 256 // datagrams of which some fragments came
	maxStreams = 1024
	maxAhead   = 1 << 20 // octets of a stream that came before what is missing
)

// Packets that carry no export, by reason.
const (
	ignoredNonIP     = "non-ip"
	ignoredBroken    = "broken-packet"
	ignoredProtocol  = "other-protocol"
	ignoredContent   = "not-export"
	ignoredFragments = "incomplete-fragments"
	ignoredTCP       = "tcp-without-message"
)

type conversation struct {
	src, dst         flow.Addr
	srcPort, dstPort uint16
	tcp              bool
}

func newExtractor(ports []uint16) *extractor {
	x := &extractor{
		ports: ports, known: map[conversation]bool{}, frags: map[fragKey]*fragments{},
		streams: map[conversation]*stream{}, ignored: map[string]uint64{},
	}
	for _, why := range []string{ignoredNonIP, ignoredBroken, ignoredProtocol, ignoredContent, ignoredFragments, ignoredTCP} {
		x.ignored[why] = 0
	}
	return x
}

// packet takes one captured packet.
func (x *extractor) packet(p *capture.Packet) {
	at, why := packet.Network(p.Link, p.Data)
	if why != packet.Decoded {
		if why.NonIP() {
			x.ignored[ignoredNonIP]++
		} else {
			x.ignored[ignoredBroken]++
		}
		return
	}
	b := p.Data[at.Offset:]
	ok := false
	if len(b) > 0 && b[0]>>4 == 4 {
		ok = x.ipv4(b, p.Time)
	} else if len(b) > 0 {
		ok = x.ipv6(b, p.Time)
	}
	if !ok {
		x.ignored[ignoredBroken]++
	}
}

func (x *extractor) ipv4(b []byte, time int64) bool {
	if len(b) < 20 {
		return false
	}
	head, total := int(b[0]&15)*4, int(be.Uint16(b[2:]))
	if total == 0 || total > len(b) {
		total = len(b) // segmentation offload, or cut
	}
	if head < 20 || head > total {
		return false
	}
	c := conversation{src: flow.AddrFrom4([4]byte(b[12:])), dst: flow.AddrFrom4([4]byte(b[16:]))}
	off := be.Uint16(b[6:])
	if off&0x3fff == 0 {
		return x.transport(c, b[9], b[head:total], time)
	}
	k := fragKey{c.src, c.dst, uint32(be.Uint16(b[4:])), b[9]}
	return x.fragment(k, int(off&0x1fff)*8, off&0x2000 != 0, b[head:total], time)
}

func (x *extractor) ipv6(b []byte, time int64) bool {
	if len(b) < 40 {
		return false
	}
	c := conversation{src: flow.Addr(b[8:24]), dst: flow.Addr(b[24:40])}
	end := len(b)
	if n := int(be.Uint16(b[4:])); n != 0 && 40+n < end {
		end = 40 + n
	}
	next, rest := b[6], b[40:end]
	for {
		switch next {
		case 0, 43, 60: // hop-by-hop, routing, destination options
			if len(rest) < 8 {
				return false
			}
			n := 8 + int(rest[1])*8
			if n > len(rest) {
				return false
			}
			next, rest = rest[0], rest[n:] // n >= 8
		case 44:
			if len(rest) < 8 {
				return false
			}
			off := be.Uint16(rest[2:])
			if off&^6 == 0 { // the only one: an atomic fragment
				next, rest = rest[0], rest[8:]
				continue
			}
			k := fragKey{c.src, c.dst, be.Uint32(rest[4:]), rest[0]}
			return x.fragment(k, int(off&^7), off&1 != 0, rest[8:], time)
		default:
			return x.transport(c, next, rest, time)
		}
	}
}

func (x *extractor) transport(c conversation, proto uint8, b []byte, time int64) bool {
	switch proto {
	case flow.ProtoUDP:
		if len(b) < 8 {
			return false
		}
		c.srcPort, c.dstPort = be.Uint16(b), be.Uint16(b[2:])
		if n := int(be.Uint16(b[4:])); n >= 8 && n < len(b) {
			b = b[:n]
		}
		x.datagram(c, b[8:], time)
	case flow.ProtoTCP:
		if len(b) < 20 {
			return false
		}
		head := int(b[12]>>4) * 4
		if head < 20 || head > len(b) {
			return false
		}
		c.srcPort, c.dstPort, c.tcp = be.Uint16(b), be.Uint16(b[2:]), true
		x.segment(c, be.Uint32(b[4:]), b[13], b[head:], time)
	default:
		x.ignored[ignoredProtocol]++
	}
	return true
}

// wanted says whether a conversation carries exports, by its port.
func (x *extractor) wanted(port uint16) (yes, sure bool) {
	if len(x.ports) > 0 {
		return slices.Contains(x.ports, port), true
	}
	return slices.Contains(wire.Ports, port), false
}

func (x *extractor) datagram(c conversation, msg []byte, time int64) {
	yes, sure := x.wanted(c.dstPort)
	if !yes && !sure {
		if yes = x.known[c]; !yes && wire.Detect(msg) != 0 {
			yes = true
			if len(x.known) < maxKnown {
				x.known[c] = true
			}
		}
	}
	if !yes {
		x.ignored[ignoredContent]++
		return
	}
	x.take(wire.Source{Addr: c.src, Port: c.srcPort}, c.dstPort, time, msg)
}

// fragKey tells datagrams apart whose fragments come (RFC 791 section 3.2).
type fragKey struct {
	src, dst flow.Addr
	id       uint32
	proto    uint8
}

// fragments is a datagram in the making. Offsets count eights of octets, as
// in the header.
type fragments struct {
	data  []byte
	have  [65536 / 8 / 64]uint64 // a bit for every eight octets
	total int                    // once the last fragment came
}

func (x *extractor) fragment(k fragKey, off int, more bool, b []byte, time int64) bool {
	if off+len(b) > 65535 || more && len(b)%8 != 0 || len(b) == 0 {
		return false
	}
	f := x.frags[k]
	if f == nil {
		if len(x.order) >= maxFrags {
			delete(x.frags, x.order[0])
			x.order = x.order[1:]
			x.ignored[ignoredFragments]++
		}
		f = &fragments{}
		x.frags[k] = f
		x.order = append(x.order, k)
	}
	if n := off + len(b); n > len(f.data) {
		f.data = append(f.data, make([]byte, n-len(f.data))...)
	}
	copy(f.data[off:], b)
	for i := off / 8; i < (off+len(b)+7)/8; i++ {
		f.have[i/64] |= 1 << (i % 64)
	}
	if !more {
		f.total = off + len(b)
	}
	if f.total == 0 || len(f.data) > f.total {
		return true
	}
	for i := range (f.total + 7) / 8 {
		if f.have[i/64]&(1<<(i%64)) == 0 {
			return true
		}
	}
	delete(x.frags, k)
	x.order = slices.DeleteFunc(x.order, func(o fragKey) bool { return o == k })
	return x.transport(conversation{src: k.src, dst: k.dst}, k.proto, f.data, time)
}

// finish counts what never became whole.
func (x *extractor) finish() {
	x.ignored[ignoredFragments] += uint64(len(x.frags))
}

// stream is one direction of a TCP connection that may carry IPFIX.
type stream struct {
	next    uint32
	started bool
	dead    bool // carries something else
	whole   bool // a message was found: it is IPFIX
	buf     []byte
	ahead   []ahead
	held    int // octets in ahead
}

type ahead struct {
	seq  uint32
	data []byte
}

// TCP flags.
const (
	tcpFIN = 1
	tcpSYN = 2
	tcpRST = 4
)

func (x *extractor) segment(c conversation, seq uint32, flags uint8, b []byte, time int64) {
	if yes, sure := x.wanted(c.dstPort); sure && !yes {
		x.ignored[ignoredContent]++
		return
	}
	s := x.streams[c]
	if s == nil || flags&tcpSYN != 0 {
		if s == nil && len(x.streams) >= maxStreams {
			x.ignored[ignoredTCP]++
			return
		}
		s = &stream{}
		x.streams[c] = s
		if flags&tcpSYN != 0 {
			s.next, s.started = seq+1, true
			return
		}
	}
	if s.dead {
		x.ignored[ignoredTCP]++
		return
	}
	if len(b) > 0 {
		x.append(c, s, seq, b, time)
	}
	if flags&(tcpFIN|tcpRST) != 0 && len(s.ahead) == 0 {
		delete(x.streams, c)
	}
}

// append puts octets in order, and reads the messages that are whole.
func (x *extractor) append(c conversation, s *stream, seq uint32, b []byte, time int64) {
	if !s.started { // the capture began later: at a message, if we are lucky
		if !likeIPFIX(b) {
			x.ignored[ignoredTCP]++
			return
		}
		s.next, s.started = seq, true
	}
	if s.held+len(b) > maxAhead { // what is missing was not captured: start again
		*s = stream{whole: s.whole}
		x.ignored[ignoredTCP]++
		return
	}
	s.ahead = append(s.ahead, ahead{seq, slices.Clone(b)})
	s.held += len(b)
	for again := true; again; {
		again = false
		for i, a := range s.ahead {
			skip := int(int32(s.next - a.seq))
			if skip < 0 {
				continue
			}
			if skip < len(a.data) {
				s.buf = append(s.buf, a.data[skip:]...)
				s.next += uint32(len(a.data) - skip)
			}
			s.held -= len(a.data)
			s.ahead = slices.Delete(s.ahead, i, i+1)
			again = true // one fewer
			break
		}
	}
	for len(s.buf) >= 16 {
		n := int(be.Uint16(s.buf[2:]))
		if !likeIPFIX(s.buf) {
			s.dead, s.buf, s.ahead, s.held = true, nil, nil, 0
			x.ignored[ignoredTCP]++
			return
		}
		if n > len(s.buf) {
			return
		}
		x.take(wire.Source{Addr: c.src, Port: c.srcPort, Reliable: true}, c.dstPort, time, s.buf[:n])
		s.whole = true
		s.buf = append(s.buf[:0], s.buf[n:]...)
	}
}

// likeIPFIX says whether b may begin with an IPFIX message.
func likeIPFIX(b []byte) bool {
	if len(b) < 16 || be.Uint16(b) != 10 || be.Uint16(b[2:]) < 16 {
		return false
	}
	if len(b) >= 18 && be.Uint16(b[2:]) > 16 {
		id := be.Uint16(b[16:])
		return id == 2 || id == 3 || id >= 256
	}
	return true
}

package differential

import "fmt"

// IP protocol numbers.
const (
	protoHopByHop    = 0
	protoICMP        = 1
	protoIPIP        = 4
	protoTCP         = 6
	protoUDP         = 17
	protoDCCP        = 33
	protoIPv6        = 41
	protoRouting     = 43
	protoFragment    = 44
	protoGRE         = 47
	protoESP         = 50
	protoAH          = 51
	protoICMPv6      = 58
	protoNone        = 59
	protoDestination = 60
	protoSCTP        = 132
	protoMobility    = 135
	protoUDPLite     = 136
	protoHIP         = 139
	protoShim6       = 140
)

// network is a packet of the network layer: what it is (an EtherType), its
// octets, and in words how it came about.
type network struct {
	etherType int
	octets    []byte
	words     string
}

// packet number n: every packet has its own source address, so that one that is
// read differently can be found.
func (d dice) packet(n int) network {
	if d.one(2) {
		return d.ipv4(n)
	}
	return d.ipv6(n)
}

// upper is a protocol and its octets; n is of the packets in tunnels.
func (d dice) upper(n int, v6 bool) (proto int, b []byte, words string) {
	port := func() int { return pick(d, d.IntN(65536), 53, 80, 443, 4789, 2152, 0, 65535, d.between(1024, 65535)) }
	payload := d.octets(pick(d, 0, 0, 1, 3, d.IntN(40), d.IntN(200)))
	switch d.IntN(20) {
	case 0, 1, 2, 3:
		off := pick(d, 5, 5, 5, 5, 6, 8, 10, 15, 4, 0, 3)
		opts := d.octets(max(off-5, 0) * 4)
		if d.one(2) {
			for i := range opts {
				opts[i] = 1 // no operation
			}
		}
		b = u16(nil, port(), port())
		b = u32(b, d.Uint32(), d.Uint32())
		b = append(b, byte(off<<4|pick(d, 0, 0, 1, 15)), byte(d.Uint32()))
		b = u16(b, d.IntN(65536), d.IntN(65536), d.IntN(65536))
		return protoTCP, join(b, opts, payload), fmt.Sprintf("tcp(offset %d)", off)
	case 4, 5, 6, 7:
		length := pick(d, 8+len(payload), 8+len(payload), 8+len(payload), 0, 7, d.IntN(65536), 8)
		b = u16(nil, port(), port(), length, d.IntN(65536))
		return protoUDP, append(b, payload...), fmt.Sprintf("udp(length %d of %d)", length, 8+len(payload))
	case 8:
		b = u16(nil, port(), port(), pick(d, 0, 8, 8+len(payload), d.IntN(65536)), d.IntN(65536))
		return protoUDPLite, append(b, payload...), "udplite"
	case 9:
		b = u16(nil, port(), port())
		b = u32(b, d.Uint32(), d.Uint32())
		b = append(b, byte(d.Uint32()), byte(d.Uint32()))
		b = u16(b, d.IntN(64))
		return protoSCTP, append(b, payload...), "sctp"
	case 10:
		b = u16(nil, port(), port())
		b = append(b, byte(d.IntN(8)), byte(d.Uint32()), byte(d.Uint32()), byte(d.Uint32()), byte(d.Uint32()), byte(d.Uint32()))
		return protoDCCP, join(b, d.octets(6), payload), "dccp"
	case 11, 12:
		icmp := pick(d, protoICMP, protoICMPv6)
		if d.one(4) {
			icmp = protoICMPv6 + protoICMP - icmp
		}
		if d.one(2) {
			icmp = protoICMP
			if v6 {
				icmp = protoICMPv6
			}
		}
		b = []byte{byte(pick(d, 0, 3, 8, 11, 1, 2, 128, 129, 135, 136, d.IntN(256))), byte(pick(d, 0, 1, 3, d.IntN(256)))}
		b = u16(b, d.IntN(65536))
		return icmp, join(b, d.octets(4), payload), fmt.Sprintf("icmp(%d)", icmp)
	case 13:
		b = u16(nil, pick(d, 0, 0x2000, 0x8000, d.IntN(65536)), pick(d, 0x0800, 0x86dd, 0x6558, 0x880b, 0x88be))
		_, in, w := d.inner(n)
		return protoGRE, append(b, in...), "gre(" + w + ")"
	case 14:
		_, in, w := d.inner(n)
		return pick(d, protoIPIP, protoIPv6), in, "ip-in-ip(" + w + ")"
	case 15:
		return protoESP, d.octets(d.between(0, 60)), "esp"
	case 16:
		next, in, w := d.upper(n, v6)
		b = []byte{byte(next), byte(pick(d, 4, 4, 4, 0, 1, 200))}
		b = u16(b, 0)
		return protoAH, join(b, d.octets(20), in), "ah(" + w + ")"
	case 17:
		p := pick(d, 89, 112, 2, 46, 103, 115, 88, 124, 94, 98, 8, 3, 137, 142, 143)
		return p, d.octets(d.IntN(60)), fmt.Sprintf("protocol %d", p)
	case 18:
		p := pick(d, 253, 254, 255, d.IntN(256), protoNone, protoMobility, protoHIP, protoShim6)
		return p, d.octets(d.IntN(60)), fmt.Sprintf("protocol %d", p)
	}
	return pick(d, protoTCP, protoUDP, protoSCTP, protoICMP, protoICMPv6, protoDCCP, protoUDPLite), d.octets(d.IntN(16)), "stump"
}

// inner is a packet within a tunnel.
func (d dice) inner(n int) (etherType int, b []byte, words string) {
	p := d.packet(n)
	return p.etherType, p.octets, p.words
}

func (d dice) ipv4(n int) network {
	proto, b, words := d.upper(n, false)
	opts := []byte{}
	switch d.IntN(8) {
	case 0: // padding
		opts = make([]byte, 4*d.between(1, 10))
		for i := range opts {
			opts[i] = 1
		}
		if d.one(2) {
			opts[len(opts)-1] = 0
		}
	case 1: // a record, loose or strict route, time stamp, with lies about their length
		opts = d.octets(4 * d.between(1, 10))
		opts[0] = byte(pick(d, 7, 131, 137, 68, 130, 148, 136, int(opts[0])))
		opts[1] = byte(pick(d, len(opts), 3, 7, 11, 0, 1, 255))
		opts[2] = byte(pick(d, 4, 8, 0, 255, int(opts[2])))
		words = "odd options " + words
	}
	ihl := 5 + len(opts)/4
	total := ihl*4 + len(b)
	frag := 0
	h := make([]byte, 20)
	switch d.IntN(24) {
	case 0, 1, 2, 3:
		frag = pick(d, 0x2000, 0x2000, 0x2001, 0x2000|d.between(1, 8191), d.between(1, 8191), 1, 8191)
		words = fmt.Sprintf("fragment %#04x %s", frag, words)
		if d.one(4) {
			b = b[:min(len(b), 8)]
			total = ihl*4 + len(b)
			words = "tiny " + words
		}
	case 4:
		frag = 0x4000
	case 5:
		frag = 0x8000
	case 6:
		total = 0
		words = "total length 0 " + words
	case 7:
		total = d.between(ihl*4, ihl*4+len(b))
		words = "shorter than its frame " + words
	case 8:
		total = d.between(1, 65535)
		words = fmt.Sprintf("total length %d of %d %s", total, ihl*4+len(b), words)
	case 9:
		ihl = d.IntN(16)
		words = fmt.Sprintf("header length %d %s", ihl, words)
	case 10:
		words = fmt.Sprintf("version %d %s", d.IntN(16), words)
		h[0] = byte(d.IntN(16))
		if d.one(2) {
			h[0] = 6
		}
	}
	if h[0] == 0 {
		h[0] = 4
	}
	h[0] = h[0]<<4 | byte(ihl)
	h[1] = byte(pick(d, 0, 0, 0xb8, d.IntN(256)))
	be.PutUint16(h[2:], uint16(total))
	be.PutUint16(h[4:], uint16(d.Uint32()))
	be.PutUint16(h[6:], uint16(frag))
	h[8] = byte(d.between(0, 255))
	h[9] = byte(proto)
	be.PutUint16(h[10:], uint16(d.Uint32()))
	be.PutUint32(h[12:], 10<<24|uint32(n))
	be.PutUint32(h[16:], pick(d, d.Uint32(), 0xe0000001, 0xffffffff, 0x7f000001))
	return network{0x0800, join(h, opts, b), fmt.Sprintf("ipv4(ihl %d proto %d) %s", ihl, proto, words)}
}

func (d dice) ipv6(n int) network {
	proto, b, words := d.upper(n, true)
	for range pick(d, 0, 0, 0, 1, 1, 2, 3, 5) {
		proto, b, words = d.extension(proto, b, words)
	}
	plen := len(b)
	h := make([]byte, 40)
	h[0] = 6 << 4
	switch d.IntN(16) {
	case 0:
		plen = pick(d, 0, 0, 1, 4, 8)
		words = fmt.Sprintf("payload length %d of %d %s", plen, len(b), words)
	case 1:
		plen = d.IntN(65536)
		words = fmt.Sprintf("payload length %d of %d %s", plen, len(b), words)
	case 2:
		plen = d.between(0, len(b))
		words = fmt.Sprintf("payload length %d of %d %s", plen, len(b), words)
	case 3: // a jumbo payload option
		opt := u32([]byte{byte(proto), 0, 0xc2, 4}, uint32(pick(d, 65536, 65536+len(b), 100000, 1<<31)))
		if d.one(3) {
			opt = join([]byte{byte(proto), 1, 1, 4, 0, 0, 0, 0, 0xc2, 4}, u32(nil, 70000), []byte{1, 0})
		}
		proto, b, plen = protoHopByHop, append(opt, b...), pick(d, 0, 0, 0, len(b)+8)
		words = "jumbo " + words
	case 4:
		h[0] = byte(pick(d, 4, 5, 7, 15, 0)) << 4
		words = fmt.Sprintf("version %d %s", h[0]>>4, words)
	}
	tos := uint32(pick(d, 0, 0, 0xb8, d.IntN(256)))
	be.PutUint32(h, uint32(h[0])<<24|tos<<20|d.Uint32()&0xfffff)
	be.PutUint16(h[4:], uint16(plen))
	h[6] = byte(proto)
	h[7] = byte(d.between(0, 255))
	h[8], h[9], h[10], h[11] = 0x20, 1, 0x0d, 0xb8
	be.PutUint32(h[20:], uint32(n))
	copy(h[24:], d.octets(16))
	if d.one(2) {
		copy(h[24:], []byte{0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 1, 2, 3})
	}
	return network{0x86dd, append(h, b...), fmt.Sprintf("ipv6(next %d) %s", proto, words)}
}

// extension puts an extension header in front of a payload.
func (d dice) extension(next int, b []byte, words string) (int, []byte, string) {
	kind := pick(d, protoHopByHop, protoRouting, protoFragment, protoFragment, protoDestination, protoDestination, protoAH, protoMobility, protoShim6, protoHIP, d.IntN(256))
	var h []byte
	switch kind {
	case protoFragment:
		off := pick(d, 0, 0, 1, 8, 1480, d.IntN(65536), 6)
		h = u16([]byte{byte(next), byte(d.IntN(256))}, off)
		h = u32(h, d.Uint32())
		words = fmt.Sprintf("fragment %#04x %s", off, words)
	case protoAH:
		h = join([]byte{byte(next), 4, 0, 0}, d.octets(20))
	default:
		size := pick(d, 0, 0, 1, 2, 5)
		h = append([]byte{byte(next), byte(size)}, d.octets(6+size*8)...)
		switch {
		case kind == protoHopByHop || kind == protoDestination:
			for i := 2; i < len(h); {
				n := len(h) - i
				switch {
				case n == 1 || d.one(4):
					h[i], n = 0, 1
				case n >= 4 && d.one(4):
					h[i], h[i+1], n = 5, 2, 4 // router alert
				default:
					n = min(n, d.between(2, 20))
					h[i], h[i+1] = byte(pick(d, 1, 1, 0x1e, 0x3e)), byte(n-2)
				}
				i += n
			}
		case kind == protoRouting:
			n := d.between(0, 3)
			switch d.IntN(4) {
			case 0: // source route: addresses
				h = join([]byte{byte(next), byte(2 * n), 0, byte(d.between(0, n)), 0, 0, 0, 0}, d.octets(16*n))
			case 1: // mobility: one address
				h = join([]byte{byte(next), 2, 2, byte(d.IntN(2)), 0, 0, 0, 0}, d.octets(16))
			case 2: // segment routing
				n++
				h = join([]byte{byte(next), byte(2 * n), 4, byte(d.between(0, n-1)), byte(n - 1), 0, 0, 0}, d.octets(16*n))
			default:
				h[2] = byte(pick(d, 1, 253, d.between(7, 255)))
			}
		}
		if d.one(12) {
			h[1] = byte(d.IntN(256))
			words = "a lie of " + words
		}
	}
	return kind, append(h, b...), fmt.Sprintf("%d>%s", kind, words)
}

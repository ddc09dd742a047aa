package bpf_test

import (
	"bytes"
	"encoding/binary"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"weir/capture"
	"weir/flow"
	"weir/packet"
)

var be = binary.BigEndian

// layer is a packet from some header on: what announces it (an EtherType) and
// its octets.
type layer struct {
	etherType uint16
	b         []byte
}

func join(parts ...[]byte) []byte {
	var all []byte
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

func u16(v ...uint16) []byte {
	var b []byte
	for _, v := range v {
		b = be.AppendUint16(b, v)
	}
	return b
}

var macs = []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2}

// linkHeaders puts each header that parse.h and packet know in front of what
// follows.
var linkHeaders = []struct {
	name string
	put  func(in layer) layer
}{
	{"802.1Q", func(in layer) layer { return layer{0x8100, join(u16(0x2005, in.etherType), in.b)} }},
	{"802.1ad", func(in layer) layer { return layer{0x88a8, join(u16(0x0006, in.etherType), in.b)} }},
	{"0x9100", func(in layer) layer { return layer{0x9100, join(u16(0, in.etherType), in.b)} }},
	{"Ethernet", func(in layer) layer { return layer{0x6558, ether(in)} }},
	{"label", func(in layer) layer {
		if in.etherType == 0x8847 {
			return layer{0x8848, join([]byte{0, 6, 0x40, 0x40}, in.b)}
		}
		return layer{0x8847, join([]byte{0, 6, 0x41, 0x40}, in.b)}
	}},
	{"pseudowire", func(in layer) layer { return layer{0x8847, join([]byte{0, 6, 0x41, 0x40}, make([]byte, 4), ether(in))} }},
	{"bare pseudowire", func(in layer) layer { return layer{0x8847, join([]byte{0, 6, 0x41, 0x40}, ether(in))} }},
	{"bare pseudowire, like IPv4", func(in layer) layer {
		b := ether(in)
		b[0], b[1], b[2], b[3] = 0x46, 0, 0, 9
		return layer{0x8847, join([]byte{0, 6, 0x41, 0x40}, b)}
	}},
	{"PPPoE", func(in layer) layer {
		p := map[uint16]uint16{0x0800: 0x0021, 0x86dd: 0x0057, 0x8847: 0x0281, 0x8848: 0x0283, 0x6558: 0x0031}[in.etherType]
		b := join(u16(p), in.b)
		if p == 0x0031 {
			b = join(u16(p, 0x0001), in.b)
		}
		return layer{0x8864, join([]byte{0x11, 0, 0, 1}, u16(uint16(len(b))), b)}
	}},
	{"PPPoE, multilink, short protocols", func(in layer) layer {
		p := map[uint16]byte{0x0800: 0x21, 0x86dd: 0x57, 0x6558: 0x31}[in.etherType]
		b := join([]byte{0x3d, 0xc0, 0, 0, 1, p}, in.b)
		return layer{0x8864, join([]byte{0x11, 0, 0, 1}, u16(uint16(len(b))), b)}
	}},
	{"SNAP", func(in layer) layer {
		b := join([]byte{0xaa, 0xaa, 3, 0, 0, 0}, u16(in.etherType), in.b)
		return layer{uint16(len(b)), b}
	}},
	{"SNAP, bridged", func(in layer) layer {
		b := join([]byte{0xaa, 0xaa, 3, 0, 0x80, 0xc2, 0, 7, 0, 0}, ether(in))
		return layer{uint16(len(b)), b}
	}},
	{"jumbo 802.2, 802.1H", func(in layer) layer {
		return layer{0x8870, join([]byte{0xaa, 0xaa, 3, 0, 0, 0xf8}, u16(in.etherType), in.b)}
	}},
	{"SAP of IP", func(in layer) layer { return layer{uint16(3 + len(in.b)), join([]byte{6, 6, 3}, in.b)} }},
	{"ISL", func(in layer) layer {
		return layer{0x6558, join([]byte{1, 0, 0x0c, 0, 0, 0, 2, 0, 0, 0, 0, 2, 0, 0x3a, 0xaa, 0xaa, 3, 0, 0, 0x0c, 0, 10, 0, 0, 0, 0}, ether(in))}
	}},
	{"ISL, of the other kind", func(in layer) layer {
		return layer{0x6558, join([]byte{3, 0, 0x0c, 0, 0, 0, 2, 0, 0, 0, 0, 2, 0, 0x3a, 0xaa, 0xaa, 3, 0, 0, 0x0c, 0, 10, 0, 0, 0, 0}, ether(in))}
	}},
	{"VN-Tag", func(in layer) layer { return layer{0x8926, join([]byte{0, 0, 0, 1}, u16(in.etherType), in.b)} }},
	{"E-Tag", func(in layer) layer { return layer{0x893f, join(make([]byte, 6), u16(in.etherType), in.b)} }},
	{"I-Tag", func(in layer) layer { return layer{0x88e7, join([]byte{0, 0, 0, 5}, ether(in))} }},
	{"metadata", func(in layer) layer { return layer{0x8909, join([]byte{1, 1, 0, 1, 0, 5}, u16(in.etherType), in.b)} }},
	{"MACsec", func(in layer) layer {
		return layer{0x88e5, join(make([]byte, 6), u16(in.etherType), in.b, make([]byte, 16))}
	}},
	{"MACsec with SCI", func(in layer) layer {
		return layer{0x88e5, join([]byte{0x20}, make([]byte, 13), u16(in.etherType), in.b)}
	}},
	{"NSH", func(in layer) layer {
		next, b := map[uint16]byte{0x0800: 1, 0x86dd: 2, 0x8847: 5, 0x8848: 5}[in.etherType], in.b
		if next == 0 {
			next, b = 3, ether(in)
		}
		return layer{0x894f, join([]byte{0, 0x43, 2, next, 0, 0, 1, 0xff, 9, 9, 9, 9}, b)}
	}},
	{"TRILL", func(in layer) layer { return layer{0x22f3, join([]byte{0, 0x40, 0, 1, 0, 2, 9, 9, 9, 9}, ether(in))} }},
	{"FabricPath", func(in layer) layer { return layer{0x8903, join([]byte{0, 0x47}, ether(in))} }},
}

// put puts the header of that name in front.
func put(name string, in layer) layer {
	for _, h := range linkHeaders {
		if h.name == name {
			return h.put(in)
		}
	}
	panic("no header " + name)
}

func ether(in layer) []byte {
	if in.etherType == 0x6558 { // an Ethernet frame already
		return append([]byte{}, in.b...)
	}
	return join(macs, u16(in.etherType), in.b)
}

var transports = []struct {
	proto byte
	b     []byte
}{
	{6, []byte{3, 0xe8, 7, 0xd0, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x1b, 0, 1, 0, 0, 0, 0, 'x'}},
	{17, []byte{3, 0xe8, 7, 0xd0, 0, 12, 0, 0, 'a', 'b', 'c', 'd'}},
	{1, []byte{8, 1, 0, 0, 0, 0, 0, 0}},
	{58, []byte{0x87, 2, 0, 0, 0, 0, 0, 0}},
	{132, []byte{3, 0xe8, 7, 0xd0, 0, 0, 0, 1, 0, 0, 0, 2, 0}},
	{33, []byte{3, 0xe8, 7, 0xd0, 0, 0, 0, 1}},
	{136, []byte{3, 0xe8, 7, 0xd0, 0, 8, 0, 1}},
	{47, []byte{0, 0, 8, 0, 0x45}},
	{50, make([]byte, 12)},
}

func ip4(proto byte, payload []byte) layer {
	b := []byte{0x45, 0xb8, 0, 0, 0, 0, 0x40, 0, 63, proto, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2}
	be.PutUint16(b[2:], uint16(20+len(payload)))
	return layer{0x0800, join(b, payload)}
}

func ip6(proto byte, payload []byte) layer {
	b := make([]byte, 40)
	b[0], b[1], b[6], b[7] = 0x6b, 0x8f, proto, 63
	be.PutUint16(b[4:], uint16(len(payload)))
	for i := range 32 {
		b[8+i] = byte(i + 1)
	}
	return layer{0x86dd, join(b, payload)}
}

// An extension header in front of a payload.
type extension struct {
	name string
	put  func(next byte, payload []byte) (byte, []byte)
}

var extensions = []extension{
	{"hop by hop", func(next byte, b []byte) (byte, []byte) { return 0, join([]byte{next, 0, 1, 4, 0, 0, 0, 0}, b) }},
	{"routing", func(next byte, b []byte) (byte, []byte) { return 43, join([]byte{next, 2, 4, 0}, make([]byte, 20), b) }},
	{"destination", func(next byte, b []byte) (byte, []byte) { return 60, join([]byte{next, 1}, make([]byte, 14), b) }},
	{"atomic fragment", func(next byte, b []byte) (byte, []byte) { return 44, join([]byte{next, 0, 0, 1, 0, 0, 0, 9}, b) }},
	{"first fragment, reserved bits", func(next byte, b []byte) (byte, []byte) { return 44, join([]byte{next, 0, 0, 7, 0, 0, 0, 9}, b) }},
	{"later fragment", func(next byte, b []byte) (byte, []byte) { return 44, join([]byte{next, 0, 0, 9, 0, 0, 0, 9}, b) }},
	{"authentication", func(next byte, b []byte) (byte, []byte) { return 51, join([]byte{next, 4}, make([]byte, 22), b) }},
}

// allOrders gives every order of up to three link headers in front of IPv4 and
// IPv6, and every order of up to four extension headers.
func allOrders(yield func(*question) bool) {
	frame := func(l layer) bool {
		b := ether(l)
		return yield(&question{start: startEthernet, wire: uint32(len(b)), data: b})
	}
	var put func(l layer, depth int) bool
	put = func(l layer, depth int) bool {
		if !frame(l) {
			return false
		}
		if depth == 0 {
			return true
		}
		for _, h := range linkHeaders {
			if !put(h.put(l), depth-1) {
				return false
			}
		}
		return true
	}
	if !put(ip4(17, transports[1].b), 3) || !put(ip6(6, transports[0].b), 3) {
		return
	}
	var extend func(proto byte, b []byte, depth int) bool
	extend = func(proto byte, b []byte, depth int) bool {
		if !frame(ip6(proto, b)) {
			return false
		}
		if depth == 0 {
			return true
		}
		for _, e := range extensions {
			if next, b := e.put(proto, b); !extend(next, b, depth-1) {
				return false
			}
		}
		return true
	}
	for _, t := range transports {
		if !frame(ip4(t.proto, t.b)) || !extend(t.proto, t.b, 4) {
			return
		}
	}
}

// limits gives frames at the limits of what is followed: how many headers, how
// far, how many tries within each other, extension headers, options.
func limits(yield func(*question) bool) {
	frame := func(l layer) bool {
		b := ether(l)
		return yield(&question{start: startEthernet, wire: uint32(len(b)), data: b})
	}
	times := func(n int, name string, l layer) layer {
		for range n {
			l = put(name, l)
		}
		return l
	}
	for _, ip := range []layer{ip4(17, transports[1].b), ip6(6, transports[0].b)} {
		for n := range 40 {
			for _, h := range linkHeaders { // alone, and in each kind of pseudowire
				if !frame(times(n, h.name, ip)) || !frame(put("pseudowire", times(n, h.name, ip))) || !frame(put("bare pseudowire", times(n, h.name, ip))) ||
					!frame(times(n, "802.1Q", h.put(ip))) || !frame(times(n, "label", times(2, h.name, ip))) {
					return
				}
			}
			l := ip
			for range n % 8 { // many octets each
				l = layer{0x8909, join([]byte{1, byte(248 + n/8)}, make([]byte, (248+n/8)*4), u16(l.etherType), l.b)}
			}
			if !frame(l) || !frame(put("802.1Q", l)) || !frame(put("bare pseudowire", l)) {
				return
			}
			// pseudowires of all kinds within each other, leading to IP or to nothing
			for _, in := range []layer{ip, {0x88cc, make([]byte, 60)}, {0x0806, make([]byte, 28)}, {ip.etherType ^ 0x8edd, ip.b}} {
				for k, l := n, in; k > 0; k /= 3 {
					l = put([]string{"pseudowire", "bare pseudowire", "bare pseudowire, like IPv4"}[k%3], l)
					if !frame(l) {
						return
					}
				}
			}
		}
	}
	// lengths, one by one
	jumbo := func(length uint32) layer {
		opts := be.AppendUint32([]byte{6, 1, 1, 4, 0, 0, 0, 0, 0xc2, 4}, length)
		l := ip6(0, join(opts, []byte{1, 0}, transports[0].b))
		l.b[4], l.b[5] = 0, 0
		return l
	}
	for n := range 120 {
		for _, in := range []layer{ip4(6, transports[0].b), jumbo(80000), jumbo(uint32(n)), jumbo(-uint32(n))} {
			for _, name := range []string{"PPPoE", "PPPoE, multilink, short protocols"} {
				l := put(name, in)
				be.PutUint16(l.b[4:], uint16(n))
				outer := put("SNAP", l)
				if !frame(l) || !frame(outer) {
					return
				}
				outer.etherType = uint16(n)
				if !frame(outer) {
					return
				}
			}
		}
		longer := ip4(6, transports[0].b) // by one octet than PPPoE says
		be.PutUint16(longer.b[2:], uint16(n)-1)
		session := put("PPPoE", longer)
		be.PutUint16(session.b[4:], uint16(n))
		if !frame(session) {
			return
		}
		bare := put("bare pseudowire, like IPv4", ip4(6, transports[0].b))
		bare.b[7] = byte(n)
		nsh := put("NSH", ip4(6, transports[0].b))
		nsh.b[1] = byte(n)
		trill := put("TRILL", ip4(6, transports[0].b))
		be.PutUint16(trill.b, uint16(n)<<5)
		multilink := put("PPPoE, multilink, short protocols", ip4(6, transports[0].b))
		multilink.b[7] = byte(n << 3)
		if !frame(bare) || !frame(nsh) || !frame(trill) || !frame(multilink) {
			return
		}
		empty := ip6(17, nil)
		empty.b = append(empty.b, transports[1].b...)
		b := ether(empty)
		if !yield(&question{start: startEthernet, wire: uint32(etherLen + 40 + 65535 - 60 + n), data: b}) {
			return
		}
		// how far the last header may be, to the octet
		far := put("802.1Q", ip4(6, transports[0].b))
		if n%2 != 0 {
			far = put("PPPoE, multilink, short protocols", layer{0x6558, ether(far)})
		}
		far = times(n/2%30, "802.1Q", far)
		for range 3 {
			far = layer{0x8909, join([]byte{1, 255}, make([]byte, 255*4), u16(far.etherType), far.b)}
		}
		far = layer{0x8909, join([]byte{1, byte(200 + n/4)}, make([]byte, 4*(200+n/4)), u16(far.etherType), far.b)}
		if !frame(far) {
			return
		}
	}
	for n := range 12 {
		for _, e := range extensions[:5] {
			proto, b := byte(6), transports[0].b
			for range n {
				proto, b = e.put(proto, b)
			}
			if !frame(ip6(proto, b)) {
				return
			}
		}
		for _, pad := range [][]byte{{0}, {1, 0}, {1, 2, 0, 0}} {
			opts := append(bytes.Repeat(pad, n), 0xc2, 4, 0, 1, 0, 0)
			for len(opts)%8 != 6 {
				opts = append(opts, 0)
			}
			l := ip6(0, join([]byte{6, byte(len(opts) / 8)}, opts, transports[0].b))
			l.b[4], l.b[5] = 0, 0
			if !frame(l) {
				return
			}
		}
	}
}

// truncated gives each question cut at each octet, the wire's length kept.
func truncated(qs iter.Seq[*question], every int) iter.Seq[*question] {
	return func(yield func(*question) bool) {
		i := 0
		for q := range qs {
			if i++; i%every != 0 {
				if !yield(q) {
					return
				}
				continue
			}
			for n := range len(q.data) + 1 {
				cut := *q
				cut.data = q.data[:n:n]
				if !yield(&cut) {
					return
				}
			}
		}
	}
}

// dice draws frames that are right, or nearly so.
type dice struct{ *rand.Rand }

func pick[T any](d dice, of ...T) T { return of[d.IntN(len(of))] }

func (d dice) one(n int) bool { return d.IntN(n) == 0 }

func (d dice) octets(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(d.Uint32())
	}
	return b
}

func (d dice) network() layer {
	t := pick(d, transports...)
	payload := t.b
	if d.one(4) {
		payload = d.octets(d.IntN(30))
	}
	if d.one(10) {
		payload = join(payload, d.octets(d.IntN(300)))
	}
	if d.one(2) {
		l := ip4(t.proto, payload)
		b := l.b
		switch d.IntN(12) {
		case 0:
			b = join(b[:20], d.octets(4*d.IntN(11)), b[20:])
			b[0] = 0x40 | byte(5+(len(b)-len(l.b))/4)
			be.PutUint16(b[2:], uint16(len(b)))
		case 1:
			be.PutUint16(b[2:], pick(d, 0, 0, 1, 19, 20, 21, uint16(d.IntN(100)), uint16(d.Uint32())))
		case 2:
			be.PutUint16(b[6:], pick(d, 0x2000, 0x2001, 1, 0x1fff, 0x8000, uint16(d.Uint32())))
		case 3:
			b[0] = byte(d.Uint32())
		case 4:
			b[0] = 0x40 | byte(d.IntN(16))
		}
		copy(b[12:20], d.octets(8))
		l.b = b
		return l
	}
	proto := t.proto
	for range pick(d, 0, 0, 1, 1, 2, 3, 5, 7, 8, 9, 12) {
		if d.one(3) {
			kind := pick[byte](d, 0, 43, 60, 44)
			size := pick(d, 0, 0, 1, 3, d.IntN(256))
			h := join([]byte{proto, byte(size)}, d.octets(6))
			if kind != 44 {
				h = join(h, d.octets(min(8*size, 8*d.IntN(40))))
			} else if d.one(2) {
				h[2], h[3] = 0, 1
			}
			proto, payload = kind, join(h, payload)
			continue
		}
		proto, payload = pick(d, extensions...).put(proto, payload)
	}
	jumbo := d.one(6)
	if jumbo {
		var opts []byte
		for range d.IntN(12) {
			opts = join(opts, pick(d, []byte{0}, []byte{0}, []byte{1, 0}, []byte{5, 2, 0, 0}, []byte{1, byte(d.IntN(20))}))
		}
		opts = join(opts, []byte{0xc2, 4}, pick(d, []byte{0, 1, 0, 0}, []byte{0xff, 0xff, 0xff, 0xff}, []byte{0, 0, 0, byte(d.Uint32())}, d.octets(4)))
		for (len(opts)+2)%8 != 0 {
			opts = append(opts, 0)
		}
		payload = join([]byte{proto, byte((len(opts)+2)/8 - 1)}, opts, payload)
		proto = 0
	}
	l := ip6(proto, payload)
	switch {
	case jumbo && !d.one(4):
		be.PutUint16(l.b[4:], 0)
	case d.one(12):
		be.PutUint16(l.b[4:], pick(d, 0, 0, 1, 8, uint16(d.IntN(100)), uint16(d.Uint32())))
	case d.one(20):
		l.b[0] = byte(d.Uint32())
	}
	return l
}

// question draws one.
func (d dice) question() *question {
	l := d.network()
	for range pick(d, 0, 0, 0, 1, 1, 2, 2, 3, 4, 6, 9, 20, 40) {
		h := pick(d, linkHeaders...)
		if d.one(3) {
			h = linkHeaders[d.IntN(5)]
		}
		l = h.put(l)
		switch {
		case d.one(40) && len(l.b) > 0: // a length that lies, an announcement of something else
			l.b[d.IntN(min(len(l.b), 16))] = byte(d.Uint32())
		case d.one(200):
			l.etherType = pick(d, 0x0806, 0x8035, 0x88cc, 0x8863, 1500, 1501, 0, uint16(d.Uint32()))
		case d.one(100):
			l = layer{0x8909, join([]byte{1, 255}, d.octets(255*4), u16(l.etherType), l.b)} // far
		}
	}
	q := &question{start: startEthernet}
	switch d.IntN(6) {
	case 0:
		q.start, q.data = uint32(l.etherType), l.b
	case 1:
		q.start, q.data = startRaw, l.b
		if d.one(4) {
			q.start = uint32(pick[uint16](d, 0x0800, 0x86dd))
		}
	default:
		q.data = ether(l)
	}
	if d.one(10) {
		q.data = join(q.data, d.octets(d.IntN(20)))
	}
	if d.one(10) && len(q.data) > 0 {
		q.data[d.IntN(len(q.data))] ^= byte(d.Uint32())
	}
	q.wire = uint32(len(q.data))
	switch d.IntN(12) {
	case 0:
		q.wire = pick(d, 0, 1, q.wire/2, q.wire+1, 65535, 70000, 1<<31, 1<<32-1, d.Uint32())
	case 1:
		q.wire += uint32(d.IntN(100000))
	}
	if len(q.data) > 65536 {
		q.data = q.data[:65536]
	}
	if d.one(4) {
		n := d.IntN(len(q.data) + 1)
		q.data = q.data[:n:n]
	}
	if d.one(5) && q.start != startRaw {
		q.vlan = flow.KeyTagged | uint16(d.IntN(4096))
	}
	return q
}

// drawn gives n questions.
func drawn(seed uint64, n int) iter.Seq[*question] {
	return func(yield func(*question) bool) {
		d := dice{rand.New(rand.NewPCG(seed, 1))}
		for range n {
			if !yield(d.question()) {
				return
			}
		}
	}
}

// of is a frame of a capture as a question, if parse.h has that link type.
func of(link packet.LinkType, data []byte, wire uint32) *question {
	q := &question{wire: wire, data: data}
	switch link {
	case packet.LinkEthernet:
		q.start = startEthernet
	case packet.LinkRaw, packet.LinkRawBSD, packet.LinkRawOpenBSD:
		q.start = startRaw
	case packet.LinkIPv4:
		q.start = 0x0800
	case packet.LinkIPv6:
		q.start = 0x86dd
	case packet.LinkPPPoE:
		q.start = 0x8864
	default:
		if link>>16 != packet.LinkNetwork>>16 {
			return nil
		}
		q.start = uint32(link & 0xffff)
	}
	return q
}

// corpusFrames gives at most each frames of every capture of the corpus, and
// says how many captures there were.
func corpusFrames(t testing.TB, each int, yield func(*question) bool) int {
	dir := os.Getenv("WEIR_CORPUS")
	if dir == "" {
		dir = "../../shared/corpus"
	}
	all, _ := filepath.Glob(filepath.Join(dir, "packets", "*.pcap*"))
	opened := 0
	for _, path := range all {
		src, err := capture.Open(path)
		if err != nil {
			continue
		}
		opened++
		var b capture.Batch
		for n := 0; n < each; {
			err := src.Read(&b)
			for _, p := range b.Packets[:min(len(b.Packets), each-n)] {
				if q := of(p.Link, append([]byte{}, p.Data[:min(len(p.Data), 65536)]...), p.Wire); q != nil && !yield(q) {
					src.Close()
					return opened
				}
			}
			n += len(b.Packets)
			if err != nil {
				break
			}
		}
		src.Close()
	}
	return opened
}

// fuzzCorpus gives what fuzzing package packet has found, as far as it is kept.
func fuzzCorpus(t testing.TB, yield func(*question) bool) {
	files, _ := filepath.Glob("../packet/testdata/fuzz/FuzzDecode/*")
	for _, path := range files {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var link uint64
		var data string
		for _, line := range strings.Split(string(b), "\n") {
			switch v, _ := strings.CutSuffix(line, ")"); {
			case strings.HasPrefix(v, "uint32("):
				link, err = strconv.ParseUint(v[len("uint32("):], 0, 32)
			case strings.HasPrefix(v, "[]byte("):
				data, err = strconv.Unquote(v[len("[]byte("):])
			}
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
		}
		for _, q := range []*question{
			of(packet.LinkType(link), []byte(data), uint32(len(data))),
			{start: startEthernet, wire: uint32(len(data)), data: []byte(data)},
		} {
			if q != nil && !yield(q) {
				return
			}
		}
	}
}

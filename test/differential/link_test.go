package differential

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// A frame of a capture: the octets it has, how long it was on the wire, and in
// words what it is.
type frame struct {
	octets []byte
	wire   int
	link   int
	words  string
}

// Link types, as capture files number them.
const (
	linkNull     = 0
	linkEthernet = 1
	linkPPP      = 9
	linkRawBSD   = 12
	linkPPPHDLC  = 50
	linkPPPoE    = 51
	linkRaw      = 101
	linkCHDLC    = 104
	linkWLAN     = 105
	linkFrame    = 107
	linkLoop     = 108
	linkSLL      = 113
	linkRadiotap = 127
	linkPPPDir   = 204
	linkIPv4     = 228
	linkIPv6     = 229
	linkNFLog    = 239
	linkSLL2     = 276
)

// links are the link types that are tried, Ethernet as often as it is met.
var links = []int{
	linkEthernet, linkNull, linkPPP, linkRaw, linkCHDLC, linkWLAN, linkLoop, linkSLL, linkRadiotap, linkIPv4, linkIPv6,
	linkNFLog, linkSLL2, linkPPPHDLC, linkRawBSD, linkFrame, linkPPPDir, linkPPPoE, linkEthernet, linkEthernet, linkEthernet,
}

// frame number n of a link type.
func (d dice) frame(n, link int) frame {
	p := d.packet(n)
	switch link {
	case linkRaw, linkRawBSD:
	case linkIPv4:
		p = d.ipv4(n)
	case linkIPv6:
		p = d.ipv6(n)
	case linkNull, linkLoop:
		p = d.loopback(p, link)
	case linkPPP, linkPPPHDLC:
		p = d.ppp(p)
	case linkPPPDir:
		p = d.ppp(p)
		p.octets = append([]byte{byte(d.IntN(2))}, p.octets...)
	case linkPPPoE:
		p = d.pppoe(p)
	case linkNFLog:
		p = d.nflog(p)
	case linkWLAN:
		p = d.wlan(p, false)
	case linkRadiotap:
		p = d.radiotap(p)
	default:
		p = d.headers(p)
		switch link {
		case linkEthernet:
			p = d.ethernet(p)
		case linkCHDLC:
			if p.etherType != 0x0800 && p.etherType != 0x86dd { // nothing else is numbered there
				p = d.packet(n)
			}
			p.octets = join([]byte{byte(pick(d, 0x0f, 0x0f, 0x8f)), 0}, u16(nil, p.etherType), p.octets)
		case linkSLL:
			p = d.cooked(p)
		case linkSLL2:
			p = d.cooked2(p)
		case linkFrame:
			if p.etherType <= 1500 {
				p = d.packet(n)
			}
			p = d.frameRelay(p)
		}
	}
	f := frame{octets: p.octets, wire: len(p.octets), link: link, words: p.words}
	switch d.IntN(8) {
	case 0:
		f.cut(d.between(1, len(f.octets))) // tshark gives up files with a frame of nothing
	case 1:
		f.cut(min(len(f.octets), pick(d, 64, 68, 96)))
	}
	return f
}

func (f *frame) cut(n int) {
	if n < len(f.octets) {
		f.words = fmt.Sprintf("cut to %d of %d %s", n, f.wire, f.words)
	}
	f.octets = f.octets[:n]
}

// headers puts tags, labels and the like in front of a packet.
func (d dice) headers(p network) network {
	for range pick(d, 0, 0, 1, 1, 2, 3, 4) {
		switch d.IntN(12) {
		case 0, 1, 2, 3, 4, 5:
			id := pick(d, 0, d.IntN(4096), 1)
			p.octets = join(u16(nil, d.IntN(16)<<12|id, p.etherType), p.octets)
			p.etherType = pick(d, 0x8100, 0x8100, 0x88a8, 0x9100, 0x9200, 0x9300)
			p.words = fmt.Sprintf("%#04x %d %s", p.etherType, id, p.words)
		case 6, 7:
			p = d.mpls(p)
		case 8:
			p = d.pppoe(p)
		case 9:
			p = d.snap(p)
			p.etherType = len(p.octets)
		case 10:
			if d.one(3) {
				p.etherType = pick(d, 0x0806, 0x8035, 0x88cc, 0x888e, 0x8863, 0x9000, 0x88f7, 0x8809, 0x0900, d.IntN(65536))
				p.words = fmt.Sprintf("type %#04x %s", p.etherType, p.words)
			}
		case 11:
			if d.one(4) {
				switch d.IntN(4) {
				case 0:
					p.octets = join(d.octets(4), u16(nil, p.etherType), p.octets)
					p.etherType = 0x8926
				case 1:
					p.octets = join(d.octets(6), u16(nil, p.etherType), p.octets)
					p.etherType = 0x893f
				case 2:
					p.octets = join([]byte{byte(d.IntN(16)) & 0xf3, 0}, d.octets(4), u16(nil, p.etherType), p.octets)
					p.etherType = 0x88e5
				case 3:
					p = d.ethernet(p)
					p.octets = append([]byte{0, 0, 0, 1}, p.octets...)
					p.etherType = 0x88e7
				}
				p.words = fmt.Sprintf("type %#04x %s", p.etherType, p.words)
			}
		}
	}
	return p
}

func (d dice) ethernet(p network) network {
	dst, src := d.octets(6), d.octets(6)
	dst[0] &= 0xfe
	src[0] &= 0xfe
	b := join(dst, src, u16(nil, p.etherType), p.octets)
	if len(b) < 60 && d.one(2) {
		b = append(b, make([]byte, 60-len(b))...)
		p.words = "padded " + p.words
	}
	if d.one(10) {
		b = append(b, d.octets(d.between(1, 12))...)
		p.words = "trailer " + p.words
	}
	p.octets = b
	p.words = "eth " + p.words
	return p
}

func (d dice) mpls(p network) network {
	words := "mpls"
	switch {
	case p.etherType == 0x0800 || p.etherType == 0x86dd:
		if d.one(4) {
			p = d.ethernet(p)
			words = "pseudowire"
			if d.one(3) { // what cannot be told from IP or a control word is nobody's fault
				p.octets[0] = p.octets[0]&0x0f | 0xa0
				words = "bare pseudowire"
			} else {
				p.octets = append(pick(d, []byte{0, 0, 0, 0}, []byte{0, 0, 1, 2}), p.octets...)
			}
		}
	default:
		p = d.ethernet(p)
		p.octets = append([]byte{0, 0, byte(d.IntN(2)), byte(d.IntN(256))}, p.octets...)
		words = "pseudowire"
	}
	n := pick(d, 1, 1, 2, 3, 5)
	var b []byte
	for i := range n {
		label := uint32(pick(d, d.between(16, 1<<20-1), d.between(16, 1<<20-1), 0, 2, 3, 13, 14))
		bottom := uint32(0)
		if i == n-1 {
			bottom = 1
			if label == 13 || label == 14 {
				label = 100
			}
		}
		b = u32(b, label<<12|d.Uint32N(8)<<9|bottom<<8|d.Uint32N(256))
	}
	p.octets = append(b, p.octets...)
	p.etherType = pick(d, 0x8847, 0x8847, 0x8847, 0x8848)
	p.words = fmt.Sprintf("%s(%d) %s", words, n, p.words)
	return p
}

// pppProtocol puts a PPP protocol field in front.
func (d dice) pppProtocol(p network) network {
	n := map[int]int{0x0800: 0x0021, 0x86dd: 0x0057, 0x8847: 0x0281, 0x8848: 0x0283}[p.etherType]
	if n == 0 || d.one(20) {
		n = pick(d, 0xc021, 0x8021, 0x00fd, 0x002d)
	}
	b := u16(nil, n)
	if n < 256 && n&1 != 0 && d.one(4) {
		b = b[1:]
	}
	p.words = fmt.Sprintf("ppp %x %s", b, p.words)
	p.octets = append(b, p.octets...)
	return p
}

func (d dice) ppp(p network) network {
	if d.one(4) {
		p = d.mpls(p)
	}
	p = d.pppProtocol(p)
	if d.one(8) {
		return p // address and control compressed away
	}
	p.octets = append([]byte{0xff, 3}, p.octets...)
	p.words = "ff03 " + p.words
	return p
}

func (d dice) pppoe(p network) network {
	p = d.pppProtocol(p)
	length := pick(d, len(p.octets), len(p.octets), len(p.octets), 0, d.IntN(65536))
	p.octets = join([]byte{0x11, 0}, u16(nil, d.IntN(65536), length), p.octets)
	p.etherType = 0x8864
	p.words = fmt.Sprintf("pppoe(%d) %s", length, p.words)
	return p
}

// snap is an 802.2 frame.
func (d dice) snap(p network) network {
	switch d.IntN(8) {
	case 0:
		if p.etherType == 0x0800 {
			p.octets = append([]byte{6, 6, 3}, p.octets...)
			p.words = "llc ip " + p.words
			return p
		}
	case 1:
		p.octets = append(pick(d, []byte{0x42, 0x42, 3}, []byte{0xfe, 0xfe, 3}, []byte{0xe0, 0xe0, 3}, []byte{0xaa, 0xaa, 3, 0, 0, 0x0c, 0x20, 0}), p.octets...)
		p.words = "llc " + p.words
		return p
	}
	if p.etherType <= 1500 {
		p.etherType = 0x0806
	}
	p.octets = join([]byte{0xaa, 0xaa, 3}, pick(d, []byte{0, 0, 0}, []byte{0, 0, 0}, []byte{0, 0, 0xf8}), u16(nil, p.etherType), p.octets)
	p.words = "snap " + p.words
	return p
}

func (d dice) loopback(p network, link int) network {
	family := uint32(2)
	if p.etherType == 0x86dd {
		family = pick(d, uint32(24), 28, 30)
	}
	if d.one(20) {
		family = uint32(pick(d, 0, 1, 7, 10, 17, 23, d.IntN(40)))
	}
	b := be.AppendUint32(nil, family)
	if link == linkNull && d.one(2) {
		b = binary.LittleEndian.AppendUint32(nil, family)
	}
	p.words = fmt.Sprintf("family %x %s", b, p.words)
	p.octets = append(b, p.octets...)
	return p
}

func (d dice) cooked(p network) network {
	b := u16(nil, d.IntN(5), 1, 6)
	b = append(b, d.octets(8)...)
	if p.etherType <= 1500 {
		p.etherType = 4
	}
	p.octets = join(b, u16(nil, p.etherType), p.octets)
	p.words = "sll " + p.words
	return p
}

func (d dice) cooked2(p network) network {
	if p.etherType <= 1500 {
		p.etherType = 4
	}
	b := u16(nil, p.etherType, 0, 0, d.IntN(100), 1)
	b = append(b, byte(d.IntN(5)), 6)
	p.octets = join(b, d.octets(8), p.octets)
	p.words = "sll2 " + p.words
	return p
}

func (d dice) nflog(p network) network {
	family := byte(2)
	if p.etherType == 0x86dd {
		family = 10
	}
	if d.one(20) {
		family = byte(pick(d, 0, 7, 1, 3))
	}
	attribute := func(kind int, value []byte) []byte {
		b := binary.LittleEndian.AppendUint16(nil, uint16(4+len(value)))
		b = append(binary.LittleEndian.AppendUint16(b, uint16(kind)), value...)
		for len(b)%4 != 0 {
			b = append(b, 0)
		}
		return b
	}
	b := []byte{family, 0, 0, 5}
	if d.one(2) {
		b = append(b, attribute(1, u16(nil, p.etherType, 0x100))...)
	}
	b = append(b, attribute(10, []byte("prefix\x00")[d.between(0, 6):])...)
	if d.one(2) {
		b = append(b, attribute(4, d.octets(4))...)
	}
	if d.one(4) {
		b = append(b, attribute(pick(d, 11, 12, 14), d.octets(4))...)
	}
	p.octets = append(b, attribute(9, p.octets)...)
	p.words = fmt.Sprintf("nflog(%d) %s", family, p.words)
	return p
}

// bigEndianNFLog turns the attributes' headers round, as a machine of the other
// byte order writes them.
func bigEndianNFLog(b []byte) []byte {
	b = bytes.Clone(b)
	for i := 4; i+4 <= len(b); {
		size := int(binary.LittleEndian.Uint16(b[i:]))
		be.PutUint16(b[i:], uint16(size))
		be.PutUint16(b[i+2:], binary.LittleEndian.Uint16(b[i+2:]))
		i += (size + 3) &^ 3
	}
	return b
}

func (d dice) frameRelay(p network) network {
	address := pick(d, []byte{0x18, 0x41}, []byte{0x18, 0x40, 0x03}, []byte{0x18, 0x40, 0x02, 0x05})
	var b []byte
	switch {
	case p.etherType == 0x0800 && d.one(2):
		b = []byte{3, 0xcc}
	case p.etherType == 0x86dd && d.one(2):
		b = []byte{3, 0x8e}
	default:
		b = join(pick(d, []byte{3, 0, 0x80, 0, 0, 0}, []byte{3, 0x80, 0, 0, 0}), u16(nil, p.etherType))
	}
	p.octets = join(address, b, p.octets)
	p.words = "frame relay " + p.words
	return p
}

// wlan is an 802.11 frame of any kind.
func (d dice) wlan(p network, padded bool) network {
	control := [2]byte{0x08, byte(pick(d, 0, 1, 2, 3))}
	fragment := 0
	words := "802.11"
	switch d.IntN(16) {
	case 0:
		control[0] = byte(pick(d, 0x00, 0x40, 0x80, 0xb4, 0xd4, 0xc4, 0xd0))
		words += " no data"
	case 1:
		control[0] |= byte(pick(d, 0x40, 0x20, 0x10, 0x30))
		words += " subtype"
	case 2:
		control[1] |= 0x40
		words += " protected"
	case 3:
		fragment = d.between(1, 15)
		words += " fragment"
	case 4:
		control[1] |= 0x04
		words += " more fragments"
	}
	qos := d.one(2)
	if qos {
		control[0] |= 0x80
	}
	ht := d.one(8)
	if ht {
		control[1] |= 0x80
	}
	b := []byte{control[0], control[1], 0, 0}
	b = append(b, d.octets(18)...)
	for _, i := range []int{4, 10, 16} {
		b[i] &= 0xfe
	}
	b = binary.LittleEndian.AppendUint16(b, uint16(d.IntN(4096)<<4|fragment))
	if control[1]&3 == 3 {
		b = append(b, d.octets(6)...)
	}
	if qos {
		b = append(b, byte(d.IntN(8)), 0)
		words += " qos"
		if ht {
			b = append(b, d.octets(4)...)
			words += " ht"
		}
	}
	if padded {
		for len(b)%4 != 0 {
			b = append(b, 0)
		}
	}
	p = d.snap(p)
	p.octets = append(b, p.octets...)
	p.words = words + " " + p.words
	return p
}

func (d dice) radiotap(p network) network {
	flags, hasFlags := byte(0), d.one(2)
	padded := hasFlags && d.one(3)
	if padded {
		flags |= 0x20
	}
	fcs := hasFlags && d.one(3)
	if fcs {
		flags |= 0x10
	}
	p = d.wlan(p, padded)
	if fcs {
		p.octets = append(p.octets, d.octets(4)...)
	}
	present := uint32(0)
	var b []byte
	more := d.one(4)
	if d.one(2) {
		present |= 1
		if more {
			b = append(b, 0, 0, 0, 0)
		}
		b = append(b, d.octets(8)...)
	}
	if hasFlags {
		present |= 2
		b = append(b, flags)
	}
	if d.one(2) {
		present |= 4
		b = append(b, 2)
	}
	words := []uint32{present}
	if more {
		words = []uint32{present | 1<<31, 0}
	}
	h := []byte{0, 0, 0, 0}
	for _, w := range words {
		h = binary.LittleEndian.AppendUint32(h, w)
	}
	h = append(h, b...)
	binary.LittleEndian.PutUint16(h[2:], uint16(len(h)))
	p.octets = append(h, p.octets...)
	p.words = "radiotap " + p.words
	return p
}

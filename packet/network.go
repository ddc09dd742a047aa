package packet

import (
	"encoding/binary"
	"math/bits"

	"weir/flow"
)

// Layer is where a frame's network layer starts.
type Layer struct {
	EtherType uint16 // 0x0800 or 0x86dd; what the link header says for frames without IP, 0 where it has none
	VLAN      uint16 // as in flow.Key: the outermost tag, or 0
	Offset    int    // octets from the start of the frame
	End       int    // the same, of its end as a link header's length tells it, which may be beyond the frame; 0: untold
}

// Limits on what is read in front of one IP header. The kernel's twin
// (bpf/parse.h) has the same, so that both always agree; what it can check in
// advance has an end.
const (
	// Four tags in front of a pseudowire with four tags of its own are possible;
	// more than thirty-two headers are an attack. Each tag, label, Ethernet,
	// 802.2 and PPP header counts.
	maxHeaders = 32
	maxOctets  = 4096 // in front of the last link header
	maxTries   = 4    // pseudowires within each other that are tried
)

// Network finds the outermost IP header of a frame. With a Reason other than
// Decoded the frame has none that can be found, and Offset says how far the
// link headers were understood.
func Network(link LinkType, data []byte) (Layer, Reason) {
	w := walker{b: data}
	why := w.link(link)
	return w.at, why
}

// walker stands at at.Offset in b. Each of its methods reads the header of its
// name there, moves on behind it and goes on with what it announces.
type walker struct {
	b       []byte
	at      Layer
	headers int // that were read
	tries   int // pseudowires that are being tried

	more   *flow.More // nil: what it tells is not wanted
	labels int        // in more
}

// deep counts one more header, and says whether that is one too many.
func (w *walker) deep() bool {
	w.headers++
	return w.headers > maxHeaders || w.at.Offset > maxOctets
}

// need says whether n octets are left.
func (w *walker) need(n int) bool { return len(w.b)-w.at.Offset >= n }

// rest is what is left of the frame.
func (w *walker) rest() []byte { return w.b[w.at.Offset:] }

// limit says that a header's length leaves n octets: what comes behind them is
// padding, a trailer, another header's.
func (w *walker) limit(n int) {
	end := w.at.Offset + n
	if w.at.End == 0 || end < w.at.End {
		w.at.End = end
	}
	w.b = w.b[:min(end, len(w.b))]
}

// skip moves on by n octets, which need has found.
func (w *walker) skip(n int) { w.at.Offset += n }

func (w *walker) link(link LinkType) Reason {
	switch link {
	case LinkEthernet:
		return w.ethernet()
	case LinkRaw, LinkRawBSD, LinkRawOpenBSD:
		return w.rawIP()
	case LinkIPv4:
		return w.etherType(typeIPv4)
	case LinkIPv6:
		return w.etherType(typeIPv6)
	case LinkNull, LinkLoop:
		return w.loopback()
	case LinkSLL:
		return w.cooked()
	case LinkSLL2:
		return w.cooked2()
	case LinkPPP, LinkPPPHDLC:
		return w.ppp()
	case LinkPPPDir, LinkPPPWithDir:
		return w.after(1, w.ppp)
	case LinkPPPoE:
		return w.etherType(typePPPoE)
	case LinkCiscoHDLC:
		return w.ciscoHDLC()
	case LinkHDLCDir:
		return w.after(1, w.ciscoHDLC)
	case LinkFrameRelay:
		return w.frameRelay()
	case LinkNFLog:
		return w.nflog()
	case LinkPFLog:
		return w.pflog()
	case LinkWLAN:
		return w.wlan(false)
	case LinkRadiotap:
		return w.radiotap()
	case LinkPrism:
		return w.prism()
	case LinkAVS:
		return w.avs()
	case LinkPPI:
		return w.ppi()
	case LinkARCNetBSD:
		return w.arcnet(2)
	case LinkARCNetLinux:
		return w.arcnet(4)
	}
	if link>>16 == LinkNetwork>>16 {
		return w.etherType(uint16(link))
	}
	return UnknownLink
}

// after skips n octets that say nothing of the packet.
func (w *walker) after(n int, next func() Reason) Reason {
	if !w.need(n) {
		return TruncatedLink
	}
	w.skip(n)
	return next()
}

// ip ends the walk at an IP header.
func (w *walker) ip(etherType uint16) Reason {
	w.at.EtherType = etherType
	return Decoded
}

// rawIP tells IPv4 from IPv6 by the first octet.
func (w *walker) rawIP() Reason {
	if !w.need(1) {
		return TruncatedIP
	}
	switch w.rest()[0] >> 4 {
	case 4:
		return w.ip(typeIPv4)
	case 6:
		return w.ip(typeIPv6)
	}
	return BadVersion
}

// ethernet reads an Ethernet II or 802.3 header, or a Cisco ISL header and the
// frame in it.
func (w *walker) ethernet() Reason {
	if w.deep() {
		return TooDeep
	}
	if !w.need(etherLen) {
		return TruncatedLink
	}
	b := w.rest()
	if len(b) >= 26 && (b[0] == 1 || b[0] == 3) && [4]byte(b[1:5]) == [4]byte{0, 0x0c, 0, 0} && [3]byte(b[14:17]) == [3]byte{0xaa, 0xaa, 3} {
		w.skip(26)
		return w.ethernet()
	}
	if w.more != nil && w.more.SrcMAC == [6]byte{} && w.more.DstMAC == [6]byte{} {
		w.more.DstMAC, w.more.SrcMAC = [6]byte(b), [6]byte(b[6:])
	}
	w.skip(etherLen)
	return w.etherType(be.Uint16(b[12:]))
}

// tag keeps the outermost tag, and the second if it is wanted.
func (w *walker) tag(t uint16) {
	if w.at.VLAN == 0 {
		w.at.VLAN = t
	} else if w.more != nil && w.more.InnerVLAN == 0 {
		w.more.InnerVLAN = t
	}
}

// etherType follows tags until the network layer. At each turn the walker is
// just behind an EtherType.
func (w *walker) etherType(t uint16) Reason {
	for {
		w.at.EtherType = t
		switch t {
		case typeIPv4, typeIPv6:
			return w.ip(t)
		case typeMPLS, typeMPLSMulti:
			return w.mpls()
		}
		if w.deep() {
			return TooDeep
		}
		b := w.rest()
		size := 0 // of a header that ends in the next EtherType
		switch t {
		case typeVLAN, typeProvider, typeQinQ:
			size = 4
			if len(b) >= size {
				w.tag(be.Uint16(b)&flow.VLANMask | flow.KeyTagged)
			}
		case typePPPoE: // version, type, code, session, length
			if len(b) < 6 {
				return TruncatedLink
			}
			w.skip(6)
			w.limit(int(be.Uint16(b[4:])))
			return w.pppProtocol()
		case typeVNTag:
			size = 6
		case typeETag:
			size = 8
		case typeBackbone: // I-tag, then the customer's addresses
			size = 4 + etherLen
		case typeMetadata: // version, length of the options in fours, options
			if len(b) >= 2 {
				size = 2 + int(b[1])*4 + 2
			} else {
				size = 2
			}
		case typeMACsec: // TCI, AN, SL, packet number [, SCI]
			if len(b) >= 1 {
				if b[0]&0x0c != 0 { // encrypted or changed
					return OtherType
				}
				size = 6 + int(b[0]&0x20)>>2 + 2
			} else {
				size = 8
			}
		case typeNSH:
			return w.nsh()
		case typeTRILL:
			if len(b) < 6 {
				return TruncatedLink
			}
			// The option length in fours has five bits, across two octets.
			return w.after(6+int(be.Uint16(b)>>6&0x1f)*4, w.ethernet)
		case typeFabric:
			return w.after(2, w.ethernet)
		case typeBridged:
			return w.ethernet()
		case typeJumboLLC:
			return w.llc()
		case typeARP, typeRARP:
			return ARP
		default:
			if t <= maxLLCLength {
				w.limit(int(t))
				return w.llc()
			}
			return OtherType
		}
		if len(b) < size {
			return TruncatedLink
		}
		t = be.Uint16(b[size-2:])
		w.skip(size)
	}
}

// nsh reads a network service header (RFC 8300): its length in fours in the low
// six bits of the second octet, what follows in the fourth.
func (w *walker) nsh() Reason {
	b := w.rest()
	if len(b) < 4 {
		return TruncatedLink
	}
	size := int(b[1]&0x3f) * 4
	if size < 8 || size > len(b) {
		return TruncatedLink
	}
	w.skip(size)
	switch b[3] {
	case 1:
		return w.ip(typeIPv4)
	case 2:
		return w.ip(typeIPv6)
	case 3:
		return w.ethernet()
	case 5:
		return w.mpls()
	}
	return OtherType
}

// llc reads an 802.2 header, with SNAP where it says so (RFC 1042).
func (w *walker) llc() Reason {
	if w.deep() {
		return TooDeep
	}
	b := w.rest()
	if len(b) < 3 {
		return TruncatedLink
	}
	switch {
	case b[0] == 0x06 && b[1] == 0x06 && b[2] == 3: // the SAP of IP
		w.skip(3)
		return w.ip(typeIPv4)
	case b[0] != 0xaa || b[1] != 0xaa || b[2] != 3:
		return LLC
	case len(b) < 8:
		return TruncatedLink
	}
	pid := be.Uint16(b[6:])
	switch [3]byte(b[3:6]) {
	case [3]byte{}, [3]byte{0, 0, 0xf8}: // RFC 1042, 802.1H
		if pid <= maxLLCLength {
			return LLC
		}
		w.skip(8)
		return w.etherType(pid)
	case [3]byte{0, 0x80, 0xc2}: // bridged (RFC 2684): 802.3 with or without FCS
		if pid == 1 || pid == 7 {
			return w.after(10, w.ethernet)
		}
	}
	return LLC
}

// mpls reads a label stack (RFC 3032). What follows is told by the first four
// bits (RFC 4928): 4 and 6 are IP, 0 a pseudowire's control word (RFC 4385), 1
// its control channel. Ethernet pseudowires without a control word are no
// different from anything else: they are taken for what they are if they lead
// to an IP header.
func (w *walker) mpls() Reason {
	for {
		if w.deep() {
			return TooDeep
		}
		if !w.need(4) {
			return TruncatedLink
		}
		bottom := w.rest()[2]&1 != 0
		if w.more != nil && w.labels < flow.MaxLabels {
			w.more.Labels[w.labels] = be.Uint32(w.rest())>>8 | flow.LabelThere
			w.labels++
		}
		w.skip(4)
		if bottom {
			break
		}
	}
	b := w.rest()
	if len(b) == 0 {
		return TruncatedLink
	}
	switch b[0] >> 4 {
	case 4:
		if b[0]&15 >= 5 && (len(b) < 4 || be.Uint16(b[2:]) == 0 || be.Uint16(b[2:]) >= 20) || !w.pseudowire(0) {
			return w.ip(typeIPv4)
		}
		return Decoded
	case 6:
		return w.ip(typeIPv6)
	case 0:
		if w.pseudowire(4) || w.pseudowire(0) {
			return Decoded
		}
	case 1:
	default:
		if w.pseudowire(0) {
			return Decoded
		}
	}
	return MPLSPayload
}

// pseudowire tries an Ethernet frame n octets on. If it does not lead to an IP
// header of the version it announces, the walker stays where it was (but for
// the headers it counted, so that tries within tries end).
func (w *walker) pseudowire(n int) bool {
	if w.tries == maxTries || !w.need(n) {
		return false
	}
	here, frame, labels := w.at, w.b, w.labels
	var more flow.More
	if w.more != nil {
		more = *w.more
	}
	w.skip(n)
	w.tries++
	if w.ethernet() == Decoded && w.need(1) && w.rest()[0]>>4 == map4or6(w.at.EtherType) {
		return true
	}
	w.tries--
	w.at, w.b, w.labels = here, frame, labels
	if w.more != nil {
		*w.more = more
	}
	return false
}

func map4or6(etherType uint16) byte {
	if etherType == typeIPv6 {
		return 6
	}
	return 4
}

// ppp reads PPP in HDLC-like framing (RFC 1662), with address and control
// compressed away or not, or Cisco HDLC on the same line.
func (w *walker) ppp() Reason {
	b := w.rest()
	if len(b) < 2 {
		return TruncatedLink
	}
	switch b[0] {
	case 0xff:
		if b[1] == 3 {
			w.skip(2)
		}
	case 0x0f, 0x8f:
		return w.ciscoHDLC()
	}
	return w.pppProtocol()
}

// pppProtocol reads the protocol field: one octet if that is odd (RFC 1661
// section 2).
func (w *walker) pppProtocol() Reason {
	b := w.rest()
	if len(b) < 1 {
		return TruncatedLink
	}
	p, n := uint16(b[0]), 1
	if p&1 == 0 {
		if len(b) < 2 {
			return TruncatedLink
		}
		p, n = be.Uint16(b), 2
	}
	w.skip(n)
	switch p {
	case 0x0021:
		return w.ip(typeIPv4)
	case 0x0057:
		return w.ip(typeIPv6)
	case 0x0031: // bridged (RFC 3518): flags, MAC type, frame
		if b := w.rest(); len(b) >= 2 && b[1] == 1 {
			return w.after(2, w.ethernet)
		}
	case 0x003d: // multilink (RFC 1990): a whole packet has both end bits set
		if b := w.rest(); len(b) >= 1 && b[0]>>6 == 3 {
			return w.after(4, w.multilink)
		}
	case 0x0281, 0x0283:
		w.at.EtherType = typeMPLS
		return w.mpls()
	}
	w.at.EtherType = 0
	return OtherType
}

// multilink goes on behind a multilink header.
func (w *walker) multilink() Reason {
	if w.deep() {
		return TooDeep
	}
	return w.pppProtocol()
}

// ciscoHDLC reads address, control, EtherType.
func (w *walker) ciscoHDLC() Reason {
	b := w.rest()
	if len(b) < 4 {
		return TruncatedLink
	}
	w.skip(4)
	if b[0] != 0x0f && b[0] != 0x8f {
		return OtherType
	}
	return w.etherType(be.Uint16(b[2:]))
}

// frameRelay reads a Q.922 address of any length, control and NLPID (RFC 2427).
func (w *walker) frameRelay() Reason {
	b := w.rest()
	n := 1
	for n <= 4 && n <= len(b) && b[n-1]&1 == 0 {
		n++
	}
	if n+2 > len(b) {
		return TruncatedLink
	}
	if n < 2 || n > 4 {
		return OtherType
	}
	if b[n] != 3 { // Cisco's encapsulation
		w.skip(n + 2)
		return w.etherType(be.Uint16(b[n:]))
	}
	n++
	if n < len(b) && b[n] == 0 { // padding
		n++
	}
	if n >= len(b) {
		return TruncatedLink
	}
	switch b[n] {
	case 0xcc:
		w.skip(n + 1)
		return w.ip(typeIPv4)
	case 0x8e:
		w.skip(n + 1)
		return w.ip(typeIPv6)
	case 0x80: // SNAP without its 802.2 header
		if n+6 > len(b) {
			return TruncatedLink
		}
		if [3]byte(b[n+1:n+4]) == [3]byte{} {
			w.skip(n + 6)
			return w.etherType(be.Uint16(b[n+4:]))
		}
	}
	return OtherType
}

// family goes on by address family: every system has its own number for IPv6.
func (w *walker) family(f uint32) Reason {
	switch f {
	case 2:
		return w.ip(typeIPv4)
	case 10, 24, 28, 30: // Linux; NetBSD and OpenBSD; FreeBSD; macOS
		return w.ip(typeIPv6)
	}
	return Family
}

// loopback reads a BSD loopback header. The family is in the byte order of the
// machine that wrote it, which the file need not share; some write an
// EtherType, some PPP or Cisco HDLC.
func (w *walker) loopback() Reason {
	b := w.rest()
	if len(b) < 4 {
		return TruncatedLink
	}
	if b[0] == 0xff && b[1] == 3 {
		return w.ppp()
	}
	if (b[0] == 0x0f || b[0] == 0x8f) && b[1] == 0 && b[2]|b[3] != 0 {
		return w.ciscoHDLC()
	}
	w.skip(4)
	f := be.Uint32(b)
	if f > 0xffff {
		f = bits.ReverseBytes32(f)
	}
	if f > maxLLCLength && f <= 0xffff {
		return w.etherType(uint16(f))
	}
	return w.family(f)
}

// ARPHRD numbers that change how a cooked frame goes on.
const (
	hwFrameRelay = 770
	hwRadiotap   = 803
	hwNetlink    = 824
)

// cooked reads a Linux cooked header: packet type, ARPHRD type, address length,
// address, protocol.
func (w *walker) cooked() Reason {
	if !w.need(16) {
		return TruncatedLink
	}
	b := w.rest()
	w.skip(16)
	return w.cookedProtocol(be.Uint16(b[2:]), be.Uint16(b[14:]))
}

// cooked2 reads version 2: protocol, reserved, ifindex, ARPHRD type, packet
// type, address length, address.
func (w *walker) cooked2() Reason {
	if !w.need(20) {
		return TruncatedLink
	}
	b := w.rest()
	w.skip(20)
	return w.cookedProtocol(be.Uint16(b[8:]), be.Uint16(b))
}

func (w *walker) cookedProtocol(hw, proto uint16) Reason {
	switch hw {
	case hwNetlink:
		return Family
	case hwRadiotap:
		return w.link(LinkRadiotap)
	case hwFrameRelay:
		return w.frameRelay()
	}
	switch proto { // numbers below 1536 are Linux' own
	case 4: // 802.2
		return w.llc()
	case 7: // PPP
		return w.pppProtocol()
	}
	if proto <= maxLLCLength {
		return OtherType
	}
	return w.etherType(proto)
}

// nflog walks the attributes of a netfilter log message to the packet. They are
// in the byte order of the machine that wrote them. The packet is of the
// EtherType that the message names, else of its family.
func (w *walker) nflog() Reason {
	const (
		header  = 1 // EtherType, hook
		payload = 9
	)
	b := w.rest()
	if len(b) < 4 {
		return TruncatedLink
	}
	var order binary.ByteOrder = binary.LittleEndian
	if len(b) >= 6 && order.Uint16(b[4:]) > 0xff && be.Uint16(b[4:]) <= 0xff {
		order = be // the first attribute is a short one
	}
	var etherType uint16
	for off := 4; off+4 <= len(b); {
		size, kind := int(order.Uint16(b[off:])), order.Uint16(b[off+2:])&0x7fff
		if size < 4 {
			return OtherType
		}
		switch {
		case kind == header && size >= 6 && off+6 <= len(b):
			etherType = be.Uint16(b[off+4:])
		case kind == payload:
			w.skip(off + 4)
			w.limit(size - 4)
			switch {
			case etherType != 0:
				return w.etherType(etherType)
			case b[0] == 2 || b[0] == 10:
				return w.family(uint32(b[0]))
			case b[0] == 7: // bridge: the packet's own first octet tells
				return w.rawIP()
			}
			return Family
		}
		off += (size + 3) &^ 3
	}
	return TruncatedLink
}

// pflog reads a pf log header: its length (without padding), the family.
func (w *walker) pflog() Reason {
	b := w.rest()
	if len(b) < 2 {
		return TruncatedLink
	}
	size := (int(b[0]) + 3) &^ 3
	if size < 4 || size > len(b) {
		return TruncatedLink
	}
	w.skip(size)
	return w.family(uint32(b[1]))
}

// ppi reads a per-packet information header (all little-endian): version,
// flags, length, link type; then the fields.
func (w *walker) ppi() Reason {
	if w.deep() {
		return TooDeep
	}
	b := w.rest()
	if len(b) < 8 {
		return TruncatedLink
	}
	size, link := int(binary.LittleEndian.Uint16(b[2:])), binary.LittleEndian.Uint32(b[4:])
	if size < 8 || size > len(b) {
		return TruncatedLink
	}
	w.skip(size)
	return w.link(LinkType(link & 0xffff))
}

// arcnet reads an ARCNET header: source, destination, (Linux: offset,) then the
// protocol and, for all but the oldest protocols, how the packet was split.
func (w *walker) arcnet(addresses int) Reason {
	b := w.rest()
	if len(b) < addresses+1 {
		return TruncatedLink
	}
	proto, n := b[addresses], addresses+1
	const exception = 0xff
	switch proto {
	case 240: // IP, RFC 1051: no fragmentation header
		w.skip(n)
		return w.ip(typeIPv4)
	case 241:
		return ARP
	case 212, 213, 214, 196: // IP, ARP, RARP of RFC 1201; IPv6
	default:
		return OtherType
	}
	if len(b) < n+3 {
		return TruncatedLink
	}
	flag := b[n]
	n += 3 // split flag, sequence number
	if flag == exception {
		n += 4 // padding of packets whose length would be forbidden, then again
		if len(b) < n {
			return TruncatedLink
		}
		flag = b[n-3]
	}
	switch proto {
	case 213, 214:
		return ARP
	}
	if len(b) < n {
		return TruncatedLink
	}
	if flag != 0 && flag&1 == 0 { // a later fragment of the link layer: no IP header
		return OtherType
	}
	w.skip(n)
	if proto == 196 {
		return w.ip(typeIPv6)
	}
	return w.ip(typeIPv4)
}

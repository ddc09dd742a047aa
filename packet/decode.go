package packet

import (
	"encoding/binary"
	"math"

	"weir/flow"
)

var be = binary.BigEndian

// EtherTypes (IEEE 802 numbers) that are followed or told apart.
const (
	typeIPv4      = 0x0800
	typeARP       = 0x0806
	typeTRILL     = 0x22f3 // RFC 6325
	typeBridged   = 0x6558 // transparent Ethernet bridging
	typeRARP      = 0x8035
	typeVLAN      = 0x8100 // 802.1Q
	typeIPv6      = 0x86dd
	typeMPLS      = 0x8847
	typeMPLSMulti = 0x8848
	typePPPoE     = 0x8864 // session stage
	typeJumboLLC  = 0x8870
	typeProvider  = 0x88a8 // 802.1ad
	typeMACsec    = 0x88e5 // 802.1AE
	typeBackbone  = 0x88e7 // 802.1ah I-tag
	typeFabric    = 0x8903 // FabricPath
	typeMetadata  = 0x8909 // Cisco metadata
	typeVNTag     = 0x8926
	typeETag      = 0x893f // 802.1BR
	typeNSH       = 0x894f // RFC 8300
	typeQinQ      = 0x9100 // stacked tags before 802.1ad
	maxLLCLength  = 1500   // at most: a length, an 802.2 header follows
)

const etherLen = 14 // addresses and EtherType

// Decode reads one frame of the given link type: data is what was captured of
// it, wire its length on the line. It fills in's key (Input excepted), length,
// flags and TTL, and returns Decoded; with any other Reason in is left in a
// state without meaning. Time and Key.Input are never touched.
//
// Ethernet with at most one tag before IP is read here; every other way to IP
// is Network's.
func Decode(link LinkType, data []byte, wire uint32, in *Info) Reason {
	if link == LinkEthernet && len(data) >= etherLen+4+20 {
		switch be.Uint16(data[12:14]) {
		case typeIPv4:
			return decodeIPv4(data[etherLen:], wire-etherLen, 0, in)
		case typeIPv6:
			return decodeIPv6(data[etherLen:], wire-etherLen, 0, in)
		case typeVLAN:
			tag := be.Uint16(data[14:16])&flow.VLANMask | flow.KeyTagged
			switch be.Uint16(data[16:18]) {
			case typeIPv4:
				return decodeIPv4(data[etherLen+4:], wire-etherLen-4, tag, in)
			case typeIPv6:
				return decodeIPv6(data[etherLen+4:], wire-etherLen-4, tag, in)
			}
		}
	}
	return decodeAny(link, data, wire, in)
}

func decodeAny(link LinkType, data []byte, wire uint32, in *Info) Reason {
	w := walker{b: data}
	if why := w.link(link); why != Decoded {
		return why
	}
	b, rest := w.packet(wire)
	return decodeIP(w.at.EtherType, b, rest, w.at.VLAN, in)
}

func decodeIP(etherType uint16, b []byte, rest uint32, vlan uint16, in *Info) Reason {
	if etherType == typeIPv6 {
		return decodeIPv6(b, rest, vlan, in)
	}
	return decodeIPv4(b, rest, vlan, in)
}

// decodeIPv4 reads an IPv4 packet (RFC 791) that starts at b[0]. rest is the
// frame's length on the wire from there on; a capture that claims less wire
// than link headers makes it wrap, which beyond() sees.
func decodeIPv4(b []byte, rest uint32, vlan uint16, in *Info) Reason {
	if len(b) < 20 {
		return TruncatedIP
	}
	h := (*[20]byte)(b)
	header := uint32(20)
	if h[0] != 0x45 {
		if h[0]>>4 != 4 {
			return BadVersion
		}
		if header = uint32(h[0]&15) * 4; header < 20 {
			return BadHeaderLength
		}
	}
	length := uint32(be.Uint16(h[2:]))
	if length < header {
		if length != 0 {
			return BadTotalLength
		}
		// Segmentation offload: the length was still to be written.
		length = beyond(b, rest)
	}
	in.Length = length
	in.TTL = h[8]
	k := &in.Key
	k.TOS = h[1]
	proto := h[9]
	k.Proto = proto
	mapAddr(&k.Src, be.Uint32(h[12:]))
	mapAddr(&k.Dst, be.Uint32(h[16:]))
	if be.Uint16(h[6:])&0x1fff != 0 {
		k.VLAN = vlan | flow.KeyFragment
		k.SrcPort, k.DstPort, in.TCPFlags = 0, 0, 0
		return Decoded
	}
	k.VLAN = vlan
	end := min(uint32(len(b)), length)
	if header > end {
		header = end // the capture ends within the options
	}
	decodeTransport(b[header:end], proto, flow.ProtoICMP, in)
	return Decoded
}

// mapAddr writes an IPv4 address in its v4-mapped form, in two stores.
func mapAddr(a *flow.Addr, v4 uint32) {
	be.PutUint64(a[:8], 0)
	be.PutUint64(a[8:], 0xffff<<32|uint64(v4))
}

// beyond is the length of a packet that does not say how long it is: what the
// frame had beyond its link headers.
func beyond(b []byte, rest uint32) uint32 {
	if rest > math.MaxInt32 || rest < uint32(len(b)) {
		return uint32(len(b))
	}
	return rest
}

// IPv6 extension headers that are walked. All others end the walk and are the
// packet's protocol.
const (
	extHopByHop    = 0
	extRouting     = 43
	extFragment    = 44
	extDestination = 60
)

// Limits, as in network.go. A packet has at most five of these headers (RFC 8200
// section 4.1), and the jumbo payload option (RFC 2675) has the first place in
// its header or, behind a router alert, the second.
const (
	maxExtensions = 8 // the next one is the packet's protocol
	maxOptions    = 8 // of a hop-by-hop header, each octet of Pad1 being one
)

// decodeIPv6 reads an IPv6 packet (RFC 8200) that starts at b[0]; rest as in
// decodeIPv4.
func decodeIPv6(b []byte, rest uint32, vlan uint16, in *Info) Reason {
	if len(b) < 40 {
		return TruncatedIP
	}
	h := (*[40]byte)(b)
	if h[0]>>4 != 6 {
		return BadVersion
	}
	length := 40 + uint32(be.Uint16(h[4:]))
	in.TTL = h[7]
	k := &in.Key
	k.TOS = byte(be.Uint16(h[:]) >> 4)
	k.Src = flow.Addr(h[8:24])
	k.Dst = flow.Addr(h[24:40])
	k.VLAN = vlan | flow.KeyIPv6
	proto := h[6]
	if length == 40 || proto == extHopByHop || proto == extRouting || proto == extFragment || proto == extDestination {
		return decodeExtensions(b, rest, proto, length, in)
	}
	in.Length = length
	k.Proto = proto
	decodeTransport(b[40:max(40, min(uint32(len(b)), length))], proto, flow.ProtoICMPv6, in)
	return Decoded
}

// decodeExtensions is the rest of decodeIPv6 for packets with extension headers
// or with a payload length of 0.
func decodeExtensions(b []byte, rest uint32, proto uint8, length uint32, in *Info) Reason {
	k := &in.Key
	if length == 40 {
		switch whole := beyond(b, rest); {
		case proto == extHopByHop:
			length = jumboLength(b)
		case whole > 40+math.MaxUint16:
			// Linux' BIG TCP: too long for the field, and the jumbo option
			// is not there yet or no longer.
			length = whole
		}
	}
	in.Length = length
	end := int(min(uint32(len(b)), length))
	off := 40
walk:
	for n := 0; n < maxExtensions && off+2 <= end; n++ {
		size := (int(b[off+1]) + 1) * 8
		switch proto {
		case extHopByHop, extRouting, extDestination:
		case extFragment:
			if size = 8; off+size > end {
				break walk // whether the packet is a later fragment is not known
			}
			if be.Uint16(b[off+2:])&0xfff8 != 0 {
				k.Proto = b[off]
				k.VLAN |= flow.KeyFragment
				k.SrcPort, k.DstPort, in.TCPFlags = 0, 0, 0
				return Decoded
			}
		default:
			break walk
		}
		proto = b[off]
		off = min(off+size, end)
	}
	k.Proto = proto
	decodeTransport(b[off:end], proto, flow.ProtoICMPv6, in)
	return Decoded
}

// jumboLength is the length of a packet whose payload length is 0 and whose
// first extension header is hop-by-hop: the jumbo payload option's (RFC 2675)
// and the header, or 40 where the option is missing.
func jumboLength(b []byte) uint32 {
	if len(b) < 48 {
		return 40
	}
	opts := b[42:min(len(b), 40+(int(b[41])+1)*8)]
	for n := 0; n < maxOptions && len(opts) >= 2; n++ {
		if opts[0] == 0 { // Pad1
			opts = opts[1:]
			continue
		}
		if opts[0] == 0xc2 && opts[1] == 4 && len(opts) >= 6 {
			return uint32(min(40+uint64(be.Uint32(opts[2:])), math.MaxUint32))
		}
		size := 2 + int(opts[1])
		if size > len(opts) {
			break
		}
		opts = opts[size:]
	}
	return 40
}

// How much of a header must be there for it to be read: as much as tshark
// wants, so that packets cut to any length say the same here and there.
const (
	needPorts = 4
	needFlags = 16 // TCP's, which are octets 12 and 13
	needSCTP  = 12 // the common header
	needICMP  = 6
	needICMP6 = 2
)

// decodeTransport reads ports, or ICMP type and code, and TCP flags from what
// the capture has of the payload. icmp is the ICMP that belongs to the IP
// version: the other one's type is not where it would be.
func decodeTransport(b []byte, proto, icmp uint8, in *Info) {
	k := &in.Key
	need := needPorts
	switch {
	case proto == flow.ProtoTCP:
		if len(b) >= needFlags {
			k.SrcPort, k.DstPort, in.TCPFlags = be.Uint16(b), be.Uint16(b[2:]), b[13]
			if b[12] < 5<<4 { // the data offset is below the header's length: no TCP header
				in.TCPFlags = 0
			}
			return
		}
	case proto == flow.ProtoUDP, proto == flow.ProtoUDPLite, proto == flow.ProtoDCCP:
	case proto == flow.ProtoSCTP:
		need = needSCTP
	case proto == icmp && (len(b) >= needICMP || len(b) >= needICMP6 && icmp == flow.ProtoICMPv6):
		k.SrcPort, k.DstPort, in.TCPFlags = 0, be.Uint16(b), 0
		return
	default:
		need = math.MaxInt
	}
	in.TCPFlags = 0
	if len(b) < need {
		k.SrcPort, k.DstPort = 0, 0
		return
	}
	k.SrcPort, k.DstPort = be.Uint16(b), be.Uint16(b[2:])
}

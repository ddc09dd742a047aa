package packet

import (
	"math"

	"weir/flow"
)

// DecodeMore is Decode that also fills x, with what a key, or what is collected,
// wants beyond an Info. With inner, a packet in a tunnel that is understood is
// taken for the packet it carries, innermost first: in is of that one, its key is
// marked by flow.KeyInner and keeps the outermost VLAN; x tells of the outermost
// header. What a tunnel carries that is no sound IP packet is left alone: in is then
// of the header around it.
func DecodeMore(link LinkType, data []byte, wire uint32, inner bool, in *Info, x *flow.More) Reason {
	*x = flow.More{}
	w := walker{b: data, more: x}
	if why := w.link(link); why != Decoded {
		return why
	}
	b, rest := w.packet(wire)
	if why := decodeIP(w.at.EtherType, b, rest, w.at.VLAN, in); why != Decoded {
		return why
	}
	b = b[:min(len(b), int(in.Length))]
	p := payloadOf(b)
	if inner {
		for range maxTunnels {
			next, ok := enter(p, in, x)
			if !ok {
				break
			}
			p = next
		}
	}
	x.TTL, x.Length = in.TTL, uint16(min(in.Length, math.MaxUint16))
	x.FlowLabel, x.FragmentFlags, x.FragmentOffset = p.flowLabel, p.fragmentFlags, p.fragmentOffset
	if p.proto == flow.ProtoTCP && p.fragmentOffset == 0 {
		x.TCPOptions = tcpOptions(p.b)
	}
	return Decoded
}

// packet is what the walker has found: the network layer's octets, and how many
// there are on the wire.
func (w *walker) packet(wire uint32) ([]byte, uint32) {
	data, rest := w.b, wire-uint32(w.at.Offset)
	if w.at.End != 0 {
		data = data[:min(w.at.End, len(data))]
		rest = min(rest, uint32(w.at.End-w.at.Offset))
	}
	return data[w.at.Offset:], rest
}

// payload is what an IP packet carries, and what its headers say of fragments.
type payload struct {
	proto          uint8
	b              []byte // as much as was captured; of later fragments nothing
	off            int    // of b in the packet
	flowLabel      uint32
	fragmentFlags  uint8
	fragmentOffset uint16 // in units of eight octets
}

// payloadOf walks the headers of a packet that decodeIP has taken, which ends
// where its header says or where the capture does.
func payloadOf(b []byte) (p payload) {
	if b[0]>>4 == 4 {
		p.proto, p.off = b[9], min(int(b[0]&15)*4, len(b))
		p.fragmentFlags, p.fragmentOffset = b[6]&0xe0, be.Uint16(b[6:])&0x1fff
	} else {
		p.extensions(b)
	}
	if p.fragmentOffset == 0 {
		p.b = b[p.off:]
	}
	return p
}

// extensions is payloadOf for IPv6; it ends where decodeExtensions does.
func (p *payload) extensions(b []byte) {
	p.proto, p.off = b[6], 40
	p.flowLabel = be.Uint32(b) & 0xfffff
	for n := 0; n < maxExtensions && p.off+2 <= len(b); n++ {
		size := (int(b[p.off+1]) + 1) * 8
		switch p.proto {
		case extHopByHop, extRouting, extDestination:
		case extFragment:
			if size = 8; p.off+size > len(b) {
				return
			}
			field := be.Uint16(b[p.off+2:])
			p.fragmentFlags, p.fragmentOffset = uint8(field&1)<<5, field>>3
			if p.fragmentOffset != 0 {
				p.proto = b[p.off]
				return
			}
		default:
			return
		}
		p.proto = b[p.off]
		p.off = min(p.off+size, len(b))
	}
}

// tcpOptions are the kinds of options in a TCP header, a bit for each below 64
// (IE 209).
func tcpOptions(b []byte) (kinds uint64) {
	if len(b) < 20 {
		return 0
	}
	size := int(b[12]>>4) * 4
	if size < 20 {
		return 0
	}
	for o := b[20:max(20, min(size, len(b)))]; len(o) > 0; {
		kind := o[0]
		if kind < 64 {
			kinds |= 1 << kind
		}
		switch {
		case kind == 0:
			return kinds
		case kind == 1:
			o = o[1:]
		case len(o) < 2 || o[1] < 2 || int(o[1]) > len(o):
			return kinds
		default:
			o = o[o[1]:]
		}
	}
	return kinds
}

// maxTunnels is how many tunnels within each other are entered.
const maxTunnels = 4

// UDP ports of tunnels (IANA; 8472 is what Linux has for VXLAN by default).
const (
	portVXLAN      = 4789
	portVXLANLinux = 8472
	portGeneve     = 6081
	portGTPU       = 2152
	portTeredo     = 3544
)

const (
	protoIPv6 = 41
	protoGRE  = 47
)

// tunnel is what a tunnel's own header says.
type tunnel struct {
	kind  flow.Tunnel
	id    uint32
	hasID bool
	port  uint16
	size  int      // octets of headers between IP and what is carried
	link  LinkType // of what is carried
}

// enter makes in and x of the packet that p carries in a tunnel. If it gives
// false, nothing was changed.
func enter(p payload, in *Info, x *flow.More) (payload, bool) {
	t, ok := tunnelOf(p, in)
	if !ok || len(p.b) < t.size {
		return p, false
	}
	w := walker{b: p.b[t.size:]}
	if w.link(t.link) != Decoded {
		return p, false
	}
	deep := *in
	b, rest := w.packet(in.Length - uint32(p.off+t.size))
	if decodeIP(w.at.EtherType, b, rest, in.Key.VLAN&(flow.VLANMask|flow.KeyTagged), &deep) != Decoded {
		return p, false
	}
	if x.Tunnel == flow.NoTunnel {
		x.Tunnel, x.TunnelProto, x.TunnelPort = t.kind, in.Key.Proto, t.port
		x.TunnelSrc, x.TunnelDst = in.Key.Src, in.Key.Dst
		if t.hasID {
			x.TunnelID, x.TunnelHas = t.id, flow.HasTunnelID
		}
	}
	deep.Key.VLAN |= flow.KeyInner
	*in = deep
	return payloadOf(b[:min(len(b), int(in.Length))]), true
}

// tunnelOf reads a tunnel's header.
func tunnelOf(p payload, in *Info) (t tunnel, ok bool) {
	if p.fragmentOffset != 0 {
		return t, false
	}
	switch p.proto {
	case flow.ProtoIPIP:
		return tunnel{kind: flow.TunnelIPIP, link: LinkOfEtherType(typeIPv4)}, true
	case protoIPv6:
		t = tunnel{kind: flow.TunnelIPIP, link: LinkOfEtherType(typeIPv6)}
		if in.Key.VLAN&flow.KeyIPv6 == 0 {
			t.kind = flow.Tunnel6in4
		}
		return t, true
	case protoGRE:
		return gre(p.b)
	case flow.ProtoUDP:
		if len(p.b) < 8 {
			return t, false
		}
		t, ok = udpTunnel(be.Uint16(p.b), be.Uint16(p.b[2:]), p.b[8:])
		t.size += 8
		t.port = be.Uint16(p.b[2:])
	}
	return t, ok
}

// gre reads a GRE header: flags and version 2, EtherType 2, then checksum and
// reserved 4, key 4, sequence number 4 if their flags are set (RFC 2890). What has
// source routes (RFC 1701) or is of another version is left alone.
func gre(b []byte) (t tunnel, ok bool) {
	const checksum, routing, key, sequence, version = 0x8000, 0x4000, 0x2000, 0x1000, 7
	if len(b) < 4 {
		return t, false
	}
	flags, kind := be.Uint16(b), be.Uint16(b[2:])
	if flags&(routing|version) != 0 {
		return t, false
	}
	t = tunnel{kind: flow.TunnelGRE, size: 4, link: LinkOfEtherType(kind)}
	if flags&checksum != 0 {
		t.size += 4
	}
	if flags&key != 0 {
		if len(b) < t.size+4 {
			return t, false
		}
		t.id, t.hasID = be.Uint32(b[t.size:]), true
		t.size += 4
	}
	if flags&sequence != 0 {
		t.size += 4
	}
	return t, true
}

// udpTunnel reads the header of a tunnel over UDP, by its port.
func udpTunnel(src, dst uint16, b []byte) (t tunnel, ok bool) {
	switch {
	case dst == portVXLAN || dst == portVXLANLinux:
		return vxlan(b)
	case dst == portGeneve:
		return geneve(b)
	case dst == portGTPU || src == portGTPU:
		return gtpu(b)
	case dst == portTeredo || src == portTeredo:
		return teredo(b)
	}
	return t, false
}

// vxlan: flags 1, reserved 3, VNI 3, reserved 1; an Ethernet frame.
func vxlan(b []byte) (t tunnel, ok bool) {
	if len(b) < 8 || b[0]&0x08 == 0 {
		return t, false
	}
	return tunnel{kind: flow.TunnelVXLAN, size: 8, id: be.Uint32(b[4:]) >> 8, hasID: true, link: LinkEthernet}, true
}

// geneve: version 2 bits, length of the options in fours 6 bits, flags 1,
// EtherType 2, VNI 3, reserved 1, options.
func geneve(b []byte) (t tunnel, ok bool) {
	if len(b) < 8 || b[0]>>6 != 0 {
		return t, false
	}
	return tunnel{
		kind: flow.TunnelGeneve, size: 8 + int(b[0]&0x3f)*4, id: be.Uint32(b[4:]) >> 8, hasID: true,
		link: LinkOfEtherType(be.Uint16(b[2:])),
	}, true
}

// gtpu: version 3 bits, protocol type, reserved, flags E, S, PN; message type 1,
// length 2, TEID 4; sequence number 2, N-PDU number 1, next extension 1 if any of
// the flags is set. An extension has its length in fours in front and the next
// one's type at the end. Message 255 carries a user's packet.
func gtpu(b []byte) (t tunnel, ok bool) {
	const maxExtensions = 8
	if len(b) < 8 || b[0]>>4 != 3 || b[1] != 255 {
		return t, false
	}
	t = tunnel{kind: flow.TunnelGTPU, size: 8, id: be.Uint32(b[4:]), hasID: true, link: LinkRaw}
	if b[0]&7 == 0 {
		return t, true
	}
	if t.size = 12; len(b) < t.size {
		return t, false
	}
	if b[0]&4 == 0 {
		return t, true // no extension: the octet means nothing
	}
	for n := 0; b[t.size-1] != 0; n++ {
		if n == maxExtensions || len(b) <= t.size || b[t.size] == 0 {
			return t, false
		}
		if t.size += int(b[t.size]) * 4; len(b) < t.size {
			return t, false
		}
	}
	return t, true
}

// teredo: an authentication and an origin indication may stand in front of the
// IPv6 packet (RFC 4380 section 5.1.1).
func teredo(b []byte) (t tunnel, ok bool) {
	t = tunnel{kind: flow.TunnelTeredo, link: LinkOfEtherType(typeIPv6)}
	if len(b) >= 13 && b[0] == 0 && b[1] == 1 {
		t.size = 13 + int(b[2]) + int(b[3]) // client identifier, authentication value
	}
	if len(b) >= t.size+8 && b[t.size] == 0 && b[t.size+1] == 0 {
		t.size += 8
	}
	return t, len(b) > t.size && b[t.size]>>4 == 6
}

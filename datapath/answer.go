package datapath

import (
	"encoding/binary"
	"net/netip"

	"weir/flow"
)

// Answer makes the packet that tells the sender of another that it was rejected, or
// says that there must be none. octets are the beginning of that packet with its link
// header, as an event has them; its IP header is at network. The answer has no link
// header.
//
// TCP is answered by a reset, in the name of the address that was talked to; all else
// by "administratively prohibited": ICMP type 3 code 13, ICMPv6 type 1 code 1. The
// source of these is left unspecified: it is the sending interface's, and an ICMPv6
// checksum covers it. IPv4 checksums of TCP and UDP are not looked at: a buffer that
// this host has made has none yet.
//
// No answer is made to what RFC 1122 section 3.2.2, RFC 1812 section 4.3.2.7 and RFC
// 4443 section 2.4 say must have none: ICMP errors, what was sent to many or by nobody
// in particular, fragments but the first. Nor to resets (RFC 9293 section 3.5.2).
func Answer(octets []byte, network int) ([]byte, bool) {
	if network < 0 || network >= len(octets) {
		return nil, false
	}
	if network >= etherLen && octets[0]&1 != 0 {
		return nil, false // a frame to many
	}
	ip := octets[network:]
	switch ip[0] >> 4 {
	case 4:
		return answer4(ip)
	case 6:
		return answer6(ip)
	}
	return nil, false
}

const (
	etherLen  = 14 // what is in front of an IP header has at least that, or nothing
	answerTTL = 64

	tcpFIN, tcpSYN, tcpRST, tcpACK = 0x01, 0x02, 0x04, 0x10
	tcpHeader                      = 20

	icmpUnreachable, icmpProhibited   = 3, 13
	icmp6Unreachable, icmp6Prohibited = 1, 1
	internetControl                   = 6 << 5 // RFC 1812, section 4.3.2.5: the precedence of ICMP errors

	// The longest ICMP error (RFC 1812, section 4.3.2.3; RFC 4443, section 2.4).
	maxICMP, maxICMP6 = 576, 1280
)

var be = binary.BigEndian

func answer4(ip []byte) ([]byte, bool) {
	if len(ip) < 20 {
		return nil, false
	}
	header, total := int(ip[0]&15)*4, int(be.Uint16(ip[2:]))
	if header < 20 || header > len(ip) || sum(ip[:header], 0) != 0xffff {
		return nil, false
	}
	known := total != 0 // a buffer of more than 64 KiB does not say
	if known {
		if total < header {
			return nil, false
		}
		ip = ip[:min(len(ip), total)] // behind it is padding
	}
	fragment := be.Uint16(ip[6:])
	if fragment&0x1fff != 0 {
		return nil, false
	}
	src, dst := netip.AddrFrom4([4]byte(ip[12:16])), netip.AddrFrom4([4]byte(ip[16:20]))
	if !isSomebody(src) || !isSomebody(dst) || !isFromHere(src, dst) {
		return nil, false
	}
	payload := ip[header:]
	switch ip[9] {
	case flow.ProtoTCP:
		if known = known && fragment&0x2000 == 0; !known {
			total = header
		}
		tcp, ok := reset(payload, total-header, known)
		if !ok {
			return nil, false
		}
		out := header4(nil, len(tcp), 0, 0x4000, flow.ProtoTCP, dst, src)
		be.PutUint16(tcp[16:], ^sum(tcp, pseudo(out[12:20], flow.ProtoTCP, len(tcp))))
		return append(out, tcp...), true
	case flow.ProtoICMP:
		if len(payload) < 1 || !isQuery4(payload[0]) {
			return nil, false
		}
	}
	ip = ip[:min(len(ip), maxICMP-28)]
	out := header4(nil, 8+len(ip), internetControl, 0, flow.ProtoICMP, netip.IPv4Unspecified(), src)
	out = append(out, icmpUnreachable, icmpProhibited, 0, 0, 0, 0, 0, 0)
	out = append(out, ip...)
	be.PutUint16(out[22:], ^sum(out[20:], 0))
	return out, true
}

func header4(b []byte, payload int, tos byte, fragment uint16, proto byte, src, dst netip.Addr) []byte {
	b = append(b, 0x45, tos)
	b = be.AppendUint16(b, uint16(20+payload))
	b = append(b, 0, 0)
	b = be.AppendUint16(b, fragment)
	b = append(b, answerTTL, proto, 0, 0)
	b = append(append(b, src.AsSlice()...), dst.AsSlice()...)
	be.PutUint16(b[10:], ^sum(b, 0))
	return b
}

func answer6(ip []byte) ([]byte, bool) {
	if len(ip) < 40 {
		return nil, false
	}
	length := int(be.Uint16(ip[4:]))
	known := length != 0
	if known {
		ip = ip[:min(len(ip), 40+length)]
	}
	src, dst := netip.AddrFrom16([16]byte(ip[8:24])), netip.AddrFrom16([16]byte(ip[24:40]))
	if !isSomebody(src) || !isSomebody(dst) || !isFromHere(src, dst) || src.Is4In6() || dst.Is4In6() {
		return nil, false
	}
	proto, payload := ip[6], ip[40:]
	for n := 0; ; n++ {
		const hopByHop, routing, fragment, destination = 0, 43, 44, 60
		size := 8
		switch proto {
		case hopByHop, routing, destination:
			if len(payload) >= 2 {
				size += int(payload[1]) * 8
			}
		case fragment:
			if len(payload) >= 8 {
				if be.Uint16(payload[2:])&0xfff8 != 0 {
					return nil, false
				}
				known = known && payload[3]&1 == 0
			}
		default:
			size = 0
		}
		if size == 0 {
			break
		}
		if size >= len(payload) || n == 8 {
			return nil, false // what it is, is not told
		}
		proto, payload = payload[0], payload[size:]
		length -= size
	}
	switch proto {
	case flow.ProtoTCP:
		tcp, ok := reset(payload, length, known)
		if !ok {
			return nil, false
		}
		out := header6(nil, len(tcp), 0, flow.ProtoTCP, dst, src)
		be.PutUint16(tcp[16:], ^sum(tcp, pseudo(out[8:40], flow.ProtoTCP, len(tcp))))
		return append(out, tcp...), true
	case flow.ProtoICMPv6:
		if len(payload) < 1 || !isQuery6(payload[0]) {
			return nil, false
		}
	}
	ip = ip[:min(len(ip), maxICMP6-48)]
	out := header6(nil, 8+len(ip), internetControl, flow.ProtoICMPv6, netip.IPv6Unspecified(), src)
	out = append(out, icmp6Unreachable, icmp6Prohibited, 0, 0, 0, 0, 0, 0)
	out = append(out, ip...)
	be.PutUint16(out[42:], ^sum(out[40:], pseudo(out[8:40], flow.ProtoICMPv6, 8+len(ip))))
	return out, true
}

func header6(b []byte, payload int, class, proto byte, src, dst netip.Addr) []byte {
	b = append(b, 0x60|class>>4, class<<4, 0, 0)
	b = be.AppendUint16(b, uint16(payload))
	b = append(b, proto, answerTTL)
	return append(append(b, src.AsSlice()...), dst.AsSlice()...)
}

// reset answers a segment (RFC 9293, section 3.10.7.1): with the sequence number that
// it acknowledges, or else by acknowledging all of it, for which its length must be
// known. size is that of header and data. The checksum is still to be written.
func reset(tcp []byte, size int, known bool) ([]byte, bool) {
	if len(tcp) < tcpHeader {
		return nil, false
	}
	header, flags := int(tcp[12]>>4)*4, tcp[13]
	if header < tcpHeader || flags&tcpRST != 0 {
		return nil, false
	}
	var seq, ack uint32
	set := byte(tcpRST)
	if flags&tcpACK != 0 {
		seq = be.Uint32(tcp[8:])
	} else {
		if !known || size < header {
			return nil, false
		}
		ack = be.Uint32(tcp[4:]) + uint32(size-header)
		for _, f := range []byte{tcpSYN, tcpFIN} { // each has a number of its own
			if flags&f != 0 {
				ack++
			}
		}
		set |= tcpACK
	}
	out := append(make([]byte, 0, tcpHeader), tcp[2], tcp[3], tcp[0], tcp[1])
	out = be.AppendUint32(out, seq)
	out = be.AppendUint32(out, ack)
	return append(out, tcpHeader/4<<4, set, 0, 0, 0, 0, 0, 0), true
}

// isSomebody says whether an address is that of one host.
func isSomebody(a netip.Addr) bool {
	if a.Is4() {
		first := a.As4()[0]
		return first != 0 && first < 224 // "this network"; multicast, reserved, broadcast
	}
	return !a.IsUnspecified() && !a.IsMulticast()
}

// isFromHere says whether a packet may come from where it says: not from this host's
// own loopback to elsewhere, nor to it, nor to its own sender.
func isFromHere(src, dst netip.Addr) bool {
	if src.IsLoopback() || dst.IsLoopback() {
		return src.IsLoopback() && dst.IsLoopback()
	}
	return src != dst
}

// isQuery4 and isQuery6 say whether an ICMP message is known to be no error, and
// neither a redirect nor of those by which neighbours find each other.
func isQuery4(kind byte) bool {
	switch kind {
	case 0, 8, 13, 14, 15, 16, 17, 18, 42, 43: // echo, timestamp, information, mask, extended echo
		return true
	}
	return false
}

func isQuery6(kind byte) bool {
	switch kind {
	case 128, 129, 139, 140, 160, 161: // echo, node information, extended echo
		return true
	}
	return false
}

// pseudo is the sum of the header that checksums cover beside their own packet.
func pseudo(addrs []byte, proto byte, length int) uint32 {
	return uint32(sum(addrs, 0)) + uint32(proto) + uint32(length)
}

// sum is the Internet checksum's (RFC 1071), not yet inverted.
func sum(b []byte, s uint32) uint16 {
	for ; len(b) >= 2; b = b[2:] {
		s += uint32(be.Uint16(b))
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	for s>>16 != 0 {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

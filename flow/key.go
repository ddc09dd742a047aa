// Package flow is weir's vocabulary: what a flow is, what a record of one says,
// how it ended and what was lost on the way. Every other package speaks these
// types; this one imports none of them.
//
// Units: times are Unix nanoseconds, UTC; octets count from the first byte of
// the IP header (IANA element 1); nothing here is multiplied by a sampling rate.
package flow

import "net/netip"

// Addr is an IPv6 address, or an IPv4 address in its v4-mapped form
// (::ffff:a.b.c.d, RFC 4291 section 2.5.5.2), in network byte order.
type Addr [16]byte

// AddrFrom4 maps an IPv4 address.
func AddrFrom4(a [4]byte) Addr {
	return Addr{10: 0xff, 11: 0xff, 12: a[0], 13: a[1], 14: a[2], 15: a[3]}
}

// AddrFrom converts a; zones are dropped.
func AddrFrom(a netip.Addr) Addr { return a.As16() }

// Is4 says whether a is v4-mapped.
func (a Addr) Is4() bool {
	return a[10] == 0xff && a[11] == 0xff && [10]byte(a[:10]) == [10]byte{}
}

// IsZero says whether a is :: or 0.0.0.0.
func (a Addr) IsZero() bool { return a == Addr{} || a == Addr{10: 0xff, 11: 0xff} }

// Netip converts a, unmapping IPv4.
func (a Addr) Netip() netip.Addr { return netip.AddrFrom16(a).Unmap() }

func (a Addr) String() string { return a.Netip().String() }

// Bits of Key.VLAN above the twelve of the VLAN id.
const (
	VLANMask    = 0x0fff // the outermost VLAN id (802.1Q)
	KeyIPv6     = 0x1000 // the addresses are of an IPv6 header
	KeyFragment = 0x2000 // a fragment with a non-zero offset: ports are 0
	KeyInner    = 0x4000 // addresses of a tunnel's inner header
	KeyTagged   = 0x8000 // a VLAN tag was there (id 0 is a priority tag)
)

// KeyEgress in Key.Input: the packet was sent by this host; the rest is the
// ifIndex of its output interface (an ifIndex has 31 bits).
const KeyEgress = 1 << 31

// Key is the flow key (RFC 7011 section 2): packets that agree in it are one
// flow. 44 octets without padding; the kernel's table has the same layout, so
// integers are in the machine's byte order.
type Key struct {
	Src, Dst Addr
	// SrcPort and DstPort are 0 for protocols without ports and for later
	// fragments. ICMP: SrcPort 0, DstPort type*256+code.
	SrcPort, DstPort uint16
	Input            uint32 // ifIndex of the input interface; 0: unknown (a capture file)
	VLAN             uint16 // VLANMask bits of id, then the Key… flags
	Proto            uint8  // the protocol after IPv6 extension headers
	TOS              uint8  // IPv4 TOS or IPv6 traffic class, all eight bits
}

// KeyMask says which fields make the key; the others are zeroed before look-up.
type KeyMask uint8

const (
	KeyCisco  KeyMask = iota // the 5-tuple, ToS, input interface, VLAN: the default
	Key5Tuple                // addresses, protocol, ports
)

// Protocol numbers that the parser, the cache or the printers treat apart.
const (
	ProtoICMP    = 1
	ProtoIPIP    = 4
	ProtoTCP     = 6
	ProtoUDP     = 17
	ProtoDCCP    = 33
	ProtoICMPv6  = 58
	ProtoSCTP    = 132
	ProtoUDPLite = 136
)

// TCP flag bits (RFC 9293 section 3.1).
const (
	FIN = 0x01
	SYN = 0x02
	RST = 0x04
	PSH = 0x08
	ACK = 0x10
	URG = 0x20
	ECE = 0x40
	CWR = 0x80
)

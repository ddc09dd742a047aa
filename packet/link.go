package packet

// Link types that Decode knows. Numbers are those of capture files.
const (
	LinkNull        LinkType = 0   // BSD loopback: address family in the writer's byte order
	LinkEthernet    LinkType = 1   // Ethernet II and 802.3
	LinkARCNetBSD   LinkType = 7   // ARCNET
	LinkPPP         LinkType = 9   // PPP, with or without HDLC framing
	LinkRawBSD      LinkType = 12  // raw IP, as some systems number it
	LinkRawOpenBSD  LinkType = 14  // raw IP, OpenBSD
	LinkPPPHDLC     LinkType = 50  // PPP in HDLC framing, or Cisco HDLC
	LinkPPPoE       LinkType = 51  // a PPPoE session header first
	LinkRaw         LinkType = 101 // raw IPv4 or IPv6
	LinkCiscoHDLC   LinkType = 104 // Cisco HDLC
	LinkWLAN        LinkType = 105 // IEEE 802.11
	LinkFrameRelay  LinkType = 107 // Q.922 with RFC 2427
	LinkLoop        LinkType = 108 // OpenBSD loopback: address family in network order
	LinkSLL         LinkType = 113 // Linux cooked, version 1
	LinkPFLog       LinkType = 117 // OpenBSD pf log
	LinkPrism       LinkType = 119 // Prism header, then 802.11
	LinkRadiotap    LinkType = 127 // radiotap header, then 802.11
	LinkARCNetLinux LinkType = 129 // ARCNET, Linux
	LinkAVS         LinkType = 163 // AVS header, then 802.11
	LinkPPPWithDir  LinkType = 166 // a direction octet, then PPP (pppd)
	LinkPPI         LinkType = 192 // per-packet information, then a frame of the type it names
	LinkPPPDir      LinkType = 204 // a direction octet, then PPP
	LinkHDLCDir     LinkType = 205 // a direction octet, then Cisco HDLC
	LinkIPv4        LinkType = 228 // raw IPv4
	LinkIPv6        LinkType = 229 // raw IPv6
	LinkNFLog       LinkType = 239 // Linux netfilter log
	LinkSLL2        LinkType = 276 // Linux cooked, version 2
)

// LinkNetwork says that there is no link header at all: its low 16 bits are the
// EtherType of what the frame starts with. Sockets that give packets from the
// network header on say so; it is no number of a capture file, where link types
// have 16 bits.
const LinkNetwork LinkType = 1 << 16

// LinkOfEtherType is the link type of frames that start with the payload of an
// EtherType.
func LinkOfEtherType(etherType uint16) LinkType { return LinkNetwork | LinkType(etherType) }

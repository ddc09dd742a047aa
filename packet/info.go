package packet

import "weir/flow"

// LinkType is a capture's link-layer type, as numbered in pcap files
// (https://www.tcpdump.org/linktypes.html).
type LinkType uint32

// Info is what one packet says: the input of the flow cache.
type Info struct {
	Key      flow.Key
	Length   uint32 // octets from the IP header on, by the IP header itself (IE 1)
	Time     int64  // Unix ns
	TCPFlags uint8  // low eight bits; 0 for later fragments and other protocols
	TTL      uint8  // TTL or hop limit
}

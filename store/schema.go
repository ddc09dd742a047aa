package store

import "weir/flow"

// kind is how a column is held in memory and in the file. Unsigned columns
// narrower than 32 bits are INT32 with an INTEGER annotation in the file.
type kind uint8

const (
	kindAddr kind = iota // FIXED_LEN_BYTE_ARRAY(16), UUID: engines group by it as by a 128-bit integer
	kindTime             // INT64, Unix µs
	kindU64
	kindU32
	kindU16
	kindU8
	kindText // BYTE_ARRAY, UTF-8
)

// column is one column of a segment.
type column struct {
	name string
	kind kind
	at   int        // index among the batch's columns of this kind
	bit  flow.Field // the bit of batch.has that says it is known; 0: always known
}

// Bits of batch.has that flow.Record has no bit for.
const (
	hasElements  flow.Field = 1 << 63
	hasIPVersion flow.Field = 1 << 62
)

// Indexes into batch's column groups.
const (
	colSrc = iota
	colDst
	colNextHop
	colBGPNextHop
	colExporter
	numAddr
)

const (
	colFirst = iota
	colLast
	colReceived
	numTime
)

const (
	colPackets = iota
	colBytes
	colFlowID
	numU64
)

const (
	colInput = iota
	colOutput
	colSrcAS
	colDstAS
	colSampling
	colDomain
	numU32
)

const (
	colSrcPort = iota
	colDstPort
	colVLAN
	colTCPFlags
	numU16
)

const (
	colProto = iota
	colTOS
	colICMPType
	colICMPCode
	colSrcMask
	colDstMask
	colDirection
	colEndReason
	colForwardingStatus
	colVersion
	colIPVersion
	colFragment
	numU8
)

// schema lists the columns of a segment, in the order of the file: weir's flow
// columns, then what has no column there.
var schema = []column{
	{"first", kindTime, colFirst, flow.HasFirst},
	{"last", kindTime, colLast, flow.HasLast},
	{"proto", kindU8, colProto, flow.HasProto},
	{"src", kindAddr, colSrc, flow.HasSrc},
	{"sport", kindU16, colSrcPort, flow.HasSrcPort},
	{"dst", kindAddr, colDst, flow.HasDst},
	{"dport", kindU16, colDstPort, flow.HasDstPort},
	{"tos", kindU8, colTOS, flow.HasTOS},
	{"tcp_flags", kindU16, colTCPFlags, flow.HasTCPFlags},
	{"packets", kindU64, colPackets, flow.HasPackets},
	{"bytes", kindU64, colBytes, flow.HasBytes},
	{"input", kindU32, colInput, flow.HasInput},
	{"output", kindU32, colOutput, flow.HasOutput},
	{"direction", kindU8, colDirection, flow.HasDirection},
	{"vlan", kindU16, colVLAN, flow.HasVLAN},
	{"icmp_type", kindU8, colICMPType, flow.HasICMP},
	{"icmp_code", kindU8, colICMPCode, flow.HasICMP},
	{"next_hop", kindAddr, colNextHop, flow.HasNextHop},
	{"bgp_next_hop", kindAddr, colBGPNextHop, flow.HasBGPNextHop},
	{"src_as", kindU32, colSrcAS, flow.HasSrcAS},
	{"dst_as", kindU32, colDstAS, flow.HasDstAS},
	{"src_mask", kindU8, colSrcMask, flow.HasSrcMask},
	{"dst_mask", kindU8, colDstMask, flow.HasDstMask},
	{"sampling", kindU32, colSampling, flow.HasSampling},
	{"end_reason", kindU8, colEndReason, flow.HasEndReason},
	{"forwarding_status", kindU8, colForwardingStatus, flow.HasForwardingStatus},
	{"exporter", kindAddr, colExporter, flow.HasExporter},
	{"domain", kindU32, colDomain, flow.HasDomain},
	{"version", kindU8, colVersion, 0},
	{"received", kindTime, colReceived, flow.HasReceived},
	{"elements", kindText, 0, hasElements},
	{"flow_id", kindU64, colFlowID, flow.HasFlowID},
	{"ip_version", kindU8, colIPVersion, hasIPVersion},
	{"fragment", kindU8, colFragment, 0},
}

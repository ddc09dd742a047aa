package query

import (
	"math/bits"

	"weir/flow"
)

// column is a column of the store, or a value computed from several. The names
// that reach SQL come from this enumeration alone.
type column uint8

const (
	colFirst column = iota
	colLast
	colReceived
	colSrc
	colDst
	colNextHop
	colBGPNextHop
	colExporter
	colProto
	colSrcPort
	colDstPort
	colTOS
	colTCPFlags
	colPackets
	colBytes
	colInput
	colOutput
	colDirection
	colVLAN
	colICMPType
	colICMPCode
	colSrcAS
	colDstAS
	colSrcMask
	colDstMask
	colSampling
	colEndReason
	colForwardingStatus
	colDomain
	colVersion
	colFlowID
	colIPVersion
	colFragment
	colElements
	// computed
	colFlows    // 1 for each record
	colDuration // ms
	colPPS
	colBPS
	colBPP
	numColumns
)

// columnNames are the names in the store, which are those of the flow columns.
var columnNames = [numColumns]string{
	"first", "last", "received", "src", "dst", "next_hop", "bgp_next_hop", "exporter", "proto", "sport", "dport",
	"tos", "tcp_flags", "packets", "bytes", "input", "output", "direction", "vlan", "icmp_type", "icmp_code",
	"src_as", "dst_as", "src_mask", "dst_mask", "sampling", "end_reason", "forwarding_status", "domain", "version",
	"flow_id", "ip_version", "fragment", "elements", "flows", "duration", "pps", "bps", "bpp",
}

func (c column) String() string { return columnNames[c] }

// columnBits says which bit of flow.Record.Has tells that a column is known; 0:
// always known, or see number.
var columnBits = [numColumns]flow.Field{
	colFirst: flow.HasFirst, colLast: flow.HasLast, colReceived: flow.HasReceived,
	colSrc: flow.HasSrc, colDst: flow.HasDst, colNextHop: flow.HasNextHop, colBGPNextHop: flow.HasBGPNextHop,
	colExporter: flow.HasExporter, colProto: flow.HasProto, colSrcPort: flow.HasSrcPort, colDstPort: flow.HasDstPort,
	colTOS: flow.HasTOS, colTCPFlags: flow.HasTCPFlags, colPackets: flow.HasPackets, colBytes: flow.HasBytes,
	colInput: flow.HasInput, colOutput: flow.HasOutput, colDirection: flow.HasDirection, colVLAN: flow.HasVLAN,
	colICMPType: flow.HasICMP, colICMPCode: flow.HasICMP, colSrcAS: flow.HasSrcAS, colDstAS: flow.HasDstAS,
	colSrcMask: flow.HasSrcMask, colDstMask: flow.HasDstMask, colSampling: flow.HasSampling,
	colEndReason: flow.HasEndReason, colForwardingStatus: flow.HasForwardingStatus, colDomain: flow.HasDomain,
	colFlowID: flow.HasFlowID, colDuration: flow.HasFirst | flow.HasLast,
	colPPS: flow.HasFirst | flow.HasLast | flow.HasPackets, colBPS: flow.HasFirst | flow.HasLast | flow.HasBytes,
	colBPP: flow.HasPackets | flow.HasBytes,
}

// known says whether r knows c.
func known(r *flow.Record, c column) bool {
	if c == colIPVersion {
		return ipVersion(r) != 0
	}
	return r.Has&columnBits[c] == columnBits[c]
}

// ipVersion as the store keeps it: what r says, else by its addresses.
func ipVersion(r *flow.Record) uint64 {
	switch {
	case r.IPVersion != 0:
		return uint64(r.IPVersion)
	case r.Has&flow.HasSrc != 0 && !r.Src.Is4(), r.Has&flow.HasDst != 0 && !r.Dst.Is4():
		return 6
	case r.Has&(flow.HasSrc|flow.HasDst) != 0:
		return 4
	}
	return 0
}

// number gives a numeric column that r knows.
func number(r *flow.Record, c column) uint64 {
	switch c {
	case colProto:
		return uint64(r.Proto)
	case colSrcPort:
		return uint64(r.SrcPort)
	case colDstPort:
		return uint64(r.DstPort)
	case colTOS:
		return uint64(r.TOS)
	case colTCPFlags:
		return uint64(r.TCPFlags)
	case colPackets:
		return r.Packets
	case colBytes:
		return r.Bytes
	case colInput:
		return uint64(r.Input)
	case colOutput:
		return uint64(r.Output)
	case colDirection:
		return uint64(r.Direction)
	case colVLAN:
		return uint64(r.VLAN)
	case colICMPType:
		return uint64(r.ICMPType)
	case colICMPCode:
		return uint64(r.ICMPCode)
	case colSrcAS:
		return uint64(r.SrcAS)
	case colDstAS:
		return uint64(r.DstAS)
	case colSrcMask:
		return uint64(r.SrcMask)
	case colDstMask:
		return uint64(r.DstMask)
	case colSampling:
		return uint64(r.Sampling)
	case colEndReason:
		return uint64(r.EndReason)
	case colForwardingStatus:
		return uint64(r.ForwardingStatus)
	case colDomain:
		return uint64(r.Domain)
	case colVersion:
		return uint64(r.Version)
	case colFlowID:
		return r.FlowID
	case colIPVersion:
		return ipVersion(r)
	case colFragment:
		if r.Fragment {
			return 1
		}
		return 0
	case colFlows:
		return 1
	case colDuration:
		return durationMs(r.First, r.Last)
	case colPPS:
		return perSecond(r.Packets, 1, durationMs(r.First, r.Last))
	case colBPS:
		return perSecond(r.Bytes, 8, durationMs(r.First, r.Last))
	case colBPP:
		if r.Packets == 0 {
			return 0
		}
		return r.Bytes / r.Packets
	}
	panic("query: " + c.String() + " is not a number")
}

// durationMs of a flow in whole milliseconds, the resolution of nfdump's rates;
// 0 where a clock ran backwards.
func durationMs(first, last int64) uint64 {
	return uint64(max(last/1e6-first/1e6, 0))
}

// perSecond is n*times a second over ms milliseconds; 0 when they are 0, as in
// nfdump.
func perSecond(n, times, ms uint64) uint64 {
	if ms == 0 {
		return 0
	}
	hi, lo := bits.Mul64(n, 1000*times)
	if hi >= ms {
		return 1<<64 - 1
	}
	q, _ := bits.Div64(hi, lo, ms)
	return q
}

// address gives an address column that r knows.
func address(r *flow.Record, c column) flow.Addr {
	switch c {
	case colSrc:
		return r.Src
	case colDst:
		return r.Dst
	case colNextHop:
		return r.NextHop
	case colBGPNextHop:
		return r.BGPNextHop
	case colExporter:
		return r.Exporter
	}
	panic("query: " + c.String() + " is not an address")
}

// micros gives a time column that r knows.
func micros(r *flow.Record, c column) int64 {
	ns := r.Received
	switch c {
	case colFirst:
		ns = r.First
	case colLast:
		ns = r.Last
	}
	us := ns / 1000
	if ns%1000 < 0 {
		us--
	}
	return us
}

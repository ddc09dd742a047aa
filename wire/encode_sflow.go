package wire

import (
	"weir/flow"
)

// SFlowHeader is the header of an sFlow version 5 datagram.
type SFlowHeader struct {
	Agent    flow.Addr
	SubAgent uint32
	Sequence uint32 // of datagrams
	Uptime   uint32 // ms since the agent started
	Samples  uint32
}

// AppendSFlowHeader writes h; its samples follow.
func AppendSFlowHeader(dst []byte, h SFlowHeader) []byte {
	dst = appendSFlowAddress(be.AppendUint32(dst, 5), h.Agent)
	for _, v := range [...]uint32{h.SubAgent, h.Sequence, h.Uptime, h.Samples} {
		dst = be.AppendUint32(dst, v)
	}
	return dst
}

func appendSFlowAddress(dst []byte, a flow.Addr) []byte {
	switch {
	case a == flow.Addr{}:
		return be.AppendUint32(dst, 0)
	case a.Is4():
		return append(be.AppendUint32(dst, 1), a[12:]...)
	}
	return append(be.AppendUint32(dst, 2), a[:]...)
}

// beginSFlow writes a data format and room for a length, which endSFlow writes.
func beginSFlow(dst []byte, f sflowFormat) (with []byte, at int) {
	dst = be.AppendUint32(be.AppendUint32(dst, uint32(f)), 0)
	return dst, len(dst)
}

func endSFlow(dst []byte, at int) []byte {
	be.PutUint32(dst[at-4:], uint32(len(dst)-at))
	return dst
}

// SFlowSample is what a sample says beside its packet.
type SFlowSample struct {
	Sequence uint32 // of the source's samples
	Source   uint32 // ifIndex of the interface that samples
	Pool     uint32 // packets that could have been sampled
	Drops    uint32 // samples that the agent had no room for
}

// AppendSFlowSample writes an expanded flow sample of one packet of r, as long
// as r's packets are in the mean, with the records that r has facts for:
// sampled_ipv4 or sampled_ipv6, extended_switch, extended_router and
// extended_gateway. Records of a sample hold no times.
func AppendSFlowSample(dst []byte, r *flow.Record, s SFlowSample) []byte {
	dst, at := beginSFlow(dst, sflowFlowSampleExpanded)
	rate := uint32(1)
	if r.Has&flow.HasSampling != 0 {
		rate = r.Sampling
	}
	for _, v := range [...]uint32{s.Sequence, 0, s.Source, rate, s.Pool, s.Drops, 0, r.Input, 0, r.Output} {
		dst = be.AppendUint32(dst, v)
	}
	count := len(dst)
	dst = appendSampledIP(be.AppendUint32(dst, 1), r)
	record := func(f sflowFormat, body func(dst []byte) []byte) {
		var at int
		dst, at = beginSFlow(dst, f)
		dst = endSFlow(body(dst), at)
		be.PutUint32(dst[count:], be.Uint32(dst[count:])+1)
	}
	if r.Has&flow.HasVLAN != 0 {
		record(sflowSwitch, func(dst []byte) []byte {
			return append(be.AppendUint32(dst, uint32(r.VLAN)), make([]byte, 12)...)
		})
	}
	if r.Has&(flow.HasNextHop|flow.HasSrcMask|flow.HasDstMask) != 0 {
		record(sflowRouter, func(dst []byte) []byte {
			dst = appendSFlowAddress(dst, r.NextHop)
			return be.AppendUint32(be.AppendUint32(dst, uint32(r.SrcMask)), uint32(r.DstMask))
		})
	}
	if r.Has&(flow.HasBGPNextHop|flow.HasSrcAS|flow.HasDstAS) != 0 {
		record(sflowGateway, func(dst []byte) []byte {
			dst = appendSFlowAddress(dst, r.BGPNextHop)
			path := [...]uint32{0, r.SrcAS, 0, 1, 2, 1, r.DstAS, 0, 0} // as, source, its peer; a sequence of one; no communities, no preference
			for _, v := range path {
				dst = be.AppendUint32(dst, v)
			}
			return dst
		})
	}
	return endSFlow(dst, at)
}

func appendSampledIP(dst []byte, r *flow.Record) []byte {
	f := sflowIPv4
	if !r.Src.Is4() || !r.Dst.Is4() {
		f = sflowIPv6
	}
	dst, at := beginSFlow(dst, f)
	length := r.Bytes
	if r.Packets > 1 {
		length /= r.Packets
	}
	dst = be.AppendUint32(be.AppendUint32(dst, uint32(length)), uint32(r.Proto))
	if f == sflowIPv4 {
		dst = append(append(dst, r.Src[12:]...), r.Dst[12:]...)
	} else {
		dst = append(append(dst, r.Src[:]...), r.Dst[:]...)
	}
	for _, v := range [...]uint32{uint32(r.SrcPort), uint32(r.DstPort), uint32(r.TCPFlags), uint32(r.TOS)} {
		dst = be.AppendUint32(dst, v)
	}
	return endSFlow(dst, at)
}

// SFlowInterface is the counters of an interface (if_counters).
type SFlowInterface struct {
	Index, Type         uint32 // ifIndex, ifType
	Speed               uint64 // bit/s
	InOctets, OutOctets uint64
	InPackets           uint32 // unicast
	OutPackets          uint32
	Name                string // sent as port_name if it is not empty
}

// AppendSFlowCounters writes a counter sample of an interface that is up.
func AppendSFlowCounters(dst []byte, sequence uint32, i SFlowInterface) []byte {
	dst, at := beginSFlow(dst, sflowCountersExpanded)
	for _, v := range [...]uint32{sequence, 0, i.Index, 1} {
		dst = be.AppendUint32(dst, v)
	}
	count := len(dst) - 4
	dst, body := beginSFlow(dst, 1)
	dst = be.AppendUint32(be.AppendUint32(dst, i.Index), i.Type)
	dst = be.AppendUint64(dst, i.Speed)
	dst = be.AppendUint32(be.AppendUint32(dst, 1), 3) // full duplex; up and to be up
	dst = be.AppendUint32(be.AppendUint64(dst, i.InOctets), i.InPackets)
	dst = append(dst, make([]byte, 5*4)...)
	dst = be.AppendUint32(be.AppendUint64(dst, i.OutOctets), i.OutPackets)
	dst = endSFlow(append(dst, make([]byte, 5*4)...), body)
	if i.Name != "" {
		be.PutUint32(dst[count:], 2)
		dst, body = beginSFlow(dst, sflowPortName)
		dst = append(be.AppendUint32(dst, uint32(len(i.Name))), i.Name...)
		dst = endSFlow(append(dst, make([]byte, -len(i.Name)&3)...), body)
	}
	return endSFlow(dst, at)
}

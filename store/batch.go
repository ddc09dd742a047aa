package store

import (
	"slices"

	"weir/flow"
)

// batch holds rows by column, as the encoder wants them: about 190 octets a
// row. A value that is not known (see has) is undefined.
type batch struct {
	has  []flow.Field
	addr [numAddr][]flow.Addr
	time [numTime][]int64 // Unix µs
	u64  [numU64][]uint64
	u32  [numU32][]uint32
	u16  [numU16][]uint16
	u8   [numU8][]uint8
	text []byte   // the elements, one after the other
	ends []uint32 // where each row's elements end in text
}

func (b *batch) rows() int { return len(b.has) }

func (b *batch) reset() { b.resize(0) }

// resize sets the number of rows, keeping what is there. Rows that are new hold
// anything; their elements must be set in order.
func (b *batch) resize(n int) {
	switch had := len(b.ends); {
	case n == 0:
		b.text = b.text[:0]
	case n < had:
		b.text = b.text[:b.ends[n-1]]
	}
	b.has = sized(b.has, n)
	for i := range b.addr {
		b.addr[i] = sized(b.addr[i], n)
	}
	for i := range b.time {
		b.time[i] = sized(b.time[i], n)
	}
	for i := range b.u64 {
		b.u64[i] = sized(b.u64[i], n)
	}
	for i := range b.u32 {
		b.u32[i] = sized(b.u32[i], n)
	}
	for i := range b.u16 {
		b.u16[i] = sized(b.u16[i], n)
	}
	for i := range b.u8 {
		b.u8[i] = sized(b.u8[i], n)
	}
	b.ends = sized(b.ends, n)
}

func sized[T any](s []T, n int) []T {
	if n > cap(s) {
		s = slices.Grow(s[:], n-len(s))
	}
	return s[:n]
}

// floorMicros is t in whole µs, rounded down on both sides of the epoch.
func floorMicros(ns int64) int64 {
	us := ns / 1000
	if ns%1000 < 0 {
		us--
	}
	return us
}

// inElements are fields without a column: the elements say them.
const inElements = flow.HasDropped | flow.HasRule

// add appends r. now is the time of receipt (µs) of records that bring none.
func (b *batch) add(r *flow.Record, now int64) {
	i := len(b.has)
	has := r.Has &^ (hasElements | hasIPVersion | inElements)
	if len(r.Elements) > 0 {
		has |= hasElements
		b.text = append(b.text, r.Elements...)
	}
	b.ends = append(b.ends, uint32(len(b.text)))
	version := ipVersion(r)
	if version != 0 {
		has |= hasIPVersion
	}
	received := now
	if has&flow.HasReceived != 0 {
		received = floorMicros(r.Received)
	}
	b.has = append(b.has, has|flow.HasReceived)

	b.addr[colSrc] = append(b.addr[colSrc][:i], r.Src)
	b.addr[colDst] = append(b.addr[colDst][:i], r.Dst)
	b.addr[colNextHop] = append(b.addr[colNextHop][:i], r.NextHop)
	b.addr[colBGPNextHop] = append(b.addr[colBGPNextHop][:i], r.BGPNextHop)
	b.addr[colExporter] = append(b.addr[colExporter][:i], r.Exporter)
	b.time[colFirst] = append(b.time[colFirst][:i], floorMicros(r.First))
	b.time[colLast] = append(b.time[colLast][:i], floorMicros(r.Last))
	b.time[colReceived] = append(b.time[colReceived][:i], received)
	b.u64[colPackets] = append(b.u64[colPackets][:i], r.Packets)
	b.u64[colBytes] = append(b.u64[colBytes][:i], r.Bytes)
	b.u64[colFlowID] = append(b.u64[colFlowID][:i], r.FlowID)
	b.u32[colInput] = append(b.u32[colInput][:i], r.Input)
	b.u32[colOutput] = append(b.u32[colOutput][:i], r.Output)
	b.u32[colSrcAS] = append(b.u32[colSrcAS][:i], r.SrcAS)
	b.u32[colDstAS] = append(b.u32[colDstAS][:i], r.DstAS)
	b.u32[colSampling] = append(b.u32[colSampling][:i], r.Sampling)
	b.u32[colDomain] = append(b.u32[colDomain][:i], r.Domain)
	b.u16[colSrcPort] = append(b.u16[colSrcPort][:i], r.SrcPort)
	b.u16[colDstPort] = append(b.u16[colDstPort][:i], r.DstPort)
	b.u16[colVLAN] = append(b.u16[colVLAN][:i], r.VLAN)
	b.u16[colTCPFlags] = append(b.u16[colTCPFlags][:i], r.TCPFlags)
	b.u8[colProto] = append(b.u8[colProto][:i], r.Proto)
	b.u8[colTOS] = append(b.u8[colTOS][:i], r.TOS)
	b.u8[colICMPType] = append(b.u8[colICMPType][:i], r.ICMPType)
	b.u8[colICMPCode] = append(b.u8[colICMPCode][:i], r.ICMPCode)
	b.u8[colSrcMask] = append(b.u8[colSrcMask][:i], r.SrcMask)
	b.u8[colDstMask] = append(b.u8[colDstMask][:i], r.DstMask)
	b.u8[colDirection] = append(b.u8[colDirection][:i], r.Direction)
	b.u8[colEndReason] = append(b.u8[colEndReason][:i], uint8(r.EndReason))
	b.u8[colForwardingStatus] = append(b.u8[colForwardingStatus][:i], r.ForwardingStatus)
	b.u8[colVersion] = append(b.u8[colVersion][:i], r.Version)
	b.u8[colIPVersion] = append(b.u8[colIPVersion][:i], version)
	fragment := uint8(0)
	if r.Fragment {
		fragment = 1
	}
	b.u8[colFragment] = append(b.u8[colFragment][:i], fragment)
}

// ipVersion is what r says, else the family of its addresses, else 0.
func ipVersion(r *flow.Record) uint8 {
	switch {
	case r.IPVersion != 0:
		return r.IPVersion
	case r.Has&flow.HasSrc != 0 && !r.Src.Is4(), r.Has&flow.HasDst != 0 && !r.Dst.Is4():
		return 6
	case r.Has&(flow.HasSrc|flow.HasDst) != 0:
		return 4
	}
	return 0
}

// record reads row i back. What is not known is zero. The elements are a part
// of the batch.
func (b *batch) record(i int, r *flow.Record) {
	has := b.has[i]
	*r = flow.Record{Has: has &^ (hasElements | hasIPVersion), Version: b.u8[colVersion][i], Fragment: b.u8[colFragment][i] != 0}
	if has&hasElements != 0 {
		r.Elements = b.elements(i)
	}
	if has&hasIPVersion != 0 {
		r.IPVersion = b.u8[colIPVersion][i]
	}
	get(&r.First, b.time[colFirst], has&flow.HasFirst, i)
	get(&r.Last, b.time[colLast], has&flow.HasLast, i)
	get(&r.Received, b.time[colReceived], has&flow.HasReceived, i)
	r.First, r.Last, r.Received = r.First*1000, r.Last*1000, r.Received*1000
	get(&r.Src, b.addr[colSrc], has&flow.HasSrc, i)
	get(&r.Dst, b.addr[colDst], has&flow.HasDst, i)
	get(&r.NextHop, b.addr[colNextHop], has&flow.HasNextHop, i)
	get(&r.BGPNextHop, b.addr[colBGPNextHop], has&flow.HasBGPNextHop, i)
	get(&r.Exporter, b.addr[colExporter], has&flow.HasExporter, i)
	get(&r.Packets, b.u64[colPackets], has&flow.HasPackets, i)
	get(&r.Bytes, b.u64[colBytes], has&flow.HasBytes, i)
	get(&r.FlowID, b.u64[colFlowID], has&flow.HasFlowID, i)
	get(&r.Input, b.u32[colInput], has&flow.HasInput, i)
	get(&r.Output, b.u32[colOutput], has&flow.HasOutput, i)
	get(&r.SrcAS, b.u32[colSrcAS], has&flow.HasSrcAS, i)
	get(&r.DstAS, b.u32[colDstAS], has&flow.HasDstAS, i)
	get(&r.Sampling, b.u32[colSampling], has&flow.HasSampling, i)
	get(&r.Domain, b.u32[colDomain], has&flow.HasDomain, i)
	get(&r.SrcPort, b.u16[colSrcPort], has&flow.HasSrcPort, i)
	get(&r.DstPort, b.u16[colDstPort], has&flow.HasDstPort, i)
	get(&r.VLAN, b.u16[colVLAN], has&flow.HasVLAN, i)
	get(&r.TCPFlags, b.u16[colTCPFlags], has&flow.HasTCPFlags, i)
	get(&r.Proto, b.u8[colProto], has&flow.HasProto, i)
	get(&r.TOS, b.u8[colTOS], has&flow.HasTOS, i)
	get(&r.ICMPType, b.u8[colICMPType], has&flow.HasICMP, i)
	get(&r.ICMPCode, b.u8[colICMPCode], has&flow.HasICMP, i)
	get(&r.SrcMask, b.u8[colSrcMask], has&flow.HasSrcMask, i)
	get(&r.DstMask, b.u8[colDstMask], has&flow.HasDstMask, i)
	get(&r.Direction, b.u8[colDirection], has&flow.HasDirection, i)
	var reason uint8
	get(&reason, b.u8[colEndReason], has&flow.HasEndReason, i)
	r.EndReason = flow.EndReason(reason)
	get(&r.ForwardingStatus, b.u8[colForwardingStatus], has&flow.HasForwardingStatus, i)
}

func get[T any](to *T, from []T, known flow.Field, i int) {
	if known != 0 {
		*to = from[i]
	}
}

// elements of row i.
func (b *batch) elements(i int) []byte {
	start := uint32(0)
	if i > 0 {
		start = b.ends[i-1]
	}
	return b.text[start:b.ends[i]:b.ends[i]]
}

// eventTime of row i, µs: the end of the flow, else its start, else when the
// record came.
func (b *batch) eventTime(i int) int64 {
	switch has := b.has[i]; {
	case has&flow.HasLast != 0:
		return b.time[colLast][i]
	case has&flow.HasFirst != 0:
		return b.time[colFirst][i]
	}
	return b.time[colReceived][i]
}

// take sets b to the rows of from named by order.
func (b *batch) take(from *batch, order []int32) {
	b.reset()
	b.has = pick(b.has, from.has, order)
	for i := range b.addr {
		b.addr[i] = pick(b.addr[i], from.addr[i], order)
	}
	for i := range b.time {
		b.time[i] = pick(b.time[i], from.time[i], order)
	}
	for i := range b.u64 {
		b.u64[i] = pick(b.u64[i], from.u64[i], order)
	}
	for i := range b.u32 {
		b.u32[i] = pick(b.u32[i], from.u32[i], order)
	}
	for i := range b.u16 {
		b.u16[i] = pick(b.u16[i], from.u16[i], order)
	}
	for i := range b.u8 {
		b.u8[i] = pick(b.u8[i], from.u8[i], order)
	}
	b.ends = b.ends[:0]
	for _, j := range order {
		b.text = append(b.text, from.elements(int(j))...)
		b.ends = append(b.ends, uint32(len(b.text)))
	}
}

func pick[T any](to, from []T, order []int32) []T {
	to = sized(to[:0], len(order))
	for i, j := range order {
		to[i] = from[j]
	}
	return to
}

// summary fills in what the catalogue says about the rows.
func (b *batch) summary(s *Segment) {
	s.Rows = uint64(b.rows())
	s.Packets, s.Bytes = b.totals()
	var first, last, recv, event bounds
	for i, has := range b.has {
		if has&flow.HasFirst != 0 {
			first.add(b.time[colFirst][i])
		} else {
			s.NoFirst++
		}
		if has&flow.HasLast != 0 {
			last.add(b.time[colLast][i])
		} else {
			s.NoLast++
		}
		recv.add(b.time[colReceived][i])
		event.add(b.eventTime(i))
	}
	s.MinFirst, s.MaxFirst = first.min, first.max
	s.MinLast, s.MaxLast = last.min, last.max
	s.MinRecv, s.MaxRecv = recv.min, recv.max
	s.MinTime, s.MaxTime = event.min, event.max
}

// totals sums the known counters of b.
func (b *batch) totals() (packets, octets uint64) {
	for i, has := range b.has {
		if has&flow.HasPackets != 0 {
			packets += b.u64[colPackets][i]
		}
		if has&flow.HasBytes != 0 {
			octets += b.u64[colBytes][i]
		}
	}
	return packets, octets
}

// bounds collects a minimum and a maximum; both 0 while nothing was added.
type bounds struct {
	min, max int64
	some     bool
}

func (b *bounds) add(v int64) {
	if !b.some {
		b.min, b.max, b.some = v, v, true
		return
	}
	b.min, b.max = min(b.min, v), max(b.max, v)
}

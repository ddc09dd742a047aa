package wire

import (
	"math"

	"weir/flow"
	"weir/ie"
)

// context is what a message says of all its records, and the little that one
// record's moves hand to its end.
type context struct {
	clock
	version  uint8
	src      Source
	received int64
	size     int   // octets of the message
	waited   bool  // the set at hand had to wait for its template
	shift    int64 // ns to add to flow times: MaxSkew

	common flow.Record // what every record of the message has in common
	proto  flow.Record // and of the set

	// Of the record being read.
	left     uint64 // values that did not fit their column
	sampling sampling
	sampled  bool   // IE 34 or 50 told the rate
	icmpType uint16 // or unsaid
	icmpCode uint16
	icmpLeft uint64 // left bits of its elements
	icmpOf   uint8  // the protocol its elements are of
	observed int64
	seen     bool // observed is set
}

func (c *context) begin() {
	c.left, c.icmpLeft, c.icmpType, c.icmpCode, c.icmpOf = 0, 0, unsaid, unsaid, 0
	c.sampling = sampling{}
	c.sampled, c.seen = false, false
}

func (c *context) leave(bit uint8) {
	if bit < maxLefts {
		c.left |= 1 << bit
	}
}

// move runs moves on one record, whose octets rec holds.
func (c *context) move(r *flow.Record, moves []move, rec []byte) {
	for i := range moves {
		m := &moves[i]
		f := rec[m.off:]
		switch m.op {
		case opSrc4:
			*(*[4]byte)(r.Src[12:]) = [4]byte(f) // plan.base has the rest
		case opSrc16:
			r.Src = flow.Addr(f[:16])
		case opDst4:
			*(*[4]byte)(r.Dst[12:]) = [4]byte(f) // plan.base has the rest
		case opDst16:
			r.Dst = flow.Addr(f[:16])
		case opNextHop4:
			*(*[4]byte)(r.NextHop[12:]) = [4]byte(f) // plan.base has the rest
		case opNextHop16:
			r.NextHop = flow.Addr(f[:16])
		case opBGPNextHop4:
			*(*[4]byte)(r.BGPNextHop[12:]) = [4]byte(f) // plan.base has the rest
		case opBGPNextHop16:
			r.BGPNextHop = flow.Addr(f[:16])
		case opSrcPort:
			r.SrcPort = be.Uint16(f)
		case opDstPort:
			r.DstPort = be.Uint16(f)
		case opProto:
			r.Proto = f[0]
		case opTOS:
			r.TOS = f[0]
		case opFlags1:
			r.TCPFlags = uint16(f[0])
		case opFlags2:
			r.TCPFlags = be.Uint16(f)
		case opPackets4:
			r.Packets = uint64(be.Uint32(f))
		case opPackets8:
			r.Packets = be.Uint64(f)
		case opBytes4:
			r.Bytes = uint64(be.Uint32(f))
		case opBytes8:
			r.Bytes = be.Uint64(f)
		case opInput2:
			r.Input = uint32(be.Uint16(f))
		case opInput4:
			r.Input = be.Uint32(f)
		case opOutput2:
			r.Output = uint32(be.Uint16(f))
		case opOutput4:
			r.Output = be.Uint32(f)
		case opFirstUp:
			r.First = c.sysUp(be.Uint32(f))
		case opLastUp:
			r.Last = c.sysUp(be.Uint32(f))
		case opFirstMs:
			if v := be.Uint64(f); v <= maxMs {
				r.First = int64(v) * 1e6
			} else {
				r.Has &^= flow.HasFirst
				c.leave(m.left)
			}
		case opLastMs:
			if v := be.Uint64(f); v <= maxMs {
				r.Last = int64(v) * 1e6
			} else {
				r.Has &^= flow.HasLast
				c.leave(m.left)
			}
		case opSrcAS2:
			r.SrcAS = uint32(be.Uint16(f))
		case opSrcAS4:
			r.SrcAS = be.Uint32(f)
		case opDstAS2:
			r.DstAS = uint32(be.Uint16(f))
		case opDstAS4:
			r.DstAS = be.Uint32(f)
		case opSrcMask:
			r.SrcMask = f[0]
		case opDstMask:
			r.DstMask = f[0]
		case opDirection:
			r.Direction = f[0]
		case opEndReason:
			r.EndReason = flow.EndReason(f[0])
		case opForwarding:
			r.ForwardingStatus = f[0]
		case opFlowID8:
			r.FlowID = be.Uint64(f)
		case opVLAN2:
			r.VLAN = be.Uint16(f)
		case opIPVersion1:
			if f[0] == 4 || f[0] == 6 {
				r.IPVersion = f[0]
			}
		case opSrcDst4:
			v := [8]byte(f)
			*(*[4]byte)(r.Src[12:]) = [4]byte(v[:4])
			*(*[4]byte)(r.Dst[12:]) = [4]byte(v[4:])
		case opSrcDst16:
			v := (*[32]byte)(f)
			r.Src, r.Dst = flow.Addr(v[:16]), flow.Addr(v[16:])
		case opPorts:
			v := be.Uint32(f)
			r.SrcPort, r.DstPort = uint16(v>>16), uint16(v)
		case opInOut2:
			v := be.Uint32(f)
			r.Input, r.Output = v>>16, v&0xffff
		case opInOut4:
			v := be.Uint64(f)
			r.Input, r.Output = uint32(v>>32), uint32(v)
		case opPacketsBytes4:
			v := be.Uint64(f)
			r.Packets, r.Bytes = v>>32, v&math.MaxUint32
		case opPacketsBytes8:
			v := (*[16]byte)(f)
			r.Packets, r.Bytes = be.Uint64(v[:8]), be.Uint64(v[8:])
		case opBytesPackets4:
			v := be.Uint64(f)
			r.Bytes, r.Packets = v>>32, v&math.MaxUint32
		case opBytesPackets8:
			v := (*[16]byte)(f)
			r.Bytes, r.Packets = be.Uint64(v[:8]), be.Uint64(v[8:])
		case opFirstLastUp:
			v := be.Uint64(f)
			r.First, r.Last = c.sysUp(uint32(v>>32)), c.sysUp(uint32(v))
		case opLastFirstUp:
			v := be.Uint64(f)
			r.Last, r.First = c.sysUp(uint32(v>>32)), c.sysUp(uint32(v))
		case opAS2:
			v := be.Uint32(f)
			r.SrcAS, r.DstAS = v>>16, v&0xffff
		case opAS4:
			v := be.Uint64(f)
			r.SrcAS, r.DstAS = uint32(v>>32), uint32(v)
		case opMasks:
			v := be.Uint16(f)
			r.SrcMask, r.DstMask = uint8(v>>8), uint8(v)
		case opFlagsProto:
			v := be.Uint16(f)
			r.TCPFlags, r.Proto = v>>8, uint8(v)
		case opProtoFlags:
			v := be.Uint16(f)
			r.Proto, r.TCPFlags = uint8(v>>8), v&0xff
		case opOther:
			c.other(r, m, f[:m.n])
		default:
			c.general(r, m, f[:m.n])
		}
	}
}

// other takes the second value of a pair if the first is zero, and leaves it
// as an element if it differs.
func (c *context) other(r *flow.Record, m *move, f []byte) {
	r.Has |= hasBit[m.col]
	mask := func(have *uint8) {
		switch v := f[0]; {
		case *have == 0:
			*have = v
		case v != 0 && v != *have:
			c.leave(m.left)
		}
	}
	var have *flow.Addr
	switch m.col {
	case colSrcMask:
		mask(&r.SrcMask)
		return
	case colDstMask:
		mask(&r.DstMask)
		return
	case colSrc:
		have = &r.Src
	case colDst:
		have = &r.Dst
	case colNextHop:
		have = &r.NextHop
	default:
		have = &r.BGPNextHop
	}
	var v flow.Addr
	if len(f) == 4 {
		v = flow.AddrFrom4([4]byte(f))
	} else {
		v = flow.Addr(f)
	}
	switch {
	case have.IsZero():
		*have = v
	case v != *have && !v.IsZero():
		c.leave(m.left)
	}
}

// general stores a value of any length: reduced-size encoding, integers longer
// than their type, variable length, and all that is rare. What does not fit is
// left as an element.
func (c *context) general(r *flow.Record, m *move, f []byte) {
	if !c.store(r, m, f) {
		c.leave(m.left)
		return
	}
	r.Has |= hasBit[m.col]
}

func (c *context) store(r *flow.Record, m *move, f []byte) bool {
	switch m.col {
	case colSrc:
		return addr(&r.Src, m.typ, f)
	case colDst:
		return addr(&r.Dst, m.typ, f)
	case colNextHop:
		return addr(&r.NextHop, m.typ, f)
	case colBGPNextHop:
		return addr(&r.BGPNextHop, m.typ, f)
	case colFirst, colLast:
		t, ok := c.time(m, f)
		switch {
		case !ok:
		case m.col == colFirst:
			r.First = t
		default:
			r.Last = t
		}
		return ok
	case colObserved:
		t, ok := absolute(m.typ, f)
		if ok {
			c.observed, c.seen = t, true
		}
		return ok
	case colInit:
		if t, ok := absolute(ie.DateTimeMilliseconds, f); ok {
			if c.version == flow.VersionIPFIX { // v9's header has its own
				c.uptime, c.up = uint32((c.exported-t)/1e6), true
			}
			return true
		}
		return false
	case colSampleP:
		p, ok := floatOf(f)
		c.sampling.p = p
		return ok
	}
	v, ok := uintOf(f)
	if !ok {
		return false
	}
	if v > maxOf[m.col] {
		return false
	}
	switch m.col {
	case colSrcPort:
		r.SrcPort = uint16(v)
	case colDstPort:
		r.DstPort = uint16(v)
	case colProto:
		r.Proto = uint8(v)
	case colTOS:
		r.TOS = uint8(v)
	case colTCPFlags:
		r.TCPFlags = uint16(v)
	case colPackets:
		r.Packets = v
	case colBytes:
		r.Bytes = v
	case colFlowID:
		r.FlowID = v
	case colInput:
		r.Input = uint32(v)
	case colOutput:
		r.Output = uint32(v)
	case colSrcAS:
		r.SrcAS = uint32(v)
	case colDstAS:
		r.DstAS = uint32(v)
	case colSrcMask:
		r.SrcMask = uint8(v)
	case colDstMask:
		r.DstMask = uint8(v)
	case colDirection:
		r.Direction = uint8(v)
	case colVLAN:
		r.VLAN = uint16(v)
	case colEndReason:
		r.EndReason = flow.EndReason(v)
	case colForwarding:
		r.ForwardingStatus = uint8(v)
	case colSampling:
		if v == 0 {
			return false // not a rate
		}
		r.Sampling, c.sampled = uint32(v), true
	case colICMP:
		c.icmp(m, v>>8, v&0xff)
	case colICMPType:
		c.icmp(m, v, unsaid)
	case colICMPCode:
		c.icmp(m, unsaid, v)
	case colIPVersion:
		if v == 4 || v == 6 {
			r.IPVersion = uint8(v)
		}
	case colSampler:
		c.sampling.sampler, c.sampling.named = uint32(v), true
	case colSampleInt:
		c.sampling.interval = v
	case colSampleGap:
		c.sampling.space, c.sampling.hasSpace = v, true
	case colSampleN:
		c.sampling.n = v
	case colSampleOf:
		c.sampling.of = v
	}
	return true
}

// maxOf is the largest value a column takes; larger ones stay elements.
var maxOf = [columns]uint64{
	colSrcPort: math.MaxUint16, colDstPort: math.MaxUint16, colProto: math.MaxUint8, colTOS: math.MaxUint8,
	colTCPFlags: math.MaxUint16, colPackets: math.MaxUint64, colBytes: math.MaxUint64, colFlowID: math.MaxUint64,
	colInput: math.MaxUint32, colOutput: math.MaxUint32, colSrcAS: math.MaxUint32, colDstAS: math.MaxUint32,
	colSrcMask: math.MaxUint8, colDstMask: math.MaxUint8, colDirection: math.MaxUint8, colVLAN: math.MaxUint16,
	colEndReason: math.MaxUint8, colForwarding: math.MaxUint8, colSampling: maxRate,
	colICMP: math.MaxUint16, colICMPType: math.MaxUint8, colICMPCode: math.MaxUint8,
	colIPVersion: math.MaxUint64, colSampler: math.MaxUint32, colSampleInt: math.MaxUint32,
	colSampleGap: math.MaxUint32, colSampleN: math.MaxUint32, colSampleOf: math.MaxUint32,
}

const unsaid = 256 // no ICMP type or code

// icmp notes an ICMP type, code or both; whether they mean anything, the
// protocol tells at the record's end. Of IPv4's and IPv6's, the one that is
// not zero is taken.
func (c *context) icmp(m *move, typ, code uint64) {
	some := false
	of := uint8(flow.ProtoICMP)
	if m.typ == ie.IPv6Address {
		of = flow.ProtoICMPv6
	}
	if typ != unsaid {
		some = typ != 0
		if c.icmpType == unsaid || c.icmpType == 0 {
			c.icmpType = uint16(typ)
		}
	}
	if code != unsaid {
		some = some || code != 0
		if c.icmpCode == unsaid || c.icmpCode == 0 {
			c.icmpCode = uint16(code)
		}
	}
	if some && m.left < maxLefts {
		c.icmpLeft |= 1 << m.left
	}
	if some || c.icmpOf == 0 {
		c.icmpOf = of
	}
}

// time reads a flow time that is not in v9's or milliseconds' form: of another
// unit, relative to the exporter's start, which must be known, or before the
// export (RFC 5102 sections 5.9.9 and 5.9.10).
func (c *context) time(m *move, f []byte) (int64, bool) {
	switch {
	case m.op == opUp && len(f) == 4:
		return c.sysUp(be.Uint32(f)), c.up
	case m.op == opDelta && len(f) == 4:
		return c.exported - int64(be.Uint32(f))*1e3, true
	}
	t, ok := absolute(m.typ, f)
	if m.typ != ie.DateTimeMilliseconds {
		t = inEra(t, c.exported)
	}
	return t, ok
}

func addr(to *flow.Addr, t ie.Type, f []byte) bool {
	switch {
	case t == ie.IPv4Address && len(f) == 4:
		*to = flow.AddrFrom4([4]byte(f))
	case t == ie.IPv6Address && len(f) == 16:
		*to = flow.Addr(f)
	default:
		return false
	}
	return true
}

// end does what needs all of a record's columns. It returns false if last had
// to be clamped.
func (c *context) end(r *flow.Record, fin finish) bool {
	if fin&finishObserved != 0 && c.seen && r.Has&(flow.HasFirst|flow.HasLast) == 0 {
		r.First, r.Last = c.observed, c.observed
		r.Has |= flow.HasFirst | flow.HasLast
	}
	if fin&finishICMP != 0 && r.Has&flow.HasProto == 0 && c.icmpOf != 0 {
		// Exporters leave the protocol out of templates that are for ICMP only.
		r.Proto = c.icmpOf
		r.Has |= flow.HasProto
	}
	if r.Proto == flow.ProtoICMP || r.Proto == flow.ProtoICMPv6 {
		c.endICMP(r)
	} else if fin&finishICMP != 0 {
		c.left |= c.icmpLeft
	}
	const both = flow.HasFirst | flow.HasLast
	ok := true
	if r.Has&both == both && r.Last < r.First {
		r.Last, ok = r.First, false
	}
	if c.shift != 0 {
		if r.Has&flow.HasFirst != 0 {
			r.First += c.shift
		}
		if r.Has&flow.HasLast != 0 {
			r.Last += c.shift
		}
	}
	return ok
}

// endICMP makes type and code and the destination port agree: the port is
// type*256+code, as Cisco has it, whichever of them the exporter sent.
func (c *context) endICMP(r *flow.Record) {
	said := c.icmpType != unsaid || c.icmpCode != unsaid
	if !said && r.Has&flow.HasDstPort == 0 {
		return
	}
	r.ICMPType, r.ICMPCode = uint8(c.icmpType), uint8(c.icmpCode) // unsaid is 0
	switch {
	case r.DstPort == 0:
		r.DstPort = uint16(r.ICMPType)<<8 | uint16(r.ICMPCode)
	case r.ICMPType|r.ICMPCode == 0:
		r.ICMPType, r.ICMPCode = uint8(r.DstPort>>8), uint8(r.DstPort)
	}
	r.Has |= flow.HasICMP | flow.HasSrcPort | flow.HasDstPort
}

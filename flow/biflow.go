package flow

// questions are ICMP's types that ask, and those that answer (RFC 792, 950, 4443).
var questions = [...]struct{ proto, ask, answer uint8 }{
	{ProtoICMP, 8, 0},
	{ProtoICMP, 13, 14},
	{ProtoICMP, 15, 16},
	{ProtoICMP, 17, 18},
	{ProtoICMPv6, 128, 129},
}

// ICMPQuestion is the type that a type answers; false: it is no answer.
func ICMPQuestion(proto, answer uint8) (ask uint8, ok bool) {
	for _, q := range questions {
		if q.proto == proto && q.answer == answer {
			return q.ask, true
		}
	}
	return 0, false
}

// ICMPAnswer is the type that answers a type; a type that asks nothing is its own.
func ICMPAnswer(proto, ask uint8) uint8 {
	for _, q := range questions {
		if q.proto == proto && q.ask == ask {
			return q.answer
		}
	}
	return ask
}

// AppendDirections appends r as records of one direction each, those that have
// counted something; at most two. Elements are left out, More belongs to r. The flow
// id stays with the first direction, for it names one record.
func (r *Record) AppendDirections(dst []Record) []Record {
	v := r.Reverse
	one := *r
	one.Reverse, one.Elements = nil, nil
	if v == nil || r.Packets > 0 || v.Packets == 0 {
		dst = append(dst, one)
	}
	if v == nil || v.Packets == 0 {
		return dst
	}
	one.Src, one.Dst, one.SrcMask, one.DstMask, one.SrcAS, one.DstAS = r.Dst, r.Src, r.DstMask, r.SrcMask, r.DstAS, r.SrcAS
	one.Input, one.Output = r.Output, r.Input
	one.Has = swapped(r.Has, HasSrc, HasDst)
	one.Has = swapped(one.Has, HasSrcMask, HasDstMask)
	one.Has = swapped(one.Has, HasSrcAS, HasDstAS)
	one.Has = swapped(one.Has, HasInput, HasOutput)
	one.Has &^= HasNextHop | HasBGPNextHop // on the other way
	if r.Packets > 0 {
		one.Has &^= HasFlowID
	}
	one.Direction = r.Direction ^ 1
	if r.Has&HasICMP != 0 {
		one.ICMPType = ICMPAnswer(r.Proto, r.ICMPType)
		if ask, ok := ICMPQuestion(r.Proto, r.ICMPType); ok {
			one.ICMPType = ask
		}
		one.DstPort = uint16(one.ICMPType)<<8 | uint16(one.ICMPCode)
	} else {
		one.SrcPort, one.DstPort = r.DstPort, r.SrcPort
		one.Has = swapped(one.Has, HasSrcPort, HasDstPort)
	}
	one.Packets, one.Bytes, one.First, one.Last, one.TCPFlags = v.Packets, v.Bytes, v.First, v.Last, uint16(v.TCPFlags)
	if r.More != nil {
		m := *r.More
		m.Reverse()
		m.TCPOptions, m.FragmentFlags = v.TCPOptions, v.FragmentFlags
		m.MinLength, m.MaxLength, m.MinTTL, m.MaxTTL = v.MinLength, v.MaxLength, v.MinTTL, v.MaxTTL
		one.More = &m
	}
	return append(dst, one)
}

// swapped exchanges two bits.
func swapped(f, a, b Field) Field {
	if has := f & (a | b); has == a || has == b {
		f ^= a | b
	}
	return f
}

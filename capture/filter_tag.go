package capture

import (
	"golang.org/x/net/bpf"
)

// A packet socket sees frames after the kernel, or the NIC, has taken their
// outermost VLAN tag off. Filters are about frames as they were on the wire, as
// a capture file has them: of the frame on the wire, octets tagAt to tagEnd are
// what the kernel knows of the tag, and those behind are tagSize further ahead.

const (
	tagAt   = 12
	tagEnd  = 16
	tagSize = tagEnd - tagAt
)

// tagTypes are what a tag that is taken off may have before it.
var tagTypes = [2]uint32{0x8100, 0x88a8}

// takenOff asks of a frame without its tag what n asks of the whole frame.
func takenOff(n node) node {
	switch n := n.(type) {
	case and:
		a, b := takenOff(n.a), takenOff(n.b)
		switch {
		case a == node(constant(true)):
			return b
		case a == node(constant(false)), b == node(constant(true)):
			return a
		}
		return and{a, b}
	case or:
		a, b := takenOff(n.a), takenOff(n.b)
		switch {
		case a == node(constant(false)):
			return b
		case a == node(constant(true)), b == node(constant(false)):
			return a
		}
		return or{a, b}
	case not:
		a := takenOff(n.a)
		if c, ok := a.(constant); ok {
			return !c
		}
		return not{a}
	case *test:
		if c, ok := n.ofTagType(); ok {
			return c
		}
		t := *n
		t.load = nil
		for _, in := range n.load {
			t.load = append(t.load, behindTag(in)...)
		}
		return &t
	}
	return n
}

// ofTagType is what a test of the EtherType says, if it says the same of all tags.
func (t *test) ofTagType() (constant, bool) {
	if t.load[0] != (bpf.RawInstruction{Op: opLdH, K: tagAt}) || t.jump&opX != 0 {
		return false, false
	}
	for _, in := range t.load[1:] {
		if in.Op&7 != opAlu || in.Op&opX != 0 {
			return false, false
		}
	}
	code := append([]bpf.RawInstruction{}, t.load...)
	code = append(code, bpf.RawInstruction{Op: opJmp | t.jump, K: t.k, Jf: 1}, bpf.RawInstruction{Op: opRet, K: 1}, bpf.RawInstruction{Op: opRet})
	var says [len(tagTypes)]bool
	for i, v := range tagTypes {
		code[0] = bpf.RawInstruction{Op: opLdImm, K: v}
		says[i] = run(translate(code), nil, 0, 0) != 0
	}
	return constant(says[0]), says[0] == says[1]
}

// behindTag does with a frame without its tag what an instruction does with the
// whole frame.
func behindTag(in bpf.RawInstruction) []bpf.RawInstruction {
	switch in.Op {
	case opLdB:
		return octets(in, 1)
	case opLdH:
		return octets(in, 2)
	case opLdW:
		return octets(in, 4)
	case opLdLen:
		return []bpf.RawInstruction{in, {Op: opAlu | opAdd, K: tagSize}}
	case opLdxMsh, opLdBX, opLdHX, opLdWX:
		if in.K >= tagEnd {
			in.K -= tagSize
			return []bpf.RawInstruction{in}
		}
		if in.Op == opLdxMsh { // not reached: IP does not begin in a tag
			return []bpf.RawInstruction{in}
		}
		// A calculated place: less by tagSize if it is behind the tag, without a
		// jump. Of a place in the tag itself nothing is known here, and what is
		// behind the tag is taken for it.
		return []bpf.RawInstruction{
			{Op: opTxa},
			{Op: opAlu | opAdd, K: in.K},
			{Op: opTax},
			{Op: opAlu | opRsh, K: 4},
			{Op: opAlu | opAdd, K: 1<<28 - 1},
			{Op: opAlu | opRsh, K: 28}, // 1 from 16 on, else 0
			{Op: opAlu | opMul, K: tagSize},
			{Op: opAlu | opNeg},
			{Op: opAlu | opAdd | opX},
			{Op: opTax},
			{Op: in.Op},
		}
	}
	return []bpf.RawInstruction{in}
}

// octets loads size octets of the frame on the wire.
func octets(in bpf.RawInstruction, size uint32) []bpf.RawInstruction {
	switch {
	case in.K >= extension, in.K+size <= tagAt:
		return []bpf.RawInstruction{in}
	case in.K >= tagEnd:
		in.K -= tagSize
		return []bpf.RawInstruction{in}
	case in.K == tagAt && size == 2:
		return []bpf.RawInstruction{{Op: opLdH, K: extVLANType}}
	case in.K == tagAt+2 && size == 2:
		return []bpf.RawInstruction{{Op: opLdH, K: extVLANTag}}
	}
	// One by one. X is free: who needs it sets it after it has loaded.
	var code []bpf.RawInstruction
	for i := range size {
		at := in.K + i
		if i > 0 {
			code = append(code, bpf.RawInstruction{Op: opAlu | opLsh, K: 8}, bpf.RawInstruction{Op: opTax})
		}
		switch {
		case at < tagAt:
			code = append(code, bpf.RawInstruction{Op: opLdB, K: at})
		case at >= tagEnd:
			code = append(code, bpf.RawInstruction{Op: opLdB, K: at - tagSize})
		default:
			half := uint32(extVLANType)
			if at >= tagAt+2 {
				half = extVLANTag
			}
			code = append(code, bpf.RawInstruction{Op: opLdH, K: half})
			if at%2 == 0 {
				code = append(code, bpf.RawInstruction{Op: opAlu | opRsh, K: 8})
			} else {
				code = append(code, bpf.RawInstruction{Op: opAlu | opAnd, K: 0xff})
			}
		}
		if i > 0 {
			code = append(code, bpf.RawInstruction{Op: opAlu | opOr | opX})
		}
	}
	return code
}

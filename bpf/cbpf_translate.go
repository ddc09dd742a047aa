package bpf

import (
	"fmt"
	"slices"

	"github.com/cilium/ebpf/asm"
	classic "golang.org/x/net/bpf"
)

// A filter is a program of classic BPF: A, X, sixteen words of memory, loads
// from the packet, jumps forwards. translate makes a function of eBPF of it,
//
//	int f(void *ctx, void *data, void *data_end)
//
// of up to four copies of the filter, each of which reads octets in its own way:
//
//	direct          from data on, after a look at data_end where the octets are not
//	                known to be there. Behind data_end is nothing, unless the packet
//	                goes on in other buffers: then the filter starts anew as
//	helper          by the kernel's function that reads from any buffer.
//	direct, tagged  TC, the outermost VLAN tag is in skb->vlan_tci: octets 12 to 15 of
//	helper, tagged  the frame on the wire are that tag, and those from 16 on are the
//	                buffer's from 12 on.
//
// It can start anew because a filter changes nothing. So the verifier's work stays
// small: which octets are there depends on the place in a copy alone.

// Classic BPF (linux/bpf_common.h).
const (
	clLdW, clLdH, clLdB    = 0x20, 0x28, 0x30 // A = octets at K
	clLdWX, clLdHX, clLdBX = 0x40, 0x48, 0x50 // A = octets at X + K
	clLdImm, clLdxImm      = 0x00, 0x01
	clLdMem, clLdxMem      = 0x60, 0x61
	clLdLen, clLdxLen      = 0x80, 0x81
	clLdxMsh               = 0xb1 // X = 4 * (octet at K & 15)
	clSt, clStx            = 0x02, 0x03
	clRetK, clRetA         = 0x06, 0x16
	clTax, clTxa           = 0x07, 0x87

	clClass, clALU, clJump = 0x07, 0x04, 0x05 // … | operation | clX
	clOperation, clX       = 0xf0, 0x08
	clJa                   = clJump
	clNeg                  = clALU | 0x80

	clExtension = 0xfffff000 // loads at K from here on ask for what is not in the packet
	clProtocol  = clExtension + 0
	clPktType   = clExtension + 4
	clIfindex   = clExtension + 8

	clMaxProgram = 4096
	clMaxMsh     = 15 * 4
)

// nothing is the program that matches nothing.
var nothing = []classic.RawInstruction{{Op: clRetK}}

// Where a frame on the wire has its tag, if skb->vlan_tci has it: octets macs to
// tagEnd; the buffer has everything from there on at an offset less by tagSize.
const (
	macs    = 12
	tagEnd  = 16
	tagSize = 4
	// headSize octets of a tagged frame are put together on the stack: any load
	// that begins before tagEnd is within.
	headSize = tagEnd + 4
)

// How far behind octets may be: directly, what the verifier lets an offset into
// a packet be (0xffff), less a load's size and what data may be ahead of the
// frame; by the helper, what that takes.
const (
	maxDirect = 0xff00
	maxHelper = 1<<31 - 8
)

// reading is how a copy of the filter reads octets.
type reading struct{ helper, tagged bool }

type translation struct {
	assembler
	view
	raw    []classic.RawInstruction
	copies map[reading]label
	aside  bool // for tests: everything is read by the helper
	// Offsets on the stack: the words of memory, and what copies need.
	memory               [16]int16 // 0: not used
	length, buffer, head int16
}

// translate checks a program as the kernel does, and translates it.
func translate(raw []classic.RawInstruction, v view) (asm.Instructions, error) {
	if err := validate(raw, v); err != nil {
		return nil, err
	}
	t := translation{assembler: assembler{reach: maxReach}, view: v, raw: raw}
	return t.run(), nil
}

func (t *translation) run() asm.Instructions {
	// The second is wanted by the first, the fourth by the third.
	all := []reading{{}, {helper: true}, {tagged: true}, {tagged: true, helper: true}}
	if t.aside {
		all = slices.DeleteFunc(all, func(r reading) bool { return !r.helper })
	}
	t.copies = map[reading]label{}
	for _, r := range all {
		t.copies[r] = t.label()
	}
	t.layOut()
	t.begin()
	for _, r := range all {
		if start := t.copies[r]; !r.tagged && r.helper == t.aside || t.wanted(start) {
			t.relay()
			t.bind(start)
			t.copy(r)
		}
	}
	return t.code
}

// validate says what is wrong with a program.
func validate(raw []classic.RawInstruction, v view) error {
	if len(raw) == 0 || len(raw) > clMaxProgram {
		return fmt.Errorf("%d instructions; 1 to %d would be accepted", len(raw), clMaxProgram)
	}
	for i, in := range raw {
		if why := invalid(in, uint32(len(raw)-1-i), v); why != "" {
			return fmt.Errorf("instruction %d (code %#x, k %#x): %s", i, in.Op, in.K, why)
		}
	}
	return nil
}

// invalid says what is wrong with an instruction that others, left in number,
// come after.
func invalid(in classic.RawInstruction, left uint32, v view) string {
	const unknown = "no such instruction"
	operation, x := in.Op&clOperation, in.Op&clX != 0
	switch in.Op {
	case clLdW, clLdH, clLdB:
		switch {
		case in.K < clExtension, in.K == clPktType, in.K == clIfindex, in.K == clProtocol && !v.xdp:
		case in.K == clProtocol:
			return "XDP does not know the protocol"
		default:
			return "this is not known of packets here; the protocol, the packet type and the interface would be accepted"
		}
	case clLdWX, clLdHX, clLdBX, clLdxMsh, clLdImm, clLdxImm, clLdLen, clLdxLen, clTax, clTxa:
	case clLdMem, clLdxMem, clSt, clStx:
		if in.K > 15 {
			return "memory has words 0 to 15"
		}
	case clRetK, clRetA:
		return ""
	default:
		if in.Op > 0xff {
			return unknown
		}
		switch in.Op & clClass {
		case clALU:
			switch {
			case operation > 0xa0, operation == 0x80 && x:
				return unknown
			case !x && in.K == 0 && (operation == 0x30 || operation == 0x90):
				return "division by zero"
			}
		case clJump:
			switch {
			case operation > 0x40, operation == 0 && x:
				return unknown
			case operation == 0 && in.K >= left, operation != 0 && max(uint32(in.Jt), uint32(in.Jf)) >= left:
				return "jumps beyond the end"
			}
		default:
			return unknown
		}
	}
	if left == 0 {
		return "the program does not return here"
	}
	return ""
}

// layOut gives everything on the stack its place.
func (t *translation) layOut() {
	top := int16(0)
	for _, in := range t.raw {
		switch in.Op {
		case clLdMem, clLdxMem, clSt, clStx:
			if t.memory[in.K] == 0 {
				top -= 4
				t.memory[in.K] = top
			}
		}
	}
	t.length, t.buffer = top-4, top-8
	t.head = (t.buffer - headSize) &^ 7
}

// begin writes what comes before the copies.
func (t *translation) begin() {
	reads, lengths := false, false
	for _, in := range t.raw {
		switch in.Op {
		case clLdLen, clLdxLen:
			lengths = true
		case clLdW, clLdH, clLdB:
			reads = reads || in.K < clExtension
		case clLdWX, clLdHX, clLdBX, clLdxMsh:
			reads = true
		}
	}
	if t.pieces && lengths {
		t.emit(asm.Mov.Reg(asm.R6, ctx), asm.Mov.Reg(asm.R7, data), asm.Mov.Reg(asm.R8, dataEnd),
			asm.FnXdpGetBuffLen.Call(), asm.StoreMem(asm.RFP, t.length, asm.R0, asm.Word),
			asm.Mov.Reg(ctx, asm.R6), asm.Mov.Reg(data, asm.R7), asm.Mov.Reg(dataEnd, asm.R8))
	}
	if t.aside {
		t.emit(asm.Mov.Reg(savedCtx, ctx))
	}
	if !t.xdp && !t.noLink && (reads || lengths) {
		t.emit(asm.LoadMem(asm.R5, ctx, skbVLANPresent, asm.Word))
		t.jump(compare32(asm.JNE, asm.R5, 0), t.copies[reading{t.aside, true}])
	}
}

// What an instruction reads or writes: the words of memory, A and X.
const (
	useA = 1 << 16
	useX = 1 << 17
)

func uses(in classic.RawInstruction) (reads, writes uint32) {
	switch in.Op {
	case clLdW, clLdH, clLdB, clLdImm, clLdLen:
		return 0, useA
	case clLdWX, clLdHX, clLdBX, clTxa:
		return useX, useA
	case clLdMem:
		return 1 << in.K, useA
	case clLdxMem:
		return 1 << in.K, useX
	case clLdxImm, clLdxLen, clLdxMsh:
		return 0, useX
	case clSt:
		return useA, 1 << in.K
	case clStx:
		return useX, 1 << in.K
	case clTax:
		return useA, useX
	case clRetA:
		return useA, 0
	case clRetK, clJa:
		return 0, 0
	}
	if in.Op&clX != 0 {
		reads = useX
	}
	if in.Op&clClass == clALU {
		writes = useA
	}
	return reads | useA, writes
}

// before is what is known before an instruction, whichever way led there.
type before struct {
	reached bool
	set     uint32 // of what has been written, see uses
	there   uint32 // so many octets of the buffer are known to be there
	small   bool   // X is from LDX MSH: at most clMaxMsh
}

func (b *before) join(o before) {
	if !b.reached {
		*b = o
		return
	}
	b.set &= o.set
	b.there = min(b.there, o.there)
	b.small = b.small && o.small
}

// analyse follows all ways through a program, and says what is read before it
// is written.
func (r reading) analyse(raw []classic.RawInstruction) (all []before, unset uint32) {
	all = make([]before, len(raw))
	all[0].reached = true
	if r.tagged && !r.helper {
		all[0].there = tagEnd
	}
	for i, in := range raw {
		b := all[i]
		if !b.reached {
			continue
		}
		reads, writes := uses(in)
		unset |= reads &^ b.set
		b.set |= writes
		if writes&useX != 0 {
			b.small = in.Op == clLdxMsh
		}
		if at, size, ok := fixedLoad(in); ok {
			if !r.possible(at) {
				continue // ends here
			}
			if !r.helper {
				b.there = max(b.there, r.needs(at, size))
			}
		}
		switch {
		case in.Op == clRetK || in.Op == clRetA:
		case in.Op == clJa:
			all[i+1+int(in.K)].join(b)
		case in.Op&clClass == clJump:
			all[i+1+int(in.Jt)].join(b)
			all[i+1+int(in.Jf)].join(b)
		default:
			all[i+1].join(b)
		}
	}
	return all, unset
}

// fixedLoad says where an instruction reads the packet, if that is fixed.
func fixedLoad(in classic.RawInstruction) (at, size uint32, ok bool) {
	switch in.Op {
	case clLdW:
		return in.K, 4, in.K < clExtension
	case clLdH:
		return in.K, 2, in.K < clExtension
	case clLdB:
		return in.K, 1, in.K < clExtension
	case clLdxMsh:
		return in.K, 1, true
	}
	return 0, 0, false
}

// needs is how long the buffer must be for a load.
func (r reading) needs(at, size uint32) uint32 {
	if r.tagged && at+size > macs {
		return max(macs, at+size-tagSize)
	}
	return at + size
}

// possible says whether octets so far behind can be there at all.
func (r reading) possible(at uint32) bool {
	if r.helper {
		return at < maxHelper
	}
	return at < maxDirect
}

package bpf

import (
	"math"

	"github.com/cilium/ebpf/asm"
	classic "golang.org/x/net/bpf"
)

// Registers. Copies that read directly leave the arguments where they are and
// call nothing; in the others ctx is in savedCtx, and R1 to R5 are for calls.
const (
	ctx, data, dataEnd = asm.R1, asm.R2, asm.R3
	savedCtx           = asm.R6
)

// Offsets in struct __sk_buff and struct xdp_md (linux/bpf.h).
const (
	skbLen          = 0
	skbPktType      = 4
	skbProtocol     = 16
	skbVLANPresent  = 20
	skbVLANTCI      = 24
	skbVLANProtocol = 28
	skbIfindex      = 40
	xdpIfindex      = 12
)

const packetOutgoing = 4 // PACKET_OUTGOING (linux/if_packet.h)

// writer writes one copy of the filter.
type writer struct {
	*translation
	reading
	ctx, a, x   asm.Register
	temp, spare asm.Register
	before      []before
	at          []label // of the filter's instructions
	miss        label   // an octet that is to be read is not in the buffer
	no          label   // the filter does not match
}

func (t *translation) copy(r reading) {
	w := writer{translation: t, reading: r, ctx: ctx, a: asm.R0, x: asm.R4, temp: asm.R5, spare: asm.R6, miss: t.label(), no: t.label()}
	if r.helper {
		w.ctx, w.a, w.x, w.temp, w.spare = savedCtx, asm.R7, asm.R8, asm.R2, asm.R3
	}
	if r.tagged {
		w.buildHead()
	}
	var unset uint32
	w.before, unset = r.analyse(t.raw)
	for i, at := range t.memory {
		if unset>>i&1 != 0 {
			w.emit(asm.StoreImm(asm.RFP, at, 0, asm.Word))
		}
	}
	if unset&useA != 0 {
		w.emit(asm.Mov.Imm32(w.a, 0))
	}
	if unset&useX != 0 {
		w.emit(asm.Mov.Imm32(w.x, 0))
	}
	for range t.raw {
		w.at = append(w.at, w.label())
	}
	for i, in := range t.raw {
		w.relay()
		if w.before[i].reached {
			w.bind(w.at[i])
			w.instruction(i, in)
		}
	}
	w.finish()
}

// finish writes what comes when an octet is not there: the copy that reads it from
// wherever it is, if it may be elsewhere.
func (w *writer) finish() {
	w.relay()
	if w.wanted(w.miss) {
		w.bind(w.miss)
		switch {
		case w.helper, w.xdp && !w.pieces:
		case w.xdp:
			w.emit(asm.Mov.Reg(savedCtx, ctx), asm.Mov.Reg(asm.R7, dataEnd), asm.Sub.Reg(asm.R7, data), asm.FnXdpGetBuffLen.Call())
			w.jump(compareReg(asm.JGT, asm.R0, asm.R7), w.copies[reading{true, w.tagged}])
		default:
			w.emit(asm.LoadMem(asm.R0, ctx, skbLen, asm.Word), asm.Mov.Reg(savedCtx, ctx), asm.Sub.Reg(dataEnd, data))
			w.jump(compareReg(asm.JGT, asm.R0, dataEnd), w.copies[reading{true, w.tagged}])
		}
		w.goTo(w.no)
	}
	if w.wanted(w.no) {
		w.bind(w.no)
		w.emit(asm.Mov.Imm32(asm.R0, 0), asm.Return())
	}
}

// buildHead puts the first headSize octets of a frame on the stack as they are
// on the wire.
func (w *writer) buildHead() {
	if w.helper {
		// A frame that had a tag has what follows it, the type. What is behind that need not be there.
		w.emit(asm.Mov.Imm32(asm.R2, 0))
		w.read(w.head, tagEnd-2)
		w.jump(compare(asm.JNE, asm.R0, 0), w.no)
		w.emit(asm.Mov.Imm32(asm.R2, tagEnd-2))
		w.read(w.head+headSize-2, 2)
		w.emit(asm.LoadMem(w.temp, asm.RFP, w.head+macs, asm.Half), asm.StoreMem(asm.RFP, w.head+tagEnd, w.temp, asm.Half))
	} else {
		w.emit(asm.Mov.Reg(savedCtx, ctx), asm.Mov.Reg(w.temp, data), asm.Add.Imm(w.temp, tagEnd))
		w.jump(compareReg(asm.JGT, w.temp, dataEnd), w.copies[reading{true, true}])
		for _, m := range []struct {
			from, to int16
			size     asm.Size
		}{{0, 0, asm.DWord}, {8, 8, asm.Word}, {macs, tagEnd, asm.Word}} {
			w.emit(asm.LoadMem(w.temp, data, m.from, m.size), asm.StoreMem(asm.RFP, w.head+m.to, w.temp, m.size))
		}
	}
	w.emit(asm.LoadMem(w.temp, w.ctx, skbVLANProtocol, asm.Word), // in network order
		asm.StoreMem(asm.RFP, w.head+macs, w.temp, asm.Half),
		asm.LoadMem(w.temp, w.ctx, skbVLANTCI, asm.Word), asm.HostTo(asm.BE, w.temp, asm.Half),
		asm.StoreMem(asm.RFP, w.head+macs+2, w.temp, asm.Half))
}

func (w *writer) instruction(i int, in classic.RawInstruction) {
	switch in.Op {
	case clLdW, clLdH, clLdB:
		if in.K >= clExtension {
			w.extension(in.K)
			return
		}
		at, size, _ := fixedLoad(in)
		w.load(i, w.a, at, size)
	case clLdxMsh:
		w.load(i, w.x, in.K, 1)
		if w.possible(in.K) {
			w.emit(asm.And.Imm32(w.x, 15), asm.LSh.Imm32(w.x, 2))
		}
	case clLdWX:
		w.loadIndexed(i, in.K, 4)
	case clLdHX:
		w.loadIndexed(i, in.K, 2)
	case clLdBX:
		w.loadIndexed(i, in.K, 1)
	case clLdImm:
		w.emit(asm.Mov.Imm32(w.a, int32(in.K)))
	case clLdxImm:
		w.emit(asm.Mov.Imm32(w.x, int32(in.K)))
	case clLdMem:
		w.emit(asm.LoadMem(w.a, asm.RFP, w.memory[in.K], asm.Word))
	case clLdxMem:
		w.emit(asm.LoadMem(w.x, asm.RFP, w.memory[in.K], asm.Word))
	case clSt:
		w.emit(asm.StoreMem(asm.RFP, w.memory[in.K], w.a, asm.Word))
	case clStx:
		w.emit(asm.StoreMem(asm.RFP, w.memory[in.K], w.x, asm.Word))
	case clLdLen:
		w.wireLength(w.a)
	case clLdxLen:
		w.wireLength(w.x)
	case clTax:
		w.emit(asm.Mov.Reg32(w.x, w.a))
	case clTxa:
		w.emit(asm.Mov.Reg32(w.a, w.x))
	case clRetK:
		w.emit(asm.Mov.Imm32(asm.R0, int32(in.K)), asm.Return())
	case clRetA:
		w.emit(asm.Mov.Reg32(asm.R0, w.a), asm.Return())
	case clJa:
		w.goOn(i, in.K)
	default:
		if in.Op&clClass == clALU {
			w.calculate(in)
		} else {
			w.branch(i, in)
		}
	}
}

// goOn goes to the instruction that skips so many.
func (w *writer) goOn(i int, skip uint32) {
	if skip > 0 {
		w.goTo(w.at[i+1+int(skip)])
	}
}

func (w *writer) branch(i int, in classic.RawInstruction) {
	if in.Jt == in.Jf {
		w.goOn(i, uint32(in.Jt))
		return
	}
	yes := asm.JumpOp(in.Op & clOperation) // eBPF numbers them as classic BPF does
	no := map[asm.JumpOp]asm.JumpOp{asm.JEq: asm.JNE, asm.JGT: asm.JLE, asm.JGE: asm.JLT}
	test := func(op asm.JumpOp) asm.Instruction {
		if in.Op&clX != 0 {
			return compareReg32(op, w.a, w.x)
		}
		return compare32(op, w.a, in.K)
	}
	if op, ok := no[yes]; ok && in.Jt == 0 {
		w.jump(test(op), w.at[i+1+int(in.Jf)])
		return
	}
	w.jump(test(yes), w.at[i+1+int(in.Jt)])
	w.goOn(i, uint32(in.Jf))
}

func (w *writer) calculate(in classic.RawInstruction) {
	op := asm.ALUOp(in.Op & clOperation) // these, too
	shift := op == asm.LSh || op == asm.RSh
	switch {
	case in.Op == clNeg:
		w.emit(asm.Neg.Imm32(w.a, 0))
	case in.Op&clX == 0 && shift && in.K > 31:
		w.emit(asm.Mov.Imm32(w.a, 0))
	case in.Op&clX == 0:
		w.emit(op.Imm32(w.a, int32(in.K)))
	case shift: // by more than 31: nothing is left; the processor would take the number modulo 32
		within, done := w.label(), w.label()
		w.jump(compare32(asm.JLE, w.x, 31), within)
		w.emit(asm.Mov.Imm32(w.a, 0))
		w.goTo(done)
		w.bind(within)
		w.emit(op.Reg32(w.a, w.x))
		w.bind(done)
	default:
		if op == asm.Div || op == asm.Mod {
			w.jump(compare32(asm.JEq, w.x, 0), w.no)
		}
		w.emit(op.Reg32(w.a, w.x))
	}
}

// wireLength is the length of the frame on the wire; of a GSO buffer, its own.
func (w *writer) wireLength(to asm.Register) {
	switch {
	case w.pieces:
		w.emit(asm.LoadMem(to, asm.RFP, w.length, asm.Word))
	case w.xdp:
		w.emit(asm.Mov.Reg(to, dataEnd), asm.Sub.Reg(to, data))
	default:
		w.emit(asm.LoadMem(to, w.ctx, skbLen, asm.Word))
		if w.tagged {
			w.emit(asm.Add.Imm32(to, tagSize))
		}
	}
}

// extension answers what is not in the packet.
func (w *writer) extension(k uint32) {
	switch {
	case k == clProtocol:
		w.emit(asm.LoadMem(w.a, w.ctx, skbProtocol, asm.Word), asm.HostTo(asm.BE, w.a, asm.Half))
	case k == clIfindex && w.xdp:
		w.emit(asm.LoadMem(w.a, w.ctx, xdpIfindex, asm.Word))
	case k == clIfindex:
		w.emit(asm.LoadMem(w.a, w.ctx, skbIfindex, asm.Word))
	case w.egress: // nobody has marked it yet
		w.emit(asm.Mov.Imm32(w.a, packetOutgoing))
	case w.xdp:
		w.emit(asm.Mov.Imm32(w.a, 0))
	default:
		w.emit(asm.LoadMem(w.a, w.ctx, skbPktType, asm.Word))
	}
}

var sizes = map[uint32]asm.Size{1: asm.Byte, 2: asm.Half, 4: asm.Word}

// take loads size octets, which are there, as a number.
func (w *writer) take(to, from asm.Register, at int16, size uint32) {
	w.emit(asm.LoadMem(to, from, at, sizes[size]))
	if size > 1 {
		w.emit(asm.HostTo(asm.BE, to, sizes[size]))
	}
}

// takeOctets does so on the stack, where others loads must be aligned.
func (w *writer) takeOctets(to, from asm.Register, at int16, size uint32) {
	w.emit(asm.LoadMem(to, from, at, asm.Byte))
	for i := int16(1); i < int16(size); i++ {
		w.emit(asm.LSh.Imm32(to, 8), asm.LoadMem(w.spare, from, at+i, asm.Byte), asm.Or.Reg32(to, w.spare))
	}
}

// read has the kernel copy the octets from R2 on to the stack. R0 is not 0 if
// they are not there.
func (w *writer) read(to int16, size uint32) {
	read := asm.FnSkbLoadBytes
	if w.xdp {
		read = asm.FnXdpLoadBytes
	}
	w.emit(asm.Mov.Reg(asm.R1, savedCtx), asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, int32(to)), asm.Mov.Imm32(asm.R4, int32(size)), read.Call())
}

// takeRead takes the octets from R2 on by way of the stack.
func (w *writer) takeRead(to asm.Register, size uint32) {
	w.read(w.buffer, size)
	w.jump(compare(asm.JNE, asm.R0, 0), w.no)
	w.take(to, asm.RFP, w.buffer, size)
}

// load reads size octets at a fixed place.
func (w *writer) load(i int, to asm.Register, at, size uint32) {
	if !w.possible(at) {
		w.goTo(w.miss)
		return
	}
	switch {
	case w.tagged && at < tagEnd && at+size > macs:
		w.loadHead(to, at, size)
		return
	case w.tagged && at >= tagEnd:
		at -= tagSize
	}
	if w.helper {
		w.emit(asm.Mov.Imm32(asm.R2, int32(at)))
		w.takeRead(to, size)
		return
	}
	if w.before[i].there < at+size {
		w.emit(asm.Mov.Reg(w.temp, data), asm.Add.Imm(w.temp, int32(at+size)))
		w.jump(compareReg(asm.JGT, w.temp, dataEnd), w.miss)
	}
	if at <= math.MaxInt16 {
		w.take(to, data, int16(at), size)
		return
	}
	w.emit(asm.Mov.Reg(w.temp, data), asm.Add.Imm(w.temp, int32(at)))
	w.take(to, w.temp, 0, size)
}

// loadHead reads what is in the tag, or partly.
func (w *writer) loadHead(to asm.Register, at, size uint32) {
	if w.helper && at+size > headSize-2 {
		w.emit(asm.LoadMem(w.temp, w.ctx, skbLen, asm.Word))
		w.jump(compare32(asm.JLT, w.temp, at+size-tagSize), w.no)
	}
	if at%size == 0 {
		w.take(to, asm.RFP, w.head+int16(at), size)
	} else {
		w.takeOctets(to, asm.RFP, w.head+int16(at), size)
	}
}

// loadIndexed reads size octets at X + k, modulo 2^32, into A. The offset is
// masked where it is in bounds already: verifiers that know too much of it get
// lost on ways that cannot be gone (X is a multiple of 4 and between 13 and 15).
func (w *writer) loadIndexed(i int, k, size uint32) {
	shift := uint32(0)
	if w.tagged {
		shift = tagSize
	}
	// What LDX MSH gives is so small that nothing overflows, and the verifier knows.
	if !w.helper && w.before[i].small && k < maxDirect-clMaxMsh && (!w.tagged || k >= tagEnd) {
		w.emit(asm.Mov.Reg(w.temp, w.x), asm.Add.Reg(w.temp, data), asm.Add.Imm(w.temp, int32(k-shift+size)))
		w.jump(compareReg(asm.JGT, w.temp, dataEnd), w.miss)
		w.take(w.a, w.temp, -int16(size), size)
		return
	}
	// Not X and then K: newer verifiers would remember how far it is from X, and
	// take that for an offset into the packet.
	w.emit(asm.Mov.Imm32(w.temp, int32(k)), asm.Add.Reg32(w.temp, w.x))
	done := w.label()
	if w.tagged {
		behind := w.label()
		w.jump(compare(asm.JGT, w.temp, tagEnd-1), behind)
		if w.helper {
			w.emit(asm.LoadMem(asm.R1, w.ctx, skbLen, asm.Word), asm.Add.Imm(asm.R1, int32(tagSize-size)))
			w.jump(compareReg(asm.JGT, w.temp, asm.R1), w.no)
		}
		// To the stack's pointer, not the other way round: the verifier of 6.1
		// would forget whose stack it is.
		w.emit(asm.And.Imm(w.temp, tagEnd-1), asm.Mov.Reg(w.spare, w.temp), asm.Mov.Reg(w.temp, asm.RFP), asm.Add.Reg(w.temp, w.spare))
		w.takeOctets(w.a, w.temp, w.head, size)
		w.goTo(done)
		w.bind(behind)
		w.emit(asm.Sub.Imm(w.temp, tagSize))
	}
	if w.helper {
		w.takeRead(w.a, size) // temp is R2
	} else {
		w.jump(compare(asm.JGT, w.temp, maxDirect), w.miss)
		w.emit(asm.And.Imm(w.temp, 0xffff), asm.Add.Reg(w.temp, data), asm.Add.Imm(w.temp, int32(size)))
		w.jump(compareReg(asm.JGT, w.temp, dataEnd), w.miss)
		w.take(w.a, w.temp, -int16(size), size)
	}
	w.bind(done)
}

// Jumps, whose places are still to be said: of 64 bits, and of 32.
func compare(op asm.JumpOp, r asm.Register, k int32) asm.Instruction {
	return asm.Instruction{OpCode: op.Op(asm.ImmSource), Dst: r, Constant: int64(k)}
}

func compareReg(op asm.JumpOp, a, b asm.Register) asm.Instruction {
	return asm.Instruction{OpCode: op.Op(asm.RegSource), Dst: a, Src: b}
}

func compare32(op asm.JumpOp, r asm.Register, k uint32) asm.Instruction {
	return asm.Instruction{OpCode: asm.OpCode(asm.Jump32Class).SetJumpOp(op).SetSource(asm.ImmSource), Dst: r, Constant: int64(int32(k))}
}

func compareReg32(op asm.JumpOp, a, b asm.Register) asm.Instruction {
	return asm.Instruction{OpCode: asm.OpCode(asm.Jump32Class).SetJumpOp(op).SetSource(asm.RegSource), Dst: a, Src: b}
}

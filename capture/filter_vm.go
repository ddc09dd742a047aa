package capture

import (
	"encoding/binary"

	"golang.org/x/net/bpf"
)

// Classic BPF as the compiler uses it: class, size, mode and operation of
// struct sock_filter's code (linux/bpf_common.h).
const (
	opLdW    = 0x20 // A = word at K
	opLdH    = 0x28
	opLdB    = 0x30
	opLdWX   = 0x40 // A = word at X + K
	opLdHX   = 0x48
	opLdBX   = 0x50
	opLdLen  = 0x80
	opLdImm  = 0x00
	opLdMem  = 0x60
	opLdxImm = 0x01
	opLdxMem = 0x61
	opLdxMsh = 0xb1 // X = 4 * (octet at K & 15): an IPv4 header's length
	opSt     = 0x02
	opAlu    = 0x04 // | operation | opX
	opX      = 0x08
	opAdd    = 0x00
	opSub    = 0x10
	opMul    = 0x20
	opDiv    = 0x30
	opOr     = 0x40
	opAnd    = 0x50
	opLsh    = 0x60
	opRsh    = 0x70
	opNeg    = 0x80
	opMod    = 0x90
	opXor    = 0xa0
	opJmp    = 0x05 // | operation | opX
	opJa     = 0x00
	opJeq    = 0x10
	opJgt    = 0x20
	opJge    = 0x30
	opJset   = 0x40
	opRet    = 0x06
	opTax    = 0x07
	opTxa    = 0x87

	// Loads from here on ask the kernel for what is not in the frame.
	extension   = 0xfffff000
	extProtocol = extension + 0  // the EtherType
	extPktType  = extension + 4  // sent by this host: 4
	extVLANTag  = extension + 44 // the tag the NIC took off
	extVLANSeen = extension + 48 // 1: there was one
	extVLANType = extension + 60 // its EtherType
)

// instruction is one instruction with its operation as a small number, which
// the interpreter's switch turns into one jump.
type instruction struct {
	op     vmOp
	jt, jf uint8
	k      uint32
}

type vmOp uint8

const (
	vmLdW vmOp = iota
	vmLdH
	vmLdB
	vmLdWX
	vmLdHX
	vmLdBX
	vmLdLen
	vmLdProtocol
	vmLdImm
	vmLdMem
	vmLdxImm
	vmLdxMem
	vmLdxMsh
	vmSt
	vmAdd
	vmSub
	vmMul
	vmDiv
	vmOr
	vmAnd
	vmLsh
	vmRsh
	vmNeg
	vmMod
	vmXor
	vmAddX
	vmSubX
	vmMulX
	vmDivX
	vmOrX
	vmAndX
	vmLshX
	vmRshX
	vmModX
	vmXorX
	vmJa
	vmJeq
	vmJgt
	vmJge
	vmJset
	vmJeqX
	vmJgtX
	vmJgeX
	vmJsetX
	vmRet
	vmTax
	vmTxa
	vmFail
)

var vmOps = map[uint16]vmOp{
	opLdW: vmLdW, opLdH: vmLdH, opLdB: vmLdB, opLdWX: vmLdWX, opLdHX: vmLdHX, opLdBX: vmLdBX,
	opLdLen: vmLdLen, opLdImm: vmLdImm, opLdMem: vmLdMem, opLdxImm: vmLdxImm, opLdxMem: vmLdxMem, opLdxMsh: vmLdxMsh, opSt: vmSt,
	opAlu | opAdd: vmAdd, opAlu | opSub: vmSub, opAlu | opMul: vmMul, opAlu | opDiv: vmDiv, opAlu | opOr: vmOr, opAlu | opAnd: vmAnd,
	opAlu | opLsh: vmLsh, opAlu | opRsh: vmRsh, opAlu | opNeg: vmNeg, opAlu | opMod: vmMod, opAlu | opXor: vmXor,
	opAlu | opAdd | opX: vmAddX, opAlu | opSub | opX: vmSubX, opAlu | opMul | opX: vmMulX, opAlu | opDiv | opX: vmDivX, opAlu | opOr | opX: vmOrX,
	opAlu | opAnd | opX: vmAndX, opAlu | opLsh | opX: vmLshX, opAlu | opRsh | opX: vmRshX, opAlu | opMod | opX: vmModX, opAlu | opXor | opX: vmXorX,
	opJmp | opJa: vmJa, opJmp | opJeq: vmJeq, opJmp | opJgt: vmJgt, opJmp | opJge: vmJge, opJmp | opJset: vmJset,
	opJmp | opJeq | opX: vmJeqX, opJmp | opJgt | opX: vmJgtX, opJmp | opJge | opX: vmJgeX, opJmp | opJset | opX: vmJsetX,
	opRet: vmRet, opTax: vmTax, opTxa: vmTxa,
}

// translate makes the compiler's output ready to run. Its programs only jump
// forwards, within themselves, and end in a return.
func translate(raw []bpf.RawInstruction) []instruction {
	code := make([]instruction, len(raw))
	for i, r := range raw {
		op, ok := vmOps[r.Op]
		switch {
		case !ok:
			panic("capture: the compiler made an instruction that the interpreter does not know")
		case r.K >= extension && (op == vmLdW || op == vmLdH || op == vmLdB):
			if op = vmFail; r.K == extProtocol {
				op = vmLdProtocol
			}
		}
		code[i] = instruction{op, r.Jt, r.Jf, r.K}
	}
	return code
}

// run runs a program on a frame as the kernel does: a load beyond the frame and
// a division by zero end it with 0.
func run(code []instruction, data []byte, wire, etherType uint32) uint32 {
	var a, x uint32
	var mem [16]uint32
	for pc := 0; pc < len(code); pc++ {
		in := &code[pc]
		switch in.op {
		case vmLdW, vmLdWX:
			at := uint64(in.k)
			if in.op == vmLdWX {
				at = uint64(in.k + x)
			}
			if at+4 > uint64(len(data)) {
				return 0
			}
			a = binary.BigEndian.Uint32(data[at:])
		case vmLdH, vmLdHX:
			at := uint64(in.k)
			if in.op == vmLdHX {
				at = uint64(in.k + x)
			}
			if at+2 > uint64(len(data)) {
				return 0
			}
			a = uint32(binary.BigEndian.Uint16(data[at:]))
		case vmLdB, vmLdBX:
			at := uint64(in.k)
			if in.op == vmLdBX {
				at = uint64(in.k + x)
			}
			if at >= uint64(len(data)) {
				return 0
			}
			a = uint32(data[at])
		case vmLdLen:
			a = wire
		case vmLdProtocol:
			a = etherType
		case vmLdImm:
			a = in.k
		case vmLdMem:
			a = mem[in.k&15]
		case vmLdxImm:
			x = in.k
		case vmLdxMem:
			x = mem[in.k&15]
		case vmLdxMsh:
			if uint64(in.k) >= uint64(len(data)) {
				return 0
			}
			x = uint32(data[in.k]&15) * 4
		case vmSt:
			mem[in.k&15] = a
		case vmAdd:
			a += in.k
		case vmSub:
			a -= in.k
		case vmMul:
			a *= in.k
		case vmDiv:
			a /= in.k // not zero: the compiler refuses it
		case vmOr:
			a |= in.k
		case vmAnd:
			a &= in.k
		case vmLsh:
			a <<= in.k
		case vmRsh:
			a >>= in.k
		case vmNeg:
			a = -a
		case vmMod:
			a %= in.k
		case vmXor:
			a ^= in.k
		case vmAddX:
			a += x
		case vmSubX:
			a -= x
		case vmMulX:
			a *= x
		case vmDivX:
			if x == 0 {
				return 0
			}
			a /= x
		case vmOrX:
			a |= x
		case vmAndX:
			a &= x
		case vmLshX:
			a <<= x
		case vmRshX:
			a >>= x
		case vmModX:
			if x == 0 {
				return 0
			}
			a %= x
		case vmXorX:
			a ^= x
		case vmJa:
			pc += int(in.k)
		case vmJeq:
			pc += in.jump(a == in.k)
		case vmJgt:
			pc += in.jump(a > in.k)
		case vmJge:
			pc += in.jump(a >= in.k)
		case vmJset:
			pc += in.jump(a&in.k != 0)
		case vmJeqX:
			pc += in.jump(a == x)
		case vmJgtX:
			pc += in.jump(a > x)
		case vmJgeX:
			pc += in.jump(a >= x)
		case vmJsetX:
			pc += in.jump(a&x != 0)
		case vmRet:
			return in.k
		case vmTax:
			x = a
		case vmTxa:
			a = x
		default:
			return 0
		}
	}
	return 0
}

func (in *instruction) jump(yes bool) int {
	if yes {
		return int(in.jt)
	}
	return int(in.jf)
}

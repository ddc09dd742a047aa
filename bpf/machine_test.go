package bpf

import (
	"encoding/binary"
	"fmt"

	"github.com/cilium/ebpf/asm"
)

// machine runs a translated filter as the kernel does, and is stricter: what the
// verifier would have to prove of every run is checked in this one. No register
// and no octet of the stack is read before it is written, pointers stay what they
// are, and no octet is read that is not there.
type machine struct {
	view
	frame  []byte // as it lies in memory
	linear int    // so many octets of it are between data and data_end
	tag    *tag   // in skb->vlan_tci
	reg    [11]value
	stack  [512]byte
	set    [512]bool
	steps  int // instructions that were run
}

// value is a number, or an offset from what a pointer points into.
type value struct {
	kind kind
	n    uint64
}

type kind uint8

const (
	unset kind = iota
	scalar
	contextPointer
	packetPointer // offset from data
	packetEnd
	stackPointer // offset from the stack's top, negative
)

// run says what the function returns.
func (m *machine) run(code asm.Instructions) (uint32, error) {
	m.reg[1] = value{contextPointer, 0}
	m.reg[2] = value{packetPointer, 0}
	m.reg[3] = value{packetEnd, uint64(m.linear)}
	m.reg[10] = value{stackPointer, 0}
	for pc := 0; ; pc++ {
		if pc < 0 || pc >= len(code) {
			return 0, fmt.Errorf("ran to instruction %d of %d", pc, len(code))
		}
		in := &code[pc]
		m.steps++
		skip, exit, err := m.step(in)
		if err != nil {
			return 0, fmt.Errorf("instruction %d, %v: %w", pc, *in, err)
		}
		if exit {
			if m.reg[0].kind != scalar {
				return 0, fmt.Errorf("returns no number")
			}
			return uint32(m.reg[0].n), nil
		}
		if skip && in.Offset < 0 {
			return 0, fmt.Errorf("instruction %d jumps back", pc)
		}
		if skip {
			pc += int(in.Offset)
		}
	}
}

func (m *machine) step(in *asm.Instruction) (skip, exit bool, err error) {
	switch class := in.OpCode.Class(); class {
	case asm.ALUClass, asm.ALU64Class:
		return false, false, m.calculate(in, class == asm.ALU64Class)
	case asm.LdXClass:
		return false, false, m.load(in)
	case asm.StXClass, asm.StClass:
		return false, false, m.store(in)
	case asm.JumpClass, asm.Jump32Class:
		switch in.OpCode.JumpOp() {
		case asm.Exit:
			return false, true, nil
		case asm.Ja:
			return true, false, nil
		case asm.Call:
			return false, false, m.call(asm.BuiltinFunc(in.Constant))
		}
		skip, err = m.compare(in, class == asm.JumpClass)
		return skip, false, err
	}
	return false, false, fmt.Errorf("unknown")
}

func (m *machine) operand(in *asm.Instruction) value {
	if in.OpCode.Source() == asm.RegSource {
		return m.reg[in.Src]
	}
	return value{scalar, uint64(in.Constant)}
}

func (m *machine) calculate(in *asm.Instruction, wide bool) error {
	op := in.OpCode.ALUOp()
	dst := &m.reg[in.Dst]
	if op == asm.Swap {
		if dst.kind != scalar {
			return fmt.Errorf("swaps what is no number")
		}
		switch in.Constant { // this machine is taken for a little-endian one
		case 16:
			dst.n = uint64(uint16(dst.n)<<8 | uint16(dst.n)>>8)
		case 32:
			var b [4]byte
			binary.LittleEndian.PutUint32(b[:], uint32(dst.n))
			dst.n = uint64(binary.BigEndian.Uint32(b[:]))
		default:
			return fmt.Errorf("swaps %d bits", in.Constant)
		}
		return nil
	}
	src := m.operand(in)
	if op == asm.Neg {
		src = value{scalar, 0}
	}
	if src.kind == unset || op != asm.Mov && dst.kind == unset {
		return fmt.Errorf("reads a register that is not set")
	}
	if src.kind != scalar || op != asm.Mov && dst.kind != scalar {
		switch {
		case !wide || in.Dst == asm.RFP:
		case op == asm.Mov:
			*dst = src
			return nil
		case op == asm.Add && dst.kind == scalar && (src.kind == packetPointer || src.kind == stackPointer):
			if src.kind == packetPointer && dst.n > maxDirect {
				return fmt.Errorf("adds %d to a packet pointer", dst.n)
			}
			*dst = value{src.kind, src.n + dst.n}
			return nil
		case op == asm.Add && src.kind == scalar && (dst.kind == packetPointer || dst.kind == stackPointer):
			dst.n += src.n
			if dst.kind == packetPointer && dst.n > 0xffff {
				return fmt.Errorf("a packet pointer at %d", dst.n)
			}
			return nil
		case op == asm.Sub && dst.kind == packetEnd && src.kind == packetPointer:
			*dst = value{scalar, dst.n - src.n}
			return nil
		}
		return fmt.Errorf("calculates with pointers")
	}
	a, b := dst.n, src.n
	if !wide {
		a, b = uint64(uint32(a)), uint64(uint32(b))
	}
	switch op {
	case asm.Mov:
		a = b
	case asm.Add:
		a += b
	case asm.Sub:
		a -= b
	case asm.Mul:
		a *= b
	case asm.Div, asm.Mod:
		if b == 0 {
			return fmt.Errorf("divides by zero")
		}
		if op == asm.Div {
			a /= b
		} else {
			a %= b
		}
	case asm.Or:
		a |= b
	case asm.And:
		a &= b
	case asm.Xor:
		a ^= b
	case asm.LSh, asm.RSh:
		if b > 31 {
			return fmt.Errorf("shifts by %d", b)
		}
		if op == asm.LSh {
			a <<= b
		} else {
			a >>= b
		}
	case asm.Neg:
		a = -a
	default:
		return fmt.Errorf("unknown operation")
	}
	if !wide {
		a = uint64(uint32(a))
	}
	*dst = value{scalar, a}
	return nil
}

func (m *machine) compare(in *asm.Instruction, wide bool) (bool, error) {
	a, b := m.reg[in.Dst], m.operand(in)
	ends := a.kind == packetPointer && b.kind == packetEnd && wide && in.OpCode.JumpOp() == asm.JGT
	if !ends && (a.kind != scalar || b.kind != scalar) {
		return false, fmt.Errorf("compares %v with %v", a, b)
	}
	if !wide {
		a.n, b.n = uint64(uint32(a.n)), uint64(uint32(b.n))
	}
	switch in.OpCode.JumpOp() {
	case asm.JEq:
		return a.n == b.n, nil
	case asm.JNE:
		return a.n != b.n, nil
	case asm.JGT:
		return a.n > b.n, nil
	case asm.JGE:
		return a.n >= b.n, nil
	case asm.JLT:
		return a.n < b.n, nil
	case asm.JLE:
		return a.n <= b.n, nil
	case asm.JSet:
		return a.n&b.n != 0, nil
	}
	return false, fmt.Errorf("unknown comparison")
}

func (m *machine) load(in *asm.Instruction) error {
	size := in.OpCode.Size().Sizeof()
	from := m.reg[in.Src]
	at := int64(from.n) + int64(in.Offset)
	var b []byte
	switch from.kind {
	case contextPointer:
		if size != 4 {
			return fmt.Errorf("reads %d octets of the context", size)
		}
		v, err := m.context(at)
		m.reg[in.Dst] = value{scalar, uint64(v)}
		return err
	case packetPointer:
		if at < 0 || at+int64(size) > int64(m.linear) {
			return fmt.Errorf("reads octets %d to %d of %d", at, at+int64(size), m.linear)
		}
		b = m.frame[at:]
	case stackPointer:
		top := int64(len(m.stack))
		if at < -top || at+int64(size) > 0 || at%int64(size) != 0 {
			return fmt.Errorf("reads %d octets of the stack at %d", size, at)
		}
		for i := range size {
			if !m.set[int(top+at)+i] {
				return fmt.Errorf("reads the stack at %d, which is not set", at)
			}
		}
		b = m.stack[top+at:]
	default:
		return fmt.Errorf("reads from what is no pointer")
	}
	var word [8]byte
	copy(word[:size], b)
	m.reg[in.Dst] = value{scalar, binary.LittleEndian.Uint64(word[:])}
	return nil
}

func (m *machine) store(in *asm.Instruction) error {
	v := value{scalar, uint64(in.Constant)}
	if in.OpCode.Class() == asm.StXClass {
		v = m.reg[in.Src]
	}
	if v.kind != scalar {
		return fmt.Errorf("stores what is no number")
	}
	var word [8]byte
	binary.LittleEndian.PutUint64(word[:], v.n)
	size := in.OpCode.Size().Sizeof()
	if to := m.reg[in.Dst]; to.kind != stackPointer || (int64(to.n)+int64(in.Offset))%int64(size) != 0 {
		return fmt.Errorf("stores elsewhere than at its place on the stack")
	}
	return m.write(int64(m.reg[in.Dst].n)+int64(in.Offset), word[:size])
}

func (m *machine) write(at int64, b []byte) error {
	top := int64(len(m.stack))
	if at < -top || at+int64(len(b)) > 0 {
		return fmt.Errorf("writes %d octets to the stack at %d", len(b), at)
	}
	copy(m.stack[top+at:], b)
	for i := range b {
		m.set[int(top+at)+i] = true
	}
	return nil
}

// packetTypeHere is what the machine says of frames that came in.
const packetTypeHere = 3

func (m *machine) context(at int64) (uint32, error) {
	network := func(v uint16) uint32 { return uint32(v<<8 | v>>8) }
	switch {
	case m.xdp && at == xdpIfindex, !m.xdp && at == skbIfindex:
		return 1, nil
	case m.xdp:
	case at == skbLen:
		return uint32(len(m.frame)), nil
	case at == skbPktType:
		return packetTypeHere, nil
	case at == skbProtocol:
		return network(0x86dd), nil
	case at == skbVLANPresent && m.tag == nil:
		return 0, nil
	case at == skbVLANPresent:
		return 1, nil
	case at == skbVLANTCI && m.tag != nil:
		return uint32(m.tag.tci), nil
	case at == skbVLANProtocol && m.tag != nil:
		return network(m.tag.protocol), nil
	}
	return 0, fmt.Errorf("reads the context at %d", at)
}

// call does what the kernel's functions do.
func (m *machine) call(f asm.BuiltinFunc) error {
	arg := [6]value(m.reg[:6])
	for i := range 6 {
		m.reg[i] = value{}
	}
	if arg[1].kind != contextPointer {
		return fmt.Errorf("calls without the context")
	}
	switch {
	case f == asm.FnXdpGetBuffLen && m.pieces:
		m.reg[0] = value{scalar, uint64(len(m.frame))}
		return nil
	case f == asm.FnSkbLoadBytes && !m.xdp, f == asm.FnXdpLoadBytes && m.pieces:
		if arg[2].kind != scalar || arg[3].kind != stackPointer || arg[4].kind != scalar || arg[4].n == 0 {
			return fmt.Errorf("calls %v with the wrong kinds", f)
		}
		to, size := int64(arg[3].n), arg[4].n
		if to+int64(size) > 0 {
			return fmt.Errorf("has %d octets written to the stack at %d", size, to)
		}
		b := make([]byte, size)
		m.reg[0] = value{scalar, 1<<64 - 14}
		if at := uint64(uint32(arg[2].n)); at+size <= uint64(len(m.frame)) {
			copy(b, m.frame[at:])
			m.reg[0].n = 0
		}
		return m.write(to, b) // where they are not there, zeros
	}
	return fmt.Errorf("calls %v", f)
}

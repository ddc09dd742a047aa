package capture

import (
	"golang.org/x/net/bpf"
)

// sum is the value of one side of a relation: a number, or code that leaves it
// in A.
type sum struct {
	guard node // what must hold for the value to exist
	code  []bpf.RawInstruction
	value uint32 // if code is nil
	slots int    // memory words that code uses
}

func load(s sum) []bpf.RawInstruction {
	if s.code != nil {
		return s.code
	}
	return []bpf.RawInstruction{{Op: opLdImm, K: s.value}}
}

// relation reads two sums and what is between them.
func (p *parser) relation() node {
	a := p.sum(0)
	ops := map[string]struct {
		jump uint16
		not  bool
	}{
		"=": {opJeq, false}, "!=": {opJeq, true}, ">": {opJgt, false}, "<=": {opJgt, true}, ">=": {opJge, false}, "<": {opJge, true},
	}
	t := p.next("a comparison such as = or <")
	op, ok := ops[t.text]
	if !ok || t.word {
		p.fail(t, "expected a comparison such as = or <; found %q", t.text)
	}
	b := p.sum(0)
	var n node
	if b.code == nil {
		n = &test{load(a), op.jump, b.value}
	} else {
		n = &test{p.withX(t, a, b), op.jump | opX, 0}
	}
	if op.not {
		n = not{n}
	}
	return both(a.guard, b.guard, n)
}

// withX leaves a in A and b in X.
func (p *parser) withX(t token, a, b sum) []bpf.RawInstruction {
	slot := uint32(max(a.slots, b.slots))
	p.slots(t, int(slot)+1)
	// b first: a's code does not touch a slot above its own.
	code := append([]bpf.RawInstruction{}, load(b)...)
	code = append(code, bpf.RawInstruction{Op: opSt, K: slot})
	code = append(code, load(a)...)
	return append(code, bpf.RawInstruction{Op: opLdxMem, K: slot})
}

func (p *parser) slots(t token, n int) {
	if n > 16 {
		p.fail(t, "the calculation is too complex")
	}
}

// rank of the operators that have one. % and ^ have none in the language as it
// is: they take the operand to their left and everything to their right.
var rank = map[string]int{"|": 1, "&": 2, "<<": 3, ">>": 3, "+": 4, "-": 4, "*": 5, "/": 5}

var arithmetic = map[string]uint16{
	"|": opOr, "&": opAnd, "<<": opLsh, ">>": opRsh, "+": opAdd, "-": opSub, "*": opMul, "/": opDiv, "%": opMod, "^": opXor,
}

// sum reads operators of at least a rank.
func (p *parser) sum(least int) sum {
	defer p.enter()()
	a := p.operand()
	for {
		t, ok := p.peek()
		if !ok || t.word {
			return a
		}
		op, ok := arithmetic[t.text]
		if !ok {
			return a
		}
		r, ranked := rank[t.text]
		if ranked && r < least {
			return a
		}
		p.pos++
		next := 0
		if ranked {
			next = r + 1
		}
		a = p.apply(t, op, a, p.sum(next))
	}
}

func (p *parser) apply(t token, op uint16, a, b sum) sum {
	if b.code == nil {
		switch {
		case b.value == 0 && (op == opDiv || op == opMod):
			p.fail(t, "division by zero")
		case b.value > 31 && (op == opLsh || op == opRsh):
			p.fail(t, "a shift by %d; up to 31 would be accepted", b.value)
		}
		if a.code == nil {
			return sum{value: fold(op, a.value, b.value)}
		}
		code := append(append([]bpf.RawInstruction{}, a.code...), bpf.RawInstruction{Op: opAlu | op, K: b.value})
		return sum{code: code, guard: both(a.guard, b.guard), slots: a.slots}
	}
	code := append(p.withX(t, a, b), bpf.RawInstruction{Op: opAlu | op | opX})
	return sum{code: code, guard: both(a.guard, b.guard), slots: max(a.slots, b.slots) + 1}
}

// fold calculates with two numbers.
func fold(op uint16, a, b uint32) uint32 {
	switch op {
	case opAdd:
		return a + b
	case opSub:
		return a - b
	case opMul:
		return a * b
	case opDiv:
		return a / b
	case opOr:
		return a | b
	case opAnd:
		return a & b
	case opLsh:
		return a << b
	case opRsh:
		return a >> b
	case opMod:
		return a % b
	}
	return a ^ b
}

// operand reads a number, a name of one, len, a field, a negation, a sum in
// parentheses.
func (p *parser) operand() sum {
	defer p.enter()()
	switch {
	case p.accept("("):
		s := p.sum(0)
		p.expect(")")
		return s
	case p.accept("-"):
		s := p.operand()
		if s.code == nil {
			s.value = -s.value
			return s
		}
		s.code = append(append([]bpf.RawInstruction{}, s.code...), bpf.RawInstruction{Op: opAlu | opNeg})
		return s
	case p.accept("len"):
		return sum{code: []bpf.RawInstruction{{Op: opLdLen}}}
	}
	t := p.next("a number, len, or a field such as tcp[13]")
	if v, ok := constants[t.text]; ok && t.word {
		return sum{value: v}
	}
	if v, ok := number(t.text); ok && t.word {
		return sum{value: v}
	}
	if _, ok := protocols[t.text]; ok && t.word && p.accept("[") {
		at := p.sum(0)
		size := uint32(1)
		if p.accept(":") {
			u, _ := p.peek()
			if size = p.number("a size"); size != 1 && size != 2 && size != 4 {
				p.fail(u, "a size of %d; 1, 2 or 4 would be accepted", size)
			}
		}
		p.expect("]")
		return p.field(t, at, int(size))
	}
	p.fail(t, "expected a number, len, or a field such as tcp[13]; found %q", t.text)
	return sum{}
}

// field is size octets of a protocol's header.
func (p *parser) field(t token, at sum, size int) sum {
	out := sum{guard: at.guard, slots: at.slots}
	// The field is at base, plus the IPv4 header's length for what is behind
	// it, plus at.
	var base uint32
	behind := false
	switch d := protocols[t.text]; {
	case t.text == "ether" || t.text == "link":
		base = uint32(p.link)
	case d.etherType != 0:
		base = p.net(0)
		out.guard = both(out.guard, p.carries(t, d.etherType))
	case t.text == "icmp6":
		base = p.net(40)
		out.guard = both(out.guard, p.carries(t, etherIP6), field(p.net(6), 1, 58, 0))
	default:
		base, behind = p.net(0), true
		out.guard = both(out.guard, p.protocol4(t, uint32(d.number)), not{p.fragment()})
	}
	plain := map[int]uint16{1: opLdB, 2: opLdH, 4: opLdW}[size]
	indexed := map[int]uint16{1: opLdBX, 2: opLdHX, 4: opLdWX}[size]
	length := bpf.RawInstruction{Op: opLdxMsh, K: p.net(0)}
	switch {
	case at.code == nil && !behind:
		k := base + at.value
		if k >= extension { // the kernel would take it for one of its own
			out.code = []bpf.RawInstruction{{Op: opLdxImm, K: k}, {Op: indexed}}
			break
		}
		out.code = []bpf.RawInstruction{{Op: plain, K: k}}
	case at.code == nil:
		out.code = []bpf.RawInstruction{length, {Op: indexed, K: base + at.value}}
	case !behind:
		out.code = append(append([]bpf.RawInstruction{}, at.code...), bpf.RawInstruction{Op: opTax}, bpf.RawInstruction{Op: indexed, K: base})
	default:
		out.code = append(append([]bpf.RawInstruction{}, at.code...), length,
			bpf.RawInstruction{Op: opAlu | opAdd | opX}, bpf.RawInstruction{Op: opTax}, bpf.RawInstruction{Op: indexed, K: base})
	}
	return out
}

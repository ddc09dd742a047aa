package bpf

import (
	"math"
	"slices"

	"github.com/cilium/ebpf/asm"
)

// label is a place in a program, perhaps one that is not written yet. Jumps to
// it go forwards.
type label int

// maxReach is how far a jump goes, less what one instruction of the source
// becomes.
const maxReach = math.MaxInt16 - 256

// assembler writes a function. All its instructions are one slot long.
type assembler struct {
	code    asm.Instructions
	reach   int
	labels  label
	pending []jump // to labels that are not bound, in the order of the code
}

type jump struct {
	at int // in code
	to label
}

func (a *assembler) label() label {
	a.labels++
	return a.labels - 1
}

func (a *assembler) emit(in ...asm.Instruction) { a.code = append(a.code, in...) }

// jump writes a jump, whose offset follows.
func (a *assembler) jump(in asm.Instruction, to label) {
	a.pending = append(a.pending, jump{len(a.code), to})
	a.emit(in)
}

func (a *assembler) goTo(to label) { a.jump(asm.Instruction{OpCode: asm.Ja.Op(asm.ImmSource)}, to) }

// bind says that a label is here.
func (a *assembler) bind(l label) {
	a.pending = slices.DeleteFunc(a.pending, func(j jump) bool {
		if j.to != l {
			return false
		}
		a.land(j.at, len(a.code))
		return true
	})
}

func (a *assembler) land(from, to int) {
	if to-from-1 > math.MaxInt16 {
		panic("bpf: a jump too far")
	}
	a.code[from].Offset = int16(to - from - 1)
}

// wanted says whether anybody jumps to a label: if not, the verifier must not
// find what would be there.
func (a *assembler) wanted(l label) bool {
	return slices.ContainsFunc(a.pending, func(j jump) bool { return j.to == l })
}

// open says whether the next instruction is reached from the last one.
func (a *assembler) open() bool {
	if len(a.code) == 0 {
		return true
	}
	op := a.code[len(a.code)-1].OpCode.JumpOp()
	return op != asm.Exit && op != asm.Ja
}

// relay gives jumps that would become too long a place to go by. It is called
// before each instruction of the source is written.
func (a *assembler) relay() {
	if len(a.pending) == 0 || len(a.code)+len(a.pending)-a.pending[0].at < a.reach {
		return
	}
	past := a.label()
	if a.open() {
		a.goTo(past)
	}
	place := map[label]int{past: -1} // where the relay of a label is
	var relays []jump
	for _, j := range a.pending {
		at, ok := place[j.to]
		switch {
		case j.to == past:
			relays = append(relays, j)
			continue
		case !ok:
			at = len(a.code)
			place[j.to] = at
			relays = append(relays, jump{at, j.to})
			a.emit(asm.Instruction{OpCode: asm.Ja.Op(asm.ImmSource)})
		}
		a.land(j.at, at)
	}
	a.pending = relays
	a.bind(past)
}

package bpf

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/cilium/ebpf/asm"
	classic "golang.org/x/net/bpf"

	"weir/capture"
	"weir/packet"
)

// wellFormed checks what the verifier checks before it follows a program: every
// jump lands within, every instruction can be reached, none runs off the end;
// and that no register is used but those of the convention.
func wellFormed(code asm.Instructions) error {
	if len(code) == 0 {
		return fmt.Errorf("empty")
	}
	reached := make([]bool, len(code))
	todo := []int{0}
	for len(todo) > 0 {
		i := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if i < 0 || i >= len(code) {
			return fmt.Errorf("instruction %d of %d", i, len(code))
		}
		if reached[i] {
			continue
		}
		reached[i] = true
		in := code[i]
		if in.OpCode.IsDWordLoad() {
			return fmt.Errorf("instruction %d takes two slots", i)
		}
		if m := in.OpCode.Mode(); m == asm.MemMode && (in.Dst == asm.RFP || in.Src == asm.RFP) && (in.Offset >= 0 || in.Offset < -160) {
			return fmt.Errorf("instruction %d: %d on the stack", i, in.Offset)
		}
		switch op := in.OpCode.JumpOp(); op {
		case asm.Exit:
		case asm.Ja:
			todo = append(todo, i+1+int(in.Offset))
		case asm.InvalidJumpOp, asm.Call:
			todo = append(todo, i+1)
		default:
			todo = append(todo, i+1, i+1+int(in.Offset))
		}
	}
	for i, r := range reached {
		if !r {
			return fmt.Errorf("instruction %d cannot be reached: %v", i, code[i])
		}
	}
	return nil
}

// operations are all that classic BPF has, those that read the packet oftener.
var operations = func() (all []uint16) {
	for range 4 {
		all = append(all, clLdW, clLdH, clLdB, clLdWX, clLdHX, clLdBX, clLdxMsh, clSt, clLdMem, clTax)
	}
	all = append(all, clLdImm, clLdxImm, clLdLen, clLdxLen, clLdxMem, clStx, clTxa, clRetK, clRetA, clNeg)
	for op := uint16(0); op <= 0xa0; op += 0x10 {
		if op != 0x80 {
			all = append(all, clALU|op, clALU|op|clX)
		}
	}
	for range 3 {
		for op := uint16(0x10); op <= 0x40; op += 0x10 {
			all = append(all, clJump|op, clJump|op|clX)
		}
	}
	return append(all, clJa)
}()

// randomProgram is one that the kernel would take.
func randomProgram(r *rand.Rand, n int) []classic.RawInstruction {
	raw := make([]classic.RawInstruction, n)
	for i := range raw {
		left := n - 1 - i
		op := operations[r.IntN(len(operations))]
		k := []uint32{uint32(r.IntN(24)), uint32(r.IntN(70)), r.Uint32(), uint32(r.IntN(70000)), math.MaxUint32 - uint32(r.IntN(40)), 12, 14}[min(6, r.IntN(9))]
		in := classic.RawInstruction{Op: op, K: k}
		switch {
		case left == 0:
			in = classic.RawInstruction{Op: []uint16{clRetK, clRetA}[r.IntN(2)], K: k}
		case op == clRetK || op == clRetA:
			if r.IntN(3) > 0 {
				in.Op = clTax
			}
		case op == clJa:
			in.K = uint32(r.IntN(min(left, 5)))
		case op&clClass == clJump:
			in.Jt, in.Jf = uint8(r.IntN(min(left, 200))), uint8(r.IntN(min(left, 8)))
		case op&clClass == clALU && op&clX == 0 && k == 0:
			in.K = 1
		}
		switch in.Op {
		case clLdMem, clLdxMem, clSt, clStx:
			in.K &= 15
		case clLdW, clLdH, clLdB:
			if in.K >= clExtension {
				in.K = []uint32{clPktType, clIfindex}[r.IntN(2)]
			}
		}
		raw[i] = in
	}
	return raw
}

// packetType is what a test run takes a frame for, whose device is lo.
func packetType(frame []byte) uint32 {
	switch {
	case frame[0]&1 == 0 && [6]byte(frame[:6]) == [6]byte{}:
		return 0 // for this host
	case [6]byte(frame[:6]) == [6]byte{255, 255, 255, 255, 255, 255}:
		return 1 // broadcast
	case frame[0]&1 != 0:
		return 2 // multicast
	}
	return 3 // for another
}

// testProtocol is skb->protocol of a frame in a test run.
func testProtocol(frame []byte) uint32 {
	t := uint32(binary.BigEndian.Uint16(frame[12:]))
	if t >= 1536 {
		return t
	}
	if len(frame) >= shifted+2 && binary.BigEndian.Uint16(frame[14:]) == 0xffff {
		return 1 // ETH_P_802_3
	}
	return 4 // ETH_P_802_2
}

// TestRandomPrograms: any program that is valid does translated what it does here,
// also where jumps have to go by way of others.
func TestRandomPrograms(t *testing.T) {
	r := rand.New(rand.NewPCG(8, 15))
	all := frames(t, 200)
	for i := range 6000 {
		reach := maxReach
		if i%3 == 0 {
			reach = 300 + r.IntN(300)
		}
		n := 1 + r.IntN(40)
		if i%50 == 0 {
			n = 400
		}
		raw := randomProgram(r, n)
		q := question{"random", raw, interpreted(raw)}
		for range 3 {
			q.hold(t, all[r.IntN(len(all))], reach)
		}
	}
}

// TestRandomProgramsInKernel: and the verifier takes it, and the kernel agrees.
func TestRandomProgramsInKernel(t *testing.T) {
	r := rand.New(rand.NewPCG(16, 23))
	all := make([]question, 5*maxFilters)
	for i := range all {
		raw := randomProgram(r, 1+r.IntN(40))
		for validate(raw, view{xdp: true}) != nil {
			raw = randomProgram(r, 20)
		}
		all[i] = question{fmt.Sprintf("random %d", i), raw, interpreted(raw)}
	}
	inKernel(t, all, frames(t, 100))
}

// TestFarJumps: a program as long as one may be, whose translation is longer
// than a jump reaches, and which jumps over all of it.
func TestFarJumps(t *testing.T) {
	var raw []classic.RawInstruction
	emit := func(in ...classic.RawInstruction) { raw = append(raw, in...) }
	emit(classic.RawInstruction{Op: clLdB, K: 23}, classic.RawInstruction{Op: clJump | 0x10, K: 6, Jt: 0, Jf: 1}, classic.RawInstruction{Op: clJa, K: clMaxProgram - 5})
	for len(raw) < clMaxProgram-2 { // two instructions that become many
		emit(classic.RawInstruction{Op: clLdWX, K: 5}, classic.RawInstruction{Op: clTax})
	}
	raw = raw[:clMaxProgram-2]
	emit(classic.RawInstruction{Op: clRetK}, classic.RawInstruction{Op: clRetK, K: 1})
	if len(raw) != clMaxProgram {
		t.Fatal(len(raw))
	}
	frame := make([]byte, 60)
	other := make([]byte, 60)
	frame[23], other[23] = 6, 17
	tagged := make([]byte, 64)
	tagged[12], tagged[23] = 0x81, 6
	q := question{"far", raw, interpreted(raw)}
	for _, f := range [][]byte{frame, other, tagged, frame[:20]} {
		q.hold(t, f, maxReach)
	}
	tr := translation{assembler: assembler{reach: maxReach}, raw: raw}
	if n := len(tr.run()); n <= math.MaxInt16 {
		t.Errorf("only %d instructions", n)
	}
}

func TestRefusedPrograms(t *testing.T) {
	ret := classic.RawInstruction{Op: clRetK, K: 1}
	for _, c := range []struct {
		view
		raw  []classic.RawInstruction
		want string
	}{
		{view{}, nil, "0 instructions; 1 to 4096 would be accepted"},
		{view{}, make([]classic.RawInstruction, 5000), "5000 instructions; 1 to 4096 would be accepted"},
		{view{}, []classic.RawInstruction{{Op: clTax}}, "instruction 0 (code 0x7, k 0x0): the program does not return here"},
		{view{}, []classic.RawInstruction{{Op: clJa, K: 1}, ret}, "instruction 0 (code 0x5, k 0x1): jumps beyond the end"},
		{view{}, []classic.RawInstruction{{Op: clJa, K: 0xffffffff}, ret}, "instruction 0 (code 0x5, k 0xffffffff): jumps beyond the end"},
		{view{}, []classic.RawInstruction{{Op: 0x15, Jt: 1}, ret}, "instruction 0 (code 0x15, k 0x0): jumps beyond the end"},
		{view{}, []classic.RawInstruction{{Op: 0x55}, ret}, "instruction 0 (code 0x55, k 0x0): no such instruction"},
		{view{}, []classic.RawInstruction{{Op: 0xb4}, ret}, "instruction 0 (code 0xb4, k 0x0): no such instruction"},
		{view{}, []classic.RawInstruction{{Op: 0x106}, ret}, "instruction 0 (code 0x106, k 0x0): no such instruction"},
		{view{}, []classic.RawInstruction{{Op: 0x38}, ret}, "instruction 0 (code 0x38, k 0x0): no such instruction"},
		{view{}, []classic.RawInstruction{{Op: 0x34}, ret}, "instruction 0 (code 0x34, k 0x0): division by zero"},
		{view{}, []classic.RawInstruction{{Op: clSt, K: 16}, ret}, "instruction 0 (code 0x2, k 0x10): memory has words 0 to 15"},
		{view{xdp: true}, []classic.RawInstruction{{Op: clLdH, K: clProtocol}, ret}, "instruction 0 (code 0x28, k 0xfffff000): XDP does not know the protocol"},
		{view{}, []classic.RawInstruction{ret, {Op: clLdW, K: clExtension + 44}, ret}, "instruction 1 (code 0x20, k 0xfffff02c): this is not known of packets here; the protocol, the packet type and the interface would be accepted"},
	} {
		_, err := translate(c.raw, c.view)
		if err == nil || err.Error() != c.want {
			t.Errorf("%v: %v, want %s", c.raw, err, c.want)
		}
	}
}

func encode(raw []classic.RawInstruction) (b []byte) {
	for _, in := range raw {
		b = binary.LittleEndian.AppendUint16(b, in.Op)
		b = append(b, in.Jt, in.Jf)
		b = binary.LittleEndian.AppendUint32(b, in.K)
	}
	return b
}

// FuzzTranslate: any octets as a program are refused with one line, or become a
// program that does what they say.
func FuzzTranslate(f *testing.F) {
	frame := frames(f, 3)[1]
	for _, expr := range expressions(f) {
		for _, link := range []packet.LinkType{packet.LinkEthernet, packet.LinkNetwork} {
			if p, err := capture.CompileFilter(expr, packet.LinkNetwork); err == nil {
				if raw, err := p.Program(link); err == nil && len(raw) < 200 {
					f.Add(encode(raw), frame)
				}
			}
		}
	}
	r := rand.New(rand.NewPCG(2, 3))
	for range 20 {
		f.Add(encode(randomProgram(r, 12)), frame)
	}
	f.Fuzz(func(t *testing.T, program, frame []byte) {
		if len(program) > 8*(clMaxProgram+1) || len(frame) > 1<<16 {
			return
		}
		var raw []classic.RawInstruction
		for ; len(program) >= 8; program = program[8:] {
			raw = append(raw, classic.RawInstruction{Op: binary.LittleEndian.Uint16(program), Jt: program[2], Jf: program[3], K: binary.LittleEndian.Uint32(program[4:])})
		}
		err := validate(raw, view{})
		if err != nil {
			if strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), "instruction") {
				t.Fatalf("refused with %q", err)
			}
			return
		}
		q := question{"fuzzed", raw, interpreted(raw)}
		q.hold(t, frame, 300+len(frame)%maxReach)
	})
}

package acl

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"weir/packet"
)

// compiled compiles bpf/acl.h as plain C, with a sanitizer's flags if there are
// any, and says where the program is, or skips the test.
func compiled(t testing.TB, flags ...string) string {
	t.Helper()
	cc := ""
	for _, name := range []string{"cc", "gcc", "clang", "clang-19"} {
		if path, err := exec.LookPath(name); err == nil {
			cc = path
			break
		}
	}
	if cc == "" {
		t.Skip("skipped: acl.h as plain C was not tried: no C compiler (cc, gcc, clang)")
	}
	path := filepath.Join(t.TempDir(), "lists")
	args := append([]string{"-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function", "-Wno-unknown-pragmas", "-o", path}, flags...)
	if out, err := exec.Command(cc, append(args, "../bpf/testdata/acl/lists.c")...).CombinedOutput(); err != nil {
		if len(flags) > 0 {
			t.Skipf("skipped: acl.h was not tried with %v, which this compiler does not have: %v\n%s", flags, err, out)
		}
		t.Fatalf("%s: %v\n%s", cc, err, out)
	}
	return path
}

// twin is a process that runs acl.h.
type twin struct {
	cmd    *exec.Cmd
	in     *bufio.Writer
	close  io.Closer
	out    *bufio.Reader
	stderr strings.Builder
}

func startTwin(t testing.TB, program string) *twin {
	t.Helper()
	w := &twin{cmd: exec.Command(program)}
	w.cmd.Stderr = &w.stderr
	in, err := w.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	w.in, w.close, w.out = bufio.NewWriterSize(in, 1<<16), in, bufio.NewReaderSize(out, 1<<16)
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.close.Close()
		if err := w.cmd.Wait(); err != nil {
			t.Errorf("acl.h ended: %v\n%s", err, w.stderr.String())
		}
	})
	return w
}

var native = binary.NativeEndian

// What acl.h's program is told.
const (
	twinBank = iota + 1
	twinQuestion
	twinAnswer
)

func (w *twin) bank(words []uint64) {
	w.in.Write(native.AppendUint32(native.AppendUint32(nil, twinBank), uint32(len(words))))
	binary.Write(w.in, native, words)
}

// question is what the C programs are asked, and answer what they say.
type question struct {
	in   packet.Info
	list int
	port uint16
	d    Direction
	f    Family
}

type answer struct {
	rule   uint32
	id     uint16
	flags  uint8
	fixed  bool
	judged bool
	class  uint8
	bound  uint32
}

// appendPacket writes struct packet.
func appendPacket(b []byte, in *packet.Info) []byte {
	k := &in.Key
	b = append(append(b, k.Src[:]...), k.Dst[:]...)
	b = native.AppendUint16(native.AppendUint16(b, k.SrcPort), k.DstPort)
	b = native.AppendUint32(b, k.Input)
	b = append(native.AppendUint16(b, k.VLAN), k.Proto, k.TOS)
	b = native.AppendUint32(b, in.Length)
	b = append(b, make([]byte, 12)...)
	return append(b, in.TCPFlags, in.TTL, 0, 0)
}

func appendQuestion(b []byte, q *question) []byte {
	b = appendPacket(b, &q.in)
	for _, v := range []uint32{uint32(q.list), uint32(q.port), uint32(q.d), uint32(q.f)} {
		b = native.AppendUint32(b, v)
	}
	return b
}

// readAnswer reads struct acl_result and what comes behind it.
func readAnswer(b []byte) (a answer) {
	a.rule, a.id, a.flags, a.fixed = native.Uint32(b), native.Uint16(b[4:]), b[6], b[7] == 0
	a.judged, a.class, a.bound = native.Uint32(b[8:]) != 0, uint8(native.Uint32(b[12:])), native.Uint32(b[16:])
	return a
}

// expect is what Go says.
func expect(b *Bank, q *question) (a answer) {
	a.class, a.fixed = b.Class(&q.in), true
	list, count := b.ListOf(q.port, q.d, q.f)
	if a.bound = uint32(list + 1); count {
		a.bound |= bindCount
	}
	r := b.Classify(q.list, &q.in)
	if r.Rule < 0 {
		return a
	}
	a.judged, a.fixed, a.rule, a.id = true, !r.Depends, uint32(r.Rule), r.ID
	for bit, on := range []bool{r.Action == Permit, r.Reject, r.Log != NoLog, r.Log == LogInput} {
		if on {
			a.flags |= 1 << bit
		}
	}
	return a
}

func (w *twin) ask(qs []question) ([]answer, error) {
	for i := range qs {
		w.in.Write(appendQuestion(native.AppendUint32(native.AppendUint32(nil, twinQuestion), 0), &qs[i]))
	}
	w.in.Write(native.AppendUint32(native.AppendUint32(nil, twinAnswer), 0))
	if err := w.in.Flush(); err != nil {
		return nil, err
	}
	out := make([]answer, len(qs))
	var raw [24]byte
	for i := range out {
		if _, err := io.ReadFull(w.out, raw[:]); err != nil {
			return nil, err
		}
		out[i] = readAnswer(raw[:])
	}
	return out, nil
}

// banks are of random policies, with packets for each.
func banks(t testing.TB, seed uint64, n int, fn func(w *world, b *Bank, qs []question)) {
	for i := range n {
		w := newWorld(seed + uint64(i))
		p := w.policy(1+w.IntN(3), pick(w, []int{3, 20, 70, 200}))
		for j, l := range p.Lists {
			p.Bindings = append(p.Bindings, Binding{Interface: fmt.Sprint("eth", j), Direction: Direction(w.IntN(2)), Family: l.Family, List: l.Name})
		}
		o := CompileOptions{
			Now:       midday,
			Ports:     map[string]uint16{"eth0": 0, "eth1": 255, "eth2": 7},
			CountOnly: func(b *Binding) bool { return b.Interface == "eth1" },
		}
		b, err := Compile(p, o)
		if err != nil {
			t.Fatal(err)
		}
		qs := make([]question, 100)
		for i := range qs {
			qs[i] = question{w.packet(Family(w.IntN(2))), w.IntN(b.Lists()), pick(w, []uint16{0, 7, 8, 255}), Direction(w.IntN(2)), Family(w.IntN(2))}
		}
		fn(w, b, qs)
	}
}

// TestTwin: acl.h as plain C says what Go says.
func TestTwin(t *testing.T) {
	for name, flags := range map[string][]string{"plain": nil, "sanitized": {"-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := startTwin(t, compiled(t, flags...))
			hold := func(b *Bank, qs []question) {
				c.bank(b.Words)
				got, err := c.ask(qs)
				if err != nil {
					t.Fatal(err)
				}
				for i := range qs {
					if want := expect(b, &qs[i]); got[i] != want {
						t.Fatalf("%+v:\nC  %+v\nGo %+v", qs[i], got[i], want)
					}
				}
			}
			banks(t, 1000, 300, func(_ *world, b *Bank, qs []question) { hold(b, qs) })
			for _, f := range []Family{IPv4, IPv6} {
				rng := rand.New(rand.NewPCG(1, 2))
				l := access(rng, f, 6000)
				p := withGroup(rng, f, l)
				b, err := Compile(p, CompileOptions{})
				if err != nil {
					t.Fatal(err)
				}
				var qs []question
				for _, in := range accessPackets(rng, &List{Family: f, Rules: l.Rules[1:]}, 1000) {
					qs = append(qs, question{in: in})
					in.Key.Src = pick(&world{Rand: rng}, p.Groups[0].Nets).Addr // a member, or beside one
					in.Key.Src[15] ^= byte(rng.IntN(2))
					qs = append(qs, question{in: in})
				}
				hold(b, qs)
			}
		})
	}
}

// TestTwinCorrupt: whatever a bank has, nothing is read that is not there, and
// there is an answer.
func TestTwinCorrupt(t *testing.T) {
	c := startTwin(t, compiled(t, "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"))
	banks(t, 5000, 150, func(w *world, b *Bank, qs []question) {
		for range 10 {
			words := append([]uint64(nil), b.Words...)
			for range 1 << w.IntN(10) {
				i := pick(w, []int{w.IntN(len(words)), w.IntN(5), 1024 + w.IntN(32*b.Lists())})
				switch w.IntN(4) {
				case 0:
					words[i] = w.Uint64()
				case 1:
					words[i] ^= 1 << w.IntN(64)
				case 2:
					words[i] = words[w.IntN(len(words))]
				case 3:
					words[i] += w.Uint64N(3) - 1
				}
			}
			words = words[:1+w.IntN(len(words))]
			c.bank(words)
			if _, err := c.ask(qs); err != nil {
				t.Fatalf("%v\n%s", err, c.stderr.String())
			}
		}
	})
}

package bpf_test

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"weir/flow"
	"weir/packet"
)

// What parse.h's walk starts with, besides EtherTypes.
const (
	startEthernet = 0x10000
	startRaw      = 0x10003
)

// question is a frame as parse.h gets it.
type question struct {
	start uint32 // EtherType or start…
	vlan  uint16 // a tag taken out of the frame: flow.KeyTagged | id, or 0
	wire  uint32
	data  []byte
}

// answer is what parse.h says of it: struct answer of testdata/parse/frames.c.
type answer struct {
	key                              flow.Key
	length, network, transport, want uint32
	flags, ttl                       uint8
	why                              packet.Reason
	headers                          uint32
}

const (
	packetSize = 64
	answerSize = packetSize + 8
)

var native = binary.NativeEndian

func appendQuestion(b []byte, q *question) []byte {
	b = native.AppendUint32(b, q.start)
	b = native.AppendUint32(b, uint32(q.vlan))
	b = native.AppendUint32(b, q.wire)
	b = native.AppendUint32(b, uint32(len(q.data)))
	return append(b, q.data...)
}

// readAnswer reads struct packet, the reason and the length of headers.
func readAnswer(b []byte, a *answer) {
	k := &a.key
	k.Src, k.Dst = flow.Addr(b), flow.Addr(b[16:])
	k.SrcPort, k.DstPort, k.Input = native.Uint16(b[32:]), native.Uint16(b[34:]), native.Uint32(b[36:])
	k.VLAN, k.Proto, k.TOS = native.Uint16(b[40:]), b[42], b[43]
	a.length, a.network, a.transport, a.want = native.Uint32(b[44:]), native.Uint32(b[48:]), native.Uint32(b[52:]), native.Uint32(b[56:])
	a.flags, a.ttl = b[60], b[61]
	a.why, a.headers = packet.Reason(native.Uint32(b[64:])), native.Uint32(b[68:])
}

// expect is what packet.Decode says of a question.
func expect(q *question, in *packet.Info) packet.Reason {
	*in = packet.Info{}
	var link packet.LinkType
	switch q.start {
	case startEthernet:
		link = packet.LinkEthernet
	case startRaw:
		link = packet.LinkRaw
	default:
		link = packet.LinkOfEtherType(uint16(q.start))
	}
	why := packet.Decode(link, q.data, q.wire, in)
	if q.vlan != 0 { // was in front of those in the frame
		in.Key.VLAN = in.Key.VLAN&^(flow.VLANMask|flow.KeyTagged) | q.vlan
	}
	return why
}

// compare says how an answer differs from packet.Decode's, or nothing.
func compare(q *question, a *answer) string {
	var in packet.Info
	why := expect(q, &in)
	if a.why != why {
		return fmt.Sprintf("%v, packet says %v", a.why, why)
	}
	if why == packet.Decoded && (a.key != in.Key || a.length != in.Length || a.flags != in.TCPFlags || a.ttl != in.TTL) {
		return fmt.Sprintf("\n%+v, packet says\n%+v", *a, in)
	}
	return ""
}

func (q *question) String() string {
	return fmt.Sprintf("start %#x, tag %#x, %d octets of %d: % x", q.start, q.vlan, len(q.data), q.wire, q.data)
}

// parser is a process that runs parse.h.
type parser struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	stderr strings.Builder
}

// build compiles parse.h as plain C, with a sanitizer's flags if there are any,
// and says where the program is, or skips the test.
func build(t testing.TB, flags ...string) string {
	t.Helper()
	cc := ""
	for _, name := range []string{"cc", "gcc", "clang", "clang-19"} {
		if path, err := exec.LookPath(name); err == nil {
			cc = path
			break
		}
	}
	if cc == "" {
		t.Skip("skipped: parse.h as plain C was not tried: no C compiler (cc, gcc, clang)")
	}
	path := filepath.Join(t.TempDir(), "frames")
	args := append([]string{"-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function", "-o", path}, flags...)
	if out, err := exec.Command(cc, append(args, "testdata/parse/frames.c")...).CombinedOutput(); err != nil {
		if len(flags) > 0 {
			t.Skipf("skipped: parse.h was not tried with %v, which this compiler does not have: %v\n%s", flags, err, out)
		}
		t.Fatalf("%s: %v\n%s", cc, err, out)
	}
	return path
}

// start runs what build has built; with an argument each answer comes at once.
func start(t testing.TB, program string, arg ...string) *parser {
	t.Helper()
	p := &parser{cmd: exec.Command(program, arg...)}
	p.cmd.Stderr = &p.stderr
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.out = bufio.NewReaderSize(out, 1<<18)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return p
}

// ask asks one.
func (p *parser) ask(q *question, a *answer) error {
	raw := make([]byte, answerSize)
	_, err := p.in.Write(appendQuestion(nil, q))
	if err == nil {
		_, err = io.ReadFull(p.out, raw)
	}
	if err != nil {
		return fmt.Errorf("parse.h ended (%w) at %v\n%s", err, q, p.stderr.String())
	}
	readAnswer(raw, a)
	return nil
}

// each asks all questions, which live until each returns, and gives fn every
// answer.
func (p *parser) each(t testing.TB, questions func(yield func(*question) bool), fn func(*question, *answer)) {
	t.Helper()
	const batch = 2048
	asked := make(chan []question, 4)
	go func() {
		defer close(asked)
		defer p.in.Close()
		var qs []question
		buf := make([]byte, 0, 1<<18)
		flush := func() bool {
			asked <- qs
			_, err := p.in.Write(buf)
			qs, buf = make([]question, 0, batch), buf[:0]
			return err == nil
		}
		questions(func(q *question) bool {
			qs = append(qs, *q)
			buf = appendQuestion(buf, q)
			return len(qs) < batch || flush()
		})
		flush()
	}()
	raw := make([]byte, answerSize)
	var a answer
	died := false
	for qs := range asked {
		for i := range qs {
			if died {
				break
			}
			if _, err := io.ReadFull(p.out, raw); err != nil {
				died = true
				p.cmd.Wait()
				t.Errorf("parse.h ended (%v, %s) at or before %v", err, p.stderr.String(), &qs[i])
				break
			}
			readAnswer(raw, &a)
			fn(&qs[i], &a)
		}
	}
	if !died {
		if err := p.cmd.Wait(); err != nil {
			t.Errorf("parse.h: %v\n%s", err, p.stderr.String())
		}
	}
}

// hold compares all answers with packet.Decode's.
func (p *parser) hold(t testing.TB, questions func(yield func(*question) bool)) {
	t.Helper()
	n, wrong, reasons := 0, 0, map[packet.Reason]int{}
	p.each(t, questions, func(q *question, a *answer) {
		n++
		reasons[a.why]++
		if d := compare(q, a); d != "" {
			if wrong++; wrong <= 5 {
				t.Errorf("%v\nparse.h says %s", q, d)
			}
		}
	})
	if wrong > 5 {
		t.Errorf("%d of %d answers are wrong", wrong, n)
	}
	t.Logf("%d frames: %v", n, reasons)
}

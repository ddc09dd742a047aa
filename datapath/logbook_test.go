package datapath

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"weir/bpf"
	"weir/flow"
)

// shelf is a logbook whose lines are kept, and a table of flows beside it.
type shelf struct {
	*logbook
	text  bytes.Buffer
	now   time.Time
	table map[flow.Key]uint64 // packets of flows that are there
	words map[flow.Key]uint64
}

func newShelf(t *testing.T, rate int) *shelf {
	t.Helper()
	s := &shelf{now: time.Unix(1e9, 0), table: map[flow.Key]uint64{}, words: map[flow.Key]uint64{}}
	p := mustRead(t, "ip access-list extended L\n deny icmp any any echo log-input\n permit udp any any eq 53 log\n reject tcp any any log\n")
	l := p.Lists[0]
	s.logbook = &logbook{
		log: slog.New(slog.NewTextHandler(&s.text, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey || a.Key == slog.LevelKey {
				return slog.Attr{}
			}
			return a
		}})),
		rule: func(word uint64) (named, bool) {
			if n := int(ruleOf(word)); n > 0 && n <= len(l.Rules) {
				return named{l, l.Rules[n-1]}, true
			}
			return named{}, false
		},
		name: func(ifindex uint32) string { return fmt.Sprintf("eth%d", ifindex) }, lines: perSecond(rate, rate), flows: map[logKey]*logged{},
	}
	return s
}

func word(rule, verdict uint64) uint64 { return 2<<32 | rule<<16 | verdict | bpf.VerdictLog }

func udpKey(n int) flow.Key {
	k := flow.Key{Src: flow.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}), Dst: flow.AddrFrom4([4]byte{192, 0, 2, 1}), Proto: flow.ProtoUDP, SrcPort: 4000, DstPort: 53, Input: 7}
	return k
}

// packet is one that the kernel sees: it is told of if it is a flow's first.
func (s *shelf) packet(k flow.Key, word uint64) {
	if s.table[k]++; s.table[k] == 1 {
		s.words[k] = word
		s.first(&bpf.Event{Word: word, Port: k.Input}, &k, []byte{2, 0, 0, 0, 0, 9}, s.now)
	}
}

func (s *shelf) leave(k flow.Key) {
	s.departed(s.words[k], &k, k.Input, s.table[k])
	delete(s.table, k)
}

func (s *shelf) sums() {
	s.sum(func(visit func(word uint64, k *flow.Key, port uint32, packets uint64), end func()) {
		for k, n := range s.table {
			visit(s.words[k], &k, k.Input, n)
		}
		end()
	})
	s.drain(s.now)
}

// said gives the lines since it was last asked, and their sum.
func (s *shelf) said(t *testing.T) (lines []string, packets int) {
	t.Helper()
	for _, l := range strings.Split(strings.TrimSpace(s.text.String()), "\n") {
		if l == "" {
			continue
		}
		lines = append(lines, l)
		if _, n, ok := strings.Cut(l, "packets="); ok {
			var p int
			if _, err := fmt.Sscan(n, &p); err != nil {
				t.Fatal(err)
			}
			packets += p
		}
	}
	s.text.Reset()
	return lines, packets
}

func TestLogLines(t *testing.T) {
	s := newShelf(t, 100)
	echo := flow.Key{Src: flow.AddrFrom4([4]byte{10, 0, 0, 1}), Dst: flow.AddrFrom4([4]byte{192, 0, 2, 1}), Proto: flow.ProtoICMP, DstPort: 8 << 8, Input: 7}
	s.packet(echo, word(1, bpf.VerdictDeny))
	s.packet(udpKey(1), word(2, bpf.VerdictPermit))
	for range 41 {
		s.packet(udpKey(1), word(2, bpf.VerdictPermit))
	}
	tcp := udpKey(1)
	tcp.Proto, tcp.Input = flow.ProtoTCP, 3|flow.KeyEgress
	s.packet(tcp, word(3, bpf.VerdictDeny|bpf.VerdictReject))
	tcp.SrcPort++
	s.packet(tcp, word(3, bpf.VerdictDeny|bpf.VerdictCount))
	s.packet(udpKey(9), word(9, bpf.VerdictPermit)) // of a rule that is gone
	s.sums()
	s.complain()
	got, _ := s.said(t)
	want := []string{
		`msg="access list" list=L rule="deny icmp any any echo log-input" seq=10 action=deny proto=icmp src=10.0.0.1 dst=192.0.2.1 type=8 code=0 interface=eth7 direction=in input=eth7 mac=02:00:00:00:00:09 packets=1`,
		`msg="access list" list=L rule="permit udp any any eq domain log" seq=20 action=permit proto=udp src=10.0.0.1 dst=192.0.2.1 sport=4000 dport=53 interface=eth7 direction=in packets=1`,
		`msg="access list" list=L rule="reject tcp any any log" seq=30 action=reject proto=tcp src=10.0.0.1 dst=192.0.2.1 sport=4000 dport=53 interface=eth3 direction=out packets=1`,
		`msg="access list" list=L rule="reject tcp any any log" seq=30 action=reject proto=tcp src=10.0.0.1 dst=192.0.2.1 sport=4001 dport=53 interface=eth3 direction=out passed=true packets=1`,
		`msg="access list" list=L rule="permit udp any any eq domain log" seq=20 action=permit proto=udp src=10.0.0.1 dst=192.0.2.1 sport=4000 dport=53 interface=eth7 direction=in packets=41`,
		`msg="access list: too many lines" left_out=1`,
	}
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			t.Fatalf("line %d of %d:\n%s\nwant:\n%s", i, len(got), strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

// Whatever the rate lets through: what lines tell is what there was, once the sums
// have come.
func TestLogSumsAreExact(t *testing.T) {
	s := newShelf(t, 10)
	sent, told := 0, 0
	for round := range 20 {
		for n := range 300 {
			for range 1 + (n+round)%3 {
				s.packet(udpKey(n), word(2, bpf.VerdictPermit))
				sent++
			}
			if (n+round)%4 == 0 {
				s.leave(udpKey(n))
			}
		}
		s.sums()
		for range 10 {
			s.now = s.now.Add(time.Second)
			s.drain(s.now)
		}
		lines, n := s.said(t)
		told += n
		if len(lines) > 110 {
			t.Errorf("%d lines in ten seconds", len(lines))
		}
	}
	if told >= sent {
		t.Errorf("%d told of %d, though the rate is low", told, sent)
	}
	for range 2 {
		s.sums()
		for range 100 {
			s.now = s.now.Add(time.Second)
			s.drain(s.now)
		}
	}
	if _, n := s.said(t); told+n != sent {
		t.Errorf("%d packets told of %d", told+n, sent)
	}
	for n := range 300 {
		if s.table[udpKey(n)] > 0 {
			s.leave(udpKey(n))
		}
	}
	s.sums()
	s.sums()
	if lines, _ := s.said(t); len(lines) > 0 || len(s.flows) > 0 {
		t.Errorf("%d flows are still known, said: %q", len(s.flows), lines)
	}
}

// A flood of flows takes no more memory than there is for them.
func TestLogIsBounded(t *testing.T) {
	s := newShelf(t, 100)
	for n := range maxLogged + 1000 {
		k := udpKey(n)
		s.first(&bpf.Event{Word: word(2, bpf.VerdictPermit), Port: 7}, &k, nil, s.now)
		k.Dst[15]++
		s.departed(word(2, bpf.VerdictPermit), &k, 7, 1)
	}
	if lines, _ := s.said(t); len(s.flows) != maxLogged || len(lines) != 100 {
		t.Errorf("%d flows are known, %d lines written", len(s.flows), len(lines))
	}
}

// Whatever the ring holds, no more of it is read than there is.
func FuzzEvent(f *testing.F) {
	e := make([]byte, eventSize)
	e[24] = 60
	f.Add(append(e, stillFrame()...))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		e, octets, err := parseEvent(b)
		if err != nil {
			return
		}
		if len(octets) != int(e.Octets) || int(e.Network) > len(octets) {
			t.Fatalf("%+v with %d octets", e, len(octets))
		}
		readKey(octets[e.Network:])
		Answer(octets, int(e.Network))
	})
}

func stillFrame() []byte {
	return append(make([]byte, 12), append([]byte{8, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 203, 0, 113, 1, 0x10, 0, 0, 53}, make([]byte, 22)...)...)
}

package bpf_test

import (
	"testing"

	"weir/flow"
	"weir/packet"
)

// TestParseOrders: every order of headers, every other frame cut at each octet.
func TestParseOrders(t *testing.T) {
	every := 2
	if testing.Short() {
		every = 50
	}
	start(t, build(t)).hold(t, truncated(allOrders, every))
}

// TestParseLimits: the last header that is followed is the same one.
func TestParseLimits(t *testing.T) {
	start(t, build(t)).hold(t, limits)
}

// TestParseDrawn: frames of any kind, damaged and lying ones among them.
func TestParseDrawn(t *testing.T) {
	n := 500_000
	if testing.Short() {
		n = 20_000
	}
	start(t, build(t)).hold(t, drawn(1, n))
}

// TestParseCorpus: every frame of every capture, some of them cut at each octet;
// and what fuzzing package packet has found.
func TestParseCorpus(t *testing.T) {
	captures := 0
	start(t, build(t)).hold(t, func(yield func(*question) bool) {
		fuzzCorpus(t, yield)
		captures = corpusFrames(t, 1<<30, yield)
		corpusFrames(t, 4, func(q *question) bool {
			for n := range min(len(q.data), 200) {
				if cut := (question{q.start, q.vlan, q.wire, q.data[:n:n]}); !yield(&cut) {
					return false
				}
			}
			return true
		})
	})
	if captures == 0 {
		t.Skip("skipped: the corpus of captures is not there; set WEIR_CORPUS to its folder")
	}
}

// TestParseSanitized: no octet is read that the frame does not have, and nothing
// is done that C does not define.
func TestParseSanitized(t *testing.T) {
	program := build(t, "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-DEXACT")
	start(t, program).hold(t, func(yield func(*question) bool) {
		for q := range truncated(allOrders, 1000) {
			if !yield(q) {
				return
			}
		}
		drawn(2, 50_000)(yield)
	})
}

// TestParseWant: a parser that sees a part of the frame says so if more of it
// could tell something else; made readable bit by bit as it wants, the frame
// gives what the whole one does.
func TestParseWant(t *testing.T) {
	type state struct {
		question        // as far as it can be read
		whole    []byte //
	}
	program := build(t)
	var left []*state
	add := func(q *question) bool {
		if q.wire != uint32(len(q.data)) {
			return true
		}
		for _, n := range []int{0, len(q.data) / 5, len(q.data) / 2, len(q.data) * 4 / 5} {
			s := &state{*q, q.data}
			s.data = q.data[:n:n]
			left = append(left, s)
		}
		return true
	}
	drawn(3, 50_000)(add)
	n := 0
	for q := range allOrders {
		if n++; n%10 == 0 {
			add(q)
		}
	}
	for round := 0; len(left) > 0; round++ {
		if round > 200 {
			t.Fatalf("%d frames still want more, as %v", len(left), left[0].question)
		}
		byData := left
		left = nil
		i := 0
		start(t, program).each(t, func(yield func(*question) bool) {
			for _, s := range byData {
				if !yield(&s.question) {
					return
				}
			}
		}, func(q *question, a *answer) {
			s := byData[i]
			i++
			if a.want > uint32(len(q.data)) && len(q.data) < len(s.whole) {
				s.data = s.whole[:min(int(a.want), len(s.whole))]
				left = append(left, s)
				return
			}
			if a.want != 0 && a.want <= uint32(len(q.data)) {
				t.Errorf("%v: wants %d octets, which are there", q, a.want)
			}
			whole := *q
			whole.data = s.whole
			if d := compare(&whole, a); d != "" {
				t.Errorf("%v\nwants no more, but of %d octets\n% x\nparse.h says %s", q, len(s.whole), s.whole, d)
			}
		})
		if t.Failed() {
			return
		}
	}
}

// TestParseHeaders: what a segment repeats of a packet that is still to be cut.
func TestParseHeaders(t *testing.T) {
	tcp := func(off byte) []byte {
		b := append([]byte{}, transports[0].b...)
		b[12] = off << 4
		return append(b, make([]byte, 60)...)
	}
	hop := func(next byte, b []byte) layer {
		proto, b := extensions[0].put(next, b)
		return ip6(proto, b)
	}
	p := start(t, build(t), "at once")
	fragment := ip4(17, transports[1].b)
	fragment.b[7] = 1
	for _, c := range []struct {
		name string
		in   layer
		want uint32
	}{
		{"tcp", ip4(6, tcp(5)), 40},
		{"tcp with options", ip4(6, tcp(15)), 80},
		{"tcp that lies", ip4(6, tcp(4)), 0},
		{"tcp in ip6", ip6(6, tcp(8)), 72},
		{"tcp behind an extension header", hop(6, tcp(5)), 68},
		{"udp", ip4(17, transports[1].b), 28},
		{"udp in ip6", ip6(17, transports[1].b), 48},
		{"later fragment", fragment, 0},
		{"icmp", ip4(1, transports[2].b), 0},
		{"tag, label", put("802.1Q", put("label", ip4(6, tcp(6)))), 44},
	} {
		b := ether(c.in)
		var a answer
		if err := p.ask(&question{start: startEthernet, wire: uint32(len(b)), data: b}, &a); err != nil {
			t.Fatal(err)
		}
		if a.why != packet.Decoded || a.headers != c.want {
			t.Errorf("%s: %v, headers of %d octets, want %d", c.name, a.why, a.headers, c.want)
		}
		at, _ := packet.Network(packet.LinkEthernet, b)
		if a.network != uint32(at.Offset) {
			t.Errorf("%s: IP at %d, want %d", c.name, a.network, at.Offset)
		}
	}
}

// FuzzParse runs parse.h beside package packet.
func FuzzParse(f *testing.F) {
	add := func(q *question) bool {
		f.Add(q.start, q.vlan, q.wire, q.data[:min(len(q.data), 256)])
		return true
	}
	fuzzCorpus(f, add)
	if corpusFrames(f, 3, add) == 0 {
		f.Log("seeds of the corpus left out: no captures there; set WEIR_CORPUS to its folder")
	}
	drawn(4, 300)(add)
	for _, h := range linkHeaders {
		b := ether(h.put(ip4(17, transports[1].b)))
		add(&question{start: startEthernet, wire: uint32(len(b)), data: b})
	}
	p := start(f, build(f), "at once")
	f.Fuzz(func(t *testing.T, start uint32, vlan uint16, wire uint32, data []byte) {
		if start >= startEthernet {
			start = []uint32{startEthernet, startRaw}[start&1]
		}
		q := &question{start: start, wire: wire, data: data[:min(len(data), 65536)]}
		if vlan != 0 && start != startRaw {
			q.vlan = flow.KeyTagged | vlan&flow.VLANMask
		}
		var a answer
		if err := p.ask(q, &a); err != nil {
			t.Fatal(err)
		}
		if d := compare(q, &a); d != "" {
			t.Fatalf("%v\nparse.h says %s", q, d)
		}
	})
}

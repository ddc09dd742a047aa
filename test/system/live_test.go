package system

import (
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"weir/test/kernel"
)

// byFlow adds up records by the flow they are of.
func byFlow(t testing.TB, all rows) map[string]count {
	t.Helper()
	flows := map[string]count{}
	for _, m := range all {
		c := flows[keyOf(m)]
		c.add(count{number(t, m["packets"]), number(t, m["bytes"])})
		flows[keyOf(m)] = c
	}
	return flows
}

func sameFlows(t testing.TB, got, want map[string]count) {
	t.Helper()
	for k, w := range want {
		if got[k] != w {
			t.Errorf("flow %s: %+v, want %+v", k, got[k], w)
		}
	}
	for k, g := range got {
		if _, ok := want[k]; !ok {
			t.Errorf("flow %s: %+v, which nobody sent", k, g)
		}
	}
}

// mixed is n frames of all kinds and of many flows, in random order.
func mixed(n int, r *rand.Rand) []frame {
	kinds := everyKind()
	frames := make([]frame, 0, n)
	for len(frames) < n {
		if r.IntN(2) == 0 {
			frames = append(frames, kinds[r.IntN(len(kinds))])
			continue
		}
		f := udp4("10.7.0.1", "10.8.0.1", uint16(10000+r.IntN(3000)), uint16(1+r.IntN(3)), r.IntN(1400))
		if r.IntN(2) == 0 {
			f = tcp4("10.7.0.1", "10.8.0.1", uint16(10000+r.IntN(3000)), 80, []uint8{2, 16, 24, 17, 4}[r.IntN(5)], r.IntN(1400))
		}
		frames = append(frames, f)
	}
	return frames
}

func octets(frames []frame) [][]byte {
	all := make([][]byte, len(frames))
	for i, f := range frames {
		all[i] = f.octets
	}
	return all
}

// A filter expression runs in the kernel: what it does not match is not read,
// and how frames are got at makes no difference.
func TestLiveFilter(t *testing.T) {
	kernel.Programs(t) // a socket filter is one
	t.Parallel()
	frames := mixed(5000, rand.New(rand.NewPCG(3, 4)))
	for _, c := range []struct {
		filter string
		modes  []string
		match  func(f *frame) bool
	}{
		// As in a capture file: behind a tag only after the word vlan.
		{"udp port 53", allModes, func(f *frame) bool {
			return f.key == flowKey("10.1.0.2", "10.2.0.2", 17, 5353, 53, 0, "") || f.key == flowKey("2001:db8::1", "2001:db8::2", 17, 1234, 53, 0x20, "")
		}},
		{"vlan 100", []string{"afpacket", "xdp", "tc"}, func(f *frame) bool { return f.key == flowKey("10.1.0.2", "10.2.0.2", 17, 5353, 53, 0, "100") }},
		{"arp or icmp", []string{"afpacket"}, func(f *frame) bool {
			return f.ignored == "arp" || f.key == flowKey("10.1.0.3", "10.2.0.3", 1, 0, 8*256, 0, "")
		}},
		// `tcp` does not look behind a hop-by-hop header, tcpdump's neither.
		{"ip6 and not tcp", []string{"afpacket"}, func(f *frame) bool { return f.ignored == "" && be.Uint16(f.octets[12:]) == 0x86dd }},
	} {
		for _, mode := range c.modes {
			t.Run(mode+" "+c.filter, func(t *testing.T) {
				t.Parallel()
				var want []frame
				for i := range frames {
					if c.match(&frames[i]) {
						want = append(want, frames[i])
					}
				}
				if len(want) == 0 {
					t.Fatal("the filter matches nothing here")
				}
				l := newLine(t, false)
				out := newSender(t, l.a, "va")
				p := meterStart(t, l.b, mode, "vb", "-o", "csv", "--summary", "--cache", "16Ki", c.filter)
				out.send(t, octets(frames)...)
				settle()
				p.stop(t)
				sameFlows(t, byFlow(t, account(t, p, expect(want))), expect(want).flows)
			})
		}
	}
}

// What the kernel has no room for is counted: sent = read + dropped.
func TestLiveDropsAreCounted(t *testing.T) {
	l := newLine(t, false)
	out := newSender(t, l.a, "va")
	p := meterStart(t, l.b, "afpacket", "vb", "-o", "csv", "-w", "/dev/null", "--summary")
	p.signal(t, syscall.SIGSTOP) // a meter that does not come to read
	const n = 400_000
	f := udp4("10.1.0.1", "10.2.0.1", 1, 2, 400).octets
	bulk := make([][]byte, 1000)
	for i := range bulk {
		bulk[i] = f
	}
	for range n / len(bulk) {
		out.send(t, bulk...)
	}
	p.signal(t, syscall.SIGCONT)
	time.Sleep(500 * time.Millisecond)
	p.stop(t)
	s := parseSummary(t, p.stderr.String())
	dropped := s.Lost["kernel-drop"].Packets
	if s.Packets == 0 || dropped == 0 {
		t.Errorf("read %d, dropped %d: want some of both of %d", s.Packets, dropped, n)
	}
	if s.Packets+dropped != n {
		t.Errorf("read %d + dropped %d = %d, sent %d; lost is %v", s.Packets, dropped, s.Packets+dropped, n, s.Lost)
	}
	t.Logf("read %d, dropped %d", s.Packets, dropped)
}

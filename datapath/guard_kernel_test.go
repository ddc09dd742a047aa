package datapath

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"weir/bpf"
	"weir/flow"
	"weir/guard"
	"weir/packet"
)

// guarding is a table with a guard and no lists.
func guarding(t testing.TB, entries int, needs bpf.Needs) (*bpf.Kernel, *Guard) {
	t.Helper()
	k := loadKernel(t, bpf.Options{Entries: entries, Guard: true, TestClock: true, Needs: needs})
	if err := (ports{k.Memory().Control}).set(loopback, bpf.PortIngress); err != nil {
		t.Fatal(err)
	}
	atomic.StoreUint64(&k.Memory().Control.TestClock, 1000*second)
	g := newGuard(k, func(string) (uint32, bool) { return loopback, true }, nil)
	if err := g.Allow(nil); err != nil {
		t.Fatal(err)
	}
	return k, g
}

// onlyXDP spares tests of what all programs have in common the others.
var onlyXDP = bpf.Needs{XDP: true}

// match makes one that frames of the same dice may be hit by.
func (d dice) match() (m guard.Match) {
	for m.Empty() {
		if v6 := d.IntN(3) == 0; v6 {
			m.Dst = netip.MustParsePrefix(d.of("2001:db8::/32", "2001:db8:0:1::/64", "2001:db8:0:1::7/128", "::/0"))
		} else if d.IntN(2) == 0 {
			m.Dst = netip.MustParsePrefix(d.of("10.0.0.1/32", "10.0.0.0/8", "10.0.0.0/24", "192.0.2.0/25", "0.0.0.0/0"))
		}
		if d.IntN(4) == 0 {
			m.Src = netip.MustParsePrefix(d.of("10.0.0.2/32", "203.0.113.0/24", "10.0.0.0/9"))
			if m.Dst.IsValid() && !m.Dst.Addr().Is4() {
				m.Dst = netip.Prefix{}
			}
		}
		switch d.IntN(6) {
		case 0:
			m.SYN = true
		case 1:
			m.Fragments = true
		case 2:
			m.Proto, m.SrcPorts = 17, []uint16{53, 1025, 78}[:1+d.IntN(3)]
		case 3:
			m.Proto, m.DstPort = 6, 443
		}
	}
	return m
}

// prefix is one that an address of a frame is in, or all but in.
func (d dice) prefix() netip.Prefix {
	for {
		var in packet.Info
		frame := d.frame()
		if packet.Decode(packet.LinkEthernet, frame, uint32(len(frame)), &in) != packet.Decoded {
			continue
		}
		a := []flow.Addr{in.Key.Src, in.Key.Dst}[d.IntN(2)].Netip()
		bits := d.IntN(a.BitLen() + 1)
		b := a.AsSlice()
		if d.IntN(2) == 0 && bits > 0 {
			b[(bits-1)/8] ^= 0x80 >> ((bits - 1) % 8)
		}
		a, _ = netip.AddrFromSlice(b)
		return netip.PrefixFrom(a, bits).Masked()
	}
}

// hitBy is whether a packet is hit, read from top to bottom.
func hitBy(m *guard.Match, in *packet.Info) bool {
	if m.SYN && (in.Key.Proto != flow.ProtoTCP || in.TCPFlags&(flow.SYN|flow.ACK) != flow.SYN) {
		return false
	}
	if m.Fragments && in.Key.VLAN&flow.KeyFragment == 0 {
		return false
	}
	if m.Dst.IsValid() && !m.Dst.Contains(in.Key.Dst.Netip()) || m.Src.IsValid() && !m.Src.Contains(in.Key.Src.Netip()) {
		return false
	}
	return (m.Proto == 0 || m.Proto == in.Key.Proto) && (m.DstPort == 0 || m.DstPort == in.Key.DstPort) &&
		(len(m.SrcPorts) == 0 || slices.Contains(m.SrcPorts, in.Key.SrcPort))
}

// Each packet is stopped if the first rule that hits it drops, and is in a record and
// in a rule's count then as ever; whatever order rules come and go in, by XDP and TC.
func TestKernelGuards(t *testing.T) {
	k, g := guarding(t, 1<<12, bpf.Needs{})
	c := newTold(t)
	s := sweeper(t, SweepConfig{Idle: time.Hour, Lists: k.Lists}, k, c)
	d := dice{rand.New(rand.NewPCG(7, 3))}
	until := time.Now().Add(time.Hour).UnixNano()
	type counts struct{ hit, dropped guard.Volume }
	want := map[uint64]*counts{}
	var id, stopped, stoppedBytes uint64
	wrong := 0
	for range 60 {
		for n := d.IntN(4); n > 0; n-- {
			id++
			r := guard.Rule{ID: id, Match: d.match(), Do: []guard.Do{guard.Drop, guard.Drop, guard.Count}[d.IntN(3)], Until: until}
			if err := g.Install(r); err != nil {
				t.Fatal(err)
			}
			want[id] = &counts{}
		}
		for d.IntN(3) == 0 {
			gone := 1 + d.Uint64N(id+1)
			if err := g.Lift(gone); err != nil {
				t.Fatal(err)
			}
			delete(want, gone)
		}
		allowed := []netip.Prefix{}
		for d.IntN(3) == 0 {
			allowed = append(allowed, d.prefix())
		}
		if err := g.Allow(allowed); err != nil {
			t.Fatal(err)
		}
		on := d.IntN(8) != 0
		if err := g.SetOn(on); err != nil {
			t.Fatal(err)
		}
		rules, err := g.Rules() // in the order of their rows
		if err != nil || len(rules) != len(want) {
			t.Fatalf("%d rules, %d are wanted: %v", len(rules), len(want), err)
		}
		for range 300 {
			frame := d.frame()
			var in packet.Info
			if why := packet.Decode(packet.LinkEthernet, frame, uint32(len(frame)), &in); why != packet.Decoded {
				t.Fatalf("%x: %v", frame, why)
			}
			spared := slices.ContainsFunc(allowed, func(p netip.Prefix) bool { return p.Contains(in.Key.Src.Netip()) || p.Contains(in.Key.Dst.Netip()) })
			for _, hook := range []struct {
				program *ebpf.Program
				drop    uint32
			}{{k.Programs.XDP, 1}, {k.Programs.Ingress, 2}, {k.Programs.Egress, 2}} {
				drop := false
				if at := slices.IndexFunc(rules, func(r guard.Installed) bool { return hitBy(&r.Match, &in) }); at >= 0 && on && !spared {
					w, n := want[rules[at].ID], guard.Volume{Packets: 1, Bytes: uint64(in.Length)}
					w.hit.Packets, w.hit.Bytes = w.hit.Packets+n.Packets, w.hit.Bytes+n.Bytes
					if drop = rules[at].Do == guard.Drop; drop {
						w.dropped.Packets, w.dropped.Bytes = w.dropped.Packets+n.Packets, w.dropped.Bytes+n.Bytes
						stopped, stoppedBytes = stopped+1, stoppedBytes+n.Bytes
					}
				}
				got, err := hook.program.Run(&ebpf.RunOptions{Data: frame})
				if err != nil {
					t.Fatal(err)
				}
				if (got == hook.drop) != drop {
					if wrong++; wrong < 5 {
						t.Errorf("%+v: the kernel says %d, drop is %v", in, int32(got), drop)
					}
				}
			}
		}
		after, err := g.Rules()
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range after {
			if w := want[r.ID]; w.hit != r.Hit || w.dropped != r.Dropped {
				t.Fatalf("rule %d %+v: hit %v, dropped %v; want %+v", r.ID, r.Match, r.Hit, r.Dropped, *w)
			}
		}
		if d.IntN(3) == 0 {
			if err := s.DrainAll(flow.EndForced); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := s.DrainAll(flow.EndForced); err != nil {
		t.Fatal(err)
	}
	var sum bpf.Count
	for _, n := range c.dropped {
		sum.Packets, sum.Bytes = sum.Packets+n.Packets, sum.Bytes+n.Bytes
	}
	counters, err := k.Counters()
	if err != nil {
		t.Fatal(err)
	}
	if all := allPorts(counters)[bpf.Dropped]; sum.Packets != stopped || sum.Bytes != stoppedBytes || all != sum {
		t.Errorf("records tell of %v dropped, the counters of %v; %d packets of %d octets were", sum, all, stopped, stoppedBytes)
	}
	if stopped < 5000 || wrong > 0 {
		t.Errorf("%d verdicts are wrong; %d packets were stopped", wrong, stopped)
	}
}

// udp is a frame of flow n to 10.0.0.1.
func udpFrame(n byte, size int) []byte {
	f := append(make([]byte, 12), 0x08, 0, 0x45, 0, byte((28+size)>>8), byte(28+size), 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, n, 10, 0, 0, 1, 0, 53, 4, 0, byte((8+size)>>8), byte(8+size), 0, 0)
	f = append(f, make([]byte, size)...)
	return append(f, make([]byte, max(0, 60-len(f)))...)
}

// passes says whether a frame does.
func passes(t testing.TB, k *bpf.Kernel, frame []byte) bool {
	t.Helper()
	got, err := k.Programs.XDP.Run(&ebpf.RunOptions{Data: frame})
	if err != nil {
		t.Fatal(err)
	}
	return got != 1
}

// A rule ends by the program's own clock, also for flows that it has hit, and one with
// the same ID begins again.
func TestKernelGuardEnds(t *testing.T) {
	k, g := guarding(t, 1<<10, onlyXDP)
	rule := guard.Rule{ID: 5, Match: guard.Match{Dst: netip.MustParsePrefix("10.0.0.1/32")}, Do: guard.Drop}
	wall := func(in time.Duration) int64 {
		offset, clock, err := g.offset()
		if err != nil {
			t.Fatal(err)
		}
		return int64(clock) + offset + int64(in)
	}
	rule.Until = wall(10 * time.Second)
	if err := g.Install(rule); err != nil {
		t.Fatal(err)
	}
	old, fresh := udpFrame(1, 10), udpFrame(2, 10)
	if passes(t, k, old) {
		t.Error("a packet passes the rule")
	}
	clockTo(k, 1009*second)
	if passes(t, k, old) {
		t.Error("a packet passes the rule before it ends")
	}
	g.close() // there is nobody any more
	clockTo(k, 1011*second)
	if !passes(t, k, old) || !passes(t, k, fresh) {
		t.Error("a rule that is over stops packets")
	}
	g = newGuard(k, func(string) (uint32, bool) { return loopback, true }, nil)
	if list, err := g.Rules(); len(list) != 0 || err != nil {
		t.Errorf("%v are in force: %v", list, err)
	}
	rule.Until = wall(10 * time.Second)
	if err := g.Install(rule); err != nil {
		t.Fatal(err)
	}
	if passes(t, k, old) || passes(t, k, fresh) {
		t.Error("a rule that begins anew stops nothing")
	}
	next := newGuard(k, func(string) (uint32, bool) { return loopback, true }, nil) // as a daemon that comes after a kill finds it
	list, err := next.Rules()
	if err != nil || len(list) != 1 || list[0].ID != 5 || list[0].Match.Dst != rule.Match.Dst || list[0].Hit.Packets != 4 || list[0].Dropped.Packets != 4 {
		t.Errorf("found in force: %+v %v", list, err)
	}
	if d := list[0].Until - rule.Until; d < -int64(time.Second) || d > int64(time.Second) {
		t.Errorf("it ends %v later than it was told", time.Duration(d))
	}
}

// A rule that polices lets its rate pass, to the packet, over any pattern of arrival: no
// low rate starves, no burst is let through twice.
func TestKernelGuardPolices(t *testing.T) {
	k, g := guarding(t, 1<<10, onlyXDP)
	from := uint64(1000 * second)
	for i, tt := range []struct {
		name  string
		rule  guard.Rule
		every time.Duration // between packets
		size  int
		want  int // of 60 s
	}{
		{"packets", guard.Rule{PPS: 100}, 2 * time.Millisecond, 10, 6000},
		{"a packet in ten seconds", guard.Rule{PPS: 1}, 100 * time.Millisecond, 10, 60},
		{"bits", guard.Rule{BPS: 80000}, 5 * time.Millisecond, 972, 600},
		{"fewer bits than a packet has, a second", guard.Rule{BPS: 800}, 100 * time.Millisecond, 972, 6},
		{"below its rate", guard.Rule{PPS: 1000}, 10 * time.Millisecond, 10, 6000},
		{"the lower of two", guard.Rule{PPS: 1000, BPS: 80000}, 5 * time.Millisecond, 972, 600},
	} {
		t.Run(tt.name, func(t *testing.T) {
			from += uint64(time.Hour)
			tt.rule.ID, tt.rule.Do, tt.rule.Match, tt.rule.Until = uint64(i+1), guard.Police, guard.Match{Proto: 17}, time.Now().Add(24*time.Hour).UnixNano()
			if err := g.Install(tt.rule); err != nil {
				t.Fatal(err)
			}
			got, sent := 0, 0
			for at := time.Duration(0); at < time.Minute; at += tt.every {
				clockTo(k, from+uint64(at))
				sent++
				if passes(t, k, udpFrame(byte(sent%5), tt.size)) {
					got++
				}
			}
			burst := 1 + tt.want/600 + 1 // 100 ms of the rate, and the first
			if got < tt.want-1 || got > min(tt.want+burst, sent) {
				t.Errorf("%d of %d pass, want %d", got, sent, tt.want)
			}
			list, err := g.Rules()
			if err != nil || list[0].Hit.Packets != uint64(sent) || list[0].Dropped.Packets != uint64(sent-got) {
				t.Errorf("counted %+v of %d, %d dropped: %v", list[0], sent, sent-got, err)
			}
			r := list[0].Rule
			if r.PPS != tt.rule.PPS || r.BPS != tt.rule.BPS || r.Do != guard.Police {
				t.Errorf("found in force: %+v", r)
			}
			if err := g.Lift(tt.rule.ID); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// What cannot be matched is refused with a word, and what there is no room for, too.
func TestGuardRefuses(t *testing.T) {
	_, g := guarding(t, 1<<10, onlyXDP)
	until := time.Now().Add(time.Hour).UnixNano()
	dst := netip.MustParsePrefix("10.0.0.1/32")
	for _, m := range []guard.Match{
		{SYN: true, Proto: 17},
		{Dst: dst, Src: netip.MustParsePrefix("2001:db8::/32")},
		{Dst: dst, SrcPorts: []uint16{1, 2, 3, 4, 5, 6, 7, 8, 9}},
	} {
		if err := g.Can(&m); !errors.Is(err, guard.ErrUnsupported) {
			t.Errorf("%+v: %v", m, err)
		}
		if err := g.Install(guard.Rule{ID: 1, Match: m, Do: guard.Drop, Until: until}); !errors.Is(err, guard.ErrUnsupported) {
			t.Errorf("%+v: %v", m, err)
		}
	}
	if err := g.Install(guard.Rule{ID: 1, Match: guard.Match{Dst: dst}, Do: guard.Police, Until: until}); err == nil {
		t.Error("a rule polices without a rate")
	}
	if err := g.Install(guard.Rule{ID: 1, Match: guard.Match{Dst: dst}, Do: guard.Drop, Until: time.Now().Add(-time.Minute).UnixNano()}); err == nil {
		t.Error("a rule begins after its end")
	}
	for i := range uint64(bpf.GuardRules) {
		if err := g.Install(guard.Rule{ID: 1 + i, Match: guard.Match{Dst: dst}, Do: guard.Count, Until: until}); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.Install(guard.Rule{ID: 1 << 20, Match: guard.Match{Dst: dst}, Do: guard.Count, Until: until}); err == nil {
		t.Error("there is room for more rules than there are rows")
	}
	if err := g.Lift(7); err != nil {
		t.Fatal(err)
	}
	if err := g.Install(guard.Rule{ID: 1 << 20, Match: guard.Match{Dst: dst}, Do: guard.Count, Until: until}); err != nil {
		t.Error(err)
	}
	g.close()
	if err := g.Install(guard.Rule{ID: 3}); !errors.Is(err, guard.ErrNoEnforcer) {
		t.Errorf("after its end: %v", err)
	}
}

// cached is how many flows the table has.
func cached(k *bpf.Kernel) (n int) {
	m := k.Memory()
	for i := range m.Sets[:m.Flows] {
		for _, w := range m.Sets[i].Word {
			switch w & bpf.StateMask {
			case bpf.New, bpf.Live:
				n++
			}
		}
	}
	return n
}

// tcpFrame is a frame of one flow to 10.0.0.1.
func tcpFrame(n byte, size int) []byte {
	f := append(make([]byte, 12), 0x08, 0, 0x45, 0, byte((40+size)>>8), byte(40+size), 0, 0, 0x40, 0, 64, 6, 0, 0, 192, 0, 2, n, 10, 0, 0, 1, 0x10, 0, 0, 80)
	f = append(f, make([]byte, 20)...)
	f[14+20+12], f[14+20+13] = 0x50, flow.ACK
	return append(f, make([]byte, max(size, 20))...)[:max(60, 54+size)]
}

// A single flow keeps to its limits, each flow on its own: to the packet and the octet
// over any pattern, with costs of less than a unit of the clock and of more than a
// minute, and a silence that the bucket's numbers wrap around in.
func TestKernelGuardLimits(t *testing.T) {
	k, g := guarding(t, 1<<10, onlyXDP)
	from := uint64(1000 * second)
	for _, tt := range []struct {
		name  string
		p     guard.Profile
		every time.Duration
		size  int
		want  float64 // passing, of 100 s
	}{
		{"packets", guard.Profile{PPS: 100}, 2 * time.Millisecond, 10, 10000},
		{"one a second", guard.Profile{PPS: 1}, 20 * time.Millisecond, 10, 100},
		{"bits", guard.Profile{BPS: 100_000}, 5 * time.Millisecond, 1222, 1000},
		{"the fewest bits", guard.Profile{BPS: 8000}, 100 * time.Millisecond, 972, 100},
		{"the lower of both", guard.Profile{PPS: 5000, BPS: 100_000}, 5 * time.Millisecond, 1222, 1000},
		{"below both", guard.Profile{PPS: 60, BPS: 100_000}, 20 * time.Millisecond, 100, 5000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			from += uint64(20 * time.Minute) // in which the units wrap around
			clockTo(k, from)
			tt.p.Name, tt.p.Do, tt.p.Burst = tt.name, guard.Police, 100*time.Millisecond
			if err := g.SetProfiles([]guard.Profile{tt.p}); err != nil {
				t.Fatal(err)
			}
			var got [3]int
			sent := 0
			for at := time.Duration(0); at < 100*time.Second; at += tt.every {
				clockTo(k, from+uint64(at))
				sent++
				for n := range got {
					if passes(t, k, udpFrame(byte(n), tt.size)) {
						got[n]++
					}
				}
			}
			over := 0
			for n := range got {
				over += sent - got[n]
				if f := float64(got[n]); f < tt.want-1 || f > min(tt.want*1.002+3, float64(sent)) {
					t.Errorf("flow %d: %d of %d pass, want %g", n, got[n], sent, tt.want)
				}
			}
			tolls, err := g.Tolls()
			if err != nil || len(tolls.Profiles) != 1 || tolls.Profiles[0].Over.Packets != uint64(over) || tolls.Profiles[0].Dropped.Packets != uint64(over) {
				t.Errorf("%d are beyond the limit, %+v is told: %v", over, tolls, err)
			}
		})
	}
}

// What cannot be in force does not take what can with it, and more than there is room for
// changes nothing.
func TestGuardLimitsRefused(t *testing.T) {
	k, g := guarding(t, 1<<10, onlyXDP)
	one := guard.Profile{Name: "one", PPS: 1, Burst: time.Millisecond, Do: guard.Police}
	if err := g.SetProfiles([]guard.Profile{{Name: "count", PPS: 1 << 30}, one, one}); err != nil {
		t.Fatal(err)
	}
	broad := guard.Profile{Name: "broad", PPS: 1}
	for i := range bpf.GuardLimits + 1 {
		broad.Prefixes = append(broad.Prefixes, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), 0, 0}), 16))
	}
	if err := g.SetProfiles([]guard.Profile{broad}); err == nil {
		t.Error("there is room for more limits than there are rows")
	}
	if tolls, err := g.Tolls(); err != nil || len(tolls.Profiles) != 3 {
		t.Errorf("%+v: %v", tolls, err)
	}
	bad := guard.Profile{Name: "bad", BPS: 1}
	if err := g.SetProfiles([]guard.Profile{bad, one}); err == nil {
		t.Error("one bit a second is a limit")
	}
	passes(t, k, udpFrame(1, 10))
	stopped := 0
	for range 10 {
		if !passes(t, k, udpFrame(1, 10)) {
			stopped++
		}
	}
	if tolls, err := g.Tolls(); err != nil || stopped == 0 || tolls.Profiles[1].Dropped.Packets != uint64(stopped) {
		t.Errorf("%d stopped, %+v told: %v", stopped, tolls, err)
	}
	if err := g.SetProfiles([]guard.Profile{bad}); err == nil || !passes(t, k, udpFrame(1, 10)) {
		t.Errorf("what was in force before is still: %v", err)
	}
}

// At high rates what is lost by rounding would be much: a packet costs half a unit.
func TestKernelGuardLimitsHigh(t *testing.T) {
	k, g := guarding(t, 1<<10, onlyXDP)
	if err := g.SetProfiles([]guard.Profile{{Name: "high", PPS: 7_000_000, Burst: 30 * time.Millisecond, Do: guard.Police}}); err != nil {
		t.Fatal(err)
	}
	frame := udpFrame(1, 10)
	for ms := range uint64(150) { // a jiffy at a time, 4 ms
		clockTo(k, 1000*second+4e6*ms)
		n := 40_000 // 10 M a second
		if _, _, err := k.Programs.XDP.Benchmark(frame, n, nil); err != nil {
			t.Fatal(err)
		}
	}
	tolls, err := g.Tolls()
	if err != nil {
		t.Fatal(err)
	}
	passed := 150*40_000 - int(tolls.Profiles[0].Over.Packets)
	if want := 7_000_000 * 0.6; float64(passed) < 0.99*want || float64(passed) > 1.06*want {
		t.Errorf("%d packets pass in 0.6 s, want %g and what may come at once", passed, want)
	}
}

// A flow that does not keep to its limits is stopped for a while, which doubles while it
// goes on and begins anew when it was calm; another is not touched, and one that keeps
// to its rate after its penalty passes. What the kill switch says holds at once.
func TestKernelGuardHolds(t *testing.T) {
	k, g := guarding(t, 1<<10, onlyXDP)
	p := guard.Profile{Name: "hold", PPS: 100, Burst: 500 * time.Millisecond, Do: guard.Drop, Hold: 10 * time.Second, MaxHold: 30 * time.Second}
	if err := g.SetProfiles([]guard.Profile{p}); err != nil {
		t.Fatal(err)
	}
	at := 1000 * uint64(second)
	// run sends for so long at a rate, and says for how long in all nothing passed.
	run := func(takes time.Duration, pps uint64, n byte) (stopped time.Duration) {
		for end := at + uint64(takes); at < end; at += uint64(time.Second) / pps {
			clockTo(k, at)
			if !passes(t, k, tcpFrame(n, 100)) {
				stopped += time.Second / time.Duration(pps)
			}
		}
		return stopped
	}
	near := func(what string, got, want time.Duration) {
		t.Helper()
		if got < want-500*time.Millisecond || got > want+500*time.Millisecond {
			t.Errorf("%s: stopped for %v, want %v", what, got, want)
		}
	}
	near("below its rate", run(20*time.Second, 80, 1), 0)
	// Half a second until it is stopped, for ten; a quarter more, and it is stopped again, for twenty.
	near("the first time, and a second begins", run(12*time.Second, 200, 1), 11250*time.Millisecond)
	near("its end, and a third time, for thirty", run(49*time.Second, 200, 1), 48500*time.Millisecond)
	near("another flow", run(5*time.Second, 80, 2), 0)
	run(35*time.Second, 10, 1) // until its penalty is over
	near("calm", run(60*time.Second, 80, 1), 0)
	near("long after", run(11*time.Second, 200, 1), 10*time.Second)
	tolls, err := g.Tolls()
	if err != nil || tolls.Profiles[0].Held < 4 {
		t.Errorf("%+v: %v", tolls, err)
	}
	run(time.Second, 400, 2)
	if passes(t, k, tcpFrame(2, 100)) {
		t.Error("it passes")
	}
	if err := g.SetOn(false); err != nil {
		t.Fatal(err)
	}
	if !passes(t, k, tcpFrame(2, 100)) {
		t.Error("the kill switch does not let it pass")
	}
	if err := g.SetOn(true); err != nil {
		t.Fatal(err)
	}
	if passes(t, k, tcpFrame(2, 100)) {
		t.Error("its penalty is forgotten")
	}
	if err := g.Allow([]netip.Prefix{netip.MustParsePrefix("192.0.2.2/32")}); err != nil {
		t.Fatal(err)
	}
	if !passes(t, k, tcpFrame(2, 100)) {
		t.Error("who is allowed does not pass")
	}
}

// A rule of new flows leaves those alone that are there, and what it drops enters no
// cache; within its rate, they do.
func TestKernelGuardNewFlows(t *testing.T) {
	k, g := guarding(t, 1<<12, onlyXDP)
	c := newTold(t)
	s := sweeper(t, SweepConfig{Idle: time.Hour, Lists: k.Lists}, k, c)
	old := udpFrame(200, 10)
	if !passes(t, k, old) {
		t.Fatal("no rule, and it does not pass")
	}
	rule := guard.Rule{ID: 1, Match: guard.Match{Dst: netip.MustParsePrefix("10.0.0.1/32"), New: true}, Do: guard.Police, PPS: 10, Until: time.Now().Add(time.Hour).UnixNano()}
	if err := g.Install(rule); err != nil {
		t.Fatal(err)
	}
	list, err := g.Rules()
	if err != nil || !list[0].Match.New {
		t.Errorf("%+v: %v", list, err)
	}
	passed := 0
	for n := range 150 {
		if !passes(t, k, old) {
			t.Fatal("a packet of a flow that is there is stopped")
		}
		if passes(t, k, udpFrame(byte(n), 10)) {
			passed++
			if !passes(t, k, udpFrame(byte(n), 10)) {
				t.Fatal("the second packet of a flow that was let in is stopped")
			}
		}
	}
	if passed < 1 || passed > 3 { // 100 ms of the rate, and one
		t.Errorf("%d new flows pass", passed)
	}
	if n := cached(k); n != passed+1 {
		t.Errorf("%d entries, %d new flows passed", n, passed)
	}
	if err := s.DrainAll(flow.EndForced); err != nil {
		t.Fatal(err)
	}
	var sum uint64
	for _, n := range c.dropped {
		sum += n.Packets
	}
	if sum != uint64(150-passed) {
		t.Errorf("%d packets are told to be dropped, %d were", sum, 150-passed)
	}
}

// onOneCPU keeps a test, and what programs it runs, to the processor that it is at.
func onOneCPU(t testing.TB) {
	t.Helper()
	runtime.LockOSThread()
	var all, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		t.Fatal(err)
	}
	for cpu := range len(all) * 64 {
		if all.IsSet(cpu) {
			one.Set(cpu)
			break
		}
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		unix.SchedSetaffinity(0, &all)
		runtime.UnlockOSThread()
	})
}

// Beyond what may enter the table, flows are counted in aggregates, and pass: by source,
// by destination and by CPU, each its own, and exactly.
func TestKernelGuardAdmission(t *testing.T) {
	onOneCPU(t)
	k, g := guarding(t, 1<<14, onlyXDP)
	c := newCollector()
	s := sweeper(t, SweepConfig{Idle: time.Hour, Lists: k.Lists}, k, c)
	at := 1000 * uint64(second)
	send := func(src, dst [4]byte, port int) {
		f := udpFrame(0, 10)
		copy(f[26:], src[:])
		copy(f[30:], dst[:])
		f[36], f[37] = byte(port>>8), byte(port)
		if !passes(t, k, f) {
			t.Fatal("a gate stops a packet")
		}
	}
	var sent uint64
	for _, tt := range []struct {
		name   string
		limit  guard.Admission
		kept   func(guard.Tolls) guard.Volume
		src    func(n int) [4]byte
		dst    func(n int) [4]byte
		groups int // that each have the limit
	}{
		{
			"source",
			guard.Admission{Source: 100},
			func(t guard.Tolls) guard.Volume { return t.Source },
			func(n int) [4]byte { return [4]byte{192, 0, 2, byte(n % 3)} }, func(n int) [4]byte { return [4]byte{10, 1, byte(n >> 8), byte(n)} }, 3,
		},
		{
			"destination",
			guard.Admission{Destination: 100},
			func(t guard.Tolls) guard.Volume { return t.Destination },
			func(n int) [4]byte { return [4]byte{11, byte(n >> 16), byte(n >> 8), byte(n)} }, func(n int) [4]byte { return [4]byte{10, 2, 0, byte(n % 2)} }, 2,
		},
		{
			"cpu",
			guard.Admission{CPU: 100},
			func(t guard.Tolls) guard.Volume { return t.CPU },
			func(n int) [4]byte { return [4]byte{12, byte(n >> 16), byte(n >> 8), byte(n)} }, func(n int) [4]byte { return [4]byte{10, 3, 0, byte(n % 7)} }, 1,
		},
		{
			"none",
			guard.Admission{},
			nil,
			func(n int) [4]byte { return [4]byte{13, byte(n >> 16), byte(n >> 8), byte(n)} }, func(n int) [4]byte { return [4]byte{10, 4, 0, byte(n % 7)} }, 0,
		},
	} {
		at += uint64(time.Minute)
		clockTo(k, at)
		if err := g.SetAdmission(tt.limit); err != nil {
			t.Fatal(err)
		}
		before := cached(k)
		const flows = 3000
		for n := range flows {
			at += uint64(2 * time.Second / flows)
			clockTo(k, at)
			send(tt.src(n), tt.dst(n), n)
			sent++
		}
		entered := cached(k) - before
		tolls, err := g.Tolls()
		if err != nil {
			t.Fatal(err)
		}
		if tt.kept == nil {
			if entered != flows {
				t.Errorf("%s: %d of %d flows entered", tt.name, entered, flows)
			}
			continue
		}
		kept := tt.kept(tolls).Packets
		// Two seconds of the limit, a quarter of one at once, and a few aggregates.
		want := tt.groups * 225
		if int(kept)+entered < flows || int(kept) < flows-want-tt.groups-1 || int(kept) > flows-want*8/10 {
			t.Errorf("%s: %d flows entered, %d packets were kept out; want %d", tt.name, entered, kept, want)
		}
	}
	if err := s.DrainAll(flow.EndForced); err != nil {
		t.Fatal(err)
	}
	var told uint64
	for _, r := range c.ids {
		told += r.Packets
	}
	if told != sent {
		t.Errorf("records tell of %d packets, %d were sent", told, sent)
	}
}

// While a rule of new flows is in force, it hits the first packet of each and no other,
// whatever comes and goes: with marks of many that are gone, with banks that change over
// while flows begin, and after a daemon that came back.
func TestKernelGuardMarks(t *testing.T) {
	k, g := guarding(t, 1<<16, onlyXDP)
	s := sweeper(t, SweepConfig{Idle: 3 * time.Second, Active: time.Hour, Lists: k.Lists}, k, discard{})
	src := newSource(t, k, 512) // of 10.0.0.0/8
	src.gen.Mode = genFlood
	rule := guard.Rule{ID: 1, Match: guard.Match{Src: netip.MustParsePrefix("192.0.2.0/24"), New: true}, Do: guard.Count, Until: time.Now().Add(time.Hour).UnixNano()}
	var frames [][]byte
	begin := func() {
		n := len(frames)
		f := udpFrame(byte(n), 10)
		f[34], f[35] = byte(1+n>>8), byte(n>>8)
		frames = append(frames, f)
		passes(t, k, f)
	}
	for range 200 {
		begin()
	}
	if err := g.Install(rule); err != nil {
		t.Fatal(err)
	}
	begun := uint64(0)
	for round := range uint64(10) {
		now := (1000 + round) * second
		clockTo(k, now)
		stop, done := make(chan struct{}), make(chan error)
		go func() { // others come meanwhile
			for {
				select {
				case <-stop:
					done <- nil
					return
				default:
				}
				if err := src.send(100); err != nil {
					done <- err
					return
				}
			}
		}()
		refreshed := make(chan error)
		go func() { // and banks change over
			var err error
			for range 10 {
				err = errors.Join(err, g.refresh())
			}
			refreshed <- err
		}()
		for range 50 {
			begin()
			begun++
			for _, f := range frames[len(frames)-20:] {
				passes(t, k, f)
			}
		}
		for _, f := range frames {
			passes(t, k, f)
		}
		if err := <-refreshed; err != nil {
			t.Fatal(err)
		}
		close(stop)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if list, err := g.Rules(); err != nil || list[0].Hit.Packets != begun {
			t.Fatalf("round %d: %d flows began, the rule hit %+v: %v", round, begun, list, err)
		}
		if err := s.Tick(now); err != nil {
			t.Fatal(err)
		}
		if round == 5 {
			g.close()
			g = newGuard(k, nil, nil)
		}
	}
	if err := g.Lift(1); err != nil {
		t.Fatal(err)
	}
	if flags := k.Memory().Control.Guard & (bpf.GuardFlood | bpf.GuardMarks); flags != 0 {
		t.Errorf("marks are kept for nobody: %x", flags)
	}
}

// While admission keeps a crowd out, nobody is looked for who has no marks; who was in the
// table is found all the same, and when the crowd is gone nobody is marked any more.
func TestKernelGuardCrowd(t *testing.T) {
	k, g := guarding(t, 1<<14, onlyXDP)
	src := newSource(t, k, 512)
	src.gen.Mode = genFlood
	if err := g.SetAdmission(guard.Admission{CPU: 100}); err != nil {
		t.Fatal(err)
	}
	var frames [][]byte
	for n := range 20 {
		f := udpFrame(byte(n), 10)
		f[34] = byte(1 + n)
		frames = append(frames, f)
		passes(t, k, f)
	}
	marked := func() bool {
		if err := g.refresh(); err != nil {
			t.Fatal(err)
		}
		return atomic.LoadUint64(&k.Memory().Control.Guard)&bpf.GuardFlood != 0
	}
	if marked() {
		t.Error("there are marks before there is a crowd")
	}
	sent := uint64(len(frames))
	for range 2 {
		before := cached(k)
		for range 4 {
			if err := src.send(10_000); err != nil {
				t.Fatal(err)
			}
		}
		if !marked() {
			t.Fatal("a crowd, and no marks")
		}
		for _, f := range frames {
			passes(t, k, f)
		}
		sent += uint64(len(frames))
		if n := cached(k) - before; n > 1000 {
			t.Errorf("%d flows entered", n)
		}
	}
	var found uint64
	for i := range k.Memory().Sets[:k.Memory().Flows] {
		set := &k.Memory().Sets[i]
		for way := range set.Word {
			if w := atomic.LoadUint32(&set.Word[way]) & bpf.StateMask; w == bpf.Live || w == bpf.New {
				if netip.MustParsePrefix("192.0.2.0/24").Contains(set.Entry[way].Key.Src.Netip()) {
					found += set.Entry[way].Packets
				}
			}
		}
	}
	if found != sent {
		t.Errorf("%d packets of flows that were in the table before are in it, %d were sent", found, sent)
	}
	for range crowdOver - 1 {
		if !marked() {
			t.Fatal("no marks any more")
		}
	}
	if marked() {
		t.Error("marks are kept for nobody")
	}
}

package datapath

import (
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"weir/bpf"
	"weir/guard"
)

// BenchmarkGuard is what a packet of a known flow costs, of the whole program: without a
// guard; with one, whose rules hit others; with limits of single flows that it keeps to;
// held. The programs take turns, and of each the best turn counts.
func BenchmarkGuard(b *testing.B) {
	open := func(guarded bool) (*bpf.Kernel, *Guard) {
		k := loadKernel(b, bpf.Options{Entries: 1 << 16, Guard: guarded, TestClock: true, Needs: onlyXDP})
		if err := (ports{k.Memory().Control}).set(loopback, bpf.PortIngress); err != nil {
			b.Fatal(err)
		}
		atomic.StoreUint64(&k.Memory().Control.TestClock, 1000*second)
		if !guarded {
			return k, nil
		}
		return k, newGuard(k, nil, nil)
	}
	type setup struct {
		name string
		k    *bpf.Kernel
		ns   []float64
	}
	none, _ := open(false)
	idle, _ := open(true)
	rules, g := open(true)
	for i := range 20 {
		rule := guard.Rule{ID: uint64(i + 1), Match: guard.Match{Dst: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 9, 9, byte(i)}), 32), Proto: 17}, Do: guard.Drop, Until: time.Now().Add(time.Hour).UnixNano()}
		if err := g.Install(rule); err != nil {
			b.Fatal(err)
		}
	}
	limited, l := open(true)
	if err := l.SetProfiles([]guard.Profile{{Name: "a", PPS: 1 << 40, BPS: 1 << 50, Burst: time.Minute, Do: guard.Police}}); err != nil {
		b.Fatal(err)
	}
	held, h := open(true)
	if err := h.SetProfiles([]guard.Profile{{Name: "a", PPS: 1, Do: guard.Drop}}); err != nil {
		b.Fatal(err)
	}
	all := []*setup{{name: "none", k: none}, {name: "guard", k: idle}, {name: "rules", k: rules}, {name: "limits", k: limited}, {name: "held", k: held}}
	frame := udpFrame(1, 10)
	turn := func(s *setup, n int) float64 {
		_, took, err := s.k.Programs.XDP.Benchmark(frame, n, nil)
		if err != nil {
			b.Fatal(err)
		}
		return float64(took.Nanoseconds())
	}
	for _, s := range all {
		turn(s, 100)
	}
	for b.Loop() {
		for start := time.Now(); time.Since(start) < 5*time.Second; {
			for _, s := range all {
				s.ns = append(s.ns, turn(s, 1<<16))
			}
		}
	}
	for _, s := range all {
		b.ReportMetric(slices.Min(s.ns), s.name+"-ns")
	}
	b.ReportMetric(0, "ns/op")
}

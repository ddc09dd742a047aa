package meter_test

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"weir/flow"
	"weir/meter"
	"weir/packet"
)

// TestPrefixesChoose: of a capture those packets are metered whose source or
// destination is in a prefix; the others are counted as filtered, with the
// octets of their IP headers.
func TestPrefixesChoose(t *testing.T) {
	packets := traffic(9, 20000, 1000, time.Millisecond)
	list := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/10"), netip.MustParsePrefix("192.0.2.3/32"), netip.MustParsePrefix("::/0")}
	var in, out, arp meter.Count
	for i := range packets {
		var info packet.Info
		c := &arp
		if packets[i].Decode(&info) == packet.Decoded {
			c = &out
			for _, p := range list {
				if p.Contains(info.Key.Src.Netip()) || p.Contains(info.Key.Dst.Netip()) {
					c = &in
				}
			}
			c.Bytes += uint64(info.Length)
		} else {
			c.Bytes += uint64(packets[i].Wire)
		}
		c.Packets++
	}
	if in.Packets < 1000 || out.Packets < 1000 {
		t.Fatalf("%v in the prefixes and %v not prove nothing", in, out)
	}
	for _, workers := range []int{1, 3} {
		var sink total
		cfg := config(4096, workers)
		cfg.Chosen = meter.NewPrefixes(list).Has
		s := run(t, cfg, &sink, &replay{packets: packets}).Summary()
		balance(t, s, &sink)
		if s.Metered != in || s.Filtered != out || s.Ignored["arp"] != arp {
			t.Errorf("%d workers: metered %+v, filtered %+v, arp %+v; want %+v, %+v, %+v", workers, s.Metered, s.Filtered, s.Ignored["arp"], in, out, arp)
		}
	}
	// With sampling: what is looked at is chosen from, all is counted.
	var sink total
	cfg := config(4096, 1)
	cfg.Chosen, cfg.Sample = meter.NewPrefixes(list).Has, meter.Sampling{N: 3}
	s := run(t, cfg, &sink, &replay{packets: packets}).Summary()
	balance(t, s, &sink)
	if s.Packets+s.Filtered.Packets != uint64(len(packets)) || s.Filtered.Packets == 0 || s.Ignored["not-sampled"].Packets != uint64(len(packets)-(len(packets)+2)/3) {
		t.Errorf("sampled: %+v", s)
	}
}

func TestPrefixesByInterface(t *testing.T) {
	m := meter.PrefixesByInterface{2: meter.NewPrefixes([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")})}
	ten, other := flow.AddrFrom4([4]byte{10, 1, 1, 1}), flow.AddrFrom4([4]byte{11, 1, 1, 1})
	for _, c := range []struct {
		input    uint32
		src, dst flow.Addr
		want     bool
	}{
		{2, ten, other, true}, {2, other, ten, true}, {2, other, other, false}, {2 | flow.KeyEgress, other, other, false}, {2 | flow.KeyEgress, ten, other, true}, {3, other, other, true},
	} {
		if got := m.Has(&flow.Key{Input: c.input, Src: c.src, Dst: c.dst}); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

func manyPrefixes() []netip.Prefix {
	r := rand.New(rand.NewPCG(1, 9))
	list := make([]netip.Prefix, 1<<16)
	for i := range list {
		list[i] = netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(r.Uint32()), byte(r.Uint32()), byte(r.Uint32()), byte(r.Uint32())}), 16+r.IntN(17)).Masked()
	}
	return list
}

// TestPrefixesAsNaive: as a walk through the list says.
func TestPrefixesAsNaive(t *testing.T) {
	list := manyPrefixes()[:500]
	p := meter.NewPrefixes(list)
	r := rand.New(rand.NewPCG(4, 4))
	addr := func() netip.Addr {
		if r.IntN(4) == 0 {
			return list[r.IntN(len(list))].Addr()
		}
		return netip.AddrFrom4([4]byte{byte(r.Uint32()), byte(r.Uint32()), 0, 0})
	}
	for range 20_000 {
		a, b := addr(), addr()
		want := slices.ContainsFunc(list, func(n netip.Prefix) bool { return n.Contains(a) || n.Contains(b) })
		if got := p.Has(&flow.Key{Src: flow.AddrFrom(a), Dst: flow.AddrFrom(b)}); got != want {
			t.Fatalf("%s, %s: %v, want %v", a, b, got, want)
		}
	}
}

func TestPrefixesDoNotAllocate(t *testing.T) {
	p := meter.NewPrefixes(manyPrefixes())
	k := &flow.Key{Src: flow.AddrFrom4([4]byte{1, 2, 3, 4}), Dst: flow.AddrFrom(netip.MustParseAddr("2001:db8::1"))}
	if n := testing.AllocsPerRun(1000, func() { p.Has(k) }); n != 0 {
		t.Errorf("%v allocations a look-up", n)
	}
}

func BenchmarkPrefixes(b *testing.B) {
	p := meter.NewPrefixes(manyPrefixes())
	r := rand.New(rand.NewPCG(2, 2))
	keys := make([]flow.Key, 4096)
	for i := range keys {
		keys[i] = flow.Key{
			Src: flow.AddrFrom4([4]byte{byte(r.Uint32()), byte(r.Uint32()), byte(r.Uint32()), 1}),
			Dst: flow.AddrFrom4([4]byte{byte(r.Uint32()), byte(r.Uint32()), byte(r.Uint32()), 2}),
		}
	}
	n := 0
	for b.Loop() {
		p.Has(&keys[n%len(keys)])
		n++
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/packet")
}

package guard

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"weir/flow"
)

func key(i int) flow.Addr {
	a := flow.AddrFrom4([4]byte{10})
	binary.BigEndian.PutUint32(a[12:], 0x0a000000+uint32(i))
	return a
}

func everyOne(flow.Addr) uint16 { return 0 }

func (t *table) add(k *flow.Addr, c *Counts) {
	_, to := t.sums(k, c[Packets], unasked)
	to.add(c)
}

// A table with room is a map; sums of ten ticks are those of the last ten.
func TestTableAgreesWithAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tab := newTable(256, everyOne, true)
		var ticks []map[flow.Addr]Counts
		for at := range rapid.IntRange(1, 40).Draw(t, "ticks") {
			now := map[flow.Addr]Counts{}
			for range rapid.IntRange(0, 30).Draw(t, "deltas") {
				k := key(rapid.IntRange(0, 20).Draw(t, "key"))
				c := Counts{Packets: uint64(rapid.IntRange(1, 100).Draw(t, "packets")), Flows: 1}
				tab.add(&k, &c)
				sum := now[k]
				sum.add(&c)
				now[k] = sum
			}
			ticks = append(ticks, now)
			seen := map[flow.Addr]bool{}
			tab.tick(at%windowTicks, func(slot int, k *flow.Addr, _ uint16, cur, sum *Counts) {
				seen[*k] = true
				if *cur != now[*k] {
					t.Fatalf("tick %d, %v: %v, want %v", at, k, *cur, now[*k])
				}
				var want Counts
				for _, m := range ticks[max(0, len(ticks)-windowTicks):] {
					c := m[*k]
					want.add(&c)
				}
				if *sum != want {
					t.Fatalf("tick %d, %v: window %v, want %v", at, k, *sum, want)
				}
				if tab.find(k) != slot {
					t.Fatalf("%v is found at %d, not at %d", k, tab.find(k), slot)
				}
			})
			for k := range now {
				if !seen[k] {
					t.Fatalf("tick %d: %v is not there", at, k)
				}
			}
		}
	})
}

// Beyond its bound a table says never too much, and the largest are found at once.
func TestTableBeyondItsBound(t *testing.T) {
	const slots, keys = 256, 50_000
	tab := newTable(slots, everyOne, true)
	rnd := rand.New(rand.NewPCG(1, 2))
	for at := range 5 {
		truth, all := map[flow.Addr]uint64{}, uint64(0)
		add := func(k flow.Addr, n uint64) {
			tab.add(&k, &Counts{Packets: n})
			truth[k] += n
			all += n
		}
		for i := range keys {
			add(key(rnd.IntN(1<<20)), 1)
			if i%5 == 0 {
				add(key(1<<21+at), 4) // comes anew in each tick
			}
		}
		told, largest := uint64(0), uint64(0)
		tab.tick(at, func(_ int, k *flow.Addr, _ uint16, cur, _ *Counts) {
			if cur[Packets] > truth[*k] {
				t.Fatalf("tick %d: %d packets of %v, there were %d", at, cur[Packets], k, truth[*k])
			}
			told += cur[Packets]
			if *k == key(1<<21+at) {
				largest = cur[Packets]
			}
		})
		if want := truth[key(1<<21+at)]; largest < want*9/10 {
			t.Errorf("tick %d: the largest has %d of %d packets", at, largest, want)
		}
		if told > all {
			t.Errorf("tick %d: told of %d packets, there were %d", at, told, all)
		}
		if tab.n > slots || tab.n+len(tab.free) != slots {
			t.Errorf("%d keys, %d free of %d", tab.n, len(tab.free), slots)
		}
	}
}

// The sample's shares are those of packets, however many there are.
func TestSampleIsEven(t *testing.T) {
	s := newSample()
	a, b := delta("11.0.0.1", 1, "192.0.2.1", 2, 17, 1, 1), delta("11.0.0.2", 1, "192.0.2.1", 2, 17, 7, 1)
	for range 3 {
		s.next()
		for range 200_000 {
			s.add(&a)
			s.add(&b)
		}
		m := Match{}
		sum := map[flow.Addr]uint64{}
		all := uint64(0)
		s.of(&m, func(d *Delta, n uint64) { sum[d.Key.Src] += n; all += n })
		if got := share(sum[addr("11.0.0.2")], all); got < 0.85 || got > 0.9 {
			t.Errorf("share %v, want 7/8", got)
		}
		if all < 1_590_000 || all > 1_610_000 || len(s.list) > sampleSize {
			t.Errorf("stands for %d packets of 1600000, in %d deltas", all, len(s.list))
		}
	}
}

func TestMatch(t *testing.T) {
	d := delta("198.51.100.7", 53, "192.0.2.9", 4000, 17, 1, 100)
	for want, list := range map[bool][]Match{
		true: {
			{},
			{Dst: netip.MustParsePrefix("192.0.2.0/25")},
			{Src: netip.MustParsePrefix("198.51.100.7/32"), Proto: 17},
			{SrcPorts: []uint16{123, 53}},
			{DstPort: 4000},
			{Flow: &d.Key},
			{Dst: netip.MustParsePrefix("0.0.0.0/0")},
		},
		false: {
			{Dst: netip.MustParsePrefix("192.0.2.128/25")},
			{Src: netip.MustParsePrefix("198.51.100.6/32")},
			{Proto: 6},
			{SrcPorts: []uint16{54}},
			{DstPort: 1},
			{Fragments: true},
			{SYN: true},
			{Dst: netip.MustParsePrefix("2001:db8::/32")},
			{Flow: &flow.Key{}},
		},
	} {
		for _, m := range list {
			if m.Hits(&d) != want {
				t.Errorf("%s hits: %v", m, !want)
			}
		}
	}
}

func TestLimits(t *testing.T) {
	for in, want := range map[[2]string]Limit{
		{"threshold_pps", "20000"}:        {Packets, 20_000, Second},
		{"threshold_mbps", "1000"}:        {Bytes, 125_000_000, Second},
		{"threshold_tcp_mbps", "8"}:       {TCPBytes, 1_000_000, Second},
		{"bps", "1Gbps"}:                  {Bytes, 125_000_000, Second},
		{"mbps", "800Mbps"}:               {Bytes, 100_000_000, Second},
		{"udp-pps-10s", "5k"}:             {UDPPackets, 5000, TenSeconds},
		{"threshold_flows", "3500"}:       {Flows, 3500, Second},
		{"threshold_tcp_syn_pps", "1.5k"}: {SYNPackets, 1500, Second},
	} {
		got, err := ParseLimit(in[0], in[1])
		if err != nil || got != want {
			t.Errorf("%v = %+v, %v; want %+v", in, got, err, want)
			continue
		}
		again, err := ParseLimit(got.Name(), FormatRate(got.Value(), ""))
		if err != nil || again != got {
			t.Errorf("%v again: %+v, %v", in, again, err)
		}
	}
	for _, in := range [][2]string{{"pps", "0"}, {"pps", "-1"}, {"pps", "x"}, {"ppps", "1"}, {"pps", "NaN"}, {"pps", "1e99"}, {"", ""}} {
		if l, err := ParseLimit(in[0], in[1]); err == nil {
			t.Errorf("%v is taken for %v", in, l)
		}
	}
	if _, err := ParseLimits(map[string]string{"mbps": "1", "threshold_bps": "2"}); err == nil {
		t.Error("one threshold is taken twice")
	}
}

func FuzzParseLimit(f *testing.F) {
	for _, s := range []string{"20k", "1Gbps", "0", "", "NaN", "1e300", "-5", "800 Mbit/s"} {
		f.Add("threshold_pps", s)
	}
	f.Fuzz(func(t *testing.T, name, value string) {
		if l, err := ParseLimit(name, value); err == nil && (l.Rate == 0 || l.Name() == "") {
			t.Errorf("%q %q: %+v", name, value, l)
		}
	})
}

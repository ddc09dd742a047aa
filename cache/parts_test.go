package cache

import (
	"errors"
	"math"
	"math/big"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"weir/flow"
	"weir/packet"
)

// The word tricks against loops over octets.
func TestLanes(t *testing.T) {
	octets := func(x uint64) (o [8]byte) {
		for i := range o {
			o[i] = byte(x >> (8 * i))
		}
		return o
	}
	word := func(o [8]byte) (x uint64) {
		for i := range o {
			x |= uint64(o[i]) << (8 * i)
		}
		return x
	}
	each := func(x, y uint64, f func(a, b byte) byte) uint64 {
		a, b := octets(x), octets(y)
		for i := range a {
			a[i] = f(a[i], b[i])
		}
		return word(a)
	}
	marked := func(on bool) byte {
		if on {
			return 0x80
		}
		return 0
	}
	octet := rapid.OneOf(rapid.Byte(), rapid.SampledFrom([]byte{0, 1, 0x7f, 0x80, 0xff}))
	rapid.Check(t, func(t *rapid.T) {
		var a, b [8]byte
		for i := range a {
			a[i], b[i] = octet.Draw(t, "a"), octet.Draw(t, "b")
		}
		x, y := word(a), word(b)
		if got, want := nonzero(x), each(x, 0, func(a, _ byte) byte { return marked(a != 0) }); got != want {
			t.Fatalf("nonzero(%x) = %x, want %x", x, got, want)
		}
		tag := octet.Draw(t, "tag")
		is := each(x, 0, func(a, _ byte) byte { return marked(a == tag) })
		got := like(x, uint64(tag))
		if got&is != is || is == 0 && got != 0 || is != 0 && lane(got) != lane(is) {
			t.Fatalf("like(%x, %x) = %x, want at least %x, the lowest exact", x, tag, got, is)
		}
		m := nonzero(y)
		if got, want := full(m), each(y, 0, func(a, _ byte) byte { return -marked(a != 0) >> 7 * 0xff }); got != want {
			t.Fatalf("full(%x) = %x, want %x", m, got, want)
		}
		from := octet.Draw(t, "from") & 0x7f
		if got, want := distance(x, uint64(from)*lanes01), each(x, 0, func(a, _ byte) byte { return (a - from) & 0x7f }); got != want {
			t.Fatalf("distance(%x, %x) = %x, want %x", x, from, got, want)
		}
		x, y = x&lanes7f, y&lanes7f
		if got, want := lower(x, y), each(x, y, func(a, b byte) byte { return min(a, b) }); got != want {
			t.Fatalf("lower(%x, %x) = %x, want %x", x, y, got, want)
		}
		o := octets(x)
		if got, want := lowest(x), uint64(slices.Min(o[:])); got != want {
			t.Fatalf("lowest(%x) = %x, want %x", x, got, want)
		}
	})
}

// Every octet of the key, and the seed, change the hash; equal sees them too.
func TestHashSeesEverything(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	s := newSecret(5)
	for range 100 {
		k := randomKey(rng)
		h := s.hash(&k)
		for _, change := range []func(*flow.Key){
			func(k *flow.Key) { k.Src[rng.IntN(16)] ^= 1 << rng.IntN(8) },
			func(k *flow.Key) { k.Dst[rng.IntN(16)] ^= 1 << rng.IntN(8) },
			func(k *flow.Key) { k.SrcPort ^= 1 << rng.IntN(16) }, func(k *flow.Key) { k.DstPort ^= 1 << rng.IntN(16) },
			func(k *flow.Key) { k.Input ^= 1 << rng.IntN(32) }, func(k *flow.Key) { k.VLAN ^= 1 << rng.IntN(16) },
			func(k *flow.Key) { k.Proto ^= 1 << rng.IntN(8) }, func(k *flow.Key) { k.TOS ^= 1 << rng.IntN(8) },
		} {
			o := k
			change(&o)
			if equal(&o, &k) {
				t.Fatalf("%v and %v are equal", o, k)
			}
			if s.hash(&o) == h {
				t.Fatalf("%v and %v have the same hash", o, k)
			}
		}
		if o := newSecret(6); o.hash(&k) == h {
			t.Fatal("the seed does not matter")
		}
		if !equal(&k, &k) {
			t.Fatal("a key is not equal to itself")
		}
	}
}

// Sequential keys spread evenly over sets, regions and tags.
func TestHashSpreads(t *testing.T) {
	s := newSecret(0)
	const keys, bins = 1 << 16, 64
	var counts [4][bins]int
	for i := range uint32(keys) {
		k := flow.Key{Src: flow.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), Dst: flow.AddrFrom4([4]byte{10, 0, 0, 1}), Proto: 6, DstPort: 443}
		h := s.hash(&k)
		counts[0][pick(uint32(h>>32), bins)]++
		counts[1][pick(uint32(h), bins)]++
		counts[2][h%bins]++
		counts[3][(hashTag(h)-1)/4]++
	}
	for i, c := range counts {
		chi := 0.0
		for j, n := range c {
			want := float64(keys) / bins
			if i == 3 {
				// 256 values on 255 tags: the first has two.
				want = float64(keys) * 4 / 256
				if j == 0 {
					want = float64(keys) * 5 / 256
				} else if j == bins-1 {
					want = float64(keys) * 3 / 256
				}
			}
			chi += (float64(n) - want) * (float64(n) - want) / want
		}
		if chi > 130 { // 63 degrees of freedom: one in a million
			t.Errorf("use %d of the hash: chi-square %.0f over %d bins", i, chi, bins)
		}
	}
}

// due against big numbers, at the ends of time too.
func TestDue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		at := rapid.OneOf(rapid.Int64(), rapid.Int64Range(0, 4e18), rapid.SampledFrom([]int64{math.MinInt64, math.MaxInt64, -1, 0, 1})).Draw(t, "t")
		d := rapid.OneOf(rapid.Int64Range(1, int64(MaxTimeout)), rapid.Just(int64(15*second))).Draw(t, "d")
		var c clock
		c.start(rapid.OneOf(rapid.Just(at), rapid.Int64()).Draw(t, "start"))
		sum := new(big.Int).Add(big.NewInt(at), big.NewInt(d))
		want, rest := new(big.Int).DivMod(sum, big.NewInt(second), new(big.Int))
		if rest.Sign() != 0 {
			want.Add(want, big.NewInt(1))
		}
		want.Sub(want, big.NewInt(c.epoch))
		if want.Sign() < 0 {
			want.SetInt64(0)
		}
		if want.Cmp(big.NewInt(never-1)) > 0 {
			want.SetInt64(never - 1)
		}
		if got := c.due(at, d); uint64(got) != want.Uint64() {
			t.Fatalf("due(%d, %d) = %d, want %v", at, d, got, want)
		}
		if c.due(at, 0) != never {
			t.Fatal("a timeout of 0 is due")
		}
	})
}

// The order of what has left, against comparing.
func TestSorter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		n := rapid.SampledFrom([]int{0, 1, 2, 50, fewRefs, fewRefs + 1, 700, 3000}).Draw(t, "n")
		ends := rapid.SampledFrom([]uint32{1, 2, 5, 100000}).Draw(t, "ends")
		wide := rapid.Bool().Draw(t, "wide")
		all := make([]Gone, n)
		for i := range all {
			g := &all[i]
			g.Key = randomKey(rng)
			if wide {
				for j := range 4 {
					g.Key.Src[12+j], g.Key.Dst[12+j] = byte(rng.Uint32()), byte(rng.Uint32())
				}
				if g.Key.VLAN&flow.KeyIPv6 != 0 {
					g.Key.Src[rng.IntN(8)], g.Key.Dst[rng.IntN(16)] = byte(rng.Uint32()), byte(rng.Uint32())
				}
			}
			g.Until = 1000 + rng.Uint32N(ends)
			g.First, g.Last, g.State = int64(rng.IntN(3)), int64(rng.IntN(3)), uint32(i)
		}
		var s Sorter
		for range 2 { // its memory is used again
			s.Reset()
			for _, i := range rng.Perm(n) {
				s.Add(&all[i])
			}
			s.Sort()
			if s.Len() != n {
				t.Fatalf("%d of %d", s.Len(), n)
			}
			got := make([]*Gone, n)
			for i := range got {
				got[i] = s.At(i)
			}
			want := make([]*Gone, n)
			for i := range want {
				want[i] = &all[i]
			}
			slices.SortFunc(want, compareGone)
			for i := range want {
				if got[i] != want[i] {
					t.Fatalf("number %d is %+v, want %+v", i, got[i], want[i])
				}
			}
		}
	})
}

func compareGone(a, b *Gone) int {
	six := func(g *Gone) []byte { return []byte{byte(g.Key.VLAN & flow.KeyIPv6 >> 8)} }
	if c := int(a.Until) - int(b.Until); c != 0 {
		return c
	}
	for _, c := range []int{
		slices.Compare(six(a), six(b)), slices.Compare(a.Key.Src[:], b.Key.Src[:]), slices.Compare(a.Key.Dst[:], b.Key.Dst[:]),
		int(a.Key.SrcPort) - int(b.Key.SrcPort), int(a.Key.DstPort) - int(b.Key.DstPort), int(a.Key.Input) - int(b.Key.Input),
		int(a.Key.VLAN) - int(b.Key.VLAN), int(a.Key.Proto) - int(b.Key.Proto), int(a.Key.TOS) - int(b.Key.TOS),
		int(a.First - b.First), int(a.Last - b.Last), int(a.State) - int(b.State),
	} {
		if c != 0 {
			return c
		}
	}
	return 0
}

func TestConfigRefused(t *testing.T) {
	for _, cfg := range []Config{
		{Entries: -1}, {Entries: maxEntries + 1}, {Idle: -1}, {Active: MaxTimeout + 1}, {TCPEnd: -time.Second}, {Key: 9},
	} {
		if _, err := New(cfg, nil); err == nil {
			t.Errorf("%+v was accepted", cfg)
		}
	}
}

// total is a sink that sums, and fails when told so.
type total struct {
	records, packets, bytes uint64
	ids                     map[uint64]bool
	byReason                [6]uint64
	fail                    error
	each                    func(*flow.Record)
}

func (s *total) WriteRecords(batch []flow.Record) error {
	if s.fail != nil {
		return s.fail
	}
	s.records += uint64(len(batch))
	for i := range batch {
		r := &batch[i]
		s.packets += r.Packets
		s.bytes += r.Bytes
		s.byReason[r.EndReason]++
		if s.ids != nil {
			s.ids[r.FlowID] = true
		}
		if s.each != nil {
			s.each(r)
		}
	}
	return nil
}

// The caches that share a table do together what one does alone.
func TestShares(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := Config{
			Entries: rapid.SampledFrom([]int{1024, 4096, 9000}).Draw(t, "entries"),
			Idle:    15 * time.Second, Active: time.Minute, TCPEnd: 2 * time.Second, Offline: true,
			Key: rapid.SampledFrom([]flow.KeyMask{flow.KeyCisco, flow.Key5Tuple}).Draw(t, "key"),
		}
		n := rapid.IntRange(1, Regions(cfg.Entries)).Draw(t, "shares")
		keep := func(to *[]Gone) func(*Batch) *Batch {
			return func(b *Batch) *Batch {
				for i := range b.Len() {
					*to = append(*to, *b.At(i))
				}
				return b
			}
		}
		var whole, parts []Gone
		cfg.Gone = keep(&whole)
		one, err := New(cfg, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer one.Close()
		cfg.Gone = keep(&parts)
		shares := make([]*Cache, n)
		for i := range shares {
			if shares[i], err = NewShare(cfg, nil, i, n); err != nil {
				t.Fatal(err)
			}
			defer shares[i].Close()
		}
		sharer := NewSharer(cfg, n)
		g := newTraffic(rapid.Uint64().Draw(t, "seed"), 3000)
		g.gaps = []time.Duration{0, 2 * time.Millisecond}
		for range 20 {
			batch := make([]packet.Info, 300)
			for i := range batch {
				batch[i] = g.next()
				batch[i].Key.Src[13] = byte(g.rng.IntN(4)) // more keys than there is room for
			}
			one.Tick(g.now)
			one.Add(slices.Clone(batch))
			hashes := make([]uint64, len(batch))
			index := make([][]uint16, n)
			for i := range batch {
				var to int
				hashes[i], to = sharer.Share(&batch[i].Key)
				index[to] = append(index[to], uint16(i))
			}
			for i, c := range shares {
				c.Tick(g.now)
				c.AddSome(batch, hashes, index[i])
			}
		}
		one.Drain(flow.EndForced)
		var sum Stats
		for _, c := range shares {
			c.Drain(flow.EndForced)
			s := c.Stats()
			sum.Add(&s)
		}
		a, b := one.Stats(), sum
		for _, s := range []*Stats{&a, &b} {
			s.Peak, s.Backwards, s.Sweeps, s.Memory = 0, 0, 0, 0 // of each share's own
		}
		if a != b {
			t.Fatalf("%d shares count %+v, one cache %+v", n, b, a)
		}
		by := func(a, b Gone) int { return compareGone(&a, &b) }
		slices.SortFunc(whole, by)
		slices.SortFunc(parts, by)
		if !slices.Equal(whole, parts) {
			t.Fatalf("%d shares give other records than one cache", n)
		}
	})
}

// A record says what is known and no more.
func TestFill(t *testing.T) {
	v4 := flow.Key{Src: flow.AddrFrom4([4]byte{10, 0, 0, 1}), Dst: flow.AddrFrom4([4]byte{10, 0, 0, 2}), SrcPort: 1000, DstPort: 53, Proto: 17, TOS: 4}
	v6 := v4
	v6.Src, v6.Dst, v6.VLAN = flow.Addr{0x20, 1, 15: 1}, flow.Addr{0x20, 1, 15: 2}, flow.KeyIPv6
	with := func(k flow.Key, f func(*flow.Key)) flow.Key { f(&k); return k }
	always := flow.HasFirst | flow.HasLast | flow.HasProto | flow.HasSrc | flow.HasDst | flow.HasSrcPort | flow.HasDstPort |
		flow.HasTCPFlags | flow.HasTOS | flow.HasPackets | flow.HasBytes | flow.HasSampling | flow.HasEndReason | flow.HasFlowID
	for _, c := range []struct {
		name string
		key  flow.Key
		cfg  Config
		mark uint8
		has  flow.Field
		want flow.Record
	}{
		{"udp", v4, Config{}, 1, always, flow.Record{IPVersion: 4, EndReason: flow.EndIdle, Sampling: 1}},
		{"ipv6", v6, Config{Sampling: 100}, 2, always, flow.Record{IPVersion: 6, EndReason: flow.EndActive, Sampling: 100}},
		{"5-tuple: no ToS", v4, Config{Key: flow.Key5Tuple}, 1, always &^ flow.HasTOS, flow.Record{IPVersion: 4, EndReason: flow.EndIdle, Sampling: 1}},
		{"tagged with id 0", with(v4, func(k *flow.Key) { k.VLAN = flow.KeyTagged }), Config{}, 3, always | flow.HasVLAN, flow.Record{IPVersion: 4, EndReason: flow.EndDetected, Sampling: 1}},
		{"input", with(v4, func(k *flow.Key) { k.Input = 7 }), Config{}, 1, always | flow.HasInput | flow.HasDirection, flow.Record{Input: 7, IPVersion: 4, EndReason: flow.EndIdle, Sampling: 1}},
		{"output", with(v4, func(k *flow.Key) { k.Input = 7 | flow.KeyEgress }), Config{}, 1, always | flow.HasOutput | flow.HasDirection, flow.Record{Output: 7, Direction: 1, IPVersion: 4, EndReason: flow.EndIdle, Sampling: 1}},
		{"icmp", with(v4, func(k *flow.Key) { k.Proto, k.SrcPort, k.DstPort = 1, 0, 3<<8|1 }), Config{}, 1, always | flow.HasICMP, flow.Record{ICMPType: 3, ICMPCode: 1, IPVersion: 4, EndReason: flow.EndIdle, Sampling: 1}},
		{"a later fragment of icmp", with(v4, func(k *flow.Key) { k.Proto, k.SrcPort, k.DstPort, k.VLAN = 1, 0, 0, flow.KeyFragment }), Config{}, 1, always, flow.Record{Fragment: true, IPVersion: 4, EndReason: flow.EndIdle, Sampling: 1}},
		{"aggregate", v6, Config{}, goneAggregate | 5, always&^(flow.HasSrc|flow.HasSrcPort|flow.HasDstPort|flow.HasTCPFlags|flow.HasTOS) | flow.HasDstMask, flow.Record{DstMask: 64, IPVersion: 6, EndReason: flow.EndResource, Sampling: 1}},
		{"catch-all", flow.Key{Input: 3}, Config{}, goneCatchAll | 5, always&^(flow.HasSrc|flow.HasSrcPort|flow.HasDst|flow.HasDstPort|flow.HasProto|flow.HasTCPFlags|flow.HasTOS) | flow.HasInput | flow.HasDirection, flow.Record{Input: 3, EndReason: flow.EndResource, Sampling: 1}},
	} {
		g := Gone{Entry{Key: c.key, Packets: 3, Bytes: 300, First: 10, Last: 20, TCPFlags: 2, Mark: c.mark, State: 9, Incarnation: 4}}
		r := NewRecorder(&c.cfg)
		got := flow.Record{SrcAS: 99, Elements: []byte("x")} // what was there before must go
		r.Fill(&g, &got)
		want := c.want
		want.Src, want.Dst, want.SrcPort, want.DstPort, want.Proto, want.TOS = c.key.Src, c.key.Dst, c.key.SrcPort, c.key.DstPort, c.key.Proto, c.key.TOS
		want.Packets, want.Bytes, want.First, want.Last, want.TCPFlags = 3, 300, 10, 20, 2
		want.FlowID, want.Has = 9<<incarnationBits|4, c.has
		if got.Has != want.Has {
			t.Errorf("%s: knows %b, want %b", c.name, got.Has, want.Has)
		}
		if got.Elements != nil {
			t.Errorf("%s: elements %q are left from the batch before", c.name, got.Elements)
		}
		if g, w := got, want; !equalRecords(g, w) {
			t.Errorf("%s: %+v\nwant %+v", c.name, g, w)
		}
	}
}

func equalRecords(a, b flow.Record) bool {
	x, y := a.AppendJSON(nil), b.AppendJSON(nil)
	return string(x) == string(y) && a.FlowID == b.FlowID && a.Has == b.Has && a.IPVersion == b.IPVersion && a.Fragment == b.Fragment
}

// When the sink fails, what it did not take is counted, and nothing else is
// handed to it.
func TestSinkFails(t *testing.T) {
	sink := &total{fail: errors.New("full")}
	c, err := New(DefaultConfig(), sink)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	g := newTraffic(1, 500)
	var octets uint64
	for range 2000 {
		in := g.next()
		octets += uint64(in.Length)
		c.Add([]packet.Info{in})
	}
	c.Drain(flow.EndForced)
	s := c.Stats()
	if !errors.Is(c.Err(), sink.fail) {
		t.Errorf("error %v, want %v", c.Err(), sink.fail)
	}
	if s.Lost.Packets != 2000 || s.Lost.Bytes != octets || s.Lost.Records != s.Created || s.Records != 0 {
		t.Errorf("%+v of 2000 packets, %d octets, %d flows", s, octets, s.Created)
	}
	if l := c.Losses(); len(l) != 1 || l[0].Packets != 2000 || l[0].Reason != SinkFailed {
		t.Errorf("losses %+v", l)
	}
}

package cache

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"weir/flow"
	"weir/packet"
)

// The layout is shared with the kernel.
func TestEntryLayout(t *testing.T) {
	var e Entry
	for _, f := range []struct {
		name      string
		at, size  uintptr
		wantAt    uintptr
		wantSized uintptr
	}{
		{"Packets", unsafe.Offsetof(e.Packets), unsafe.Sizeof(e.Packets), 0, 8},
		{"Bytes", unsafe.Offsetof(e.Bytes), unsafe.Sizeof(e.Bytes), 8, 8},
		{"Key", unsafe.Offsetof(e.Key), unsafe.Sizeof(e.Key), 16, 44},
		{"State", unsafe.Offsetof(e.State), unsafe.Sizeof(e.State), 60, 4},
		{"First", unsafe.Offsetof(e.First), unsafe.Sizeof(e.First), 64, 8},
		{"Last", unsafe.Offsetof(e.Last), unsafe.Sizeof(e.Last), 72, 8},
		{"Verdict", unsafe.Offsetof(e.Verdict), unsafe.Sizeof(e.Verdict), 80, 8},
		{"Route", unsafe.Offsetof(e.Route), unsafe.Sizeof(e.Route), 88, 8},
		{"Rate", unsafe.Offsetof(e.Rate), unsafe.Sizeof(e.Rate), 96, 16},
		{"TCPFlags", unsafe.Offsetof(e.TCPFlags), unsafe.Sizeof(e.TCPFlags), 112, 1},
		{"Mark", unsafe.Offsetof(e.Mark), unsafe.Sizeof(e.Mark), 113, 1},
		{"MinLength", unsafe.Offsetof(e.MinLength), unsafe.Sizeof(e.MinLength), 114, 2},
		{"MaxLength", unsafe.Offsetof(e.MaxLength), unsafe.Sizeof(e.MaxLength), 116, 2},
		{"MinTTL", unsafe.Offsetof(e.MinTTL), unsafe.Sizeof(e.MinTTL), 118, 1},
		{"MaxTTL", unsafe.Offsetof(e.MaxTTL), unsafe.Sizeof(e.MaxTTL), 119, 1},
		{"Incarnation", unsafe.Offsetof(e.Incarnation), unsafe.Sizeof(e.Incarnation), 120, 4},
		{"Until", unsafe.Offsetof(e.Until), unsafe.Sizeof(e.Until), 124, 4},
	} {
		if f.at != f.wantAt || f.size != f.wantSized {
			t.Errorf("%s: %d octets at %d, want %d at %d", f.name, f.size, f.at, f.wantSized, f.wantAt)
		}
	}
	if unsafe.Sizeof(e) != EntrySize || EntrySize != 128 {
		t.Errorf("an entry has %d octets, want 128", unsafe.Sizeof(e))
	}
	var k flow.Key
	for _, f := range []struct {
		name     string
		at, want uintptr
	}{
		{"Src", unsafe.Offsetof(k.Src), 0},
		{"Dst", unsafe.Offsetof(k.Dst), 16},
		{"SrcPort", unsafe.Offsetof(k.SrcPort), 32},
		{"DstPort", unsafe.Offsetof(k.DstPort), 34},
		{"Input", unsafe.Offsetof(k.Input), 36},
		{"VLAN", unsafe.Offsetof(k.VLAN), 40},
		{"Proto", unsafe.Offsetof(k.Proto), 42},
		{"TOS", unsafe.Offsetof(k.TOS), 43},
	} {
		if f.at != f.want {
			t.Errorf("Key.%s at %d, want %d", f.name, f.at, f.want)
		}
	}
}

// traffic makes packets of few keys, so that they meet.
type traffic struct {
	rng   *rand.Rand
	now   int64
	pool  []packet.Info
	gaps  []time.Duration
	late  int // in how many packets one comes late
	flags int // in how many packets one has FIN or RST
}

func newTraffic(seed uint64, keys int) *traffic {
	g := &traffic{rng: rand.New(rand.NewPCG(seed, 1)), now: 1_700_000_000 * second, late: 30, flags: 12}
	for range keys {
		g.pool = append(g.pool, packet.Info{Key: randomKey(g.rng)})
	}
	g.gaps = []time.Duration{0, time.Nanosecond, time.Millisecond, 40 * time.Millisecond}
	return g
}

func randomKey(rng *rand.Rand) flow.Key {
	k := flow.Key{
		Src: flow.AddrFrom4([4]byte{10, 0, 0, byte(rng.IntN(200))}), Dst: flow.AddrFrom4([4]byte{192, 0, byte(rng.IntN(3)), byte(rng.IntN(250))}),
		SrcPort: uint16(rng.IntN(5)), DstPort: uint16(rng.IntN(3)), Proto: []byte{6, 6, 17, 1}[rng.IntN(4)],
		Input: uint32(rng.IntN(2)), TOS: byte(rng.IntN(2)),
	}
	if rng.IntN(4) == 0 {
		k.Src, k.Dst = flow.Addr{0x20, 1, 7: byte(rng.IntN(3)), 15: byte(rng.IntN(250))}, flow.Addr{0x20, 2, 7: byte(rng.IntN(3)), 15: 1}
		k.VLAN = flow.KeyIPv6
	}
	if rng.IntN(8) == 0 {
		k.VLAN |= flow.KeyTagged | 5
	}
	return k
}

func (g *traffic) next() packet.Info {
	in := g.pool[g.rng.IntN(len(g.pool))]
	g.now += int64(g.gaps[g.rng.IntN(len(g.gaps))])
	in.Time = g.now
	if g.rng.IntN(g.late) == 0 {
		in.Time -= g.rng.Int64N(40 * second)
	}
	in.Length = uint32(40 + g.rng.IntN(1460))
	if g.rng.IntN(100) == 0 {
		in.Length = 70000
	}
	in.TTL = byte(g.rng.IntN(256))
	if in.Key.Proto == flow.ProtoTCP {
		in.TCPFlags = flow.ACK
		if g.rng.IntN(g.flags) == 0 {
			in.TCPFlags = []uint8{flow.FIN | flow.ACK, flow.RST}[g.rng.IntN(2)]
		}
	}
	return in
}

// pair runs the cache and its model side by side.
type pair struct {
	cache *Cache
	model *model
	out   []modelRecord
	in    struct{ packets, bytes uint64 }
	sum   struct{ packets, bytes uint64 }
	next  int64
}

func newPair(t interface{ Fatal(...any) }, cfg Config, begin func(uint32) uint32) *pair {
	p := &pair{next: math.MinInt64}
	cfg.Gone = func(b *Batch) *Batch {
		for i := range b.Len() {
			g := b.At(i)
			if g.Verdict != 0 || g.Route != 0 || g.Rate != [2]uint64{} {
				t.Fatal("words of the rooms to come are not zero")
			}
			p.out = append(p.out, modelRecord{
				End: p.cache.unix(g.End()) / second, Reason: g.Reason(), Key: g.Key, Packets: g.Packets, Bytes: g.Bytes,
				First: g.First, Last: g.Last, Flags: g.TCPFlags, MinLen: g.MinLength, MaxLen: g.MaxLength,
				MinTTL: g.MinTTL, MaxTTL: g.MaxTTL, Aggregate: g.Mark&goneAggregate != 0,
			})
		}
		return b
	}
	c, err := New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	p.cache = c
	for i := range c.regions {
		r := &c.regions[i]
		r.sets = begin(c.regionSets)
		r.room = r.sets * ways / 4 * 3
	}
	p.model = newModel(cfg, begin)
	return p
}

func (p *pair) add(batch []packet.Info) {
	for i := range batch {
		p.in.packets++
		p.in.bytes += uint64(batch[i].Length)
	}
	p.model.Add(batch)
	p.cache.Add(batch)
}

// feed adds a packet with the ticks before it.
func (p *pair) feed(in packet.Info) {
	if in.Time >= p.next {
		p.tick(in.Time)
		p.next = (floorSecond(in.Time) + 1) * second
	}
	p.add([]packet.Info{in})
}

func (p *pair) tick(now int64) {
	p.model.Tick(now)
	p.cache.Tick(now)
}

// check compares what has left so far, and what is still there.
func (p *pair) check() error {
	p.cache.Flush()
	got := p.out
	p.out = nil
	slices.SortFunc(got, compareRecords)
	for i := range got {
		p.sum.packets += got[i].Packets
		p.sum.bytes += got[i].Bytes
	}
	if d := cmp.Diff(p.model.take(), got); d != "" {
		return fmt.Errorf("records differ (-model +cache):\n%s", d)
	}
	s := p.cache.Stats()
	if n := uint64(len(p.model.flows)); s.Entries != n {
		return fmt.Errorf("%d entries, the model has %d", s.Entries, n)
	}
	if s.Created != p.model.created || s.Expired != p.model.expired || s.Refused != p.model.refused || s.Backwards != p.model.backwards {
		return fmt.Errorf("created, expired, refused, backwards: %d %d %d %d; the model: %d %d %d %d",
			s.Created, s.Expired, s.Refused, s.Backwards, p.model.created, p.model.expired, p.model.refused, p.model.backwards)
	}
	packets, octets := p.sum.packets, p.sum.bytes
	p.cache.Entries(func(r *flow.Record) bool {
		packets += r.Packets
		octets += r.Bytes
		return true
	})
	if packets != p.in.packets || octets != p.in.bytes || s.Packets != p.in.packets || s.Bytes != p.in.bytes {
		return fmt.Errorf("in %+v; out and cached %d, %d; counted %d, %d", p.in, packets, octets, s.Packets, s.Bytes)
	}
	return nil
}

func drawTimeout(t *rapid.T, name string, of ...time.Duration) time.Duration {
	return rapid.SampledFrom(of).Draw(t, name)
}

// TestModel: without pressure, any timeouts, gaps of up to days.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := Config{
			Entries: rapid.SampledFrom([]int{4096, 5000, 20000}).Draw(t, "entries"),
			Idle:    drawTimeout(t, "idle", 0, time.Nanosecond, time.Second, 1500*time.Millisecond, 15*time.Second, 61*time.Second, 5*time.Minute, 3*time.Hour),
			Active:  drawTimeout(t, "active", 0, 3*time.Second, 60*time.Second, 30*time.Minute, 12345678*time.Microsecond),
			TCPEnd:  drawTimeout(t, "tcp-end", 0, 2*time.Second, 700*time.Millisecond, 20*time.Second),
			Key:     rapid.SampledFrom([]flow.KeyMask{flow.KeyCisco, flow.Key5Tuple}).Draw(t, "key"),
			Offline: true,
		}
		p := newPair(t, cfg, func(most uint32) uint32 { return most })
		defer p.cache.Close()
		g := newTraffic(rapid.Uint64().Draw(t, "seed"), rapid.IntRange(1, 300).Draw(t, "keys"))
		g.late = rapid.SampledFrom([]int{5, 1000}).Draw(t, "late")
		if rapid.Bool().Draw(t, "sparse") {
			g.gaps = append(g.gaps, 900*time.Millisecond, 7*time.Second)
		}
		gaps := []time.Duration{0, time.Minute, time.Hour}
		if cfg.Idle > 0 && cfg.Idle < time.Hour { // else the model takes its time
			gaps = append(gaps, 300*time.Hour)
		}
		for i := range rapid.IntRange(1, 3000).Draw(t, "packets") {
			p.feed(g.next())
			if i%500 == 499 {
				g.now += int64(rapid.SampledFrom(gaps).Draw(t, "gap"))
				if err := p.check(); err != nil {
					t.Fatal(err)
				}
			}
		}
		p.tick(g.now + int64(rapid.SampledFrom([]time.Duration{0, time.Second, 20 * time.Second, time.Hour}).Draw(t, "end")))
		if err := p.check(); err != nil {
			t.Fatal(err)
		}
		p.model.Drain(flow.EndForced)
		p.cache.Drain(flow.EndForced)
		if err := p.check(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestModelPressure: tables that are too small, offline and live, growing or
// not. Timeouts are such that a stamp can say them.
func TestModelPressure(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := Config{
			Entries: rapid.SampledFrom([]int{1, 8, 40, 100, 512, 1024, 2048}).Draw(t, "entries"),
			Idle:    drawTimeout(t, "idle", time.Second, 5*time.Second, 15*time.Second, 58*time.Second),
			Active:  drawTimeout(t, "active", 0, 20*time.Second, 30*time.Minute),
			TCPEnd:  drawTimeout(t, "tcp-end", 0, 2*time.Second),
			Seed:    rapid.Uint64().Draw(t, "hash seed"),
			Offline: rapid.Bool().Draw(t, "offline"),
		}
		halvings := rapid.IntRange(0, 5).Draw(t, "halvings")
		p := newPair(t, cfg, func(n uint32) uint32 {
			for i := 0; i < halvings && n%2 == 0; i++ {
				n /= 2
			}
			return n
		})
		defer p.cache.Close()
		keys := cfg.Entries * rapid.IntRange(1, 4).Draw(t, "load")
		g := newTraffic(rapid.Uint64().Draw(t, "seed"), max(keys, 20))
		g.gaps = append(g.gaps, rapid.SampledFrom([]time.Duration{0, 10 * time.Millisecond, 300 * time.Millisecond}).Draw(t, "pace"))
		if cfg.Entries > 500 {
			g.gaps = []time.Duration{0, time.Millisecond}
		}
		batch := make([]packet.Info, 0, 400)
		flush := func() { p.add(batch); batch = batch[:0] }
		for i := range rapid.IntRange(1, 2000).Draw(t, "packets") {
			in := g.next()
			if g.rng.IntN(3) > 0 { // many keys of one packet
				in.Key.Src[15], in.Key.Src[14] = byte(g.rng.IntN(256)), byte(g.rng.IntN(256))
			}
			if in.Time >= p.next || len(batch) == cap(batch) {
				flush()
			}
			if in.Time >= p.next {
				p.tick(in.Time)
				p.next = (floorSecond(in.Time) + 1) * second
			}
			batch = append(batch, in)
			if i%200 == 199 {
				flush()
				if err := p.check(); err != nil {
					t.Fatal(err)
				}
			}
		}
		flush()
		p.tick(g.now + 10*second)
		if err := p.check(); err != nil {
			t.Fatal(err)
		}
		p.model.Drain(flow.EndForced)
		p.cache.Drain(flow.EndForced)
		if err := p.check(); err != nil {
			t.Fatal(err)
		}
	})
}

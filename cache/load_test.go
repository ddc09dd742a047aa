package cache

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"weir/flow"
	"weir/packet"
)

// numbered is the key of flow number n, spread over IPv4 and IPv6.
func numbered(n uint64) (k flow.Key) {
	if n%5 == 0 {
		k.Src, k.Dst = flow.Addr{0x20, 1}, flow.Addr{0x20, 2}
		binary.BigEndian.PutUint64(k.Src[8:], n)
		k.VLAN = flow.KeyIPv6
	} else {
		k.Src, k.Dst = flow.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), flow.AddrFrom4([4]byte{192, 0, 2, byte(n >> 24)})
	}
	k.Proto, k.DstPort = 17, 53
	return k
}

func open(t testing.TB, cfg Config, sink flow.Sink) *Cache {
	c, err := New(cfg, sink)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// Under churn at 70 % of the table fewer than one new flow in a thousand is
// refused, live, without ageing's help.
func TestRefusals(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Entries, cfg.Idle, cfg.Active, cfg.Seed = 1<<17, 10*time.Second, 0, 42
	c := open(t, cfg, &total{})
	for i := range c.regions {
		c.regions[i].staged, c.regions[i].urgent = math.MaxUint32, math.MaxUint32
	}
	// A flow has two packets and lives ten seconds after: a tenth of 70 % is
	// new every second.
	rate := uint64(float64(len(c.entries)) * 0.7 / 9.95)
	now := int64(1_700_000_000 * second)
	batch := make([]packet.Info, 0, 2*rate)
	for s := range uint64(40) {
		batch = batch[:0]
		for i := range rate {
			in := packet.Info{Key: numbered(s*rate + i), Length: 100, Time: now + int64(i)*second/int64(rate)}
			batch = append(batch, in, in)
		}
		c.Add(batch)
		now += second
		for i := range c.regions {
			c.regions[i].refused = 0 // no ageing: let it be as full as it is
		}
		c.Tick(now)
	}
	s := c.Stats()
	load := float64(s.Entries) / float64(s.Capacity)
	t.Logf("load %.3f: %d refused of %d", load, s.Refused, s.Created+s.Refused)
	if load < 0.68 || load > 0.72 {
		t.Errorf("load %.3f, want about 0.70", load)
	}
	if s.Refused*1000 > s.Created {
		t.Errorf("%d refused of %d: more than 0.1 %%", s.Refused, s.Created)
	}
}

// Live, far too many flows: memory stays, everything is counted, aggregates and
// catch-alls included; and a tenth of the flows, which go on, keep their
// entries.
func TestFloodLive(t *testing.T) {
	sink := &total{ids: map[uint64]bool{}}
	var aggregates, catchAlls, steady uint64
	sink.each = func(r *flow.Record) {
		switch {
		case r.Has&flow.HasSrc != 0:
			if r.Packets == 30 {
				steady++
			}
		case r.Has&flow.HasDst != 0:
			aggregates++
			if r.EndReason != flow.EndResource || r.DstMask != 24 && r.DstMask != 64 {
				t.Errorf("aggregate %+v", r)
			}
		default:
			catchAlls++
			if r.Has&flow.HasInput == 0 && r.Input != 0 {
				t.Errorf("catch-all %+v", r)
			}
		}
	}
	cfg := DefaultConfig()
	cfg.Entries = 1 << 13
	c := open(t, cfg, sink)
	rng := rand.New(rand.NewPCG(3, 4))
	now := int64(1_700_000_000 * second)
	var packets, octets uint64
	for s := range 30 {
		for i := range 40000 {
			if s < 3 && i%20 != 0 {
				continue // the flood begins later
			}
			in := packet.Info{Key: numbered(rng.Uint64()), Length: 40, Time: now + int64(i)*second/40000, TTL: 64}
			in.Key.Dst[13] = byte(rng.Uint32()) // many destination nets
			in.Key.Dst[14] = byte(rng.Uint32())
			in.Key.Input = rng.Uint32N(100)
			if i%20 == 0 {
				in.Key = numbered(uint64(i / 20)) // those that go on
			}
			packets++
			octets += 40
			c.Add([]packet.Info{in})
		}
		now += second
		c.Tick(now)
	}
	c.Drain(flow.EndForced)
	s := c.Stats()
	if sink.packets != packets || sink.bytes != octets {
		t.Errorf("records have %d packets and %d octets of %d and %d", sink.packets, sink.bytes, packets, octets)
	}
	if uint64(len(sink.ids)) != sink.records || s.Records != sink.records {
		t.Errorf("%d records, %d flow ids, %d counted", sink.records, len(sink.ids), s.Records)
	}
	if s.Refused == 0 || aggregates == 0 || catchAlls == 0 || s.Peak > s.Capacity || s.Entries != 0 || s.Aggregates != 0 {
		t.Errorf("%d aggregates, %d catch-alls, %+v", aggregates, catchAlls, s)
	}
	if steady < 1900 {
		t.Errorf("of 2000 flows that went on, %d kept their entry through the flood", steady)
	}
}

// What an expiry costs does not depend on how far apart packets are: of
// decades of sparse packets, as of a minute of dense ones, the ticks look at
// little more than what is due.
func TestGapsCostNothing(t *testing.T) {
	const packets = 10000
	work := func(span time.Duration, idle, active, end time.Duration) (pages uint64) {
		sink := &total{}
		c := open(t, Config{Idle: idle, Active: active, TCPEnd: end, Offline: true}, sink)
		now := int64(0)
		for i := range uint64(packets) {
			now += int64(span) / packets
			c.Tick(now)
			in := packet.Info{Key: numbered(i), Length: 40, Time: now}
			if i%10 == 0 {
				in.Key.Proto, in.TCPFlags = flow.ProtoTCP, flow.FIN
			}
			c.Add([]packet.Info{in})
		}
		c.Drain(flow.EndForced)
		if sink.packets != packets {
			t.Fatalf("%d packets of %d", sink.packets, packets)
		}
		return c.swept
	}
	const year = 365 * 24 * time.Hour
	for _, span := range []time.Duration{time.Minute, time.Hour, year, 60 * year} {
		for _, c := range [][3]time.Duration{
			{15 * time.Second, 30 * time.Minute, 2 * time.Second},
			{0, 30 * time.Minute, 0},
			{0, 0, 2 * time.Second},
			{0, 0, 0},
			{24 * time.Hour, time.Minute, 2 * time.Second},
		} {
			n := work(span, c[0], c[1], c[2])
			t.Logf("%v, timeouts %v: %d pages swept", span, c, n)
			if n > 4*packets {
				t.Errorf("%v, timeouts %v: %d pages swept for %d packets", span, c, n, packets)
			}
		}
	}
}

// No timer is more than a second late, whatever the other traffic does.
func TestLateness(t *testing.T) {
	cfg := Config{Entries: 1 << 14, Idle: 7300 * time.Millisecond, Active: 31 * time.Second, TCPEnd: 2 * time.Second, Offline: true}
	var c *Cache
	counts := map[flow.EndReason]int{}
	cfg.Gone = func(b *Batch) *Batch {
		for i := range b.Len() {
			g := b.At(i)
			end := c.unix(g.End())
			var due int64
			switch g.Reason() {
			case flow.EndIdle:
				due = g.Last + int64(cfg.Idle)
			case flow.EndActive:
				due = g.First + int64(cfg.Active)
			case flow.EndDetected: // each flow's last packet has FIN
				due = g.Last + int64(cfg.TCPEnd)
			default:
				t.Errorf("ended for %v", g.Reason())
			}
			counts[g.Reason()]++
			if late := end - due; late < 0 || late >= second {
				t.Errorf("%v: due at %d, ended at %d: %v late", g.Reason(), due, end, time.Duration(late))
			}
		}
		return b
	}
	c = open(t, cfg, nil)
	rng := rand.New(rand.NewPCG(9, 9))
	now := int64(1_700_000_000 * second)
	for i := range 200000 {
		now += rng.Int64N(2 * int64(time.Millisecond))
		c.Tick(now)
		in := packet.Info{Key: numbered(uint64(i)), Length: 40, Time: now}
		switch {
		case i%3 == 0:
			in.Key = numbered(uint64(rng.IntN(40))) // these go on
		case i%7 == 0:
			in.Key.Proto, in.TCPFlags = 6, flow.FIN
		}
		c.Add([]packet.Info{in})
		if i == 150000 {
			now += 3600 * second
		}
	}
	c.Tick(now + 100*second)
	c.Flush()
	for _, why := range []flow.EndReason{flow.EndIdle, flow.EndActive, flow.EndDetected} {
		if counts[why] == 0 {
			t.Errorf("no flow ended for %v", why)
		}
	}
	if s := c.Stats(); s.Entries != 0 {
		t.Errorf("%d entries left long after", s.Entries)
	}
}

// A clock that is set back does not stop the timers.
func TestRestart(t *testing.T) {
	sink := &total{}
	c := open(t, DefaultConfig(), sink)
	now := int64(1_700_000_000 * second)
	c.Add([]packet.Info{{Key: numbered(1), Length: 40, Time: now}})
	now -= 3600 * second
	c.Restart(flow.EndForced, now)
	c.Add([]packet.Info{{Key: numbered(2), Length: 40, Time: now}})
	c.Tick(now + 16*second)
	if sink.records != 2 || sink.byReason[flow.EndForced] != 1 || sink.byReason[flow.EndIdle] != 1 {
		t.Errorf("%+v, want one forced and one idle", sink)
	}
}

// Steady state allocates nothing: hits, new flows, expiry, eviction, ageing,
// aggregates, records.
func TestAllocations(t *testing.T) {
	for _, offline := range []bool{true, false} {
		cfg := DefaultConfig()
		cfg.Entries, cfg.Offline, cfg.Idle = 1<<12, offline, 3*time.Second
		c := open(t, cfg, &total{})
		rng := rand.New(rand.NewPCG(5, 6))
		now := int64(1_700_000_000 * second)
		batch := make([]packet.Info, 1000)
		n := uint64(0)
		round := func() {
			for i := range batch {
				n++
				now += second / 2000
				batch[i] = packet.Info{Key: numbered(n), Length: 100, Time: now}
				if i%2 == 0 {
					batch[i].Key = numbered(uint64(rng.IntN(500)))
				}
			}
			c.Add(batch)
			c.Tick(now)
		}
		for range 20 {
			round()
		}
		if a := testing.AllocsPerRun(50, round); a != 0 {
			t.Errorf("offline %v: %v allocations for 1000 packets, want 0", offline, a)
		}
		if s := c.Stats(); offline && s.Expired[flow.EndResource]+s.Expired[flow.EndIdle] == 0 {
			t.Errorf("nothing was tried: %+v", s)
		}
	}
}

// Whatever the times, nothing panics and nothing is lost.
func FuzzTimes(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 0, 1, 0x80, 0, 0, 0, 0, 0, 0, 0, 2, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 3})
	f.Add([]byte{0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2})
	f.Add([]byte{0x40, 0, 0, 0, 0, 0, 0, 0, 4, 0x17, 0x97, 0x9c, 0xfe, 0x36, 0x2a, 0, 0, 5})
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) > 9*200 {
			return
		}
		sink := &total{}
		c := open(t, Config{Entries: 64, Idle: 15 * time.Second, Active: time.Minute, TCPEnd: 2 * time.Second, Offline: len(in)%2 == 0}, sink)
		var packets uint64
		for ; len(in) >= 9; in = in[9:] {
			at := int64(binary.BigEndian.Uint64(in))
			if in[8]&1 != 0 {
				c.Tick(at)
			}
			k := numbered(uint64(in[8] & 0x1f))
			k.Proto = flow.ProtoTCP
			c.Add([]packet.Info{{Key: k, Length: math.MaxUint32, Time: at, TCPFlags: in[8] >> 5}})
			packets++
		}
		c.Drain(flow.EndForced)
		if sink.packets != packets || sink.bytes != packets*math.MaxUint32 {
			t.Fatalf("%d packets of %d", sink.packets, packets)
		}
		c.Close()
	})
}

// BenchmarkAdd: hits in a working set of so many flows, and a stream of new
// ones; the records go nowhere.
func BenchmarkAdd(b *testing.B) {
	for _, w := range []struct {
		name  string
		flows uint64
	}{{"flows=1", 1}, {"flows=4k", 4 << 10}, {"flows=64k", 64 << 10}, {"flows=512k", 512 << 10}, {"new", 0}} {
		b.Run(w.name, func(b *testing.B) {
			cfg := DefaultConfig()
			cfg.Offline = true
			c := open(b, cfg, &total{})
			rng := rand.New(rand.NewPCG(1, 1))
			const n = 1 << 20
			batch := make([]packet.Info, n)
			now := int64(1_700_000_000 * second)
			fill := func(round uint64) {
				for i := range batch {
					k := numbered(round*n + uint64(i))
					if w.flows > 0 {
						k = numbered(rng.Uint64N(w.flows))
					}
					batch[i] = packet.Info{Key: k, Length: 100, Time: now + int64(i)}
				}
			}
			fill(0)
			c.Add(batch)
			packets := 0
			for round := uint64(1); b.Loop(); round++ {
				b.StopTimer()
				now += second
				fill(round)
				b.StartTimer()
				for rest := batch; len(rest) > 0; rest = rest[512:] {
					c.Add(rest[:512])
				}
				c.Tick(now)
				packets += n
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(packets), "ns/packet")
		})
	}
}

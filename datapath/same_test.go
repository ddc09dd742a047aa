package datapath

import (
	"cmp"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"weir/bpf"
	"weir/cache"
	"weir/flow"
	"weir/packet"
)

// Packets and ticks that are the same give the same records in both engines,
// while nothing is crowded: keys, counters, times, flags, reasons, and the tick
// at which each leaves.
func TestSameAsTheCache(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		timeout := func(name string) time.Duration {
			return time.Duration(rapid.SampledFrom([]int{0, 1, 2, 3, 5, 9, 20}).Draw(t, name)) * time.Second
		}
		cfg := cache.Config{Entries: 4096, Idle: timeout("idle"), Active: timeout("active"), TCPEnd: timeout("tcp end"), Boot: 7}
		var want, got []flow.Record
		into := func(to *[]flow.Record) flow.Sink {
			return flow.SinkFunc(func(b []flow.Record) error { *to = append(*to, b...); return nil })
		}
		c, err := cache.New(cfg, into(&want))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		w := newTwin(512, 8, 1)
		now := 1000 * second
		w.now.Store(now)
		same := func(mono uint64) int64 { return int64(mono) }
		s, err := NewSweeper(SweepConfig{Idle: cfg.Idle, Active: cfg.Active, TCPEnd: cfg.TCPEnd, Wall: same}, w, into(&got))
		if err != nil {
			t.Fatal(err)
		}
		compare := func(what string) {
			t.Helper()
			if a, b := sorted(want), sorted(got); !slices.EqualFunc(a, b, sameRecord) {
				t.Fatalf("%s at %d:\ncache\n%+v\nkernel's table\n%+v", what, now/second, a, b)
			}
			want, got = want[:0], got[:0]
		}
		c.Tick(int64(now))
		if err := s.Tick(now); err != nil {
			t.Fatal(err)
		}
		for range rapid.IntRange(1, 150).Draw(t, "packets") {
			step := rapid.OneOf(rapid.Just(uint64(0)), rapid.Uint64Range(0, second), rapid.SampledFrom([]uint64{second, 3 * second, 1, 9*second + 1})).Draw(t, "step")
			for to := now + step; now < to; {
				now = min(to, (now/second+1)*second)
				if now%second == 0 {
					w.now.Store(now)
					c.Tick(int64(now))
					if err := s.Tick(now); err != nil {
						t.Fatal(err)
					}
					compare("tick")
				}
			}
			w.now.Store(now)
			k := numbered(rapid.Uint64Range(0, 12).Draw(t, "flow"))
			in := packet.Info{Key: k, Time: int64(now), Length: rapid.Uint32Range(20, 70000).Draw(t, "length"), TTL: rapid.Byte().Draw(t, "ttl")}
			if k.Proto == flow.ProtoTCP {
				in.TCPFlags = rapid.SampledFrom([]uint8{flow.SYN, flow.ACK, flow.ACK, flow.ACK | flow.PSH, flow.FIN | flow.ACK, flow.RST}).Draw(t, "flags")
			}
			w.cpus[0].packet(&frame{key: in.Key, length: in.Length, flags: in.TCPFlags, ttl: in.TTL})
			c.Add([]packet.Info{in})
		}
		c.Drain(flow.EndForced)
		if err := s.DrainAll(flow.EndForced); err != nil {
			t.Fatal(err)
		}
		compare("drain")
		a, b := c.Stats(), s.Stats()
		if a.Created != b.Created || a.Expired != b.Expired || a.Records != b.Records || b.Refused != 0 {
			t.Fatalf("cache %+v\nkernel's table %+v", a, b)
		}
	})
}

func sorted(r []flow.Record) []flow.Record {
	slices.SortFunc(r, func(a, b flow.Record) int {
		return cmp.Or(slices.Compare(a.Src[:], b.Src[:]), slices.Compare(a.Dst[:], b.Dst[:]), cmp.Compare(a.First, b.First), cmp.Compare(a.EndReason, b.EndReason))
	})
	return r
}

// sameRecord compares all but what says who sent it.
func sameRecord(a, b flow.Record) bool {
	a.FlowID, b.FlowID = 0, 0
	return a.Elements == nil && b.Elements == nil && equalRecord(a, b)
}

func equalRecord(a, b flow.Record) bool {
	return a.First == b.First && a.Last == b.Last && a.Packets == b.Packets && a.Bytes == b.Bytes && a.TCPFlags == b.TCPFlags &&
		a.EndReason == b.EndReason && a.Has == b.Has && a.Direction == b.Direction && a.Output == b.Output && keyOf(&a) == keyOf(&b) &&
		a.IPVersion == b.IPVersion && a.Sampling == b.Sampling && a.SrcPort == b.SrcPort && a.DstPort == b.DstPort
}

// What found no place leaves as the cache's aggregates do, for lack of
// resources, and what found none among those as a delta of its port's
// catch-all.
func TestAggregates(t *testing.T) {
	w := newTwin(1, 4, 1)
	w.port(2, 1)
	w.now.Store(1000 * second)
	c := newCollector()
	s := sweeper(t, SweepConfig{Idle: 3 * time.Second, Active: 10 * time.Second}, w, c)
	tick := func() {
		t.Helper()
		w.now.Add(second)
		if err := s.Tick(w.now.Load()); err != nil {
			t.Fatal(err)
		}
	}
	tick()
	var records []flow.Record
	c.each = func(r *flow.Record) { records = append(records, *r) }
	fill := func(sets []bpf.Set) { // nothing can be entered there
		for i := range sets {
			for way := range sets[i].Word {
				sets[i].Word[way] |= bpf.Dying
			}
		}
	}
	empty := func(sets []bpf.Set) {
		for i := range sets {
			sets[i].Word = [bpf.Ways]uint32{}
		}
	}
	fill(w.mem.Sets[:1])
	turned := []flow.Key{numbered(5001), numbered(5010)} // IPv4, IPv6
	for _, k := range turned {
		w.cpus[0].packet(&frame{key: k, length: 100, ttl: 9, output: 5, flags: flow.FIN})
	}
	tick()
	if st := s.Stats(); st.Refused != 2 || st.Aggregates != 2 || len(records) != 0 {
		t.Errorf("%d refused, %d aggregates, %d records; want 2, 2 and none", st.Refused, st.Aggregates, len(records))
	}
	for range 3 {
		tick()
	}
	if len(records) != 2 {
		t.Fatalf("%d aggregates", len(records))
	}
	for i, k := range turned {
		j := slices.IndexFunc(records, func(r flow.Record) bool { return keyOf(&r) == prefix(k) })
		if j < 0 {
			t.Fatalf("no aggregate of %+v in %+v", prefix(k), records)
		}
		r := &records[j]
		const no = flow.HasSrc | flow.HasSrcPort | flow.HasDstPort | flow.HasTCPFlags | flow.HasTOS | flow.HasICMP | flow.HasVLAN | flow.HasOutput
		if mask := []uint8{24, 64}[i]; r.DstMask != mask || r.Has&no != 0 || r.EndReason != flow.EndResource || r.Packets != 1 || r.Bytes != 100 {
			t.Errorf("%+v", r)
		}
	}
	if st := s.Stats(); st.Aggregates != 0 || st.Expired != [6]uint64{} || st.Created != 0 {
		t.Errorf("%+v: aggregates are no flows", st)
	}

	fill(w.mem.Sets[1:5])
	records = nil
	for range 2 {
		w.cpus[0].packet(&frame{key: turned[0], length: 100})
		for range 4 {
			tick()
		}
	}
	if len(records) != 2 {
		t.Fatalf("%d records of the catch-all, want 2: %+v", len(records), records)
	}
	for _, r := range records {
		if r.Has&(flow.HasSrc|flow.HasDst|flow.HasProto) != 0 || r.Input != 2 || r.EndReason != flow.EndResource || r.Packets != 1 || r.First != r.Last {
			t.Errorf("%+v", r)
		}
	}
	empty(w.mem.Sets[:5])
	if err := s.DrainAll(flow.EndForced); err != nil {
		t.Fatal(err)
	}
	if st := s.Stats(); st.Refused != 4 || c.records != 4 {
		t.Errorf("%d refused in %d records, want 4 and 4", st.Refused, c.records)
	}
}

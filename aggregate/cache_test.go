package aggregate

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"weir/flow"
)

const second = int64(time.Second)

// gather is a sink that keeps what it is given.
type gather struct{ records []flow.Record }

func (g *gather) WriteRecords(batch []flow.Record) error {
	g.records = flow.AppendCopies(g.records, batch)
	return nil
}

func mustNew(t interface{ Fatal(...any) }, cfg Config, sink flow.Sink) *Cache {
	c, err := New(cfg, sink)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func drawRecord(t *rapid.T, last int64) flow.Record {
	octet := func(name string, of ...byte) byte { return rapid.SampledFrom(of).Draw(t, name) }
	r := flow.Record{
		Src: flow.AddrFrom4([4]byte{10, octet("s1", 0, 1), octet("s2", 0, 128), 1}), Dst: flow.AddrFrom4([4]byte{192, 0, octet("d", 2, 3), 9}),
		SrcPort: uint16(octet("sport", 1, 2)), DstPort: 443, Proto: octet("proto", 1, 6, 17), TOS: octet("tos", 0, 8), Input: uint32(octet("in", 1, 2)), Output: 7,
		SrcAS: uint32(octet("as", 0, 5)), DstAS: 64500, SrcMask: octet("mask", 0, 9, 24), DstMask: 16, Sampling: uint32(octet("sampling", 1, 10)),
		Packets: uint64(octet("packets", 1, 200)), Bytes: 1000, First: last - second, Last: last, IPVersion: 4,
		Has: flow.HasFirst | flow.HasLast | flow.HasPackets | flow.HasBytes | flow.HasSrc | flow.HasDst | flow.HasProto | flow.HasSrcPort | flow.HasDstPort | flow.HasTOS | flow.HasSampling,
	}
	for _, f := range []flow.Field{flow.HasInput, flow.HasOutput, flow.HasSrcAS, flow.HasDstAS, flow.HasSrcMask, flow.HasDstMask} {
		if rapid.Bool().Draw(t, "known") {
			r.Has |= f
		}
	}
	if rapid.Bool().Draw(t, "six") {
		r.IPVersion, r.Src, r.Dst = 6, flow.Addr{0x20, 1, 0xd, 0xb8, 4: octet("s6", 0, 1), 15: 1}, flow.Addr{0x20, 2, 15: 2}
	}
	if rapid.IntRange(0, 4).Draw(t, "biflow") == 0 {
		r.Reverse = &flow.Reverse{Packets: 3, Bytes: 333, First: r.First, Last: r.Last}
	}
	return r
}

// text is what a scheme keeps of a record, in words: the obvious way to say it.
func text(s Scheme, m Masks, r *flow.Record) string {
	f := s.Fields()
	var b strings.Builder
	say := func(has flow.Field, name string, v any) {
		if f&r.Has&has != 0 {
			fmt.Fprintf(&b, "%s=%v ", name, v)
		}
	}
	prefixOf := func(a flow.Addr, mask uint8, known bool, min4, min6 uint8) string {
		least := min4
		if r.IPVersion == 6 {
			least = min6
		}
		if !known {
			mask = 0
		}
		p, err := a.Netip().Prefix(int(max(mask, least)))
		if err != nil {
			panic(err)
		}
		return p.String()
	}
	fmt.Fprintf(&b, "ipv%d 1:%d ", r.IPVersion, r.Sampling)
	if f&flow.HasSrcMask != 0 {
		say(flow.HasSrc, "src", prefixOf(r.Src, r.SrcMask, r.Has&flow.HasSrcMask != 0, m.Src4, m.Src6))
	} else {
		say(flow.HasSrc, "src", r.Src)
	}
	if f&flow.HasDstMask != 0 {
		say(flow.HasDst, "dst", prefixOf(r.Dst, r.DstMask, r.Has&flow.HasDstMask != 0, m.Dst4, m.Dst6))
	} else {
		say(flow.HasDst, "dst", r.Dst)
	}
	say(flow.HasSrcAS, "sas", r.SrcAS)
	say(flow.HasDstAS, "das", r.DstAS)
	say(flow.HasInput, "in", r.Input)
	say(flow.HasOutput, "out", r.Output)
	say(flow.HasProto, "proto", r.Proto)
	say(flow.HasSrcPort, "sport", r.SrcPort)
	say(flow.HasDstPort, "dport", r.DstPort)
	say(flow.HasTOS, "tos", r.TOS)
	return b.String()
}

// Aggregates are those of a map, and sums equal the main cache's, whatever the scheme,
// timers and size: what a full cache cannot hold leaves early.
func TestSumsEqualTheMainCaches(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := Config{
			Scheme:        Scheme(rapid.IntRange(1, int(schemes)-1).Draw(t, "scheme")),
			Entries:       rapid.SampledFrom([]int{1, 3, 1000}).Draw(t, "entries"),
			Idle:          rapid.SampledFrom([]time.Duration{0, 15 * time.Second}).Draw(t, "idle"),
			Active:        rapid.SampledFrom([]time.Duration{0, 40 * time.Second}).Draw(t, "active"),
			Masks:         Masks{Src4: rapid.SampledFrom([]uint8{0, 8, 17, 32}).Draw(t, "mask"), Dst4: 24, Src6: 40},
			FollowRecords: true,
		}
		out := new(gather)
		c := mustNew(t, cfg, out)
		type sum struct{ flows, packets, bytes uint64 }
		want, got := map[string]sum{}, map[string]sum{}
		var all sum
		last := 1_700_000_000 * second
		for range rapid.IntRange(1, 60).Draw(t, "batches") {
			var batch []flow.Record
			for range rapid.IntRange(0, 4).Draw(t, "records") {
				last += rapid.SampledFrom([]int64{0, second, 20 * second}).Draw(t, "step")
				batch = append(batch, drawRecord(t, last))
			}
			var parts []flow.Record
			for i := range batch {
				parts = batch[i].AppendDirections(parts)
			}
			for i := range parts {
				k := text(cfg.Scheme, cfg.Masks, &parts[i])
				s := want[k]
				want[k] = sum{s.flows + 1, s.packets + parts[i].Packets, s.bytes + parts[i].Bytes}
				all = sum{all.flows + 1, all.packets + parts[i].Packets, all.bytes + parts[i].Bytes}
			}
			if err := c.WriteRecords(batch); err != nil {
				t.Fatal(err)
			}
			s := c.Stats()
			if s.Entries > cfg.Entries {
				t.Fatalf("%d entries, want at most %d", s.Entries, cfg.Entries)
			}
			if s.Added != (Count{s.Held.Records + s.Left.Records, s.Held.Packets + s.Left.Packets, s.Held.Bytes + s.Left.Bytes}) {
				t.Fatalf("added is not held and left: %+v", s)
			}
			var held sum
			for _, r := range c.Entries() {
				held = sum{held.flows + r.Flows, held.packets + r.Packets, held.bytes + r.Bytes}
			}
			if held != (sum{s.Held.Records, s.Held.Packets, s.Held.Bytes}) {
				t.Fatalf("entries hold %+v, counted %+v", held, s.Held)
			}
		}
		if err := c.Drain(flow.EndForced); err != nil {
			t.Fatal(err)
		}
		for i := range out.records {
			r := &out.records[i]
			k := text(cfg.Scheme, Masks{}, r)
			s := got[k]
			got[k] = sum{s.flows + r.Flows, s.packets + r.Packets, s.bytes + r.Bytes}
			if r.Last < r.First || r.Has&flow.HasFlows == 0 || len(r.Elements) == 0 {
				t.Fatalf("%+v", r)
			}
		}
		for k, w := range want {
			if got[k] != w {
				t.Fatalf("%v %s: %+v, want %+v", cfg.Scheme, k, got[k], w)
			}
		}
		if len(got) != len(want) {
			t.Fatalf("%d keys, want %d", len(got), len(want))
		}
		if s := c.Stats(); s.Entries != 0 || s.Left != (Count{all.flows, all.packets, all.bytes}) || s.Held != (Count{}) {
			t.Fatalf("at the end %+v, came %+v", s, all)
		}
	})
}

func TestTimers(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	out := new(gather)
	c := mustNew(t, Config{Scheme: ProtocolPort, Entries: 2, Idle: 15 * time.Second, Active: 40 * time.Second, Now: func() time.Time { return now }}, out)
	give := func(port uint16) {
		t.Helper()
		r := flow.Record{Proto: 6, DstPort: port, Packets: 1, Bytes: 100, Has: flow.HasProto | flow.HasDstPort | flow.HasPackets | flow.HasBytes}
		if err := c.WriteRecords([]flow.Record{r}); err != nil {
			t.Fatal(err)
		}
	}
	left := func(want string) {
		t.Helper()
		if err := c.Tick(now.UnixNano()); err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, r := range out.records {
			got += fmt.Sprintf("%d:%v:%d ", r.DstPort, r.EndReason, r.Flows)
		}
		if out.records = nil; strings.TrimSpace(got) != want {
			t.Errorf("at %v left %q, want %q", now.Unix(), got, want)
		}
	}
	give(80)
	give(443)
	now = now.Add(14 * time.Second)
	left("")
	give(80)
	now = now.Add(time.Second)
	left("443:idle:1")
	now = now.Add(13 * time.Second)
	give(80)
	left("")
	now = now.Add(12 * time.Second)
	left("80:active:3") // however much comes
	give(1)
	give(2)
	give(1)
	give(3) // no room: 2 has waited for longest
	left("2:resources:1")
	if err := c.Drain(flow.EndForced); err != nil {
		t.Fatal(err)
	}
	left("1:forced:2 3:forced:1")
}

func TestPrefix(t *testing.T) {
	six := flow.Addr{0x20, 1, 0xd, 0xb8, 0xff, 0xff, 15: 1}
	for _, c := range []struct {
		a             flow.Addr
		bits, version uint8
		want          string
	}{
		{flow.AddrFrom4([4]byte{10, 255, 255, 255}), 9, 4, "10.128.0.0/9"},
		{flow.AddrFrom4([4]byte{10, 1, 2, 3}), 0, 4, "0.0.0.0/0"},
		{flow.AddrFrom4([4]byte{10, 1, 2, 3}), 99, 4, "10.1.2.3/32"},
		{six, 33, 6, "2001:db8:8000::/33"},
		{six, 0, 6, "::/0"},
		{six, 200, 6, "2001:db8:ffff::1/128"},
	} {
		a, bits := prefix(c.a, c.bits, c.version)
		if got := fmt.Sprintf("%v/%d", a, bits); got != c.want {
			t.Errorf("%v/%d is %s, want %s", c.a, c.bits, got, c.want)
		}
	}
}

func TestSchemes(t *testing.T) {
	if got := Names(); len(got) != 14 || !slices.Contains(got, "prefix-port") {
		t.Errorf("schemes %v", got)
	}
	for s := AS; s < schemes; s++ {
		if got, err := ParseScheme(s.String()); err != nil || got != s {
			t.Errorf("%v is read as %v, %v", s, got, err)
		}
	}
	for _, bad := range []Config{{}, {Scheme: schemes}, {Scheme: AS, Entries: -1}, {Scheme: AS, Idle: -1}, {Scheme: AS, Masks: Masks{Dst4: 33}}} {
		if _, err := New(bad, new(gather)); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
}

// What a sink refuses is counted, and ends the giver's work.
func TestSinkFails(t *testing.T) {
	bad := errors.New("bad")
	c := mustNew(t, Config{Scheme: AS, FollowRecords: true}, flow.SinkFunc(func([]flow.Record) error { return bad }))
	c.WriteRecords([]flow.Record{{Packets: 2, Bytes: 200, Has: flow.HasPackets | flow.HasBytes}})
	if err := c.Drain(flow.EndForced); err != bad {
		t.Errorf("error %v", err)
	}
	if s := c.Stats(); s.Lost != (Count{1, 2, 200}) || s.Held != (Count{}) {
		t.Errorf("%+v", s)
	}
	if l := c.Losses(); len(l) != 1 || l[0].Packets != 2 {
		t.Errorf("%+v", l)
	}
	if err := c.WriteRecords(nil); err != bad {
		t.Errorf("and then %v", err)
	}
}

func TestAllocations(t *testing.T) {
	c := mustNew(t, Config{Scheme: PrefixPort, Entries: 64, FollowRecords: true}, flow.SinkFunc(func([]flow.Record) error { return nil }))
	records := make([]flow.Record, 256)
	last := 1_700_000_000 * second
	round := func() {
		for i := range records {
			records[i] = flow.Record{
				Src: flow.AddrFrom4([4]byte{10, 0, 0, byte(i)}), DstPort: uint16(i), Proto: 6, Packets: 1, Bytes: 40, First: last, Last: last, IPVersion: 4,
				Has: flow.HasSrc | flow.HasDstPort | flow.HasProto | flow.HasPackets | flow.HasBytes | flow.HasFirst | flow.HasLast,
			}
		}
		last += second
		c.WriteRecords(records)
	}
	for range 10 {
		round()
	}
	if n := testing.AllocsPerRun(50, round); n > 1 { // the map may grow anew
		t.Errorf("%v allocations for 256 records", n)
	}
}

func BenchmarkAggregate(b *testing.B) {
	c := mustNew(b, Config{Scheme: Prefix, Masks: Masks{Src4: 24, Dst4: 24}, FollowRecords: true}, flow.SinkFunc(func([]flow.Record) error { return nil }))
	records := make([]flow.Record, 256)
	for i := range records {
		records[i] = flow.Record{
			Src: flow.AddrFrom4([4]byte{10, byte(i), byte(i * 7), 1}), Dst: flow.AddrFrom4([4]byte{192, 0, byte(i), 1}), Packets: 1, Bytes: 40, First: 1, Last: 2, IPVersion: 4,
			Has: flow.HasSrc | flow.HasDst | flow.HasPackets | flow.HasBytes | flow.HasFirst | flow.HasLast,
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		c.WriteRecords(records)
	}
	b.ReportMetric(float64(b.N*len(records))/b.Elapsed().Seconds(), "records/s")
}

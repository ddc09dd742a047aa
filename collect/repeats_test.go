package collect

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"

	"weir/export"
	"weir/flow"
	"weir/wire"
)

// metered is the n-th record of a weir at an address.
func metered(from byte, n uint64) flow.Record {
	now := time.Now().UnixNano()
	return flow.Record{
		Src: flow.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), Dst: flow.AddrFrom4([4]byte{192, 0, 2, from}),
		Exporter: flow.AddrFrom4([4]byte{127, 0, 0, from}), Domain: 1, Version: flow.VersionIPFIX, Received: now,
		Proto: flow.ProtoTCP, SrcPort: uint16(n), DstPort: 443, Packets: n%7 + 1, Bytes: 64 * (n%7 + 1), First: now - 1e9, Last: now,
		FlowID: n, IPVersion: 4, EndReason: flow.EndIdle, Input: 2,
		Has: flow.HasSrc | flow.HasDst | flow.HasProto | flow.HasSrcPort | flow.HasDstPort | flow.HasPackets | flow.HasBytes | flow.HasInput |
			flow.HasFirst | flow.HasLast | flow.HasFlowID | flow.HasEndReason | flow.HasExporter | flow.HasDomain | flow.HasReceived,
	}
}

// template is the event of a template that has a flow id: weir's, or one that
// differs from it.
func template(t testing.TB, from byte, ours bool, action wire.Action) wire.TemplateEvent {
	t.Helper()
	r := metered(from, 0)
	l := wire.NewLayout(flow.VersionIPFIX, wire.ShapeOf(flow.VersionIPFIX, wire.Full, &r, false), 300)
	if !ours {
		l.Fields[0], l.Fields[1] = l.Fields[1], l.Fields[0]
	}
	b := wire.AppendSet(make([]byte, wire.HeaderIPFIXLen), wire.TemplateSet(flow.VersionIPFIX))
	b = wire.EndSet(l.AppendTemplate(b), wire.HeaderIPFIXLen)
	wire.PutHeaderIPFIX(b, wire.Stamp{}, 0, 1)
	var batch wire.Batch
	if _, err := wire.NewDecoder(wire.Options{}).Decode(&batch, wire.Source{Addr: r.Exporter}, 0, b); err != nil || len(batch.Templates) != 1 {
		t.Fatalf("%d templates: %v", len(batch.Templates), err)
	}
	e := batch.Templates[0]
	e.Action = action
	if e.Template.Ours() != ours {
		t.Fatalf("ours: %v", !ours)
	}
	return e
}

// passed drops from a batch and tells the flow ids that are left.
func passed(r *repeats, records ...flow.Record) (ids []uint64) {
	b := &wire.Batch{Records: append([]flow.Record{{}}, records...)} // the first is of an earlier burst
	r.drop(b, 1)
	for _, x := range b.Records[1:] {
		ids = append(ids, x.FlowID)
	}
	return ids
}

// What is dropped is what a list of everything says: it is among the last 8192
// of its exporter. Order and content of the rest stay.
func TestRepeatsTwin(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	r := newRepeats(4)
	const exporters = 3
	lists := map[byte][]uint64{}
	for from := range byte(exporters) {
		r.learn([]wire.TemplateEvent{template(t, from, true, wire.Added)}, 1)
	}
	dropped, after := 0, 0
	for range 600 {
		from := byte(rng.IntN(exporters))
		list := lists[from]
		var batch, want []flow.Record
		for range rng.IntN(200) {
			n := uint64(len(list))
			if n > 0 && rng.IntN(3) == 0 { // near, or about the depth, back
				back := uint64(rng.IntN(300)) + uint64(rng.IntN(2)*(windowDepth-150))
				n = list[max(0, int(n)-1-int(back))]
			}
			x := metered(from, n)
			x.First, x.Last, x.TCPFlags, x.Output, x.EndReason = rng.Int64(), rng.Int64(), uint16(rng.IntN(99)), rng.Uint32(), flow.EndReason(rng.IntN(5))
			batch = append(batch, x)
			again := false
			for _, have := range list[max(0, len(list)-windowDepth):] {
				again = again || have == n
			}
			if again {
				dropped++
				continue
			}
			if n < uint64(len(list)) {
				after++ // too long ago
			}
			list = append(list, n)
			want = append(want, x)
		}
		lists[from] = list
		b := &wire.Batch{Records: append([]flow.Record{{FlowID: 99}}, batch...)}
		r.drop(b, 1)
		if len(b.Records) != len(want)+1 || b.Records[0].FlowID != 99 {
			t.Fatalf("%d records left of %d; want %d", len(b.Records)-1, len(batch), len(want))
		}
		for i, x := range b.Records[1:] {
			if x.FlowID != want[i].FlowID || x.First != want[i].First {
				t.Fatalf("record %d is %d; want %d", i, x.FlowID, want[i].FlowID)
			}
		}
	}
	if n := r.records.Load(); n != uint64(dropped) || dropped < 1000 || after < 100 {
		t.Errorf("%d counted, %d dropped, %d came too late to be known", n, dropped, after)
	}
}

// Records that differ in anything that makes a record are not repeats; what the
// metering process may say otherwise the second time does not matter.
func TestRepeatsContent(t *testing.T) {
	for _, c := range []struct {
		what  string
		again bool
		edit  func(x *flow.Record)
	}{
		{"nothing", true, func(*flow.Record) {}},
		{"first", true, func(x *flow.Record) { x.First -= 6e7 }},
		{"last", true, func(x *flow.Record) { x.Last += 1e12 }},
		{"flags", true, func(x *flow.Record) { x.TCPFlags = 0x1f }},
		{"reason", true, func(x *flow.Record) { x.EndReason = flow.EndForced }},
		{"output", true, func(x *flow.Record) { x.Output = 9; x.Has |= flow.HasOutput }},
		{"receipt", true, func(x *flow.Record) { x.Received++ }},
		{"flow id", false, func(x *flow.Record) { x.FlowID++ }},
		{"no flow id", false, func(x *flow.Record) { x.Has &^= flow.HasFlowID }},
		{"packets", false, func(x *flow.Record) { x.Packets++ }},
		{"bytes", false, func(x *flow.Record) { x.Bytes++ }},
		{"source", false, func(x *flow.Record) { x.Src[15]++ }},
		{"destination", false, func(x *flow.Record) { x.Dst[0]++ }},
		{"source port", false, func(x *flow.Record) { x.SrcPort++ }},
		{"destination port", false, func(x *flow.Record) { x.DstPort++ }},
		{"protocol", false, func(x *flow.Record) { x.Proto++ }},
		{"tos", false, func(x *flow.Record) { x.TOS++ }},
		{"vlan", false, func(x *flow.Record) { x.VLAN++ }},
		{"input", false, func(x *flow.Record) { x.Input++ }},
		{"direction", false, func(x *flow.Record) { x.Direction++ }},
		{"icmp", false, func(x *flow.Record) { x.ICMPType++ }},
		{"domain", false, func(x *flow.Record) { x.Domain++ }},
		{"exporter", false, func(x *flow.Record) { x.Exporter[15]++ }},
		{"version", false, func(x *flow.Record) { x.Version-- }},
	} {
		r := newRepeats(4)
		r.learn([]wire.TemplateEvent{template(t, 1, true, wire.Added)}, 1)
		x := metered(1, 77)
		y := x
		c.edit(&y)
		if got := len(passed(r, x, y)) == 1; got != c.again {
			t.Errorf("%s differs: a repeat: %v; want %v", c.what, got, c.again)
		}
	}
}

// Who sends a flow id in other templates than ours may mean another thing by
// it: nothing of such an exporter is dropped, ever.
func TestRepeatsOfOthers(t *testing.T) {
	x := metered(1, 5)
	ours := template(t, 1, true, wire.Added)
	again, other := ours, template(t, 1, false, wire.Added)
	again.Action = wire.Refreshed
	gone := other
	gone.Action = wire.Withdrawn
	for _, c := range []struct {
		what   string
		events []wire.TemplateEvent
		drops  bool
	}{
		{"no template", nil, false},
		{"ours", []wire.TemplateEvent{ours}, true},
		{"ours, known from before", []wire.TemplateEvent{again}, true},
		{"another", []wire.TemplateEvent{other}, false},
		{"both", []wire.TemplateEvent{ours, other}, false},
		{"both, and ours again", []wire.TemplateEvent{other, ours, again}, false},
		{"another withdrawn", []wire.TemplateEvent{ours, gone}, true},
	} {
		r := newRepeats(4)
		r.learn(c.events, 1)
		if n := len(passed(r, x, x)); n != 2 && !c.drops || n != 1 && c.drops {
			t.Errorf("%s: %d of 2 passed", c.what, n)
		}
	}
	// A record that came before its exporter was known to be ours is known.
	r := newRepeats(4)
	first := passed(r, x, x)
	r.learn([]wire.TemplateEvent{ours}, 1)
	if len(first) != 2 || len(passed(r, x)) != 0 {
		t.Error("what came before the template is forgotten")
	}
}

// The memory is bounded: a window goes to another exporter when its own was
// silent for a minute, and not before.
func TestRepeatsBounded(t *testing.T) {
	r := newRepeats(2)
	at := func(from byte, n uint64, now int64) flow.Record {
		x := metered(from, n)
		x.Received = now * 1e9
		return x
	}
	for from := range byte(3) {
		r.learn([]wire.TemplateEvent{template(t, from, true, wire.Added)}, 1e9)
	}
	if len(r.windows) != 2 {
		t.Fatalf("%d windows; want 2", len(r.windows))
	}
	if n := len(passed(r, at(0, 1, 2), at(1, 1, 3), at(2, 1, 4), at(2, 1, 4), at(0, 1, 5), at(1, 1, 6))); n != 4 {
		t.Errorf("%d passed; want 4: the third exporter has no window", n)
	}
	r.learn([]wire.TemplateEvent{template(t, 2, true, wire.Refreshed)}, 65e9+1) // 0 is silent since 5
	if n := len(passed(r, at(2, 1, 66), at(1, 1, 66), at(2, 1, 66), at(0, 1, 66), at(0, 1, 66))); n != 3 || len(r.windows) != 2 {
		t.Errorf("%d passed, %d windows; want 3 and 2", n, len(r.windows))
	}
}

// A collector that takes over from another one knows what that one knew.
func TestRepeatsTakenOver(t *testing.T) {
	old, fresh := newRepeats(4), newRepeats(4)
	old.learn([]wire.TemplateEvent{template(t, 1, true, wire.Added)}, 1)
	passed(old, metered(1, 1))
	fresh.take(old)
	if len(passed(fresh, metered(1, 1))) != 0 || fresh.records.Load() != 1 || old.records.Load() != 0 {
		t.Error("the record is not known")
	}
}

// An exporter that dies with a batch on its way sends it again in its next
// life: the sink gets each record once, and the ledger tells of the others.
func TestRepeatedBatch(t *testing.T) {
	for _, form := range []string{"udp %s version=9&template=full", "udp %s version=10&template=full"} {
		var got memory
		c, _ := start(t, Options{Listen: []string{"udp://127.0.0.1:0"}, Sink: &got})
		memory := make([]uint64, export.MemoryWords)
		var to, query string
		fmt.Sscanf(fmt.Sprintf(form, c.Addrs()[0].(*net.UDPAddr)), "udp %s %s", &to, &query)
		d, err := export.ParseDestination("udp://" + to + "?" + query)
		if err != nil {
			t.Fatal(err)
		}
		boot := time.Now().Add(-time.Hour)
		life := func(lo, hi uint64, late int64) {
			e, err := export.New(export.Options{Destinations: []export.Destination{d}, Memory: memory, Boot: boot, Block: true})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error)
			go func() { done <- e.Run(ctx) }()
			var batch []flow.Record
			for n := lo; n < hi; n++ {
				x := metered(9, n)
				x.Last += late
				batch = append(batch, x)
			}
			for len(batch) > 0 {
				n := min(len(batch), 512)
				e.WriteRecords(batch[:n])
				e.Sync()
				batch = batch[n:]
			}
			cancel()
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
		life(0, 2048, 0)
		life(1536, 3000, 5e6)
		life(2560, 4000, 9e6)
		until(t, "all records", func() bool { return got.len() >= 4000 })
		until(t, "the repeats", func() bool { return lossOf(t, c, "repeated").Records == 512+440 })
		seen := map[uint64]bool{}
		var packets uint64
		for _, x := range got.records {
			seen[x.FlowID] = true
			packets += x.Packets
		}
		if len(seen) != 4000 || got.len() != 4000 {
			t.Errorf("%d records, %d of them different; want 4000", got.len(), len(seen))
		}
		want := flow.Loss{}
		for n := uint64(1536); n < 3000; n++ {
			if n < 2048 || n >= 2560 {
				want.Packets, want.Bytes = want.Packets+n%7+1, want.Bytes+64*(n%7+1)
			}
		}
		if l := lossOf(t, c, "repeated"); l.Packets != want.Packets || l.Bytes != want.Bytes || l.Datagrams != 0 {
			t.Errorf("told of %+v", l)
		}
		if l := lossOf(t, c, "sequence-gaps"); l.Records+l.Datagrams > 0 {
			t.Errorf("gaps: %+v", l)
		}
	}
}

// What access lists made of a flow comes through as it was said here, and such
// records are known again too.
func TestDroppedComesThrough(t *testing.T) {
	for _, version := range []string{"9", "10"} {
		var got memory
		c, _ := start(t, Options{Listen: []string{"udp://127.0.0.1:0"}, Sink: &got})
		d, err := export.ParseDestination("udp://" + c.Addrs()[0].String() + "?template=full&version=" + version)
		if err != nil {
			t.Fatal(err)
		}
		e, err := export.New(export.Options{Destinations: []export.Destination{d}, Block: true})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- e.Run(ctx) }()
		var sent []flow.Record
		for n := range uint64(600) {
			x := metered(7, n)
			x.ForwardingStatus, x.Rule, x.Has = 64, uint16(1+n%300), x.Has|flow.HasForwardingStatus
			if n%3 != 0 {
				x.Has |= flow.HasRule
			}
			if n%5 == 0 {
				x.ForwardingStatus, x.DroppedPackets, x.DroppedBytes, x.Has = 129, x.Packets, x.Bytes, x.Has|flow.HasDropped
			}
			x.Elements = x.AppendVerdict(nil)
			sent = append(sent, x)
		}
		e.WriteRecords(sent)
		e.Sync()
		e.WriteRecords(sent[:100])
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		until(t, "all records", func() bool { return got.len() >= len(sent) })
		until(t, "the repeats", func() bool { return lossOf(t, c, "repeated").Records == 100 })
		text := strings.NewReplacer(`,"ipVersion":4`, "", `{"ipVersion":4}`, "")
		dropped := 0
		for _, x := range got.records {
			want := &sent[x.FlowID]
			elements := string(x.Elements)
			if version == "9" { // times come twice
				elements = regexp.MustCompile(`"flow(Start|End)SysUpTime":\d+,?`).ReplaceAllString(elements, "")
			}
			if text.Replace(elements) != string(want.Elements) || x.Has&flow.HasForwardingStatus == 0 || x.ForwardingStatus != want.ForwardingStatus {
				t.Fatalf("version %s: %d %s, want %d %s", version, x.ForwardingStatus, x.Elements, want.ForwardingStatus, want.Elements)
			}
			if strings.Contains(elements, `"droppedPacketDeltaCount"`) {
				dropped++
			}
		}
		if got.len() != len(sent) || dropped != 120 {
			t.Errorf("version %s: %d records, %d tell what was dropped", version, got.len(), dropped)
		}
	}
}

// Nothing is allocated for a record.
func TestRepeatsAllocate(t *testing.T) {
	r := newRepeats(4)
	r.learn([]wire.TemplateEvent{template(t, 1, true, wire.Added)}, 1)
	b := &wire.Batch{}
	n := uint64(0)
	if got := testing.AllocsPerRun(100, func() {
		b.Records = b.Records[:0]
		for range 300 {
			b.Records = append(b.Records, metered(1, n))
			n += n % 2 // some come again
			n++
		}
		n -= 50
		r.drop(b, 0)
	}); got > 0 {
		t.Errorf("%v allocations", got)
	}
}

// What looking for repeats costs, in CPU time: records without a flow id, with
// one in order, and all of them repeats; beside what decoding them costs.
func BenchmarkRepeats(b *testing.B) {
	const most = 24 // records of a datagram
	r := metered(1, 0)
	l := wire.NewLayout(flow.VersionIPFIX, wire.ShapeOf(flow.VersionIPFIX, wire.Full, &r, false), 300)
	gram := wire.AppendSet(make([]byte, wire.HeaderIPFIXLen), wire.TemplateSet(flow.VersionIPFIX))
	gram = wire.EndSet(l.AppendTemplate(gram), wire.HeaderIPFIXLen)
	at := len(gram)
	gram = wire.AppendSet(gram, l.ID)
	for n := range uint64(most) {
		r := metered(1, n)
		gram = l.Append(gram, &r, 0, 0)
	}
	gram = wire.EndSet(gram, at)
	wire.PutHeaderIPFIX(gram, wire.Stamp{}, 0, 1)
	src := wire.Source{Addr: r.Exporter}
	for _, c := range []string{"decode only", "no flow id", "new", "again"} {
		b.Run(c, func(b *testing.B) {
			dec, batch, found := wire.NewDecoder(wire.Options{}), &wire.Batch{}, newRepeats(4)
			n, before := uint64(0), cpu()
			for b.Loop() {
				batch.Reset()
				if _, err := dec.Decode(batch, src, 1, gram); err != nil || len(batch.Records) != most {
					b.Fatal(err, len(batch.Records))
				}
				if c != "decode only" {
					found.learn(batch.Templates, 1)
					for i := range batch.Records {
						switch c {
						case "no flow id":
							batch.Records[i].Has &^= flow.HasFlowID
						case "new":
							batch.Records[i].FlowID += n
						}
					}
					found.drop(batch, 0)
				}
				n += most
			}
			b.ReportMetric(float64((cpu()-before).Nanoseconds())/float64(n), "cpu-ns/record")
		})
	}
}

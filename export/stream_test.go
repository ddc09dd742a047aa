package export

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"

	"weir/flow"
	"weir/wire"
)

const day0 = int64(1_700_000_000) * 1e9 // Unix ns

// wiretap is a stream whose datagrams are read by the decoder as they come.
// Everything that must hold of any datagram is checked there.
type wiretap struct {
	t interface {
		Fatalf(string, ...any)
		Helper()
	}
	*stream
	dec   *wire.Decoder
	batch wire.Batch

	records     []flow.Record
	options     []wire.OptionsRecord
	datagrams   int
	next        uint32 // the sequence number to come
	known       bool
	template    map[uint16]int // in which datagram it came last
	templates   int
	sum         sum
	given, lost sum
	check       func(b []byte, m wire.Message)
	keep        bool // records
}

func tap(t interface {
	Fatalf(string, ...any)
	Helper()
}, d Destination, follow bool,
) *wiretap {
	d = d.withDefaults()
	w := &wiretap{t: t, dec: wire.NewDecoder(wire.Options{}), template: map[uint16]int{}}
	w.stream = &stream{
		version: d.Version, domain: d.Domain, preset: d.Preset, refresh: uint64(d.RefreshPackets),
		follow: follow, payload: payloadOf(d.MTU, netip.IPv4Unspecified()), sampling: samplers{rate: 1},
		get:  func() *datagram { return &datagram{b: make([]byte, 0, 65536)} },
		free: func(*datagram) {},
		move: func(int64) {},
		emit: w.read,
		lose: func(_ reason, r *flow.Record) { w.lost.add(sum{1, 0, r.Packets, r.Bytes}) },
	}
	w.stream.begin(day0, day0)
	return w
}

func (w *wiretap) give(r flow.Record) {
	w.given.add(sum{records: 1, packets: r.Packets, octets: r.Bytes})
	w.stream.add(&r)
}

func (w *wiretap) read(g *datagram) {
	w.t.Helper()
	if len(g.b) > w.payload {
		w.t.Fatalf("datagram of %d octets; at most %d", len(g.b), w.payload)
	}
	w.datagrams++
	w.sum.add(g.sum)
	w.batch.Reset()
	src := wire.Source{Addr: flow.AddrFrom4([4]byte{127, 0, 0, 1}), Port: 4000}
	m, err := w.dec.Decode(&w.batch, src, w.now, g.b)
	if err != nil || m.Refused != 0 || m.Waiting != 0 {
		w.t.Fatalf("datagram %d: %+v: %v", w.datagrams, m, err)
	}
	if w.version != flow.VersionV1 && w.version != flow.VersionV7 && m.Domain != w.domain {
		w.t.Fatalf("domain %d; want %d", m.Domain, w.domain)
	}
	if w.known && m.Sequence != w.next && w.version != flow.VersionV1 {
		w.t.Fatalf("datagram %d: sequence %d; want %d", w.datagrams, m.Sequence, w.next)
	}
	w.known = true
	switch w.version {
	case flow.VersionV9:
		if int(m.Count) != m.Templates+m.Options+m.Records {
			w.t.Fatalf("count %d; holds %d templates, %d options, %d records", m.Count, m.Templates, m.Options, m.Records)
		}
		w.next = m.Sequence + 1
	case flow.VersionIPFIX:
		w.next = m.Sequence + uint32(m.Options+m.Records)
	default:
		if int(m.Count) != m.Records || m.Records > 30 {
			w.t.Fatalf("count %d, %d records", m.Count, m.Records)
		}
		w.next = m.Sequence + uint32(m.Records)
	}
	if w.version >= flow.VersionV9 {
		w.sets(g.b)
	}
	if w.version != flow.VersionIPFIX {
		w.times(g.b, m)
	}
	w.templates += m.Templates
	if w.keep {
		for _, r := range w.batch.Records {
			r.Elements = nil
			w.records = append(w.records, r)
		}
	}
	for _, o := range w.batch.Options {
		o.Scope, o.Fields = append([]byte(nil), o.Scope...), append([]byte(nil), o.Fields...)
		w.options = append(w.options, o)
	}
	if w.check != nil {
		w.check(g.b, m)
	}
}

// sets checks lengths and padding of all sets, and how far each data set is
// from its template.
func (w *wiretap) sets(b []byte) {
	w.t.Helper()
	at := w.header()
	for at < len(b) {
		id, n := binary.BigEndian.Uint16(b[at:]), int(binary.BigEndian.Uint16(b[at+2:]))
		if n < 8 || n%4 != 0 || at+n > len(b) {
			w.t.Fatalf("set %d of %d octets at %d of %d", id, n, at, len(b))
		}
		switch {
		case id == wire.TemplateSet(w.version) || id == wire.OptionsSet(w.version):
			w.template[binary.BigEndian.Uint16(b[at+4:])] = w.datagrams
		case id >= firstLayoutID:
			came, ok := w.template[id]
			if !ok || w.datagrams-came >= int(w.refresh) {
				w.t.Fatalf("datagram %d: data of template %d, sent in %d", w.datagrams, id, came)
			}
			size := 0
			for _, o := range w.order {
				if o.layout.ID == id {
					size = o.size
				}
			}
			if pad := (n - 4) % size; pad >= size || pad > 3 {
				w.t.Fatalf("padding of %d after records of %d", pad, size)
			} else {
				for _, c := range b[at+n-pad : at+n] {
					if c != 0 {
						w.t.Fatalf("padding is not zero")
					}
				}
			}
		}
		at += n
	}
	if at != len(b) {
		w.t.Fatalf("sets end at %d of %d", at, len(b))
	}
}

// times checks that First <= Last <= sysUptime, as unsigned numbers on the
// wire: those of v5 and its kin directly, those of v9 by what they decode to.
func (w *wiretap) times(b []byte, m wire.Message) {
	w.t.Helper()
	if w.version < flow.VersionV9 {
		for at := w.header(); at < len(b); at += w.fixed.size {
			first, last := binary.BigEndian.Uint32(b[at+24:]), binary.BigEndian.Uint32(b[at+28:])
			if first > last || last > m.Uptime {
				w.t.Fatalf("First %d, Last %d, sysUptime %d", first, last, m.Uptime)
			}
		}
		if ns := binary.BigEndian.Uint32(b[12:]); ns >= 1e9 {
			w.t.Fatalf("unix_nsecs %d", ns)
		}
	}
	boot := m.Exported - int64(m.Uptime)*1e6
	for i := range w.batch.Records {
		r := &w.batch.Records[i]
		if r.First > r.Last || r.Last > m.Exported {
			w.t.Fatalf("first %d, last %d, exported %d", r.First, r.Last, m.Exported)
		}
		if w.version == flow.VersionV9 && w.preset != wire.Compact {
			continue
		}
		if r.First < boot && r.Last-r.First <= wire.MaxSpan/2 {
			w.t.Fatalf("first %d is before boot %d", r.First, boot)
		}
	}
}

// plain is a record as the meter makes it.
func plain(rng *rand.Rand, last int64) flow.Record {
	r := flow.Record{
		Proto: flow.ProtoTCP, SrcPort: uint16(rng.Uint32()), DstPort: 443, TCPFlags: 0x1b, IPVersion: 4,
		Packets: 1 + uint64(rng.ExpFloat64()*40), Bytes: 40 + uint64(rng.ExpFloat64()*9000), Last: last, First: last - rng.Int64N(60e9),
		Has: flow.HasSrc | flow.HasDst | flow.HasSrcPort | flow.HasDstPort | flow.HasProto | flow.HasTOS | flow.HasTCPFlags |
			flow.HasPackets | flow.HasBytes | flow.HasFirst | flow.HasLast | flow.HasEndReason,
	}
	r.Src = flow.AddrFrom4([4]byte{10, byte(rng.Uint32()), byte(rng.Uint32()), byte(rng.Uint32())})
	r.Dst = flow.AddrFrom4([4]byte{192, 0, 2, byte(rng.Uint32())})
	switch n := rng.IntN(20); {
	case n < 4:
		r.Src, r.Dst, r.IPVersion = flow.Addr{0: 0x20, 1: 1, 15: byte(n)}, flow.Addr{0: 0x2a, 15: 9}, 6
	case n < 8:
		r.Proto, r.TCPFlags, r.Has = flow.ProtoUDP, 0, r.Has&^flow.HasTCPFlags
	case n < 9:
		r.Proto, r.SrcPort, r.DstPort, r.ICMPType, r.Has = flow.ProtoICMP, 0, 0x0800, 8, r.Has&^flow.HasTCPFlags|flow.HasICMP
		r.TCPFlags = 0
	case n < 11:
		r.VLAN, r.Has = 100, r.Has|flow.HasVLAN
	}
	return r
}

// forms are all versions and presets.
func forms() []Destination {
	list := []Destination{{Version: flow.VersionV1}, {Version: flow.VersionV5}, {Version: flow.VersionV7}}
	for _, v := range []uint8{flow.VersionV9, flow.VersionIPFIX} {
		for _, p := range []wire.Preset{wire.Compact, wire.Cisco, wire.Full} {
			list = append(list, Destination{Version: v, Preset: p})
		}
	}
	for i := range list {
		list[i].Domain = uint32(i + 7)
	}
	return list
}

func (d Destination) form() string {
	return fmt.Sprintf("v%d-%v", d.Version, d.withDefaults().Preset)
}

// Sequence numbers, counts, lengths, padding and templates are right over many
// thousand datagrams with options and refreshes between data, and across 2^32.
func TestSequenceLaw(t *testing.T) {
	for _, d := range forms() {
		t.Run(d.form(), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, uint64(d.Domain)))
			w := tap(t, d, false)
			w.seq = math.MaxUint32 - 5_000
			w.extra = func(o *optionsWriter) {
				o.names([]Interface{{Index: 1, Name: "eth0", Description: "first"}, {Index: 2, Name: "eth1"}})
				o.counters(o.pick(&meteringV9, &meteringIPFIX), 1, 1, 2, 3)
				o.counters(o.pick(&notSentV9, &notSentIPFIX), 1, 4, 5, 6)
			}
			most := 10_000
			if testing.Short() {
				most = 2_000
			}
			var records uint64
			for w.datagrams < most {
				w.now += rng.Int64N(3e6)
				r := plain(rng, w.now-rng.Int64N(2e9))
				if rng.IntN(500) == 0 {
					r.Sampling, r.Has = 100, r.Has|flow.HasSampling
				}
				w.give(r)
				switch rng.IntN(400) {
				case 0:
					w.flush()
				case 1:
					w.resend()
				case 2:
					w.tell()
				case 3:
					w.forget()
				}
			}
			w.flush()
			for _, s := range w.dec.Exporters() {
				records += s.Records
			}
			if got := w.sum; got.records+w.lost.records != w.given.records || got.packets+w.lost.packets != w.given.packets || got.octets+w.lost.octets != w.given.octets {
				t.Errorf("sent %+v and lost %+v of %+v", got, w.lost, w.given)
			}
			if records != w.sum.wire {
				t.Errorf("read %d records; sent %d", records, w.sum.wire)
			}
		})
	}
}

// No datagram is longer than the path carries, whatever the records, and what
// is sent says the same as what was given.
func TestNeverAboveMTU(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := rapid.SampledFrom(forms()).Draw(t, "form")
		d.MTU = rapid.IntRange(minMTU, 1500).Draw(t, "mtu")
		d.RefreshPackets = rapid.IntRange(1, 30).Draw(t, "refresh")
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		w := tap(t, d, false)
		for range rapid.IntRange(1, 600).Draw(t, "records") {
			r := plain(rng, w.now-rng.Int64N(1e9))
			r.Has |= flow.Field(rng.Uint64()) & (flow.HasInput | flow.HasOutput | flow.HasSrcAS | flow.HasDstAS | flow.HasNextHop | flow.HasBGPNextHop |
				flow.HasDirection | flow.HasFlowID | flow.HasForwardingStatus | flow.HasSrcMask | flow.HasDstMask) & flow.Field(rng.Uint64())
			if rng.IntN(9) == 0 {
				r.NextHop, r.BGPNextHop = flow.Addr{0: 0x20}, flow.Addr{0: 0x20}
			}
			if rng.IntN(30) == 0 {
				w.flush()
			}
			w.give(r)
		}
		w.flush()
		if w.sum.records+w.lost.records != w.given.records || w.pending != 0 {
			t.Fatalf("sent %d, lost %d, waiting %d of %d", w.sum.records, w.lost.records, w.pending, w.given.records)
		}
	})
}

// Counters beyond 32 bits arrive exactly, in v5 as several records.
func TestBigCounters(t *testing.T) {
	for _, d := range forms() {
		rng := rand.New(rand.NewPCG(2, 2))
		w := tap(t, d, false)
		w.keep = true
		for _, c := range [][2]uint64{{1 << 32, 5 << 32}, {3, 1<<32 - 1}, {3, 1 << 32}, {7<<32 + 5, 1<<43 + 1}, {1<<32 - 1, 1<<32 - 1}} {
			r := plain(rng, w.now)
			r.Src, r.Dst, r.IPVersion = flow.AddrFrom4([4]byte{1}), flow.AddrFrom4([4]byte{2}), 4
			r.Packets, r.Bytes = c[0], c[1]
			w.give(r)
		}
		w.flush()
		var packets, octets uint64
		for _, r := range w.records {
			packets += r.Packets
			octets += r.Bytes
		}
		if packets != w.given.packets || octets != w.given.octets {
			t.Errorf("%s: read %d packets, %d octets; given %d, %d", d.form(), packets, octets, w.given.packets, w.given.octets)
		}
	}
}

// IPv6 cannot go into v5: it is counted, with its packets and octets.
func TestV5LosesIPv6(t *testing.T) {
	w := tap(t, Destination{Version: flow.VersionV5}, false)
	six := flow.Record{Src: flow.Addr{0: 0x20}, Dst: flow.Addr{0: 0x20}, IPVersion: 6, Packets: 3, Bytes: 300, First: day0, Last: day0, Has: flow.HasFirst | flow.HasLast}
	w.give(six)
	six.Packets, six.Bytes = 1, 1<<45
	six.Src, six.Dst, six.IPVersion = flow.AddrFrom4([4]byte{1}), flow.AddrFrom4([4]byte{2}), 4
	w.give(six)
	w.flush()
	if w.datagrams != 0 || w.lost != (sum{records: 2, packets: 4, octets: 300 + 1<<45}) {
		t.Errorf("%d datagrams, lost %+v", w.datagrams, w.lost)
	}
}

// Times arrive to the millisecond, however long the exporter is up, and
// whatever the clock did; sysUptime is never before a record's end.
func TestTimes(t *testing.T) {
	const day = 24 * int64(time.Hour)
	for _, d := range forms() {
		for _, follow := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s-follow-%v", d.form(), follow), func(t *testing.T) {
				rng := rand.New(rand.NewPCG(3, 3))
				w := tap(t, d, follow)
				w.keep = true
				var want []flow.Record
				give := func(age, duration int64) {
					r := plain(rng, w.now-age)
					r.Src, r.Dst, r.IPVersion = flow.AddrFrom4([4]byte{10, 9, byte(len(want) >> 8), byte(len(want))}), flow.AddrFrom4([4]byte{2}), 4
					r.Proto, r.Has = flow.ProtoTCP, r.Has&^flow.HasICMP
					r.First = r.Last - duration
					want = append(want, r)
					w.give(r)
				}
				// 120 days in steps, with flows up to two days old; then the
				// clock steps back and forth; then flows of years ago.
				for range 240 {
					w.now += day/2 + rng.Int64N(1e9)
					give(rng.Int64N(1e9), rng.Int64N(1800e9))
					give(0, 0)
					give(rng.Int64N(2*day), 2*day)
					w.flush()
				}
				for range 20 {
					w.now += rng.Int64N(20e9) - 10e9
					give(rng.Int64N(1e9), rng.Int64N(60e9))
					w.flush()
				}
				give(5*365*day, day)
				give(0, 1e9)
				give(-300e6, 1e9) // by a clock that is ahead
				w.flush()
				if len(w.records) != len(want) {
					t.Fatalf("read %d records; given %d", len(w.records), len(want))
				}
				got := map[flow.Addr]flow.Record{}
				for _, r := range w.records {
					got[r.Src] = r
				}
				for i, r := range want {
					g := got[r.Src]
					if g.First/1e6 != r.First/1e6 || g.Last/1e6 != r.Last/1e6 {
						t.Fatalf("record %d: read %v to %v; given %v to %v", i, time.Unix(0, g.First), time.Unix(0, g.Last), time.Unix(0, r.First), time.Unix(0, r.Last))
					}
				}
			})
		}
	}
}

// A capture of a year with a flow a day: relative times cannot span it in one
// datagram, yet all arrive.
func TestSparseYear(t *testing.T) {
	for _, version := range []uint8{flow.VersionV5, flow.VersionV9} {
		w := tap(t, Destination{Version: version}, true)
		w.keep = true
		rng := rand.New(rand.NewPCG(4, 4))
		for i := range 366 {
			r := plain(rng, day0/2+int64(i)*24*int64(time.Hour))
			r.Src, r.Dst, r.IPVersion = flow.AddrFrom4([4]byte{1}), flow.AddrFrom4([4]byte{2}), 4
			w.give(r)
		}
		w.flush()
		if len(w.records) != 366 || w.datagrams > 40 {
			t.Errorf("v%d: %d records in %d datagrams", version, len(w.records), w.datagrams)
		}
	}
}

// Unknown or impossible times are mended, not sent.
func TestMend(t *testing.T) {
	for _, d := range forms() {
		w := tap(t, d, false)
		w.keep = true
		for _, r := range []flow.Record{
			{Has: 0},
			{First: day0 - 1e9, Has: flow.HasFirst},
			{Last: day0 - 1e9, Has: flow.HasLast},
			{First: day0, Last: day0 - 5e9, Has: flow.HasFirst | flow.HasLast},
		} {
			r.Src, r.Dst = flow.AddrFrom4([4]byte{1}), flow.AddrFrom4([4]byte{2})
			r.Has |= flow.HasSrc | flow.HasDst | flow.HasPackets
			w.give(r)
		}
		w.flush()
		for i, want := range []int64{day0, day0 - 1e9, day0 - 1e9, day0} {
			if i >= len(w.records) || w.records[i].First != want || w.records[i].Last != want {
				t.Fatalf("%s: record %d is %v; want first and last %d", d.form(), i, w.records, want)
			}
		}
	}
}

// Templates are announced again when the collector may have forgotten them, a
// new layout has a number that was not used before.
func TestTemplates(t *testing.T) {
	w := tap(t, Destination{Version: flow.VersionIPFIX, RefreshPackets: 1000}, false)
	rng := rand.New(rand.NewPCG(5, 5))
	one := func() {
		r := plain(rng, w.now)
		r.Src, r.Dst, r.IPVersion, r.Proto, r.Has = flow.AddrFrom4([4]byte{1}), flow.AddrFrom4([4]byte{2}), 4, flow.ProtoTCP, r.Has&^(flow.HasICMP|flow.HasVLAN)|flow.HasTCPFlags
		r.TCPFlags = 2
		r.Packets, r.Bytes = 1, 40
		w.give(r)
		w.flush()
	}
	one()
	one()
	if w.templates != 1 {
		t.Fatalf("%d templates for two datagrams", w.templates)
	}
	w.forget()
	one()
	if w.templates != 2 {
		t.Fatalf("%d templates after the collector may be another", w.templates)
	}
	w.resend()
	if w.templates != 3 {
		t.Fatalf("%d templates after a refresh", w.templates)
	}

	// More layouts than are kept: all data can be read, no number is reused.
	seen := map[uint16]wire.Shape{}
	for i := range 5 * maxLayouts {
		r := plain(rng, w.now)
		r.Has |= flow.Field(i) << 16 & (flow.HasSrcAS | flow.HasDstAS | flow.HasSrcMask | flow.HasDstMask | flow.HasDirection | flow.HasVLAN | flow.HasForwardingStatus | flow.HasNextHop)
		w.give(r)
		for _, o := range w.order {
			if was, ok := seen[o.layout.ID]; ok && was != o.layout.Shape {
				t.Fatalf("template %d was another", o.layout.ID)
			}
			seen[o.layout.ID] = o.layout.Shape
		}
		if len(w.order) > maxLayouts {
			t.Fatalf("%d layouts alive", len(w.order))
		}
	}
	w.flush()
	if w.sum.records != w.given.records {
		t.Errorf("sent %d of %d", w.sum.records, w.given.records)
	}
}

// Sampling is told before the first data and, in v9, over and over; records
// name the sampler; the decoder knows the rate.
func TestSampling(t *testing.T) {
	for _, d := range forms() {
		for _, random := range []bool{false, true} {
			w := tap(t, d, false)
			w.keep, w.random = true, random
			w.sampling = samplers{rate: 100, any: true, rates: []uint32{100}}
			rng := rand.New(rand.NewPCG(6, 6))
			for range 3000 {
				r := plain(rng, w.now)
				r.Src, r.Dst, r.IPVersion = flow.AddrFrom4([4]byte{1}), flow.AddrFrom4([4]byte{2}), 4
				w.give(r)
			}
			other := plain(rng, w.now)
			other.Sampling, other.Has, other.IPVersion = 512, other.Has|flow.HasSampling, 4
			other.Src, other.Dst = flow.AddrFrom4([4]byte{7}), flow.AddrFrom4([4]byte{2})
			w.give(other)
			w.flush()
			if d.Version == flow.VersionV1 || d.Version == flow.VersionV7 {
				continue // they cannot tell
			}
			rates := map[uint32]int{}
			for _, r := range w.records {
				if r.Has&flow.HasSampling == 0 {
					t.Fatalf("%s: a record without its sampling", d.form())
				}
				rates[r.Sampling]++
			}
			if rates[100] != 3000 || rates[512] != 1 || len(rates) != 2 {
				t.Errorf("%s random %v: sampling read as %v", d.form(), random, rates)
			}
		}
	}
}

// Nothing is allocated for a record once a stream runs.
func TestStreamAllocates(t *testing.T) {
	for _, d := range forms() {
		rng := rand.New(rand.NewPCG(8, 8))
		w := tap(t, d, false)
		g := &datagram{b: make([]byte, 0, 2000)}
		w.get = func() *datagram { return g }
		w.emit = func(*datagram) {}
		records := make([]flow.Record, 4096)
		for i := range records {
			records[i] = plain(rng, w.now-1e9)
		}
		pass := func() {
			for i := range records {
				w.add(&records[i])
			}
		}
		pass()
		pass()
		if n := testing.AllocsPerRun(5, pass); n > 0 {
			t.Errorf("%s: %v allocations for %d records", d.form(), n, len(records))
		}
	}
}

func BenchmarkStream(b *testing.B) {
	for _, d := range []Destination{{Version: flow.VersionV5}, {Version: flow.VersionV9}, {Version: flow.VersionV9, Preset: wire.Cisco}, {Version: flow.VersionIPFIX}} {
		b.Run(d.form(), func(b *testing.B) {
			rng := rand.New(rand.NewPCG(8, 8))
			w := tap(b, d, false)
			g := &datagram{b: make([]byte, 0, 2000)}
			octets := 0
			w.get = func() *datagram { return g }
			w.emit = func(g *datagram) { octets += len(g.b) }
			records := make([]flow.Record, 4096)
			for i := range records {
				records[i] = plain(rng, w.now-1e9)
			}
			for i := 0; b.Loop(); i++ {
				w.add(&records[i%len(records)])
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
			b.ReportMetric(float64(octets)/float64(b.N), "B/record")
		})
	}
}

package export

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"weir/flow"
	"weir/ie"
	"weir/wire"
)

// The conformance checklist of an exporter (RFC 3954, RFC 7011, and what
// collectors check), item by item, and which tests hold it:
//
//	 1  golden octets of every version and scheme   wire: TestDecodeGolden, TestGoldenFixed, TestGoldenTemplated, TestSchemesV8
//	 2  full datagrams, never above the MTU         TestFullDatagrams, TestNeverAboveMTU
//	 3  sequence numbers                            TestLawsOverTheYears, TestSequenceLaw
//	 4  counts, lengths, padding                    wiretap checks every datagram of every test
//	 5  templates before data, refreshed, new ids   TestTemplates, TestLawsOverTheYears, TestRefreshByTime; wire: TestWithdrawals
//	 6  sums exact above 2^32                       TestBigCounters; wire: TestParts
//	 7  First <= Last <= sysUptime, whatever the clock does   TestLawsOverTheYears, TestTimes; wire: TestEras
//	 8  ICMP, fragments, ifIndex, AS                wire: TestGoldenFixed, TestV8Narrow
//	 9  read by others without a warning            TestNfcapd, TestNfacctd, TestTshark
//	10  options                                     TestSampling, TestRules, TestTshark
//	11  what was lost shows                         TestLossShowsAfterRestart, TestQueueFull
//	12  restarts                                    TestLawsOverTheYears, TestSequenceOverRestarts

// Datagrams of fixed form are full to the record, and one more record is in the
// next.
func TestFullDatagrams(t *testing.T) {
	for version, most := range map[uint8]int{flow.VersionV1: 24, flow.VersionV5: 30, flow.VersionV7: 27} {
		w := tap(t, Destination{Version: version}, false)
		var counts []int
		w.check = func(_ []byte, m wire.Message) { counts = append(counts, m.Records) }
		for range 2*most + 1 {
			r := flow.Record{Src: flow.AddrFrom4([4]byte{1}), Dst: flow.AddrFrom4([4]byte{2}), Packets: 1, First: w.now, Last: w.now, Has: flow.HasFirst | flow.HasLast}
			w.give(r)
		}
		w.flush()
		if want := []int{most, most, 1}; !slices.Equal(counts, want) {
			t.Errorf("v%d: datagrams of %v records; want %v", version, counts, want)
		}
	}
}

// The laws of sequence numbers, times and templates over ten thousand datagrams
// of every version and preset: two collectors, each told of two observation
// domains, by an exporter that is up for months around 2036, 2038 and 2106,
// whose clock steps, which sleeps, and which starts again without a memory. Both
// collectors read all of it, see no loss, and read every time to the millisecond.
func TestLawsOverTheYears(t *testing.T) {
	most := 10_000
	if testing.Short() {
		most = 1_200
	}
	for _, d := range forms() {
		t.Run(d.form(), func(t *testing.T) {
			t.Parallel()
			y := newYears(t, d)
			moments := []string{"2036-02-07T06:28:16Z", "2038-01-19T03:14:08Z", "2106-02-07T06:28:16Z"}
			for i, at := range moments {
				moment, err := time.Parse(time.RFC3339, at)
				if err != nil {
					t.Fatal(err)
				}
				y.travel(moment.Add(-30*24*time.Hour).UnixNano(), 60*24*time.Hour, most*(i+1)/len(moments))
			}
			y.end()
		})
	}
}

// years is what TestLawsOverTheYears does with one form.
type years struct {
	t        *testing.T
	rng      *rand.Rand
	decoders [2]*wire.Decoder
	streams  []*wiretap
	now      int64
	serial   uint32
	expected map[flow.Addr][2]int64 // first and last of what is on its way, by source
	restarts int
}

func newYears(t *testing.T, d Destination) *years {
	y := &years{t: t, rng: rand.New(rand.NewPCG(9, uint64(d.Version))), expected: map[flow.Addr][2]int64{}}
	domains := []uint32{7, 8}
	if d.Version == flow.VersionV1 || d.Version == flow.VersionV7 {
		domains = domains[:1] // they cannot tell domains apart
	}
	for i := range y.decoders {
		y.decoders[i] = wire.NewDecoder(wire.Options{})
		for _, d.Domain = range domains {
			w := tap(t, d, false)
			w.dec = y.decoders[i]
			w.check = func([]byte, wire.Message) { y.read(w.batch.Records) }
			y.streams = append(y.streams, w)
		}
	}
	return y
}

// travel exports from a time on for so long, until so many datagrams were sent.
func (y *years) travel(from int64, duration time.Duration, datagrams int) {
	y.now = from
	for _, w := range y.streams {
		y.restart(w) // years have passed
	}
	sent := func() (n int) {
		for _, w := range y.streams {
			n += w.datagrams
		}
		return n
	}
	left := datagrams - sent()
	step := int64(duration) / int64(left)
	for sent() < datagrams {
		before := sent()
		w := y.streams[y.rng.IntN(len(y.streams))]
		for range 1 + y.rng.IntN(40) {
			y.give(w)
		}
		switch y.rng.IntN(60) {
		case 0: // the clock is set
			y.now += y.rng.Int64N(8e9) - 4e9
		case 1: // the machine sleeps
			y.now += int64(6 * time.Hour)
		case 2:
			y.set(w)
			w.resend()
		case 3:
			y.set(w)
			w.forget()
		case 4:
			if y.rng.IntN(10) == 0 {
				y.restart(w)
			}
		case 5, 6, 7, 8, 9:
			y.set(w)
			w.flush()
		}
		y.now += step * int64(sent()-before)
	}
}

func (y *years) set(w *wiretap) { w.now = y.now }

// restart is an exporter that starts anew: another stream, its sequence from 0,
// its sysUptime from now, nothing announced.
func (y *years) restart(w *wiretap) {
	y.set(w)
	w.flush()
	fresh := *w.stream
	fresh.seq, fresh.built, fresh.stamp, fresh.newest = 0, 0, 0, 0
	fresh.open, fresh.order, fresh.hint, fresh.pending, fresh.fixed = nil, nil, nil, 0, open{}
	fresh.announced, fresh.announcedAt = false, 0
	fresh.begin(y.now, y.now)
	*w.stream = fresh
	clear(w.template) // data of a template that was not sent since is an error
	w.known = false
	y.restarts++
}

// give gives a record that can be known again.
func (y *years) give(w *wiretap) {
	y.set(w)
	r := plain(y.rng, y.now-y.rng.Int64N(2e9))
	r.First = r.Last - y.rng.Int64N(1800e9)
	y.serial++
	if r.IPVersion == 6 && w.version < flow.VersionV9 {
		r.IPVersion, r.Dst = 4, flow.AddrFrom4([4]byte{192, 0, 2, 1})
	}
	if r.IPVersion == 6 {
		r.Src = flow.Addr{0: 0x20, 1: 1}
	} else {
		r.Src = flow.AddrFrom4([4]byte{})
	}
	binary.BigEndian.PutUint32(r.Src[12:], y.serial)
	y.expected[r.Src] = [2]int64{r.First, r.Last}
	w.give(r)
}

// read takes what a collector read.
func (y *years) read(records []flow.Record) {
	y.t.Helper()
	for i := range records {
		r := &records[i]
		want, ok := y.expected[r.Src]
		if !ok {
			y.t.Fatalf("%v came twice, or was never sent", r.Src)
		}
		delete(y.expected, r.Src)
		if r.First/1e6 != want[0]/1e6 || r.Last/1e6 != want[1]/1e6 {
			y.t.Fatalf("read %v to %v; given %v to %v", time.Unix(0, r.First).UTC(), time.Unix(0, r.Last).UTC(), time.Unix(0, want[0]).UTC(), time.Unix(0, want[1]).UTC())
		}
	}
}

// end says what both collectors made of it.
func (y *years) end() {
	for _, w := range y.streams {
		y.set(w)
		w.flush()
	}
	if len(y.expected) != 0 {
		y.t.Errorf("%d records never came", len(y.expected))
	}
	for i, dec := range y.decoders {
		dec.Finish()
		records, datagrams := dec.Sequences()
		records.Add(datagrams)
		if records.Lost+records.Missing+records.Gaps != 0 {
			y.t.Errorf("collector %d: %+v", i, records)
		}
		// IPFIX over UDP does not say that it started anew, and sysUptime says so
		// modulo 49.7 days: the first messages may look like late ones, or like copies.
		if records.Reordered+records.Duplicates > 3*uint64(y.restarts) {
			y.t.Errorf("collector %d, %d restarts: %+v", i, y.restarts, records)
		}
		for _, l := range func() []flow.Loss { c := dec.Lost(); return c.Losses() }() {
			if l.Datagrams+l.Records != 0 {
				y.t.Errorf("collector %d: %+v", i, l)
			}
		}
	}
}

// What exporters in use get wrong, by their sources; each would be seen here.
// What their meters get wrong is tried in package cache.
func TestMistakesOfOthers(t *testing.T) {
	four := func(w *wiretap) flow.Record {
		return flow.Record{
			Src: flow.AddrFrom4([4]byte{10}), Dst: flow.AddrFrom4([4]byte{192}), IPVersion: 4, Proto: flow.ProtoUDP, SrcPort: 1, DstPort: 2,
			Packets: 1, Bytes: 100, First: w.now - 2e9, Last: w.now - 1e9, Input: 3, Output: 4,
			Has: flow.HasSrc | flow.HasDst | flow.HasProto | flow.HasSrcPort | flow.HasDstPort | flow.HasTOS | flow.HasPackets | flow.HasBytes |
				flow.HasFirst | flow.HasLast | flow.HasInput | flow.HasOutput,
		}
	}
	// messages are those that so many records become.
	messages := func(t *testing.T, d Destination, records int, before func(*wiretap)) (list []wire.Message, octets [][]byte) {
		w := tap(t, d, false)
		w.check = func(b []byte, m wire.Message) {
			list, octets = append(list, m), append(octets, slices.Clone(b))
		}
		if before != nil {
			before(w)
		}
		for range records {
			w.give(four(w))
		}
		w.flush()
		return list, octets
	}
	sampled := func(w *wiretap) { w.sampling = samplers{rate: 100, any: true, rates: []uint32{100}} }

	t.Run("VPP: IPFIX sequence counts records, not messages", func(t *testing.T) {
		list, _ := messages(t, Destination{Version: flow.VersionIPFIX}, 200, nil)
		if len(list) < 2 || list[0].Records < 2 || list[1].Sequence != list[0].Sequence+uint32(list[0].Records) {
			t.Errorf("%+v", list)
		}
	})
	t.Run("softflowd: IPFIX sequence is of what was before, options data too", func(t *testing.T) {
		list, _ := messages(t, Destination{Version: flow.VersionIPFIX}, 200, sampled)
		if list[0].Sequence != 0 || list[0].Options == 0 || list[1].Sequence != uint32(list[0].Records+list[0].Options) {
			t.Errorf("%+v", list[:2])
		}
	})
	t.Run("softflowd: v9 count is of templates and options too", func(t *testing.T) {
		list, _ := messages(t, Destination{Version: flow.VersionV9}, 10, nil)
		templates := 0
		for _, m := range list {
			templates += m.Templates
			if int(m.Count) != m.Templates+m.Options+m.Records {
				t.Errorf("%+v", m)
			}
		}
		if templates == 0 {
			t.Error("no template was sent")
		}
	})
	t.Run("Open vSwitch: v5 flow_sequence is the number of the first record", func(t *testing.T) {
		list, _ := messages(t, Destination{Version: flow.VersionV5}, 75, nil)
		for i, want := range []uint32{0, 30, 60} {
			if list[i].Sequence != want {
				t.Errorf("datagram %d has sequence %d; want %d", i, list[i].Sequence, want)
			}
		}
	})
	t.Run("Open vSwitch, pmacct: datagrams are as long as the path allows", func(t *testing.T) {
		for _, version := range []uint8{flow.VersionV9, flow.VersionIPFIX} {
			list, octets := messages(t, Destination{Version: version}, 1000, nil)
			for i, b := range octets[:len(octets)-1] {
				if list[i].Records > 0 && len(b) < 1400 {
					t.Errorf("v%d: message %d of %d has %d octets", version, i, len(octets), len(b))
				}
			}
		}
	})
	t.Run("Open vSwitch: each domain has a sequence of its own", func(t *testing.T) {
		a := tap(t, Destination{Version: flow.VersionIPFIX, Domain: 1}, false)
		b := tap(t, Destination{Version: flow.VersionIPFIX, Domain: 2}, false)
		for i := range 300 { // wiretap asserts both sequences
			w := a
			if i%3 == 0 {
				w = b
			}
			w.give(four(w))
			w.flush()
		}
		if a.seq != 200 || b.seq != 100 {
			t.Errorf("sequences %d and %d; want 200 and 100", a.seq, b.seq)
		}
	})
	t.Run("ipt_NETFLOW: unix_nsecs is nanoseconds", func(t *testing.T) {
		for _, version := range []uint8{flow.VersionV1, flow.VersionV5, flow.VersionV7} {
			_, octets := messages(t, Destination{Version: version}, 1, func(w *wiretap) { w.now = day0 + 123_456_789 })
			if ns := binary.BigEndian.Uint32(octets[0][12:]); ns != 123_000_000 {
				t.Errorf("v%d: %d; want 123,000,000, whole milliseconds as sysUptime", version, ns)
			}
		}
	})
	t.Run("ipt_NETFLOW: no counter or interface is cut", func(t *testing.T) {
		for _, d := range forms()[3:] {
			w := tap(t, d, false)
			w.keep = true
			r := four(w)
			r.Packets, r.Bytes, r.Input, r.Output = 1<<33+1, 1<<45+3, 70_000, 1<<30
			w.give(r)
			w.flush()
			if g := w.records[0]; g.Packets != r.Packets || g.Bytes != r.Bytes || g.Input != r.Input || g.Output != r.Output {
				t.Errorf("%s: %d packets, %d octets, interfaces %d and %d", d.form(), g.Packets, g.Bytes, g.Input, g.Output)
			}
		}
	})
	t.Run("netobserv: one time base, both interfaces, the ToS", func(t *testing.T) {
		for _, p := range []wire.Preset{wire.Compact, wire.Cisco, wire.Full} {
			w := tap(t, Destination{Version: flow.VersionIPFIX, Preset: p}, false)
			w.give(four(w))
			w.flush()
			has := map[uint16]bool{}
			for _, f := range w.order[0].layout.Fields {
				has[f.ID] = true
			}
			starts := 0
			for _, id := range []uint16{ie.IDFlowStartSysUpTime, ie.IDFlowStartSeconds, ie.IDFlowStartMilliseconds, ie.IDFlowStartMicroseconds, ie.IDFlowStartNanoseconds} {
				if has[id] {
					starts++
				}
			}
			if starts != 1 || !has[ie.IDIngressInterface] || !has[ie.IDEgressInterface] || !has[ie.IDIpClassOfService] {
				t.Errorf("%v: fields %v", p, w.order[0].layout.Fields)
			}
		}
	})
	t.Run("netobserv: IPv6 has a template of its own", func(t *testing.T) {
		for _, version := range []uint8{flow.VersionV9, flow.VersionIPFIX} {
			w := tap(t, Destination{Version: version}, false)
			w.keep = true
			for i := range 10 {
				r := four(w)
				if i%2 == 1 {
					r.Src, r.Dst, r.IPVersion = flow.Addr{0: 0x20, 15: 1}, flow.Addr{0: 0x20, 15: 2}, 6
				}
				w.give(r)
			}
			w.flush()
			got := fmt.Sprint(len(w.order), len(w.records))
			for _, r := range w.records {
				if r.Src.Is4() != r.Dst.Is4() {
					t.Errorf("%v to %v", r.Src, r.Dst)
				}
			}
			if got != "2 10" {
				t.Errorf("v%d: templates and records: %s; want 2 10", version, got)
			}
		}
	})
}

package guard

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"weir/flow"
)

func record(d Delta, first, last int64) flow.Record {
	return flow.Record{
		Src: d.Key.Src, Dst: d.Key.Dst, SrcPort: d.Key.SrcPort, DstPort: d.Key.DstPort, Proto: d.Key.Proto, TCPFlags: uint16(d.TCPFlags),
		Packets: d.Packets, Bytes: d.Bytes, First: first, Last: last,
		Has: flow.HasFirst | flow.HasLast | flow.HasSrc | flow.HasDst | flow.HasSrcPort | flow.HasDstPort | flow.HasProto | flow.HasTCPFlags | flow.HasPackets | flow.HasBytes,
	}
}

func TestSimulation(t *testing.T) {
	p := policyOf("192.0.2.0/24")
	s := &Simulation{Policy: p}
	var list []flow.Record
	for i, d := range synFlood("192.0.2.10", 60_000) { // 6000 a second for ten seconds
		at := began + int64(20e9) + int64(i)*1e9/6000
		list = append(list, record(d, at, at))
	}
	list = append(list, record(established(delta("198.51.100.1", 1, "192.0.2.10", 443, 6, 60_000, 60_000_000)), began, began+60e9))
	list = append(list, flow.Record{}) // says nothing
	if err := s.WriteRecords(list); err != nil {
		t.Fatal(err)
	}
	rep, err := s.Run(nil)
	if err != nil {
		t.Fatal(err)
	}
	if rep.Records != 60_001 || rep.Unusable != 1 || len(rep.Fired) != 1 {
		t.Fatalf("%d records, %d unusable, fired %+v", rep.Records, rep.Unusable, rep.Fired)
	}
	f := rep.Fired[0]
	if f.Kind != KindSYN || f.Began != began+21e9 || f.Name != "192.0.2.10" || f.Action == nil || f.Action.State != StateObserved || !strings.Contains(f.Action.What, "syn") || f.Ended == 0 {
		t.Errorf("%+v\n%+v", f.AttackStatus, f.Action)
	}
	if f.PeakPPS < 6900 || f.PeakPPS > 7100 {
		t.Errorf("peak %d packets a second, want 7000", f.PeakPPS)
	}
}

// However a record is cut, all of it is told, once.
func TestSimulatedRecordsAreWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		first := rapid.Int64Range(0, 5e9).Draw(t, "first")
		x := simulated{first: first, last: first + rapid.Int64Range(0, 30e9).Draw(t, "length")}
		x.delta = Delta{Packets: rapid.Uint64Range(1, 1e6).Draw(t, "packets"), Bytes: rapid.Uint64Range(1, 1e9).Draw(t, "bytes"), Flows: 1}
		var sum Delta
		for end := int64(1e9); ; end += 1e9 {
			if x.first < end {
				d := x.until(end)
				sum.Packets, sum.Bytes, sum.Flows = sum.Packets+d.Packets, sum.Bytes+d.Bytes, sum.Flows+d.Flows
			}
			if x.last < end {
				break
			}
		}
		if sum != x.delta {
			t.Fatalf("told %+v of %+v", sum, x.delta)
		}
	})
}

package guard

import (
	"testing"

	"pgregory.net/rapid"

	"weir/flow"
)

// shownAs is a record of a slot, as a cache shows it or hands it on.
func shownAs(slot, number int, port uint16, packets uint64) flow.Record {
	return flow.Record{
		FlowID: uint64(slot)<<flow.IDRecordBits | uint64(number)&lastNumber, SrcPort: port, Proto: flow.ProtoUDP, Packets: packets, Bytes: 100 * packets,
		Has: flow.HasFlowID | flow.HasSrcPort | flow.HasProto | flow.HasPackets | flow.HasBytes,
	}
}

// toldOf sums up what deltas tell.
type toldOf struct{ packets, bytes, flows uint64 }

func (s *toldOf) take(list []Delta) {
	for i := range list {
		s.packets, s.bytes, s.flows = s.packets+list[i].Packets, s.bytes+list[i].Bytes, s.flows+uint64(list[i].Flows)
	}
}

// Whatever is shown, however late, and whatever leaves: the deltas' sum is the records'
// sum, and each flow begins once.
func TestDifferTellsEachPacketOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := NewDiffer(1024)
		type slot struct {
			port    uint16 // 0: it is free
			number  int    // of the record that is to come
			packets uint64 // in it
		}
		const slots = 8
		var cache [slots]slot
		var truth, got toldOf
		ports := uint16(0)
		first := rapid.SampledFrom([]int{0, lastNumber - 1}).Draw(t, "first number") // it wraps
		for i := range cache {
			cache[i].number = first
		}
		place := func(i int) int { return i%3 | i<<11 } // pages of a few, and of one
		show := func(i int) flow.Record {
			return shownAs(place(i), cache[i].number, cache[i].port, cache[i].packets)
		}
		count := func(i int, n uint64) {
			cache[i].packets += n
			truth.packets += n
			truth.bytes += 100 * n
		}
		leave := func(i int, why flow.EndReason) {
			r := show(i)
			r.EndReason = why
			got.take(f.Left(nil, []flow.Record{r}))
			cache[i].number++
			cache[i].packets = 0
		}
		var late []flow.Record
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			i := rapid.IntRange(0, slots-1).Draw(t, "slot")
			s := &cache[i]
			switch rapid.IntRange(0, 4).Draw(t, "step") {
			case 0, 1:
				if s.port == 0 {
					ports++
					s.port = ports
					truth.flows++
				}
				count(i, uint64(rapid.IntRange(1, 5).Draw(t, "packets")))
			case 2: // a walk; what left while it went on is shown late
				walk := late
				for range 3 { // what was told is not told again
					for i := range cache {
						if cache[i].packets > 0 {
							walk = append(walk, show(i))
						}
					}
				}
				got.take(f.Shown(nil, walk))
				f.Walked()
				late = nil
			case 3: // the flow ends, maybe without another packet; the slot is another's
				if s.packets > 0 {
					late = append(late, show(i))
					leave(i, flow.EndIdle)
				}
				s.port = 0
			case 4: // the active timeout, and packets that come while the record is on its way
				if s.packets > 0 {
					n := uint64(rapid.IntRange(0, 2).Draw(t, "meanwhile"))
					count(i, n)
					if rapid.Bool().Draw(t, "seen") {
						got.take(f.Shown(nil, []flow.Record{show(i)}))
					}
					late = append(late, show(i))
					s.packets -= n
					leave(i, flow.EndActive)
					s.packets = n
				}
			}
		}
		for i := range cache {
			if cache[i].packets > 0 {
				leave(i, flow.EndForced)
			}
		}
		if got != truth || f.Full() != 0 {
			t.Fatalf("told %+v of %+v; %d found no room", got, truth, f.Full())
		}
		for range 3 * kept {
			f.Walked()
		}
		if len(f.pages) != 0 {
			t.Fatalf("%d pages are not forgotten", len(f.pages))
		}
	})
}

// A flow that cannot be told from others by its id is told of when it leaves.
func TestDifferWithoutRoomTellsWhatLeaves(t *testing.T) {
	const many = 3 * pageSlots
	unnamed := shownAs(0, 1, 0, 7)
	unnamed.Has &^= flow.HasFlowID
	for name, list := range map[string][]flow.Record{
		"no id":              {unnamed, unnamed},
		"another's id":       {shownAs(5, 1, 10, 3), shownAs(5, 1, 11, 4), shownAs(5, 2, 12, 5)},
		"another's, smaller": {shownAs(5, 9, 10, 3), shownAs(5, 1, 11, 4)},
	} {
		f := NewDiffer(many)
		var truth, got toldOf
		for range 3 {
			got.take(f.Shown(nil, list))
		}
		if f.Full() == 0 {
			if name != "another's, smaller" { // that looks as if it were late
				t.Errorf("%s: all found room", name)
			}
		}
		for i := range list {
			list[i].EndReason = flow.EndIdle
			truth.packets, truth.bytes, truth.flows = truth.packets+list[i].Packets, truth.bytes+list[i].Bytes, truth.flows+1
		}
		if got.take(f.Left(nil, list)); got != truth {
			t.Errorf("%s: told %+v of %+v", name, got, truth)
		}
	}
	// As many as are asked for have room, and no more than are bounded.
	f := NewDiffer(many)
	for i := range 10 * (many + 1<<16) {
		f.Shown(nil, []flow.Record{shownAs(i, 1, 1, 1)})
		if i < 2*many && f.Full() != 0 {
			t.Fatalf("slot %d of %d has no room", i, many)
		}
	}
	if f.Full() == 0 || len(f.pages) > f.most {
		t.Errorf("%d pages, at most %d; %d found no room", len(f.pages), f.most, f.Full())
	}
}

// Flows that a record told of are established from their first packet on; others that
// have their slot are not.
func TestDifferKnowsAFlowAgain(t *testing.T) {
	f := NewDiffer(1024)
	r := shownAs(1, 1, 10, 100)
	r.EndReason = flow.EndActive
	f.Left(nil, []flow.Record{r})
	for _, c := range []struct {
		what        string
		r           flow.Record
		packets     uint64
		flows       uint32
		established bool
	}{
		{"it goes on", shownAs(1, 2, 10, 1), 1, 0, true},
		{"and on", shownAs(1, 2, 10, 2), 1, 0, true},
		{"another flow", shownAs(1, 3, 11, 1), 1, 1, false},
	} {
		if c.r.SrcPort == 11 { // the other has left by then
			f.Left(nil, []flow.Record{shownAs(1, 2, 10, 2)})
		}
		list := f.Shown(nil, []flow.Record{c.r})
		if len(list) != 1 || list[0].Packets != c.packets || list[0].Flows != c.flows || list[0].Established != c.established {
			t.Errorf("%s: %+v", c.what, list)
		}
	}
}

package guard

import (
	"hash/maphash"
	"math/bits"

	"weir/flow"
)

// Differ makes deltas of flows that are shown again and again as they grow: of walks over
// a flow cache, and of the records that leave it in between. It knows a flow by its key,
// of which a cache has one at a time, and holds what was told of it.
//
// It is for caches that do not tell deltas by themselves. One goroutine uses it at a time.
type Differ struct {
	seed  maphash.Seed
	slots []differed
	mask  uint64
	n     int
	round uint32 // walks that ended
	full  uint64
}

// differed is what was told of a flow.
type differed struct {
	id             uint64 // 0: free
	packets, bytes uint64
	dropP, dropB   uint64
	last           int64  // of the record that left, Unix ns: counters begin anew after it; 0: none has
	goesOn         bool   // it left by the active timeout
	until          uint32 // the walk after which it is forgotten
}

// goesOn is for how many walks a flow that was reported by the active timeout may be
// silent and still is the same flow.
const goesOn = 60

// NewDiffer holds up to flows flows.
func NewDiffer(flows int) *Differ {
	size := 1 << bits.Len(uint(max(1024, flows*2)-1))
	return &Differ{seed: maphash.MakeSeed(), slots: make([]differed, size), mask: uint64(size - 1)}
}

// find gives the place of an id, or the free one where it would be.
func (f *Differ) find(id uint64) uint64 {
	i := id & f.mask
	for f.slots[i].id != 0 && f.slots[i].id != id {
		i = (i + 1) & f.mask
	}
	return i
}

// Full is how many times a flow found no room and was left out until it leaves.
func (f *Differ) Full() uint64 { return f.full }

// Shown is what r, a flow that is in the cache now, counted since it was told of last;
// false: nothing.
func (f *Differ) Shown(r *flow.Record) (Delta, bool) {
	d := DeltaOf(r)
	id := maphash.Comparable(f.seed, d.Key) | 1<<63
	i := f.find(id)
	s := &f.slots[i]
	if s.last != 0 && r.First <= s.last { // seen by the walk before it left
		return Delta{}, false
	}
	old := *s
	if s.id == 0 {
		if 2*(f.n+1) > len(f.slots) {
			f.full++
			return Delta{}, false
		}
		f.n++
	}
	*s = differed{id: id, packets: r.Packets, bytes: r.Bytes, dropP: r.DroppedPackets, dropB: r.DroppedBytes, until: f.round + 2}
	return since(d, r, &old)
}

// Left is what r, a record that leaves the cache, counted since its flow was shown last.
func (f *Differ) Left(r *flow.Record) (Delta, bool) {
	d := DeltaOf(r)
	id := maphash.Comparable(f.seed, d.Key) | 1<<63
	i := f.find(id)
	s := &f.slots[i]
	old := *s
	if s.id == 0 && 2*(f.n+1) <= len(f.slots) {
		f.n++
		s.id = id
	}
	if s.id != 0 {
		*s = differed{id: id, last: max(1, r.Last), until: f.round + 2}
		if r.EndReason == flow.EndActive {
			s.goesOn, s.until = true, f.round+goesOn
		}
	}
	return since(d, r, &old)
}

// since is what r has more than what was told.
func since(d Delta, r *flow.Record, old *differed) (Delta, bool) {
	rate := uint64(1)
	if r.Packets > 0 {
		rate = d.Packets / r.Packets
	}
	d.Flows = 0
	if old.id == 0 || old.last != 0 && !old.goesOn {
		d.Flows = 1
	}
	d.Established = d.Established || old.goesOn // it was reported before
	less := func(now, then uint64) uint64 { return (now - min(now, then)) * rate }
	d.Packets, d.Bytes = less(r.Packets, old.packets), less(r.Bytes, old.bytes)
	d.DroppedPackets, d.DroppedBytes = less(r.DroppedPackets, old.dropP), less(r.DroppedBytes, old.dropB)
	return d, d.Packets > 0
}

// remove takes a slot out, and moves up what would not be found any more.
func (f *Differ) remove(i uint64) {
	f.n--
	for j := i; ; {
		f.slots[i] = differed{}
		for {
			j = (j + 1) & f.mask
			if f.slots[j].id == 0 {
				return
			}
			if (j-f.slots[j].id)&f.mask >= (j-i)&f.mask {
				break
			}
		}
		f.slots[i] = f.slots[j]
		i = j
	}
}

// Walked ends a walk that showed all there is. What it did not show is forgotten some
// walks later.
func (f *Differ) Walked() {
	f.round++
	for i := range f.slots {
		for f.slots[i].id != 0 && int32(f.round-f.slots[i].until) > 0 {
			f.remove(uint64(i))
		}
	}
}

package guard

import (
	"hash/maphash"
	"math/bits"
	"slices"

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
	ahead uint64 // what reading ahead read: it must not be optimised away
}

// differed is what was told of a flow; a cache line.
type differed struct {
	id             uint64 // 0: free
	packets, bytes uint64
	dropP, dropB   uint64
	last           int64  // of the record that left, Unix ns: counters begin anew after it; 0: none has
	goesOn         bool   // it left by the active timeout
	until          uint32 // the walk after which it is forgotten
	_              [8]byte
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

// Shown appends to list what flows that are in the cache now counted since they were told
// of last. Those that counted nothing are left out.
func (f *Differ) Shown(list []Delta, batch []flow.Record) []Delta {
	return f.each(list, batch, f.shown)
}

// Left appends to list what records that leave the cache counted since their flows were
// shown last. Those that counted nothing are left out.
func (f *Differ) Left(list []Delta, batch []flow.Record) []Delta {
	return f.each(list, batch, f.left)
}

// blockOf is how many flows are looked up together: where they are is all over memory,
// which answers to many questions in the time of one.
const blockOf = 32

// each appends the deltas that tell leaves of those of batch.
func (f *Differ) each(list []Delta, batch []flow.Record, tell func(d *Delta, r *flow.Record, id uint64) bool) []Delta {
	var ids [blockOf]uint64
	for len(batch) > 0 {
		block := batch[:min(blockOf, len(batch))]
		batch = batch[len(block):]
		list = slices.Grow(list, len(block))
		fresh := list[len(list) : len(list)+len(block)]
		for i := range block {
			fresh[i] = DeltaOf(&block[i])
			ids[i] = maphash.Comparable(f.seed, fresh[i].Key) | 1<<63
		}
		var x uint64
		for i := range block { // nothing else is in this loop, lest it fills the processor's window
			x += f.slots[ids[i]&f.mask].id
		}
		f.ahead += x
		for i := range block {
			if tell(&fresh[i], &block[i], ids[i]) {
				list = append(list, fresh[i]) // to its own place, or one before it
			}
		}
	}
	return list
}

func (f *Differ) shown(d *Delta, r *flow.Record, id uint64) bool {
	s := &f.slots[f.find(id)]
	if s.last != 0 && r.First <= s.last { // seen by the walk before it left
		return false
	}
	old := *s
	if s.id == 0 {
		if 2*(f.n+1) > len(f.slots) {
			f.full++
			return false
		}
		f.n++
	}
	*s = differed{id: id, packets: r.Packets, bytes: r.Bytes, dropP: r.DroppedPackets, dropB: r.DroppedBytes, until: f.round + 2}
	return since(d, r, &old)
}

func (f *Differ) left(d *Delta, r *flow.Record, id uint64) bool {
	s := &f.slots[f.find(id)]
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

// since takes from d, which is all of r, what was told of it; false: nothing is left.
func since(d *Delta, r *flow.Record, old *differed) bool {
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
	return d.Packets > 0
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

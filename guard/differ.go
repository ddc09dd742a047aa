package guard

import (
	"encoding/binary"
	"math/bits"
	"math/rand/v2"
	"slices"

	"weir/flow"
)

// Differ makes deltas of flows that are shown again and again as they grow: of walks over
// flow caches, and of the records that leave them in between. It holds what was told of
// each record, in the order of the slots that flow ids name: a walk reads it from its front
// to its end, as it does the cache.
//
// It is for caches that do not tell deltas by themselves. One goroutine uses it at a time.
type Differ struct {
	seed  [6]uint64
	pages map[uint64]*toldPage // by what their slots' ids begin with
	page  *toldPage            // the last that was asked for; nil: none
	most  int                  // pages
	round uint32               // walks that ended, from 1
	full  uint64
}

// told is what was told of a slot's record; or, if that has left, of the next of its flow: a
// walk that sees a flow while its record is on its way sees what came after it, too.
type told struct {
	packets, bytes uint64
	dropP, dropB   uint64
	record         uint32 // its number among the slot's
	key            uint32 // of the flow, hashed
	until          uint32 // the walk after which this is forgotten; 0: there is nothing
	left           bool   // the record has left
	known          bool   // its flow is not new with its next record: this one left by the active timeout, or such a one was before it
}

const (
	pageBits  = 8
	pageSlots = 1 << pageBits

	lastNumber = 1<<flow.IDRecordBits - 1
)

type toldPage struct {
	no    uint64
	round uint32 // in which it was asked for last
	slots [pageSlots]told
}

// kept is for how many walks a flow may be silent and still is known.
const kept = 60

// sparePages are for what has slots beside a table of flows: aggregates.
const sparePages = 1 << 16 / pageSlots

// NewDiffer holds what is told of a table with room for so many flows in the kernel, and of
// as many slots of other caches.
func NewDiffer(flows int) *Differ {
	f := &Differ{pages: map[uint64]*toldPage{}, most: 2*(flows+pageSlots-1)/pageSlots + sparePages, round: 1}
	for i := range f.seed {
		f.seed[i] = rand.Uint64()
	}
	return f
}

// at gives what is told of the slot of a flow id; nil: there is no room for it.
func (f *Differ) at(id uint64) *told {
	no := id >> (flow.IDRecordBits + pageBits)
	if f.page == nil || f.page.no != no {
		p := f.pages[no]
		if p == nil {
			if len(f.pages) >= f.most {
				return nil
			}
			p = &toldPage{no: no}
			f.pages[no] = p
		}
		p.round, f.page = f.round, p
	}
	t := &f.page.slots[id>>flow.IDRecordBits%pageSlots]
	if t.until != 0 && int32(t.until-f.round) < 0 {
		*t = told{}
	}
	return t
}

// hash tells the flows that have had a slot apart. Nobody can choose two that it does not.
func (f *Differ) hash(k *flow.Key) uint32 {
	word := func(b []byte, seed uint64) uint64 { return binary.LittleEndian.Uint64(b) ^ seed }
	a, b := bits.Mul64(word(k.Src[:8], f.seed[0]), word(k.Src[8:], f.seed[1]))
	c, d := bits.Mul64(word(k.Dst[:8], f.seed[2]), word(k.Dst[8:], f.seed[3]))
	ports := uint64(k.SrcPort) | uint64(k.DstPort)<<16 | uint64(k.Input)<<32
	rest := uint64(k.VLAN) | uint64(k.Proto)<<16 | uint64(k.TOS)<<24
	e, g := bits.Mul64(ports^f.seed[4]^a^d, rest^f.seed[5]^b^c)
	return uint32((e ^ g) >> 32)
}

// Full is how many times a flow was shown that found no room, and was left out until it
// leaves. So is one without a flow id.
func (f *Differ) Full() uint64 { return f.full }

// Shown appends to list what flows that are in the cache now counted since they were told
// of last. Those that counted nothing are left out.
func (f *Differ) Shown(list []Delta, batch []flow.Record) []Delta {
	return f.each(list, batch, (*Differ).shown)
}

// Left appends to list what records that leave the cache counted since their flows were
// shown last. Those that counted nothing are left out.
func (f *Differ) Left(list []Delta, batch []flow.Record) []Delta {
	return f.each(list, batch, (*Differ).left)
}

// each appends the deltas that tell makes of those of batch.
func (f *Differ) each(list []Delta, batch []flow.Record, tell func(f *Differ, d *Delta, r *flow.Record, t *told) bool) []Delta {
	n := len(list)
	list = slices.Grow(list, len(batch))[:n+len(batch)]
	for i := range batch {
		r, t := &batch[i], (*told)(nil)
		if r.Has&flow.HasFlowID != 0 {
			t = f.at(r.FlowID)
		}
		if tell(f, &list[n], r, t) {
			n++
		}
	}
	return list[:n]
}

// A slot's records have numbers, which wrap.
func numberOf(r *flow.Record) uint32 { return uint32(r.FlowID) & lastNumber }

// after says whether one record of a slot came after another.
func after(a, b uint32) bool { return (a-b-1)&lastNumber < lastNumber/2 }

func (f *Differ) shown(d *Delta, r *flow.Record, t *told) bool {
	if t == nil {
		f.full++
		return false
	}
	no := numberOf(r)
	switch {
	case r.Packets == 0:
		return false
	case t.until == 0 || after(no, t.record):
	case t.left || no != t.record:
		return false // the walk saw it before it left
	case r.Packets <= t.packets:
		t.until = f.round + kept
		return false
	}
	d.be(r)
	key := f.hash(&d.Key)
	if t.open() && key != t.key {
		f.full++ // another's id, which is still there
		return false
	}
	known := t.since(d, r, no, key)
	if t.until = f.round + kept; d.Packets == 0 {
		return false
	}
	t.packets, t.bytes, t.dropP, t.dropB = r.Packets, r.Bytes, r.DroppedPackets, r.DroppedBytes
	t.record, t.key, t.left, t.known = no, key, false, known
	return true
}

func (f *Differ) left(d *Delta, r *flow.Record, t *told) bool {
	d.be(r)
	if t == nil {
		return d.Packets > 0
	}
	no, key := numberOf(r), f.hash(&d.Key)
	if t.open() && key != t.key {
		return d.Packets > 0 // another's id: it was not told of
	}
	t.since(d, r, no, key)
	if t.covers(no, key) {
		rest := func(of *uint64, all uint64) { *of -= min(*of, all) }
		rest(&t.packets, r.Packets)
		rest(&t.bytes, r.Bytes)
		rest(&t.dropP, r.DroppedPackets)
		rest(&t.dropB, r.DroppedBytes)
	} else {
		*t = told{}
	}
	t.record, t.key, t.until, t.left, t.known = no, key, f.round+kept, true, r.EndReason == flow.EndActive
	return d.Packets > 0
}

// open says whether a record is told of that has not left.
func (t *told) open() bool { return t.until != 0 && !t.left }

// covers says whether t tells of that record of that flow.
func (t *told) covers(no, key uint32) bool {
	return t.until != 0 && key == t.key && (t.left && after(no, t.record) || !t.left && no == t.record)
}

// since takes from d, which is all of r, what was told of it, and says whether an earlier
// record told of its flow.
func (t *told) since(d *Delta, r *flow.Record, no, key uint32) (known bool) {
	known = t.known && t.key == key
	d.Established = d.Established || known
	if known {
		d.Flows = 0
	}
	if !t.covers(no, key) || r.Packets == 0 {
		return known
	}
	if !t.left {
		d.Flows = 0
	}
	rate := d.Packets / r.Packets
	less := func(now, then uint64) uint64 { return (now - min(now, then)) * rate }
	d.Packets, d.Bytes = less(r.Packets, t.packets), less(r.Bytes, t.bytes)
	d.DroppedPackets, d.DroppedBytes = less(r.DroppedPackets, t.dropP), less(r.DroppedBytes, t.dropB)
	return known
}

// Walked ends a walk that showed all there is. What it did not show is forgotten some
// walks later.
func (f *Differ) Walked() {
	f.round++
	f.page = nil
	if f.round%kept != 0 {
		return
	}
	for no, p := range f.pages {
		if f.round-p.round > kept {
			delete(f.pages, no)
		}
	}
}

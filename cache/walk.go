package cache

import "weir/flow"

// Parts is in how many parts EntriesOf shows what is in the table: its regions,
// and last the overflow aggregates. A flow stays in its part.
func (c *Cache) Parts() int { return len(c.regions) + 1 }

// Entries shows what is in the table as records, without ending anything:
// their end reason is unknown, and what has counted nothing since its last
// record is left out.
func (c *Cache) Entries(yield func(*flow.Record) bool) {
	more := true
	for part := 0; more && part < c.Parts(); part++ {
		c.EntriesOf(part, func(r *flow.Record) bool {
			more = yield(r)
			return more
		})
	}
}

// EntriesOf is Entries for one part of the table, which is a moment's work
// however large the table is.
func (c *Cache) EntriesOf(part int, yield func(*flow.Record) bool) {
	var room [maxPlaces]Gone
	var r flow.Record
	var told Told
	g := &room[0]
	show := func(e *Entry, slot uint32, mark uint8) bool {
		if e.Packets == 0 {
			return true
		}
		g.Entry = *e
		if mark == 0 && c.wide != nil {
			copyWide(&g.Entry, e, c.places)
		}
		g.Incarnation++ // as when it leaves
		c.out.recorder.Fill(c.gone(g, slot, 0, mark), &r)
		c.out.recorder.Begin(&told, 1)
		c.out.recorder.Tell(g, &r, &told)
		r.Has &^= flow.HasEndReason
		return yield(&r)
	}
	if part >= len(c.regions) {
		if c.overflow != nil {
			c.overflow.each(show)
		}
		return
	}
	from := uint32(part) * c.regionSets
	for i := from; i < from+c.regions[part].sets; i++ {
		for used := nonzero(c.heads[i].tagLanes()); used != 0; used &= used - 1 {
			slot := i*ways + lane(used)
			if !show(c.at(slot), slot, 0) {
				return
			}
		}
	}
}

// memory is the octets of the table with all that belongs to it: what it takes
// when it is full.
func (c *Cache) memory() uint64 {
	n := uint64(len(c.entries))*EntrySize + uint64(len(c.heads))*2*ways + 4*uint64(len(c.pages)+len(c.groups))
	if c.overflow != nil {
		n += (maxAggregates + maxCatchAlls) * EntrySize
	}
	return n
}

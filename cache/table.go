package cache

import (
	"encoding/binary"
	"math"
)

// A set is eight entries; its head holds one octet of each twice, so that a
// look-up reads one line for all tags and a sweep reads nothing else.
type head struct {
	// tags: 0 for a free slot, else eight bits of the key's hash.
	tags [ways]uint8
	// stamps: when the entry must be looked at, at the latest: seven bits of
	// the second, in units of 1<<shift, and manyPackets.
	stamps [ways]uint8
}

const (
	manyPackets = 0x80
	horizon     = 62 // units from the clock to the furthest stamp
)

func (h *head) tagLanes() uint64   { return binary.LittleEndian.Uint64(h.tags[:]) }
func (h *head) stampLanes() uint64 { return binary.LittleEndian.Uint64(h.stamps[:]) }

// Sets stand in pages, pages in groups. Both know a second before which
// nothing in them is due, so that a tick visits what may be due and no more.
const (
	pageSets   = 64
	groupPages = 64
	maxRegions = 64
)

// A region is a part of the table that decides for itself: the bits of the
// hash that choose it are not those that choose the sets. Regions make the
// outcome independent of how many caches (and cores) share a table.
type region struct {
	live           uint32 // entries
	created        uint32 // since its last ageing
	refused        uint32
	fresh          bool // something was entered since its last ageing
	capacity       uint32
	staged, urgent uint32 // occupancy from which the idle limit falls; from which a histogram decides
}

// Ageing: percent of a region's capacity.
const (
	stagedPercent = 60
	urgentPercent = 75
	freePercent   = 15
)

// shape is how a table of so many entries is divided; it depends on nothing else.
type shape struct {
	regions    uint32
	regionSets uint32
}

func shapeOf(entries int) shape {
	if entries <= 0 {
		entries = DefaultEntries
	}
	const pageEntries = pageSets * ways
	if entries < 2*pageEntries {
		return shape{1, uint32(entries+ways-1) / ways}
	}
	r := 1
	for r < maxRegions && 2*r*pageEntries <= entries {
		r *= 2
	}
	pages := (entries + r*pageEntries - 1) / (r * pageEntries)
	return shape{uint32(r), uint32(pages * pageSets)}
}

// Regions is how many caches can share a table of so many entries.
func Regions(entries int) int { return int(shapeOf(entries).regions) }

// place is where a new key goes.
type place struct {
	slot   uint32
	evict  bool // an entry must leave first
	refuse bool // no place
}

// choose finds a place for a new key in its two sets: the set with more free
// slots, the first if they are equal. In a region under pressure, entries with
// one packet hold at most a quarter of a set. If there is no place, the entry
// that is due soonest must leave, one with a single packet if there is
// pressure; of equals the first.
func (c *Cache) choose(s1, s2 uint32, r *region) place {
	t1, t2 := c.heads[s1].tagLanes(), c.heads[s2].tagLanes()
	used1, used2 := nonzero(t1), nonzero(t2)
	free1, free2 := used1^lanes80, used2^lanes80
	pressed := r.live >= r.urgent
	var single1, single2 uint64
	if pressed {
		single1 = used1 &^ c.heads[s1].stampLanes()
		single2 = used2 &^ c.heads[s2].stampLanes()
		if count(single1) >= ways/4 {
			free1 = 0
		}
		if count(single2) >= ways/4 {
			free2 = 0
		}
	}
	if free1|free2 != 0 {
		if count(free1) >= count(free2) {
			return place{slot: s1*ways + lane(free1)}
		}
		return place{slot: s2*ways + lane(free2)}
	}
	if !c.cfg.Offline {
		return place{refuse: true}
	}
	if single1|single2 != 0 {
		used1, used2 = single1, single2
	}
	d1 := distance(c.heads[s1].stampLanes(), c.tickLanes) | ^full(used1)&lanes7f
	d2 := distance(c.heads[s2].stampLanes(), c.tickLanes) | ^full(used2)&lanes7f
	if m := lowest(d1); m <= lowest(d2) {
		return place{slot: s1*ways + lane(nonzero(d1^m*lanes01)^lanes80), evict: true}
	}
	return place{slot: s2*ways + lane(nonzero(d2^lowest(d2)*lanes01)^lanes80), evict: true}
}

// lowerPage notes that the slot's page has something due.
func (c *Cache) lowerPage(slot, due uint32) {
	p := slot / (pageSets * ways)
	if due < c.pages[p] {
		c.pages[p] = due
		if g := p / groupPages; due < c.groups[g] {
			c.groups[g] = due
			c.nextDue = min(c.nextDue, due)
		}
	}
}

// stamp is what a set's head says of an entry that is due then.
func (c *Cache) stamp(due uint32) (uint8, uint32) {
	due = min(max(due, c.tick+1), c.maxDue)
	return uint8(due>>c.shift) & 0x7f, due
}

// setTick moves the clock, and what is derived from it.
func (c *Cache) setTick(t uint32) {
	c.tick = t
	unit := uint64(t >> c.shift)
	c.tickLanes = unit & 0x7f * lanes01
	c.nextLanes = (unit + 1) & 0x7f * lanes01
	c.maxDue = uint32(min((unit+horizon)<<c.shift, math.MaxUint32))
	c.stampFrom, c.stampTo = 0, 0
}

// shiftFor is the unit of stamps in which an idle timeout fits the horizon.
func shiftFor(idle int64) (shift uint8) {
	for (idle/second+2)>>shift > horizon-2 {
		shift++
	}
	return shift
}

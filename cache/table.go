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
	overdue     = 64 // added to a distance, so that what is overdue comes first
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
//
// A region begins small and doubles when it is three quarters full: what lies
// close together needs fewer lines, pages and translations. Only when it has
// all its sets is there pressure.
type region struct {
	sets           uint32 // in use, of Cache.regionSets
	room           uint32 // entries from which it grows, if it can
	live           uint32 // entries
	created        uint32 // since its last ageing
	refused        uint32
	fresh          bool   // something was entered since its last ageing
	capacity       uint32 // entries it may have in the end
	staged, urgent uint32 // occupancy from which the idle limit falls; from which there is pressure
	crowded        uint32 // from which no room is made
}

// firstSets is about how many sets a region begins with.
const firstSets = 32

func newRegion(sets uint32) region {
	capacity := sets * ways
	r := region{
		sets: sets, capacity: capacity,
		staged:  uint32(uint64(capacity) * stagedPercent / 100),
		urgent:  uint32(uint64(capacity) * urgentPercent / 100),
		crowded: uint32(uint64(capacity) * crowdedPercent / 100),
	}
	for r.sets%2 == 0 && r.sets > firstSets {
		r.sets /= 2
	}
	r.room = r.sets * ways / 4 * 3
	return r
}

// Ageing: percent of a region's capacity.
const (
	stagedPercent  = 60
	urgentPercent  = 75
	freePercent    = 15
	crowdedPercent = 90
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
	slot    uint32
	evict   bool // an entry must leave first
	refuse  bool // no place
	full    bool // no slot is free
	pressed bool // the region was under pressure
	// What the choice was made of: while it is the same, so is the choice.
	tags, stamps [2]uint64
}

// holds says whether p, a choice for a key with these candidates, would be made
// again now.
func (c *Cache) holds(p *place, w *candidates) bool {
	h1, h2, r := &c.heads[w.s1], &c.heads[w.s2], &c.regions[w.region]
	return p.tags == [2]uint64{h1.tagLanes(), h2.tagLanes()} && p.stamps == [2]uint64{h1.stampLanes(), h2.stampLanes()} &&
		p.pressed == (r.live >= r.urgent) && p.tags != [2]uint64{}
}

// choose finds a place for a new key in its two sets: the set with more free
// slots, the first if they are equal. In a region under pressure, entries with
// one packet hold at most a quarter of a set. If there is no place, the entry
// that is due soonest must leave, one with a single packet if there is
// pressure; of equals the first.
func (c *Cache) choose(w *candidates, p *place) {
	h1, h2, r := &c.heads[w.s1], &c.heads[w.s2], &c.regions[w.region]
	p.tags = [2]uint64{h1.tagLanes(), h2.tagLanes()}
	p.stamps = [2]uint64{h1.stampLanes(), h2.stampLanes()}
	p.pressed, p.evict, p.refuse = r.live >= r.urgent, false, false
	used1, used2 := nonzero(p.tags[0]), nonzero(p.tags[1])
	free1, free2 := used1^lanes80, used2^lanes80
	p.full = free1|free2 == 0
	var single1, single2 uint64
	if p.pressed {
		single1, single2 = used1&^p.stamps[0], used2&^p.stamps[1]
		if count(single1) >= ways/4 {
			free1 = 0
		}
		if count(single2) >= ways/4 {
			free2 = 0
		}
	}
	if free1|free2 != 0 {
		if count(free1) >= count(free2) {
			p.slot = w.s1*ways + lane(free1)
		} else {
			p.slot = w.s2*ways + lane(free2)
		}
		return
	}
	if !c.cfg.Offline {
		p.slot, p.refuse = w.s1*ways, true
		return
	}
	p.evict = true
	if single1|single2 != 0 {
		used1, used2 = single1, single2
	}
	d1 := distance(p.stamps[0], c.agesLanes) | ^full(used1)&lanes7f
	d2 := distance(p.stamps[1], c.agesLanes) | ^full(used2)&lanes7f
	soonest := lowest(lower(d1, d2)) * lanes01
	if m := nonzero(d1^soonest) ^ lanes80; m != 0 {
		p.slot = w.s1*ways + lane(m)
	} else {
		p.slot = w.s2*ways + lane(nonzero(d2^soonest)^lanes80)
	}
}

// grow doubles the sets of region i. A set's entries go to the two sets that
// its part of the hash's range falls into, so that working from the last to the
// first never meets one that still has to move.
func (c *Cache) grow(i uint32) {
	r := &c.regions[i]
	base := i * c.regionSets
	n := r.sets
	for s := n; s > 0; {
		s--
		old := c.heads[base+s]
		var to [2]head
		var next [2]uint32 // lanes taken
		for used := nonzero(old.tagLanes()); used != 0; used &= used - 1 {
			way := lane(used)
			from := c.at((base+s)*ways + way)
			h := c.hashOf(from)
			half := pick(uint32(h>>32), 2*n)
			if half/2 != s {
				half = pick(uint32(h), 2*n)
			}
			half %= 2
			at := next[half]
			next[half]++
			to[half].tags[at], to[half].stamps[at] = old.tags[way], old.stamps[way]
			if e := c.at((base+2*s+half)*ways + at); e != from {
				c.move(from, e)
			}
		}
		c.heads[base+2*s], c.heads[base+2*s+1] = to[0], to[1]
	}
	r.sets = 2 * n
	r.room = r.sets * ways / 4 * 3
	if r.sets == c.regionSets {
		c.onHugePages(base*ways, (base+r.sets)*ways)
	}
	for s := base; s < base+r.sets; s += pageSets {
		c.lowerPage(s*ways, c.tick+1)
	}
}

// makeRoom moves an entry of one of two full sets to the other set that its own
// key may be in, the first for which that has a free slot. It is why so few
// flows find no place; a table that is all but full is left alone, lest each
// packet of a flood should search it.
func (c *Cache) makeRoom(w *candidates) (slot uint32, ok bool) {
	if r := &c.regions[w.region]; r.live >= r.crowded {
		return 0, false
	}
	for _, s := range [2]uint32{w.s1, w.s2} {
		for way := range uint32(ways) {
			from := s*ways + way
			e := c.at(from)
			o := c.candidates(c.hashOf(e))
			to := o.s1 ^ o.s2 ^ s
			free := nonzero(c.heads[to].tagLanes()) ^ lanes80
			if free == 0 {
				continue
			}
			l := lane(free)
			c.move(e, c.at(to*ways+l))
			c.heads[to].tags[l], c.heads[to].stamps[l] = c.heads[s].tags[way], c.heads[s].stamps[way]
			c.heads[s].tags[way] = 0
			c.lowerPage(to*ways, c.pages[s/pageSets])
			return from, true
		}
	}
	return 0, false
}

// move copies an entry to another slot. The incarnation stays: it numbers the
// slot's records.
func (c *Cache) move(from, to *Entry) {
	incarnation := to.Incarnation
	*to = *from
	to.Incarnation = incarnation
	if c.wide != nil {
		copyWide(to, from, c.places)
	}
}

// hashOf is the hash of an entry's key.
func (c *Cache) hashOf(e *Entry) uint64 {
	if c.wide != nil {
		return c.wide.hash(&c.secret, &e.Key, e.more())
	}
	return c.secret.hash(&e.Key)
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

// stamp is what a set's head says of an entry that is due then, and the second
// its page must know.
func (c *Cache) stamp(due uint32) (uint8, uint32) {
	due = max(due, c.tick+1)
	if c.far {
		return uint8(c.maxDue>>c.shift) & 0x7f, due
	}
	due = min(due, c.maxDue)
	return uint8(due>>c.shift) & 0x7f, due
}

// setTick moves the clock, and what is derived from it.
func (c *Cache) setTick(t uint32) {
	c.tick = t
	unit := uint64(t >> c.shift)
	c.agesLanes = (unit - overdue) & 0x7f * lanes01
	c.nextLanes = (unit + 1) & 0x7f * lanes01
	c.maxDue = uint32(min((unit+horizon)<<c.shift, math.MaxUint32))
	c.stampFrom, c.stampTo = 0, 0
}

// shiftFor is the unit of stamps in which an idle timeout fits the horizon.
//
// A flow that never gets idle has no such thing: its stamp says when its last
// packet was, for choosing who must leave, and a page in which something is due
// is looked through (Cache.far).
func shiftFor(idle int64) (shift uint8) {
	if idle == 0 {
		return 5
	}
	for (idle/second+2)>>shift > horizon-2 {
		shift++
	}
	return shift
}

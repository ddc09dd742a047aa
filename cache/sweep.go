package cache

import (
	"iter"
	"math"
	"unsafe"

	"weir/flow"
)

// Tick moves the clock to now (Unix ns): every whole second up to it that has
// something to decide is swept, in order; the others cost nothing. A time
// before the last tick changes nothing.
func (c *Cache) Tick(now int64) {
	if !c.started {
		c.start(now)
		c.setTick(c.tick)
	}
	if to := c.floor(now); to > c.tick {
		for c.nextDue <= to {
			c.sweep(max(c.nextDue, c.tick+1))
		}
		if to > c.tick {
			c.setTick(to)
		}
		if c.cfg.Gone == nil {
			c.out.flush()
		}
	} else if !c.cfg.Offline && now >= c.ageAgain {
		// Pressure does not wait for the next second.
		c.ageAgain = now + second/10
		for i := range c.regions {
			if r := &c.regions[i]; r.fresh && r.live >= r.urgent {
				c.age(uint32(i), r)
			}
		}
		c.out.flush()
	}
}

// sweep is the tick at second t.
func (c *Cache) sweep(t uint32) {
	c.setTick(t)
	c.stats.Sweeps++
	c.nextDue = never
	for g, due := range c.groups {
		if due <= t {
			due = never
			pages := c.pages[g*groupPages : min((g+1)*groupPages, len(c.pages))]
			for i, d := range pages {
				if d <= t {
					d = c.sweepPage(uint32(g*groupPages + i))
					pages[i] = d
				}
				due = min(due, d)
			}
			c.groups[g] = due
		}
		c.nextDue = min(c.nextDue, due)
	}
	if c.cfg.Offline {
		return // what is in the way leaves when its place is needed
	}
	for i := range c.regions {
		if r := &c.regions[i]; r.fresh && r.live > r.staged || r.refused > 0 {
			c.age(uint32(i), r)
		}
	}
	if c.overflow.used() {
		c.nextDue = min(c.nextDue, c.overflow.sweep(c))
	}
}

// sweepPage ends what is due in a page at the tick, and gives the next second
// at which something may be.
func (c *Cache) sweepPage(p uint32) uint32 {
	c.swept++
	first := p * pageSets
	heads := c.heads[first:min(first+pageSets, uint32(len(c.heads)))]
	next := uint64(lanes7f)
	found := c.found[:0]
	for i := range heads {
		used := nonzero(heads[i].tagLanes())
		if used == 0 {
			continue
		}
		// How far beyond the next second: 63 and less are to come, the rest is due.
		d := distance(heads[i].stampLanes(), c.nextLanes)
		now := d << 1 & used
		if c.far {
			now = used
		}
		next = lower(next, d|^full(used&^now)&lanes7f)
		for ; now != 0; now &= now - 1 {
			found = append(found, (first+uint32(i))*ways+lane(now))
		}
	}
	due := uint32(never)
	if n := lowest(next); n != 0x7f {
		due = (c.tick>>c.shift + 1 + uint32(n)) << c.shift
	}
	if len(found) == 0 {
		return due
	}
	c.fetch(found)
	c.pages[p] = never
	r := &c.regions[first/c.regionSets]
	for _, slot := range found {
		c.look(slot, c.at(slot), r)
	}
	return min(due, c.pages[p]) // restamp has lowered it
}

// fetch reads what is about to be worked on, so that the misses overlap.
func (c *Cache) fetch(slots []uint32) {
	var touch uint64
	for _, slot := range slots {
		e := c.at(slot)
		touch ^= e.Packets ^ uint64(e.Last)
	}
	c.touch ^= touch
}

// look decides at the tick about an entry that may be due. This is the order
// of reasons: the end of the connection, idleness, the active timeout.
func (c *Cache) look(slot uint32, e *Entry, r *region) {
	t := c.tick
	closing := e.Mark&markClosing != 0
	if closing && e.Until <= t {
		c.retire(slot, e, t, flow.EndDetected, r)
		return
	}
	if c.due(e.Last, c.idle) <= t {
		c.retire(slot, e, t, flow.EndIdle, r)
		return
	}
	over := e.Until
	if closing {
		over = c.due(e.First, c.active)
	}
	if e.Packets > 0 && over <= t {
		// The delta leaves, the entry stays.
		c.emit(slot, e, t, flow.EndActive)
		c.stats.Expired[flow.EndActive]++
		e.Packets, e.Bytes, e.First, e.TCPFlags = 0, 0, 0, 0
		e.MinLength, e.MaxLength, e.MinTTL, e.MaxTTL = math.MaxUint16, 0, math.MaxUint8, 0
		if c.wide != nil {
			c.clearWide(e)
		}
		if !closing {
			e.Until = never
		}
	}
	c.restamp(slot, e, c.heads[slot/ways].stamps[slot%ways]&manyPackets)
}

// age ends flows early if their region is nearly full, so that what is new need
// not be refused. From the first mark on,
// the idle limit of entries with one packet falls; from the second on, or when
// more than one new flow in a thousand was refused, a histogram of what is due
// when gives the cut that frees a part of the table: entries with one packet
// first, then the others, the longest idle ones first, whole units at a time.
//
// A region into which nothing was entered since is left alone: it cannot have
// become fuller.
func (c *Cache) age(i uint32, r *region) {
	refusing := uint64(r.refused)*1000 > uint64(r.refused)+uint64(r.created)
	r.created, r.refused, r.fresh = 0, 0, false
	if r.live <= r.staged && !refusing {
		return
	}
	first := i * c.regionSets
	heads := c.heads[first : first+r.sets]
	var single, many uint64 // entries due in fewer units than this leave
	if r.live < r.urgent && !refusing {
		if c.far {
			return // there is no limit that could fall
		}
		limit := uint64(c.idle/second) >> c.shift
		single = overdue + limit*3*uint64(r.live-r.staged)/(4*uint64(r.urgent-r.staged))
	} else {
		var due [2][128]uint32
		for j := range heads {
			used := nonzero(heads[j].tagLanes())
			stamps := heads[j].stampLanes()
			d := distance(stamps, c.agesLanes)
			for ; used != 0; used &= used - 1 {
				at := lane(used) * 8
				due[stamps>>at>>7&1][d>>at&0x7f]++
			}
		}
		need := int(uint64(r.capacity) * freePercent / 100)
		for ; need > 0 && single < 128; single++ {
			need -= int(due[0][single])
		}
		for ; need > 0 && many < 128; many++ {
			need -= int(due[1][many])
		}
	}
	for at := uint32(0); at < uint32(len(heads)); at += pageSets {
		found := c.found[:0]
		for j := at; j < min(at+pageSets, uint32(len(heads))); j++ {
			used := nonzero(heads[j].tagLanes())
			stamps := heads[j].stampLanes()
			d := distance(stamps, c.agesLanes)
			for ; used != 0; used &= used - 1 {
				shift := lane(used) * 8
				cut := single
				if stamps>>shift&manyPackets != 0 {
					cut = many
				}
				if d>>shift&0x7f < cut {
					found = append(found, (first+j)*ways+lane(used))
				}
			}
		}
		c.fetch(found)
		for _, slot := range found {
			e := c.at(slot)
			if e.Mark&markClosing == 0 && !c.far && e.Until < c.due(e.Last, c.idle) {
				continue // about to be reported, not idle
			}
			c.retire(slot, e, c.tick, flow.EndResource, r)
		}
	}
}

// Drain ends all flows for the given reason and hands on every record.
func (c *Cache) Drain(why flow.EndReason) {
	for g := range c.Leave(why) {
		c.out.take(g)
	}
	c.out.flush()
}

// Leave ends all flows where they stand, and gives each that has counted
// something. What it gives is valid until the next Add; nothing goes to the
// sink.
func (c *Cache) Leave(why flow.EndReason) iter.Seq[*Gone] {
	return func(yield func(*Gone) bool) {
		c.out.flush()
		on := true
		for i := range c.heads {
			h := &c.heads[i]
			for used := nonzero(h.tagLanes()); used != 0; used &= used - 1 {
				slot := uint32(i)*ways + lane(used)
				e := c.at(slot)
				h.tags[slot%ways] = 0
				c.regions[uint32(i)/c.regionSets].live--
				c.live--
				c.stats.Expired[why]++
				if e.Packets > 0 && on {
					e.Incarnation++
					on = yield(c.gone((*Gone)(unsafe.Pointer(e)), slot, c.tick+1, uint8(why)))
				}
			}
		}
		for i := range c.pages {
			c.pages[i] = never
		}
		for i := range c.groups {
			c.groups[i] = never
		}
		c.nextDue = never
		if c.overflow != nil {
			c.overflow.leave(c, yield)
		}
	}
}

// Restart drains for the given reason and begins anew at now: for a clock that
// was set back, whose timers would stand still otherwise.
func (c *Cache) Restart(why flow.EndReason, now int64) {
	c.Drain(why)
	c.started = false
	c.Tick(now)
}

// Flush hands on what has left since the last tick.
func (c *Cache) Flush() { c.out.flush() }

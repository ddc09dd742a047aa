package cache

import (
	"math"

	"weir/flow"
	"weir/packet"
)

// Live, a packet that finds no place is counted all the same: in an aggregate
// of its interface, protocol and destination (/24 or /64), and when those are
// full, in a catch-all of its interface. They leave like flows, by the idle and
// the active timeout, with end reason 5 (lack of resources).
const (
	maxAggregates = 4096
	maxCatchAlls  = 64 // interfaces; the last stands for all that came after it
	probes        = 16 // places an aggregate may have
)

type overflow struct {
	aggregates [maxAggregates]Entry
	catchAlls  [maxCatchAlls]Entry
	live       int // of both
}

func newOverflow() *overflow { return new(overflow) }

func (o *overflow) used() bool { return o.live > 0 }

// add counts a packet that was refused.
func (o *overflow) add(c *Cache, in *packet.Info) {
	k := flow.Key{Dst: in.Key.Dst, Input: in.Key.Input, Proto: in.Key.Proto, VLAN: in.Key.VLAN & flow.KeyIPv6}
	if k.VLAN != 0 {
		clear(k.Dst[8:])
	} else {
		k.Dst[15] = 0
	}
	e := o.find(c, &k)
	if e == nil {
		k = flow.Key{Input: in.Key.Input}
		e = o.catchAll(&k)
	}
	if e.State == stateFree {
		*e = Entry{
			State: stateLive, Key: k, First: in.Time, Last: in.Time,
			MinLength: math.MaxUint16, MinTTL: math.MaxUint8, Incarnation: e.Incarnation,
		}
		o.live++
	}
	l := uint16(min(in.Length, math.MaxUint16))
	e.Packets++
	e.Bytes += uint64(in.Length)
	e.TCPFlags |= in.TCPFlags
	e.First, e.Last = min(e.First, in.Time), max(e.Last, in.Time)
	e.MinLength, e.MaxLength = min(e.MinLength, l), max(e.MaxLength, l)
	e.MinTTL, e.MaxTTL = min(e.MinTTL, in.TTL), max(e.MaxTTL, in.TTL)
}

// find gives the aggregate of k, or a free place for it, or nil.
func (o *overflow) find(c *Cache, k *flow.Key) *Entry {
	var free *Entry
	at := pick(uint32(c.secret.hash(k)>>32), maxAggregates)
	for i := range uint32(probes) {
		e := &o.aggregates[(at+i)%maxAggregates]
		if e.State == stateFree {
			if free == nil {
				free = e
			}
		} else if equal(&e.Key, k) {
			return e
		}
	}
	return free
}

// catchAll gives the catch-all of an interface; the last is of none.
func (o *overflow) catchAll(k *flow.Key) *Entry {
	var free *Entry
	for i := range o.catchAlls[:maxCatchAlls-1] {
		e := &o.catchAlls[i]
		if e.State != stateFree && e.Key.Input == k.Input {
			return e
		}
		if e.State == stateFree && free == nil {
			free = e
		}
	}
	if free == nil {
		*k = flow.Key{}
		free = &o.catchAlls[maxCatchAlls-1]
	}
	return free
}

// each visits all in use.
func (o *overflow) each(visit func(e *Entry, slot uint32, mark uint8) bool) {
	for i := range o.aggregates {
		if e := &o.aggregates[i]; e.State != stateFree && !visit(e, maxEntries+uint32(i), goneAggregate) {
			return
		}
	}
	for i := range o.catchAlls {
		if e := &o.catchAlls[i]; e.State != stateFree && !visit(e, maxEntries+maxAggregates+uint32(i), goneCatchAll) {
			return
		}
	}
}

// sweep lets go what is due at the tick, and says when the next is.
func (o *overflow) sweep(c *Cache) uint32 {
	next := uint32(never)
	o.each(func(e *Entry, slot uint32, mark uint8) bool {
		if due := min(c.due(e.Last, c.idle), c.due(e.First, c.active)); due > c.tick {
			next = min(next, due)
			return true
		}
		e.Incarnation++
		g := c.out.next()
		g.Entry = *e // an aggregate is an entry alone: its mark says so
		c.gone(g, slot, c.tick, mark|uint8(flow.EndResource))
		o.free(e)
		return true
	})
	return next
}

// leave lets go all.
func (o *overflow) leave(c *Cache, yield func(*Gone) bool) {
	var g Gone
	on := true
	o.each(func(e *Entry, slot uint32, mark uint8) bool {
		e.Incarnation++
		g.Entry = *e
		on = on && yield(c.gone(&g, slot, c.tick+1, mark|uint8(flow.EndResource)))
		o.free(e)
		return true
	})
}

func (o *overflow) free(e *Entry) {
	e.State = stateFree
	o.live--
}

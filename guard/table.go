package guard

import (
	"encoding/binary"
	"hash/maphash"
	"math/bits"

	"weir/flow"
)

// table has the sums of each key, exactly for as many keys as it has slots. Keys beyond
// are in a sketch, which has lower bounds of the largest of them; at the next tick these
// take the slots of the smallest.
//
// What a delta touches is apart from what only a tick touches: the former of all keys
// should stay in a processor's cache.
type table struct {
	seed  [2]uint64
	index []uint32 // open addressing, linear: slot+1, 0 is free
	mask  uint64
	keys  []flow.Addr
	group []uint16
	hot   []bool   // near a threshold at the last tick
	cur   []Counts // since the last tick
	sum   []Counts // of the ring
	ring  [][windowTicks]Counts
	idle  []uint8 // ticks without a packet
	used  []bool
	free  []uint32
	n     int

	sketch []sketchSet
	smask  uint64

	coldLine uint64 // packets in ten seconds below which a key gives way
	evicted  uint64 // keys that gave way
	beyond   uint64 // packets that were counted in the sketch

	cold []uint32 // scratch of tick
}

// windowTicks is how many ticks the longer window has.
const windowTicks = 10

const sketchWays = 4

type sketchSet [sketchWays]sketchEntry

// sketchEntry is one of the largest keys among those without a slot (space-saving,
// Metwally et al. 2005, in sets): weight bounds its packets from above, since is what was
// surely counted.
type sketchEntry struct {
	key    flow.Addr
	group  uint16
	weight uint64
	since  Counts
}

func newTable(slots int) *table {
	size := 1 << bits.Len(uint(slots*2-1)) // at most half full
	sets := max(64, size/8/sketchWays)
	t := &table{
		index: make([]uint32, size), mask: uint64(size - 1),
		keys: make([]flow.Addr, slots), group: make([]uint16, slots), hot: make([]bool, slots), cur: make([]Counts, slots), sum: make([]Counts, slots),
		ring: make([][windowTicks]Counts, slots), idle: make([]uint8, slots), used: make([]bool, slots),
		free: make([]uint32, slots), sketch: make([]sketchSet, sets), smask: uint64(sets - 1), coldLine: 16,
		cold: make([]uint32, 0, 4096),
	}
	for i := range t.free { // the lowest slots first: untouched memory is none
		t.free[i] = uint32(slots - 1 - i)
	}
	// Whoever sends packets must not be able to choose keys that collide.
	seed := maphash.MakeSeed()
	t.seed = [2]uint64{maphash.Comparable(seed, 0), maphash.Comparable(seed, 1)}
	return t
}

func (t *table) hash(k *flow.Addr) uint64 {
	a, b := binary.LittleEndian.Uint64(k[:8]), binary.LittleEndian.Uint64(k[8:])
	hi, lo := bits.Mul64(a^t.seed[0], b^t.seed[1])
	hi, lo = bits.Mul64(hi^lo^t.seed[0], 0x9e3779b97f4a7c15)
	return hi ^ lo
}

// find gives the slot of k, -1 if it has none.
func (t *table) find(k *flow.Addr) int {
	for i := t.hash(k) & t.mask; ; i = (i + 1) & t.mask {
		s := t.index[i]
		if s == 0 {
			return -1
		}
		if t.keys[s-1] == *k {
			return int(s - 1)
		}
	}
}

// add counts c under k. groupOf is asked for a key that is new; a key of no group is
// not counted. It says in which slot k is, -1 if it is in the sketch or of no group.
func (t *table) add(k *flow.Addr, c *Counts, groupOf func(flow.Addr) uint16) int {
	h := t.hash(k)
	i := h & t.mask
	for ; ; i = (i + 1) & t.mask {
		s := t.index[i]
		if s == 0 {
			break
		}
		if t.keys[s-1] == *k {
			t.cur[s-1].add(c)
			return int(s - 1)
		}
	}
	g := groupOf(*k)
	if g == noGroup {
		return -1
	}
	if len(t.free) == 0 {
		t.beyond += c[Packets]
		t.note(h, k, g, c)
		return -1
	}
	return t.take(i, k, g, c)
}

// take gives k a slot. index[i] is where it was not found.
func (t *table) take(i uint64, k *flow.Addr, g uint16, c *Counts) int {
	s := t.free[len(t.free)-1]
	t.free = t.free[:len(t.free)-1]
	t.index[i] = s + 1
	t.keys[s], t.group[s], t.cur[s], t.sum[s], t.idle[s], t.used[s], t.hot[s] = *k, g, *c, Counts{}, 0, true, false
	t.ring[s] = [windowTicks]Counts{}
	t.n++
	return int(s)
}

// note counts c in the sketch.
func (t *table) note(h uint64, k *flow.Addr, g uint16, c *Counts) {
	set := &t.sketch[(h>>40)&t.smask]
	least := 0
	for i := range set {
		e := &set[i]
		if e.weight > 0 && e.key == *k {
			e.weight += c[Packets]
			e.since.add(c)
			return
		}
		if e.weight < set[least].weight {
			least = i
		}
	}
	e := &set[least]
	*e = sketchEntry{key: *k, group: g, weight: e.weight + max(1, c[Packets]), since: *c}
}

// drop takes the slot from its key.
func (t *table) drop(s uint32) {
	i := t.hash(&t.keys[s]) & t.mask
	for t.index[i] != s+1 {
		i = (i + 1) & t.mask
	}
	// Move up what would not be found any more (Knuth, volume 3, 6.4 algorithm R).
	for j := i; ; {
		t.index[i] = 0
		for {
			j = (j + 1) & t.mask
			if t.index[j] == 0 {
				t.used[s] = false
				t.free = append(t.free, s)
				t.n--
				return
			}
			home := t.hash(&t.keys[t.index[j]-1]) & t.mask
			if (j-home)&t.mask >= (j-i)&t.mask {
				break
			}
		}
		t.index[i] = t.index[j]
		i = j
	}
}

// tick closes the second: look sees each key that counted in the window, the sums of the
// second and of the window. at is the ring's place.
func (t *table) tick(at int, look func(slot int, key *flow.Addr, group uint16, cur, sum *Counts)) {
	t.cold = t.cold[:0]
	for s := range t.keys {
		if !t.used[s] {
			continue
		}
		cur, old := &t.cur[s], &t.ring[s][at]
		if t.idle[s] == 0 || cur[Packets] > 0 || old[Packets] > 0 {
			t.sum[s].add(cur)
			t.sum[s].sub(old)
			*old = *cur
		}
		if cur[Packets] == 0 {
			if t.idle[s]++; t.idle[s] >= windowTicks && !t.hot[s] {
				t.drop(uint32(s))
				continue
			}
		} else {
			t.idle[s] = 0
		}
		if t.sum[s][Packets] <= t.coldLine && len(t.cold) < cap(t.cold) {
			t.cold = append(t.cold, uint32(s))
		}
		look(s, &t.keys[s], t.group[s], cur, &t.sum[s])
		*cur = Counts{}
	}
	t.promote(at, look)
}

// promote shows the keys of the sketch, and gives the largest of them slots.
func (t *table) promote(at int, look func(slot int, key *flow.Addr, group uint16, cur, sum *Counts)) {
	full := false
	for i := range t.sketch {
		set := &t.sketch[i]
		for j := range set {
			e := &set[j]
			if e.weight == 0 {
				continue
			}
			if e.since[Packets] <= t.coldLine {
				*e = sketchEntry{}
				continue
			}
			if len(t.free) == 0 {
				if n := len(t.cold); n > 0 {
					t.drop(t.cold[n-1])
					t.cold = t.cold[:n-1]
					t.evicted++
				} else {
					full = true
				}
			}
			if len(t.free) > 0 {
				at0 := t.hash(&e.key) & t.mask
				for t.index[at0] != 0 {
					at0 = (at0 + 1) & t.mask
				}
				s := t.take(at0, &e.key, e.group, &e.since)
				t.sum[s], t.ring[s][at] = e.since, e.since
				look(s, &e.key, e.group, &t.cur[s], &t.sum[s])
				t.cur[s] = Counts{}
			} else {
				sum := e.since
				look(-1, &e.key, e.group, &e.since, &sum)
			}
			*e = sketchEntry{}
		}
	}
	// The line follows what there is: so many keys give way that the largest find a place.
	switch {
	case full && t.coldLine < 1<<40:
		t.coldLine *= 2
	case !full && len(t.cold) == cap(t.cold) && t.coldLine > 1:
		t.coldLine /= 2
	}
}

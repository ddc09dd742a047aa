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
	index []uint32 // open addressing, linear: slot+1 and above it a tag of the key's hash, 0 is free
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

	ask func(flow.Addr) uint16 // the group of a key that comes without one
	all bool                   // ask never says noGroup: keys of the sketch need not be asked for before they are told of

	sketch []sketchSet
	smask  uint64

	coldLine uint64 // packets in ten seconds below which a key gives way
	evicted  uint64 // keys that gave way
	beyond   uint64 // packets that were counted in the sketch

	cold  []uint32 // scratch of tick
	shown Counts   // and of promote
}

// windowTicks is how many ticks the longer window has.
const windowTicks = 10

// An entry of the index: slotBits of slot+1, the rest a tag, so that keys which are not
// there, as most are in a flood, are seldom compared.
const (
	slotBits = 23 // of Policy.Keys
	slotMask = 1<<slotBits - 1
)

func tagOf(hash uint64) uint32 { return uint32(hash>>(64-(32-slotBits))) << slotBits }

// unasked stands for a group that the table's ask tells.
const unasked = outside - 1

const sketchWays = 4

// sketchSet has some of the largest keys among those without a slot (space-saving,
// Metwally et al. 2005, in sets): weight bounds a key's packets from above, 0 is a free
// entry; since is what was surely counted.
type sketchSet struct {
	key    [sketchWays]flow.Addr
	weight [sketchWays]uint64
	since  [sketchWays]Counts
	group  [sketchWays]uint16
}

// newTable has that many slots. ask tells the group of a key that is new; all says that it
// never is noGroup.
func newTable(slots int, ask func(flow.Addr) uint16, all bool) *table {
	size := 1 << bits.Len(uint(slots*2-1)) // at most half full
	sets := max(64, size/8/sketchWays)
	t := &table{
		index: make([]uint32, size), mask: uint64(size - 1),
		keys: make([]flow.Addr, slots), group: make([]uint16, slots), hot: make([]bool, slots), cur: make([]Counts, slots), sum: make([]Counts, slots),
		ring: make([][windowTicks]Counts, slots), idle: make([]uint8, slots), used: make([]bool, slots),
		free: make([]uint32, slots), sketch: make([]sketchSet, sets), smask: uint64(sets - 1), coldLine: 16,
		cold: make([]uint32, 0, 4096), ask: ask, all: all,
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

// seek gives the place of k in the index, or the free one where it would be.
func (t *table) seek(k *flow.Addr, hash uint64) uint64 {
	tag := tagOf(hash)
	for i := hash & t.mask; ; i = (i + 1) & t.mask {
		e := t.index[i]
		if e == 0 || e&^slotMask == tag && t.keys[e&slotMask-1] == *k {
			return i
		}
	}
}

// find gives the slot of k, -1 if it has none.
func (t *table) find(k *flow.Addr) int { return int(t.index[t.seek(k, t.hash(k))]&slotMask) - 1 }

// sums gives where packets of k, and what else they are, are to be added: in a slot; or
// (slot -1) in the sketch; or nowhere (nil), as k is of no group. A key that is new is of
// that group.
func (t *table) sums(k *flow.Addr, packets uint64, group uint16) (slot int, to *Counts) {
	h := t.hash(k)
	i := t.seek(k, h)
	if e := t.index[i]; e != 0 {
		s := e&slotMask - 1
		return int(s), &t.cur[s]
	}
	full := len(t.free) == 0
	if group == unasked && !(full && t.all) {
		group = t.ask(*k)
	}
	if group == noGroup {
		return -1, nil
	}
	if full {
		t.beyond += packets
		return -1, t.note(h, k, group, packets)
	}
	s := t.take(i, h, k, group)
	return int(s), &t.cur[s]
}

// take gives k a slot. index[i] is where it was not found.
func (t *table) take(i, hash uint64, k *flow.Addr, group uint16) uint32 {
	s := t.free[len(t.free)-1]
	t.free = t.free[:len(t.free)-1]
	t.index[i] = tagOf(hash) | (s + 1)
	t.keys[s], t.group[s], t.cur[s], t.sum[s], t.idle[s], t.used[s], t.hot[s] = *k, group, Counts{}, Counts{}, 0, true, false
	t.ring[s] = [windowTicks]Counts{}
	t.n++
	return s
}

// note gives k's sums in the sketch.
func (t *table) note(hash uint64, k *flow.Addr, group uint16, packets uint64) *Counts {
	set := &t.sketch[(hash>>40)&t.smask]
	least := 0
	for i := range sketchWays {
		if set.key[i] == *k && set.weight[i] > 0 {
			set.weight[i] += packets
			return &set.since[i]
		}
		if set.weight[i] < set.weight[least] {
			least = i
		}
	}
	set.key[least], set.group[least], set.since[least] = *k, group, Counts{}
	set.weight[least] += max(1, packets)
	return &set.since[least]
}

// drop takes the slot from its key.
func (t *table) drop(s uint32) {
	i := t.hash(&t.keys[s]) & t.mask
	for t.index[i]&slotMask != s+1 {
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
			home := t.hash(&t.keys[t.index[j]&slotMask-1]) & t.mask
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
		for j := range sketchWays {
			if set.weight[j] == 0 {
				continue
			}
			set.weight[j] = 0
			since := &set.since[j]
			if since[Packets] <= t.coldLine {
				continue
			}
			k, group := &set.key[j], set.group[j]
			if group == unasked {
				group = t.ask(*k)
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
			if len(t.free) == 0 {
				t.shown = *since
				look(-1, k, group, since, &t.shown)
				continue
			}
			h := t.hash(k)
			s := t.take(t.seek(k, h), h, k, group)
			t.cur[s], t.sum[s], t.ring[s][at] = *since, *since, *since
			look(int(s), k, group, &t.cur[s], &t.sum[s])
			t.cur[s] = Counts{}
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

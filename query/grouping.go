package query

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/maphash"

	"weir/flow"
)

// groupID is the keys' values of a group, in the order of the grouping's
// places: comparable, and the same for equal groups.
type groupID struct {
	addrs   [2]flow.Addr
	numbers [3]uint32
	masks   [2]uint8 // of addresses that are networks by their own mask
	known   uint8    // a bit for each key
}

func (id *groupID) hash(seed maphash.Seed) uint64 {
	var b [48]byte
	copy(b[copy(b[:], id.addrs[0][:]):], id.addrs[1][:])
	for i, n := range id.numbers {
		binary.NativeEndian.PutUint32(b[32+4*i:], n)
	}
	b[44], b[45], b[46] = id.masks[0], id.masks[1], id.known
	return maphash.Bytes(seed, b[:])
}

// grouping makes group ids of records.
type grouping struct {
	keys  []key
	place []int // of each key, among the addresses or the numbers
	sides int
}

// newGrouping finds a place for each key.
func newGrouping(keys []key) (*grouping, error) {
	g := &grouping{keys: keys, sides: 1}
	var id groupID
	addrs, numbers := 0, 0
	for _, k := range keys {
		g.sides = max(g.sides, len(k.cols))
		if k.addr {
			g.place = append(g.place, addrs)
			addrs++
		} else {
			g.place = append(g.place, numbers)
			numbers++
		}
	}
	if addrs > len(id.addrs) || numbers > len(id.numbers) {
		return nil, fmt.Errorf("query: what is in memory is summed by %d addresses and %d numbers at most", len(id.addrs), len(id.numbers))
	}
	return g, nil
}

// id is the group of a side of r; false: r does not know the side that the
// statistic is about.
func (g *grouping) id(r *flow.Record, side int) (id groupID, ok bool) {
	for i, k := range g.keys {
		c := k.cols[min(side, len(k.cols)-1)]
		if !known(r, c) {
			if len(k.cols) > 1 {
				return id, false
			}
			continue
		}
		id.known |= 1 << i
		at := g.place[i]
		if !k.addr {
			id.numbers[at] = uint32(number(r, c))
			continue
		}
		a := address(r, c)
		if k.net {
			width, family := 128, 0 // of the address, and what comes before it in its mapped form
			if a.Is4() {
				width, family = 32, 96
			}
			n := orAll(k.bits6, width)
			if family > 0 {
				n = orAll(k.bits4, width)
			}
			if k.ownMask {
				n = width
				if known(r, k.mask) {
					n = min(int(number(r, k.mask)), width)
				}
				id.masks[at] = uint8(n)
			}
			truncate(&a, family+n)
		}
		id.addrs[at] = a
	}
	return id, true
}

// truncate zeroes all but the first n bits.
func truncate(a *flow.Addr, n int) {
	if n%8 != 0 {
		a[n/8] &= 0xff << (8 - n%8)
		n += 8 - n%8
	}
	clear(a[n/8:])
}

// compare orders ids by their keys, each ascending, what is unknown last.
func (g *grouping) compare(a, b *groupID) int {
	for i, k := range g.keys {
		bit := uint8(1) << i
		if a.known&bit != b.known&bit {
			if a.known&bit != 0 {
				return -1
			}
			return 1
		}
		at := g.place[i]
		c := 0
		if k.addr {
			c = cmp.Or(cmp.Compare(a.masks[at], b.masks[at]), bytes.Compare(a.addrs[at][:], b.addrs[at][:]))
		} else {
			c = cmp.Compare(a.numbers[at], b.numbers[at])
		}
		if c != 0 {
			return c
		}
	}
	return 0
}

// cells are the keys' values as a row of a Result has them.
func (g *grouping) cells(id *groupID) []any {
	out := make([]any, 0, len(g.keys)+8)
	for i, k := range g.keys {
		at := g.place[i]
		switch {
		case id.known&(1<<i) == 0:
			out = append(out, nil)
		case !k.addr:
			out = append(out, uint64(id.numbers[at]))
		default:
			out = append(out, k.text(id.addrs[at], int(id.masks[at])))
		}
	}
	return out
}

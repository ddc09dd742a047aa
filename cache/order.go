package cache

import (
	"cmp"
	"encoding/binary"
	"slices"

	"weir/flow"
)

// Sorter orders what has left by (end, key): IPv4 before IPv6, then source,
// destination, ports, input interface, VLAN, protocol, ToS; what is equal in
// all that by its first packet. It sorts references by radix, a word of the key
// at a time, so that the cost does not grow with the logarithm of the number;
// its memory is used again.
type Sorter struct {
	v4, v6, spare []ref
	all           []ref     // v4, then v6, if they did not all end at the same time
	ends          [2]uint32 // smallest and largest
}

type ref struct {
	word uint64 // of the key, at the level that is being sorted
	gone *Gone
}

// Reset forgets everything.
func (s *Sorter) Reset() { s.v4, s.v6, s.all = s.v4[:0], s.v6[:0], s.all[:0] }

// Add takes g in; it must stay where it is until the order was used.
func (s *Sorter) Add(g *Gone) {
	if len(s.v4)+len(s.v6) == 0 {
		s.ends = [2]uint32{g.Until, g.Until}
	}
	s.ends[0], s.ends[1] = min(s.ends[0], g.Until), max(s.ends[1], g.Until)
	if g.Key.VLAN&flow.KeyIPv6 == 0 {
		s.v4 = append(s.v4, ref{word4(&g.Key, 0), g})
	} else {
		s.v6 = append(s.v6, ref{word6(&g.Key, 0), g})
	}
}

// Len is how many were added.
func (s *Sorter) Len() int { return len(s.v4) + len(s.v6) }

// Sort orders what was added. At is valid after it.
func (s *Sorter) Sort() {
	s.spare = slices.Grow(s.spare[:0], s.Len())[:s.Len()]
	sortRefs(s.v4, s.spare, 0, word4, levels4)
	sortRefs(s.v6, s.spare, 0, word6, levels6)
	s.all = s.all[:0]
	if s.ends[0] == s.ends[1] {
		return
	}
	s.all = append(append(s.all, s.v4...), s.v6...)
	if len(s.all) <= fewRefs {
		slices.SortStableFunc(s.all, func(a, b ref) int { return cmp.Compare(a.gone.Until, b.gone.Until) })
		return
	}
	for i := range s.all {
		s.all[i].word = uint64(s.all[i].gone.Until - s.ends[0])
	}
	radix(s.all, s.spare)
}

// At is number i in the order.
func (s *Sorter) At(i int) *Gone {
	switch {
	case len(s.all) > 0:
		return s.all[i].gone
	case i < len(s.v4):
		return s.v4[i].gone
	}
	return s.v6[i-len(s.v4)].gone
}

// The words of a key, most significant first.
const levels4, levels6 = 3, 6

func word4(k *flow.Key, level int) uint64 {
	switch level {
	case 0:
		return uint64(binary.BigEndian.Uint32(k.Src[12:]))<<32 | uint64(binary.BigEndian.Uint32(k.Dst[12:]))
	case 1:
		return uint64(k.SrcPort)<<48 | uint64(k.DstPort)<<32 | uint64(k.Input)
	}
	return uint64(k.VLAN)<<16 | uint64(k.Proto)<<8 | uint64(k.TOS)
}

func word6(k *flow.Key, level int) uint64 {
	switch level {
	case 0:
		return binary.BigEndian.Uint64(k.Src[:])
	case 1:
		return binary.BigEndian.Uint64(k.Src[8:])
	case 2:
		return binary.BigEndian.Uint64(k.Dst[:])
	case 3:
		return binary.BigEndian.Uint64(k.Dst[8:])
	}
	return word4(k, level-3)
}

const fewRefs = 96 // below, comparing is cheaper than counting

// sortRefs orders refs, whose words are those of level; spare is as long.
func sortRefs(refs, spare []ref, level int, word func(*flow.Key, int) uint64, levels int) {
	switch {
	case len(refs) < 2:
		return
	case level == levels:
		// The same key: it left twice.
		slices.SortFunc(refs, func(a, b ref) int {
			x, y := a.gone, b.gone
			return cmp.Or(cmp.Compare(x.First, y.First), cmp.Compare(x.Last, y.Last),
				cmp.Compare(x.State, y.State), cmp.Compare(x.Incarnation, y.Incarnation))
		})
		return
	case len(refs) <= fewRefs:
		slices.SortFunc(refs, func(a, b ref) int { return cmp.Compare(a.word, b.word) })
	default:
		radix(refs, spare)
	}
	for i := 0; i < len(refs); {
		j := i + 1
		for j < len(refs) && refs[j].word == refs[i].word {
			j++
		}
		if same := refs[i:j]; len(same) > 1 {
			if level+1 < levels {
				for k := range same {
					same[k].word = word(&same[k].gone.Key, level+1)
				}
			}
			sortRefs(same, spare, level+1, word, levels)
		}
		i = j
	}
}

// radix orders refs by their words, octet by octet from the least significant
// one; it keeps the order of equal ones, and skips octets that all have in
// common.
func radix(refs, spare []ref) {
	var counts [8][256]uint32
	for i := range refs {
		w := refs[i].word
		for d := range counts {
			counts[d][uint8(w>>(8*d))]++
		}
	}
	a, b := refs, spare[:len(refs)]
	for d := range counts {
		at := &counts[d]
		if at[uint8(a[0].word>>(8*d))] == uint32(len(a)) {
			continue
		}
		sum := uint32(0)
		for i, n := range at {
			at[i] = sum
			sum += n
		}
		for i := range a {
			digit := uint8(a[i].word >> (8 * d))
			b[at[digit]] = a[i]
			at[digit]++
		}
		a, b = b, a
	}
	if &a[0] != &refs[0] {
		copy(refs, a)
	}
}

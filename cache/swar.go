package cache

import "math/bits"

// Eight octets in a word are worked on at once; octet i is lane i, whose bits
// are 8i to 8i+7. Masks hold 0x80 for each lane chosen.
const (
	ways = 8 // entries of a set, lanes of a word

	lanes01 = 0x0101010101010101
	lanes7f = 0x7f7f7f7f7f7f7f7f
	lanes80 = 0x8080808080808080
)

// nonzero marks lanes that are not 0.
func nonzero(x uint64) uint64 { return (x&lanes7f + lanes7f | x) & lanes80 }

// like marks lanes that equal tag, and perhaps some above one that does.
func like(x, tag uint64) uint64 {
	x ^= tag * lanes01
	return (x - lanes01) &^ x & lanes80
}

// lane is the lowest lane marked in m, which is not 0.
func lane(m uint64) uint32 { return uint32(bits.TrailingZeros64(m)) / 8 }

func count(m uint64) int { return bits.OnesCount64(m) }

// full widens the marks of m to whole lanes.
func full(m uint64) uint64 { return m >> 7 * 0xff }

// distance gives (x - from) mod 128 for the low seven bits of each lane; from
// holds seven bits in each lane.
func distance(x, from uint64) uint64 { return ((x&lanes7f | lanes80) - from) & lanes7f }

// lower is the smaller of each two lanes; both hold at most 0x7f.
func lower(x, y uint64) uint64 {
	m := full(((x | lanes80) - y) & lanes80) // x >= y
	return y&m | x&^m
}

// lowest is the smallest lane of x, whose lanes hold at most 0x7f.
func lowest(x uint64) uint64 {
	x = lower(x, x>>32|x<<32)
	x = lower(x, x>>16|x<<48)
	return lower(x, x>>8|x<<56) & 0x7f
}

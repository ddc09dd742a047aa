package cache

import (
	"math/bits"
	"unsafe"

	"weir/flow"
)

// A key is 44 octets: five words and a half. words and half read them in the
// machine's order.
func words(k *flow.Key) *[5]uint64 { return (*[5]uint64)(unsafe.Pointer(k)) }

func half(k *flow.Key) uint64 {
	return uint64(*(*uint32)(unsafe.Add(unsafe.Pointer(k), 40)))
}

func equal(a, b *flow.Key) bool {
	x, y := words(a), words(b)
	return (x[0]^y[0])|(x[1]^y[1])|(x[2]^y[2])|(x[3]^y[3])|(x[4]^y[4])|(half(a)^half(b)) == 0
}

// secret is what makes a hash keyed.
type secret [8]uint64

// newSecret stretches a seed (splitmix64).
func newSecret(seed uint64) (s secret) {
	for i := range s {
		seed += 0x9e3779b97f4a7c15
		z := seed
		z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		s[i] = z ^ z>>31
	}
	return s
}

// hash folds the key by three products of 64 bits and one over them. All of a
// product's 128 bits are used, and each factor has a part of the secret in it.
func (s *secret) hash(k *flow.Key) uint64 {
	w := words(k)
	return fold(
		fold(w[0]^s[0], w[1]^s[1])^fold(w[2]^s[2], w[3]^s[3])^s[6],
		fold(w[4]^s[4], half(k)^s[5])^s[7],
	)
}

func fold(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}

// Where a hash's bits go. The sets are chosen by the top bits of each half.
// The region is chosen by the lowest.
func hashTag(h uint64) uint64   { return h>>32&0xff*255>>8 + 1 } // 1 to 255; 0 is a free slot
func hashState(h uint64) uint32 { return uint32(h>>32)<<8 | stateLive }

// pick spreads 32 bits over n sets.
func pick(h uint32, n uint32) uint32 { return uint32(uint64(h) * uint64(n) >> 32) }

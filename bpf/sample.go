package bpf

import "math/bits"

// SampleThreshold is 2^32/n, for Control's Sample and SampleRest: the whole, and
// 32 bits behind the point. 0 for n of 0 and 1: every packet.
func SampleThreshold(n uint32) (whole, rest uint32) {
	if n < 2 {
		return 0, 0
	}
	t, _ := bits.Div64(1, 0, uint64(n)) // 2^64/n
	return uint32(t >> 32), uint32(t)
}
